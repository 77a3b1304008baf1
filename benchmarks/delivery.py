"""From a callback's POST to its frame on the socket, durable in between: ``python -m benchmarks.delivery``.

``--rate N``: an open loop of N callbacks a second; without it each of ``--concurrency`` workflows posts its next one as
soon as the last was answered. Prints one JSON line; times are milliseconds.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import time
from typing import Any

import gevent

from benchmarks.bridge import Http, WebSocket, quantiles, running_bridge

ERROR = {"message": "Cannot read properties of undefined", "stack": "Error: x\n" * 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with running_bridge(WEB_CONCURRENCY=str(options.workers)) as port:
        print(json.dumps(measure(port, options.seconds, options.concurrency, options.rate)))


def measure(port: int, seconds: float, concurrency: int, rate: float) -> dict[str, Any]:
    posted: dict[str, float] = {}
    answered: list[float] = []
    delivered: list[float] = []
    refused: dict[int, int] = {}
    followers: list[gevent.Greenlet] = []

    def follow(socket: WebSocket) -> None:
        while True:
            frame = socket.receive()
            if frame["type"] == "workflow_error":
                delivered.append((time.perf_counter() - posted.pop(frame["data"]["execution"]["id"])) * 1000)

    for number in range(concurrency):
        socket = WebSocket(port, {})
        body = json.dumps({"workflowId": f"bench-{number}"}).encode()
        status, _ = Http(port).post(f"/sessions/{socket.welcome['sessionId']}/workflows", body, socket.welcome["token"])
        assert status == 201, status
        followers.append(gevent.spawn(follow, socket))

    ends = time.perf_counter() + seconds
    connections = [Http(port) for _ in range(64 if rate else concurrency)]

    def post(number: int) -> None:
        connection = connections.pop()
        execution_id = f"{number}-{len(answered)}-{time.perf_counter_ns()}"
        report = {"id": execution_id, "error": ERROR, "lastNodeExecuted": "Code", "mode": "webhook"}
        body = json.dumps({"execution": report, "workflow": {"id": f"bench-{number}", "name": "bench"}}).encode()
        posted[execution_id] = started = time.perf_counter()
        status, _ = connection.post("/callbacks/n8n/error", body)
        answered.append((time.perf_counter() - started) * 1000)
        if status != 202:
            refused[status] = refused.get(status, 0) + 1
        connections.append(connection)

    def post_on(number: int) -> None:
        while time.perf_counter() < ends:
            post(number)

    began = time.perf_counter()
    if rate:
        jobs = []
        for number in range(int(seconds * rate)):
            gevent.sleep(max(0.0, began + number / rate - time.perf_counter()))
            if connections:
                jobs.append(gevent.spawn(post, number % concurrency))
        gevent.joinall(jobs)
    else:
        gevent.joinall([gevent.spawn(post_on, number) for number in range(concurrency)])
    took = time.perf_counter() - began
    deadline = time.perf_counter() + 5
    while posted and time.perf_counter() < deadline:
        gevent.sleep(0.01)
    gevent.killall(followers)
    return {
        "benchmark": "delivery",
        "rate": rate or None,
        "per_s": round(len(answered) / took, 1),
        "answered_ms": quantiles(answered),
        "delivered_ms": quantiles(delivered),
        "lost": len(posted),
        "refused": refused,
    }


if __name__ == "__main__":
    main()
