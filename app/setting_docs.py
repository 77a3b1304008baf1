"""``docs/configuration.md``, made from the settings' table: ``make docs`` writes it, a test says where it is old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app.settings import TABLE, Setting

INTRODUCTION = """\
# Configuration

Made from `app/settings.py` by `make docs`; change it there.

Settings come from the environment and from a `.env` file in the project's folder (`ENV_FILE` names another, which must
then exist). The environment wins over the file, an empty value counts as unset, and nothing is filled into values.
[`.env.example`](../.env.example) has every setting with its default.

- **Secrets** may be files instead: `NAME_FILE` is the path of a text file with the value of `NAME`; not both. Where
  several values are taken, separated by commas, all of them hold: put the new one first, reload, have the others know
  it, take the old one away, reload.
- **Checked:** `.venv/bin/gunicorn --check-config -c gunicorn.conf.py wsgi:app` refuses what is wrong with one line
  that names the variable. `.venv/bin/python -m app.settings --summary` says what is configured; no secret is shown.
  `flask doctor` tries it out.
- **Changed:** a reload (`HUP` to the master) reads the file and the secrets' files anew. Where they are wrong, one
  error is logged and the old workers stay. What came by the environment holds for the process's life.
- Beside these, prometheus-client's `PROMETHEUS_MULTIPROC_DIR` ([metrics.md](metrics.md)) and what AWS's own tools read
  (`AWS_PROFILE`, `AWS_DEFAULT_REGION`, a role's credentials; [dead-letters.md](dead-letters.md)) have a meaning.
"""
GROUPS = {
    "BIND": "Where it listens, and what it keeps",
    "PUBLIC_URL": "Addresses, as people and n8n see them",
    "ACCESS_TOKEN": "Who may do what",
    "N8N_API_URL": "n8n",
    "AGENT": "The agent",
    "MAX_CONCURRENT_TURNS": "Turns",
    "HEAL_AUTONOMY": "Repairs",
    "MAX_SESSIONS": "Sessions and sockets",
    "RATE_LIMIT_WS_PER_MINUTE": "Limits",
    "GRACEFUL_TIMEOUT_SECONDS": "The end of a worker",
    "DEAD_LETTER_URL": "AWS",
    "VITALS_INTERVAL_SECONDS": "Logs",
}
"""Titles, each before the setting that it begins with."""
UNITS = {
    "_SECONDS": "s",
    "_DAYS": "days",
    "_BYTES": "bytes",
    "_USD": "US dollars",
    "_PER_MINUTE": "per minute",
    "_PER_HOUR": "per hour",
    "_PER_DAY": "per day",
}
COLUMNS = ("variable", "type", "unit", "default", "effect")


def markdown() -> str:
    return "\n".join([INTRODUCTION, *_tables()])


def _tables() -> Iterator[str]:
    for row in TABLE:
        if row.name in GROUPS:
            yield from (f"## {GROUPS[row.name]}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS)))
        yield _line(_cells(row))
        following = TABLE[TABLE.index(row) + 1 :]
        if following and following[0].name in GROUPS:
            yield ""
    yield ""


def _cells(row: Setting) -> Iterator[str]:
    yield f"`{row.name}`" + (f", or `{row.name}_FILE`: **secret**" if row.secret else "")
    yield row.form.accepts
    yield next((unit for ending, unit in UNITS.items() if row.name.endswith(ending)), "")
    yield _default(row)
    yield row.doc


def _default(row: Setting) -> str:
    if row.default_text:
        return f"`{row.default_text}`" if " " not in row.default_text else row.default_text
    if row.default is None or row.default == ():
        return "none"
    if isinstance(row.default, bool):
        return f"`{str(row.default).lower()}`"
    if not isinstance(row.default, str | int | float | Path):
        raise AssertionError(f"{row.name} needs a default_text")
    return f"`{row.default}`"


def _line(cells: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - what it prints is what it is for
