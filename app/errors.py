"""The error tree: what can go wrong, as types; who acts and what a client sees are class attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class BaseError(Exception):
    """Anything this bridge raises on purpose.

    :cvar code: public name, snake_case, part of the wire contract.
    :cvar status: HTTP status.
    :cvar close_code: WebSocket close code, or ``None`` where the socket stays open.
    :ivar detail: one sentence for the caller; no path, no library name, no secret.
    :ivar correlation_id: the request or turn it belongs to, set where that is known.
    :ivar retry_after_s: whole seconds, ≥ 1, where coming back helps.
    :ivar fields: extra members for the problem body (public names, camelCase).
    """

    code = "internal"
    status = 500
    close_code: int | None = 1011
    title = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        correlation_id: str | None = None,
        retry_after_s: int | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.correlation_id = correlation_id
        self.retry_after_s = retry_after_s
        self.fields = fields or {}


class CallerError(BaseError):
    """The caller sent something it must change before it tries again."""

    code, status, title = "bad_request", 400, "Bad request"
    close_code: int | None = None


class ValidationError(CallerError):
    """A frame, body or query does not have the documented shape.

    :ivar errors: ``[{"path": "a.b", "message": "…"}]``, at most 20.
    """

    code, title = "validation_error", "The request does not have the expected shape"

    def __init__(self, detail: str = "", *, errors: Sequence[dict[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.errors = list(errors)[:20]


class AuthenticationError(CallerError):
    """No credential, or a wrong one."""

    code, status, close_code, title = "unauthorized", 401, 4401, "Not allowed"


class NotConfiguredError(CallerError):
    """The operator has not set what this needs; nobody but loopback may pass."""

    code, status, close_code, title = "not_configured", 503, 4401, "Not configured"


class ForbiddenOriginError(CallerError):
    """A browser page that is not on the list of origins."""

    code, status, title = "forbidden_origin", 403, "Origin not allowed"


class NotFoundError(CallerError):
    """What the caller names does not exist."""

    code, status, title = "not_found", 404, "Not found"


class SessionNotFoundError(NotFoundError):
    """No open session has this id, or none built this workflow."""

    code, close_code, title = "session_not_found", 4404, "No such session"


class WorkflowNotFoundError(NotFoundError):
    """No workflow with this id is known here."""

    title = "No such workflow"


class ConflictError(CallerError):
    """It was decided already, belongs to somebody else, or has nothing to act on."""

    code, status, title = "conflict", 409, "Conflict"


class TooLargeError(CallerError):
    """A body or a frame is larger than ``MAX_MESSAGE_BYTES``."""

    code, status, close_code, title = "too_large", 413, 1009, "Too large"


class TooManyPendingError(CallerError):
    """The session has more unanswered messages than it may have."""

    code, status, title = "too_many_pending", 429, "Too many unanswered messages"


class RateLimitError(CallerError):
    """Over a limit; ``retry_after_s`` says when to come back."""

    code, status, title = "rate_limited", 429, "Too many requests"


class WebSocketError(CallerError):
    """The client broke the socket's protocol; carries its own close code."""

    code, title = "bad_frame", "Bad frame"

    def __init__(self, detail: str, *, close_code: int, code: str | None = None, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.close_code = close_code
        if code:
            self.code = code


class BusyError(BaseError):
    """Nothing is wrong with the request; come back later."""

    code, status, close_code, title = "busy", 503, 1013, "Busy"

    def __init__(self, detail: str = "", *, retry_after_s: int = 5, **kwargs: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **kwargs)


class TooManySessionsError(BusyError):
    """``MAX_SESSIONS`` are live and none of them is idle."""

    code, title = "too_many_sessions", "Too many sessions"


class DrainingError(BusyError):
    """This worker is finishing; another answers in a moment."""

    code, close_code, title = "draining", 1012, "Restarting"


class DependencyError(BaseError):
    """Something we stand on failed.

    :ivar permanent: trying the same again cannot help.
    """

    code, status, title = "dependency_failed", 502, "A service this needs failed"

    def __init__(self, detail: str = "", *, permanent: bool = False, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.permanent = permanent


class JournalUnavailableError(DependencyError):
    """The journal cannot be written or read now; nothing was acknowledged."""

    code, status, close_code, title = "journal_unavailable", 503, 1013, "The journal is not available"

    def __init__(self, detail: str = "", *, retry_after_s: int = 2, **kwargs: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **kwargs)


class N8nError(DependencyError):
    """n8n answered with an error, with what is no answer, or cannot be reached."""

    code, title = "n8n_failed", "n8n could not do it"


class ClaudeExecutionError(DependencyError):
    """The agent's process failed."""

    code, title = "agent_failed", "The agent failed"


class ClaudeTimeoutError(ClaudeExecutionError):
    """The agent's process said nothing for too long."""

    code, status, title = "agent_timeout", 504, "The agent did not answer in time"


class LeaseLostError(BaseError):
    """Somebody else holds this lease now (or its epoch has moved on); whoever gets this stops at once."""

    code, status, title = "lease_lost", 409, "Another worker has taken this over"
    close_code: int | None = None


class StaleDocumentError(BaseError):
    """A document changed between read and write: read it again and decide again."""

    code, status, title = "stale", 409, "It changed meanwhile"
    close_code: int | None = None


class ConfigError(BaseError):
    """A setting is wrong; the text names the variable and the accepted form."""

    code, title = "bad_configuration", "Bad configuration"
