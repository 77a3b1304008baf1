"""A bridge of the drill's own, where none runs: a gunicorn as any other, with a journal that is thrown away."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.drill.bridge import Bridge
from app.drill.patience import DrillError, Patience
from app.settings import Settings, split_bind

START_S = 60.0
END_S = 15.0
LOG_LINES = 12

_PROJECT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@contextmanager
def own_bridge(settings: Settings, patience: Patience, *, log: list[str]) -> Iterator[Bridge]:
    """Start one with these settings, and end it whatever happens.

    With n8n it listens on ``BIND``, for that is where n8n's error workflow reports to; without, on any free port.

    :param log: gets the end of what it had to complain of.
    :raises DrillError: it does not come up.
    """
    bind = settings.bind if settings.n8n_connected else f"127.0.0.1:{_free_port()}"
    _check_free(bind)
    access = settings.access_token[0] if settings.access_token else None
    bridge = Bridge(settings.local_url if settings.n8n_connected else f"http://{bind}", access)
    with tempfile.TemporaryDirectory(prefix="bridge-drill-") as folder:
        output = Path(folder) / "log"
        child = _start(folder, output, bind)
        try:
            patience.wait(
                lambda: True if child.poll() is not None or bridge.ready() else None,
                instead=lambda: "The bridge that the drill started is not ready.",
                limit_s=START_S,
            )
            if child.poll() is not None:
                raise DrillError(f"The bridge that the drill started ended at once, with exit code {child.returncode}.")
            yield bridge
        finally:
            _end(child)
            log += _complaints(output)


def _start(folder: str, output: Path, bind: str) -> subprocess.Popen[bytes]:
    environ = {name: text for name, text in os.environ.items() if name.lower() != "prometheus_multiproc_dir"}
    environ |= {"BIND": bind, "JOURNAL_PATH": str(Path(folder) / "journal.db"), "REDIS_URL": "off"}
    if environ.get("ENV_FILE"):
        environ["ENV_FILE"] = str(Path(environ["ENV_FILE"]).absolute())
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
            cwd=_PROJECT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is for the drill, which ends it last
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """In the child: be told to end when the drill is gone."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
    # Its group is its own: whatever it has left behind goes too.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _complaints(output: Path) -> list[str]:
    """The last log lines that are no good news."""
    found = []
    for line in output.read_text(errors="replace").splitlines():
        try:
            level = json.loads(line).get("level")
        except (ValueError, AttributeError):
            level = None
        if level not in ("debug", "info"):
            found.append(line)
    return found[-LOG_LINES:]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _check_free(bind: str) -> None:
    """:raises DrillError: something that is no bridge listens there."""
    host, port = split_bind(bind)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as exc:
        raise DrillError(
            f"No bridge answers at {bind} (BIND), and none can be started there ({exc.strerror}): end what listens "
            "there, or set BIND and N8N_CALLBACK_URL to where the bridge is to be."
        ) from exc
