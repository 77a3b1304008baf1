"""``docs/licences.md``: each locked package's licence. ``make docs`` writes it, a test says where it is old.

It is read from what is installed. What its own files say in no name of SPDX's, and what is not for this machine, stands
in ``licences.toml``. Versions are left out: a new one alone changes nothing here.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import click

from dev.locks import DEV, RUN, names

WRITTEN_DOWN = Path(__file__).with_name("licences.toml")
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0"),
    *("Unlicense", "ZPL-2.1"),
}
"""None of them asks anything of the code that uses what is under it."""
INTRODUCTION = """\
# Licences

Made by `make docs` from what the locked packages say of themselves, by SPDX's names.

The program that `claude-agent-sdk` brings, `claude`, is under none of these: it is Anthropic's, under their commercial
terms, and part of the image. n8n, Redis and the images of `docker-compose.yml` come under licences of their own.

Two are copied into this repository, each with its licence beside it: `marked` (MIT) in `app/console/vendor`, and
`axe-core` (MPL-2.0, for tests only) in `tests/console/vendor`.
"""


def licence(name: str) -> str:
    """:raises LookupError: nothing tells it."""
    written = tomllib.loads(WRITTEN_DOWN.read_text())["licences"]
    if name in written:
        return str(written[name])
    try:
        told = metadata(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is not installed; write its licence into {WRITTEN_DOWN.name}") from None
    fields = told.json
    expression = str(fields.get("license_expression") or fields.get("license") or "")
    if set(ids(expression)) <= ALLOWED and expression:
        return expression
    titles = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    known = [CLASSIFIERS[title] for title in titles if title in CLASSIFIERS]
    if not known:
        raise LookupError(f"{name} says {expression or titles}; write what that is into {WRITTEN_DOWN.name}")
    return " OR ".join(known)


def ids(expression: str) -> list[str]:
    """The licences that an expression names."""
    return [word for word in re.split(r"[()\s]+", expression) if word and word not in ("AND", "OR", "WITH")]


def markdown() -> str:
    run = names(RUN)
    return "\n".join(
        [
            INTRODUCTION,
            "## What the bridge runs with",
            "",
            *_table(run),
            "",
            "## What only tests and checks use",
            "",
            *_table(name for name in names(DEV) if name not in run),
            "",
        ]
    )


def _table(packages: Iterable[str]) -> Iterator[str]:
    yield "| package | licence |"
    yield "| --- | --- |"
    for name in packages:
        yield f"| {name} | {licence(name)} |"


if __name__ == "__main__":
    try:
        click.echo(markdown(), nl=False)
    except LookupError as exc:
        sys.exit(str(exc))
