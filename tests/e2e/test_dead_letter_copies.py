"""Dead letters are kept in S3 or DynamoDB as well: each of them, once, and never in the way of an answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.doctor_rig import Doctor
from tests.e2e.conftest import ACCESS, SECRET, bugs, new_id
from tests.support.aws import KEY_ID, SECRET_KEY, SESSION_TOKEN, Aws
from tests.support.client import failure
from tests.support.projects import PROJECT, copy_project
from tests.support.scrape import by_label, samples
from tests.support.server import UNLIMITED, Answer, BridgeServer, wait_for

OPERATOR = {"Authorization": f"Bearer {ACCESS}"}
BUCKET, TABLE = "letters-of-the-bridge", "letters"
NO_LIMIT, LIMIT = (f"RATE_LIMIT_CALLBACKS_PER_MINUTE={limit}\n" for limit in (0, 1))
SHORT = """
from app import create_app, lifecycle
from app.callbacks import aws_store, copies
lifecycle.COPIES_INTERVAL_S = 0.1
copies.PAUSES_S = (0.2,) * {tries}
aws_store.READ_TIMEOUT_S = 0.5
aws_store.WRITE_TIMEOUT_S = 1.0
app = create_app()
"""


@contextmanager
def copying(folder: Path, aws: Aws, url: str, *, tries: int = 500, **more: Any) -> Iterator[BridgeServer]:
    """A bridge with two workers whose pauses are short."""
    project = copy_project(folder / "project")
    (project / "wsgi.py").write_text(SHORT.format(tries=tries))
    settings = {
        **UNLIMITED,
        **aws.settings,
        "WEB_CONCURRENCY": 2,
        "LEASE_SECONDS": 1,
        "ACCESS_TOKEN": ACCESS,
        "N8N_CALLBACK_SECRET": SECRET,
        "LOG_LEVEL": "debug",
        "DEAD_LETTER_URL": url,
        **more,
    }
    # In the file, so that a reload can change it.
    settings["RATE_LIMIT_CALLBACKS_PER_MINUTE"] = ""
    with BridgeServer(settings, project=project, env_file=NO_LIMIT) as server:
        yield server
        assert not bugs(server)


def call_back(server: BridgeServer, body: Any, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json", **headers}
    return server.post("/callbacks/n8n/error", body=data, headers=sent)


def lose(server: BridgeServer, **options: Any) -> str:
    """A callback that nobody owns; gives its letter's id."""
    answer = call_back(server, failure(new_id(), **options))
    assert answer.status == 202
    return str(answer.json["deadLetterId"])


