"""The worker and the master of app/server, with a tiny application: signals, reloads, refusals, logs."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.projects import PROJECT, TINY_APP, tiny_project
from tests.support.server import BridgeServer, free_port, wait_for

SOFTWARE = re.compile(rb"gunicorn|gevent|python|werkzeug|flask", re.IGNORECASE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tiny_project(tmp_path / "project")


@pytest.fixture
def server(project: Path) -> Iterator[BridgeServer]:
    with BridgeServer(project=project) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """For tests that leave the server as it was."""
    with BridgeServer(project=tiny_project(tmp_path_factory.mktemp("tiny") / "project")) as server:
        yield server


def keep_alive(server: BridgeServer) -> http.client.HTTPConnection:
    """A connection that has had an answer and is idle now."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/version")
    response = connection.getresponse()
    assert response.headers["Connection"] == "keep-alive"
    response.read()
    return connection


def patient(project: Path) -> None:
    """Idle connections have long to bring one more request, so that a busy machine does not miss it."""
    path = project / "app" / "server" / "worker.py"
    path.write_text(path.read_text().replace("IDLE_GRACE_S = 0.9", "IDLE_GRACE_S = 9.0"))


def append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text()}\n{text}")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def at(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


class InFlight:
    """A slow request, on its way in a thread."""

    def __init__(self, server: BridgeServer, seconds: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.response: http.client.HTTPResponse | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(f"/slow/{seconds}",))
        self._thread.start()
        server.wait_log("slow started")

    def _run(self, path: str) -> None:
        try:
            self._connection.request("GET", path)
            self.response = self._connection.getresponse()
            self.response.read()
        except Exception as exc:
            self.error = exc

    def result(self) -> http.client.HTTPResponse:
        self._thread.join(20)
        assert self.response is not None, f"no answer: {self.error!r}"
        return self.response


# -- the drain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_connection_does_not_hold_the_end(server: BridgeServer, number: int) -> None:
    idle = keep_alive(server)

    server.send_signal(number)

    assert server.wait(limit_s=15) == 0  # keep-alive would end after 130 s, the grace after 25
    server.stop()
    assert idle.sock is not None and idle.sock.recv(1) == b""
    assert [line["message"] for line in server.log_lines(logger="tiny")] == [
        "bridge started",
        "bridge drained",
        "bridge stopped",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_and_its_connection_closed(server: BridgeServer, number: int) -> None:
    request = InFlight(server, 1.5)

    # A terminal sends Ctrl-C to the workers, too.
    for pid in [server.pid, *(server.worker_pids() if number == signal.SIGINT else [])]:
        os.kill(pid, number)

    assert request.result().status == 200
    assert request.result().headers["Connection"] == "close"
    assert server.wait(limit_s=5) == 0


def test_the_listener_closes_at_once(server: BridgeServer) -> None:
    request = InFlight(server, 1.0)
    server.term()
    server.wait_log("bridge drained")

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)

    assert request.result().status == 200


def test_an_idle_connection_may_bring_one_more_request_as_the_drain_begins(project: Path) -> None:
    patient(project)
    with BridgeServer(project=project) as server:
        idle = keep_alive(server)
        server.term()
        server.wait_log("bridge drained")
        idle.request("GET", "/version")

        response = idle.getresponse()
        assert (response.status, response.headers["Connection"]) == (200, "close")


def test_a_connection_that_was_promised_to_stay_open_may_bring_its_next_request(project: Path) -> None:
    patient(project)
    with BridgeServer(project=project) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", "/stream")
        response = connection.getresponse()
        assert response.headers["Connection"] == "keep-alive"
        server.term()
        server.wait_log("bridge drained")
        (project / "stream-ends").touch()
        assert response.read() == b"begun ended"

        connection.request("GET", "/version")
        assert connection.getresponse().status == 200


def test_the_worker_waits_for_the_application(project: Path) -> None:
    with BridgeServer({"TINY_TURN_S": 1.5}, project=project) as server:
        server.term()
        drained = server.wait_log("bridge drained")
        assert server.wait(limit_s=15) == 0
        stopped = server.wait_log("bridge stopped")
        assert at(stopped) - at(drained) >= timedelta(seconds=1.5)


