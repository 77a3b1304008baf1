"""A real n8n on this machine's loopback: installed from npm, started, and connected to the bridge by ``.env``.

``python -m dev.local_n8n up`` (that is ``make n8n``), ``down``, ``status``, ``install``. Everything is kept under
``var/n8n/``. The versions are pinned in ``dev/n8n/``; n8n's telemetry and its calls home are off.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import urllib3
from dotenv.parser import parse_stream

from app import settings as bridge_settings
from app.errors import BaseError
from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dev" / "n8n"
FOLDER = ROOT / "var" / "n8n"
APP = FOLDER / "app"
"""Where npm installs to; shared by all n8n of this project, whatever their folder."""
PORT = 5678
NODE_MAJOR = 24
SCOPES = (
    *(f"workflow:{verb}" for verb in ("create", "read", "update", "delete", "list", "activate", "deactivate")),
    *(f"execution:{verb}" for verb in ("read", "list", "retry", "stop")),
    *(f"credential:{verb}" for verb in ("create", "list")),
)
"""What the bridge's API key may do."""

INSTALL_S = 1800.0
BUILD_S = 1200.0
START_S = 240.0
"""The first start makes the database, and a machine may be busy."""
STOP_S = 40.0
"""n8n gives running workflows 30 s."""
LEFT_OVER_S = 5.0

_HOST = "127.0.0.1"
_LABEL = "self-healing bridge"
_INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "NODE_EXTRA_CA_CERTS")
_FIXED_ENV = {
    "N8N_HOST": _HOST,
    "N8N_LISTEN_ADDRESS": _HOST,
    "N8N_PROTOCOL": "http",
    "N8N_SECURE_COOKIE": "false",  # plain HTTP on loopback
    "N8N_RUNNERS_BROKER_LISTEN_ADDRESS": _HOST,
    "N8N_PYTHON_ENABLED": "false",  # its runner is not part of the npm package
    # Nothing is sent to or asked of anybody; the module mcp-registry asks api.n8n.io at every start.
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_DIAGNOSTICS_CONFIG_FRONTEND": "",
    "N8N_DIAGNOSTICS_CONFIG_BACKEND": "",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED": "false",
    "N8N_DYNAMIC_BANNERS_ENABLED": "false",
    "N8N_HIRING_BANNER_ENABLED": "false",
    "N8N_PERSONALIZATION_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
    "N8N_UNVERIFIED_PACKAGES_ENABLED": "false",
    "N8N_LICENSE_AUTO_RENEW_ENABLED": "false",
    "N8N_PUBLIC_API_SWAGGERUI_DISABLED": "true",
    "N8N_DISABLED_MODULES": "mcp-registry,community-packages",
}

Say = Callable[[str], object]


class LocalN8nError(Exception):
    """It cannot be done; the text says why and what to do, for people."""


# -- n8n's program


def installed(app: Path = APP) -> bool:
    """Whether ``app`` holds what ``dev/n8n`` pins."""
    with contextlib.suppress(FileNotFoundError):
        return (app / ".installed").read_text() == _pinned()
    return False


def install(app: Path = APP, *, say: Say = click.echo) -> None:
    """Install the pinned n8n and Node.js from npm, and build n8n's SQLite driver. Nothing happens where that is done.

    Install scripts are not run: n8n needs none of them but the driver's, which would download a binary.

    :raises LocalN8nError: a tool is missing, npm or the build failed.
    """
    app.mkdir(parents=True, exist_ok=True)
    with _locked(app / ".lock"):
        if installed(app):
            return
        npm = _needed("npm", say_so="Node.js with npm is needed (on Debian: apt-get install npm).")
        for tools in (("make",), ("g++", "clang++", "c++")):
            _needed(*tools, say_so="make and a C++ compiler are needed (on Debian: apt-get install build-essential).")
        log = app / "install.log"
        (app / ".installed").unlink(missing_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PACKAGE / name, app / name)
        version = json.loads((PACKAGE / "package.json").read_text())["dependencies"]["n8n"]
        say(f"installing n8n {version} into {_short(app)}: some 3 GB and some minutes, once; log: {_short(log)}")
        npm_ci = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        _run(npm_ci, cwd=app, log=log, timeout_s=INSTALL_S)
        node = node_binary(app)
        say("building n8n's SQLite driver")
        _build_sqlite(app, node, log)
        (app / ".installed").write_text(_pinned())


def node_binary(app: Path = APP) -> Path:
    """The Node.js that n8n runs on: npm's, or the machine's where npm has none for it."""
    for binary in sorted((app / "node_modules").glob("node-*/bin/node")):
        return binary
    found = shutil.which("node")
    if found:
        asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=30)
        major = re.match(r"v(\d+)\.", asked.stdout)
        if major and int(major[1]) >= NODE_MAJOR:
            return Path(found).resolve()
    raise LocalN8nError(f"Node.js {NODE_MAJOR} or newer is needed, and npm has none for this kind of machine.")


