"""What went wrong in a turn of the Claude CLI, in one sentence that says who can do what; never with its own text.

``subtype`` says ``success`` for most failures, so ``is_error`` is judged, and what kind it is by status and reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.agents import Finished
from app.agents.claude_command import ClaudeOptions
from app.agents.claude_stream import turn_cost_usd
from app.errors import ClaudeExecutionError, ClaudeTimeoutError

_UNKNOWN_SESSION = "No conversation found"
_CREDIT = re.compile(r"credit balance|billing", re.IGNORECASE)
_KEY = re.compile(r"not logged in|invalid api key|failed to authenticate", re.IGNORECASE)
_TOO_LONG = re.compile(r"prompt is too long", re.IGNORECASE)
_REFUSED = re.compile(r"safeguards|usage policy", re.IGNORECASE)
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
_NETWORK = re.compile(
    r"connection|timed out|timeout|ECONN|ENOTFOUND|EAI_AGAIN|certificate|self.signed|proxy|socket|fetch failed",
    re.IGNORECASE,
)

KEY = "Claude's API refused the key: check ANTHROPIC_API_KEY."
CREDIT = "The Claude account has no credit left: add some, or set the key of another account."
MODEL = "Claude's API does not know this model, or the key may not use it: check CLAUDE_MODEL."
TOO_LONG = "This conversation is too long for the model: begin a new session."
TOO_MUCH = "The answer was longer than the model may write: ask for less at once."
REFUSED = "The model declined to answer this: say it in other words."
RATE = "The Claude account's rate limit is used up: try again in a few minutes."
OVERLOADED = "Claude's API is overloaded: try again in a few minutes."
SERVER = "Claude's API failed on its side: try again in a few minutes."
NETWORK = "Claude's API cannot be reached: check the network, HTTPS_PROXY, NODE_EXTRA_CA_CERTS and ANTHROPIC_BASE_URL."
BAD_REQUEST = "Claude's API refused the request."
INTERRUPTED = "The Claude program was interrupted."
OTHER = "The Claude program could not finish the turn."
NO_RESULT = "The Claude program ended without an answer."
KILLED = "The Claude program was killed, perhaps for want of memory."
NO_TOOLS = "The Claude program could not reach the bridge's tools."
TOO_LARGE = "The Claude program wrote more than the bridge takes."


def finished(result: Mapping[str, Any], options: ClaudeOptions) -> Finished:
    """The turn's end as its ``result`` line tells it.

    :raises ClaudeExecutionError: it failed.
    """
    cost_usd = turn_cost_usd(result)
    if not result["is_error"]:
        return Finished("completed", cost_usd)
    match result.get("subtype"):
        case "error_max_turns":
            return Finished("budget_exceeded", cost_usd, f"It took more than {options.max_turns} steps.")
        case "error_max_budget_usd":
            return Finished("budget_exceeded", cost_usd, f"It cost more than {options.budget_usd:g} USD.")
    raise failure(result)


def can_begin_again(result: Mapping[str, Any] | None) -> bool:
    """Whether the same turn may succeed with another transcript: this one is not there, or has grown too long."""
    if result is None or not result["is_error"]:
        return False
    return _UNKNOWN_SESSION in _words(result) or _is_too_long(result)


def failure(result: Mapping[str, Any]) -> ClaudeExecutionError:
    """The error for a ``result`` line with ``is_error``."""
    status, words = result.get("api_error_status") or 0, _words(result)
    for matches, sentence, permanent in (
        (bool(_CREDIT.search(words)) or status == 402, CREDIT, True),
        (_is_too_long(result), TOO_LONG, True),
        (status in (401, 403) or bool(_KEY.search(words)), KEY, True),
        (status == 404, MODEL, True),
        (status == 429, RATE, False),
        (status == 529 or bool(_OVERLOADED.search(words)), OVERLOADED, False),
        (status >= 500, SERVER, False),
        (result.get("api_error") == "max_output_tokens", TOO_MUCH, True),
        (result.get("stop_reason") == "refusal" or bool(_REFUSED.search(words)), REFUSED, True),
        (status >= 400, BAD_REQUEST, True),
        (str(result.get("terminal_reason", "")).startswith("aborted"), INTERRUPTED, False),
        (result.get("api_error") == "connection_failed" or bool(_NETWORK.search(words)), NETWORK, False),
    ):
        if matches:
            return ClaudeExecutionError(sentence, permanent=permanent)
    return ClaudeExecutionError(OTHER)


def no_result(returncode: int | None) -> ClaudeExecutionError:
    """The error for a process that ended without a ``result`` line."""
    killed = returncode is not None and returncode < 0
    return ClaudeExecutionError(KILLED if killed else NO_RESULT)


def silent(limit_s: float) -> ClaudeExecutionError:
    return ClaudeTimeoutError(f"The Claude program was stopped: it was silent for {limit_s:g} s.")


def _is_too_long(result: Mapping[str, Any]) -> bool:
    return (
        result.get("terminal_reason") == "prompt_too_long"
        or result.get("api_error_status") == 413
        or bool(_TOO_LONG.search(_words(result)))
    )


def _words(result: Mapping[str, Any]) -> str:
    errors = result.get("errors") or ()
    return " ".join(str(part) for part in (result.get("result") or "", *errors))
