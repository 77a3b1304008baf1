"""What a run does, chosen by its seed alone. When it happens, and to what of all that exists then, is up to time."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

OpKind = Literal[
    "say",
    "say_on_socket",
    "adopt",
    "fail",
    "report",
    "repeat",
    "decide",
    "roll_back",
    "retry_repair",
    "cancel",
    "autonomy",
    "reconnect",
    "tab",
    "walk",
    "break_again",
]
Blow = Literal["kill", "hup", "restart", "backend", "lose_answer"]

CLIENTS = 6
_OPS: dict[OpKind, int] = {
    "say": 8,
    "say_on_socket": 5,
    "adopt": 4,
    "fail": 8,
    "report": 5,
    "repeat": 5,
    "decide": 8,
    "roll_back": 3,
    "retry_repair": 2,
    "cancel": 2,
    "autonomy": 1,
    "reconnect": 4,
    "tab": 3,
    "walk": 3,
    "break_again": 1,
}
_BLOWS: dict[Blow, int] = {"kill": 6, "hup": 3, "restart": 1, "backend": 2, "lose_answer": 4}
_PROPOSALS = ("good", "good", "good", "bad", "beyond", "upstream")


@dataclass(frozen=True, slots=True)
class Op:
    """:ivar after_s: pause before it. :ivar pick: 0 to 1: which of all that it may be about then.
    :ivar choice: 0 to 1: how. :ivar proposals: of the agent, for a workflow that is adopted.
    :ivar times: how often it is said at the same time.
    """

    kind: OpKind
    after_s: float
    pick: float
    choice: float
    proposals: tuple[str, ...]
    times: int


@dataclass(frozen=True, slots=True)
class Disturbance:
    """:ivar step: of n8n's whose answer is lost."""

    kind: Blow
    after_s: float
    pick: float
    step: Literal["put", "publish", "retry"]


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker is stopped for so long beyond its lease."""

    after_s: float
    pick: float
    beyond_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """More of each than fits into the time."""

    clients: tuple[tuple[Op, ...], ...]
    disturbances: tuple[Disturbance, ...]
    pauses: tuple[Pause, ...]


def plan(seed: int, *, seconds: float) -> Plan:
    chance = Random(seed)
    # Everybody begins with a socket and a workflow, and somebody is killed in each run.
    begins: tuple[OpKind, ...] = ("reconnect", "adopt")
    rest = range(int(seconds * 20))
    clients = tuple((*(_op(chance, kind) for kind in begins), *(_op(chance) for _ in rest)) for _ in range(CLIENTS))
    disturbances = (_disturbance(chance, "kill"), *(_disturbance(chance) for _ in rest))
    pauses = tuple(
        Pause(chance.uniform(0.2, 1.5), chance.random(), chance.uniform(0.2, 3.0)) for _ in range(int(seconds))
    )
    return Plan(clients, disturbances, pauses)


def _op(chance: Random, kind: OpKind | None = None) -> Op:
    (drawn,) = chance.choices(list(_OPS), weights=list(_OPS.values()))
    proposals = tuple(chance.choice(_PROPOSALS) for _ in range(chance.randint(0, 3)))
    return Op(
        kind or drawn,
        after_s=chance.uniform(0, 0.25),
        pick=chance.random(),
        choice=chance.random(),
        proposals=proposals,
        times=chance.choice((1, 1, 2, 3)),
    )


def _disturbance(chance: Random, kind: Blow | None = None) -> Disturbance:
    (drawn,) = chance.choices(list(_BLOWS), weights=list(_BLOWS.values()))
    return Disturbance(
        kind or drawn,
        after_s=chance.uniform(0.8, 3.0),
        pick=chance.random(),
        step=chance.choice(("put", "publish", "retry")),
    )