def test_the_worker_stops_the_application_when_the_grace_is_over(project: Path) -> None:
    with BridgeServer({"TINY_TURN_S": 600, "GRACEFUL_TIMEOUT_SECONDS": 6}, project=project) as server:
        server.term()
        assert server.wait(limit_s=20) == 0
        assert server.wait_log("bridge stopped"), "it ended by itself"
        assert not server.log_lines(level="error")


def test_a_second_ctrl_c_is_quick_and_still_stops_the_application(project: Path) -> None:
    with BridgeServer({"TINY_TURN_S": 600, "GRACEFUL_TIMEOUT_SECONDS": 300}, project=project) as server:
        server.send_signal(signal.SIGINT)
        server.wait_log("bridge drained")
        server.send_signal(signal.SIGINT)
        assert server.wait(limit_s=15) == 0
        assert server.wait_log("bridge stopped")


def test_workers_end_when_their_master_is_killed(server: BridgeServer) -> None:
    workers = server.worker_pids()
    server.send_signal(signal.SIGKILL)
    server.wait()

    wait_for(lambda: not set(workers) & set(server.processes()), limit_s=5, what="the workers' end")
    assert server.log_lines("bridge stopped")


def test_a_killed_worker_is_followed_by_a_new_one(server: BridgeServer) -> None:
    old = server.kill_worker()

    wait_for(lambda: (pids := server.worker_pids()) and old not in pids, limit_s=5, what="a new worker")
    server.wait_healthy()
    assert server.wait_log("bridge started")


@pytest.mark.parametrize(
    ("file", "broken", "said"),
    [
        ("wsgi.py", "import nothing_there\n", "nothing_there"),
        ("wsgi.py", "def broken(:\n", "invalid syntax"),
        ("wsgi.py", "raise SystemExit(0)\n", "could not start"),
        ("app/telemetry/context.py", "import nothing_there\n", "nothing_there"),
    ],
    ids=["exception", "syntax", "exit", "before the application"],
)
def test_a_worker_that_cannot_start_does_not_end_a_server_that_has_served(
    server: BridgeServer, file: str, broken: str, said: str
) -> None:
    good = (server.project / file).read_text()
    (server.project / file).write_text(broken)
    server.kill_worker()

    def failed() -> bool:
        return any(said in json.dumps(line) for line in server.log_lines(level="error"))

    wait_for(failed, what="an error line")
    (server.project / file).write_text(good)
    server.wait_healthy()
    assert server.get("/version").json == {"version": "one"}


# -- reloads ----------------------------------------------------------------------------------------


def test_hup_brings_new_code_and_new_settings(server: BridgeServer) -> None:
    (server.project / "wsgi.py").write_text(TINY_APP.replace('VERSION = "one"', 'VERSION = "number two"'))
    server.write_env("WEB_CONCURRENCY=2")

    server.hup()

    assert server.get("/version").json == {"version": "number two"}
    assert len(server.worker_pids()) == 2


def test_no_request_fails_during_a_reload(server: BridgeServer) -> None:
    done = threading.Event()
    failures: list[str] = []
    statuses: list[int] = []

    def ask() -> None:
        while not done.is_set():
            try:
                statuses.append(server.get("/version").status)
            except OSError as exc:
                failures.append(repr(exc))
            time.sleep(0.01)  # a pace that leaves the reload some of the machine

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(3):
        server.hup()
    done.set()
    asker.join()
    assert not failures
    assert set(statuses) == {200}


