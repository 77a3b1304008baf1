"""What every answer must be, whatever was asked."""

from __future__ import annotations

import re

from tests.support.wire import Received

ONCE = (
    *("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy"),
    *("cross-origin-opener-policy", "cross-origin-resource-policy", "x-request-id"),
)
# What no answer may tell: where the code lies, what it is made of, how it failed.
_INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|werkzeug|gunicorn|gevent|pydantic|sqlite|flask|wsproto|jsondecodeerror"
    r"|/tmp/|/home/",
    re.IGNORECASE,
)
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def faults(answer: Received, *, head_only: bool = False) -> list[str]:
    """What is wrong with an answer, whatever was asked."""
    if answer.status == 101:
        return []
    wrong = [f"status {answer.status}"] if answer.status in (500, 502, 504) else []
    names = [name for name, _ in answer.headers]
    wrong += [f"{name} {names.count(name)} times" for name in ONCE if names.count(name) != 1]
    if "unicorn" in answer.header("server").lower() or "x-injected" in names:
        wrong.append("a header that should not be")
    if not _ID.fullmatch(answer.header("x-request-id")):
        wrong.append("odd X-Request-ID")
    if answer.status >= 400 and not head_only:
        wrong += _problem_faults(answer)
    return wrong


def _problem_faults(answer: Received) -> list[str]:
    if answer.header("content-type") != "application/problem+json":
        return [f"{answer.status} without a problem"]
    try:
        problem = answer.json
    except ValueError:
        return ["a problem that is no JSON"]
    wrong = [
        f"problem without {name}"
        for name in ("type", "title", "status", "detail", "code", "correlationId")
        if name not in problem
    ]
    if problem.get("status") != answer.status:
        wrong.append("problem of another status")
    if problem.get("correlationId") != answer.header("x-request-id"):
        wrong.append("correlationId is not X-Request-ID")
    if problem.get("code") == "validation_error":
        errors = problem.get("errors")
        if not errors or len(errors) > 20 or any(set(error) != {"path", "message"} for error in errors):
            wrong.append("validation_error with odd errors")
    found = tells_inside(answer.body.decode())
    return [*wrong, *([f"tells {found!r}"] if found else [])]


def tells_inside(text: str) -> str:
    """What a text tells about the inside of the bridge; empty where it tells nothing."""
    found = _INSIDE.search(text)
    return found.group() if found else ""
