"""The reference that speed is held against, and the driver of both: copied, installed from npm, started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bridge import PROJECT, free_port, wait_for

FOLDER = PROJECT / "var" / "bench"
INSTALL_LIMIT_S = 300.0
DRIVER_MARGIN_S = 40.0


@dataclass(frozen=True)
class Reference:
    """:ivar folder: the copy, with its npm packages. :ivar driver: ``driver.mjs``, a copy too."""

    folder: Path
    driver: Path

    @contextmanager
    def running(self, **environment: str) -> Iterator[tuple[int, int]]:
        """Gives its port and process id."""
        port = free_port()
        own = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PORT": str(port), **environment}
        argv = ["node", "server.js"]
        # A session of its own, as the bridge has: the kernel may divide processor time by them.
        process = subprocess.Popen(argv, cwd=self.folder, env=own, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_for(port, process)
            yield port, process.pid
        finally:
            process.kill()  # it has nothing to finish
            process.wait(10)

    def drive(self, mode: str, port: int, *, seconds: float, **options: float) -> dict[str, Any]:
        """One run of the driver; what it printed."""
        argv = ["node", str(self.driver), mode, f"http://127.0.0.1:{port}", "--seconds", str(seconds)]
        for name, value in options.items():
            argv += [f"--{name}", f"{value:g}"]
        environment = {"PATH": os.environ["PATH"], "DRIVER_MODULES": str(self.folder)}
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=True, timeout=seconds + DRIVER_MARGIN_S
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def install(source: Path, driver: Path) -> Reference:
    """Copy both to ``var/bench`` and install the reference's packages, where that has not been done already."""
    target = FOLDER / source.name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(driver, target / driver.name)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    stamp, wanted = target / ".installed", (target / "package.json").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        npm = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        subprocess.run(npm, cwd=target, check=True, timeout=INSTALL_LIMIT_S, stdout=subprocess.DEVNULL)
        stamp.write_text(wanted)
    return Reference(target, target / driver.name)
