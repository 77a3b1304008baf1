"""A drain while what a socket has asked for is at n8n: the socket is told to go, the work is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, Healing, healing_n8n, to, url_of
from tests.support.server import wait_for

STILL_THERE_S = 2.0  # an idle worker is gone after one


@pytest.mark.parametrize("gone_before", [False, True], ids=["told by the drain", "gone before it"])
def test_a_worker_stays_for_an_approval_whose_socket_has_ended(tmp_path: Path, gone_before: bool) -> None:
    with healing_n8n() as n8n, planned_bridge(n8n, tmp_path) as server:
        one = Healing(server, n8n, tmp_path).adopt(to(FIXED), autonomy="ask")
        one.heal()
        (repair,) = one.repairs()
        held = n8n.hold(one.workflow_id, "publish", "before")
        one.client.send({"type": "approve", "repairId": repair["repairId"]})
        assert held.reached.wait(10)
        if gone_before:
            one.client.drop()
            wait_for(lambda: not one.client.http("GET", "/sessions/{sid}").json["connected"])

        server.term()

        if not gone_before:
            assert one.client.wait_closed() == 1012
        with pytest.raises(AssertionError, match="still running"):
            server.wait(limit_s=STILL_THERE_S)
        held.release()
        assert server.wait() == 0
        assert url_of(n8n.active(one.workflow_id)) == FIXED
        server.start()
        wait_for(lambda: "repair_published" in one.kinds())
        one.close()
