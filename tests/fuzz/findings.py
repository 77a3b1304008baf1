"""What a run finds: each kind of finding once, with the input that brings it about in a file of its own."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

MOST = 20


class Findings:
    """Shared by all attackers.

    :ivar counts: how often each thing was done or answered. :ivar kinds: what was found, each with its first file.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, str, bytes]] = deque(maxlen=400)
        self.counts: Counter[str] = Counter()
        self.kinds: dict[str, str] = {}

    def did(self, what: str, sent: bytes = b"") -> None:
        with self._lock:
            self.counts[what] += 1
            if sent:
                self._recent.append((time.time(), what, sent[:20_000]))

    def add(self, kind: str, detail: Any, sent: bytes | None = None) -> None:
        """Keep a finding; without ``sent``, with all that was sent of late."""
        with self._lock:
            if kind in self.kinds or len(self.kinds) >= MOST:
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._seed}-{len(self.kinds)}.json"
            self.kinds[kind] = str(path)
            inputs = (
                [sent] if sent is not None else [f"{at:.3f} {what} ".encode() + data for at, what, data in self._recent]
            )
            document = {
                "kind": kind,
                "detail": str(detail)[:20_000],
                "seed": self._seed,
                "sent": [i.decode("latin-1") for i in inputs],
            }
            path.write_text(json.dumps(document, indent=1))
