"""One POST to ``NOTIFY_URL``: how it is signed, how long it may take, what became of it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import gevent
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError, TimeoutError

from app.outbox import Answer
from app.version import VERSION

CONNECT_TIMEOUT_S = 3.0
POST_TIMEOUT_S = 10.0
"""From the look-up of the host to the head of the answer."""
ANSWER_TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 64 * 1024
_NOT_FINAL = (408, 425, 429)


def headers_for(id_: str, body: bytes, secrets: Sequence[str], *, now_s: int) -> dict[str, str]:
    """The headers of one try, signed by each secret.

    Source: Standard Webhooks, "Webhook metadata" and "Signature scheme".
    """
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"n8n-self-healing-bridge/{VERSION}",
        "webhook-id": id_,
        "webhook-timestamp": str(now_s),
    }
    signed = f"{id_}.{now_s}.".encode() + body
    digests = (hmac.digest(_signing_key(secret), signed, hashlib.sha256) for secret in secrets)
    signatures = [f"v1,{base64.b64encode(digest).decode()}" for digest in digests]
    return {**headers, **({"webhook-signature": " ".join(signatures)} if signatures else {})}


def _signing_key(secret: str) -> bytes:
    """The bytes of a secret; one of the form ``whsec_<base64>`` is written as the standard's libraries take it."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Send it once. What urllib3 says of an error holds the address, and with it perhaps a token: nothing of it is
    passed on."""
    limit = gevent.Timeout(POST_TIMEOUT_S)
    limit.start()
    try:
        return _exchange(url, body, headers, limit)
    except gevent.Timeout as exc:
        if exc is not limit:
            raise
        return Answer("it took too long")
    except NewConnectionError:  # a kind of the next one
        return Answer("nobody listens there")
    except TimeoutError:
        return Answer("it took too long")
    except SSLError:
        return Answer("its TLS certificate is not trusted here")
    except (HTTPError, OSError, ValueError):
        return Answer("the connection broke off")
    finally:
        limit.close()


def _exchange(url: str, body: bytes, headers: Mapping[str, str], limit: gevent.Timeout) -> Answer:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # A connection of its own: these are rare, and one that was kept might be closed just now by the other side.
    with urllib3.connection_from_url(f"{parts.scheme}://{parts.netloc}", maxsize=1) as pool:
        response = pool.urlopen(
            "POST",
            target,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=POST_TIMEOUT_S),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        # The status is the answer. What follows is read so that the other side can end well, and may fail.
        limit.close()
        with gevent.Timeout(ANSWER_TIMEOUT_S, False), suppress(HTTPError, OSError):
            response.read(MAX_ANSWER_BYTES, decode_content=False)
        response.close()
        return judge(response.status, response.headers.get("Retry-After", ""))


def judge(status: int, retry_after: str) -> Answer:
    """What an answer means, by its status and its ``Retry-After``."""
    if 200 <= status < 300:
        return Answer()
    final = 400 <= status < 500 and status not in _NOT_FINAL
    return Answer(f"it was answered with {status}", final, _seconds(retry_after))


def _seconds(retry_after: str) -> float:
    """Of the header: a number of seconds or a time; 0 where it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
