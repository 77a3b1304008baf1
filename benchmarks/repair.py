"""From a failure in a real n8n to its published repair: the real program, a scripted model that takes no time.

The scene is that of ``tests/real_n8n``: a webhook's workflow breaks by an input that it did not expect, the agent
proposes what mends it, and the bridge tries that on n8n before it publishes it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from app.n8n import error_workflow
from app.n8n.client import N8nClient
from benchmarks.bridge import OPEN_LIMITS
from dev.local_n8n import LocalN8n
from tests.fakes.messages_api import MessagesApi
from tests.real_n8n.test_heal import SECRET, build, model
from tests.support.server import UNLIMITED, BridgeServer


def measure(app: Path, *, rounds: int) -> list[float]:
    """Seconds of each round. ``app``: where n8n is installed."""
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder, MessagesApi(model) as api:
        n8n = LocalN8n(Path(folder), port=0, app=app)
        n8n.start()
        try:
            settings = {
                **OPEN_LIMITS,
                **UNLIMITED,
                "AGENT": "claude",
                "HEAL_AUTONOMY": "auto",
                "N8N_API_URL": n8n.url,
                "N8N_API_KEY": n8n.api_key,
                "N8N_CALLBACK_SECRET": SECRET,
                "ANTHROPIC_API_KEY": "sk-bench",
                "ANTHROPIC_BASE_URL": api.url,
            }
            server = BridgeServer(settings)
            error_workflow.install(N8nClient(n8n.url, n8n.api_key), callback_url=server.url, secret=SECRET)
            with server:
                return [_one(n8n, server) for _ in range(rounds)]
        finally:
            n8n.kill()


def _one(n8n: LocalN8n, server: BridgeServer) -> float:
    scene = build(n8n, server)
    began = time.perf_counter()
    assert scene.call({}) == 500, "it should have failed"
    scene.user.receive("repair_published", limit_s=60)
    took = time.perf_counter() - began
    scene.user.receive("turn_finished", limit_s=30)
    scene.user.disconnect()
    return took
