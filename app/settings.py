"""The settings: the only reader of the environment and of ``.env``; a wrong value names itself.

``TABLE`` has one row per setting (name, form, default, doc) and is what documentation is made from. ``load`` turns the
environment into a frozen :class:`Settings`. ``python -m app.settings`` prints, as one JSON line, what gunicorn's master
needs; it imports neither Flask nor gevent, for it runs at every start and every HUP.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

from app.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 - recognised here, never chosen
GIB = 1024**3
_SECRET_SUFFIXES = ("_SECRET", "_TOKEN", "_KEY")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Form:
    """How a setting is written.

    :ivar accepts: completes the sentence "NAME must be …".
    :ivar parse: text (stripped, not empty) → value; raises ``ValueError`` for anything else.
    """

    accepts: str
    parse: Callable[[str], Any]


def _whole(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Form(f"a whole number from {low} to {high}", parse)


def _number(low: float, high: float) -> Form:
    """A whole number stays an ``int``, so that it is also written as one."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
            raise ValueError
        value = float(text) if "." in text else int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Form(f"a number from {low:g} to {high:g}", parse)


def _choice(*words: str) -> Form:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Form(f"one of {', '.join(words)}", parse)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


def _secret(text: str) -> str:
    if not _VISIBLE.fullmatch(text) or "," in text:
        raise ValueError
    return text


def _secrets(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_secret(part.strip()) for part in text.split(",")))


def _path(text: str) -> Path:
    path = Path(_text(text))
    if path.is_dir():
        raise ValueError
    return path


def _host(text: str) -> str:
    """A name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return f"[{ipaddress.IPv6Address(text[1:-1])}]"
    if not _HOST.fullmatch(text):
        raise ValueError
    return text.lower()


def _bind(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError
    return f"{_host(host)}:{_whole(1, 65535).parse(port)}"


def _origin(text: str) -> str:
    """``scheme://host[:port]`` as browsers write it: lower case, the scheme's own port left out."""
    url = urlsplit(text)
    host, port = url.hostname or "", url.port
    if url.scheme not in ("http", "https") or url.username is not None or not _VISIBLE.fullmatch(text):
        raise ValueError
    shown = _host(f"[{host}]" if ":" in host else host)
    own_port = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{shown}" + (f":{port}" if port is not None and port != own_port else "")


def _bare_origin(text: str) -> str:
    url = urlsplit(text)
    if url.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError
    return _origin(text)


def _origins(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_bare_origin(part.strip()) for part in text.split(",")))


def _url(text: str) -> str:
    """http(s), a host, perhaps a path; no user, query or fragment; no trailing slash."""
    if "?" in text or "#" in text:
        raise ValueError
    return _origin(text) + urlsplit(text).path.rstrip("/")


def _n8n_url(text: str) -> str:
    url = _url(text)
    if url.endswith("/api/v1"):
        raise ValueError
    return url


def _hook_url(text: str) -> str:
    """As ``_url``, but a query may be there and the path is kept as it is: webhook addresses have them."""
    _origin(text)
    if "#" in text:
        raise ValueError
    return text


def _dead_letter_url(text: str) -> str:
    if not re.fullmatch(
        r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\x21-\x7e]*)?|dynamodb://[A-Za-z0-9_.-]{3,255}", text
    ):
        raise ValueError
    return text.rstrip("/")


FLAG = Form("true or false", _flag)
TEXT = Form("printable text", _text)
PATH = Form("the path of a file, not of a folder", _path)
SECRET = Form("one value of visible ASCII characters, without spaces and commas", _secret)
SECRETS = Form("one or more values of visible ASCII characters without spaces, separated by commas", _secrets)
BIND = Form("HOST:PORT, as 127.0.0.1:3000 or [::1]:3000, with a port from 1 to 65535", _bind)
ORIGINS = Form("origins such as https://bridge.example.com, separated by commas", _origins)
URL = Form("an http:// or https:// address with a host, without user, query and fragment", _url)
N8N_URL = Form("an http:// or https:// address with a host, as it is before /api/v1", _n8n_url)
HOOK_URL = Form("an http:// or https:// address with a host, without user and fragment", _hook_url)
DEAD_LETTERS = Form("s3://BUCKET/PREFIX or dynamodb://TABLE", _dead_letter_url)
SECONDS = _number(0.05, 86_400)
PER_MINUTE = _whole(0, 1_000_000)


