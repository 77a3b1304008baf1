"""What the page makes of events that are seldom seen: its reducers, fed by hand."""

from __future__ import annotations

from typing import Any

from tests.console.rig import Console

REDUCE = """async ([modules, events]) => {
    const version = document.querySelector('script[src]').src.replace('main.js', '');
    const parts = await Promise.all(modules.map((name) => import(`${version}${name}.js`)));
    return parts.map((part) => {
        const state = part.initial();
        events.forEach((event) => part.apply(state, event));
        return JSON.parse(JSON.stringify(state, (key, value) => value instanceof Map ? [...value.values()] : value));
    });
}"""

SHOW = """async (text) => {
    const version = document.querySelector('script[src]').src.replace('main.js', '');
    const { growing } = await import(`${version}markdown.js`);
    const root = document.createElement('div');
    growing(root)(text, true);
    const inside = (one) => one.querySelectorAll(':not(wbr)').length;
    return [...root.children].map((one) => [one.tagName, inside(one), one.textContent.length]);
}"""


class Log:
    """Events as the wire has them, numbered."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, kind: str, turn: str = "", repair: str = "", /, **data: Any) -> None:
        seq = len(self.events) + 1
        ids = {name: value for name, value in (("turnId", turn), ("repairId", repair)) if value}
        self.events.append({"type": kind, "seq": seq, "at": "2026-01-01T00:00:00.000Z", "data": data, **ids})


def test_an_interrupted_answer_is_void_and_its_message_waits_again(console: Console) -> None:
    log = Log()
    log.add("user_message", text="one", clientMessageId="c1")
    log.add("user_message", text="two")
    log.add("turn_started", "t1", kind="chat")
    log.add("assistant_delta", "t1", messageId="m1", text="half an ")
    log.add("assistant_reset", "t1", messageId="m1")
    log.add("tool_started", "t1", tool="get_workflow", toolUseId="u1", input={})
    log.add("turn_finished", "t1", outcome="interrupted", durationMs=5)
    (before,) = console.page.evaluate(REDUCE, [["chat-state"], log.events])
    log.add("turn_started", "t2", kind="chat")
    log.add("assistant_delta", "t2", messageId="m2", text="wh")
    log.add("assistant_message", "t2", messageId="m2", text="whole")
    log.add("turn_finished", "t2", outcome="completed", durationMs=5)
    (after,) = console.page.evaluate(REDUCE, [["chat-state"], log.events])

    def shown(chat: dict[str, Any]) -> list[tuple[str, Any]]:
        return [(one["kind"], one.get("state") or one.get("text") or one.get("outcome")) for one in chat["items"]]

    waiting = [("user", "queued"), ("user", "queued"), ("assistant", None), ("tool", None), ("turn", "interrupted")]
    assert shown(before) == waiting and before["turns"] == []
    assert before["items"][3]["ok"] is None
    assert shown(after) == [("user", "answered"), *waiting[1:], ("assistant", "whole"), ("turn", "completed")]
    assert [one["text"] for one in after["unanswered"]] == ["two"]


def test_a_repairs_turn_answers_no_message_and_repeats_are_one_failure(console: Console) -> None:
    log = Log()
    log.add("user_message", text="waits")
    for count in (1, 2, 3):
        told = {"workflowId": "w", "workflowName": "Orders", "signature": "s", "repeatCount": count}
        log.add("workflow_error", "", "r1", **told, error={"message": f"no {count}"}, source="callback")
    log.add("turn_started", "t1", "r1", kind="repair")
    log.add("repair_started", "t1", "r1", workflowId="w", signature="s", attempt=1)
    log.add("assistant_message", "t1", messageId="m", text="I look into it.")
    chat, healing = console.page.evaluate(REDUCE, [["chat-state", "healing-state"], log.events])

    assert [one["kind"] for one in chat["items"]] == ["user", "failure", "repair", "assistant"]
    assert (chat["items"][0]["state"], chat["items"][1]["count"], chat["items"][1]["message"]) == ("queued", 3, "no 3")
    assert chat["items"][3]["isRepair"]
    assert [(one["repairId"], one["count"]) for one in healing["repairs"]] == [("r1", 3)]


def test_what_would_take_seconds_to_read_is_shown_as_it_was_written(console: Console) -> None:
    """What an agent repeats of a hostile text may not hold the page up."""

    def show(text: str) -> list[list[Any]]:
        found: list[list[Any]] = console.page.evaluate(SHOW, text)
        return found

    for emphasis in ("_a" * 30_000, "*a* " * 200):
        assert show(f"{emphasis}\n\n**told** so") == [["P", 0, len(emphasis)], ["P", 1, 7]]
    for deep in ("> " * 200, "1. " * 200, "+ " * 30_000):
        assert show(deep.strip()) == [["P", 0, len(deep.strip())]]
    ordinary = show("> > quoted\n\n1. one\n2. **two**\n\n" + "-" * 200)
    assert [name for name, *_ in ordinary] == ["BLOCKQUOTE", "OL", "HR"]
