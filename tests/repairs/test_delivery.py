"""One POST of a notification: its id, its time, its signatures, and what an answer means."""

from __future__ import annotations

import base64

import pytest

from app.repairs.delivery import headers_for, judge


def test_the_signature_is_that_of_the_standard() -> None:
    # Source: Standard Webhooks, the example of its reference libraries.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = headers_for("msg_p5jXN8AQM9LWM0D4loKWxJek", body, [secret], now_s=1614265330)
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_secret_signs_and_none_signs_nothing() -> None:
    both, one = (headers_for("m", b"{}", secrets, now_s=1) for secrets in (["new", "old"], ["old"]))
    assert both["webhook-signature"].split(" ")[1] == one["webhook-signature"]
    assert "webhook-signature" not in headers_for("m", b"{}", [], now_s=1)


def test_a_secret_that_only_begins_like_the_standards_is_taken_as_it_is() -> None:
    signature = headers_for("m", b"{}", ["whsec_not base64"], now_s=1)["webhook-signature"]
    assert len(base64.b64decode(signature.removeprefix("v1,"))) == 32


@pytest.mark.parametrize(
    ("status", "final"),
    [(302, False), (400, True), (401, True), (408, False), (410, True), (425, False), (429, False), (500, False)],
)
def test_what_an_answer_means(status: int, final: bool) -> None:
    answer = judge(status, "")
    assert (answer.failed, answer.final) == (f"it was answered with {status}", final)


@pytest.mark.parametrize("header", ["", "soon", "-5", "１２", "Wed, 99 Nonsense", "Wed, 21 Oct 1995 07:28:00 GMT"])
def test_a_time_to_come_back_that_is_none_or_past_is_no_pause(header: str) -> None:
    assert judge(503, header).retry_after_s == 0


@pytest.mark.parametrize(("header", "least_s"), [("120", 120), ("9" * 40, 1e8), ("Wed, 21 Oct 2093 07:28:00 GMT", 1e8)])
def test_a_time_to_come_back_is_read_in_both_forms(header: str, least_s: float) -> None:
    assert judge(429, header).retry_after_s >= least_s
