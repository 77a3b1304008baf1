"""The order of the files: those that take longest first, so that no process is left with one of them at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST = (
    "consistency/test_run_redis.py",
    "consistency/test_run_sqlite.py",
    "server/test_worker.py",
    "cli/test_drill.py",
    "fleet/test_fleet.py",
    "heal/test_kills.py",
    "server/test_metrics_folder.py",
    "heal/test_poll.py",
    "e2e/test_limits.py",
    "e2e/test_dead_letter_copies.py",
    "kills/test_story.py",
    "web/test_socket_io.py",
    "heal/test_notify.py",
    "cli/test_doctor.py",
    "agents/test_claude.py",
    "kills/test_reload.py",
    "kills/test_signals.py",
    "console/test_chat.py",
    "console/test_repairs.py",
    "console/test_sessions.py",
    "console/test_workflows.py",
    "e2e/test_sockets.py",
    "repairs/test_strays.py",
    "turns/test_repair_turns.py",
    "heal/test_story.py",
    "heal/test_afterwards.py",
    "heal/test_variants.py",
    "heal/test_worst_moments.py",
    "cli/test_repairs.py",
    "server/test_task_protection.py",
    "kills/test_shutdown.py",
    "heal/test_injections.py",
    "sessions/test_sweep.py",
    "sessions/test_peers.py",
)
"""Files of half a minute and more on a busy machine, the longest first; ``--durations=0`` tells what takes long.

A file is what a process is given, and it is given the next one before the last two tests of the one in hand. By itself
pytest-xdist begins with those that have most tests, and would come to one long test last.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    rank = {here / name: number for number, name in enumerate(LONGEST)}
    if gone := [str(path) for path in rank if not path.exists()]:
        raise pytest.UsageError(f"{__file__} names files that are not there: {', '.join(gone)}")
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
