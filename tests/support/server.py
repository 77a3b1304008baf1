"""A real gunicorn on a free port, as an operator starts it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support.ports import free_port
from tests.support.projects import PROJECT, compile_project

T = TypeVar("T")
START_LIMIT_S = 30.0
GONE_LIMIT_S = 3.0
UNLIMITED = {
    **{f"RATE_LIMIT_{name}_PER_MINUTE": 0 for name in ("WS", "CALLBACKS", "MESSAGES", "HEALTH", "AUTH_FAILURES")},
    "HEAL_REPAIRS_PER_WORKFLOW_PER_DAY": 0,
    "HEAL_REPAIRS_PER_HOUR": 0,
}
"""Settings for tests that do more in a minute than people do in a day."""
_MARK = "BRIDGE_TEST_SERVER"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def wait_for(condition: Callable[[], T], *, limit_s: float = 30.0, what: str = "") -> T:
    """Ask every 20 ms until the answer is true; gives it.

    :raises AssertionError: not within ``limit_s``.
    """
    deadline = time.monotonic() + limit_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what or condition}")
        time.sleep(0.02)
    return answer


class BridgeServer:
    """gunicorn with a clean environment; use it as a context manager, or call ``start`` and ``stop``.

    :param settings: environment variables; ``BIND``, ``ENV_FILE`` and ``JOURNAL_PATH`` are given unless named here.
        ``None`` leaves one out.
    :param project: folder to run in; this project where it is left out. It is not written to.
    :param config: path of gunicorn's configuration, as it is given to it.
    :param env_file: text of the ``.env`` file; ``write_env`` changes it. Where neither names a number of workers it is
        one, so that no test depends on the machine's cores.
    :param read_output: ``False`` leaves stdout and stderr unread, in a full pipe, until ``begin_to_read``.
    :ivar folder: a temporary folder of its own with ``.env`` and the journal; kept over a ``stop`` and a new ``start``.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        project: Path = PROJECT,
        config: Path | str = "gunicorn.conf.py",
        env_file: str = "",
        read_output: bool = True,
    ) -> None:
        if project == PROJECT:
            compile_project()
        self.port = free_port()
        self.project = project
        self._config = str(config)
        self._temporary = tempfile.TemporaryDirectory(prefix="bridge-test-")
        self.folder = Path(self._temporary.name)
        self.write_env(env_file)
        self._mark = uuid.uuid4().hex
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BIND": f"127.0.0.1:{self.port}",
            "ENV_FILE": str(self.folder / ".env"),
            "JOURNAL_PATH": str(self.folder / "journal.db"),
            _MARK: self._mark,
            **(settings or {}),
        }
        self._environment = {name: str(value) for name, value in environment.items() if value is not None}
        self._read_output = read_output
        self._output: list[str] = []
        self._parsed: list[dict[str, Any]] = []
        self._parsing = threading.Lock()
        self._reader: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None

    # -- life

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with ``wait`` until ``GET /healthz`` answers 200."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", self._config, "wsgi:app"],
            cwd=self.project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if self._read_output:
            self.begin_to_read()
        if wait:
            try:
                self.wait_healthy(limit_s=START_LIMIT_S)
            except BaseException:
                self.stop(check=False)
                raise
        return self

    def stop(self, *, check: bool = True, limit_s: float = 40.0) -> int:
        """End it by SIGTERM (SIGKILL after ``limit_s``); gives the exit code.

        :raises AssertionError: with ``check``, where it did not end by itself, or left a process behind.
        """
        code, killed = self._ended_code(), False
        if self._process is not None and code is None:
            self.term()
            try:
                code = self.wait(limit_s=limit_s)
            except AssertionError:
                killed = True
        left: list[int] = []

        def gone() -> bool:
            left[:] = self.processes()
            return not left

        with contextlib.suppress(AssertionError):
            # Those that were killed at the end of their grace may take a moment to go.
            wait_for(gone, limit_s=GONE_LIMIT_S)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            code = self._process.wait()
            if self._reader:
                self._reader.join(5)
            if self._process.stdout:
                self._process.stdout.close()
            self._process = None
        if check:
            assert not killed, f"did not end within {limit_s:g} s of SIGTERM\n{self.tail()}"
            assert not left, f"left {len(left)} process(es) behind\n{self.tail()}"
        return code if code is not None else 0

    def close(self) -> None:
        """Stop it and remove its folder."""
        try:
            self.stop()
        finally:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- signals

    @property
    def pid(self) -> int:
        """Of gunicorn's master."""
        assert self._process is not None, "not started"
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def term(self) -> None:
        self.send_signal(signal.SIGTERM)

    def hup(self, *, wait: bool = True, limit_s: float = 40.0) -> None:
        """Reload; with ``wait`` until all old workers are gone and a new one answers."""
        old = set(self.worker_pids())
        self.send_signal(signal.SIGHUP)
        if wait:
            wait_for(
                lambda: (now := set(self.worker_pids())) and not now & old, limit_s=limit_s, what="only new workers"
            )
            self.wait_healthy()

    def kill_worker(self, number: int = signal.SIGKILL) -> int:
        """Send a signal to one worker; gives its pid."""
        pid = self.worker_pids()[0]
        os.kill(pid, number)
        return pid

    def wait(self, *, limit_s: float = 40.0) -> int:
        """Wait for the master's end; gives its exit code."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s:g} s\n{self.tail()}") from None

    def worker_pids(self) -> list[int]:
        """Of the workers that are alive, oldest first."""
        own = _command_line(self.pid)
        return sorted(pid for pid in _children(self.pid) if _command_line(pid) == own)

    def processes(self) -> list[int]:
        """All that it has started and that still live, by their session or by what is in their environment."""
        session = self._process.pid if self._process else -1
        return [pid for pid in _all_pids() if _session(pid) == session or self._is_marked(pid)]

    def _is_marked(self, pid: int) -> bool:
        return self._mark.encode() in _content(f"/proc/{pid}/environ")

    def _ended_code(self) -> int | None:
        return self._process.poll() if self._process else 0

    # -- requests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        limit_s: float = 30.0,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit_s)
        sent = {"Connection": "close", **(headers or {})}
        if json is not None:
            body, sent = _dumps(json), {"Content-Type": "application/json", **sent}
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.request("POST", path, **options)

    def raw(self, sent: bytes, *, limit_s: float = 5.0) -> bytes:
        """Send bytes as they are; gives all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=limit_s) as connection:
            connection.sendall(sent)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    def healthy(self) -> bool:
        try:
            return self.get("/healthz", limit_s=2).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_healthy(self, *, limit_s: float = 30.0) -> None:
        def answer() -> bool:
            if self._ended_code() is not None:
                raise AssertionError(f"ended with {self._ended_code()} before it answered\n{self.tail()}")
            return self.healthy()

        wait_for(answer, limit_s=limit_s, what=f"GET {self.url}/healthz to be 200\n{self.tail()}")

    # -- settings and logs

    def write_env(self, text: str) -> None:
        """Replace the ``.env`` file; ``hup`` brings it in."""
        (self.folder / ".env").write_text(text if "WEB_CONCURRENCY=" in text else f"WEB_CONCURRENCY=1\n{text}")

    def set_environment(self, **settings: Any) -> None:
        """Change the environment of the next ``start``."""
        self._environment.update({name: str(value) for name, value in settings.items()})

    def raw_lines(self) -> list[str]:
        """What came on stdout and stderr so far, of all starts."""
        return list(self._output)

    def log_lines(self, message: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The log so far; only lines with this message and these fields, where given.

        :raises AssertionError: a line is not one JSON object.
        """
        with self._parsing:
            # Who waits for a line asks again and again, so each is read once.
            for text in self._output[len(self._parsed) :]:
                try:
                    line = json.loads(text)
                except ValueError:
                    raise AssertionError(f"not a JSON line: {text[:500]!r}") from None
                assert isinstance(line, dict), f"not a JSON object: {text[:500]!r}"
                self._parsed.append(line)
        wanted = {**({} if message is None else {"message": message}), **fields}.items()
        return [dict(line) for line in self._parsed if all(k in line and line[k] == v for k, v in wanted)]

    def wait_log(self, message: str, *, limit_s: float = 30.0, **fields: Any) -> dict[str, Any]:
        """The first log line with this message and these fields, as soon as it is there."""
        return (
            wait_for(
                lambda: next(iter(self.log_lines(message, **fields)), None),
                limit_s=limit_s,
                what=f"log line {message!r}",
            )
            or {}
        )

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self._output[-lines:])

    def begin_to_read(self) -> None:
        """Take what comes on stdout and stderr, in a thread."""
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):
            self._output.extend(line.rstrip("\n") for line in process.stdout)


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def _all_pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[bytes]:
    """Fields of ``/proc/<pid>/stat`` after the name: state, parent, group, session …; empty where it is gone."""
    return _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _session(pid: int) -> int:
    """The process's session; -2 for one that has ended (a zombie, too)."""
    fields = _stat(pid)
    return int(fields[3]) if fields and fields[0] not in b"ZX" else -2


def _children(pid: int) -> list[int]:
    """Those of its first thread, without zombies."""
    # Two looks: one may miss a child whose neighbour in the list is reaped just then.
    looks = [_content(f"/proc/{pid}/task/{pid}/children") for _ in range(2)]
    found = {int(child) for look in looks for child in look.split()}
    return [child for child in found if (fields := _stat(child)) and fields[0] not in b"ZX"]


def _command_line(pid: int) -> bytes:
    return _content(f"/proc/{pid}/cmdline")


def _content(path: str) -> bytes:
    """Of a file of ``/proc``; empty where its process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
