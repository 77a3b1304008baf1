"""Copies of dead letters in AWS: objects of an S3 bucket, or items of a DynamoDB table.

This is the only module that imports boto3. It is itself imported only where ``DEAD_LETTER_URL`` is set: boto3 takes
0.25 s and 13 MB, a client of it 0.1 s and 16 MB more.

Its calls are made in greenlets, not in threads. Under gevent's patches its sockets, locks and look-ups of names block
only their greenlet; what holds the loop is its arithmetic, 2 ms for each write. Import and client would hold it for
0.4 s, so a worker has both before it accepts connections.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import boto3
import gevent
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)

from app.callbacks.copies import Copy
from app.errors import ConfigError
from app.outbox import AT_ONCE, Answer
from app.settings import Settings

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 20.0
"""Of a write in all: credentials, the look-up of the host, the request."""
OPEN_TIMEOUT_S = 5.0
"""A worker that starts waits no longer for the first credentials: a role's may have to be asked for."""
MAX_ITEM_BODY_BYTES = 350_000
"""An item may have 400 KB. Of a longer body the two ends are kept, as the journal does with what is too large."""
KEPT_ENDS_BYTES = 32_768

log = logging.getLogger(__name__)


class AwsStore:
    """The bucket or the table that ``DEAD_LETTER_URL`` names.

    :ivar place: it, for people.
    """

    def __init__(self, settings: Settings) -> None:
        """:raises ConfigError: the region is not known, or the profile; AWS's own files cannot be read."""
        # At debug level they tell headers, among them the session token, and where the task's credentials are had.
        for name in ("boto3", "botocore", "urllib3"):
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger(name).level))
        self.limit_s = WRITE_TIMEOUT_S
        self.place = str(settings.dead_letter_url)
        self._service, _, name = self.place.partition("://")
        self._name, _, self._prefix = name.partition("/")
        self._endpoint_url = settings.aws_endpoint_url
        self._client: Any = None
        self._making = threading.Lock()
        try:
            self._session = boto3.session.Session(
                aws_access_key_id=settings.aws_access_key_id,
                aws_secret_access_key=settings.aws_secret_access_key,
                aws_session_token=settings.aws_session_token,
                region_name=settings.aws_region,
            )
        except ProfileNotFound:
            raise ConfigError("AWS_PROFILE must be the name of a profile that is there") from None
        except BotoCoreError as exc:
            raise ConfigError(
                f"AWS's own configuration must be readable where DEAD_LETTER_URL is set: {_reason(exc)}"
            ) from None
        if not self._session.region_name:
            raise ConfigError("AWS_REGION must be set where DEAD_LETTER_URL is")

    def open(self) -> None:
        """Make the client; where that cannot be now, each write tries again.

        :raises ConfigError: it never can be.
        """
        try:
            with gevent.Timeout(OPEN_TIMEOUT_S, False):
                self._connected()
                return
            log.warning("dead letters are not copied yet: it took too long")
        except BotoCoreError as exc:
            log.warning("dead letters are not copied yet: %s", _reason(exc))
        except ValueError:  # of AWS's own variables; ours was checked
            raise ConfigError("AWS_ENDPOINT_URL_S3 and the like must be addresses, where they are set") from None

    def keep(self, copy: Copy) -> Answer:
        # Said to botocore, too, whose own limits hold where nothing is patched, and for each step alone.
        limit = gevent.Timeout(self.limit_s)
        limit.start()
        try:
            _WRITES[self._service](self._connected(), self._name, self._prefix, copy)
        except gevent.Timeout as exc:
            if exc is not limit:
                raise
            return Answer("it took too long")
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
            self._client = None  # it would never look for them again
            return Answer(_reason(exc))
        except (BotoCoreError, ClientError) as exc:
            return Answer(_reason(exc))
        finally:
            limit.close()
        return Answer()

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = self._session.client(
                    self._service,
                    endpoint_url=self._endpoint_url,
                    config=Config(
                        connect_timeout=CONNECT_TIMEOUT_S,
                        read_timeout=READ_TIMEOUT_S,
                        retries={"total_max_attempts": 1},  # the outbox tries again
                        max_pool_connections=AT_ONCE,
                        # A server of one's own has seldom a name for each bucket.
                        s3={"addressing_style": "path"} if self._endpoint_url else None,
                    ),
                )
            return self._client


def _put_object(client: Any, bucket: str, prefix: str, copy: Copy) -> None:
    """``PREFIX/2026-01-15/ID.json``, by the day its letter was kept. Encryption is the bucket's."""
    key = "/".join(part for part in (prefix, f"{copy.at:%Y-%m-%d}", f"{copy.id}.json") if part)
    client.put_object(Bucket=bucket, Key=key, Body=copy.as_json().encode(), ContentType="application/json")


def _put_item(client: Any, table: str, _: str, copy: Copy) -> None:
    """The item ``id``; its time to live is ``expiresAt``."""
    text = copy.body_text()
    if len(text) > MAX_ITEM_BODY_BYTES:
        left_out = len(text) - 2 * KEPT_ENDS_BYTES
        text = f"{text[:KEPT_ENDS_BYTES]}… [{left_out} bytes left out] …{text[-KEPT_ENDS_BYTES:]}"
    item: dict[str, dict[str, str]] = {
        "id": {"S": copy.id},
        "expiresAt": {"N": str(copy.expires_at_s)},
        "body": {"S": text},
    }
    for name, value in copy.facts.items():
        item[name] = {"N": str(value)} if isinstance(value, int) else {"S": value}
    client.put_item(TableName=table, Item=item)


_WRITES: dict[str, Callable[[Any, str, str, Copy], None]] = {"s3": _put_object, "dynamodb": _put_item}


def _reason(exc: BotoCoreError | ClientError) -> str:
    """Why a write failed. Not the error's own text: it holds addresses, names of roles, and what the server said."""
    match exc:
        case ClientError():
            code = str(exc.response.get("Error", {}).get("Code", ""))
            return f"it was answered with {code if re.fullmatch('[A-Za-z0-9.]{1,64}', code) else 'an error'}"
        case NoCredentialsError() | PartialCredentialsError():
            return "there are no AWS credentials"
        case CredentialRetrievalError():
            return "AWS credentials could not be had"
        case ConnectTimeoutError() | ReadTimeoutError():
            return "it took too long"
        case SSLError():
            return "its TLS certificate is not trusted here"
        case EndpointConnectionError():
            return "nobody listens there"
        case ConnectionError():
            return "the connection broke off"
        case _:
            return f"it failed ({type(exc).__name__})"
