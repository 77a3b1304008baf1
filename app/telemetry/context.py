"""The ids that log lines carry: of the request, session, workflow, execution and turn that is being worked on.

They live in a ``ContextVar``, so each greenlet has its own. A greenlet that is spawned starts without any; ``carry``
takes them along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from types import MappingProxyType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_NAMES = {
    "request_id": "requestId",
    "session_id": "sessionId",
    "workflow_id": "workflowId",
    "execution_id": "executionId",
    "turn_id": "turnId",
}
_NOTHING: Mapping[str, str] = MappingProxyType({})
_ids: ContextVar[Mapping[str, str]] = ContextVar("bridge_ids", default=_NOTHING)


@contextmanager
def bind(
    *,
    request_id: str | None = None,
    session_id: str | None = None,
    workflow_id: str | None = None,
    execution_id: str | None = None,
    turn_id: str | None = None,
) -> Iterator[None]:
    """Add ids to every log line within the block; ``None`` leaves one as it is."""
    token = _ids.set(_ids.get())
    note(
        request_id=request_id,
        session_id=session_id,
        workflow_id=workflow_id,
        execution_id=execution_id,
        turn_id=turn_id,
    )
    try:
        yield
    finally:
        _ids.reset(token)


def note(**ids: str | None) -> None:
    """Add ids (as :func:`bind` names them) to what this greenlet logs until its next request begins, or it ends."""
    known = {_NAMES[name]: value for name, value in ids.items() if value is not None}
    if known:
        _ids.set({**_ids.get(), **known})


def begin_request(request_id: str) -> None:
    """Forget all ids but this one: one greenlet serves all requests of a connection, so each has to start anew."""
    _ids.set({"requestId": request_id})


def current() -> dict[str, str]:
    """The ids as log fields, by their names on the wire (``requestId`` …)."""
    return dict(_ids.get())


def request_id() -> str | None:
    """The request that this greenlet works for."""
    return _ids.get().get("requestId")


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` with the ids of this moment, for another greenlet or thread: ``gevent.spawn(carry(f), …)``."""
    taken = copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A copy per call: a context can be entered only once at a time.
        return taken.copy().run(function, *args, **kwargs)

    return carried
