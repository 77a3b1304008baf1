"""An S3 and a DynamoDB on a loopback port: moto's server, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.server import free_port, wait_for

REGION = "eu-central-1"
KEY_ID, SECRET_KEY, SESSION_TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYzEXAMPLE", "FwoGZXIvYXdzEBYaDH"
START_LIMIT_S = 60.0


class Aws:
    """Use it as a context manager. What it keeps is lost when it stops; its port stays.

    :ivar settings: of a bridge that is to write here.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, Any] = {}

    def start(self) -> Self:
        # Its own program leaves no choice but to print each request.
        code = "import sys; from moto.server import main; sys.exit(main(sys.argv[1:]))"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, limit_s=START_LIMIT_S, what="moto to answer")
        return self

    def _answers(self) -> bool:
        try:
            self.client("s3").list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        os.kill(self._running.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._running.pid, signal.SIGCONT)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what is in it

    def client(self, service: str) -> Any:
        if service not in self._clients:
            session = boto3.session.Session(KEY_ID, SECRET_KEY, SESSION_TOKEN, REGION)
            config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2)
            self._clients[service] = session.client(service, endpoint_url=self.url, config=config)
        return self._clients[service]

    def make_bucket(self, name: str) -> None:
        """One that keeps all versions."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def make_table(self, name: str) -> None:
        self.client("dynamodb").create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def objects(self, bucket: str) -> dict[str, int]:
        """How many versions each key has."""
        found = self.client("s3").list_object_versions(Bucket=bucket).get("Versions", [])
        keys = [version["Key"] for version in found]
        return {key: keys.count(key) for key in keys}

    def read(self, bucket: str, key: str) -> tuple[str, dict[str, Any]]:
        """An object's content type and content."""
        answer = self.client("s3").get_object(Bucket=bucket, Key=key)
        return answer["ContentType"], json.loads(answer["Body"].read())

    def items(self, table: str) -> dict[str, dict[str, Any]]:
        """All items, by their id; DynamoDB's types are left as they are."""
        found = self.client("dynamodb").scan(TableName=table)["Items"]
        return {item["id"]["S"]: item for item in found}
