"""The journals that a run is made on; another backend is one more entry in ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.redis import RedisServer


@dataclass(frozen=True, slots=True)
class Backend:
    """:ivar settings: what tells the bridge to use it. :ivar restart: stops its server and starts it again, where it
    has one."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    restart: Callable[[], None] | None = None


@contextmanager
def sqlite(folder: Path) -> Iterator[Backend]:
    yield Backend()


@contextmanager
def redis(folder: Path) -> Iterator[Backend]:
    with RedisServer() as server:

        def restart() -> None:
            server.kill()
            server.start()

        yield Backend({"REDIS_URL": server.url}, restart)


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {"redis": redis, "sqlite": sqlite}
