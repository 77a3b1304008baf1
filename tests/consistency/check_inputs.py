"""What was acknowledged is there, once, whatever was killed and repeated; and it is answered, once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.consistency.history import Frame, History, run_of


def messages(history: History) -> Iterator[str]:
    said = {record["key"]: record for record in history.by_kind["said"]}
    found: dict[str, list[tuple[str, Frame]]] = defaultdict(list)
    for session, event in history.events("user_message"):
        found[event["data"]["clientMessageId"]].append((session, event))
    for key, places in found.items():
        sent = said.get(key)
        if len(places) > 1:
            yield f"message {key} is in the log {len(places)} times"
        if sent is None or any(place != sent["session"] or e["data"]["text"] != sent["text"] for place, e in places):
            yield f"message {key} is in the log as nobody has sent it"
    for told in history.told("message"):
        if told["status"] == 202:
            numbers = [event["seq"] for _, event in found[told["key"]]]
            if numbers != [told["seq"]]:
                yield f"message {told['key']} was acknowledged as number {told['seq']} and is at {numbers or 'none'}"


def callbacks(history: History) -> Iterator[str]:
    found: dict[str, list[tuple[str, Frame]]] = defaultdict(list)
    for session, event in history.events("workflow_error"):
        found[run_of(event)].append((session, event))
    for run, places in found.items():
        if len(places) > 1:
            yield f"the failure of run {run} is in the logs {len(places)} times"
    firsts: Counter[str] = Counter()
    for told in history.told("callback"):
        run = told["key"]
        if told["status"] not in (200, 202):
            continue
        if not found[run]:
            yield f"the callback of run {run} was acknowledged with {told['status']} and is in no log"
        if told.get("routed") is False:
            yield f"the callback of run {run} was told to be nobody's, and its workflow is registered"
        firsts[run] += told["status"] == 202
        if told.get("seq") and [(session, e["seq"]) for session, e in found[run]] != [(told["session"], told["seq"])]:
            yield f"the callback of run {run} was acknowledged as number {told['seq']}, and that is something else"
    for run, count in firsts.items():
        if count > 1:
            yield f"the callback of run {run} was taken as new {count} times"


def turns(history: History) -> Iterator[str]:
    for session, log in history.logs.items():
        begun: Counter[str] = Counter(event["turnId"] for event in log if event["type"] == "turn_started")
        ends = [event for event in log if event["type"] == "turn_finished"]
        ended: Counter[str] = Counter(event["turnId"] for event in ends)
        for turn in begun | ended:
            if (begun[turn], ended[turn]) != (1, 1):
                yield f"turn {turn} of session {session} has begun {begun[turn]} and ended {ended[turn]} times"
        yield from _after_their_end(session, log)
        yield from _chat_answers(session, log, ends)
        answers = Counter(e["repairId"] for e in ends if "repairId" in e and e["data"]["outcome"] != "interrupted")
        for repair, count in answers.items():
            if count > 1:
                yield f"repair {repair} of session {session} was answered by {count} turns"


def _after_their_end(session: str, log: list[Frame]) -> Iterator[str]:
    over: set[str] = set()
    for event in log:
        turn = event.get("turnId")
        if turn in over:
            yield f"{event['type']} (number {event['seq']}) of session {session} comes after the end of its turn"
        if turn and event["type"] == "turn_finished":
            over.add(turn)


def _chat_answers(session: str, log: list[Frame], ends: list[Frame]) -> Iterator[str]:
    """The agent answers with what was said, and no two messages say the same."""
    chats = {event["turnId"] for event in log if event["type"] == "turn_started" and event["data"]["kind"] == "chat"}
    outcomes = {event["turnId"]: event["data"]["outcome"] for event in ends if event["turnId"] in chats}
    said = Counter(event["data"]["text"] for event in log if event["type"] == "user_message")
    answered: Counter[str] = Counter()
    for event in log:
        if event["type"] == "assistant_message" and outcomes.get(event["turnId"]) == "completed":
            answered[event["data"]["text"]] += 1
    for text, count in answered.items():
        if count > said[text]:
            yield f"{text!r} was said {said[text]} and answered {count} times in session {session}"
    finished = sum(outcome != "interrupted" for outcome in outcomes.values())
    if finished != said.total():
        yield f"session {session} has {said.total()} messages and {finished} ends of turns that answer one"
    completed = sum(outcome == "completed" for outcome in outcomes.values())
    if answered.total() != completed:
        yield f"session {session} has {completed} completed turns and {answered.total()} answers in them"
