"""The request id, and the ids that log lines carry."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from app.telemetry import context
from app.web.request_id import ENVIRON_KEY, RequestIdMiddleware


def call(given: str | None, headers: list[tuple[str, str]] | None = None) -> tuple[str, list[str]]:
    """The id that the application saw, and all that the response carries."""
    seen: dict[str, Any] = {}
    sent: list[tuple[str, str]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.update(id=environ[ENVIRON_KEY], logged=context.current())
        start_response("200 OK", headers or [])
        return []

    environ = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    RequestIdMiddleware(app)(environ, lambda status, headers, exc_info=None: sent.extend(headers))
    assert seen["logged"] == {"requestId": seen["id"]}
    return seen["id"], [value for name, value in sent if name.lower() == "x-request-id"]


@pytest.mark.parametrize("given", ["a-b_c.d1", "x" * 64, "12345678"])
def test_a_well_formed_id_is_kept(given: str) -> None:
    assert call(given) == (given, [given])


@pytest.mark.parametrize("given", [None, "", "short", "x" * 65, "with space", "tenletters\n", "a,b,c,d,e,f", "é" * 10])
def test_any_other_is_replaced(given: str | None) -> None:
    used, carried = call(given)
    assert used != given and len(used) == 32
    assert carried == [used]


def test_the_response_carries_one_id_whatever_the_application_sends() -> None:
    assert call("12345678", [("x-request-id", "its-own-one"), ("A", "b")]) == ("12345678", ["12345678"])


def test_a_request_does_not_inherit_the_ids_of_the_one_before() -> None:
    with context.bind(session_id="s-1"):
        call("12345678")  # asserts that nothing but the request's id is there


def test_bound_ids_end_with_their_block_and_can_be_carried() -> None:
    context.begin_request("request-1")
    with context.bind(session_id="s-1", turn_id=None):
        assert context.current() == {"requestId": "request-1", "sessionId": "s-1"}
        carried = context.carry(context.current)
    assert context.current() == {"requestId": "request-1"}
    expected = {"requestId": "request-1", "sessionId": "s-1"}
    assert [gevent.spawn(carried).get() for _ in range(2)] == [expected, expected]
    assert gevent.spawn(context.request_id).get() is None
