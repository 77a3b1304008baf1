"""``flask drill`` on a real n8n: one command builds, breaks, heals and removes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.n8n.client import N8nClient
from dev.local_n8n import LocalN8n
from tests.support.projects import PROJECT
from tests.support.server import free_port

STORY = [
    *("bridge", "installed", "built", "published", "broke", "callback", "diagnosed", "proposed", "verified"),
    *("published", "works again", "removed", "removed"),
]


def drill(n8n: LocalN8n, folder: Path, *options: str, **settings: str) -> tuple[int, dict[str, Any]]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "ENV_FILE": str(folder / ".env")}
    env |= {"N8N_API_URL": n8n.url, "N8N_API_KEY": n8n.api_key, "FLASK_SKIP_DOTENV": "1", **settings}
    (folder / ".env").touch()
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "drill", "--json", *options]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=150, check=False)
    print(done.stdout, done.stderr)
    return done.returncode, json.loads(done.stdout)


def test_one_command_heals_and_leaves_only_the_error_workflow(n8n: LocalN8n, client: N8nClient, tmp_path: Path) -> None:
    for workflow in client.list_workflows():
        client.unpublish(workflow["id"])
        client.delete_workflow(workflow["id"])
    settings = {"BIND": f"127.0.0.1:{free_port()}", "N8N_CALLBACK_SECRET": "secret-of-the-drill"}

    code, told = drill(n8n, tmp_path, **settings)

    assert code == 0, told
    assert [step["step"] for step in told["steps"]] == STORY
    assert len(client.list_workflows()) == 1, "the error workflow stays, the canary does not"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bridge-drill")] == []

    # And once more, as a person has it who has done it before.
    code, told = drill(n8n, tmp_path, **settings)
    assert code == 0, told
    assert [step["step"] for step in told["steps"]] == [step for step in STORY if step != "installed"]


def test_where_n8n_cannot_reach_this_machine_it_says_so(n8n: LocalN8n, client: N8nClient, tmp_path: Path) -> None:
    for workflow in client.list_workflows():
        client.unpublish(workflow["id"])
        client.delete_workflow(workflow["id"])

    code, told = drill(n8n, tmp_path, "--host", "nowhere.invalid", BIND=f"127.0.0.1:{free_port()}")

    assert code == 1
    assert "does not reach the drill's service" in told["verdict"]
    assert "--host" in told["verdict"]
    assert len(client.list_workflows()) == 1
