"""The local n8n itself: started once, found again, private, silent towards the world, and wholly gone when stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import urllib3

from app.n8n import error_workflow
from app.n8n.client import N8nClient
from dev.local_n8n import SCOPES, LocalN8n, LocalN8nError, write_env

WEBHOOK = {
    "name": "Answers",
    "nodes": [
        {
            "id": "w",
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "position": [0, 0],
            "webhookId": "answers",
            "parameters": {"path": "answers", "httpMethod": "GET", "responseMode": "onReceived"},
        }
    ],
    "connections": {},
    "settings": {},
}
# Notes every name that is looked up, and every address that is connected to, by n8n and by its task runner.
RECORD = """
const fs = require('fs'), net = require('net'), dns = require('dns');
const note = (what) => fs.appendFileSync(__dirname + '/record.txt', what + '\\n');
const lookup = dns.lookup;
dns.lookup = function (name, ...rest) { note(name); return lookup.call(this, name, ...rest); };
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  if (options && typeof options === 'object' && !options.path) note(String(options.host || 'localhost'));
  return connect.apply(this, args);
};
note('localhost');
"""


def processes_of(n8n: LocalN8n) -> set[int]:
    """All processes that work in this n8n's folder: its own and its task runner."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")) == n8n.folder:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def test_ready_and_again(n8n: LocalN8n) -> None:
    pid, key = n8n.pid, n8n.api_key
    n8n.start()
    again = LocalN8n(n8n.folder)
    again.start()
    assert pid is not None
    assert (n8n.pid, n8n.api_key) == (again.pid, again.api_key) == (pid, key)
    assert again.url == n8n.url


def test_its_files_are_private(n8n: LocalN8n) -> None:
    assert (n8n.folder / "owner.json").stat().st_mode & 0o777 == 0o600
    kept = json.loads((n8n.folder / "owner.json").read_text())
    assert len(kept["password"]) >= 24
    assert kept["api_key"] == n8n.api_key


def test_listens_on_loopback_only(n8n: LocalN8n) -> None:
    inodes = {
        os.readlink(link)
        for pid in processes_of(n8n)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and os.readlink(link).startswith("socket:")
    }
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes
    ]
    assert f"0100007F:{n8n.port:04X}" in listening
    assert all(address.startswith("0100007F:") for address in listening)


def test_key_has_its_scopes_and_no_more(n8n: LocalN8n, client: N8nClient) -> None:
    made = client.create_workflow(WEBHOOK)
    workflow_id = made["id"]
    assert client.publish(workflow_id, made["versionId"])["activeVersionId"] == made["versionId"]
    assert client.history(workflow_id)[0]["versionId"] == made["versionId"]
    assert client.version(workflow_id, made["versionId"])["nodes"]
    assert client.list_executions(workflow_id=workflow_id).executions == []
    assert client.list_credentials() is not None
    client.unpublish(workflow_id)
    client.delete_workflow(workflow_id)
    for path in ("/users", "/variables", "/tags"):
        answer = urllib3.request("GET", f"{n8n.url}/api/v1{path}", headers={"X-N8N-API-KEY": n8n.api_key})
        assert answer.status == 403, path
    assert len(SCOPES) == 13


def test_error_workflow_goes_in_once(client: N8nClient) -> None:
    first = error_workflow.install(client, callback_url="http://127.0.0.1:3000", secret="s" * 32)
    second = error_workflow.install(client, callback_url="http://127.0.0.1:3000", secret="s" * 32)
    assert first.outcome in ("created", "updated")
    assert (second.workflow_id, second.outcome) == (first.workflow_id, "unchanged")
    assert error_workflow.state(client).problem == ""


def test_restart_keeps_address_key_and_workflows(n8n: LocalN8n, client: N8nClient) -> None:
    made = client.create_workflow(WEBHOOK)
    before = (n8n.url, n8n.api_key)
    pid = n8n.pid
    n8n.restart()
    assert (n8n.url, n8n.api_key) == before
    assert n8n.pid != pid
    assert client.get_workflow(made["id"])["versionId"] == made["versionId"]
    client.delete_workflow(made["id"])


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_nothing_is_left_over(n8n: LocalN8n, how: str) -> None:
    assert n8n.pid in processes_of(n8n)
    getattr(n8n, how)()
    assert n8n.pid is None
    assert processes_of(n8n) == set()
    n8n.start()


def test_lost_key_is_made_anew(n8n: LocalN8n) -> None:
    owner = n8n.folder / "owner.json"
    kept = json.loads(owner.read_text())
    owner.write_text(json.dumps(kept | {"api_key": "wrong"}))
    n8n.start()
    assert n8n.api_key not in ("wrong", kept["api_key"])
    assert N8nClient(n8n.url, n8n.api_key).list_credentials() is not None


def test_foreign_process_is_left_alone(n8n: LocalN8n, tmp_path: Path) -> None:
    (tmp_path / "n8n.pid").write_text(str(os.getpid()))
    other = LocalN8n(tmp_path, port=0)
    assert other.pid is None
    other.stop()


def test_taken_port_is_said(n8n: LocalN8n, tmp_path: Path) -> None:
    with pytest.raises(LocalN8nError, match=f"Port {n8n.port} is taken"):
        LocalN8n(tmp_path, port=n8n.port).start()


def test_asks_nobody_outside(tmp_path: Path) -> None:
    hook = tmp_path / "record.cjs"
    hook.write_text(RECORD)
    local = LocalN8n(tmp_path / "n8n", port=0, env={"NODE_OPTIONS": f"--require={hook}"})
    try:
        local.start()
        N8nClient(local.url, local.api_key).list_workflows()
        urllib3.request("GET", local.editor_url)
        local.restart()
    finally:
        local.stop()
    asked = set((tmp_path / "record.txt").read_text().split())
    assert asked
    assert asked <= {"localhost", "127.0.0.1"}


def test_env_keeps_all_else(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("# mine\nBIND=127.0.0.1:3001\n\nexport N8N_API_KEY='old key'\n#N8N_API_URL=\nLOG_LEVEL=info")
    write_env(env, {"N8N_API_URL": "http://127.0.0.1:1", "N8N_API_KEY": "new"})
    assert env.read_text() == (
        "# mine\nBIND=127.0.0.1:3001\n\nN8N_API_KEY=new\n#N8N_API_URL=\nLOG_LEVEL=info\nN8N_API_URL=http://127.0.0.1:1\n"
    )
    assert env.stat().st_mode & 0o777 == 0o600
    at = env.stat().st_mtime_ns
    write_env(env, {"N8N_API_URL": "http://127.0.0.1:1", "N8N_API_KEY": "new"})
    assert env.stat().st_mtime_ns == at
