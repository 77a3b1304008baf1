"""The pages that people on call read name what terraform makes and what the bridge says, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.errors import BaseError
from app.n8n.errors import N8nTimeoutError
from app.web.problems import HTTP_PROBLEMS
from tests.terraform.insights import MODULE, QUERIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "runbooks"
PAGES = {path.stem: path.read_text() for path in FOLDER.glob("*.md") if path.stem != "README"}
OVERVIEW = (FOLDER / "README.md").read_text()
ALARMS = (MODULE / "alarms.tf").read_text()
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Test it"]


def alarms() -> set[str]:
    """Each by its name without the prefix; those of ``told`` are named by their keys."""
    named = re.findall(r'alarm_name += "\$\{var\.name\}-(\w+)"', ALARMS)
    (told,) = re.findall(r"told = \{\n(.*?)\n  \}", ALARMS, re.DOTALL)
    return {*named, *re.findall(r"^ +(\w+) += ", told, re.MULTILINE)}


def test_every_alarm_has_a_page_and_every_page_an_alarm() -> None:
    assert len(alarms()) == 8
    assert PAGES.keys() == alarms()
    assert set(re.findall(r"^\| `NAME-(\w+)` .*\(\1\.md\) \|$", OVERVIEW, re.MULTILINE)) == alarms()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_page_has_all_parts_and_makes_its_own_alarm_ring(name: str) -> None:
    assert re.findall(r"^## (.*)$", PAGES[name], re.MULTILINE) == SECTIONS
    assert re.findall(r"set-alarm-state --alarm-name (\S+) --state-value ALARM", PAGES[name]) == [f"$NAME-{name}"]


def test_every_variable_of_a_command_is_set_on_the_first_page_or_there() -> None:
    given = set(re.findall(r"^(?:    )?(\w+)=", OVERVIEW, re.MULTILINE))
    for name, page in PAGES.items():
        own = set(re.findall(r"^(?:for )?(\w+)(?:=| in )", page, re.MULTILINE))
        assert set(re.findall(r"\$(\w+)", page)) <= given | own, name


def test_every_code_that_a_page_explains_is_one_that_the_bridge_gives() -> None:
    given = {code for code, *_ in HTTP_PROBLEMS.values()} | {kind.code for kind in _kinds(BaseError)}
    (table,) = re.findall(r"\| `code` \| .*?\n\n", PAGES["HighErrorRate"], re.DOTALL)
    explained = {
        code for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    assert N8nTimeoutError.code in explained and explained - {"code"} <= given


def test_every_saved_query_that_a_document_names_is_there() -> None:
    texts = [*PAGES.values(), (ROOT / "docs" / "operations.md").read_text()]
    named = {name for text in texts for name in re.findall(r"`NAME/([a-z-]+)`", text)}
    assert named == QUERIES.keys()


def test_every_line_that_a_filter_looks_for_is_one_of_ours() -> None:
    told = (ROOT / "docs" / "logs.md").read_text()
    looked_for = {found for page in PAGES.values() for found in re.findall(r'\$\.message = "([^"]+)"', page)}
    whole_or_begun = [f"`{text[:-1]}" if text.endswith("*") else f"`{text}`" for text in looked_for]
    assert whole_or_begun and all(text in told for text in whole_or_begun)


def _kinds(kind: type[BaseError]) -> set[type[BaseError]]:
    return {kind}.union(*(_kinds(below) for below in kind.__subclasses__()))