def test_hup_brings_new_code_of_the_worker_and_leaves_the_masters(server: BridgeServer) -> None:
    own = server.project / "app" / "server"
    replace(own / "refusals.py", "is not well-formed HTTP", "is no HTTP of revision 1")
    replace(own / "worker.py", '"request refused"', '"request refused anew"')
    replace(own / "master.py", "reload refused, the old workers stay", "reload refused anew")

    server.hup()

    assert b"is no HTTP of revision 1" in server.raw(b"GET /nothing\r\n\r\n")
    assert server.wait_log("request refused anew")
    replace(own / "refusals.py", "revision 1", "revision 22")
    server.hup()
    assert b"is no HTTP of revision 22" in server.raw(b"GET /nothing\r\n\r\n")
    append(own / "worker.py", "def broken(:\n")
    server.hup(wait=False)
    error = wait_for(lambda: server.log_lines(level="error"), what="an error line")[0]
    assert error["message"].startswith("reload refused, the old workers stay: SyntaxError")
    assert server.healthy()


def test_the_master_imports_nothing_that_its_workers_must_import_anew(project: Path) -> None:
    append(
        project / "gunicorn.conf.py",
        "def pre_fork(server, worker):\n"
        "    names = [name for name in sys.modules if name.partition('.')[0] == 'app']\n"
        "    server.log.info('about to fork', extra={'names': names})\n",
    )
    with BridgeServer(project=project) as server:
        server.get("/version")
        server.hup()
        server.kill_worker()
        forks = wait_for(lambda: len(found := server.log_lines("about to fork")) >= 3 and found, what="three forks")
        assert [line["names"] for line in forks] == [[], [], []]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda server: server.write_env("LEASE_SECONDS=never"), "LEASE_SECONDS"),
        (lambda server: (server.project / "wsgi.py").write_text("def broken(:\n"), "SyntaxError"),
        (lambda server: (server.project / "app" / "settings.py").write_text("import nothing_there\n"), "nothing_there"),
        (lambda server: (server.project / "gunicorn.conf.py").write_text("1 / 0\n"), "ZeroDivisionError"),
        (lambda server: append(server.project / "gunicorn.conf.py", "timeout = 'never'\n"), "never"),
        (lambda server: append(server.project / "wsgi.py", "import a_module_to_be_installed\n"), "to_be_installed"),
        (lambda server: append(server.project / "wsgi.py", "raise SystemExit(0)\n"), "ended while it was loaded"),
    ],
    ids=["settings", "syntax", "import", "gunicorn.conf.py", "gunicorn's setting", "missing module", "exit"],
)
def test_a_bad_reload_keeps_the_old_workers_and_logs_one_error(server: BridgeServer, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    workers, idle = server.worker_pids(), keep_alive(server)
    change(server)

    server.hup(wait=False)

    error = wait_for(lambda: server.log_lines(level="error"), what="an error line")[0]
    assert error["message"].startswith("reload refused") and reason in error["message"]
    assert server.worker_pids() == workers
    idle.request("GET", "/version")
    assert json.loads(idle.getresponse().read()) == {"version": "one"}
    assert len(server.log_lines(level="error")) == 1


def test_a_good_reload_may_follow_a_bad_one(server: BridgeServer) -> None:
    (server.project / "wsgi.py").write_text("def broken(:\n")
    server.hup(wait=False)
    wait_for(lambda: server.log_lines(level="error"), what="an error line")
    (server.project / "wsgi.py").write_text(TINY_APP.replace('VERSION = "one"', 'VERSION = "two"'))

    server.hup()

    assert server.get("/version").json == {"version": "two"}


def test_term_is_not_held_up_by_the_check_of_a_reload(server: BridgeServer) -> None:
    (server.project / "wsgi.py").write_text("import time; time.sleep(600)\n")
    server.hup(wait=False)
    server.wait_log("Handling signal: hup")

    server.term()

    assert server.wait(limit_s=15) == 0


def test_old_workers_stay_while_new_ones_cannot_come_up(server: BridgeServer) -> None:
    old = server.worker_pids()
    fails = TINY_APP.replace("bridge started", "%s").replace('VERSION = "one"', 'VERSION = "two"')
    fails = fails.replace('log.info("%s")', "open('key').close()")
    (server.project / "wsgi.py").write_text(fails)

    server.hup(wait=False)
    server.wait_log("a worker could not start, another is tried", level="error")
    assert server.get("/version").json == {"version": "one"}
    assert set(old) <= set(server.worker_pids())

    (server.project / "key").touch()
    wait_for(lambda: not set(old) & set(server.worker_pids()), what="only new workers")
    assert server.get("/version").json == {"version": "two"}


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[BridgeServer, Path, Path]]:
    """A server whose configuration is reached by a link to a release, that link, and the next release."""
    one, two, current = tiny_project(tmp_path / "one"), tiny_project(tmp_path / "two"), tmp_path / "current"
    (two / "wsgi.py").write_text(TINY_APP.replace('VERSION = "one"', 'VERSION = "two"'))
    current.symlink_to(one)
    # gunicorn goes back to the folder of its start at each reload, so that must be one that stays.
    with BridgeServer(project=tmp_path, config=current / "gunicorn.conf.py") as server:
        yield server, current, two


