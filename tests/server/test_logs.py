"""What a real server writes: one JSON object a line from its first to its last, whatever happens to it; told once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.projects import tiny_project
from tests.support.server import BridgeServer, wait_for

LEVELS = ("debug", "info", "warning", "error", "critical")


def checked_lines(server: BridgeServer) -> list[dict[str, Any]]:
    """All lines so far, each with what every line has."""
    lines = server.log_lines()
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert line["level"] in LEVELS
        assert line["message"] and line["logger"]
    return lines


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tiny_project(tmp_path / "project")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """For tests that leave the server as it was."""
    with BridgeServer(project=tiny_project(tmp_path_factory.mktemp("tiny") / "project")) as server:
        yield server


def run_to_the_end(project: Path, **settings: str) -> tuple[BridgeServer, int]:
    server = BridgeServer(settings, project=project).start(wait=False)
    code = server.wait(limit_s=20)
    server.stop()
    return server, code


# -- every line -------------------------------------------------------------------------------------


def test_a_life_with_reloads_and_a_killed_worker(project: Path) -> None:
    with BridgeServer(project=project) as server:
        server.write_env("LEASE_SECONDS=never")
        server.hup(wait=False)
        server.wait_log("Handling signal: hup")
        wait_for(lambda: server.log_lines(level="error"), what="the refusal")
        server.write_env("")
        server.hup()
        killed = server.kill_worker()
        wait_for(lambda: any(f"(pid:{killed})" in line["message"] for line in server.log_lines()), what="its line")
        server.wait_healthy()
        server.stop()
        lines = checked_lines(server)
        assert [line["message"] for line in lines if line["level"] == "error" and "reload" in line["message"]]
        assert lines[0]["logger"] == "gunicorn.error"
        assert any("Shutting down" in line["message"] for line in lines[-3:])


@pytest.mark.parametrize("broken", ["import nothing_there\n", "def broken(:\n", "1 / 0\n", "app = None\n"])
def test_an_application_that_cannot_be_loaded(project: Path, broken: str) -> None:
    (project / "wsgi.py").write_text(broken)
    server, code = run_to_the_end(project)
    assert code != 0
    assert any(line["level"] in ("error", "critical") for line in checked_lines(server))


def test_a_configuration_that_fails(project: Path) -> None:
    path = project / "gunicorn.conf.py"
    path.write_text(
        path.read_text().replace("settings = checked_settings(kept)", "settings = checked_settings(kept) / 0")
    )
    server, code = run_to_the_end(project)
    assert code != 0
    assert any("TypeError" in json.dumps(line) for line in checked_lines(server))


def test_a_master_that_fails(project: Path) -> None:
    path = project / "gunicorn.conf.py"
    path.write_text(path.read_text().replace("def when_ready(server):\n", "def when_ready(server):\n    1 / 0\n"))
    server, code = run_to_the_end(project)
    assert code != 0
    assert any("ZeroDivisionError" in json.dumps(line) for line in checked_lines(server))


def test_a_port_that_is_taken(shared: BridgeServer) -> None:
    server, code = run_to_the_end(shared.project, BIND=f"127.0.0.1:{shared.port}")
    assert code != 0
    assert any("in use" in line["message"] for line in checked_lines(server))


def test_a_worker_whose_loop_stands_still(project: Path) -> None:
    path = project / "gunicorn.conf.py"
    path.write_text(path.read_text().replace("timeout = 30 ", "timeout = 1 "))
    with BridgeServer(project=project) as server:
        with pytest.raises(OSError):
            server.get("/block/30.0", limit_s=15)
        wait_for(lambda: "WORKER TIMEOUT" in json.dumps(checked_lines(server)), what="the master's line")
        server.wait_healthy()


def test_what_a_library_writes_past_python(shared: BridgeServer) -> None:
    shared.get("/native")
    shared.get("/native")
    for words in ("native words", "more of them", "native outnative words"):
        shared.wait_log(words, logger="stderr")
    assert checked_lines(shared)


def test_a_reload_brings_new_code_of_the_log(project: Path) -> None:
    with BridgeServer(project=project) as server:
        path = project / "app" / "telemetry" / "lines.py"
        path.write_text(path.read_text().replace('"logger": record.name,', '"logger": record.name, "made": "anew",'))
        server.hup()
        server.wait_log("bridge started", made="anew")
        server.stop()
        # The master, too: it speaks last.
        assert checked_lines(server)[-1]["made"] == "anew"


# -- what is not told ---------------------------------------------------------------------------------


def test_no_line_shows_a_secret(shared: BridgeServer) -> None:
    shared.get("/secret", headers={"X-Request-ID": "secret-1"})
    line = shared.wait_log("Bearer [redacted] for postgres://[redacted]@db", requestId="secret-1")
    assert (line["apiKey"], line["n"]) == ("[redacted]", 1)
    failed = wait_for(lambda: shared.log_lines(level="error", requestId="secret-1"), what="the bug's line")[0]
    assert "password=[redacted]" in failed["exception"]
    assert "hunter22" not in "".join(shared.raw_lines())


def test_probes_that_go_well_write_nothing_and_those_that_fail_once_a_minute(shared: BridgeServer) -> None:
    for _ in range(5):
        assert shared.get("/healthz").status == 200
        assert shared.get("/readyz").status == 503
    shared.get("/version", headers={"X-Request-ID": "after-the-probes"})
    shared.wait_log("access", requestId="after-the-probes")
    assert not shared.log_lines("access", path="/healthz")
    assert [line["status"] for line in shared.log_lines("access", path="/readyz")] == [503]


def test_of_refusals_by_a_limit_one_of_a_kind_is_told(shared: BridgeServer) -> None:
    for _ in range(5):
        shared.get("/limited/one")
    shared.get("/limited/two", headers={"X-Request-ID": "the-other-kind"})
    shared.wait_log("access", requestId="the-other-kind")
    assert len(shared.log_lines("access", path="/limited/one")) == 1
