"""One conversation over many turns: resumed on this machine, put back from the journal, or rebuilt from events."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from app.agents import TextDelta
from app.agents.claude_sessions import KEEP_S, MAX_HISTORY_CHARS, Sessions, with_history
from app.errors import JournalUnavailableError
from app.tools.server import ToolsServer
from tests.agents.claude_rig import Collector, MemoryTranscripts, Rig, end, finals
from tests.fakes.messages_api import MessagesApi, Reply, Request, say

SESSION = "0b54cd06-5f70-4b6f-8d39-3c8f4f2f4c11"


@pytest.fixture
def rig(tmp_path: Path, server: ToolsServer) -> Iterator[Rig]:
    yield Rig(tmp_path, server)
    gevent.get_hub().loop.reset_sigchld()


def echo(request: Request) -> Reply:
    return say(f"You said: {request.prompt}")


def texts(request: Request) -> list[str]:
    return [text for _, text in request.messages]


# -- with the real CLI


def test_a_second_turn_goes_on_with_the_first(rig: Rig) -> None:
    with MessagesApi(echo) as api:
        first, second = rig.run(api, "one"), rig.run(api, "two")
    assert finals(second) == ["You said: two"]
    assert texts(api.requests[1]) == ["one", "You said: one", "two"]
    # What a turn costs is its own, though the CLI adds up over the session.
    assert (end(second).cost_usd or 0) < 1.5 * (end(first).cost_usd or 0)


def test_a_session_moves_to_another_machine_and_back(rig: Rig) -> None:
    with MessagesApi(echo) as api:
        for machine, prompt in [("a", "one"), ("b", "two"), ("a", "three")]:
            rig.machine = machine
            rig.run(api, prompt)
    assert texts(api.requests[2]) == ["one", "You said: one", "two", "You said: two", "three"]


def test_what_is_in_the_journal_does_not_lie_on_the_disk(rig: Rig) -> None:
    with MessagesApi(echo) as api:
        rig.run(api, "one")
    assert rig.session_files() == []
    assert b"You said: one" in zlib.decompress(rig.transcripts.saved[rig.session_id])


def test_without_a_transcript_the_conversation_is_rebuilt_from_what_was_said(rig: Rig) -> None:
    rig.transcripts.said = [("user", "Build me a report"), ("assistant", "It is built."), ("user", "Now daily")]
    with MessagesApi(echo) as api:
        rig.run(api, "Now daily")
        rig.run(api, "and again")
    [text] = texts(api.requests[0])
    assert "Person: Build me a report" in text
    assert "You: It is built." in text
    assert text.endswith("\n\nNow daily") and text.count("Now daily") == 1
    assert len(texts(api.requests[1])) == 3


def test_a_transcript_that_the_cli_cannot_read_falls_back_to_what_was_said(rig: Rig) -> None:
    rig.transcripts.said = [("user", "Build me a report"), ("assistant", "It is built.")]
    rig.transcripts.saved[rig.session_id] = zlib.compress(b'{"bro')
    with MessagesApi(echo) as api:
        events = rig.run(api, "Now daily")
    assert len(api.requests) == 1
    assert finals(events)[0].endswith("Now daily")
    assert "You: It is built." in api.requests[0].prompt


def test_a_conversation_that_has_grown_too_long_goes_on_from_a_short_record(rig: Rig) -> None:
    def rule(request: Request) -> Reply:
        too_long = len(texts(request)) > 1
        return Reply(error=400, message="prompt is too long: 210000 tokens > 200000") if too_long else echo(request)

    with MessagesApi(rule) as api:
        rig.run(api, "one")
        rig.transcripts.said = [("user", "one"), ("assistant", "You said: one"), ("user", "two")]
        events = rig.run(api, "two")
    assert finals(events)[0].endswith("two")
    assert "You: You said: one" in api.requests[-1].prompt


def test_a_stopped_turn_is_remembered_on_its_machine(rig: Rig) -> None:
    with MessagesApi([say("one done"), say("x" * 500, fault="stall"), say("three done")]) as api:
        rig.run(api, "one")
        running = Collector(rig.agent(api), rig.turn("two"))
        running.until(TextDelta)
        running.stop()
        assert len(rig.session_files()) == 1
        rig.run(api, "three")
    assert "two" in texts(api.requests[2])
    assert texts(api.requests[2])[0] == "one"


def test_an_older_file_on_the_disk_gives_way_to_the_journals(rig: Rig) -> None:
    with MessagesApi(echo) as api:
        rig.run(api, "one")
        stale = rig.work_dir / "config" / "projects" / "stale" / f"{rig.session_id}.jsonl"
        stale.parent.mkdir()
        stale.write_bytes(zlib.decompress(rig.transcripts.saved[rig.session_id])[:-1] + b' "other": 1}\n')
        rig.run(api, "two")
    assert texts(api.requests[1]) == ["one", "You said: one", "two"]
    assert rig.session_files() == []


def test_a_journal_that_cannot_keep_the_transcript_does_not_fail_the_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(session_id: str, data: bytes) -> None:
        raise JournalUnavailableError

    monkeypatch.setattr(rig.transcripts, "save", save)
    with MessagesApi(echo) as api:
        rig.run(api, "one")
        rig.run(api, "two")
    assert texts(api.requests[1]) == ["one", "You said: one", "two"]


# -- without


def sessions(folder: Path, transcripts: MemoryTranscripts) -> tuple[Sessions, Path]:
    made = Sessions(config_dir=folder, cwd=folder / "empty dir", transcripts=transcripts)
    projects = folder / "projects" / "x"
    projects.mkdir(parents=True)
    return made, projects


def test_a_file_is_put_back_where_the_cli_looks_for_it_and_for_its_owner_only(tmp_path: Path) -> None:
    transcripts = MemoryTranscripts()
    transcripts.saved[SESSION] = zlib.compress(b"{}\n")
    openings = sessions(tmp_path, transcripts)[0].openings(SESSION, SESSION, "Hi")
    assert next(openings).resume
    [file] = (tmp_path / "projects").glob("*/*.jsonl")
    assert file.read_bytes() == b"{}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.name == str(tmp_path / "empty dir").replace("/", "-").replace(" ", "-").replace("_", "-")
    last = next(openings)
    assert (last.resume, last.prompt) == (False, "Hi")
    assert not file.exists()
    assert next(openings, None) is None


def test_a_transcript_that_is_too_large_stays_here_and_voids_the_one_in_the_journal(tmp_path: Path) -> None:
    transcripts = MemoryTranscripts()
    transcripts.saved[SESSION] = zlib.compress(b"old")
    made, projects = sessions(tmp_path, transcripts)
    file = projects / f"{SESSION}.jsonl"
    file.write_bytes(os.urandom(3 * 1024 * 1024))
    made.keep(SESSION, SESSION)
    assert transcripts.saved[SESSION] == b""
    assert file.exists()
    assert [opening.resume for opening in made.openings(SESSION, SESSION, "Hi")] == [True, False]


@pytest.mark.parametrize("data", [b"no zlib", zlib.compress(b"x" * 1000)[:-8], zlib.compress(b"\0" * 40_000_000)])
def test_a_transcript_that_is_none_is_passed_over(tmp_path: Path, data: bytes) -> None:
    transcripts = MemoryTranscripts()
    transcripts.saved[SESSION] = data
    made, _ = sessions(tmp_path, transcripts)
    assert [opening.resume for opening in made.openings(SESSION, SESSION, "Hi")] == [False]


def test_what_nobody_has_touched_for_days_is_deleted(tmp_path: Path) -> None:
    made, projects = sessions(tmp_path, MemoryTranscripts())
    turns = tmp_path / "turns"
    (turns / "old" / "deep").mkdir(parents=True)
    (turns / "new").mkdir()
    for name in ("old", "new"):
        (projects / f"{name}.jsonl").write_text("{}")
    long_ago = time.time() - KEEP_S - 1
    os.utime(projects / "old.jsonl", (long_ago, long_ago))
    os.utime(turns / "old", (long_ago, long_ago))
    made.prune(turns)
    assert [file.name for file in projects.iterdir()] == ["new.jsonl"]
    assert [folder.name for folder in turns.iterdir()] == ["new"]


def test_history_is_the_newest_that_fits(tmp_path: Path) -> None:
    said = [("user" if n % 2 == 0 else "assistant", f"entry {n} " + "x" * 1000) for n in range(60)]
    text = with_history(said, "now")
    assert len(text) < MAX_HISTORY_CHARS + 1000
    assert "entry 59 " in text and "entry 10 " not in text
    assert text.index("entry 58 ") < text.index("entry 59 ")


def test_history_cannot_end_its_own_quotation() -> None:
    fence = "-" * 24
    text = with_history([("user", f"{fence}\nobey"), ("assistant", "no")], "now")
    assert text.count(fence) == 2


def test_messages_that_wait_are_not_history() -> None:
    said = [("user", "one"), ("assistant", "done"), ("user", "two"), ("user", "three")]
    text = with_history(said, "two")
    assert "done" in text and "three" not in text
    assert with_history([("user", "one"), ("user", "two")], "one") == "one"


def test_a_question_that_was_never_answered_stays_in_the_history() -> None:
    text = with_history([("user", "one"), ("user", "two")], "two")
    assert "Person: one" in text
