"""What n8n answers where it does not do what it was asked, as types; each says in one sentence what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from app.errors import BaseError, N8nError, NotFoundError, WorkflowNotFoundError
from app.telemetry.redaction import redact_text

MAX_MESSAGE_CHARS = 300
# n8n's words for a path it does not know; for a thing it does not know it says "Not Found".
_NO_SUCH_PATH = "not found"
_TAG = re.compile(r"<[^<>]{0,200}>")


class N8nKeyError(N8nError):
    """401: no API key, or a wrong one."""

    def __init__(self) -> None:
        super().__init__(
            "n8n does not accept the API key: make a new one in n8n under Settings, n8n API, and set N8N_API_KEY.",
            permanent=True,
        )


class N8nScopeError(N8nError):
    """403: the key is right and may not do this."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"n8n's API key may not do this ({what}): give it the scopes for workflows (create, read, update, list, "
            "delete, activate, deactivate) and executions (read, list, retry, stop), or make a key that has them.",
            permanent=True,
        )


class N8nTooOldError(N8nError):
    """The address answers, but not with the API that is needed: too old an n8n, or no n8n at all."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"There is no n8n API for this here ({what}): check N8N_API_URL (the address before /api/v1), that n8n's "
            "public API is switched on, and that n8n is recent enough (tested with 2.41).",
            permanent=True,
        )


class N8nDownError(N8nError):
    """No answer, or a proxy's that there is none.

    :ivar maybe_done: the request may have reached n8n, so a write may have happened.
    """

    def __init__(self, detail: str = "", *, maybe_done: bool, **kwargs: Any) -> None:
        super().__init__(
            detail or "n8n does not answer: see that it runs and that the bridge can reach N8N_API_URL.", **kwargs
        )
        self.maybe_done = maybe_done


class N8nTimeoutError(N8nDownError):
    """No answer in time, of n8n or of what stands behind the proxy that answered for it."""

    code, status, title = "n8n_timeout", 504, "n8n did not answer in time"


class N8nFailedError(N8nError):
    """5xx: n8n, or a proxy in front of it, failed. A write may have happened."""

    maybe_done = True

    def __init__(self, status: int, message: str) -> None:
        said = f' ("{message}")' if message else ""
        super().__init__(f"n8n failed with status {status}{said}: look into n8n's log, then try again.")


class N8nBusyError(N8nError):
    """429: nothing was done; ``retry_after_s`` says when to come back, where n8n did."""

    def __init__(self, retry_after_s: int | None) -> None:
        super().__init__("n8n has too much to do right now: try again in a moment.", retry_after_s=retry_after_s)


class N8nRefusedError(N8nError):
    """400 and the like: the request will never be taken as it is. ``message`` is n8n's own, cleaned and cut."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(
            f"n8n refused it: {message.rstrip('.') or f'status {status}'}. Correct that and send it again.",
            permanent=True,
        )
        self.message = message


class N8nConflictError(N8nError):
    """409: the thing is in another state than the request needs, or a webhook path is taken."""

    def __init__(self, message: str) -> None:
        super().__init__(f"n8n says it cannot be done as things stand: {message or 'conflict'}", permanent=True)
        self.message = message


class N8nTooLargeError(N8nError):
    """The answer is larger than the bridge reads."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"n8n's answer is larger than {limit_bytes // 1024 // 1024} MiB: ask for less of it.", permanent=True
        )


class ExecutionNotFoundError(NotFoundError):
    """n8n has no such run: never saved, deleted since, or its workflow is gone."""

    title = "No such execution"


def from_answer(status: int, body: bytes, *, what: str, retry_after: str | None = None) -> BaseError:
    """The error that an answer with a status of 300 or more stands for.

    :param what: method and path, for people.
    :param retry_after: the header of that name.
    """
    raw = _message(body)
    message = clean(raw)
    if status == 401:
        return N8nKeyError()
    if status == 403:
        return N8nScopeError(what)
    if status < 400 or (status in (404, 405) and (raw is None or raw == _NO_SUCH_PATH or status == 405)):
        # Where n8n redirects, its address is another one; the key is not carried along.
        return N8nTooOldError(what)
    if status == 404:
        return _not_found(what, message)
    if status == 409:
        return N8nConflictError(message)
    if status == 429:
        return N8nBusyError(_seconds(retry_after))
    if status == 504:
        return N8nTimeoutError(maybe_done=True)
    if status in (502, 503):
        return N8nDownError(maybe_done=True)
    return N8nFailedError(status, message) if status >= 500 else N8nRefusedError(status, message)


def clean(text: str | None) -> str:
    """Foreign text on one line, without markup, control characters and secrets, cut."""
    plain = "".join(char if char.isprintable() else " " for char in _TAG.sub(" ", text or ""))
    return redact_text(" ".join(plain.split()), limit=MAX_MESSAGE_CHARS)


def _not_found(what: str, message: str) -> NotFoundError:
    if "/executions" in what:
        return ExecutionNotFoundError("n8n has no such run: it was not saved, or was deleted.")
    said = f" ({message})" if message and message != "Not Found" else ""
    return WorkflowNotFoundError(f"n8n has no such workflow or version, or the API key may not see it{said}.")


def _message(body: bytes) -> str | None:
    """n8n's ``{"message": …}``; ``None`` for anything else, an HTML page for instance."""
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return None
    message = decoded.get("message") if isinstance(decoded, dict) else None
    return message[: 4 * MAX_MESSAGE_CHARS] if isinstance(message, str) else None


def _seconds(header: str | None) -> int | None:
    return max(1, int(header)) if header and header.isascii() and header.isdigit() and len(header) < 6 else None
