"""The documents that people read, and what is to be pasted out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "ansible" / "README.md",
    *sorted((ROOT / "terraform").rglob("README.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
every_document = pytest.mark.parametrize("path", DOCS, ids=NAMES)


def fenced(text: str, language: str) -> list[str]:
    return [found[2] for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)]


def commands(path: Path) -> Iterator[str]:
    """What a reader might paste, a line each: blocks of a shell, indented lines, and code within a sentence."""
    text = path.read_text().replace("\\|", "|")
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = "\n".join(fenced(text, "sh") + fenced(text, "") + re.findall(r"^ {4}\S.*$", prose, re.MULTILINE))
    for line in re.sub(r"\\\n", " ", blocks).splitlines():
        yield line.partition(" # ")[0].strip()
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)
