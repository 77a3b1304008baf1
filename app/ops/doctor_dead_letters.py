"""Whether ``DEAD_LETTER_URL`` takes what is written to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from app.callbacks.copies import Copy
from app.ops.doctor_findings import Examination, Finding

NAME = "dead letters"
ID = "bridge-doctor"


def check_dead_letters(examination: Examination) -> Iterator[Finding]:
    """Where it is set: write one there, always by the same id, for no right but that to write is needed otherwise."""
    place = examination.settings.dead_letter_url
    if place is None:
        return
    from app.callbacks.aws_store import AwsStore  # boto3 is had only where it is used; see there

    answer = AwsStore(examination.settings).keep(Copy(ID, datetime.now(UTC), {"reason": "doctor"}, "flask doctor"))
    if answer.failed:
        todo = "See docs/dead-letters.md for the rights; what is not taken stays in the journal, and is tried again."
        yield Finding(NAME, "problem", f"{place} takes none: {answer.failed}", todo)
    else:
        yield Finding(NAME, "ok", f"{place} takes them")
