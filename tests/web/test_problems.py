"""Every error leaves as a problem, says nothing about the inside, and is logged once at its own level."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from flask import Flask, abort, redirect, request
from flask.testing import FlaskClient
from werkzeug.wrappers import Response

from app import errors
from app.web import problems

OWN: dict[str, Callable[[], Exception]] = {
    "session": lambda: errors.SessionNotFoundError("No session with this id."),
    "validation": lambda: errors.ValidationError(errors=[{"path": "a.b", "message": "must be text"}]),
    "limit": lambda: errors.RateLimitError(retry_after_s=7),
    "busy": lambda: errors.DrainingError(retry_after_s=0),
    "fields": lambda: errors.TooLargeError(fields={"deadLetterId": "d1", "status": 1, "code": "x"}),
    "n8n": lambda: errors.N8nError(),
    "auth": lambda: errors.AuthenticationError(),
    "bug": lambda: ZeroDivisionError("division by /secret/path"),
}


@pytest.fixture
def client() -> FlaskClient:
    app = Flask(__name__)
    problems.register(app)

    @app.get("/own/<name>")
    def own(name: str) -> str:
        raise OWN[name]()

    @app.route("/abort/<int:status>")
    def aborted(status: int) -> str:
        abort(status)

    @app.post("/json")
    def takes_json() -> str:
        return str(request.get_json())

    @app.get("/elsewhere")
    def elsewhere() -> Response:
        abort(redirect("/there"))

    @app.get("/folder/")
    def folder() -> str:
        return "here"

    return app.test_client()


def test_an_error_of_ours_is_a_problem(client: FlaskClient) -> None:
    answer = client.get("/own/session", environ_base={"bridge.request_id": "request-1"})
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    assert answer.json == {
        "type": "urn:problem:session_not_found",
        "title": "No such session",
        "status": 404,
        "detail": "No session with this id.",
        "code": "session_not_found",
        "correlationId": "request-1",
    }


def test_without_the_middleware_there_is_still_an_id(client: FlaskClient) -> None:
    answer = client.get("/own/session")
    assert answer.json
    assert len(answer.json["correlationId"]) == 32


def test_validation_lists_what_is_wrong(client: FlaskClient) -> None:
    answer = client.get("/own/validation")
    assert answer.status_code == 400
    assert answer.json
    assert answer.json["code"] == "validation_error"
    assert answer.json["errors"] == [{"path": "a.b", "message": "must be text"}]


@pytest.mark.parametrize(("name", "status", "header"), [("limit", 429, "7"), ("busy", 503, "1"), ("n8n", 502, None)])
def test_retry_after_is_whole_seconds_and_at_least_one(
    client: FlaskClient, name: str, status: int, header: str | None
) -> None:
    answer = client.get(f"/own/{name}")
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == header


def test_extra_members_do_not_replace_the_standard_ones(client: FlaskClient) -> None:
    answer = client.get("/own/fields")
    assert answer.json
    assert answer.status_code == answer.json["status"] == 413
    assert answer.json["code"] == "too_large"
    assert answer.json["deadLetterId"] == "d1"


def test_a_401_names_the_scheme(client: FlaskClient) -> None:
    assert client.get("/own/auth").headers["WWW-Authenticate"] == "Bearer"


def test_a_bug_is_logged_once_and_tells_the_caller_nothing(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/own/bug", environ_base={"bridge.request_id": "request-2"})
    assert answer.status_code == 500
    assert answer.json
    assert answer.json["code"] == "internal"
    for word in ("secret", "division", "Zero", "Traceback", ".py", "flask", "werkzeug"):
        assert word not in answer.text
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("app.web", logging.ERROR)
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
    assert vars(record)["requestId"] == "request-2"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/folder/", 405, "method_not_allowed"),
        ("GET", "/abort/400", 400, "bad_request"),
        ("GET", "/abort/401", 401, "unauthorized"),
        ("GET", "/abort/413", 413, "too_large"),
        ("GET", "/abort/415", 415, "unsupported_media_type"),
        ("GET", "/abort/418", 418, "bad_request"),
        ("GET", "/abort/429", 429, "rate_limited"),
        ("GET", "/abort/500", 500, "internal"),
        ("GET", "/abort/503", 503, "busy"),
        ("POST", "/json", 415, "unsupported_media_type"),
    ],
)
def test_what_flask_refuses_has_the_same_shape(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.content_type == "application/problem+json"
    assert answer.json
    assert answer.status_code == answer.json["status"] == status
    assert answer.json["code"] == code
    assert answer.json["type"] == f"urn:problem:{code}"
    assert answer.json["correlationId"]
    assert "Werkzeug" not in answer.text


def test_broken_json_shows_none_of_the_parsers_text(client: FlaskClient) -> None:
    answer = client.post("/json", data="{oops", content_type="application/json")
    assert answer.status_code == 400
    assert "decode" not in answer.text


def test_a_405_keeps_allow(client: FlaskClient) -> None:
    allow = client.post("/folder/").headers["Allow"]
    assert set(allow.split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_redirects_are_left_alone(client: FlaskClient) -> None:
    assert client.get("/elsewhere").headers["Location"] == "/there"
    assert client.get("/folder").status_code == 308


def test_an_error_frame_carries_code_text_and_ids() -> None:
    frame = json.loads(problems.error_frame(errors.RateLimitError("Too fast.", retry_after_s=3), "c1"))
    assert frame == {
        "type": "error",
        "code": "rate_limited",
        "message": "Too fast.",
        "correlationId": "c1",
        "retryAfter": 3,
    }
    frame = json.loads(problems.error_frame(OWN["validation"](), "c2"))  # type: ignore[arg-type]
    assert frame["message"] == OWN["validation"]().detail  # type: ignore[union-attr]
    assert "retryAfter" not in frame


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.SessionNotFoundError(), logging.INFO),
        (errors.TooManySessionsError(), logging.INFO),
        (errors.JournalUnavailableError(), logging.WARNING),
        (errors.LeaseLostError(), logging.INFO),
        (errors.ConfigError(), logging.CRITICAL),
        (errors.BaseError(), logging.ERROR),
        (ValueError(), logging.ERROR),
    ],
)
def test_each_family_has_its_level(error: Exception, level: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "app.web")
    problems.report(error, "c3", counted_as="callback")
    assert problems.log_level(error) == level
    told = [record for record in caplog.records if record.name == "app.web"]
    # What is the caller's doing is told by the access log; a callback that fails here has finally failed.
    assert [record.levelno for record in told] == ([] if error_status(error) < 500 else [logging.ERROR])
    assert [bool(record.exc_info) for record in told] == ([] if not told else [isinstance(error, ValueError)])


def error_status(error: Exception) -> int:
    return error.status if isinstance(error, errors.BaseError) else 500
