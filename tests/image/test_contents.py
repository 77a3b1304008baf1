"""What is in the image, and what is not."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from tests.image.engine import IMAGE, Container, Engine
from tests.support.projects import PROJECT

BUILD_TOOLS = ("gcc", "cc", "g++", "make", "ld", "pip", "pip3", "uv", "git", "npm", "curl", "wget")
LEFT_OUT = {".git", ".env", ".venv", ".ci", "tests", "dev", "docs", "var", "benchmarks", "Makefile", "Dockerfile"}


def test_no_build_tool_is_left(bare: Container) -> None:
    found = bare.python(f"import shutil; print([t for t in {BUILD_TOOLS!r} if shutil.which(t)])")
    modules = bare.python("import importlib.util as u; print(u.find_spec('pip'), u.find_spec('setuptools'))")

    assert (found, modules) == ("[]", "None None")


def test_only_what_runs_is_inside(bare: Container) -> None:
    root = "import json, pathlib; root = pathlib.Path('/srv/bridge');"
    top = json.loads(bare.python(f"{root} print(json.dumps([p.name for p in root.iterdir()]))"))
    ours = [p for p in (PROJECT / "app").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    listed = f"{root} print(json.dumps([str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()]))"
    inside = {name for name in json.loads(bare.python(listed)) if "__pycache__" not in name}

    assert set(top) == {"app", "gunicorn.conf.py", "wsgi.py", "__pycache__"}
    assert not LEFT_OUT & set(top)
    assert inside == {str(p.relative_to(PROJECT)) for p in ours} | {"gunicorn.conf.py", "wsgi.py"}


def test_no_cache_of_the_build_is_left(bare: Container) -> None:
    places = ("/root/.cache", "/tmp", "/var/lib/apt/lists", "/var/cache/apt")
    code = (
        "import pathlib, sys; print([str(p) for a in sys.argv[1:] for p in pathlib.Path(a).rglob('*') if p.is_file()])"
    )
    # As root: its home is closed to the bridge's user.
    assert bare.engine("exec", "--user=0", bare.name, "python", "-c", code, *places) == "[]"


def test_the_packages_are_compiled_for_the_bridges_python(bare: Container) -> None:
    code = """
import importlib.util, pathlib
for name in ('flask', 'gunicorn.app.wsgiapp', 'app.factory'):
    cached = importlib.util.find_spec(name).cached
    print(pathlib.Path(cached).is_file())
"""
    assert set(bare.python(code).split()) == {"True"}


def test_a_change_of_the_code_ships_one_small_layer(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name in ("Dockerfile", ".dockerignore", "requirements.lock", "gunicorn.conf.py", "wsgi.py"):
        shutil.copy(PROJECT / name, tmp_path / name)
    shutil.copytree(PROJECT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    version = tmp_path / "app" / "version.py"
    version.write_text(version.read_text() + f"# {uuid.uuid4()}\n")
    tag = f"bridge-test-{uuid.uuid4().hex[:12]}"
    request.addfinalizer(lambda: engine("rmi", tag, check=False))

    engine.build(tag, tmp_path)

    shipped, changed = engine.layers(), engine.layers(tag)
    assert len(shipped) == len(changed)
    assert [old == new for old, new in zip(shipped, changed, strict=True)] == [True] * (len(shipped) - 1) + [False]


def test_what_the_image_says_of_itself(engine: Engine) -> None:
    config = engine.inspect(IMAGE, kind="image")
    engine.figures.append(f"image: {config['Size'] / 1e6:.0f} MB in {len(engine.layers())} layers")
    for line in engine("history", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE).splitlines():
        if not line.startswith("0"):
            engine.figures.append(f"  {line[:100]}")

    said = config["Config"]
    assert said["User"] == "10001:10001"
    assert list(said["ExposedPorts"]) == ["3000/tcp"]
    assert list(said["Volumes"]) == ["/data"]
    assert said["StopSignal"] in ("SIGTERM", "15")
    assert said["Entrypoint"] == ["tini", "--"]
    assert said["Cmd"][-3:] == ["-c", "gunicorn.conf.py", "wsgi:app"]
    assert (said.get("Healthcheck") or config["Healthcheck"])["Test"][:2] == ["CMD", "python"]
    assert not [value for value in said["Env"] if "TOKEN" in value or "SECRET" in value or "KEY" in value]
