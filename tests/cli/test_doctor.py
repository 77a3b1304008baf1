"""``flask doctor``: what it says of each thing that may be wrong, what it mends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.journal import Change
from app.journal.records import Case, Ceiling, DeadLetter, Repair
from app.journal.sqlite import SqliteJournal
from app.n8n.client import N8nClient
from app.ops import doctor_round_trip as round_trip
from app.ops.doctor_findings import Examination
from app.ops.doctor_n8n import check_key, check_version
from app.settings import load
from tests.cli.conftest import Register
from tests.cli.doctor_rig import CLAUDE_KEY, Doctor, install, scheduled, workflow
from tests.fakes.messages_api import MessagesApi, Reply, say
from tests.fakes.n8n import API_KEY, FakeN8n
from tests.support.projects import PROJECT
from tests.support.server import BridgeServer, free_port, wait_for

NEEDED = (
    *(f"workflow:{verb}" for verb in ("list", "read", "create", "update", "activate", "deactivate", "delete")),
    *(f"execution:{verb}" for verb in ("list", "read", "retry", "stop")),
)
OPTIONAL = ("credential:list", "credential:create")


def dead_letters(bridge: BridgeServer) -> list[Any]:
    found: list[Any] = bridge.get("/dead-letters").json["deadLetters"]
    return found


def examination(n8n: FakeN8n) -> Examination:
    settings = load({"N8N_API_URL": n8n.url, "N8N_API_KEY": API_KEY}, "/dev/null")
    return Examination(settings, client=N8nClient(n8n.url, API_KEY))


# -- all is well


def test_a_bridge_in_order_is_told_so_and_nothing_is_left_behind(
    doctor: Doctor, n8n: FakeN8n, bridge: BridgeServer, register: Register
) -> None:
    (handler,) = n8n.workflows
    register(n8n.add(workflow(errorWorkflow=handler)))
    before = set(n8n.workflows)

    report = doctor.run()

    assert report.is_well(), report
    assert "reached the bridge" in report.only("round trip")["detail"]
    assert report.only("n8n version")["detail"].startswith("2.41.1")
    assert set(n8n.workflows) == before
    assert dead_letters(bridge) == []


def test_people_get_aligned_lines_without_colours_in_a_pipe(doctor: Doctor) -> None:
    ran = doctor.ask("doctor", "--no-round-trip")

    assert ran.code == 0 and ran.err == "" and "\x1b" not in ran.out
    *lines, empty, last = ran.out.splitlines()
    assert empty == "" and re.fullmatch(r"no problems, \d notes?", last)
    assert all(re.match(r"(ok|note|problem) {2,}[a-zA-Z]|  +→ ", line) for line in lines)
    column = lines[0].index("agent offline")
    assert all(line[column - 2 : column] in ("  ", "→ ") and line[column] != " " for line in lines if "→" not in line)


def test_without_an_n8n_there_are_notes_and_the_exit_code_is_0(bridge: BridgeServer) -> None:
    report = Doctor(bridge, None).run()

    assert report.is_well()
    assert report.only("n8n")["state"] == "note" and "N8N_API_URL" in report.only("n8n")["todo"]
    assert report.only("journal")["state"] == "ok"
    for name in ("n8n version", "API key", "error workflow", "reporting", "round trip", "clock", "runs"):
        assert report.only(name)["detail"] == "not checked: no n8n is configured"


# -- settings and journal


def test_a_wrong_setting_is_told_and_other_commands_say_it_too(doctor: Doctor) -> None:
    report = doctor.run(BIND="nowhere")

    assert report.only_problem()["name"] == "settings"
    assert "BIND" in report.only_problem()["detail"]
    ran = doctor.ask("sessions", "list", BIND="nowhere")
    assert ran.code == 1 and "BIND must be" in ran.err and "Traceback" not in ran.err


def test_a_file_that_is_no_journal_is_a_problem_and_n8n_is_looked_at_all_the_same(
    doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database, whatever its name says. " * 500)

    report = doctor.run(JOURNAL_PATH=tmp_path / "journal.db")

    assert report.only_problem()["name"] == "journal"
    assert report.only("error workflow")["state"] == "ok"
    assert report.only("waiting")["detail"] == "not checked: the journal cannot be opened"


def test_a_journal_with_a_damaged_page_is_a_problem(doctor: Doctor, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.close()
    content = bytearray(path.read_bytes())
    # The last page: of an index that nothing at the start reads.
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)

    assert doctor.quick(JOURNAL_PATH=path).only_problem()["name"] == "journal"


def test_a_folder_that_cannot_be_made_is_a_problem_of_the_journal(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    report = doctor.quick(JOURNAL_PATH=tmp_path / "file" / "journal.db")

    assert report.only_problem()["name"] == "journal"


def test_no_journal_yet_is_a_note_and_none_is_made(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor.run(JOURNAL_PATH=tmp_path / "journal.db")

    assert report.is_well() and report.only("journal")["state"] == "note"
    assert not (tmp_path / "journal.db").exists()


# -- the bridge


def test_a_bridge_that_runs_with_these_settings_is_ok(bridge: BridgeServer) -> None:
    found = Doctor(bridge, None).run().only("bridge")

    assert (found["state"], found["detail"]) == ("ok", f"the one at {bridge.url} is ready")


def test_where_no_bridge_runs_that_is_a_note(bridge: BridgeServer) -> None:
    report = Doctor(bridge, None).run(BIND=f"127.0.0.1:{free_port()}")

    assert report.is_well() and "(BIND)" in report.only("bridge")["detail"]


def test_a_bridge_with_other_settings_is_a_problem(bridge: BridgeServer, n8n: FakeN8n) -> None:
    connected = {"N8N_API_URL": n8n.url, "N8N_API_KEY": API_KEY, "N8N_CALLBACK_SECRET": None}
    problem = Doctor(bridge, None).quick(**connected).problems[0]

    assert problem["name"] == "bridge" and "HUP" in problem["todo"]
    said = "N8N_API_URL and N8N_API_KEY are unset there, N8N_CALLBACK_SECRET is set there"
    assert problem["detail"].endswith(said)


def test_a_bridge_that_is_not_ready_is_a_problem_with_its_reason(bridge: BridgeServer) -> None:
    answers = {"/healthz": {"status": "ok"}, "/readyz": {"checks": {"journal": "The disk is full.", "worker": "ok"}}}

    class Full(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path, {})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: it would be the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as full:
        Thread(target=full.serve_forever, daemon=True).start()
        problem = Doctor(bridge, None).run(BIND=f"127.0.0.1:{full.server_port}").only_problem()
        full.shutdown()

    assert problem["detail"].endswith("is not ready (journal: The disk is full.)")


# -- the agent


def test_a_claude_that_is_not_there_is_a_problem(doctor: Doctor) -> None:
    problem = doctor.quick(ANTHROPIC_API_KEY=CLAUDE_KEY, CLAUDE_BIN="/nowhere/claude").only_problem()

    assert problem["name"] == "agent" and "/nowhere/claude" in problem["detail"] and "CLAUDE_BIN" in problem["todo"]


def test_a_call_of_claude_is_made_where_there_is_a_key_and_its_cost_is_told(doctor: Doctor) -> None:
    with MessagesApi([say("k", times=0)]) as api:
        report = doctor.quick(ANTHROPIC_API_KEY=CLAUDE_KEY, ANTHROPIC_BASE_URL=api.url)

    assert report.is_well(), report
    assert re.search(r"answered within .* USD", report.only("agent")["detail"])
    assert len(api.requests) == 1 and api.requests[0].tools == []


def test_a_key_that_claude_refuses_is_a_problem(doctor: Doctor) -> None:
    with MessagesApi([Reply(error=401, message=f"invalid x-api-key {CLAUDE_KEY}", times=0)]) as api:
        problem = doctor.quick(ANTHROPIC_API_KEY=CLAUDE_KEY, ANTHROPIC_BASE_URL=api.url).only_problem()

    assert problem["name"] == "agent" and "ANTHROPIC_API_KEY" in problem["todo"]


# -- n8n


def test_a_wrong_key_is_a_problem_and_what_needs_it_is_not_checked(doctor: Doctor) -> None:
    report = doctor.run(N8N_API_KEY="another-key")

    assert report.only_problem()["name"] == "n8n" and "N8N_API_KEY" in report.only_problem()["todo"]
    assert report.only("error workflow")["detail"] == "not checked: n8n refuses the key"
    assert report.only("n8n version")["state"] == "ok"


def test_scopes_that_the_key_lacks_are_a_problem(doctor: Doctor, n8n: FakeN8n) -> None:
    n8n.scopes = {*NEEDED} - {"workflow:activate", "execution:retry"}

    report = doctor.quick()

    assert report.only_problem()["detail"] == "the key lacks workflow:activate, execution:retry"
    assert [finding["state"] for finding in report.of("API key")] == ["problem", "note"]


@pytest.mark.parametrize("scope", [*NEEDED, *OPTIONAL])
def test_each_scope_is_asked_for_by_a_request_that_does_nothing(n8n: FakeN8n, scope: str) -> None:
    n8n.scopes = {*NEEDED, *OPTIONAL} - {scope}
    before = repr((n8n.workflows, n8n.credentials, n8n.executions))

    found = list(check_key(examination(n8n)))

    assert [f.state for f in found] == (["ok", "note"] if scope in OPTIONAL else ["problem"])
    assert found[-1].detail.startswith(f"the key lacks {scope}")
    assert repr((n8n.workflows, n8n.credentials, n8n.executions)) == before


def test_an_n8n_that_does_not_run_is_a_problem(doctor: Doctor) -> None:
    report = doctor.run(N8N_API_URL=f"http://127.0.0.1:{free_port()}")

    assert "connection refused" in report.only_problem()["detail"]
    assert report.only("clock")["detail"] == "not checked: n8n does not answer"


def test_what_is_tried_again_is_no_problem_and_no_noise(doctor: Doctor, n8n: FakeN8n) -> None:
    n8n.misbehave("status", path="excludePinnedData", status=503)

    ran = doctor.ask("doctor", "--no-round-trip")

    assert (ran.code, ran.err) == (0, "")


def test_an_address_without_tls_is_told_by_that_name(doctor: Doctor, n8n: FakeN8n) -> None:
    problem = doctor.run(N8N_API_URL=n8n.url.replace("http:", "https:")).only_problem()

    assert "no TLS there" in problem["detail"] and "http://" in problem["todo"]


def test_an_address_that_is_no_n8n_is_a_problem(doctor: Doctor, bridge: BridgeServer) -> None:
    assert "N8N_API_URL" in doctor.quick(N8N_API_URL=bridge.url).problems[0]["todo"]


@pytest.mark.parametrize(
    ("version", "tells_anybody", "state", "said"),
    [
        ("2.41.9", False, "ok", "2.41.9, tested"),
        ("2.60.0", False, "note", "2.60.0; this bridge was tested with 2.41"),
        ("1.122.4", True, "problem", "1.122.4 is too old"),
        ("", False, "note", "n8n does not tell; by how it behaves 2.x"),
    ],
)
def test_the_version_is_told_and_judged(n8n: FakeN8n, version: str, tells_anybody: bool, state: str, said: str) -> None:
    n8n.version, n8n.tells_anybody = version, tells_anybody

    (found,) = check_version(examination(n8n))

    assert found.state == state and found.detail.startswith(said)


@pytest.mark.parametrize(("ahead_s", "said"), [(60, "ahead of"), (-60, "behind")])
def test_a_clock_that_is_off_is_a_problem(doctor: Doctor, n8n: FakeN8n, ahead_s: float, said: str) -> None:
    n8n.clock_ahead_s = ahead_s

    problem = doctor.quick().only_problem()

    assert problem["name"] == "clock" and said in problem["detail"]


# -- the error workflow


def spoil_error_workflow(n8n: FakeN8n, bridge: BridgeServer, how: str) -> None:
    (handler,) = n8n.workflows
    stored = n8n.workflows[handler]
    match how:
        case "missing":
            del n8n.workflows[handler]
        case "unpublished":
            stored.public.update(active=False, activeVersionId=None)
        case "another address":
            install(n8n, "http://127.0.0.1:9")
        case "another secret":
            install(n8n, bridge.url, secret="another-secret-than-the-bridge's")
        case "another version":
            nodes = [
                {**node, "notes": str(node.get("notes", "")).replace("version 1", "version 0")}
                for node in stored.public["nodes"]
            ]
            n8n.edit(handler, nodes=nodes, publish=True)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "has no error workflow"),
        ("unpublished", "is not published"),
        ("another address", "reports to another address"),
        ("another secret", "presents another secret"),
        ("another version", "is of another version"),
    ],
)
def test_an_error_workflow_that_is_not_as_it_should_be_is_a_problem_and_fix_mends_it(
    doctor: Doctor, n8n: FakeN8n, bridge: BridgeServer, how: str, said: str
) -> None:
    spoil_error_workflow(n8n, bridge, how)
    before = repr(n8n.workflows)

    problem = doctor.quick().only_problem()

    assert problem["name"] == "error workflow" and said in problem["detail"] and "--fix" in problem["todo"]
    assert repr(n8n.workflows) == before
    assert "just now" in doctor.run("--fix").only("error workflow")["detail"]
    again = doctor.run()
    assert again.is_well() and "just now" not in again.only("error workflow")["detail"]


def test_a_registered_workflow_that_names_no_error_workflow_is_mended_and_not_changed_else(
    doctor: Doctor, n8n: FakeN8n, register: Register
) -> None:
    (handler,) = n8n.workflows
    workflow_id = n8n.add(workflow("Orders", saveManualExecutions=True))
    other = n8n.add(workflow("Bills", path="bills", errorWorkflow=handler))
    register(workflow_id)
    register(other)
    before = {**n8n.workflows[workflow_id].public}

    problem = doctor.quick().only_problem()
    assert problem["name"] == "reporting" and '"Orders"' in problem["detail"] and workflow_id in problem["detail"]

    assert "set on 1 just now" in doctor.quick("--fix").only("reporting")["detail"]
    assert doctor.quick().is_well()
    after = n8n.workflows[workflow_id].public
    assert after["settings"] == {**before["settings"], "errorWorkflow": handler}
    for key in ("name", "nodes", "connections", "versionId", "activeVersionId", "active"):
        assert after[key] == before[key]
    assert [r.path for r in n8n.requests if r.method == "PUT" and other in r.path] == []


def test_another_error_workflow_is_told_by_name_and_fix_leaves_it(
    doctor: Doctor, n8n: FakeN8n, register: Register
) -> None:
    theirs = n8n.add({**workflow("Tell the team", path="team")})
    workflow_id = n8n.add(workflow(errorWorkflow=theirs))
    register(workflow_id)

    problem = doctor.quick("--fix").only_problem()

    assert '"Tell the team"' in problem["detail"] and "--fix does not replace" in problem["todo"]
    assert n8n.workflows[workflow_id].public["settings"]["errorWorkflow"] == theirs


def test_a_registered_workflow_that_n8n_has_not_any_more_is_a_problem_until_its_session_ends(
    doctor: Doctor, bridge: BridgeServer
) -> None:
    opened = bridge.post("/sessions").json
    path, headers = f"/sessions/{opened['sessionId']}", {"Authorization": f"Bearer {opened['token']}"}
    bridge.post(f"{path}/workflows", json={"workflowId": "gone000000000001"}, headers=headers)

    problem = doctor.quick().only_problem()
    assert "gone000000000001" in problem["detail"] and f"DELETE {path}" in problem["todo"]

    bridge.request("DELETE", path, headers=headers)
    assert doctor.quick().is_well()


# -- the round trip


def test_a_bridge_that_does_not_run_is_a_problem(doctor: Doctor, n8n: FakeN8n, tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "journal.db").close()
    url = f"http://127.0.0.1:{free_port()}"
    install(n8n, url)

    problem = doctor.run(N8N_CALLBACK_URL=url, JOURNAL_PATH=tmp_path / "journal.db").only_problem()

    assert problem["name"] == "round trip" and "no bridge answers" in problem["detail"]
    assert len(n8n.workflows) == 1


def test_a_report_that_another_bridge_took_is_a_problem_and_nothing_is_left(
    doctor: Doctor, n8n: FakeN8n, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trip, "LIMIT_S", 2.0)
    SqliteJournal(tmp_path / "journal.db").close()

    problem = doctor.run(JOURNAL_PATH=tmp_path / "journal.db").only_problem()

    assert problem["name"] == "round trip" and "n8n has delivered one" in problem["detail"]
    assert "JOURNAL_PATH" in problem["todo"]
    assert len(n8n.workflows) == 1


def test_webhooks_that_are_not_served_are_a_problem_and_nothing_is_left(
    doctor: Doctor, n8n: FakeN8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trip, "LIVE_S", 0.5)
    n8n.misbehave("status", times=1000, path="/webhook/", status=404)

    problem = doctor.run().only_problem()

    assert problem["name"] == "round trip" and "404" in problem["detail"]
    assert len(n8n.workflows) == 1


def test_what_a_killed_doctor_has_left_is_removed_by_the_next(doctor: Doctor, n8n: FakeN8n) -> None:
    (handler,) = n8n.workflows
    n8n.add(round_trip._workflow("bridge-doctor-left", handler))
    theirs = n8n.add({**workflow(path="theirs"), "name": round_trip.TITLE})

    assert doctor.run().is_well()

    assert set(n8n.workflows) == {handler, theirs}


def test_a_doctor_that_is_ended_cleans_up(doctor: Doctor, n8n: FakeN8n) -> None:
    n8n.misbehave("status", times=1000, path="/webhook/", status=404)
    argv, environment = doctor.command("doctor")
    process = subprocess.Popen(argv, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(lambda: any(request.path.startswith("/webhook/") for request in n8n.requests), what="the webhook's call")

    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]

    assert process.returncode == 128 + signal.SIGTERM and b"Traceback" not in said
    assert len(n8n.workflows) == 1


def test_a_key_that_may_not_delete_makes_no_workflow(doctor: Doctor, n8n: FakeN8n) -> None:
    n8n.scopes = {*NEEDED, *OPTIONAL} - {"workflow:delete"}

    assert doctor.run().only("round trip")["detail"] == "not checked: the key lacks workflow:delete"
    assert len(n8n.workflows) == 1


# -- what runs, and what waits


def aged(n8n: FakeN8n, workflow_id: str, days: float) -> None:
    """All that is known of it is so old."""
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat().replace("+00:00", "Z")
    n8n.workflows[workflow_id].public["updatedAt"] = then
    for run in n8n.executions.values():
        if run["workflowId"] == workflow_id:
            run["startedAt"] = then


def test_a_schedule_that_does_not_run_is_a_problem(doctor: Doctor, n8n: FakeN8n, register: Register) -> None:
    (handler,) = n8n.workflows
    late = n8n.add(scheduled({"field": "hours", "hoursInterval": 1}))
    fine = n8n.add(scheduled({"field": "months"}))
    for workflow_id in (late, fine):
        n8n.workflows[workflow_id].public["settings"]["errorWorkflow"] = handler
        n8n.fail(workflow_id, node="Tell", message="so that there is a run")
        register(workflow_id)
        aged(n8n, workflow_id, 2)

    problem = doctor.quick().only_problem()

    assert problem["name"] == "runs" and late in problem["detail"] and "ran last 2 days ago" in problem["detail"]


def test_a_webhook_that_nobody_calls_and_a_workflow_that_is_not_active_are_notes(
    doctor: Doctor, n8n: FakeN8n, register: Register
) -> None:
    (handler,) = n8n.workflows
    quiet = n8n.add(workflow(errorWorkflow=handler))
    register(quiet)
    register(n8n.add(workflow(path="off", errorWorkflow=handler), active=False))
    aged(n8n, quiet, 40)

    report = doctor.quick()

    assert report.is_well()
    assert [finding["state"] for finding in report.of("runs")] == ["note", "note"]


def test_what_waits_for_a_person_is_counted_in_notes(bridge: BridgeServer, tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    about = {"workflow_id": "w1", "signature": "s1"}
    repair = Repair(repair_id="r1", session_id="x", workflow_name="W", attempt=1, state="waiting", **about)
    letters = [
        DeadLetter(dead_letter_id="d1", reason="no_session", report={}),
        DeadLetter(dead_letter_id="d2", reason="rate_limited", report={}),
    ]
    case, brake = Case(state="blocked", **about), Ceiling(autonomy="suggest")
    journal.commit(Change(puts=[repair.put(), case.put(), brake.put(), *(letter.put() for letter in letters)]))
    journal.close()

    report = Doctor(bridge, None).run(JOURNAL_PATH=tmp_path / "journal.db")

    assert report.is_well()
    details = [finding["detail"] for finding in report.of("waiting")]
    assert details == [
        'the brake is on: no repair goes further than "suggest"',
        "1 repair(s) wait for a decision",
        "1 error(s) are blocked: repairs did not help",
        "1 callback(s) are held back by the rate limit",
        "dead letters: 1 no_session",
    ]
