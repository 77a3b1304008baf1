"""The bridge beside the reference, in turn (A B A B …) on this machine: ``python -m benchmarks.compare REFERENCE``.

REFERENCE is the folder of the reference's server; its npm packages are installed in a copy. Prints one JSON line, then
a table: each figure is the ratio of the bridge to the reference within one round, as median, min and max of the rounds,
for a machine's other work comes and goes. After the callbacks the bridge is killed in the middle of more of them, and
its journal must hold whatever it had acknowledged.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from benchmarks import crowd, flood, floors, kill, turns
from benchmarks.bridge import cpu_seconds, running_server
from benchmarks.reference import Reference, install
from benchmarks.rows import Row, rows, table
from dev.local_n8n import APP, installed

ROUNDS = 3
IDLE_SOCKETS, WEIGHED_SOCKETS, TURNS = 1_000, 5_000, 20
LIMITED = {"RATE_LIMIT_HEALTH_PER_MINUTE": "10"}
Server = AbstractContextManager[tuple[int, int]]


class Comparison:
    def __init__(self, reference: Reference, wanted: set[str]) -> None:
        self.reference = reference
        self.rows = {row.name: row for row in rows() if not wanted or row.name in wanted}
        self.cpu_us: dict[str, list[float]] = {}

    def note(self, name: str, who: str, value: float) -> None:
        row = self.rows[name]
        {"ours": row.ours, "reference": row.reference, "floor": row.floor}[who].append(value)
        print(f"{name:10} {who:10} {value:10.2f} {self.rows[name].unit}", file=sys.stderr, flush=True)

    def wants(self, *names: str) -> bool:
        return any(name in self.rows for name in names)

    def servers(self, **limits: str) -> list[tuple[str, Server]]:
        """In their order; with ``limits`` as they are by default, else without."""
        reference = self.reference.running(**({} if limits else {"LIMITS": "off"}))
        return [("reference", reference), ("ours", running_server(**limits))]

    def requests(self) -> None:
        """One round of what is asked as fast as it is answered, and of the callbacks at a fixed rate."""
        for who, server in self.servers():
            with server as (port, pid):
                self._callbacks(who, port, pid)
                if self.wants("ping"):
                    done = self.reference.drive("ping", port, seconds=2, concurrency=32)
                    self.note("ping", who, done["pings_per_s"])
                if self.wants("health"):
                    self.note("health", who, self._flood(who, port, pid, "health", "200"))
        if self.wants("callbacks", "delivery"):
            with running_server(app="benchmarks.frame:app", WEB_CONCURRENCY="1") as (port, pid):
                self._callbacks("floor", port, pid)
        if self.wants("refused"):
            for who, server in self.servers(**LIMITED):
                with server as (port, pid):
                    self.note("refused", who, self._flood(who, port, pid, "refused", "429"))

    def _callbacks(self, who: str, port: int, pid: int) -> None:
        # The slower one first, which warms up for the other.
        if self.wants("delivery"):
            self.note("delivery", who, self._drive_callbacks(port, seconds=3, rate=200)["delivered_ms"]["p99"])
        if self.wants("callbacks"):
            used = cpu_seconds(pid)
            done = self._drive_callbacks(port, seconds=3, concurrency=16)
            self._used(who, "callbacks", (cpu_seconds(pid) - used) / done["rtt_ms"]["n"])
            self.note("callbacks", who, done["callbacks_per_s"])

    def _drive_callbacks(self, port: int, **options: float) -> dict[str, Any]:
        done = self.reference.drive("callback", port, **options)
        assert done["lost"] == 0, done
        assert not done["bad"], done
        return done

    def _flood(self, who: str, port: int, pid: int, name: str, expected: str) -> float:
        flood.run(port, "/health", seconds=0.3)
        used = cpu_seconds(pid)
        done = flood.run(port, "/health", seconds=2)
        self._used(who, name, (cpu_seconds(pid) - used) / done["requests"])
        assert set(done["statuses"]) == {expected}, done
        return float(done["perSecond"])

    def _used(self, who: str, name: str, seconds: float) -> None:
        self.cpu_us.setdefault(f"{name} {who}", []).append(round(seconds * 1e6, 1))

    def memory(self) -> None:
        for who, server in self.servers():
            with server as (port, pid):
                self.note("memory", who, crowd.kib_each(port, pid, WEIGHED_SOCKETS))

    def idle(self) -> None:
        """Both at the same time, for there is nothing that they would take from each other."""
        with ExitStack() as stack:
            ports, pids = zip(*(stack.enter_context(server) for _, server in self.servers()), strict=True)
            crowds = [crowd.open_sockets(port, IDLE_SOCKETS) for port in ports]
            if self.wants("idle"):
                for who, used in zip(("reference", "ours"), crowd.idle_cpu(list(pids), crowds), strict=True):
                    self.note("idle", who, used)
            if self.wants("goodbye"):
                self.note("goodbye", "ours", crowd.goodbye_s(pids[1], crowds[1]))

    def turns(self, rounds: int) -> None:
        with turns.both() as (program, bridge):
            for _ in range(rounds * 2 if self.wants("delta") else 0):
                self.note("delta", "reference", program.first_delta_s() * 1000)
                self.note("delta", "ours", bridge.first_delta_s() * 1000)
            for _ in range(max(1, rounds - 1) if self.wants("turns") else 0):
                self.note("turns", "reference", program.all_first_deltas_s(TURNS))
                self.note("turns", "ours", bridge.all_first_deltas_s(TURNS))

    def repair(self, rounds: int, app: Path) -> None:
        row: Row = self.rows["repair"]
        if not installed(app):
            row.why_not = "no n8n is installed (make n8n, or N8N_APP=FOLDER)"
            return
        from benchmarks import repair  # brings the tests' own programs along

        for took in repair.measure(app, rounds=rounds):
            self.note("repair", "ours", took)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path, help="folder with the reference's server.js and package.json")
    parser.add_argument("--driver", type=Path, help="driver.mjs (default: ../load/driver.mjs beside the reference)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", default="", help="only these, by their names in the JSON line, with commas")
    parser.add_argument("--n8n-app", type=Path, default=Path(os.environ.get("N8N_APP") or APP))
    options = parser.parse_args()
    crowd.raise_file_limit()
    driver = options.driver or options.reference / ".." / "load" / "driver.mjs"
    wanted = set(filter(None, options.rows.split(",")))
    compared = Comparison(install(options.reference.resolve(), driver.resolve()), wanted)
    began = time.monotonic()
    killed: dict[str, Any] = {}
    for _ in range(options.rounds):
        if compared.wants("callbacks", "delivery", "ping", "health", "refused"):
            compared.requests()
    if compared.wants("callbacks"):
        killed = kill.check()
    for _ in range(max(1, options.rounds - 1)):
        if compared.wants("memory"):
            compared.memory()
    if compared.wants("idle", "goodbye"):
        compared.idle()
    if compared.wants("delta", "turns"):
        compared.turns(options.rounds)
    if compared.wants("repair"):
        compared.repair(options.rounds, options.n8n_app)
    below = {} if wanted and "floors" not in wanted else floors.measure()
    found = list(compared.rows.values())
    told = {
        "rows": [row.as_json() for row in found],
        "cpuUsPerRequest": compared.cpu_us,
        "afterSigkill": killed,
        "floors": below,
    }
    print(json.dumps({"benchmark": "compare", "seconds": round(time.monotonic() - began), **told}))
    print(table(found))
    if below:
        print("floors: " + ", ".join(f"{name} {value:g}" for name, value in below.items()))
    if killed:
        count, after_s = killed["acknowledged"], killed["killedAfterS"]
        print(f"SIGKILL {after_s} s into a flood of callbacks: all {count} that were acknowledged are in the journal")


if __name__ == "__main__":
    main()
