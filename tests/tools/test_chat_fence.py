"""What a chat may write, on a real journal: the person's words decide, and what others wrote does not."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.journal import Change, OpenSession, events
from app.journal.records import Registration, Repair
from app.journal.sqlite import SqliteJournal
from app.tools.chat_fence import ChatFence

SECRET = "[secret:0123456789ab]"


class Chat:
    """A session and its fence."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.journal = journal
        self.session_id = uuid.uuid4().hex
        journal.commit(Change(self.session_id, open_session=OpenSession(self.session_id, 100)))

    def say(self, *texts: str) -> Chat:
        said = [events.user_message(text, client_message_id=None, request_id=None) for text in texts]
        self.journal.commit(Change(self.session_id, events=said))
        return self

    def own(self, workflow_id: str, *, session_id: str = "") -> Chat:
        registration = Registration(
            workflow_id=workflow_id, session_id=session_id or self.session_id, name="W", autonomy="auto"
        )
        self.journal.commit(Change(puts=[registration.put()]))
        return self

    def called(self, tool: str) -> Chat:
        self.journal.commit(Change(self.session_id, events=[events.tool_started(tool, "t1", {}, turn_id="turn")]))
        return self

    def failed(self) -> Chat:
        repair = Repair(
            repair_id=uuid.uuid4().hex,
            session_id=self.session_id,
            workflow_id="w1",
            workflow_name="W",
            signature="s",
            attempt=1,
        )
        self.journal.commit(Change(puts=[repair.put()]))
        return self

    def rules(self, after: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
        return ChatFence(self.journal, self.session_id).rules(before or {}, after)


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        yield Chat(journal)


def of(kind: str, parameters: dict[str, Any] | None = None, *, name: str = "Work", **settings: Any) -> dict[str, Any]:
    """A workflow of one node."""
    kind = kind if "." in kind else f"n8n-nodes-base.{kind}"
    node = {"name": name, "type": kind, "typeVersion": 1, "position": [0, 0], "parameters": parameters or {}}
    return {"name": "W", "nodes": [node], "connections": {}, "settings": settings}


def asks(url: str) -> dict[str, Any]:
    return of("httpRequest", {"url": url})


STRONG = [
    ("executeCommand", "Please run the command df every hour"),
    ("executeCommand", "Add an Execute Command node"),
    ("ssh", "restart it over SSH"),
    ("readWriteFile", "write the result to a file"),
    ("localFileTrigger", "start when a new file is in the folder"),
    ("n8n", "use the n8n API to list the workflows"),
]


@pytest.mark.parametrize(("kind", "words"), STRONG)
def test_a_node_that_acts_on_the_server_needs_the_persons_words(chat: Chat, kind: str, words: str) -> None:
    chat.say("Build me a report of the day, and tell me what it says.")
    assert any(kind in rule for rule in chat.rules(of(kind)))
    chat.say(words)
    assert chat.rules(of(kind)) == []


def test_such_a_node_that_is_there_may_stay_and_may_not_change(chat: Chat) -> None:
    before = of("executeCommand", {"command": "df"})
    assert chat.rules(before, before) == []
    assert chat.rules(of("executeCommand", {"command": "curl x | sh"}), before)
    assert chat.rules(before, of("noOp", {"command": "df"}))


@pytest.mark.parametrize("kind", ["executeWorkflow", "@n8n/n8n-nodes-langchain.toolWorkflow"])
def test_a_sub_workflow_must_be_one_of_the_session(chat: Chat, kind: str) -> None:
    chat.say("Put the second half into a sub-workflow").own("mine").own("theirs", session_id="another")
    for target in ("mine", {"__rl": True, "mode": "id", "value": "mine"}):
        assert chat.rules(of(kind, {"workflowId": target})) == []
    refused: list[dict[str, Any]] = [
        {},
        {"workflowId": "theirs"},
        {"workflowId": "unknown"},
        {"workflowId": "={{ $json.id }}"},
        {"workflowId": {"__rl": True, "mode": "id", "value": "theirs"}},
        {"source": "parameter", "workflowId": "mine", "workflowJson": "{}"},
        {"source": "url", "workflowId": "mine", "workflowUrl": "https://evil.example"},
    ]
    for parameters in refused:
        assert any("of this session" in rule for rule in chat.rules(of(kind, parameters))), parameters


def test_hosts_are_free_until_text_of_others_was_read(chat: Chat) -> None:
    assert chat.say("Ask the weather service").rules(asks("https://weather.example/now")) == []


@pytest.mark.parametrize("seen", ["failed", "get_execution", "test_workflow"])
def test_then_a_host_must_be_named_or_known(chat: Chat, seen: str) -> None:
    chat.say("Send it to https://hooks.example.com/x, or to Slack.com.")
    _ = chat.failed() if seen == "failed" else chat.called(seen)
    for url in ("https://hooks.example.com/y", "https://api.hooks.example.com/", "https://slack.com/api"):
        assert chat.rules(asks(url)) == [], url
    for url in ("https://evil.example/", "https://hooks.example.com.evil.example/", "https://example.com/", "//com.x/"):
        assert any("has not named the host" in rule for rule in chat.rules(asks(url))), url
    assert chat.rules(asks("https://known.example/b"), asks("https://known.example/a")) == []


def test_then_code_that_reaches_out_must_be_named_too(chat: Chat) -> None:
    chat.say("Fix the sum").failed()
    code = of("code", {"jsCode": "return [{ json: { a: $env.KEY } }]"})
    assert any("$env" in rule for rule in chat.rules(code))
    assert chat.say("take the key from $env.KEY").rules(code) == []


@pytest.mark.parametrize(
    "url", ["={{ ['https:', '', 'ev' + 'il.example'].join('/') }}", "=https://{{ $json.host }}/x", "={{ $json.next }}"]
)
def test_then_an_address_that_only_a_run_knows_must_be_named_too(chat: Chat, url: str) -> None:
    assert chat.say("Ask the address that comes in as callbackUrl").rules(asks(url)) == []
    chat.failed()
    assert any("makes up the address" in rule for rule in chat.rules(asks(url)))
    assert chat.rules(asks("={{ $json.body.callbackUrl }}")) == []
    assert chat.rules(asks(url), asks(url)) == []


def test_a_word_that_looks_like_code_is_not_taken_for_it(chat: Chat) -> None:
    chat.say("Process the retrieval of the medieval files and import them.").failed()
    for text in ("process.env", "eval('1')", "await import('fs')"):
        assert chat.rules(of("code", {"jsCode": f"return {text}"})), text


def test_the_error_workflow_is_the_bridges(chat: Chat) -> None:
    assert chat.rules(of("noOp", errorWorkflow="mine"))
    assert chat.rules(of("noOp"), of("noOp", errorWorkflow="bridge"))
    assert chat.rules(of("noOp", errorWorkflow="bridge"), of("noOp", errorWorkflow="bridge")) == []


def test_a_hidden_secret_stays_where_it_is(chat: Chat) -> None:
    before = of("httpRequest", {"key": SECRET})
    assert chat.rules(before, before) == []
    found = chat.rules(of("httpRequest", {"other": SECRET}), before)
    assert any("hidden secret" in rule for rule in found)
    assert any("credential of n8n" in rule for rule in found)
    assert chat.rules(of("httpRequest", {"key": SECRET}))
