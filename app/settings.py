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
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from dotenv.parser import parse_stream

from app.errors import ConfigError
from app.setting_forms import (
    BIND,
    DEAD_LETTERS,
    FLAG,
    HOOK_URL,
    N8N_URL,
    ORIGINS,
    PATH,
    PAUSES,
    PER_MINUTE,
    PREFIX,
    REDIS_URL,
    SECONDS,
    SECRET,
    SECRETS,
    TEXT,
    URL,
    Form,
    choice,
    number,
    origin,
    redis_origin,
    whole,
)

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 - recognised here, never chosen
GIB = 1024**3
MAX_DEFAULT_WORKERS = 2
_SECRET_SUFFIXES = ("_SECRET", "_TOKEN", "_KEY")


def machine_cores() -> int:
    """Cores that this process may use, what a container is allowed included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # What a container is allowed is told by cgroups, version 2, else 1.
    old_cpu = (_first_line(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    cpu_max = _first_line("/sys/fs/cgroup/cpu.max").split() or list(old_cpu)
    if len(cpu_max) == 2 and cpu_max[0].isdigit():
        cores = min(cores, math.ceil(int(cpu_max[0]) / int(cpu_max[1])))
    return cores


def machine_workers() -> int:
    """Two where there are two cores: one worker's loop is Python, and uses one. More of them on one journal would
    wait for its one writer more than they would serve, and each weighs some 70 MB."""
    return min(MAX_DEFAULT_WORKERS, machine_cores())


def machine_turns(workers: int) -> int:
    """Turns that each of ``workers`` can carry at once: by cores and memory, what a container is allowed included."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory_max = _first_line("/sys/fs/cgroup/memory.max") or _first_line("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if memory_max.isdigit():
        memory = min(memory, int(memory_max))
    together = max(2, min(8, 2 * machine_cores(), memory // GIB))
    return max(1, math.ceil(together / workers))


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
        """Whether all of it is kept out of texts."""
        return self.name.endswith(_SECRET_SUFFIXES)

    @property
    def from_file(self) -> bool:
        """Whether it may be given as ``NAME_FILE``: a secret, or an address that may have one in it."""
        return self.secret or self.form in (REDIS_URL, HOOK_URL)


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
    return origin(f"http://{'localhost' if host in WILDCARDS else host}:{port}")


def _default_origins(known: Mapping[str, Any]) -> tuple[str, ...]:
    host, port = split_bind(known["bind"])
    near = [f"http://{name}:{port}" for name in LOOPBACK_NAMES] if is_loopback(host) or host in WILDCARDS else []
    return tuple(dict.fromkeys(origin(url) for url in [known["public_url"], *near]))


TABLE: tuple[Setting, ...] = (
    Setting("BIND", BIND, "127.0.0.1:3000", "Address that is listened on."),
    Setting(
        "WEB_CONCURRENCY", whole(1, 64), lambda known: machine_workers(), "gunicorn workers.", "1 or 2, by the cores"
    ),
    Setting("JOURNAL_PATH", PATH, Path("var/journal.db"), "The journal's SQLite file, on a local disk."),
    Setting(
        "REDIS_URL",
        REDIS_URL,
        None,
        "The journal in Redis or Valkey instead, for several machines; off: none. Also as REDIS_URL_FILE.",
    ),
    Setting("REDIS_PREFIX", PREFIX, "bridge", "What the journal's keys in Redis begin with; each bridge has its own."),
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
    Setting("TRUSTED_PROXY_HOPS", whole(0, 10), 0, "Own proxies in front: the n-th X-Forwarded-For from the right."),
    Setting("N8N_API_URL", N8N_URL, None, "n8n's address before /api/v1."),
    Setting("N8N_API_KEY", SECRET, None, "n8n's API key."),
    Setting("N8N_EDITOR_URL", URL, None, "n8n's address that people open."),
    Setting("N8N_POLL_INTERVAL_SECONDS", number(0, 86_400), 300, "Seconds between looks for missed failures; 0: off."),
    Setting("AGENT", choice("auto", "claude", "offline"), "auto", "What answers a turn."),
    Setting("ANTHROPIC_API_KEY", SECRET, None, "Claude's API key, handed to the child."),
    Setting("ANTHROPIC_BASE_URL", URL, None, "Claude's API address, handed to the child."),
    Setting("CLAUDE_MODEL", TEXT, None, "Claude's model."),
    Setting("CLAUDE_BIN", TEXT, None, "The Claude program."),
    Setting("HTTPS_PROXY", TEXT, None, "Proxy, handed to the child."),
    Setting("NO_PROXY", TEXT, None, "Hosts without the proxy, handed to the child."),
    Setting("NODE_EXTRA_CA_CERTS", TEXT, None, "File of more certificate authorities, handed to the child."),
    Setting(
        "MAX_CONCURRENT_TURNS",
        whole(1, 64),
        lambda known: machine_turns(known["web_concurrency"]),
        "Turns at once per worker.",
        "2 to 8 of all workers, by memory and cores",
    ),
    Setting("LEASE_SECONDS", number(0.1, 3600), 10, "Seconds a silent worker keeps a turn."),
    Setting("TURN_BUDGET_USD", number(0.01, 1000), 0.50, "US dollars a turn may cost."),
    Setting("TURN_TIMEOUT_SECONDS", SECONDS, 600, "Seconds a turn may take."),
    Setting("TURN_SILENCE_SECONDS", SECONDS, 60, "Seconds a child may be silent."),
    Setting("HEAL_AUTONOMY", choice("observe", "suggest", "ask", "auto"), "auto", "How far repairs go by themselves."),
    Setting(
        "HEAL_OUTAGE_RETRY_SECONDS",
        PAUSES,
        (300.0, 1_800.0, 7_200.0),
        "Pauses before a run that met a remote outage is repeated; 0: never.",
        "300,1800,7200",
    ),
    Setting("HEAL_REPAIRS_PER_WORKFLOW_PER_DAY", PER_MINUTE, 5, "Repairs of one workflow by the agent; 0: no limit."),
    Setting("HEAL_REPAIRS_PER_HOUR", PER_MINUTE, 20, "Repairs of all workflows by the agent; 0: no limit."),
    Setting(
        "NOTIFY_URL",
        HOOK_URL,
        None,
        "Gets a POST for repairs that wait, are blocked, failed or were published. Also as NOTIFY_URL_FILE.",
    ),
    Setting("NOTIFY_SECRET", SECRETS, (), "Signs what NOTIFY_URL gets; several for rotation."),
    Setting("MAX_SESSIONS", whole(1, 1_000_000), 100, "Live sessions at once."),
    Setting("SESSION_IDLE_TTL_SECONDS", number(0.05, 31_536_000), 1800, "Seconds until an idle session goes to sleep."),
    Setting("SESSION_SWEEP_SECONDS", SECONDS, 300, "Seconds between sweeps of idle sessions."),
    Setting("MAX_CONNECTIONS", whole(1, 9_000), 8_000, "Sockets at once per worker; more get 503."),
    Setting("HTTP_HEAD_TIMEOUT_SECONDS", SECONDS, 15, "Seconds a request's head may take, from its first byte on."),
    Setting("JOURNAL_RETENTION_DAYS", number(0.001, 3650), 90, "Days the journal keeps what is closed."),
    Setting("WS_PING_INTERVAL_SECONDS", SECONDS, 30, "Seconds between pings of a socket."),
    Setting("WS_HELLO_TIMEOUT_SECONDS", SECONDS, 5, "Seconds a new socket has for its hello."),
    Setting("WS_SEND_TIMEOUT_SECONDS", SECONDS, 20, "Seconds a write to a socket may take."),
    Setting("RATE_LIMIT_WS_PER_MINUTE", PER_MINUTE, 10, "WebSocket handshakes per client address; 0: off."),
    Setting("RATE_LIMIT_CALLBACKS_PER_MINUTE", PER_MINUTE, 100, "Callbacks in all; 0: off."),
    Setting("RATE_LIMIT_MESSAGES_PER_MINUTE", PER_MINUTE, 20, "Messages per session; 0: off."),
    Setting("RATE_LIMIT_HEALTH_PER_MINUTE", PER_MINUTE, 10, "GET /health per client address; 0: off."),
    Setting("RATE_LIMIT_AUTH_FAILURES_PER_MINUTE", PER_MINUTE, 10, "Failed authentications per address; 0: off."),
    Setting("MAX_MESSAGE_BYTES", whole(1024, 16 * 1024**2), 1024**2, "Bytes of a frame or a body."),
    Setting("GRACEFUL_TIMEOUT_SECONDS", whole(1, 3600), 30, "Seconds a worker has to drain; turns get 5 s less."),
    Setting("DEAD_LETTER_URL", DEAD_LETTERS, None, "Dead letters are kept there as well."),
    Setting("AWS_REGION", TEXT, None, "AWS region of DEAD_LETTER_URL.", "as AWS's own tools find it"),
    Setting("AWS_ENDPOINT_URL", URL, None, "Another server that speaks S3 or DynamoDB.", "AWS's own"),
    Setting("AWS_ACCESS_KEY_ID", TEXT, None, "For DEAD_LETTER_URL, where no role gives credentials.", "the role's"),
    Setting("AWS_SECRET_ACCESS_KEY", SECRET, None, "The secret of AWS_ACCESS_KEY_ID."),
    Setting("AWS_SESSION_TOKEN", SECRET, None, "The session token of temporary AWS credentials."),
    Setting("ECS_AGENT_URI", URL, None, "Set by ECS: its agent, told to spare this task while turns run."),
    Setting("VITALS_INTERVAL_SECONDS", number(0.05, 86_400), 60, "Seconds between two lines about memory use."),
    Setting(
        "LOG_LEVEL", choice("debug", "info", "warning", "error", "critical"), "info", "Least level that is logged."
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Fields are the settings' names in lower case; see ``TABLE`` for each one's meaning."""

    bind: str
    web_concurrency: int
    journal_path: Path
    redis_url: str | None = field(repr=False)
    redis_prefix: str
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
    https_proxy: str | None = field(repr=False)
    no_proxy: str | None
    node_extra_ca_certs: str | None
    max_concurrent_turns: int
    lease_seconds: float
    turn_budget_usd: float
    turn_timeout_seconds: float
    turn_silence_seconds: float
    heal_autonomy: Literal["observe", "suggest", "ask", "auto"]
    heal_outage_retry_seconds: tuple[float, ...]
    heal_repairs_per_workflow_per_day: int
    heal_repairs_per_hour: int
    notify_url: str | None = field(repr=False)
    notify_secret: tuple[str, ...] = field(repr=False)
    max_sessions: int
    session_idle_ttl_seconds: float
    session_sweep_seconds: float
    max_connections: int
    http_head_timeout_seconds: float
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
    aws_region: str | None
    aws_endpoint_url: str | None
    aws_access_key_id: str | None = field(repr=False)
    aws_secret_access_key: str | None = field(repr=False)
    aws_session_token: str | None = field(repr=False)
    ecs_agent_uri: str | None
    vitals_interval_seconds: float
    log_level: str

    @property
    def agent_name(self) -> str:
        """The agent that ``AGENT`` stands for here; ``auto`` means ``claude`` where there is a key."""
        return self.agent if self.agent != "auto" else "claude" if self.anthropic_api_key else "offline"

    @property
    def n8n_connected(self) -> bool:
        """Whether an n8n is configured; without one workflows are drafts."""
        return self.n8n_api_url is not None and self.n8n_api_key is not None

    @property
    def secret_values(self) -> tuple[str, ...]:
        """What must not be shown, whatever it looks like; addresses that open something by being known, too."""
        given = [getattr(self, row.field) for row in TABLE if row.secret]
        several = [value for value in given if isinstance(value, tuple)]
        hook = urlsplit(self.notify_url or "")
        # Part of it, too, is what opens it; a short path is a word of everybody's.
        hook_parts = (self.notify_url, hook.query, hook.path if len(hook.path) > 12 else None)
        single = [*(value for value in given if isinstance(value, str)), *hook_parts, *self._redis_secrets]
        return tuple(value for value in (*(one for values in several for one in values), *single) if value)

    @property
    def _redis_secrets(self) -> tuple[str | None, ...]:
        password = urlsplit(self.redis_url or "").password
        return (self.redis_url, password, unquote(password)) if password else ()

    @property
    def journal_place(self) -> str:
        """Where the journal is, for people; no password is shown."""
        return redis_origin(self.redis_url) if self.redis_url else str(self.journal_path)

    @property
    def bind_host(self) -> str:
        """The host of ``BIND``; IPv6 in brackets."""
        return split_bind(self.bind)[0]

    @property
    def bind_port(self) -> int:
        return split_bind(self.bind)[1]

    @property
    def local_url(self) -> str:
        """Where a bridge with these settings is met on its own machine."""
        near = dict(zip(WILDCARDS, ("127.0.0.1", "[::1]"), strict=True))
        return f"http://{near.get(self.bind_host, self.bind_host)}:{self.bind_port}"


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
    if settings.agent == "claude" and settings.anthropic_api_key is None:
        raise ConfigError("ANTHROPIC_API_KEY must be set where AGENT=claude")
    if bool(settings.aws_access_key_id) != bool(settings.aws_secret_access_key):
        raise ConfigError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set both or neither")
    if settings.aws_session_token and not settings.aws_access_key_id:
        # boto3 would sign with no key at all, whatever role there is.
        raise ConfigError("AWS_SESSION_TOKEN must be set with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only")
    return settings


def check_place(path: Path) -> None:
    """Whether the journal's file can be, or be made, at ``path``; nothing is made.

    :raises ConfigError: its folder or the file cannot be written.
    """
    there = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    if not writable or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        raise ConfigError("JOURNAL_PATH must be the path of a file that this user can write, in a folder likewise")


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
    if not setting.from_file or file_name not in values:
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
        (True, False): f"n8n: {settings.n8n_api_url}, but N8N_API_KEY is unset; workflows stay drafts",
        (False, True): "n8n: not connected (N8N_API_URL is unset)",
        (False, False): "n8n: not connected (N8N_API_URL and N8N_API_KEY are unset); workflows stay drafts",
    }[bool(settings.n8n_api_url), bool(settings.n8n_api_key)]
    lines = [
        f"address: {settings.public_url} (listening on {settings.bind}, {settings.web_concurrency} worker(s))",
        f"journal: {settings.journal_place}",
        f"agent: {settings.agent_name}",
        n8n,
        f"access: {'with a token' if settings.access_token else anyone}",
        "callbacks: "
        + ("with a secret" if settings.n8n_callback_secret else "this machine only (N8N_CALLBACK_SECRET is unset)")
        + f", at {settings.n8n_callback_url}",
        f"repairs: {settings.heal_autonomy}",
        f"dead letters: {settings.dead_letter_url or 'in the journal only (DEAD_LETTER_URL is unset)'}",
        f"notifications: {origin(settings.notify_url) if settings.notify_url else 'none (NOTIFY_URL is unset)'}",
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
        if not settings.redis_url:
            check_place(settings.journal_path)
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
        "head_timeout": settings.http_head_timeout_seconds,
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
