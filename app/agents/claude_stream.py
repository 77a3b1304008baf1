"""The CLI's stream-json lines as agent events; pure: lines in, events out.

Streamed pieces are shown as they come and are only a preview: what counts are the ``assistant`` lines, one for each
block of a message. A stream that is given up voids what was shown of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.agents import AgentEvent, TextDelta, TextFinal, TextReset, ToolFinished, ToolRefused, ToolStarted
from app.agents.claude_command import SERVER_NAME, TOOL_PREFIX

SUMMARY_CHARS = 200
NOT_RUN = "It was not finished."
NO_SUCH_TOOL = "There is no such tool in this turn."
NOT_ALLOWED = "This tool is not allowed in this turn."
_UNKNOWN_TOOL = "<tool_use_error>Error: No such tool available"

Line = Mapping[str, Any]
Block = tuple[str, int]


class Stream:
    """The lines of one process.

    :ivar result: the ``result`` line, once it came.
    :ivar ready: the process has started and knows its tools.
    :ivar without_tools: it started, but did not reach the tools server.
    :ivar spoke: an event came out, so this turn cannot be begun again unseen.
    """

    def __init__(self) -> None:
        self.result: Line | None = None
        self.ready = False
        self.without_tools = False
        self.spoke = False
        self.retry_delay_s = 0.0
        self._message = ""
        self._index = 0
        self._blocks: dict[str, int] = {}
        # Text blocks that were shown: whether an assistant line has confirmed them.
        self._shown: dict[Block, bool] = {}
        self._tools: dict[str, tuple[str, Block]] = {}
        self._whole_answer_due = False
        self._said = False

    @property
    def slow_step(self) -> bool:
        """Whether a long silence is to be expected: a tool runs, or an answer comes in one piece."""
        return bool(self._tools) or self._whole_answer_due

    def feed(self, line: Line) -> Iterator[AgentEvent]:
        """The events of one decoded line; of a line that is not known, none."""
        for event in self._events(line):
            self.spoke = True
            yield event

    def _events(self, line: Line) -> Iterator[AgentEvent]:
        self.retry_delay_s = 0.0
        match line.get("type"):
            case "stream_event" if line.get("parent_tool_use_id") is None:
                yield from self._streamed(line)
            case "assistant" if line.get("parent_tool_use_id") is None:
                yield from self._confirmed(line)
            case "user":
                yield from self._tool_results(line)
            case "system" if line.get("subtype") == "permission_denied":
                yield from self._denied(line)
            case "system":
                self._note(line)
            case "result":
                self.result = line
                yield from self._end(line)

    # -- what is shown while it comes

    def _streamed(self, line: Line) -> Iterator[AgentEvent]:
        event = line["event"]
        match event["type"]:
            case "message_start":
                self._whole_answer_due = False
                yield from self._begin(event["message"]["id"])
            case "content_block_start":
                self._index = event["index"]
            case "content_block_delta" if event["delta"]["type"] == "text_delta" and event["delta"]["text"]:
                block = (self._message, event["index"])
                self._shown.setdefault(block, False)
                yield TextDelta(_message_id(block), event["delta"]["text"])
            case "message_stop" if given_up := line.get("abandoned_blocks"):
                self._whole_answer_due = True
                yield from self._void(given_up["api_message_id"], given_up["from_block_index"])

    def _begin(self, message: str) -> Iterator[AgentEvent]:
        """What the message before has shown and never confirmed is void, whether or not anybody says so."""
        if message != self._message:
            yield from self._drop([block for block, confirmed in self._shown.items() if not confirmed])
            self._message, self._index = message, 0

    def _void(self, message: str, first: int) -> Iterator[AgentEvent]:
        yield from self._drop([block for block in self._shown if block[0] == message and block[1] >= first])
        for tool_use_id, (name, block) in list(self._tools.items()):
            if block[0] == message and block[1] >= first:
                del self._tools[tool_use_id]
                yield ToolFinished(name, tool_use_id, ok=False, summary=NOT_RUN)

    def _drop(self, blocks: list[Block]) -> Iterator[AgentEvent]:
        for block in blocks:
            del self._shown[block]
            yield TextReset(_message_id(block))

    # -- what counts

    def _confirmed(self, line: Line) -> Iterator[AgentEvent]:
        message = line["message"]
        if line.get("is_api_error_message") or message.get("model") == "<synthetic>":
            return  # the CLI's own words for a failure, which the result line tells as well
        self._whole_answer_due = False
        streamed = message["id"] == self._message
        yield from self._begin(message["id"])
        for content in message["content"]:
            count = self._blocks.get(message["id"], 0)
            self._blocks[message["id"]] = count + 1
            block = (message["id"], self._index if streamed else count)
            if content["type"] == "text" and content["text"]:
                self._said = True
                self._shown[block] = True
                yield TextFinal(_message_id(block), content["text"])
            elif content["type"] == "tool_use":
                name = content["name"].removeprefix(TOOL_PREFIX)
                self._tools[content["id"]] = (name, block)
                yield ToolStarted(name, content["id"], content["input"])

    def _tool_results(self, line: Line) -> Iterator[AgentEvent]:
        content = line["message"]["content"]
        for block in content if isinstance(content, list) else ():
            if block["type"] == "tool_result" and block["tool_use_id"] in self._tools:
                name, _ = self._tools.pop(block["tool_use_id"])
                ok, said = not block.get("is_error", False), _summary(block.get("content"))
                if not ok and said.startswith(_UNKNOWN_TOOL):
                    yield ToolRefused(name, block["tool_use_id"], NO_SUCH_TOOL)
                yield ToolFinished(name, block["tool_use_id"], ok, said)

    def _denied(self, line: Line) -> Iterator[AgentEvent]:
        """A tool that is there and not granted; its result follows."""
        tool_use_id = line.get("tool_use_id")
        if isinstance(tool_use_id, str) and tool_use_id in self._tools:
            yield ToolRefused(self._tools[tool_use_id][0], tool_use_id, NOT_ALLOWED)

    def _note(self, line: Line) -> None:
        match line.get("subtype"):
            case "init":
                self.ready = True
                status = {server["name"]: server["status"] for server in line.get("mcp_servers", ())}
                self.without_tools = status.get(SERVER_NAME) != "connected"
            case "api_retry":
                self._whole_answer_due = False
                self.retry_delay_s = line.get("retry_delay_ms", 0) / 1000

    def _end(self, line: Line) -> Iterator[AgentEvent]:
        for tool_use_id, (name, _) in self._tools.items():
            yield ToolFinished(name, tool_use_id, ok=False, summary=NOT_RUN)
        self._tools.clear()
        text = line.get("result")
        if not line["is_error"] and not self._said and isinstance(text, str) and text:
            # The CLI itself answered, to a blank message for one.
            yield TextFinal(f"cli-{line.get('uuid', '')}", text)


def turn_cost_usd(result: Line) -> float | None:
    """What this turn cost; ``total_cost_usd`` is the whole session's, resumed turns included."""
    usage = result.get("model_usage_since_last_result")
    if not isinstance(usage, Mapping):
        return None
    return float(sum(model.get("costUSD", 0) for model in usage.values()))


def _message_id(block: Block) -> str:
    """Every text block is a message of its own: text, a tool call, and text again are one message of the API."""
    message, index = block
    return f"{message}-{index}" if index else message


def _summary(content: Any) -> str:
    if isinstance(content, list):
        content = " ".join(block["text"] for block in content if block.get("type") == "text")
    return " ".join(str(content or "")[: 4 * SUMMARY_CHARS].split())[:SUMMARY_CHARS]
