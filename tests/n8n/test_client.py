"""The client of n8n's public API: what it asks, repeats, refuses and says."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.errors import N8nError, WorkflowNotFoundError
from app.n8n import client as client_module
from app.n8n.client import Credential, N8nClient
from app.n8n.errors import (
    ExecutionNotFoundError,
    N8nBusyError,
    N8nConflictError,
    N8nDownError,
    N8nFailedError,
    N8nKeyError,
    N8nRefusedError,
    N8nScopeError,
    N8nTooLargeError,
    N8nTooOldError,
    from_answer,
)
from app.telemetry import context
from tests.fakes.n8n import API_KEY, FakeN8n

HOOK = {
    "id": "n1",
    "name": "Webhook",
    "type": "n8n-nodes-base.webhook",
    "typeVersion": 2,
    "position": [0, 0],
    "parameters": {"httpMethod": "POST", "path": "orders"},
    "webhookId": "h1",
}
HTTP = {
    "id": "n2",
    "name": "HTTP Request",
    "type": "n8n-nodes-base.httpRequest",
    "typeVersion": 4.2,
    "position": [220, 0],
    "parameters": {"url": "http://shop.example/"},
}
CONNECTIONS = {"Webhook": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]}}
BODY = {"name": "Orders", "nodes": [HOOK, HTTP], "connections": CONNECTIONS, "settings": {"executionOrder": "v1"}}


@pytest.fixture
def n8n():
    with FakeN8n() as n8n:
        yield n8n


@pytest.fixture
def client(n8n):
    client = N8nClient(n8n.url, API_KEY, timeout_s=2.0)
    yield client
    client.close()


def failed_run(n8n) -> tuple[str, str]:
    workflow_id = n8n.add(BODY)
    n8n.http["http://shop.example/"] = [500, 200]
    n8n.call_webhook("orders", {"order": 1})
    return workflow_id, max(n8n.executions, key=int)


# -- what it does


def test_a_workflow_is_created_read_changed_published_and_deleted(n8n, client):
    created = client.create_workflow(BODY)
    workflow_id = created["id"]
    draft = client.put_workflow(workflow_id, {**BODY, "nodes": [HOOK, {**HTTP, "retryOnFail": True}]})
    published = client.publish(workflow_id, draft["versionId"])

    assert client.get_workflow(workflow_id)["nodes"][1]["retryOnFail"] is True
    assert published["activeVersionId"] == draft["versionId"] != created["versionId"]
    assert [version["versionId"] for version in client.history(workflow_id)] == [
        draft["versionId"],
        created["versionId"],
    ]
    assert "retryOnFail" not in client.version(workflow_id, created["versionId"])["nodes"][1]

    assert client.unpublish(workflow_id)["active"] is False
    client.delete_workflow(workflow_id)
    client.delete_workflow(workflow_id)
    with pytest.raises(WorkflowNotFoundError):
        client.get_workflow(workflow_id)


def test_a_put_on_an_active_workflow_is_a_draft_unless_told_otherwise(n8n, client):
    workflow_id = n8n.add(BODY)
    running = client.get_workflow(workflow_id)["activeVersionId"]
    changed = {**BODY, "nodes": [HOOK, {**HTTP, "retryOnFail": True}]}

    assert client.put_workflow(workflow_id, changed)["activeVersionId"] == running
    published = client.put_workflow(workflow_id, {**changed, "connections": {}}, publish_if_active=True)
    assert published["activeVersionId"] == published["versionId"] != running


def test_an_old_version_can_be_published_again(n8n, client):
    workflow_id = n8n.add(BODY)
    old = client.get_workflow(workflow_id)["versionId"]
    n8n.edit(workflow_id, connections={}, publish=True)

    assert client.publish(workflow_id, old)["activeVersionId"] == old


def test_deleting_waits_out_the_moment_after_deactivation(n8n, client):
    workflow_id = n8n.add(BODY)
    n8n.lag_s = 0.2
    client.unpublish(workflow_id)

    client.delete_workflow(workflow_id)

    assert workflow_id not in n8n.workflows
    assert n8n.count("DELETE", workflow_id) > 1


def test_an_active_workflow_is_not_deleted(n8n, client, monkeypatch):
    monkeypatch.setattr(client_module, "UNPUBLISH_WAIT_S", 0.1)
    workflow_id = n8n.add(BODY)
    with pytest.raises(N8nConflictError, match="still being unpublished"):
        client.delete_workflow(workflow_id)


def test_all_pages_are_listed(n8n, client):
    ids = [n8n.add({**BODY, "name": f"w{number}"}, active=False) for number in range(230)]

    assert [workflow["id"] for workflow in client.list_workflows()] == ids
    assert n8n.count("GET", "^/workflows$") == 3
    assert len(client.list_workflows(limit=5)) == 5
    assert n8n.count("GET", "^/workflows$") == 4


def test_listing_has_an_end_where_n8n_has_none(n8n, client, monkeypatch, caplog):
    monkeypatch.setattr(client_module, "MAX_PAGES", 2)
    for number in range(210):
        n8n.add({**BODY, "name": f"w{number}"}, active=False)

    assert len(client.list_workflows()) == 200
    assert "more than the 200 entries" in caplog.text


def test_runs_are_listed_and_read(n8n, client):
    workflow_id, execution_id = failed_run(n8n)
    n8n.call_webhook("orders")

    failed = client.list_executions(workflow_id=workflow_id, status="error")
    everything = client.list_executions(workflow_id=workflow_id, limit=1)
    older = client.list_executions(workflow_id=workflow_id, limit=1, cursor=everything.next_cursor)
    run = client.get_execution(execution_id, include_data=True)

    assert [found["id"] for found in failed.executions] == [execution_id]
    assert everything.executions[0]["status"] == "success"
    assert older.executions[0]["id"] == execution_id
    assert older.next_cursor is None
    assert run["data"]["resultData"]["error"]["httpCode"] == "500"
    assert "data" not in client.get_execution(execution_id)


def test_a_retry_runs_the_draft_and_is_found_by_what_it_retried(n8n, client):
    workflow_id, execution_id = failed_run(n8n)
    draft = n8n.edit(workflow_id, nodes=[HOOK, {**HTTP, "notes": "new"}])

    retried = client.retry_execution(execution_id)

    assert (retried["status"], retried["retryOf"]) == ("success", execution_id)
    assert client.get_execution(retried["id"])["workflowVersionId"] == draft
    assert [run["id"] for run in client.find_retries(workflow_id, execution_id)] == [retried["id"]]
    with pytest.raises(N8nConflictError, match="succeeded"):
        client.retry_execution(retried["id"])


def test_a_run_can_be_stopped(n8n, client):
    _, execution_id = failed_run(n8n)
    assert client.stop_execution(execution_id)["status"] == "canceled"


def test_credentials_are_known_by_name_and_type_only(n8n, client):
    made = client.create_credential("Shop", "httpHeaderAuth", {"name": "Authorization", "value": "Bearer s"})

    assert made == Credential(made.id, "Shop", "httpHeaderAuth")
    assert client.list_credentials() == [made]


def test_no_list_of_credentials_is_no_error(n8n, client):
    n8n.scopes = {"workflow:read"}
    assert client.list_credentials() is None
    n8n.scopes, n8n.lists_credentials = None, False
    assert client.list_credentials() is None


def test_a_bare_request_needs_no_key(n8n):
    client = N8nClient(n8n.url, "wrong")
    assert client.ask("GET", "/healthz/readiness").status == 200
    assert "x-n8n-api-key" not in n8n.requests[-1].headers
    n8n.ready = False
    assert client.ask("GET", "/healthz/readiness").status == 503


def test_an_address_with_a_path_works():
    with FakeN8n(prefix="/automation/n8n") as n8n:
        client = N8nClient(n8n.url + "/", API_KEY)
        assert client.ask("GET", "/healthz/readiness").status == 200
        assert client.create_workflow(BODY)["name"] == "Orders"


# -- what it repeats


@pytest.mark.parametrize("kind", ["status", "html", "drop"])
def test_a_read_is_tried_three_times(n8n, client, kind):
    workflow_id = n8n.add(BODY)
    n8n.misbehave(kind, times=2)

    assert client.get_workflow(workflow_id)["id"] == workflow_id
    assert n8n.count("GET", workflow_id) == 3


def test_three_failures_are_enough(n8n, client):
    n8n.misbehave("status", times=9)
    with pytest.raises(N8nFailedError, match="n8n failed with status 500"):
        client.list_workflows()
    assert len(n8n.requests) == 3


def test_writes_that_do_no_more_the_second_time_are_repeated(n8n, client):
    workflow_id = n8n.add(BODY)
    changed = {**BODY, "nodes": [HOOK, {**HTTP, "retryOnFail": True}]}
    n8n.misbehave("drop_after", method="PUT")
    draft = client.put_workflow(workflow_id, changed)
    n8n.misbehave("drop_after", path="activate")
    client.publish(workflow_id, draft["versionId"])

    assert n8n.count("PUT", workflow_id) == 2
    assert len(n8n.workflows[workflow_id].versions) == 2
    assert n8n.workflows[workflow_id].public["activeVersionId"] == draft["versionId"]

    client.unpublish(workflow_id)
    n8n.misbehave("drop_after", method="DELETE")
    client.delete_workflow(workflow_id)
    assert workflow_id not in n8n.workflows


def test_what_must_happen_once_is_asked_once(n8n, client):
    workflow_id, execution_id = failed_run(n8n)
    before = len(n8n.requests)
    calls = [
        lambda: client.create_workflow(BODY),
        lambda: client.publish(workflow_id),
        lambda: client.retry_execution(execution_id),
        lambda: client.create_credential("a", "b", {}),
    ]
    n8n.misbehave("status", times=len(calls), method="POST")
    for call in calls:
        with pytest.raises(N8nFailedError) as failed:
            call()
        assert failed.value.maybe_done
    assert len(n8n.requests) == before + len(calls)


def test_a_busy_n8n_is_asked_again_when_it_says(n8n, client):
    n8n.misbehave("status", status=429)
    assert client.list_workflows() == []

    error = from_answer(429, b"{}", what="GET /workflows", retry_after="7")
    assert isinstance(error, N8nBusyError)
    assert error.retry_after_s == 7
    assert from_answer(429, b"{}", what="GET /workflows", retry_after="Wed, 21 Oct").retry_after_s is None


def test_a_lost_answer_is_told_from_a_request_that_was_never_sent(n8n, client):
    n8n.misbehave("drop_after", method="POST")
    with pytest.raises(N8nDownError) as lost:
        client.create_workflow(BODY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with pytest.raises(N8nDownError, match="see that it runs") as unsent:
        N8nClient(f"http://127.0.0.1:{free}", API_KEY, timeout_s=0.2).create_workflow(BODY)

    assert lost.value.maybe_done
    assert len(n8n.workflows) == 1
    assert not unsent.value.maybe_done
    assert (lost.value.status, unsent.value.status) == (502, 502)


def test_n8n_is_told_for_which_request_it_is_asked(n8n, client):
    client.list_workflows()
    with context.bind(request_id="request-1"):
        client.list_workflows()
    assert [request.headers.get("x-request-id") for request in n8n.requests] == [None, "request-1"]


class OneAnswerPerConnection(BaseHTTPRequestHandler):
    """Keeps the connection, as it says, and closes it when the next request arrives."""

    protocol_version = "HTTP/1.1"
    answered = False

    def do_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.answered:
            self.close_connection = True
            return
        self.answered = True
        answer = {"id": "w", "versionId": "v", "activeVersionId": None, "nodes": [], "connections": {}}
        payload = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_any

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_kept_connection_that_n8n_closes_does_not_leave_a_write_in_doubt():
    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswerPerConnection) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        client = N8nClient(f"http://127.0.0.1:{server.server_address[1]}", API_KEY, timeout_s=2.0)
        client.get_workflow("w")

        assert client.create_workflow(BODY)["id"] == "w"
        client.close()
        server.shutdown()


# -- what it does not wait for, or read


@pytest.mark.parametrize("kind", ["stall", "drip"])
def test_an_answer_that_does_not_come_is_not_waited_for(n8n, kind):
    client = N8nClient(n8n.url, API_KEY, timeout_s=0.2)
    n8n.misbehave(kind, times=9)
    began = time.monotonic()
    with pytest.raises(N8nDownError) as slow:
        client.list_workflows()
    assert slow.value.maybe_done
    assert (slow.value.status, slow.value.code) == (504, "n8n_timeout")
    assert time.monotonic() - began < 3 * 0.2 + 0.5


def test_an_endless_answer_is_not_read(n8n, client):
    n8n.misbehave("huge")
    with pytest.raises(N8nTooLargeError, match="larger than 8 MiB"):
        client.list_workflows()
    assert client.list_workflows() == []


# -- what it says


def test_a_wrong_key_says_what_to_do(n8n):
    with pytest.raises(N8nKeyError, match="N8N_API_KEY") as wrong:
        N8nClient(n8n.url, "wrong-key-value").list_workflows()
    assert wrong.value.permanent
    assert "wrong-key-value" not in str(wrong.value)
    assert len(n8n.requests) == 1


@pytest.mark.parametrize("key", ["", "line\nbreak", "nön-ascii"])
def test_what_cannot_be_a_key_is_never_sent(n8n, key):
    with pytest.raises(N8nKeyError):
        N8nClient(n8n.url, key)


def test_a_missing_scope_names_what_was_refused(n8n, client):
    n8n.scopes = {"workflow:list"}
    with pytest.raises(N8nScopeError, match=r"POST /workflows.*scopes") as refused:
        client.create_workflow(BODY)
    assert refused.value.permanent


def test_a_refused_body_tells_n8ns_reason(n8n, client):
    with pytest.raises(N8nRefusedError, match="'notAField'") as refused:
        client.create_workflow({**BODY, "notAField": 1})
    assert refused.value.permanent
    with pytest.raises(N8nRefusedError, match="no trigger node"):
        client.publish(n8n.add({**BODY, "nodes": [HTTP], "connections": {}}, active=False))


def test_what_n8n_says_is_cleaned_and_cut():
    body = b'{"message": "bad\\u0000 <b>node</b>\\u202e password=hunter22 ' + b"x" * 2000 + b'"}'
    message = from_answer(400, body, what="PUT /workflows/w").detail
    assert "bad node password=[redacted]" in message
    assert message.isprintable()
    assert len(message) < 500


def test_unknown_things_are_not_found(n8n, client):
    workflow_id = n8n.add(BODY)
    for call in (
        lambda: client.get_workflow("doesNotExist0001"),
        lambda: client.put_workflow("doesNotExist0001", BODY),
        lambda: client.version(workflow_id, "none"),
        lambda: client.publish(workflow_id, "none"),
    ):
        with pytest.raises(WorkflowNotFoundError):
            call()
    for call in (lambda: client.get_execution("999"), lambda: client.retry_execution("999")):
        with pytest.raises(ExecutionNotFoundError):
            call()


@pytest.mark.parametrize("identifier", ["..", "a/b", "", "x" * 65, "a?b"])
def test_what_cannot_be_an_id_is_not_asked_for(n8n, client, identifier):
    with pytest.raises(WorkflowNotFoundError):
        client.get_workflow(identifier)
    with pytest.raises(ExecutionNotFoundError):
        client.get_execution(identifier)
    assert n8n.requests == []


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b'{"message":"not found"}'), (404, b"<html>nginx</html>"), (405, b"{}"), (301, b""), (404, b"")],
)
def test_an_address_without_the_api_is_told_from_a_missing_thing(status, body):
    error = from_answer(status, body, what="GET /workflows/w")
    assert isinstance(error, N8nTooOldError)
    assert "N8N_API_URL" in error.detail


def test_an_address_that_answers_with_a_page_is_no_n8n(n8n, client):
    n8n.misbehave("garbage")
    with pytest.raises(N8nTooOldError, match="recent enough"):
        client.list_workflows()


def test_an_old_answer_is_told_by_what_it_lacks():
    old = {"id": "1", "name": "w", "nodes": [], "connections": {}, "versionId": "v"}
    with pytest.raises(N8nTooOldError, match="tested with"):
        client_module._workflow(old, "/workflows/1")


def test_gateway_errors_mean_that_n8n_is_down():
    for status in (502, 503, 504):
        answered = from_answer(status, b"<html>", what="GET /x")
        assert isinstance(answered, N8nDownError)
        assert answered.status == (504 if status == 504 else 502)


def test_the_key_is_in_no_error_and_no_log(n8n, caplog):
    caplog.set_level(logging.DEBUG)
    client = N8nClient(n8n.url, API_KEY, timeout_s=0.2)
    n8n.misbehave("html", times=3)
    with pytest.raises(N8nError) as failed:
        client.list_workflows()
    assert "ResponseError" not in failed.value.detail
    assert API_KEY not in caplog.text + repr(failed.value) + repr(client) + repr(vars(failed.value))