def letter(server: BridgeServer, letter_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/dead-letters/{letter_id}", headers=OPERATOR).json
    return found


def key_of(server: BridgeServer, letter_id: str, prefix: str = "dead/letters/") -> str:
    return f"{prefix}{letter(server, letter_id)['at'][:10]}/{letter_id}.json"


def copied(server: BridgeServer, *letter_ids: str) -> None:
    for letter_id in letter_ids:
        server.wait_log("dead letter copied", deadLetterId=letter_id)


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with Aws() as aws:
        aws.make_bucket(BUCKET)
        aws.make_table(TABLE)
        yield aws


@pytest.fixture(scope="module")
def server(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    url = f"s3://{BUCKET}/dead/letters"
    with copying(tmp_path_factory.mktemp("s3"), aws, url, MAX_MESSAGE_BYTES=65_536) as server:
        yield server


@pytest.fixture(scope="module")
def table_server(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """It tries three times."""
    more = {"tries": 2, "WEB_CONCURRENCY": 1, "MAX_MESSAGE_BYTES": 65_536}
    with copying(tmp_path_factory.mktemp("dynamodb"), aws, f"dynamodb://{TABLE}", **more) as server:
        yield server


# -- what arrives


def test_a_dead_letter_becomes_an_object_with_all_that_the_journal_has(aws: Aws, server: BridgeServer) -> None:
    letter_id = lose(server, execution_id=(execution_id := new_id("x")))
    copied(server, letter_id)

    content_type, found = aws.read(BUCKET, key_of(server, letter_id))
    kept = letter(server, letter_id)
    assert content_type == "application/json"
    assert found["body"] == kept["body"]
    assert found["executionId"] == execution_id
    assert found["body"]["execution"]["error"]["node"]["name"] == "HTTP Request"
    same = ("deadLetterId", "reason", "at", "workflowId", "executionId", "idempotencyKey", "requestId")
    assert {name: found[name] for name in same} == {name: kept[name] for name in same}


def test_what_could_not_be_read_is_copied_as_text(aws: Aws, server: BridgeServer) -> None:
    bad = call_back(server, b'{"workflow": {"id": "w-' + new_id().encode()).json["deadLetterId"]
    large = call_back(server, {**failure(new_id()), "more": "x" * 100_000}).json["deadLetterId"]
    copied(server, bad, large)

    assert aws.read(BUCKET, key_of(server, bad))[1]["reason"] == "bad_schema"
    found = aws.read(BUCKET, key_of(server, large))[1]
    assert found["reason"] == "too_large"
    assert found["sizeBytes"] > 100_000
    assert found["body"] == letter(server, large)["body"]


def test_a_secret_in_a_callback_is_in_no_copy(aws: Aws, server: BridgeServer) -> None:
    key = "sk-ant-api03-" + "aB3dE6gH9" * 5
    body = failure(new_id())
    body["execution"]["error"]["message"] = f"no {key}"
    letter_id = call_back(server, body).json["deadLetterId"]
    copied(server, letter_id)

    found = json.dumps(aws.read(BUCKET, key_of(server, letter_id))[1])
    assert key not in found and "The service" not in found and "no " in found


def test_a_callback_that_comes_again_is_the_same_object(aws: Aws, server: BridgeServer) -> None:
    body = failure(new_id())
    first, again = call_back(server, body), call_back(server, body)
    assert again.json["duplicate"]
    last = lose(server)  # what is due before it was dealt with before it, or together with it
    copied(server, first.json["deadLetterId"], last)

    assert aws.objects(BUCKET)[key_of(server, first.json["deadLetterId"])] == 1


def test_a_table_gets_an_item_that_expires_after_thirty_days(aws: Aws, table_server: BridgeServer) -> None:
    short = lose(table_server)
    # What is no UTF-8 is six characters a byte in JSON, and an item may have 400 KB.
    long = call_back(table_server, b"\xff" * 100_000).json["deadLetterId"]
    copied(table_server, short, long)
    items, kept = aws.items(TABLE), letter(table_server, short)

    item = items[short]
    assert json.loads(item["body"]["S"]) == kept["body"]
    assert item["reason"] == {"S": "no_session"}
    assert abs(int(item["expiresAt"]["N"]) - time.time() - 30 * 86_400) < 3_600
    assert "bytes left out" in items[long]["body"]["S"] and len(items[long]["body"]["S"]) < 70_000


def test_a_letter_that_is_kept_for_another_reason_later_is_written_over_its_copy(
    aws: Aws, table_server: BridgeServer
) -> None:
    table_server.write_env(LIMIT)
    table_server.hup()
    lose(table_server)
    body = failure(new_id())
    refused = call_back(table_server, body)
    assert refused.status == 429
    letter_id = refused.json["deadLetterId"]
    copied(table_server, letter_id)
    assert aws.items(TABLE)[letter_id]["reason"] == {"S": "rate_limited"}

    table_server.write_env(NO_LIMIT)
    table_server.hup()
    assert call_back(table_server, body).json["deadLetterId"] == letter_id
    wait_for(lambda: aws.items(TABLE)[letter_id]["reason"] == {"S": "no_session"}, what="the item to be written anew")


# -- a store that is away


def test_a_store_that_is_down_delays_no_answer_and_gets_the_letters_when_it_is_back(tmp_path: Path) -> None:
    aws = Aws()
    with copying(tmp_path, aws, f"s3://{BUCKET}") as server:
        letters = [lose(server) for _ in range(3)]
        server.wait_log("a dead letter's copy was not taken: nobody listens there", level="warning")
        for _ in range(2):
            server.kill_worker()
            server.wait_healthy()
        letters.append(lose(server))
        assert not server.log_lines("dead letter copied")
        try:
            aws.start()
            aws.make_bucket(BUCKET)
            wait_for(lambda: len(aws.objects(BUCKET)) == 4, what="all letters to arrive")
            assert set(aws.objects(BUCKET)) == {key_of(server, letter_id, "") for letter_id in letters}
        finally:
            aws.stop()


def test_a_store_that_hangs_delays_no_answer(aws: Aws, server: BridgeServer) -> None:
    aws.pause()
    try:
        letters = [lose(server) for _ in range(12)]
        server.wait_log("a dead letter's copy was not taken: it took too long")
        letters += [lose(server) for _ in range(12)]
        told = {line["deadLetterId"] for line in server.log_lines("dead letter copied")}
        assert not told & set(letters)
    finally:
        aws.go_on()
    copied(server, *letters)


def test_what_is_never_taken_is_given_up_and_counted(aws: Aws, table_server: BridgeServer) -> None:
    before = by_label(samples(table_server, **OPERATOR), "dead_letter_copies_total")
    aws.client("dynamodb").delete_table(TableName=TABLE)
    try:
        letter_id = lose(table_server)
        why = "it was answered with ResourceNotFoundException"
        given_up = table_server.wait_log(f"a dead letter's copy was given up: {why}", deadLetterId=letter_id)
    finally:
        aws.make_table(TABLE)
    tries = table_server.log_lines(f"a dead letter's copy was not taken: {why}", deadLetterId=letter_id)
    after = by_label(samples(table_server, **OPERATOR), "dead_letter_copies_total")

    assert (given_up["level"], given_up["tries"]) == ("error", 3)
    assert [(line["level"], line["tries"]) for line in tries] == [("warning", 1), ("warning", 2)]
    assert {name: after[name] - before[name] for name in after} == {"delivered": 0, "failed": 2, "given_up": 1}
    assert letter(table_server, letter_id)["state"] == "kept"


def test_no_credential_is_logged_at_any_level(server: BridgeServer) -> None:
    copied(server, lose(server))

    log = "\n".join(server.raw_lines())
    assert '"level":"debug"' in log.replace('": "', '":"')
    assert [secret for secret in (SECRET_KEY, SESSION_TOKEN, KEY_ID, "AWS4-HMAC") if secret in log] == []


def test_the_doctor_says_whether_they_are_taken(server: BridgeServer) -> None:
    doctor = Doctor(server, None)
    well = doctor.quick().only("dead letters")
    other = doctor.quick(DEAD_LETTER_URL="s3://bucket-of-nobody").only("dead letters")

    assert (well["state"], well["detail"]) == ("ok", f"s3://{BUCKET}/dead/letters takes them")
    assert (other["state"], other["detail"]) == (
        "problem",
        "s3://bucket-of-nobody takes none: it was answered with NoSuchBucket",
    )


# -- the start


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"DEAD_LETTER_URL": "s3:/x"}, "DEAD_LETTER_URL: must be s3://BUCKET/PREFIX or dynamodb://TABLE"),
        ({"DEAD_LETTER_URL": "s3://letters"}, "AWS_REGION must be set where DEAD_LETTER_URL is"),
    ],
)
def test_a_wrong_destination_stops_the_start(tmp_path: Path, settings: dict[str, str], told: str) -> None:
    environment = {"PATH": "", "HOME": str(tmp_path), "ENV_FILE": "/dev/null", "JOURNAL_PATH": str(tmp_path / "j.db")}
    argv = [sys.executable, "-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "wsgi:app"]
    done = subprocess.run(argv, cwd=PROJECT, env={**environment, **settings}, capture_output=True, text=True)

    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]


def test_without_a_destination_nothing_of_aws_is_loaded() -> None:
    code = "import sys; from app import create_app; create_app(); print({'boto3', 'botocore'} & set(sys.modules))"
    environment = {"ENV_FILE": "/dev/null", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
