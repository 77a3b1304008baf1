"""A ``wsgi.py`` that tells what its worker holds: ``GET /held`` gives the number of its greenlets, of the objects that
an open socket is made of, and of its file descriptors."""

import gc
import os
from collections import Counter
from typing import Any

import greenlet

from app import create_app
from app.agents.offline import OfflineAgent

PARTS = ("SocketIO", "Tcp", "Conversation", "Connection", "Commands")

app = create_app(agent=OfflineAgent())


@app.get("/held")
def held() -> dict[str, Any]:
    gc.collect()
    kinds = Counter(type(one).__name__ for one in gc.get_objects() if str(type(one).__module__).startswith("app."))
    greenlets = sum(isinstance(one, greenlet.greenlet) and not one.dead for one in gc.get_objects())
    return {
        "greenlets": greenlets,
        "descriptors": len(os.listdir("/proc/self/fd")),
        **{part: kinds[part] for part in PARTS},
    }
