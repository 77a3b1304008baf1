"""How many repairs an agent may begin: what is over it is delayed, not dropped. What a loop of failures may cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.journal import Journal, Limit
from app.journal.records import Repair

DAY_S = 86_400.0
HOUR_S = 3_600.0
LOOKED_AT = 100
"""At least, of those that an agent was begun for; the newest."""


@dataclass(frozen=True, slots=True)
class Pace:
    """:ivar per_workflow: a day; ``in_all``: an hour, for all workflows together; 0 is off."""

    per_workflow: int = 5
    in_all: int = 20

    def wait_s(self, journal: Journal, repair: Repair) -> tuple[float, str]:
        """In how many seconds this repair may begin, and why not now; ``(0, "")``: now, and that is counted.

        Asked under the lease of its session, which has all repairs of the workflow: nobody counts beside it.
        """
        if self.per_workflow:
            now_s = time.time()
            # Not of all repairs: each new error text makes one that waits, and they would crowd out what has begun.
            limit = max(LOOKED_AT, 2 * self.per_workflow)
            others = Repair.find(journal, f"begun:{repair.workflow_id}", limit=limit)
            begun = sorted(r.times["running"] for r in others if now_s - r.times["running"] < DAY_S)
            if len(begun) >= self.per_workflow:
                why = f"{self.per_workflow} repairs of this workflow began within a day"
                return max(1.0, begun[-self.per_workflow] + DAY_S - now_s), why
        if self.in_all and (wait_s := journal.hit(Limit("repairs", self.in_all, HOUR_S))):
            return max(1.0, wait_s), f"{self.in_all} repairs began within an hour"
        return 0.0, ""
