"""``make sbom``: what is shipped, as CycloneDX, in ``var/sbom.cdx.json``.

cyclonedx-py reads names, versions and hashes from the lock; it knows no licences there, so they are put in. The file is
checked against CycloneDX's own schema before it is written, and the same lock makes the same file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from app.version import VERSION
from dev.licences import licence
from dev.locks import PROJECT, RUN

TARGET = PROJECT / "var" / "sbom.cdx.json"
LIMIT_S = 120.0


def sbom() -> dict[str, Any]:
    """:raises AssertionError: it does not have CycloneDX's form."""
    options = ["--output-reproducible", "--output-format=JSON", "--spec-version=1.6", "--output-file=-"]
    # Not validated there: that takes seconds, and is done below, on what it becomes.
    argv = [sys.executable, "-m", "cyclonedx_py", "requirements", "--no-validate", *options, str(RUN)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    found: dict[str, Any] = json.loads(done.stdout)
    for component in found["components"]:
        del component["description"]  # the lock's line once more
        component["licenses"] = [{"expression": licence(component["name"])}]
    found["metadata"]["component"] = {
        "type": "application",
        "bom-ref": "bridge-server",
        "name": "bridge-server",
        "version": VERSION,
    }
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found))
    if wrong is not None:
        raise AssertionError(f"not CycloneDX: {wrong}")
    return found


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(sbom(), indent=2) + "\n")
    click.echo(TARGET.relative_to(PROJECT))
