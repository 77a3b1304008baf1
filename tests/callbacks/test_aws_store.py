"""A worker that is to copy dead letters starts, or says in one sentence what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.projects import PROJECT

OPENED = """
from gevent import monkey
monkey.patch_all()
import logging, time
logging.basicConfig(format="%(message)s")
from app.callbacks import aws_store
from app.errors import ConfigError
from app.settings import load
aws_store.OPEN_TIMEOUT_S = 0.5
try:
    store = aws_store.AwsStore(load({"DEAD_LETTER_URL": "s3://bucket", "AWS_REGION": "eu-central-1"}, "/dev/null"))
    store.open()
    print("open")
except ConfigError as exc:
    print(exc.detail)
"""


def opened(folder: Path, **environ: str) -> str:
    """What is said where AWS's own tools are told so: by its own process, for they read its environment."""
    nowhere = {name: str(folder / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    own = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "AWS_EC2_METADATA_DISABLED": "true", **nowhere, **environ}
    done = subprocess.run(
        [sys.executable, "-c", OPENED], cwd=PROJECT, env=own, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize("name", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_file_of_aws_that_cannot_be_read_is_named_as_the_cause(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad").write_text("garbage [[[ no\n=")

    said = opened(tmp_path, **{name: str(tmp_path / "bad")})

    expected = "AWS's own configuration must be readable where DEAD_LETTER_URL is set: it failed (ConfigParseError)"
    assert said.strip() == expected


def test_an_address_that_is_none_is_named_as_the_cause(tmp_path: Path) -> None:
    assert "must be addresses" in opened(tmp_path, AWS_ENDPOINT_URL_S3="foo bar")


def test_credentials_that_never_come_hold_no_start_up(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = /bin/sleep 5\n")

    said = opened(tmp_path, AWS_CONFIG_FILE=str(tmp_path / "config"))

    assert said.splitlines() == ["dead letters are not copied yet: it took too long", "open"]