def lead(link: Path, to: Path) -> None:
    link.unlink()
    link.symlink_to(to)


def test_a_reload_brings_the_release_that_a_link_leads_to(releases: tuple[BridgeServer, Path, Path]) -> None:
    server, current, two = releases
    lead(current, two)
    shutil.rmtree(current.parent / "one")  # old releases are tidied up

    server.hup()

    assert server.get("/version").json == {"version": "two"}
    server.hup()
    assert not server.log_lines(level="error")


def test_a_release_that_a_link_leads_back_to_serves_again(releases: tuple[BridgeServer, Path, Path]) -> None:
    server, current, two = releases
    one = current.resolve()
    append(two / "wsgi.py", "import only_in_two\n")
    (two / "only_in_two.py").touch()
    lead(current, two)
    server.hup()
    assert server.get("/version").json == {"version": "two"}

    lead(current, one)
    server.hup()

    assert server.get("/version").json == {"version": "one"}
    append(one / "wsgi.py", "import only_in_two\n")
    server.hup(wait=False)
    assert "only_in_two" in wait_for(lambda: server.log_lines(level="error"), what="an error line")[0]["message"]


def test_a_reload_refuses_a_broken_release_that_a_link_leads_to(releases: tuple[BridgeServer, Path, Path]) -> None:
    server, current, two = releases
    workers = server.worker_pids()
    (two / "wsgi.py").write_text("def broken(:\n")
    lead(current, two)

    server.hup(wait=False)

    error = wait_for(lambda: server.log_lines(level="error"), what="an error line")[0]
    assert error["message"].startswith("reload refused, the old workers stay: SyntaxError")
    assert server.worker_pids() == workers


@pytest.fixture
def movable(project: Path) -> Iterator[BridgeServer]:
    """Its address comes from ``.env``."""
    server = BridgeServer({"BIND": None}, project=project)
    server.write_env(f"BIND=127.0.0.1:{server.port}")
    with server:
        yield server


def test_a_reload_moves_to_another_address(movable: BridgeServer) -> None:
    before, movable.port = movable.port, free_port()
    movable.write_env(f"BIND=127.0.0.1:{movable.port}")

    movable.hup()

    assert movable.get("/version").status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", before), timeout=1)


