"""One run: a bridge of two workers and its n8n, people and disturbances in threads, then rest, then the records."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.consistency.backends import BACKENDS, Backend
from tests.consistency.caller import Caller
from tests.consistency.check_repairs import AT_REST
from tests.consistency.clients import Person, Place
from tests.consistency.disturber import Disturber
from tests.consistency.lines import GONE
from tests.consistency.plan import plan
from tests.consistency.readers import page
from tests.consistency.recording import Record, Recorder
from tests.consistency.recording_n8n import RecordingN8n
from tests.heal.rig import install, settings_for
from tests.support.projects import copy_project
from tests.support.server import BridgeServer

LEASE_S = 1
WORKERS = 2
SETTLE_S = 60.0
READ_S = 5.0


def run(*, seed: int, seconds: float, backend: str = "sqlite") -> list[Record]:
    """Do what the seed says for so long, let everything come to rest, and tell what was seen."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory(prefix="bridge-consistency-") as temporary:
        folder = Path(temporary)
        writes = folder / "writes"
        writes.mkdir()
        n8n = RecordingN8n(recorder, seed, writes)
        n8n.start()
        try:
            with BACKENDS[backend](folder) as chosen, _bridge(n8n, folder, chosen) as server:
                place = Place(server, n8n, folder, recorder)
                _play(place, chosen, seed, seconds)
                for line in server.raw_lines():
                    if _is_bug(line):
                        recorder.add("bug", line=line)
        finally:
            n8n.stop()
        for sent in n8n.unexpected:
            recorder.add("bug", line=f"n8n has no {sent}")
    return recorder.records


def _is_bug(line: str) -> bool:
    # Redis is away; or a worker is stopped within a transaction and keeps the others out: SQLite has one writer.
    expected = "another is tried" in line and "JournalUnavailableError" in line
    return ("by a bug" in line or "Traceback" in line) and not expected


@contextmanager
def _bridge(n8n: RecordingN8n, folder: Path, backend: Backend) -> Iterator[BridgeServer]:
    project = copy_project(folder / "project")
    tests = Path(__file__).parents[1]
    shutil.copy(tests / "heal" / "wsgi.py", project / "planned_wsgi.py")
    shutil.copy(tests / "support" / "mortal_journal.py", project / "mortal_journal.py")
    shutil.copy(tests / "consistency" / "wsgi.py", project / "wsgi.py")
    settings = settings_for(
        n8n,
        TEST_FOLDER=folder,
        WEB_CONCURRENCY=WORKERS,
        LEASE_SECONDS=LEASE_S,
        MAX_CONCURRENT_TURNS=6,
        GRACEFUL_TIMEOUT_SECONDS=7,
        **backend.settings,
    )
    with BridgeServer(settings, project=project) as server:
        install(n8n, server)
        yield server


def _play(place: Place, backend: Backend, seed: int, seconds: float) -> None:
    planned = plan(seed, seconds=seconds)
    people = place.people
    for number, ops in enumerate(planned.clients):
        people.append(Person(place, f"p{number}", ops))
        people[-1].open()
    disturber = Disturber(
        place.server,
        place.n8n,
        backend,
        place.recorder,
        disturbances=planned.disturbances,
        pauses=planned.pauses,
        lease_s=LEASE_S,
    )
    clients: list[Person | Caller] = [*people, Caller(place, seed)]
    for client in clients:
        client.start()
    disturber.start()
    place.ended.wait(seconds)
    disturber.stop()
    place.ended.set()
    for client in clients:
        client.join(60)
        if client.error is not None:
            raise client.error
        assert not client.is_alive(), "a client does not end"
    place.server.wait_healthy()
    _settle(place)


def _settle(place: Place) -> None:
    """Wait until nothing is left to do, then tell how it all is."""
    deadline = time.monotonic() + SETTLE_S
    while (left := _left(place)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        place.recorder.add("unsettled", what="; ".join(left))
    for person in place.people:
        log = _log(place, person)
        for reader in [r for other in place.people for r in other.readers if r.session_id == person.session]:
            if log and reader.is_open:
                reader.catch_up(log[-1]["seq"], limit_s=READ_S)
        place.recorder.add("final", session=person.session, events=_log(place, person), repairs=_repairs(place, person))
        for owned in person.owned:
            clean = place.n8n.is_clean(owned.workflow_id)
            place.recorder.add("workflow", workflow=owned.workflow_id, clean=clean)
    place.n8n.record_end()
    for person in place.people:
        for reader in person.readers:
            reader.disconnect()


def _left(place: Place) -> list[str]:
    """What is still to be done."""
    try:
        place.n8n.settle(timeout_s=1)
    except AssertionError as exc:
        return [str(exc)]
    left = []
    for person in place.people:
        try:
            log, repairs = _log(place, person), _repairs(place, person)
        except GONE as exc:
            return [f"session {person.session} cannot be read: {exc!r}"]
        chats = {e["turnId"] for e in log if e["type"] == "turn_started" and e["data"]["kind"] == "chat"}
        ends = [e for e in log if e["type"] == "turn_finished"]
        answers = sum(e["turnId"] in chats and e["data"]["outcome"] != "interrupted" for e in ends)
        said = sum(e["type"] == "user_message" for e in log)
        if answers < said:
            left.append(f"{said - answers} messages of session {person.session} are unanswered")
        begun = {e["turnId"] for e in log if e["type"] == "turn_started"} - {e["turnId"] for e in ends}
        left += [f"turn {turn} of session {person.session} has not ended" for turn in sorted(begun)]
        left += [f"repair {r['repairId']} is {r['state']}" for r in repairs if r["state"] not in AT_REST]
        for owned in person.owned:
            if not place.n8n.is_clean(owned.workflow_id):
                left.append(f"workflow {owned.workflow_id} has a draft that is not what runs")
    return left


def _log(place: Place, person: Person) -> list[Record]:
    found: list[Record] = []
    while more := page(
        place.server, person.session, person.token, after=found[-1]["seq"] if found else 0, limit_s=READ_S
    ):
        found += more
    return found


def _repairs(place: Place, person: Person) -> list[Record]:
    headers = {"Authorization": f"Bearer {person.token}"}
    answer = place.server.get(f"/sessions/{person.session}/repairs", headers=headers, limit_s=READ_S)
    if answer.status != 200:
        raise ConnectionError(f"answered {answer.status}")
    found: list[Record] = answer.json["repairs"]
    return found
