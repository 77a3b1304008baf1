"""Where the workers keep their metrics: over reloads and deaths, for as long as the server, and no longer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.projects import PROJECT, copy_project
from tests.support.scrape import samples, value
from tests.support.server import UNLIMITED, BridgeServer, wait_for

ALIVE = ("flask_http_request_duration_seconds_count", (("endpoint", "None"), ("method", "GET"), ("status", "404")))


def folder_of(server: BridgeServer) -> Path:
    """The folder that the workers have their files of metrics in."""
    mapped = Path(f"/proc/{server.worker_pids()[0]}/maps").read_text().split()
    return next(Path(word).parent for word in mapped if "/counter_" in word)


@pytest.fixture
def server() -> Iterator[BridgeServer]:
    with BridgeServer({**UNLIMITED, "WEB_CONCURRENCY": 2, "VITALS_INTERVAL_SECONDS": 0.5}) as server:
        wait_for(lambda: len(server.log_lines("worker started")) == 2)
        yield server


def test_counts_and_gauges_are_right_after_reloads_and_deaths(server: BridgeServer) -> None:
    users = [Client(server).connect() for _ in range(3)]
    for _ in range(5):
        assert server.get("/nowhere").status == 404
    sent = sum(len(user.frames) for user in users)
    before = samples(server)
    assert (value(before, "active_connections"), before[ALIVE]) == (3, 5)
    folder = folder_of(server)
    assert folder.stat().st_mode & 0o777 == 0o700

    server.hup()

    for user in users:
        assert user.wait_closed() == 1012
        sent += len(user.of("server_shutdown"))
    after = samples(server)
    assert (value(after, "active_connections"), value(after, "active_sessions"), after[ALIVE]) == (0, 3, 5)
    assert value(after, "messages_total", direction="in") == 3
    assert value(after, "messages_total", direction="out") == sent
    assert folder_of(server) == folder

    for user in users:
        user.connect()
    assert value(samples(server), "active_connections") == 3
    wait_for(lambda: len(server.log_lines("worker started")) == 4)
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(server.log_lines("worker started")) == 6, limit_s=20)
    server.wait_healthy()

    # Counts that were there stay; the sockets of the dead are gone, and nothing still counts them.
    killed = samples(server)
    assert (value(killed, "active_connections"), killed[ALIVE]) == (0, 5)
    assert value(killed, "messages_total", direction="in") == 6

    server.hup()
    assert server.get("/nowhere").status == 404
    assert samples(server)[ALIVE] == 6
    # Two workers and their predecessors, which the next ones fold. Dead ones' gauges go as the master reaps them.
    wait_for(lambda: len(list(folder.glob("*.db"))) <= 2 * 3 + 2 * 2 + 2, what="few files")
    server.stop()
    assert not folder.exists()


def test_one_memory_line_is_written_for_both_workers(server: BridgeServer) -> None:
    with Client(server).connect():
        wait_for(lambda: server.log_lines("Memory usage", activeConnections=1), what="a line with the socket")
        wait_for(lambda: len(server.log_lines("Memory usage")) >= 5)
        resident = sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for pid in server.worker_pids()
        )
    lines = server.log_lines("Memory usage")
    server.hup()
    wait_for(lambda: len(server.log_lines("Memory usage")) >= len(lines) + 3)

    last = server.log_lines("Memory usage", activeConnections=1)[-1]
    assert last["level"] == "info"
    assert (last["activeSessions"], last["activeTurns"]) == (1, 0)
    assert 0.7 * resident < last["rssBytes"] < 1.3 * resident
    # Each instant has one line, through the reload: two workers would make pairs.
    stamps = [line["timestamp"] for line in server.log_lines("Memory usage")]
    seconds = [int(stamp[17:19]) * 1000 + int(stamp[20:23]) for stamp in stamps]
    apart = [(later - sooner) % 60_000 for sooner, later in pairwise(seconds)]
    assert sum(apart) / len(apart) > 400


def test_lines_that_nobody_reads_are_counted_the_masters_too() -> None:
    with BridgeServer({**UNLIMITED, "WEB_CONCURRENCY": 2}, read_output=False) as server:
        before = value(samples(server), "log_lines_dropped_total")
        assert server._process is not None and server._process.stdout is not None
        server._process.stdout.close()
        for _ in range(20):
            server.get("/nowhere")
        wait_for(lambda: value(samples(server), "log_lines_dropped_total") >= before + 20)
        mine = Path(folder_of(server) / "master-dropped").read_bytes()
        server.hup()

        assert int.from_bytes(Path(folder_of(server) / "master-dropped").read_bytes(), "little") > int.from_bytes(
            mine, "little"
        )
        assert value(samples(server), "log_lines_dropped_total") >= before + 20 + 1


def test_a_reloads_check_leaves_the_folder_alone(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    with BridgeServer({**UNLIMITED}, project=project) as server:
        folder = folder_of(server)
        before = {path.name for path in folder.iterdir()}

        server.write_env("WEB_CONCURRENCY=none\n")
        server.send_signal(signal.SIGHUP)
        server.wait_log("reload refused, the old workers stay: WEB_CONCURRENCY: must be a whole number from 1 to 64")
        (project / "wsgi.py").write_text("from app.factory import create_app\ncreate_app()\nraise SystemExit('no')\n")
        server.write_env("")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: len([line for line in server.raw_lines() if "reload refused" in line]) == 2, limit_s=30)

        assert {path.name for path in folder.iterdir()} - {"vitals"} == before - {"vitals"}


def test_what_a_killed_server_left_goes_with_the_next_start_and_another_servers_stays() -> None:
    with BridgeServer(UNLIMITED) as other, BridgeServer(UNLIMITED) as server:
        left, kept = folder_of(server), folder_of(other)
        worker = server.worker_pids()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        for pid in worker:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not server.processes())
        assert left.exists()
        server.stop()

        server.start()

        assert not left.exists() and kept.exists()
        assert value(samples(other), "active_sessions") == 0
        assert folder_of(server) not in (left, kept)


def test_a_folder_that_an_operator_names_is_emptied_at_the_start_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "metrics"
    with BridgeServer({**UNLIMITED, "PROMETHEUS_MULTIPROC_DIR": folder}) as server:
        server.get("/nowhere")
        (folder / "mine.txt").write_text("stays")
        server.hup()
        assert samples(server)[ALIVE] == 1
        server.stop()
        assert list(folder.glob("counter_*.db"))

        server.start()

        assert ALIVE not in samples(server)
    assert (folder / "mine.txt").exists()


def test_a_folder_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = BridgeServer({"PROMETHEUS_MULTIPROC_DIR": tmp_path / "file"})
    server.start(wait=False)

    assert server.wait() == 1

    wait_for(lambda: server.raw_lines())
    line = json.loads(server.raw_lines()[-1])
    assert (line["level"], line["message"].partition(":")[0]) == ("critical", "PROMETHEUS_MULTIPROC_DIR")
    server.close()


def test_a_check_of_the_configuration_makes_no_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "JOURNAL_PATH": str(tmp_path / "j.db")}
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "metrics")
    argv = [sys.executable, "-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "wsgi:app"]

    checked = subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=30)

    assert checked.returncode == 0, checked.stderr
    assert not (tmp_path / "metrics").exists()


def test_a_folder_that_is_full_or_gone_keeps_no_worker_from_serving(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        with BridgeServer({**UNLIMITED, "PROMETHEUS_MULTIPROC_DIR": folder / "inner"}) as server:
            (folder / "ballast").write_bytes(b"x" * 3_500_000)
            server.hup()
            server.wait_log("metrics cannot be kept with the other workers'", level="error")
            assert value(samples(server), "active_sessions") == 0
            (folder / "ballast").unlink()
            shutil.rmtree(folder / "inner")
            server.hup()
            server.get("/nowhere")
            assert samples(server)[ALIVE] == 1
            assert list((folder / "inner").glob("counter_*.db"))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
