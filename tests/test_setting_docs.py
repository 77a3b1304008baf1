"""``docs/configuration.md`` is what the settings' table says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.setting_docs import GROUPS, markdown
from app.settings import TABLE, Setting

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


def test_the_document_is_as_it_is_made_now() -> None:
    assert DOCUMENT.read_text() == markdown(), "make docs"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_setting_has_a_line_with_its_form_its_default_and_its_effect(row: Setting) -> None:
    (line,) = re.findall(rf"^\| `{row.name}`.*$", DOCUMENT.read_text(), re.MULTILINE)
    name, form, _, default, effect = (cell.strip() for cell in line.strip("|").split(" | "))
    assert (form, effect) == (row.form.accepts, row.doc)
    assert default
    assert (f"`{row.name}_FILE`" in name) == row.secret


def test_each_title_stands_before_a_setting() -> None:
    assert GROUPS.keys() <= {row.name for row in TABLE}
    assert TABLE[0].name in GROUPS
