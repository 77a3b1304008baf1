"""Callbacks at a steady pace on one kept connection, so that each reload meets some on its way."""

from __future__ import annotations

import threading
from random import Random

from tests.consistency.clients import Place, told_callback
from tests.consistency.lines import Line
from tests.heal.rig import SECRET

EVERY_S = 0.1


class Caller(threading.Thread):
    """:ivar error: a bug of this test."""

    def __init__(self, place: Place, seed: int) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._place, self._chance = place, Random(seed)

    def run(self) -> None:
        line = Line(self._place.server)
        try:
            number = 0
            while not self._place.ended.wait(EVERY_S):
                owned = [owned for person in self._place.people for owned in person.owned]
                if not owned:
                    continue
                number += 1
                run_id = f"steady-{number}"
                body = self._chance.choice(owned).report(run_id, "Steady trouble")
                answer = line.insist("POST", "/callbacks/n8n/error", body, credential=SECRET)
                if answer is not None:
                    told_callback(self._place.recorder, answer, run_id, by="caller")
        except BaseException as exc:
            self.error = exc
        finally:
            line.close()
