"""The list of licences and the bill of materials are of what is locked."""

from __future__ import annotations

import re

import pytest

from app.version import VERSION
from dev.licences import ALLOWED, ids, licence, markdown
from dev.locks import DEV, PROJECT, RUN, names, pins
from dev.sbom import sbom

DOCUMENT = PROJECT / "docs" / "licences.md"


def test_each_locked_package_has_a_licence_in_the_document() -> None:
    listed = dict(re.findall(r"^\| (\S+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert listed.keys() - {"package", "---"} == set(names(DEV))


def test_the_document_is_as_it_is_made_now() -> None:
    assert DOCUMENT.read_text() == markdown(), "make docs"


@pytest.mark.parametrize("name", names(RUN))
def test_what_is_shipped_may_be_passed_on(name: str) -> None:
    assert set(ids(licence(name))) <= ALLOWED


def test_a_package_whose_licence_nothing_tells_is_refused() -> None:
    with pytest.raises(LookupError, match="nobodys-package is not installed"):
        licence("nobodys-package")


def test_the_bill_of_materials_names_each_shipped_package_with_version_hash_and_licence() -> None:
    found = sbom()
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["version"] == VERSION
    assert sorted((one["name"], one["version"]) for one in found["components"]) == sorted(pins(RUN))
    for component in found["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["licenses"] == [{"expression": licence(component["name"])}]
        assert component["externalReferences"][0]["hashes"]
