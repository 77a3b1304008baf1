"""Containers of the image, run by docker or podman as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.projects import PROJECT
from tests.support.server import BridgeServer, free_port, wait_for

IMAGE = os.environ.get("IMAGE", "bridge-server")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 35
COMMAND_LIMIT_S = 60.0
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=200")


class Engine:
    """docker or podman, as ``dev/image.sh`` finds it.

    :ivar figures: what was measured, one line each; printed after the tests.
    """

    def __init__(self) -> None:
        found = subprocess.run([PROJECT / "dev" / "image.sh", "engine"], capture_output=True, text=True, check=True)
        self.name = found.stdout.strip()
        self.figures: list[str] = []
        # podman leaves health checks to systemd, where there is one; here they are asked for.
        self._environment = {**os.environ, "DISABLE_HC_SYSTEMD": "true"}

    def __call__(self, *arguments: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run one command of the engine; gives its stdout and stderr, stripped.

        :raises AssertionError: with ``check``, where it failed.
        """
        done = self.run(*arguments, limit_s=limit_s)
        assert done.returncode == 0 or not check, f"{arguments} ended with {done.returncode}: {done.stdout[-2000:]}"
        return done.stdout.strip()

    def run(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """As a call, but whatever becomes of it; gives its exit code too."""
        return subprocess.run(
            [self.name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            env=self._environment,
        )

    def inspect(self, what: str, *, kind: str = "container") -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self("inspect", "--type", kind, what))
        return found[0]

    def layers(self, image: str = IMAGE) -> list[str]:
        layers: list[str] = self.inspect(image, kind="image")["RootFS"]["Layers"]
        return layers

    def build(self, tag: str, context: Path) -> None:
        command = [PROJECT / "dev" / "image.sh", "build", tag, context]
        built = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        assert built.returncode == 0, built.stderr[-2000:]


class Container:
    """One container; a context manager that removes it, with its own volumes.

    :param options: of the engine's ``run``; with ``--network=host`` among them the bridge listens on loopback.
    :ivar port: on this machine's loopback.
    """

    def __init__(
        self,
        engine: Engine,
        options: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        *,
        image: str = IMAGE,
    ) -> None:
        self.engine = engine
        self.name = f"bridge-test-{uuid.uuid4().hex[:12]}"
        self.port = free_port()
        self._options = list(options)
        self._settings = dict(settings or {})
        if "--network=host" in options:
            self._settings["BIND"] = f"127.0.0.1:{self.port}"
        else:
            self._options.append(f"--publish=127.0.0.1:{self.port}:3000")
        self._image = image

    request, get, post, url = BridgeServer.request, BridgeServer.get, BridgeServer.post, BridgeServer.url
    healthy = BridgeServer.healthy

    def __enter__(self) -> Self:
        began = time.monotonic()
        self.start()
        try:
            wait_for(self._answers, limit_s=START_LIMIT_S, what=f"{self.url}/healthz to be 200")
        except BaseException:
            print(self.output())
            self.remove()
            raise
        self.started_s = time.monotonic() - began
        return self

    def start(self) -> None:
        """Run it, and wait for nothing."""
        given = [f"--env={name}={value}" for name, value in self._settings.items()]
        self.engine("run", "--detach", "--name", self.name, *self._options, *given, self._image)

    def _answers(self) -> bool:
        state = self.engine.inspect(self.name)["State"]
        assert state["Running"], f"ended with {state['ExitCode']} before it answered"
        return self.healthy()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        self.engine("rm", "--force", "--volumes", self.name, check=False)

    def run(self, *command: str) -> str:
        """Run a program in it; gives what it said."""
        return self.engine("exec", self.name, *command)

    def python(self, code: str) -> str:
        return self.run("python", "-c", code)

    def kill(self, signal: str) -> None:
        self.engine("kill", f"--signal={signal}", self.name)

    def stop(self) -> int:
        """The engine's ``stop``; gives the exit code, 137 where it had to kill."""
        began = time.monotonic()
        self.engine("stop", f"--time={STOP_LIMIT_S}", self.name)
        self.stopped_s = time.monotonic() - began
        code: int = self.engine.inspect(self.name)["State"]["ExitCode"]
        return code

    def output(self) -> str:
        return self.engine("logs", self.name, check=False)

    def log(self) -> list[dict[str, Any]]:
        """All lines so far, each after ``jq .`` has read it.

        :raises AssertionError: a line is no JSON object, or lacks a field that every line has.
        """
        lines = []
        for text in self.output().splitlines():
            read = subprocess.run(["jq", "-c", "."], input=text, capture_output=True, text=True)
            assert read.returncode == 0, f"jq refuses {text[:500]!r}: {read.stderr}"
            line = json.loads(read.stdout)
            assert {"timestamp", "level", "message", "logger"} <= line.keys(), line
            lines.append(line)
        return lines

    def messages(self) -> list[str]:
        return [line["message"] for line in self.log()]
