"""The image as a container: bare, hardened, reloaded."""

from __future__ import annotations

import json

from tests.image.engine import IMAGE, Container, Engine
from tests.support.client import Client
from tests.support.server import wait_for


def test_a_bare_start_answers_and_says_what_is_missing(bare: Container, engine: Engine) -> None:
    engine.figures.append(f"start to first answer: {bare.started_s:.2f} s")
    health = bare.get("/health")
    page = bare.get("/")
    refused = bare.post("/sessions", json={})

    assert health.status == 200
    assert set(health.json["configured"].values()) == {False}
    assert (bare.get("/healthz").status, bare.get("/readyz").status) == (200, 200)
    assert (page.status, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert (refused.status, refused.json["code"]) == (503, "not_configured")
    (configured,) = (line for line in bare.log() if line["message"] == "configured")
    assert "warning: others than this machine are refused until ACCESS_TOKEN is set" in configured["summary"]


def test_the_health_check_passes_where_it_listens_and_fails_elsewhere(bare: Container) -> None:
    probe = bare.engine.inspect(bare.name)["Config"]["Healthcheck"]["Test"][1:]

    for bind, code in (("0.0.0.0:3000", 0), ("0.0.0.0:1", 1)):
        assert bare.engine.run("exec", f"--env=BIND={bind}", bare.name, *probe).returncode == code


def test_the_engine_finds_it_healthy(bare: Container) -> None:
    if "podman" in bare.engine("--version"):
        bare.engine("healthcheck", "run", bare.name)

    def status() -> str:
        state = bare.engine.inspect(bare.name)["State"]
        found: str = (state.get("Health") or state.get("Healthcheck"))["Status"]
        return found

    wait_for(lambda: status() == "healthy", limit_s=60, what="a healthy container")


def test_tini_is_the_first_process_and_nobody_is_root(bare: Container) -> None:
    code = """
import json, pathlib
found = {}
for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit():
        fields = dict(line.split(':\\t', 1) for line in (entry / 'status').read_text().splitlines() if ':\\t' in line)
        found[entry.name] = [fields['Name'], fields['Uid'].split()[0], fields['Gid'].split()[0]]
print(json.dumps(found))
"""
    processes = json.loads(bare.python(code))

    assert processes["1"][0] == "tini"
    assert {(uid, gid) for _, uid, gid in processes.values()} == {("10001", "10001")}


def test_it_needs_no_writable_root_no_capability_and_no_new_privileges(hardened: Container) -> None:
    status = hardened.python("print(open('/proc/1/status').read())")
    root = hardened.engine("exec", hardened.name, "touch", "/srv/bridge/app/x", check=False)
    client = Client(hardened, headers={"Authorization": "Bearer access-token-now"})  # type: ignore[arg-type]
    client.connect(accessToken="access-token-now")
    workflow_id = client.build("a webhook that answers hello")
    client.disconnect()

    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    assert "Read-only file system" in root
    assert workflow_id
    assert [line for line in hardened.log() if line["level"] in ("error", "critical")] == []


def test_turns_at_once_follow_the_memory_that_it_is_allowed(hardened: Container) -> None:
    started = [line for line in hardened.log() if line["message"] == "worker started"]

    assert sum(line["turns"] for line in started) == 2


def test_the_heartbeat_of_the_workers_is_in_memory(hardened: Container) -> None:
    """A file on a slow disk could stop a healthy worker's heartbeat."""
    code = """
import os, pathlib
for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and entry.name != str(os.getpid()):
        for fd in (entry / 'fd').iterdir():
            if 'wgunicorn' in os.readlink(fd):
                print(os.readlink(fd))
"""
    files = hardened.python(code).splitlines()

    assert files and all(name.startswith("/dev/shm/") for name in files)


def test_the_claude_program_starts_for_the_bridges_user(hardened: Container) -> None:
    code = """
import os, pathlib, subprocess, tempfile
from app.agents.claude_command import ClaudeOptions
program = ClaudeOptions(work_dir=pathlib.Path('/data/claude'), api_key=None).program
with tempfile.TemporaryDirectory() as home:
    clean = {'PATH': os.environ['PATH'], 'HOME': home, 'CLAUDE_CONFIG_DIR': home, 'TMPDIR': home,
        'DISABLE_AUTOUPDATER': '1', 'CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC': '1'}
    print(subprocess.run([program, '--version'], env=clean, capture_output=True, text=True, timeout=30))
"""
    said = hardened.python(code)

    assert "returncode=0" in said and "(Claude Code)" in said


def test_a_hup_reaches_gunicorn_through_tini_and_brings_new_settings(engine: Engine, volume: str) -> None:
    mounted = f"--volume={volume}:/data"
    write = "import sys; open('/data/bridge.env', 'w').write(sys.argv[1])"
    engine("run", "--rm", mounted, "--entrypoint=python", IMAGE, "-c", write, "WEB_CONCURRENCY=1\n")

    with Container(engine, [mounted, "--read-only", "--tmpfs=/tmp"], {"ENV_FILE": "/data/bridge.env"}) as container:
        assert container.get("/health").json["configured"]["callbacks"] is False
        container.run("python", "-c", write, "WEB_CONCURRENCY=1\nN8N_CALLBACK_SECRET=callback-secret-now\n")
        container.kill("HUP")
        wait_for(lambda: container.messages().count("worker started") == 2, limit_s=20, what="a new worker")
        wait_for(lambda: "Graceful shutdown complete" in container.messages(), limit_s=20, what="the old one's end")

        assert container.get("/health").json["configured"]["callbacks"] is True
        assert container.stop() == 0
        assert container.messages().count("Graceful shutdown complete") == 2


def test_an_idle_container_stops_by_itself(engine: Engine) -> None:
    with Container(engine, ["--read-only", "--tmpfs=/tmp"]) as container:
        assert container.get("/health").status == 200
        code = container.stop()
        engine.figures.append(f"stop, idle: {container.stopped_s:.2f} s")

        assert code == 0
        said = container.messages()
        for step in ("Graceful shutdown started", "Graceful shutdown complete"):
            assert said.count(step) == said.count("worker started") > 0, step


def test_a_stop_right_after_the_start_is_obeyed_too(engine: Engine) -> None:
    container = Container(engine)
    try:
        container.start()
        code = container.stop()

        assert code == 0
        assert {"Graceful shutdown started", "Graceful shutdown complete"} <= set(container.messages())
    finally:
        container.remove()


def test_wrong_settings_end_the_start_with_one_line(engine: Engine) -> None:
    said = engine("run", "--rm", "--env=MAX_SESSIONS=many", IMAGE, check=False)

    (line,) = (json.loads(text) for text in said.splitlines())
    assert line["level"] == "critical" and line["message"].startswith("MAX_SESSIONS")
