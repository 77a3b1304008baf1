"""The bridge's own metrics, under the wire contract's names: what is counted, in which units, with which labels.

Label values are closed sets; each series is made here, at import, so that it exists from the first scrape. In a worker
``PROMETHEUS_MULTIPROC_DIR`` is set, and each value lives in a file that all workers' scrapes read. Only the loop's
thread may touch them: their lock is a greenlet's.
"""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

Direction = Literal["in", "out"]
ErrorType = Literal["websocket", "claude", "callback"]
Reason = Literal["no_session", "session_closed", "bad_schema", "too_large", "rate_limited"]
Routed = Literal["true", "false"]
LimitName = Literal["ws", "callbacks", "messages", "health", "auth"]
CopyOutcome = Literal["delivered", "failed", "given_up"]
Outcome = Literal[
    "published",
    "waiting",
    "rejected",
    "expired",
    "unverified",
    "failed",
    "blocked",
    "observed",
    "not_a_bug",
    "rolled_back",
]

CLAUDE_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 450, 600)
DELIVERY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PREFIX = "n8n_builder"

# Sums over a machine's workers; those of a worker that is gone go with it.
active_connections = Gauge(f"{PREFIX}_active_connections", "Open WebSockets.", multiprocess_mode="livesum")
active_turns = Gauge(f"{PREFIX}_active_turns", "Running turns.", multiprocess_mode="livesum")

messages = Counter(f"{PREFIX}_messages_total", "WebSocket frames.", ["direction"])
errors = Counter(f"{PREFIX}_errors_total", "What finally failed.", ["type"])
workflow_registrations = Counter(f"{PREFIX}_workflow_registrations_total", "Workflows that a session came to own.")
error_callbacks = Counter(f"{PREFIX}_error_callbacks_total", "Authenticated callbacks, each once.", ["routed"])
dead_letters = Counter(f"{PREFIX}_dead_letters_total", "Callbacks kept as dead letters.", ["reason"])
dead_letter_copies = Counter(
    f"{PREFIX}_dead_letter_copies_total", "What became of tries to copy a dead letter.", ["outcome"]
)
repairs = Counter(f"{PREFIX}_repairs_total", "What became of repairs.", ["outcome"])
rate_limited = Counter(f"{PREFIX}_rate_limited_total", "Requests refused by a rate limit.", ["limit"])
limiter_failures = Counter(
    f"{PREFIX}_limiter_failures_total", "Requests that passed because a limit's counters were away.", ["limit"]
)
log_lines_dropped = Counter(f"{PREFIX}_log_lines_dropped_total", "Log lines that nobody took.")
claude_execution = Histogram(
    f"{PREFIX}_claude_execution_seconds", "Time of one run of the agent.", buckets=CLAUDE_BUCKETS_S
)
callback_delivery = Histogram(
    f"{PREFIX}_callback_delivery_seconds",
    "From a callback's event journalled to written on a socket.",
    buckets=DELIVERY_BUCKETS_S,
)

for counter, values in (
    (messages, Direction),
    (errors, ErrorType),
    (error_callbacks, Routed),
    (dead_letters, Reason),
    (dead_letter_copies, CopyOutcome),
    (repairs, Outcome),
    (rate_limited, LimitName),
    (limiter_failures, LimitName),
):
    for value in get_args(values):
        counter.labels(value)

# Looked up once, for whoever counts many: half of the cost of a count is finding its series.
frames_in, frames_out = messages.labels("in"), messages.labels("out")
