"""The settings: what is accepted, what is refused and by which name, and where values come from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from app.settings import TABLE, Settings, load, summary

PROJECT = Path(__file__).resolve().parents[1]
NO_FILE = "/dev/null"
SECRETS = [
    *("ACCESS_TOKEN", "METRICS_TOKEN", "N8N_CALLBACK_SECRET", "N8N_API_KEY", "ANTHROPIC_API_KEY", "NOTIFY_SECRET"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
]
# What stands only beside another setting.
BESIDE: dict[str, dict[str, str]] = {
    "AWS_ACCESS_KEY_ID": {"AWS_SECRET_ACCESS_KEY": "x"},
    "AWS_SECRET_ACCESS_KEY": {"AWS_ACCESS_KEY_ID": "x"},
    "AWS_SESSION_TOKEN": {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
}


def given(**environ: str) -> Settings:
    return load(environ, env_file=NO_FILE)


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        given(**environ)
    return caught.value.detail


# One value for each setting that it takes, and what becomes of it.
ACCEPTED: dict[str, tuple[str, Any]] = {
    "BIND": ("[::1]:8080", "[::1]:8080"),
    "WEB_CONCURRENCY": ("4", 4),
    "JOURNAL_PATH": ("/data/journal.db", Path("/data/journal.db")),
    "REDIS_URL": ("rediss://u:p@r.example:6380/2", "rediss://u:p@r.example:6380/2"),
    "REDIS_PREFIX": ("bridge-2", "bridge-2"),
    "PUBLIC_URL": ("HTTPS://Bridge.Example.com:443/base/", "https://bridge.example.com/base"),
    "N8N_CALLBACK_URL": ("http://10.0.0.5:3000/", "http://10.0.0.5:3000"),
    "ACCESS_TOKEN": ("one, two,one", ("one", "two")),
    "METRICS_TOKEN": ("m", ("m",)),
    "N8N_CALLBACK_SECRET": ("a/b+c=,d", ("a/b+c=", "d")),
    "ALLOW_ANONYMOUS": ("true", True),
    "ALLOWED_ORIGINS": ("https://A.example, http://b:80/", ("https://a.example", "http://b")),
    "TRUSTED_PROXY_HOPS": ("2", 2),
    "N8N_API_URL": ("http://n8n:5678/", "http://n8n:5678"),
    "N8N_API_KEY": ("n8n_api_1.2-3_4", "n8n_api_1.2-3_4"),
    "N8N_EDITOR_URL": ("https://n8n.example.com", "https://n8n.example.com"),
    "N8N_POLL_INTERVAL_SECONDS": ("0", 0),
    "AGENT": ("offline", "offline"),
    "ANTHROPIC_API_KEY": ("sk-ant-1", "sk-ant-1"),
    "ANTHROPIC_BASE_URL": ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x"),
    "CLAUDE_MODEL": ("some-model", "some-model"),
    "CLAUDE_BIN": ("/opt/claude", "/opt/claude"),
    "HTTPS_PROXY": ("http://proxy:3128", "http://proxy:3128"),
    "NO_PROXY": ("localhost,.internal", "localhost,.internal"),
    "NODE_EXTRA_CA_CERTS": ("/etc/ca.pem", "/etc/ca.pem"),
    "MAX_CONCURRENT_TURNS": ("3", 3),
    "LEASE_SECONDS": ("1.5", 1.5),
    "TURN_BUDGET_USD": ("0.25", 0.25),
    "TURN_TIMEOUT_SECONDS": ("60", 60),
    "TURN_SILENCE_SECONDS": ("0.5", 0.5),
    "HEAL_AUTONOMY": ("ask", "ask"),
    "HEAL_OUTAGE_RETRY_SECONDS": ("0.5, 60", (0.5, 60)),
    "HEAL_REPAIRS_PER_WORKFLOW_PER_DAY": ("7", 7),
    "HEAL_REPAIRS_PER_HOUR": ("0", 0),
    "NOTIFY_URL": ("https://hooks.example.com/x?key=1", "https://hooks.example.com/x?key=1"),
    "NOTIFY_SECRET": ("whsec_bmV3, old", ("whsec_bmV3", "old")),
    "MAX_SESSIONS": ("7", 7),
    "SESSION_IDLE_TTL_SECONDS": ("2", 2),
    "SESSION_SWEEP_SECONDS": ("0.2", 0.2),
    "MAX_CONNECTIONS": ("500", 500),
    "HTTP_HEAD_TIMEOUT_SECONDS": ("2.5", 2.5),
    "JOURNAL_RETENTION_DAYS": ("30", 30),
    "WS_PING_INTERVAL_SECONDS": ("0.5", 0.5),
    "WS_HELLO_TIMEOUT_SECONDS": ("1", 1),
    "WS_SEND_TIMEOUT_SECONDS": ("2", 2),
    "RATE_LIMIT_WS_PER_MINUTE": ("0", 0),
    "RATE_LIMIT_CALLBACKS_PER_MINUTE": ("5", 5),
    "RATE_LIMIT_MESSAGES_PER_MINUTE": ("6", 6),
    "RATE_LIMIT_HEALTH_PER_MINUTE": ("7", 7),
    "RATE_LIMIT_AUTH_FAILURES_PER_MINUTE": ("8", 8),
    "MAX_MESSAGE_BYTES": ("65536", 65_536),
    "GRACEFUL_TIMEOUT_SECONDS": ("10", 10),
    "DEAD_LETTER_URL": ("s3://my-bucket/dead/letters/", "s3://my-bucket/dead/letters"),
    "AWS_REGION": ("eu-central-1", "eu-central-1"),
    "AWS_ENDPOINT_URL": ("http://minio:9000/", "http://minio:9000"),
    "AWS_ACCESS_KEY_ID": ("AKIA1", "AKIA1"),
    "AWS_SECRET_ACCESS_KEY": ("a/b+c", "a/b+c"),
    "AWS_SESSION_TOKEN": ("a/b+c==", "a/b+c=="),
    "ECS_AGENT_URI": ("http://169.254.170.2/api/0f3a", "http://169.254.170.2/api/0f3a"),
    "VITALS_INTERVAL_SECONDS": ("0.5", 0.5),
    "LOG_LEVEL": ("debug", "debug"),
}

REFUSED: dict[str, list[str]] = {
    "BIND": ["3000", "localhost", ":3000", "127.0.0.1:0", "127.0.0.1:70000", "::1:3000", "[::1:3000", "unix:/x"],
    "WEB_CONCURRENCY": ["0", "65", "two", "1.5", "-1", "٣"],
    "JOURNAL_PATH": ["/", "a\x00b"],
    "REDIS_URL": ["localhost:6379", "http://x", "redis://", "redis://x:0", "redis://x/a", "redis://x?db=1", "redis://x#f"],
    "REDIS_PREFIX": ["a b", "{a}", "ü", "a" * 65],
    "PUBLIC_URL": ["bridge.example.com", "ftp://x", "http://", "http://u:p@x", "http://x/?a=1", "http://x#f", "http://x:99999"],
    "N8N_CALLBACK_URL": ["//x", "http://x y"],
    "ACCESS_TOKEN": ["a b", "a,,b", ",", "tökén", "a\tb"],
    "METRICS_TOKEN": ["a,"],
    "N8N_CALLBACK_SECRET": ["a;\nb"],
    "ALLOW_ANONYMOUS": ["yes", "1", "True", "TRUE", "on"],
    "ALLOWED_ORIGINS": ["*", "null", "https://a/path", "https://a https://b", "a.example"],
    "TRUSTED_PROXY_HOPS": ["-1", "11"],
    "N8N_API_URL": ["http://n8n:5678/api/v1", "http://n8n:5678/api/v1/", "n8n:5678"],
    "N8N_API_KEY": ["a b", "a,b"],
    "N8N_EDITOR_URL": ["editor"],
    "N8N_POLL_INTERVAL_SECONDS": ["-1", "1e3", "nan", "inf"],
    "AGENT": ["gpt", "Auto"],
    "ANTHROPIC_API_KEY": ["a b"],
    "ANTHROPIC_BASE_URL": ["x"],
    "CLAUDE_MODEL": ["a\x1bb"],
    "CLAUDE_BIN": ["a\nb"],
    "HTTPS_PROXY": ["a\nb"],
    "NO_PROXY": ["a\nb"],
    "NODE_EXTRA_CA_CERTS": ["a\nb"],
    "MAX_CONCURRENT_TURNS": ["0", "65"],
    "LEASE_SECONDS": ["0", "-1", "x"],
    "TURN_BUDGET_USD": ["0", "free"],
    "TURN_TIMEOUT_SECONDS": ["0"],
    "TURN_SILENCE_SECONDS": ["0"],
    "HEAL_AUTONOMY": ["full"],
    "HEAL_OUTAGE_RETRY_SECONDS": ["1,", "soon", "-1", "99999999", ",".join(["1"] * 11)],
    "HEAL_REPAIRS_PER_WORKFLOW_PER_DAY": ["-1", "many"],
    "HEAL_REPAIRS_PER_HOUR": ["-1", "0.5"],
    "NOTIFY_URL": ["x", "http://u:p@x/", "ftp://x"],
    "NOTIFY_SECRET": ["a b", "a,"],
    "MAX_SESSIONS": ["0"],
    "SESSION_IDLE_TTL_SECONDS": ["0"],
    "SESSION_SWEEP_SECONDS": ["0"],
    "MAX_CONNECTIONS": ["0", "10000"],
    "HTTP_HEAD_TIMEOUT_SECONDS": ["0"],
    "JOURNAL_RETENTION_DAYS": ["0"],
    "WS_PING_INTERVAL_SECONDS": ["0"],
    "WS_HELLO_TIMEOUT_SECONDS": ["0"],
    "WS_SEND_TIMEOUT_SECONDS": ["0"],
    "RATE_LIMIT_WS_PER_MINUTE": ["-1", "many"],
    "RATE_LIMIT_CALLBACKS_PER_MINUTE": ["1.5"],
    "RATE_LIMIT_MESSAGES_PER_MINUTE": ["x"],
    "RATE_LIMIT_HEALTH_PER_MINUTE": ["x"],
    "RATE_LIMIT_AUTH_FAILURES_PER_MINUTE": ["x"],
    "MAX_MESSAGE_BYTES": ["10", "1MB", "99999999999"],
    "GRACEFUL_TIMEOUT_SECONDS": ["0", "1.5"],
    "DEAD_LETTER_URL": ["http://x", "s3://", "dynamodb://a/b"],
    "AWS_REGION": ["a\nb"],
    "AWS_ENDPOINT_URL": ["minio:9000", "http://x/?a=1"],
    "AWS_ACCESS_KEY_ID": ["a\nb"],
    "AWS_SECRET_ACCESS_KEY": ["a b"],
    "AWS_SESSION_TOKEN": ["a b"],
    "ECS_AGENT_URI": ["169.254.170.2/api"],
    "VITALS_INTERVAL_SECONDS": ["0"],
    "LOG_LEVEL": ["loud", "INFO"],
}  # fmt: skip


def test_every_setting_has_examples_here() -> None:
    names = [row.name for row in TABLE]
    assert list(REFUSED) == names
    assert list(ACCEPTED) == names


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_setting_is_read(name: str) -> None:
    text, value = ACCEPTED[name]
    assert getattr(given(**{name: f" {text}\n", **BESIDE.get(name, {})}), name.lower()) == value


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_a_wrong_value_is_refused_by_name_in_one_line(name: str, text: str) -> None:
    said = refusal(**{name: text})
    assert said.startswith(name) and "\n" not in said
    assert name not in SECRETS or len(text) < 2 or text not in said


@pytest.mark.parametrize("name", [row.name for row in TABLE])
def test_an_empty_value_counts_as_unset(name: str) -> None:
    assert given(**{name: "  "}) == given()


def test_defaults() -> None:
    settings = given()
    assert (settings.bind, settings.public_url) == ("127.0.0.1:3000", "http://127.0.0.1:3000")
    assert settings.n8n_callback_url == settings.public_url
    assert settings.allowed_origins == ("http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000")
    assert (settings.access_token, settings.n8n_api_key, settings.allow_anonymous) == ((), None, False)
    assert 1 <= settings.web_concurrency <= 2
    assert 2 <= settings.web_concurrency * settings.max_concurrent_turns <= 8
    assert settings.agent_name == "offline"


@pytest.mark.parametrize(
    ("environ", "public_url", "origins"),
    [
        (
            {"BIND": "0.0.0.0:80"},
            "http://localhost",
            ("http://localhost", "http://127.0.0.1", "http://[::1]"),
        ),
        (
            {"BIND": "[::]:3000"},
            "http://localhost:3000",
            ("http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000"),
        ),
        ({"BIND": "10.1.2.3:3000"}, "http://10.1.2.3:3000", ("http://10.1.2.3:3000",)),
        (
            {"PUBLIC_URL": "https://b.example/x", "BIND": "[::1]:8080"},
            "https://b.example/x",
            ("https://b.example", "http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"),
        ),
        ({"ALLOWED_ORIGINS": "https://a.example"}, "http://127.0.0.1:3000", ("https://a.example",)),
    ],
)
def test_addresses_follow_from_the_bind(environ: dict[str, str], public_url: str, origins: tuple[str, ...]) -> None:
    settings = given(**environ)
    assert (settings.public_url, settings.allowed_origins) == (public_url, origins)
    assert settings.n8n_callback_url == public_url


# -- where values come from -------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text(
        "# comment\nMAX_SESSIONS=5\nexport MAX_MESSAGE_BYTES='2048'\nLOG_LEVEL=debug\nCLAUDE_MODEL=${HOME}\n"
    )
    before = dict(os.environ)

    settings = load({"ENV_FILE": str(file), "MAX_SESSIONS": "6", "LOG_LEVEL": ""})

    assert (settings.max_sessions, settings.max_message_bytes, settings.log_level) == (6, 2048, "debug")
    assert settings.claude_model == "${HOME}"  # nothing is filled in
    assert dict(os.environ) == before


def test_the_default_file_is_dot_env_and_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}).max_sessions == 100
    (tmp_path / ".env").write_text("MAX_SESSIONS=5")
    assert load({}).max_sessions == 5


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff", b"NAME 'unended\n"])
def test_a_file_that_was_named_must_be_there_and_readable(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.env").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^ENV_FILE must"):
        load({"ENV_FILE": str(tmp_path / "x.env")})


def test_the_secrets_are_these() -> None:
    assert [row.name for row in TABLE if row.secret] == SECRETS


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_be_in_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    settings = given(**{f"{name}_FILE": str(file), **BESIDE.get(name, {})})
    assert getattr(settings, name.lower()) in ("from-a-file", ("from-a-file",))

    assert refusal(**{f"{name}_FILE": str(file), name: "x"}) == f"{name} and {name}_FILE must not both be set"
    assert refusal(**{f"{name}_FILE": "/nowhere"}).startswith(f"{name}_FILE must")
    file.write_text(" \n")
    assert refusal(**{f"{name}_FILE": str(file)}).startswith(f"{name}_FILE must")
    file.write_text("hidden words")
    said = refusal(**{f"{name}_FILE": str(file)})
    assert said.startswith(f"{name}_FILE must") and "hidden" not in said


@pytest.mark.parametrize("name", ["REDIS_URL", "NOTIFY_URL"])
def test_an_address_with_a_secret_in_it_can_be_in_a_file(name: str, tmp_path: Path) -> None:
    file, url = tmp_path / "url", "://us%65r:hidden@10.0.0.1"
    scheme = "rediss" if name == "REDIS_URL" else "https"
    file.write_text(f"{scheme}{url if name == 'REDIS_URL' else '://10.0.0.1/hidden'}\n")

    found = given(**{f"{name}_FILE": str(file)})

    assert "hidden" in getattr(found, name.lower())
    assert "hidden" not in repr(found)
    assert refusal(**{f"{name}_FILE": str(file), name: "x"}) == f"{name} and {name}_FILE must not both be set"


def test_no_secret_is_shown() -> None:
    settings = given(
        **dict.fromkeys([*SECRETS, "AWS_ACCESS_KEY_ID"], "hidden"),
        NOTIFY_URL="https://h.example/hidden",
        N8N_API_URL="http://n8n",
    )
    assert "hidden" not in repr(settings)
    assert "hidden" not in "".join(summary(settings))


def test_the_password_of_redis_is_shown_nowhere() -> None:
    settings = given(REDIS_URL="redis://me:hid%2Fden@r.example")

    assert "hid" not in repr(settings) + "".join(summary(settings))
    assert "journal: redis://r.example:6379" in summary(settings)
    assert {"hid/den", "hid%2Fden"} <= set(settings.secret_values)


def test_redis_can_be_switched_off_whatever_the_file_says() -> None:
    assert given(REDIS_URL="off").redis_url is None


def test_the_summary_says_what_is_missing() -> None:
    said = "\n".join(summary(given(BIND="0.0.0.0:3000")))
    for name in ("ACCESS_TOKEN", "N8N_CALLBACK_SECRET", "N8N_API_URL", "NOTIFY_URL", "warning"):
        assert name in said


# -- as a program -----------------------------------------------------------------------------------


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], cwd=PROJECT, env={"ENV_FILE": NO_FILE, **environ}, capture_output=True, text=True
    )


def test_the_program_prints_one_json_line() -> None:
    done = run("-m", "app.settings", BIND="[::1]:4000", WEB_CONCURRENCY="2", ACCESS_TOKEN="hidden")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    boot = json.loads(line)
    assert boot | {"summary": []} == {
        "bind": "[::1]:4000",
        "workers": 2,
        "graceful_timeout": 30,
        "log_level": "info",
        "head_timeout": 15,
        "public_url": "http://[::1]:4000",
        "summary": [],
    }
    assert "hidden" not in line


def test_the_program_refuses_in_one_line() -> None:
    done = run("-m", "app.settings", MAX_SESSIONS="none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "MAX_SESSIONS: must be a whole number from 1 to 1000000\n"


def test_it_needs_no_web_framework() -> None:
    code = "import sys, app.settings; print(sorted({'flask', 'gevent', 'pydantic', 'werkzeug'} & set(sys.modules)))"
    assert run("-c", code).stdout == "[]\n"


def test_the_example_file_names_every_setting_and_sets_none() -> None:
    example = PROJECT / ".env.example"
    text = example.read_text()
    assert [row.name for row in TABLE if f"\n#{row.name}=" not in text] == []
    assert load({}, env_file=example) == given()


def test_the_values_in_the_example_file_are_the_defaults(tmp_path: Path) -> None:
    shown = tmp_path / ".env"
    shown.write_text(re.sub(r"^#(?=[A-Z0-9_]+=)", "", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE))
    assert load({}, env_file=shown) == given()


def test_the_agent_follows_from_the_key_unless_it_is_named() -> None:
    key = {"ANTHROPIC_API_KEY": "sk-ant-1"}
    assert load({}, "/dev/null").agent_name == "offline"
    assert load(key, "/dev/null").agent_name == "claude"
    assert load({**key, "AGENT": "offline"}, "/dev/null").agent_name == "offline"
    assert load({**key, "AGENT": "claude"}, "/dev/null").agent_name == "claude"


def test_claude_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        load({"AGENT": "claude"}, "/dev/null")


def test_a_session_token_without_its_credentials_is_refused() -> None:
    """It would be in the place of a role's, with no key to sign with."""
    assert refusal(AWS_SESSION_TOKEN="x").startswith("AWS_SESSION_TOKEN must be set with")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_a_pair_of_aws_credentials_is_refused(name: str) -> None:
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set both" in refusal(**{name: "x"})
