"""``flask doctor`` beside a bridge and a real n8n: what it finds, what it mends, and that it leaves nothing there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.n8n.client import N8nClient
from dev.local_n8n import LocalN8n
from tests.cli.doctor_rig import SECRET, UNLIMITED, Doctor, scheduled
from tests.support.server import BridgeServer


@pytest.fixture
def bridge(n8n: LocalN8n) -> Iterator[BridgeServer]:
    connected = {"N8N_API_URL": n8n.url, "N8N_API_KEY": n8n.api_key}
    with BridgeServer({"N8N_CALLBACK_SECRET": SECRET, **connected, **UNLIMITED}) as server:
        yield server


def test_the_doctor_mends_and_then_all_is_well_and_nothing_is_left(bridge: BridgeServer, client: N8nClient) -> None:
    doctor = Doctor(bridge, None)
    created = client.create_workflow(scheduled({"field": "hours"}))
    published = client.publish(str(created["id"]), str(created["versionId"]))
    opened = bridge.post("/sessions").json
    headers = {"Authorization": f"Bearer {opened['token']}"}
    path = f"/sessions/{opened['sessionId']}/workflows"
    assert bridge.post(path, json={"workflowId": created["id"]}, headers=headers).status == 201
    present = {str(workflow["id"]) for workflow in client.iter_workflows()}

    assert doctor.run("--fix").is_well()
    report = doctor.run()

    assert report.is_well(), report
    assert report.only("n8n version")["state"] == "ok"
    assert "reached the bridge" in report.only("round trip")["detail"]
    handler = handler_id(client)
    assert {str(workflow["id"]) for workflow in client.iter_workflows()} == present | {handler}
    workflow = client.get_workflow(str(created["id"]))
    assert workflow["settings"]["errorWorkflow"] == handler
    assert workflow["versionId"] == workflow["activeVersionId"] == published["versionId"]
    assert bridge.get("/dead-letters").json["deadLetters"] == []
    client.unpublish(str(created["id"]))
    client.delete_workflow(str(created["id"]))


def handler_id(client: N8nClient) -> str:
    """Of the error workflow; another test may have installed it before."""
    return next(str(w["id"]) for w in client.iter_workflows() if str(w["name"]).startswith("Self-healing bridge"))
