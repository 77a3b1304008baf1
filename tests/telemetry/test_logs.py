"""The log's lines and its writer, on a pipe."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from app.telemetry.lines import JsonLineFormatter
from app.telemetry.master import DirectHandler
from app.telemetry.writer import StdoutWriter
from tests.support.server import wait_for


def line_of(formatter: JsonLineFormatter | None = None, /, **record: Any) -> dict[str, Any]:
    made = logging.makeLogRecord({"name": "app.x", "levelname": "WARNING", "msg": "hello", **record})
    text = (formatter or JsonLineFormatter()).format(made)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_time_level_message_logger_and_extras() -> None:
    at = datetime(2026, 3, 1, 12, 0, 0, 5_000, tzinfo=UTC).timestamp()
    assert line_of(created=at, turnId="t-1", count=2) == {
        "timestamp": "2026-03-01T12:00:00.005Z",
        "level": "warning",
        "message": "hello",
        "logger": "app.x",
        "turnId": "t-1",
        "count": 2,
    }


def test_a_line_carries_the_ids_of_the_work_in_hand_and_an_extra_wins() -> None:
    formatter = JsonLineFormatter(context=lambda: {"requestId": "r-1", "sessionId": "s-1"})
    line = line_of(formatter, sessionId="s-2")
    assert (line["requestId"], line["sessionId"]) == ("r-1", "s-2")


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        line = line_of(exc_info=(ValueError, exc, exc.__traceback__))
    assert "two\nlines" in line["exception"] and "exc_info" not in line


@pytest.mark.parametrize(
    "record", [{"msg": "%d", "args": ("x",)}, {"odd": object()}, {"msg": "\ud800 \u2028"}, {"msg": {"a": 1}}]
)
def test_nothing_keeps_a_line_from_being_written(record: dict[str, Any]) -> None:
    assert line_of(**record)["logger"] == "app.x"


@pytest.mark.parametrize("text", ["x" * 500_000, "\U0001f600" * 200_000, '"' * 300_000])
def test_a_long_line_is_cut_and_stays_json(text: str) -> None:
    made = logging.makeLogRecord({"name": "app.x", "msg": text, "exc_text": text, "requestId": "r-1", "big": text})
    cut = JsonLineFormatter().format(made)
    line = json.loads(cut)
    assert len(cut) < 65_536
    assert (line["requestId"], line["cut"]) == ("r-1", True)
    assert text.startswith(line["message"]) and line["message"]


# -- the writers ------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def read_all(reading: int) -> list[bytes]:
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
    found = b""
    while True:
        try:
            found += os.read(reading, 65_536)
        except BlockingIOError:
            return found.splitlines()


def test_a_full_pipe_drops_lines_counts_them_and_says_so_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reported: list[int] = []
    writer = StdoutWriter(writing, limit_lines=100, on_recovery=reported.append)

    for number in range(2_000):
        writer.submit(f"{number:>1000}")

    assert not writer.flush(0.1)
    lost = writer.dropped
    assert 1_500 < lost < 2_000
    lines: list[bytes] = []
    wait_for(lambda: lines.extend(read_all(reading)) or writer.flush(0.05), what="the queue's end")
    lines += read_all(reading)
    assert len(lines) == 2_000 - lost
    assert all(len(line) == 1_000 for line in lines)
    wait_for(lambda: reported, what="the report")
    assert reported == [lost]


def test_the_queue_is_bounded_in_bytes() -> None:
    reading, writing = os.pipe()
    writer = StdoutWriter(writing, limit_bytes=200_000)
    for _ in range(20):
        writer.submit("x" * 50_000)
    assert writer.dropped >= 14
    wait_for(lambda: read_all(reading) is None or writer.flush(0.05), what="the queue's end")


def test_a_reader_that_is_gone_ends_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    writer = StdoutWriter(writing)
    writer.submit("one")
    assert writer.flush()
    writer.submit("two")
    assert writer.flush()
    assert writer.dropped == 2


def test_a_reader_that_is_gone_is_not_told_of_what_it_misses(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    writer: StdoutWriter
    writer = StdoutWriter(writing, on_recovery=lambda lost: writer.submit("log lines dropped"))
    for missed in (1, 2, 3):
        writer.submit("a line")
        assert writer.flush()
        assert writer.dropped == missed


def test_a_descriptor_that_does_not_wait_gets_everything(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = StdoutWriter(writing)
    for number in range(300):
        writer.submit(f"{number:>1000}")
    lines: list[bytes] = []
    wait_for(lambda: lines.extend(read_all(reading)) or writer.flush(0.05), what="the queue's end")
    assert len(lines + read_all(reading)) == 300
    assert writer.dropped == 0


def test_the_direct_handler_never_waits(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = DirectHandler(writing)
    for _ in range(100):
        handler.emit(logging.makeLogRecord({"msg": "x" * 2_000}))
    assert handler.dropped > 50
    lines = read_all(reading)
    assert len(lines) == 100 - handler.dropped
    assert all(json.loads(line)["message"] == "x" * 2_000 for line in lines)


HOLDER = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_UN)
"""


@contextmanager
def held(lock_fd: int) -> Iterator[Callable[[], None]]:
    """Another process has the lock; gives what makes it let go."""
    argv = [sys.executable, "-c", HOLDER, str(lock_fd)]
    with subprocess.Popen(argv, pass_fds=[lock_fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "held\n"

        def let_go() -> None:
            assert holder.stdin
            holder.stdin.write("\n")
            holder.stdin.flush()

        yield let_go


class Told(DirectHandler):
    """Says when a line is about to be written."""

    def __init__(self, fd: int, *, lock_fd: int, lock_wait_s: float) -> None:
        super().__init__(fd, lock_fd=lock_fd, lock_wait_s=lock_wait_s)
        self.begun = threading.Event()

    def format(self, record: logging.LogRecord) -> str:
        self.begun.set()
        return super().format(record)


def test_the_direct_handler_waits_for_the_end_of_anothers_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lock_fd = os.memfd_create("lock")
    handler = Told(writing, lock_fd=lock_fd, lock_wait_s=30)
    with held(lock_fd) as let_go:
        thread = threading.Thread(target=handler.emit, args=[logging.makeLogRecord({"msg": "mine"})])
        thread.start()
        assert handler.begun.wait(30)
        let_go()
        thread.join(30)
    os.close(lock_fd)

    assert handler.dropped == 0
    assert [json.loads(line)["message"] for line in read_all(reading)] == ["mine"]


def test_the_direct_handler_waits_once_for_a_writer_that_is_stuck(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lock_fd = os.memfd_create("lock")
    handler = DirectHandler(writing, lock_fd=lock_fd, lock_wait_s=0.05)
    with held(lock_fd):
        handler.emit(logging.makeLogRecord({"msg": "lost"}))
        handler.lock_wait_s = 3_600.0
        handler.emit(logging.makeLogRecord({"msg": "lost, too"}))
    handler.emit(logging.makeLogRecord({"msg": "mine"}))
    os.close(lock_fd)

    assert handler.dropped == 2
    assert [json.loads(line)["message"] for line in read_all(reading)] == ["mine"]