def machine_turns() -> int:
    """Turns that this machine can carry at once: by cores and memory, what a container is allowed included."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpu_max = _first_line("/sys/fs/cgroup/cpu.max").split()
    if len(cpu_max) == 2 and cpu_max[0].isdigit():
        cores = min(cores, math.ceil(int(cpu_max[0]) / int(cpu_max[1])))
    memory_max = _first_line("/sys/fs/cgroup/memory.max")
    if memory_max.isdigit():
        memory = min(memory, int(memory_max))
    return max(2, min(8, int(2 * cores), memory // GIB))


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    :ivar default: the value where it is unset; a callable is asked for it with what was parsed so far (the rows above).
    :ivar default_text: the default as documentation shows it; empty where ``default`` says it.
    :ivar doc: one line: effect and unit.
    """

    name: str
    form: Form
    default: Any
    doc: str
    default_text: str = ""

    @property
    def field(self) -> str:
        return self.name.lower()

    @property
    def secret(self) -> bool:
        """Whether it is kept out of texts, and may be given as ``NAME_FILE``."""
        return self.name.endswith(_SECRET_SUFFIXES)


def split_bind(bind: str) -> tuple[str, int]:
    """``"[::1]:3000"`` → ``("[::1]", 3000)``; of a checked ``BIND``."""
    host, _, port = bind.rpartition(":")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a ``BIND`` host (IPv6 in brackets) is a loopback name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _default_public_url(known: Mapping[str, Any]) -> str:
    host, port = split_bind(known["bind"])
    return _origin(f"http://{'localhost' if host in WILDCARDS else host}:{port}")


def _default_origins(known: Mapping[str, Any]) -> tuple[str, ...]:
    host, port = split_bind(known["bind"])
    near = [f"http://{name}:{port}" for name in LOOPBACK_NAMES] if is_loopback(host) or host in WILDCARDS else []
    return tuple(dict.fromkeys(_origin(url) for url in [known["public_url"], *near]))


