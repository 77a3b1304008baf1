"""A log line: one record as one JSON object, without secrets and of a bounded length."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from pythonjsonlogger.core import merge_record_extra
from pythonjsonlogger.json import JsonEncoder, JsonFormatter

from .redaction import MASK, is_secret_name, needs_redaction, redact, redact_text

LINE_LIMIT_BYTES = 64 * 1024
IDS = ("requestId", "sessionId", "workflowId", "executionId", "turnId")
# Not redacted: what the formatter itself writes, and ids, which are no secrets whatever they look like.
_KEPT = frozenset(("timestamp", "level", "logger", *IDS))

_encode = JsonEncoder().encode

Context = Callable[[], Mapping[str, str]]


class JsonLineFormatter(JsonFormatter):
    """A record as one line: ``timestamp``, ``level``, ``message``, ``logger``, the ids that are known, and its extras.

    :param context: gives the ids of the work in hand; an extra of the same name wins.
    :param limit_bytes: longer lines lose their extras and the end of ``message`` and ``exception``.
    """

    def __init__(self, *, context: Context | None = None, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        super().__init__()
        self._context = context or dict
        self._limit_bytes = limit_bytes
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = super().format(record)
        except Exception as exc:  # a line that cannot be written is still reported
            odd = {**self._base(record, redact_text(str(record.msg))), "formatError": redact_text(repr(exc))}
            line = json.dumps(odd)
        return line if len(line) < self._limit_bytes else self._shortened(line)

    def serialize_log_record(self, log_data: dict[str, Any]) -> str:
        # An encoder for all lines: the library's way makes one for each.
        return _encode(log_data)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Mask secrets: the library's place for a last look at the fields."""
        for name, value in log_data.items():
            if value is None or isinstance(value, int | float) or name in _KEPT:
                continue
            if isinstance(value, str):
                if value and is_secret_name(name):
                    log_data[name] = MASK
                elif needs_redaction(value):
                    log_data[name] = redact_text(value, limit=LINE_LIMIT_BYTES)
            else:
                # By what it is on the line: an exception, for instance, is its text.
                log_data[name] = redact({name: json.loads(_encode(value))}, limit=LINE_LIMIT_BYTES)[name]
        return log_data

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        # Instead of the library's own, which looks for formats, renamed and static fields that no line here has.
        log_data.update(self._base(record, record.message))
        log_data.update(self._context())
        log_data.update(message_dict)
        merge_record_extra(record, log_data, self._skip_fields)
        if "exc_info" in log_data:
            log_data["exception"] = log_data.pop("exc_info")
        if "stack_info" in log_data:
            log_data["stack"] = log_data.pop("stack_info")

    def _base(self, record: logging.LogRecord, message: str) -> dict[str, Any]:
        second = int(record.created)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return {
            "timestamp": f"{self._second[1]}.{int(record.created * 1000) % 1000:03d}Z",
            "level": record.levelname.lower(),
            "message": message,
            "logger": record.name,
        }

    def _shortened(self, line: str) -> str:
        whole = json.loads(line)
        short = {name: value for name, value in whole.items() if isinstance(value, str) and len(value) <= 128}
        keep = self._limit_bytes
        while True:
            keep //= 2
            cut = {name: str(whole[name])[:keep] for name in ("message", "exception") if name in whole}
            line = json.dumps({**dict(list(short.items())[:16]), **cut, "cut": True})
            if len(line) < self._limit_bytes:
                return line