def _build_sqlite(app: Path, node: Path, log: Path) -> None:
    """Compile ``sqlite3`` from the sources in its package, with the headers that came with ``node``."""
    modules = app / "node_modules"
    headers = node.parent.parent
    gyp = str(modules / "node-gyp" / "bin" / "node-gyp.js")
    argv = [str(node), gyp, "rebuild", "--release", "--jobs=2", f"--python={sys.executable}"]
    if (headers / "include" / "node" / "node_api.h").exists():
        argv.append(f"--nodedir={headers}")
    _run(argv, cwd=modules / "sqlite3", log=log, timeout_s=BUILD_S)
    check = "const s = require('sqlite3'); new s.Database(':memory:').get('select 1', (e) => process.exit(e ? 1 : 0))"
    _run([str(node), "-e", check], cwd=app, log=log, timeout_s=60)


def _needed(*names: str, say_so: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise LocalN8nError(say_so)


def _run(argv: list[str], *, cwd: Path, log: Path, timeout_s: float) -> None:
    """Run it to its end at low priority, with its output in ``log``; it and its children are ended with us."""
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(argv)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            ["nice", "-n", "10", *argv],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = f"none within {timeout_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        what = " ".join(Path(part).name if part.startswith("/") else part for part in argv[:3])
        raise LocalN8nError(f"`{what}` failed (exit code {code}); the end of {_short(log)}:\n{_tail(log)}")


def _pinned() -> str:
    pinned = hashlib.sha256()
    for name in ("package.json", "package-lock.json"):
        pinned.update((PACKAGE / name).read_bytes())
    return pinned.hexdigest()


# -- one n8n


@dataclass(frozen=True, slots=True)
class Owner:
    """What is known of an n8n's data and only here; kept in ``owner.json``, readable by its owner alone."""

    port: int
    email: str = "owner@example.com"
    password: str = ""
    api_key: str = ""


class LocalN8n:
    """An n8n with its own data, account and API key in ``folder``.

    Usable from one process after the other: who runs is told by the pid file. ``folder`` and what is in it can be
    deleted when n8n is stopped.

    :param port: ``None``: the one that it had before, else 5678 where free, else any. 0: the one before, else any.
    :param app: where n8n's program is installed.
    :param env: added to n8n's environment.
    """

    def __init__(
        self, folder: Path = FOLDER, port: int | None = None, *, app: Path = APP, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.app = app.absolute()
        self.log = self.folder / "n8n.log"
        self._env = dict(env or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._pid_file = self.folder / "n8n.pid"
        self._owner_file = self.folder / "owner.json"
        known = self._read_owner()
        self._owner = known or Owner(PORT if port is None and _is_free(PORT) else port or _free_port())
        if port:
            self._owner = replace(self._owner, port=port)

    @property
    def port(self) -> int:
        return self._owner.port

    @property
    def url(self) -> str:
        """For ``N8N_API_URL``: the address before ``/api/v1``."""
        return f"http://{_HOST}:{self.port}"

    @property
    def editor_url(self) -> str:
        """For ``N8N_EDITOR_URL``."""
        return self.url

    @property
    def api_key(self) -> str:
        """With :data:`SCOPES`; empty before the first start."""
        return self._owner.api_key

    @property
    def owner(self) -> Owner:
        """For logging in to the editor."""
        return self._owner

    @property
    def pid(self) -> int | None:
        """``None``: it does not run."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text())
            return pid if self._is_ours(pid) else None
        return None

    def install(self, *, say: Say = click.echo) -> None:
        """See :func:`install`."""
        install(self.app, say=say)

    def start(self) -> None:
        """Start it where it does not run, wait until it is ready, and see that account and key are there.

        :raises LocalN8nError: not installed, port taken, or n8n does not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # n8n's database is in there
        with _locked(self.folder / ".lock"):
            known = self._read_owner()
            if known and known.port != self.port and self.pid is not None:
                raise LocalN8nError(f"n8n runs already, on port {known.port}: stop it first.")
            self._owner = replace(known or self._owner, port=self.port)
            if self.pid is None:
                self._spawn()
            self._wait_ready()
            self._ensure_account()

    def stop(self) -> None:
        """End it as n8n wishes to be ended; by force after ``STOP_S``. Nothing happens where it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its children at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _spawn(self) -> None:
        if not installed(self.app):
            raise LocalN8nError("n8n is not installed: run `python -m dev.local_n8n install`.")
        if not _is_free(self.port):
            raise LocalN8nError(f"Port {self.port} is taken by another program: end that, or choose one with --port.")
        self._save_owner()
        node = node_binary(self.app)
        environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environ |= _FIXED_ENV
        environ |= {
            "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "N8N_USER_FOLDER": str(self.folder),
            "N8N_PORT": str(self.port),
            "N8N_EDITOR_BASE_URL": self.editor_url,
            "N8N_WEBHOOK_URL": self.url,
            "N8N_RUNNERS_BROKER_PORT": str(_free_port()),
        }
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(node), str(self.app / "node_modules" / "n8n" / "bin" / "n8n"), "start"],
                cwd=self.folder,
                env=environ | self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._pid_file.write_text(f"{self._child.pid}\n")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while self.pid is not None:
            with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError):
                # It says "ok" for its port before it is ready; and ready before it has loaded its pages and API.
                if _ask(self.url, "GET", "/healthz/readiness").status == 200:
                    answer = _ask(self.url, "GET", "/rest/settings")
                    if answer.status == 200 and "data" in answer.json():
                        return
            if time.monotonic() >= deadline:
                self._end(signal.SIGTERM)
                raise LocalN8nError(f"n8n was not ready within {START_S:.0f} s; the end of its log:\n{_tail(self.log)}")
            time.sleep(0.2)
        raise LocalN8nError(f"n8n ended instead of starting; the end of its log:\n{_tail(self.log)}")

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            # Its group is its own (a new session): its task runner is in there too.
            for sign, patience_s in ((how, STOP_S), (signal.SIGKILL, LEFT_OVER_S)):
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if sign == signal.SIGKILL else os.kill)(pid, sign)
                if self._wait_gone(pid, patience_s):
                    break
        if self.pid is not None:
            raise LocalN8nError(f"n8n (process {pid}) does not end.")
        self._pid_file.unlink(missing_ok=True)

    def _wait_gone(self, group: int, patience_s: float) -> bool:
        """Wait for all of its processes; where n8n itself has ended, for the others at most ``LEFT_OVER_S``."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self.pid is None:
                deadline = min(deadline, time.monotonic() + LEFT_OVER_S)
            try:
                os.killpg(group, 0)
            except OSError:
                return True
            time.sleep(0.02)
        return False

    def _is_ours(self, pid: int) -> bool:
        """Whether the process is the one that :meth:`_spawn` started: numbers are used again."""
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            if Path("/proc/self").exists():
                return False
            # Without /proc (macOS) its command has to do.
            asked = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
            return str(self.app / "node_modules" / "n8n" / "bin" / "n8n").encode() in asked.stdout
        return f"N8N_USER_FOLDER={self.folder}".encode() in environ

    # -- its account

    def _ensure_account(self) -> None:
        key = self._owner.api_key
        if key and _ask(self.url, "GET", "/api/v1/workflows?limit=1", key).status == 200:
            return
        if not self._owner.password:
            # Saved before n8n has it, so that it is never known to n8n alone.
            self._owner = replace(self._owner, password=f"{secrets.token_urlsafe(24)}-A1")
            self._save_owner()
        self._owner = replace(self._owner, api_key=_Account(self.url, self._owner).new_key())
        self._save_owner()

    def _read_owner(self) -> Owner | None:
        try:
            return Owner(**json.loads(self._owner_file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as exc:
            raise LocalN8nError(f"{_short(self._owner_file)} is not as it was written; delete it.") from exc

    def _save_owner(self) -> None:
        _write_private(self._owner_file, json.dumps(asdict(self._owner), indent=2) + "\n")


class _Account:
    """A login to n8n's own REST API, which its editor uses."""

    def __init__(self, url: str, owner: Owner) -> None:
        self._url = url
        self._owner = owner
        self._cookie = ""

    def new_key(self) -> str:
        """Set the owner up or log in, and make an API key in the place of ours."""
        owner = self._owner
        first = self._call("GET", "/settings")["userManagement"]["showSetupOnFirstLoad"]
        if first:
            person = {"email": owner.email, "firstName": "Local", "lastName": "Owner", "password": owner.password}
            self._call("POST", "/owner/setup", person)
        else:
            self._call("POST", "/login", {"emailOrLdapLoginId": owner.email, "password": owner.password})
        for key in self._call("GET", "/api-keys")["items"]:
            if key["label"] == _LABEL:
                self._call("DELETE", f"/api-keys/{key['id']}")
        known = self._call("GET", "/api-keys/scopes")
        wanted = {"label": _LABEL, "scopes": [scope for scope in SCOPES if scope in known], "expiresAt": None}
        return str(self._call("POST", "/api-keys", wanted)["rawApiKey"])

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = _ask(self._url, method, f"/rest{path}", body=body, cookie=self._cookie)
        except urllib3.exceptions.HTTPError as exc:
            raise LocalN8nError(f"n8n does not answer {method} /rest{path}; its log may say why.") from exc
        if answer.status == 401:
            raise LocalN8nError("n8n's owner has another password than owner.json says: correct it there.")
        if answer.status != 200:
            raise LocalN8nError(f"n8n answered {answer.status} to {method} /rest{path}; its log may say why.")
        cookie = answer.headers.get("Set-Cookie")
        if cookie:
            self._cookie = cookie.partition(";")[0]
        return answer.json()["data"]


def _ask(
    url: str, method: str, path: str, api_key: str = "", *, body: Mapping[str, Any] | None = None, cookie: str = ""
) -> urllib3.BaseHTTPResponse:
    headers = {"X-N8N-API-KEY": api_key} if api_key else {"browser-id": "local", "Cookie": cookie}
    return urllib3.request(method, url + path, json=body, headers=headers, timeout=20, retries=False)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


# -- files


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Set these in an ``.env`` file, each in its place where it is there, else at the end; all else stays as it is."""
    old = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
    new, given = "", set()
    for binding in parse_stream(io.StringIO(old, newline="")):
        text = binding.original.string
        value = values.get(binding.key or "")
        if value is not None:
            given.add(binding.key)
            if binding.value != value:
                # Blank lines before it belong to its text.
                before, ending = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
                text = f"{before}{binding.key}={value}{ending}"
        new += text
    if new and not new.endswith("\n"):
        new += "\n"
    new += "".join(f"{name}={value}\n" for name, value in values.items() if name not in given)
    if new != old:
        _write_private(path, new)
    path.chmod(0o600)


def _write_private(path: Path, text: str) -> None:
    """Replace the file as a whole; only its owner may read it."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# -- commands


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("install")
def install_command() -> None:
    """Install n8n, and start nothing."""
    with _told():
        install()


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help=f"Default: the one it had before, or {PORT} where free.")
def up(port: int | None) -> None:
    """Install n8n where needed, start it, and connect the bridge to it by .env. Doing it twice changes nothing."""
    with _told():
        env_file = Path(os.environ.get("ENV_FILE") or ROOT / ".env")
        before, n8n = LocalN8n(), LocalN8n(port=port)
        settings = _settings(env_file)
        if settings.n8n_api_url not in (None, before.url, n8n.url):
            raise LocalN8nError(
                f"The bridge is set up for another n8n ({settings.n8n_api_url}): take N8N_API_URL, N8N_API_KEY and "
                f"N8N_EDITOR_URL out of {_short(env_file)} or the environment to use the local one."
            )
        if not installed():
            n8n.stop()  # another version's program is about to be replaced
            n8n.install()
        n8n.start()
        values = {"N8N_API_URL": n8n.url, "N8N_API_KEY": n8n.api_key, "N8N_EDITOR_URL": n8n.editor_url}
        if not settings.n8n_callback_secret:
            values["N8N_CALLBACK_SECRET"] = secrets.token_urlsafe(32)
        write_env(env_file, values)
        settings = _settings(env_file)
        if (settings.n8n_api_url, settings.n8n_api_key) != (n8n.url, n8n.api_key):
            raise LocalN8nError("N8N_API_URL or N8N_API_KEY in the environment wins over .env: unset them.")
        done = error_workflow.install(
            N8nClient(n8n.url, n8n.api_key),
            callback_url=settings.n8n_callback_url,
            secret=settings.n8n_callback_secret[0],
        )
        click.echo(f"n8n runs at {n8n.url} (process {n8n.pid}, log {_short(n8n.log)})")
        click.echo(f"log in as {n8n.owner.email}, with the password in {_short(n8n.folder / 'owner.json')}")
        click.echo(f"error workflow {done.workflow_id}: {done.outcome}; it reports to {settings.n8n_callback_url}")
        click.echo(f"{_short(env_file)} connects the bridge to it")


@main.command()
def down() -> None:
    """Stop n8n; its data stays."""
    with _told():
        n8n = LocalN8n()
        click.echo("n8n did not run" if n8n.pid is None else f"stopping n8n (process {n8n.pid})")
        n8n.stop()


@main.command()
def status() -> None:
    """Say how it is; exit code 1 where it does not run."""
    with _told():
        n8n = LocalN8n()
        if n8n.pid is None:
            click.echo("n8n is installed and does not run" if installed() else "n8n is not installed")
            sys.exit(1)
        click.echo(f"n8n runs at {n8n.url} (process {n8n.pid})")
        state = error_workflow.state(N8nClient(n8n.url, n8n.api_key))
        click.echo(state.problem or f"error workflow {state.workflow_id} reports to {state.callback_url}")


def _settings(env_file: Path) -> Settings:
    return bridge_settings.load(env_file=env_file if env_file.exists() else os.devnull)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors that are meant for people, as one message."""
    try:
        yield
    except LocalN8nError as exc:
        raise click.ClickException(str(exc)) from exc
    except BaseError as exc:
        raise click.ClickException(exc.detail) from exc


if __name__ == "__main__":
    main(prog_name="python -m dev.local_n8n")