TABLE: tuple[Setting, ...] = (
    Setting("BIND", BIND, "127.0.0.1:3000", "Address that is listened on."),
    Setting("WEB_CONCURRENCY", _whole(1, 64), 1, "gunicorn workers."),
    Setting("JOURNAL_PATH", PATH, Path("var/journal.db"), "The journal's SQLite file, on a local disk."),
    Setting("REDIS_URL", TEXT, None, "Journal for several machines; not supported by this version."),
    Setting("PUBLIC_URL", URL, _default_public_url, "How people reach the bridge.", "http://BIND"),
    Setting("N8N_CALLBACK_URL", URL, lambda known: known["public_url"], "How n8n reaches the bridge.", "PUBLIC_URL"),
    Setting("ACCESS_TOKEN", SECRETS, (), "Opens new sessions and everything of an operator's; several for rotation."),
    Setting("METRICS_TOKEN", SECRETS, (), "Opens /metrics to others than loopback; several for rotation."),
    Setting("N8N_CALLBACK_SECRET", SECRETS, (), "What n8n's callback presents; several for rotation."),
    Setting("ALLOW_ANONYMOUS", FLAG, False, "Lets anybody in where ACCESS_TOKEN is unset."),
    Setting(
        "ALLOWED_ORIGINS",
        ORIGINS,
        _default_origins,
        "Pages of these origins may use the socket and the API.",
        "the origin of PUBLIC_URL; with a loopback or wildcard BIND also localhost, 127.0.0.1 and [::1] on its port",
    ),
    Setting("TRUSTED_PROXY_HOPS", _whole(0, 10), 0, "Own proxies in front: the n-th X-Forwarded-For from the right."),
    Setting("N8N_API_URL", N8N_URL, None, "n8n's address before /api/v1."),
    Setting("N8N_API_KEY", SECRET, None, "n8n's API key."),
    Setting("N8N_EDITOR_URL", URL, None, "n8n's address that people open."),
    Setting("N8N_POLL_INTERVAL_SECONDS", _number(0, 86_400), 300, "Seconds between looks for missed failures; 0: off."),
    Setting("AGENT", _choice("auto", "claude", "offline"), "auto", "What answers a turn."),
    Setting("ANTHROPIC_API_KEY", SECRET, None, "Claude's API key, handed to the child."),
    Setting("ANTHROPIC_BASE_URL", URL, None, "Claude's API address, handed to the child."),
    Setting("CLAUDE_MODEL", TEXT, None, "Claude's model."),
    Setting("CLAUDE_BIN", TEXT, None, "The Claude program."),
    Setting(
        "MAX_CONCURRENT_TURNS",
        _whole(1, 64),
        lambda known: machine_turns(),
        "Turns at once per worker.",
        "2 to 8, by memory and cores",
    ),
    Setting("LEASE_SECONDS", _number(0.1, 3600), 10, "Seconds a silent worker keeps a turn."),
    Setting("TURN_BUDGET_USD", _number(0.01, 1000), 0.50, "US dollars a turn may cost."),
    Setting("TURN_TIMEOUT_SECONDS", SECONDS, 600, "Seconds a turn may take."),
    Setting("TURN_SILENCE_SECONDS", SECONDS, 60, "Seconds a child may be silent."),
    Setting("HEAL_AUTONOMY", _choice("observe", "suggest", "ask", "auto"), "auto", "How far repairs go by themselves."),
    Setting("NOTIFY_URL", HOOK_URL, None, "Gets a POST for repairs that wait, are blocked, failed or were published."),
    Setting("MAX_SESSIONS", _whole(1, 1_000_000), 100, "Live sessions at once."),
    Setting(
        "SESSION_IDLE_TTL_SECONDS", _number(0.05, 31_536_000), 1800, "Seconds until an idle session goes to sleep."
    ),
    Setting("SESSION_SWEEP_SECONDS", SECONDS, 300, "Seconds between sweeps of idle sessions."),
    Setting("JOURNAL_RETENTION_DAYS", _number(0.001, 3650), 90, "Days the journal keeps what is closed."),
    Setting("WS_PING_INTERVAL_SECONDS", SECONDS, 30, "Seconds between pings of a socket."),
    Setting("WS_HELLO_TIMEOUT_SECONDS", SECONDS, 5, "Seconds a new socket has for its hello."),
    Setting("WS_SEND_TIMEOUT_SECONDS", SECONDS, 20, "Seconds a write to a socket may take."),
    Setting("RATE_LIMIT_WS_PER_MINUTE", PER_MINUTE, 10, "WebSocket handshakes per client address; 0: off."),
    Setting("RATE_LIMIT_CALLBACKS_PER_MINUTE", PER_MINUTE, 100, "Callbacks in all; 0: off."),
    Setting("RATE_LIMIT_MESSAGES_PER_MINUTE", PER_MINUTE, 20, "Messages per session; 0: off."),
    Setting("RATE_LIMIT_HEALTH_PER_MINUTE", PER_MINUTE, 10, "GET /health per client address; 0: off."),
    Setting("RATE_LIMIT_AUTH_FAILURES_PER_MINUTE", PER_MINUTE, 10, "Failed authentications per address; 0: off."),
    Setting("MAX_MESSAGE_BYTES", _whole(1024, 16 * 1024**2), 1024**2, "Bytes of a frame or a body."),
    Setting("GRACEFUL_TIMEOUT_SECONDS", _whole(1, 3600), 30, "Seconds a worker has to drain; turns get 5 s less."),
    Setting("DEAD_LETTER_URL", DEAD_LETTERS, None, "Dead letters are kept there as well."),
    Setting(
        "LOG_LEVEL", _choice("debug", "info", "warning", "error", "critical"), "info", "Least level that is logged."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Fields are the settings' names in lower case; see ``TABLE`` for each one's meaning."""

    bind: str
    web_concurrency: int
    journal_path: Path
    redis_url: str | None = field(repr=False)
    public_url: str
    n8n_callback_url: str
    access_token: tuple[str, ...] = field(repr=False)
    metrics_token: tuple[str, ...] = field(repr=False)
    n8n_callback_secret: tuple[str, ...] = field(repr=False)
    allow_anonymous: bool
    allowed_origins: tuple[str, ...]
    trusted_proxy_hops: int
    n8n_api_url: str | None
    n8n_api_key: str | None = field(repr=False)
    n8n_editor_url: str | None
    n8n_poll_interval_seconds: float
    agent: str
    anthropic_api_key: str | None = field(repr=False)
    anthropic_base_url: str | None
    claude_model: str | None
    claude_bin: str | None
    max_concurrent_turns: int
    lease_seconds: float
    turn_budget_usd: float
    turn_timeout_seconds: float
    turn_silence_seconds: float
    heal_autonomy: Literal["observe", "suggest", "ask", "auto"]
    notify_url: str | None = field(repr=False)
    max_sessions: int
    session_idle_ttl_seconds: float
    session_sweep_seconds: float
    journal_retention_days: float
    ws_ping_interval_seconds: float
    ws_hello_timeout_seconds: float
    ws_send_timeout_seconds: float
    rate_limit_ws_per_minute: int
    rate_limit_callbacks_per_minute: int
    rate_limit_messages_per_minute: int
    rate_limit_health_per_minute: int
    rate_limit_auth_failures_per_minute: int
    max_message_bytes: int
    graceful_timeout_seconds: int
    dead_letter_url: str | None
    log_level: str

    @property
    def agent_name(self) -> str:
        """The agent that ``AGENT`` stands for here; ``auto`` means ``offline`` as long as there is no other."""
        return "offline"

    @property
    def bind_host(self) -> str:
        """The host of ``BIND``; IPv6 in brackets."""
        return split_bind(self.bind)[0]

    @property
    def bind_port(self) -> int:
        return split_bind(self.bind)[1]


def load(environ: Mapping[str, str] | None = None, env_file: str | Path | None = None) -> Settings:
    """Read and check every setting; nothing is written to ``os.environ``.

    :param environ: instead of the process's environment. It wins over the file; an empty value counts as unset.
    :param env_file: instead of ``ENV_FILE``, or of ``.env`` where that is unset. A file that was named must be there.
    :raises ConfigError: names the variable and the accepted form in one sentence, never a secret's value.
    """
    outer = _filled(os.environ if environ is None else environ)
    values = {**_read_env_file(env_file or outer.get("ENV_FILE")), **outer}
    known: dict[str, Any] = {}
    for setting in TABLE:
        name, text = _given(setting, values)
        if text is None:
            known[setting.field] = setting.default(known) if callable(setting.default) else setting.default
            continue
        try:
            known[setting.field] = setting.form.parse(text)
        except (ValueError, KeyError, OSError):
            # ``from None``: the cause's text would show the value, which may be a secret.
            raise ConfigError(f"{name} must be {setting.form.accepts}") from None
    settings = Settings(**known)
    if settings.redis_url:
        raise ConfigError("REDIS_URL is not supported by this version; unset it")
    if settings.agent == "claude":
        raise ConfigError("AGENT=claude is not supported by this version; use offline or auto")
    return settings


def _filled(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text.strip() for name, text in values.items() if text and text.strip()}


def _read_env_file(named: str | Path | None) -> dict[str, str]:
    path = Path(named or ".env")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        if named is None:
            return {}
        raise ConfigError("ENV_FILE must be the path of a file that exists") from None
    except (OSError, ValueError):
        raise ConfigError("ENV_FILE must be the path of a readable UTF-8 file (.env where it is unset)") from None
    wrong = next((binding for binding in bindings if binding.error), None)
    if wrong is not None:
        raise ConfigError(f"ENV_FILE must have lines of the form NAME=value; line {wrong.original.line} has not")
    return _filled({binding.key: binding.value for binding in bindings if binding.key})


def _given(setting: Setting, values: Mapping[str, str]) -> tuple[str, str | None]:
    """The variable that gives this setting, and its text; ``None`` where it is unset."""
    name, file_name = setting.name, f"{setting.name}_FILE"
    if not setting.secret or file_name not in values:
        return name, values.get(name)
    if name in values:
        raise ConfigError(f"{name} and {file_name} must not both be set")
    try:
        text = Path(values[file_name]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise ConfigError(f"{file_name} must be the path of a readable text file") from None
    if not text:
        raise ConfigError(f"{file_name} must be the path of a file that is not empty")
    return file_name, text


def summary(settings: Settings) -> list[str]:
    """What is configured and what is not, one line each; no secret is shown."""
    on_loopback = is_loopback(settings.bind_host)
    anyone = (
        "anyone (ALLOW_ANONYMOUS=true)" if settings.allow_anonymous else "this machine only (ACCESS_TOKEN is unset)"
    )
    n8n = {
        (True, True): f"n8n: {settings.n8n_api_url}",
        (True, False): f"n8n: {settings.n8n_api_url}, but N8N_API_KEY is unset",
        (False, True): "n8n: not connected (N8N_API_URL is unset)",
        (False, False): "n8n: not connected (N8N_API_URL and N8N_API_KEY are unset); workflows stay drafts",
    }[bool(settings.n8n_api_url), bool(settings.n8n_api_key)]
    lines = [
        f"address: {settings.public_url} (listening on {settings.bind}, {settings.web_concurrency} worker(s))",
        f"journal: {settings.journal_path}",
        f"agent: {settings.agent_name}",
        n8n,
        f"access: {'with a token' if settings.access_token else anyone}",
        "callbacks: "
        + ("with a secret" if settings.n8n_callback_secret else "this machine only (N8N_CALLBACK_SECRET is unset)")
        + f", at {settings.n8n_callback_url}",
        f"repairs: {settings.heal_autonomy}",
        f"notifications: {_origin(settings.notify_url) if settings.notify_url else 'none (NOTIFY_URL is unset)'}",
    ]
    if not on_loopback and not settings.access_token and not settings.allow_anonymous:
        lines.append("warning: others than this machine are refused until ACCESS_TOKEN is set")
    return lines


def main(argv: list[str]) -> int:
    """Print gunicorn's part as one JSON line, or, with ``--summary``, what is configured, for people.

    Where a setting is wrong: one line on stderr, nothing else, and exit code 1.
    """
    try:
        settings = load()
    except ConfigError as exc:
        name = re.match(r"\w*", exc.detail)[0]  # type: ignore[index]
        print(f"{name}: {exc.detail.removeprefix(f'{name} ')}", file=sys.stderr)
        return 1
    if "--summary" in argv:
        print("\n".join(f"  {line}" for line in summary(settings)))
        return 0
    boot = {
        "bind": settings.bind,
        "workers": settings.web_concurrency,
        "graceful_timeout": settings.graceful_timeout_seconds,
        "log_level": settings.log_level,
        "public_url": settings.public_url,
        "summary": summary(settings),
    }
    print(json.dumps(boot))
    return 0


# Said once, at import: a setting without its field (or the other way round) is a mistake in this file.
if [row.field for row in TABLE] != [column.name for column in fields(Settings)]:
    raise AssertionError("TABLE and Settings do not name the same settings")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