def test_a_reload_to_an_address_that_is_taken_is_refused(movable: BridgeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        movable.write_env(f"BIND=127.0.0.1:{taken}")
        movable.hup(wait=False)
        error = wait_for(lambda: movable.log_lines(level="error"), what="an error line")[0]

    assert error["message"].endswith(f"BIND: cannot listen on 127.0.0.1:{taken}: Address already in use")
    assert movable.get("/version").status == 200


def test_term_acts_at_once_while_a_reload_waits_for_old_workers(project: Path) -> None:
    with BridgeServer({"TINY_TURN_S": 2}, project=project) as server:
        server.hup(wait=False)
        server.wait_log("bridge drained")

        server.term()

        assert server.wait(limit_s=20) == 0
        assert server.stop() == 0
        said = [line["message"].partition(" ")[2] for line in server.log_lines(logger="tiny")]
        assert said == ["started", "started", "drained", "drained", "stopped", "stopped"]


def test_a_worker_that_dies_while_old_ones_drain_is_followed_by_another(project: Path) -> None:
    with BridgeServer({"TINY_TURN_S": 600, "GRACEFUL_TIMEOUT_SECONDS": 300}, project=project) as server:
        (old,) = server.worker_pids()
        server.hup(wait=False)
        server.wait_log("bridge drained")
        (new,) = set(server.worker_pids()) - {old}

        os.kill(new, signal.SIGKILL)

        wait_for(lambda: server.healthy() and server.get("/healthz").json["pid"] not in (old, new), what="another")
        assert old in server.worker_pids()
        server.send_signal(signal.SIGQUIT)
        assert server.wait(limit_s=15) == 0


def test_a_worker_that_is_told_to_go_is_followed_at_once(server: BridgeServer) -> None:
    request = InFlight(server, 3.0)
    old = server.kill_worker(signal.SIGTERM)

    wait_for(lambda: len(server.log_lines("bridge started")) == 2, what="another worker")
    answering = server.get("/healthz").json["pid"]

    assert answering != old and request.response is None
    assert request.result().status == 200
    wait_for(lambda: server.worker_pids() == [answering], what="the old worker's end")


@pytest.mark.parametrize(
    "signals", ["TERM HUP TERM", "INT TERM", "HUP HUP TERM", "HUP INT INT", "QUIT"], ids=lambda names: names.lower()
)
def test_whatever_comes_together_all_end_by_themselves(project: Path, signals: str) -> None:
    with BridgeServer({"WEB_CONCURRENCY": 2}, project=project) as server:
        for name in signals.split():
            server.send_signal(signal.Signals[f"SIG{name}"])

        assert server.wait(limit_s=20) == 0
        assert server.stop() == 0
        said = Counter(line["message"] for line in server.log_lines(logger="tiny"))
        assert said["bridge started"] == said["bridge drained"] == said["bridge stopped"] >= 1
        assert not server.log_lines(level="error")


def test_term_ends_workers_that_are_still_loading(project: Path) -> None:
    (project / "wsgi.py").write_text("import time; time.sleep(600)\n")
    server = BridgeServer({"WEB_CONCURRENCY": 2, "GRACEFUL_TIMEOUT_SECONDS": 300}, project=project)
    server.start(wait=False)
    try:
        wait_for(lambda: len(server.worker_pids()) == 2, what="workers")
        server.term()
        assert server.wait(limit_s=15) == 0
    finally:
        server.close()


def test_a_worker_that_is_told_to_go_and_cannot_start_is_no_error(server: BridgeServer) -> None:
    wsgi = server.project / "wsgi.py"
    text = wsgi.read_text()
    wsgi.write_text(
        "import pathlib, time\n"
        "pathlib.Path('loading').touch()\n"
        "while pathlib.Path('loading').exists(): time.sleep(0.01)\n"
        "raise OSError('the journal is locked')\n"
    )
    old = server.kill_worker(signal.SIGKILL)
    wait_for((server.project / "loading").exists, what="the next to load")
    (loading,) = [pid for pid in server.worker_pids() if pid != old]
    wsgi.write_text(text)
    os.kill(loading, signal.SIGTERM)
    status = Path(f"/proc/{loading}/status")
    wait_for(lambda: re.search(r"ShdPnd:\s0+\n", status.read_text()), what="the signal to be taken")
    (server.project / "loading").unlink()

    assert server.wait_log("a worker that was told to go could not start")["reason"] == "the journal is locked"
    server.wait_healthy()
    assert not server.log_lines("Exception in worker process")


def test_an_application_that_exits_as_it_is_loaded_ends_the_start(project: Path) -> None:
    (project / "wsgi.py").write_text("raise SystemExit(0)\n")
    server = BridgeServer(project=project).start(wait=False)
    assert server.wait(limit_s=15) == 3
    server.close()
    assert any("ended while it was loaded" in line.get("exception", "") for line in server.log_lines(level="error"))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a service manager waits to be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(15)
        yield listening


def test_the_service_manager_is_told_when_workers_serve_and_not_before(
    project: Path, supervisor: socket.socket
) -> None:
    (project / "wsgi.py").write_text(
        "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.02)\n"
        + TINY_APP.replace('VERSION = "one"', "VERSION = os.environ.get('NOTIFY_SOCKET', 'not handed on')")
    )
    server = BridgeServer({"NOTIFY_SOCKET": supervisor.getsockname(), "WEB_CONCURRENCY": 2}, project=project)
    server.start(wait=False)
    try:
        wait_for(lambda: len(server.worker_pids()) == 2, what="workers that load")
        supervisor.setblocking(False)
        with pytest.raises(BlockingIOError):
            supervisor.recv(1000)
        supervisor.settimeout(15)

        (project / "go").touch()

        assert b"READY=1" in supervisor.recv(1000).splitlines()
        assert server.get("/version").json == {"version": "not handed on"}
        server.hup()
        supervisor.setblocking(False)
        with pytest.raises(BlockingIOError):
            supervisor.recv(1000)
    finally:
        server.close()


def check_config(project: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "wsgi:app"],
        cwd=project,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_check_config_says_nothing_about_good_settings(project: Path) -> None:
    checked = check_config(project)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_check_config_names_the_variable_in_one_line(project: Path) -> None:
    checked = check_config(project, ALLOW_ANONYMOUS="yes")
    assert checked.returncode == 1
    assert (checked.stdout, checked.stderr) == ("", "ALLOW_ANONYMOUS: must be true or false\n")


def test_a_start_with_bad_settings_ends_with_one_json_line(project: Path) -> None:
    server = BridgeServer({"ALLOW_ANONYMOUS": "yes"}, project=project).start(wait=False)
    assert server.wait(limit_s=10) == 1
    server.close()
    [line] = server.log_lines()
    assert line["level"] == "critical" and "ALLOW_ANONYMOUS" in line["message"]


# -- what gunicorn answers by itself ----------------------------------------------------------------

LINE = b"GET /version HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /secret-path\r\n\r\n", 400, "bad_request"),
        (LINE + b"secret header\r\n\r\n", 400, "bad_request"),
        (LINE + b"X-Big: " + b"secret" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (LINE + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"secret" * 2_000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
        (LINE + b"Transfer-Encoding: secret\r\n\r\n", 501, "not_implemented"),
    ],
    ids=["line", "header", "big header", "many headers", "long uri", "coding"],
)
def test_a_request_that_is_not_understood_gets_a_problem(
    shared: BridgeServer, sent: bytes, status: int, code: str
) -> None:
    answer = shared.raw(sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])}
    problem = json.loads(body)

    assert head.split()[1] == str(status).encode()
    assert headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:problem:{code}")
    assert problem["title"] and problem["detail"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", problem["correlationId"])
    assert headers["x-request-id"] == problem["correlationId"]
    assert (headers["connection"], headers["cache-control"]) == ("close", "no-store")
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers and not SOFTWARE.search(answer) and b"secret" not in answer
    assert shared.wait_log("request refused", requestId=problem["correlationId"], status=status)


@pytest.mark.parametrize("path", ["/escapes", "/bad-header"])
def test_an_exception_that_escapes_is_a_problem_and_logged_once(shared: BridgeServer, path: str) -> None:
    request_id = f"caller-{path.strip('/')}"
    answer = shared.get(path, headers={"X-Request-ID": request_id})

    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert answer.json["correlationId"] == answer.headers["x-request-id"] == request_id
    assert b"secret" not in answer.body
    line = shared.wait_log("request failed", requestId=request_id)
    assert line["level"] == "error" and "Traceback" in line["exception"]
    assert len(shared.log_lines(level="error", requestId=request_id)) == 1


def test_a_normal_answer_names_no_software_and_carries_the_request_id(shared: BridgeServer) -> None:
    answer = shared.get("/version", headers={"X-Request-ID": "caller-1234"})
    assert "server" not in answer.headers
    assert answer.headers["x-request-id"] == "caller-1234"
    assert shared.get("/nothing").headers["x-request-id"] != "caller-1234"


# -- logs -------------------------------------------------------------------------------------------


def test_everything_that_is_said_is_one_json_line(server: BridgeServer) -> None:
    server.get("/uncaught?token=secret", headers={"X-Request-ID": "request-1"})
    server.get("/healthz")
    server.hup()
    server.kill_worker()
    server.wait_healthy()
    server.stop()

    lines = server.log_lines()
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
        assert line["message"] and line["logger"]
    [access] = [line for line in lines if line["logger"] == "gunicorn.access"]
    assert (access["path"], access["status"], access["requestId"]) == ("/uncaught", 200, "request-1")
    assert "secret" not in "".join(server.raw_lines())
    assert server.log_lines("printed", logger="stdout", requestId="request-1")
    assert server.log_lines("UserWarning: warned", level="warning")
    assert server.log_lines("carried", requestId="request-1", sessionId="s-1")
    [failed] = server.log_lines("uncaught exception", level="error")
    assert "ZeroDivisionError" in failed["exception"]


def test_a_reader_that_stops_does_not_stop_the_server(project: Path) -> None:
    with BridgeServer(project=project, read_output=False) as server:
        for _ in range(4):
            assert server.get("/log/500/2000").status == 200  # 4 MB, into a pipe of 64 KiB
        assert server.healthy()
        server.hup()
        server.kill_worker()
        server.wait_healthy()
        server.term()
        assert server.wait(limit_s=20) == 0


def test_lines_of_several_workers_do_not_mix(project: Path) -> None:
    with BridgeServer({"WEB_CONCURRENCY": 3}, project=project, read_output=False) as server:
        # All of them fill the pipe, and wait in the middle of a line that is longer than what a pipe takes at once.
        askers = [threading.Thread(target=server.get, args=("/log/6/30000",)) for _ in range(30)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        server.begin_to_read()
        wait_for(lambda: len(server.log_lines("x" * 30_000)) == 180, what="all lines, whole")


def test_a_line_that_is_too_long_is_cut(shared: BridgeServer) -> None:
    shared.get("/log/1/200000", headers={"X-Request-ID": "long-line"})
    line = wait_for(lambda: shared.log_lines(requestId="long-line", cut=True), what="the cut line")[0]
    assert set(line["message"]) == {"x"} and 16_000 < len(line["message"]) < 65_536


# -- with the real application ----------------------------------------------------------------------


def test_the_bridge_starts_reloads_and_stops(tmp_path: Path) -> None:
    with BridgeServer({"WEB_CONCURRENCY": 2}) as server:
        server.hup()
        killed = server.kill_worker()
        wait_for(lambda: len(p := server.worker_pids()) == 2 and killed not in p, what="another second worker")
        server.wait_healthy()
        server.term()
        assert server.wait(limit_s=10) == 0
        assert server.log_lines()


def test_check_config_accepts_the_bridge(tmp_path: Path) -> None:
    checked = check_config(PROJECT, JOURNAL_PATH=str(tmp_path / "journal.db"), ENV_FILE="/dev/null")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_check_config_leaves_no_journal(tmp_path: Path) -> None:
    check_config(PROJECT, JOURNAL_PATH=str(tmp_path / "journal.db"), ENV_FILE="/dev/null")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_master_starts_is_obeyed_when_it_can_be(tmp_path: Path, number: int) -> None:
    server = BridgeServer(project=tiny_project(tmp_path / "project"))
    try:
        server.start(wait=False)
        # The first that it does is to ask a child for its settings.
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        wait_for(lambda: children.read_text() or server.raw_lines(), what="a child of the master")
        server.send_signal(number)

        assert server.wait() == 0
        wait_for(lambda: server.log_lines("Shutting down: Master"), what="the master's last line")
        assert [line["message"] for line in server.log_lines() if line["message"].startswith("bridge ")] == [
            "bridge started",
            "bridge drained",
            "bridge stopped",
        ]
    finally:
        server.close()
