"""The outbox of ``NOTIFY_URL``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from app.journal import Journal
from app.outbox import Answer, Outbox
from app.repairs import delivery
from app.repairs.notices import Notification

PAUSES_S: tuple[float, ...] = (15.0, 120.0, 600.0, 3_600.0, 10_800.0, 28_800.0, 43_200.0)
"""Between its tries, 8 in about a day; then it is given up."""


def notifications(
    journal: Journal, *, url: str | None, secrets: Sequence[str], public_url: str
) -> Outbox[Notification]:
    """
    :param url: ``NOTIFY_URL``; ``None``: what is left of a time with one is dropped.
    :param secrets: of the signature, the first ones first; none: nothing is signed.
    """

    def send(notification: Notification) -> Answer:
        body = json.dumps(notification.body(public_url), allow_nan=False).encode()
        headers = delivery.headers_for(notification.key, body, secrets, now_s=int(time.time()))
        return delivery.post(str(url), body, headers)

    return Outbox(
        journal=journal,
        kind=Notification,
        noun="a notification",
        send=send if url else None,
        held_s=1.5 * (delivery.POST_TIMEOUT_S + delivery.ANSWER_TIMEOUT_S),
        pauses_s=PAUSES_S,
    )
