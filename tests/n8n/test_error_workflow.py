"""The error workflow: installed once, kept up to date, and what it delivers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.errors import N8nError
from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.n8n.errors import N8nDownError
from app.n8n.workflows import find_node, validate
from tests.fakes.n8n import API_KEY, FakeN8n

URL = "http://bridge.example:8080"
SECRET = "a callback secret"
FLOW: dict[str, Any] = {
    "name": "Orders <b>",
    "nodes": [
        {
            "id": "n1",
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "position": [0, 0],
            "parameters": {"httpMethod": "POST", "path": "orders"},
        },
        {
            "id": "n2",
            "name": "HTTP Request",
            "type": "n8n-nodes-base.httpRequest",
            "typeVersion": 4.2,
            "position": [220, 0],
            "parameters": {"url": "http://shop.example/", "apiKey": "sk-in-the-node"},
            "retryOnFail": True,
            "maxTries": 2,
        },
    ],
    "connections": {"Webhook": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]}},
    "settings": {},
}


class Receiver:
    """The bridge's end: answers each callback with the next of ``statuses``, the last for good."""

    def __init__(self) -> None:
        self.statuses = [202]
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
                statuses = receiver.statuses
                self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def n8n():
    with FakeN8n() as n8n:
        yield n8n


@pytest.fixture
def client(n8n):
    return N8nClient(n8n.url, API_KEY, timeout_s=2.0)


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def install(client, url: str = URL, secret: str | None = SECRET):
    return error_workflow.install(client, callback_url=url, secret=secret)


def post_node(n8n, workflow_id: str) -> dict[str, Any]:
    return find_node(n8n.workflows[workflow_id].public, "Post to bridge")


def expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in expressions(item)]
    if isinstance(value, list):
        return [found for item in value for found in expressions(item)]
    return [value] if isinstance(value, str) and value.startswith("=") else []


# -- the file


def test_the_shipped_workflow_is_one_that_n8n_takes():
    workflow = error_workflow.build(URL, None)

    assert validate(workflow) == []
    assert f"version {error_workflow.VERSION}" in workflow["nodes"][0]["notes"]


def test_its_expressions_end_where_they_should():
    """n8n ends an expression at the first two closing braces, wherever they stand."""
    found = expressions(error_workflow.build(URL, None)["nodes"])

    assert len(found) == 6
    for expression in found:
        assert expression.startswith("={{") and expression.endswith("}}")
        assert expression.count("{{") == expression.count("}}") == 1


def test_it_tries_again_as_measured():
    workflow = error_workflow.build(URL, None)
    post, wait = find_node(workflow, "Post to bridge"), find_node(workflow, "Wait")

    assert (post["maxTries"], post["waitBetweenTries"], post["onError"]) == (5, 5000, "continueErrorOutput")
    assert post["parameters"]["options"]["timeout"] == 10_000
    # A shorter wait is kept in memory only.
    assert (wait["parameters"]["amount"], wait["parameters"]["unit"]) == (70, "seconds")


def test_what_is_reported_is_named_and_cut():
    report = find_node(error_workflow.build(URL, None), "Report")["parameters"]["assignments"]["assignments"][0][
        "value"
    ]

    for name in ("retryOnFail", "maxTries", "typeVersion", "retryOf", "lineNumber", "httpCode"):
        assert name in report
    for secret in ("parameters", "request", "messages", "stringify($json)"):
        assert secret not in report


# -- installing


def test_it_is_installed_published_and_left_alone(n8n, client):
    first = install(client)
    again = install(client)

    assert (first.outcome, again.outcome) == ("created", "unchanged")
    assert again.workflow_id == first.workflow_id
    assert len(n8n.workflows) == len(n8n.credentials) == 1
    workflow = n8n.workflows[first.workflow_id]
    assert workflow.live == workflow.public["versionId"]
    assert post_node(n8n, first.workflow_id)["parameters"]["url"] == URL + "/callbacks/n8n/error"
    assert n8n.count("PUT", "workflows") == 0


def test_the_secret_is_in_the_credential_alone(n8n, client):
    workflow_id = install(client).workflow_id

    [credential] = n8n.credentials.values()
    assert credential["data"] == {"name": "Authorization", "value": f"Bearer {SECRET}"}
    assert post_node(n8n, workflow_id)["credentials"]["httpHeaderAuth"]["id"] == credential["id"]
    assert SECRET not in json.dumps(n8n.workflows[workflow_id].public) + credential["name"]


def test_an_older_one_of_ours_is_brought_up_to_date(n8n, client):
    workflow_id = install(client).workflow_id
    older = [{**node, "notes": ""} for node in n8n.workflows[workflow_id].public["nodes"]]
    older[0]["notes"] = "self-healing-bridge error workflow, version 0"
    n8n.edit(workflow_id, nodes=older, name="Mine now", publish=True)
    assert "another version" in error_workflow.state(client).problem

    assert install(client) == error_workflow.Installed(workflow_id, "updated")

    assert error_workflow.state(client, callback_url=URL).problem == ""
    assert n8n.workflows[workflow_id].live == n8n.workflows[workflow_id].public["versionId"]


def test_a_new_address_or_secret_updates_it(n8n, client):
    workflow_id = install(client).workflow_id

    assert install(client, url="https://new.example/bridge/").outcome == "updated"
    assert install(client, url="https://new.example/bridge/", secret="another").outcome == "updated"

    node = post_node(n8n, workflow_id)
    assert node["parameters"]["url"] == "https://new.example/bridge/callbacks/n8n/error"
    assert n8n.credentials[node["credentials"]["httpHeaderAuth"]["id"]]["data"]["value"] == "Bearer another"


