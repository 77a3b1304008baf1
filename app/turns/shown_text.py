"""What may be shown of a message while it is being written: a secret comes in pieces, none of which looks like one."""

from __future__ import annotations

from app.telemetry.redaction import needs_redaction, redact_text

CONTEXT_CHARS = 512
WORD_CHARS = 20
"""A word of letters alone is shown before its end is known; anything longer or odder may become a key."""
HELD_CHARS = 8_192
HELD_WORDS = 3
"""So many belong to a secret at most: "Authorization:", a scheme, a value."""


class ShownText:
    """One message. Ordinary text is shown at once; where a secret may be coming, its words or its line are held back.

    What is held back at the end is never shown: the whole message, redacted, follows.
    """

    def __init__(self) -> None:
        self._line = ""  # of the line that is being written, what was shown
        self._held = ""

    def take(self, more: str) -> str:
        """What may be shown, now that ``more`` is there."""
        self._held += more
        text = self._line + self._held
        if not needs_redaction(text):
            tail = text.rsplit(None, 1)[-1] if text and not text[-1].isspace() else ""
            plain = tail.isalpha() and len(tail) <= WORD_CHARS
            end = len(text) if plain or len(self._held) >= HELD_CHARS else len(text) - len(tail)
            return self._show(end, text[:end])
        if "PRIVATE KEY-----" in text and "-----END" not in text and len(self._held) < HELD_CHARS:
            return ""
        redacted = redact_text(text, limit=None)
        if len(self._held) >= HELD_CHARS:
            end = len(text)
        elif redacted == text:
            words = text.rsplit(None, HELD_WORDS)
            end = len(words[0]) if len(words) > HELD_WORDS else 0
        else:
            end = text.rfind("\n") + 1
        return self._show(end, redacted if end == len(text) else redact_text(text[:end], limit=None))

    def _show(self, end: int, shown: str) -> str:
        """Go on behind ``end`` of the line and what was held; ``shown`` is what the text before it may look like."""
        text, before = self._line + self._held, self._line
        if end <= len(before):
            return ""
        self._held = text[end:]
        self._line = text[text.rfind("\n", 0, end) + 1 : end][-CONTEXT_CHARS:]
        same = next((at for at, pair in enumerate(zip(before, shown, strict=False)) if pair[0] != pair[1]), len(before))
        return shown[same:]