def test_a_bridge_without_a_secret_needs_no_credential(n8n, client):
    workflow_id = install(client, secret=None).workflow_id

    assert n8n.credentials == {}
    assert post_node(n8n, workflow_id)["parameters"]["authentication"] == "none"
    assert install(client).outcome == "updated"


def test_one_that_was_switched_off_is_published_again(n8n, client):
    workflow_id = install(client).workflow_id
    client.unpublish(workflow_id)
    assert "not published" in error_workflow.state(client).problem

    assert install(client).outcome == "updated"
    assert n8n.workflows[workflow_id].public["active"]


def test_a_credential_that_was_deleted_is_made_again(n8n, client):
    workflow_id = install(client).workflow_id
    n8n.credentials.clear()

    assert install(client).outcome == "updated"
    assert post_node(n8n, workflow_id)["credentials"]["httpHeaderAuth"]["id"] in n8n.credentials


def test_a_key_that_may_not_list_credentials_makes_one(n8n, client):
    n8n.lists_credentials = False

    assert install(client).outcome == "created"
    assert install(client).outcome == "unchanged"
    assert len(n8n.credentials) == 1


@pytest.mark.parametrize("path", ["/credentials$", "/workflows$", "activate"])
def test_an_installation_that_was_interrupted_goes_on(n8n, client, path):
    n8n.misbehave("drop_after", method="POST", path=path, times=3)
    with pytest.raises(N8nDownError):
        install(client)

    install(client)

    assert len(n8n.workflows) == len(n8n.credentials) == 1
    assert error_workflow.state(client, callback_url=URL).problem == ""


def test_an_archived_one_is_not_ours_any_more(n8n, client):
    workflow_id = install(client).workflow_id
    n8n.workflows[workflow_id].public["isArchived"] = True

    assert install(client).outcome == "created"


def test_the_state_says_what_to_do(n8n, client):
    assert "run `flask n8n install-error-workflow`" in error_workflow.state(client).problem
    workflow_id = install(client).workflow_id

    well = error_workflow.state(client, callback_url=URL)
    assert well == error_workflow.State(workflow_id, error_workflow.VERSION, f"{URL}/callbacks/n8n/error", "")
    assert "another address" in error_workflow.state(client, callback_url="http://other.example").problem


def test_its_state_is_remembered_for_a_while(n8n, client):
    state = error_workflow.remembered(client, callback_url=URL)
    n8n.misbehave("status", status=401)
    with pytest.raises(N8nError):
        state()
    workflow_id = install(client).workflow_id
    before = len(n8n.requests)

    assert state() == state() == error_workflow.state(client, callback_url=URL)
    assert state().workflow_id == workflow_id
    assert len(n8n.requests) == before + 2


# -- delivering, by the fake's hand


def reporting(n8n, client, receiver) -> str:
    handler = install(client, url=receiver.url).workflow_id
    return n8n.add({**FLOW, "settings": {"errorWorkflow": handler}})


def test_a_failure_is_reported_with_the_secret_and_without_the_nodes_parameters(n8n, client, receiver):
    workflow_id = reporting(n8n, client, receiver)
    n8n.http["http://shop.example/"] = [500]
    n8n.call_webhook("orders", {"order": 1})
    n8n.settle()

    [(headers, body)] = receiver.got
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["x-idempotency-key"] == f"exec-{body['execution']['id']}"
    assert body["workflow"] == {"id": workflow_id, "name": "Orders <b>"}
    assert body["execution"]["error"]["httpCode"] == "500"
    assert body["execution"]["error"]["node"] == {
        "id": "n2",
        "name": "HTTP Request",
        "type": "n8n-nodes-base.httpRequest",
        "typeVersion": 4.2,
        "retryOnFail": True,
        "maxTries": 2,
    }
    assert "sk-in-the-node" not in json.dumps(body)


def test_a_failing_trigger_is_reported_with_its_message(n8n, client, receiver):
    workflow_id = reporting(n8n, client, receiver)
    n8n.fail_trigger(workflow_id, message="feed is gone")
    n8n.settle()

    [(headers, body)] = receiver.got
    assert "execution" not in body
    assert body["trigger"]["error"]["message"] == "feed is gone"
    assert headers["x-idempotency-key"] == f"trigger-{body['handlerExecutionId']}"


def test_a_report_is_repeated_until_it_is_taken(n8n, client, receiver):
    workflow_id = reporting(n8n, client, receiver)
    receiver.statuses = [500, 503, 429, 401, 404, 500, 500, 202]
    n8n.fail(workflow_id, node="HTTP Request", message="socket hang up")
    n8n.settle()

    assert [delivery.status for delivery in n8n.deliveries] == [500, 503, 429, 401, 404, 500, 500, 202]
    assert len({json.dumps(body) for _, body in receiver.got}) == 1


def test_a_report_that_is_refused_is_not_repeated_for_ever(n8n, client, receiver):
    workflow_id = reporting(n8n, client, receiver)
    receiver.statuses = [400]
    n8n.fail(workflow_id, node="HTTP Request", message="socket hang up")
    n8n.settle()

    assert len(receiver.got) == 5


def test_an_error_workflow_that_is_not_published_reports_nothing(n8n, client, receiver):
    workflow_id = reporting(n8n, client, receiver)
    client.unpublish(n8n.workflows[workflow_id].public["settings"]["errorWorkflow"])
    n8n.fail(workflow_id, node="HTTP Request", message="socket hang up")
    n8n.settle()

    assert receiver.got == []
    assert n8n.log
