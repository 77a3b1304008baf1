"""Requests and chats without a pause while the bridge is reloaded: each must end as if nothing had happened.

Runs in the target of ``dev/ansible.sh test``, with the bridge's own Python (``python - < dev/ansible_load.py``).
``LOAD`` is a JSON object of options. It goes on until the file ``stop`` exists, then prints one JSON line; exit code 1
where anything failed.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simple_websocket

PACE_S = 0.05
MESSAGE_EVERY_S = 4.0  # below the limit of 20 a minute
CALLBACK_EVERY_S = 1.0  # below the limit of 100 a minute
LIMIT_S = 1200.0
SETTLE_S = 30.0
RESTART = 1012
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE

options: dict[str, Any] = json.loads(os.environ["LOAD"])
counts: Counter[str] = Counter()
failures: list[str] = []
stop = Path(options["stop"])
deadline = time.monotonic() + LIMIT_S


def running() -> bool:
    return not stop.exists() and time.monotonic() < deadline


def plain() -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", 3000, timeout=30)


def by_nginx() -> http.client.HTTPConnection:
    return http.client.HTTPSConnection("127.0.0.1", 443, timeout=30, context=UNVERIFIED)


def send(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> int:
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    response.read()
    return response.status


def keep_asking(name: str, connect: Callable[[], http.client.HTTPConnection], *, kept: bool, session: Chat) -> None:
    """GETs as fast as the pace allows, on one connection where it is ``kept``, else on one each."""
    connection = connect()
    paths = itertools.cycle(["/healthz", f"/sessions/{session.session_id}"])
    while running():
        try:
            status = send(connection, "GET", next(paths), Authorization=f"Bearer {session.token}")
            if status != 200:
                failures.append(f"{name}: {status}")
            counts[name] += 1
        except (OSError, http.client.HTTPException) as exc:
            failures.append(f"{name}: {exc!r}")
            connection.close()
        if not kept:
            connection.close()
        time.sleep(PACE_S)


def keep_reporting() -> None:
    """Callbacks of a workflow that nobody knows: each must be kept."""
    for number in itertools.count():
        if not running():
            return
        body = {
            "workflow": {"id": "unknown", "name": "unknown"},
            "execution": {"id": f"{os.getpid()}-{number}", "mode": "trigger", "error": {"message": "load"}},
        }
        connection = plain()
        try:
            status = send(
                connection, "POST", "/callbacks/n8n/error", body, Authorization=f"Bearer {options['callbackSecret']}"
            )
            if status != 202:
                failures.append(f"callback: {status}")
            counts["callback"] += 1
        except (OSError, http.client.HTTPException) as exc:
            failures.append(f"callback: {exc!r}")
        finally:
            connection.close()
        time.sleep(CALLBACK_EVERY_S)


class Chat:
    """A client as the protocol wants it: comes back when told to, after the last event that it has."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.session_id, self.token, self.last_seq = "", "", 0
        self.said: list[str] = []
        self.seen: Counter[str] = Counter()
        self.finished = 0
        self.open(accessToken=options["accessToken"])

    def open(self, **hello: Any) -> dict[str, Any]:
        context = UNVERIFIED if self.url.startswith("wss") else None
        self.socket = simple_websocket.Client(self.url, ssl_context=context)
        self.socket.send(json.dumps({"type": "hello", **hello}))
        welcome: dict[str, Any] = json.loads(self.socket.receive(timeout=30))
        if welcome["type"] != "welcome":
            raise RuntimeError(f"instead of a welcome: {welcome}")
        self.session_id, self.told = welcome["sessionId"], False
        self.token = welcome.get("token", self.token)
        return welcome

    def run(self) -> None:
        try:
            for number in itertools.count():
                self.said.append(f"m{number}")
                until = time.monotonic() + MESSAGE_EVERY_S
                # mypy infers no type for a lambda with a default, which binds this round's.
                self.talk(lambda until=until: not running() or time.monotonic() > until)  # type: ignore[misc]
                if not running():
                    break
            ends = time.monotonic() + SETTLE_S
            self.talk(lambda: self.settled() or time.monotonic() > ends)
            if not self.settled():
                failures.append(
                    f"{self.name}: of {len(self.said)} messages {len(self.seen)} came, {self.finished} ended"
                )
            if set(self.seen.values()) - {1}:
                failures.append(f"{self.name}: a message was taken twice: {self.seen}")
        except Exception as exc:
            failures.append(f"{self.name}: {exc!r}")
        finally:
            self.socket.close()  # ends its thread, too

    def settled(self) -> bool:
        return set(self.seen) == set(self.said) and self.finished >= len(self.said)

    def talk(self, done: Callable[[], bool]) -> None:
        """Say what was not taken yet, and read; over as many sockets as it takes."""
        try:
            self.say_missing()
            while not done():
                text = self.socket.receive(timeout=0.2)
                if text is not None:
                    self.take(json.loads(text))
        except simple_websocket.ConnectionClosed as exc:
            for text in self.socket.input_buffer:  # where it was speaking that failed
                self.take(json.loads(text))
            if exc.reason != RESTART or not self.told:
                failures.append(f"{self.name}: closed with {exc.reason}, {'told' if self.told else 'not told'} before")
            counts[f"{self.name} was told to come back"] += 1
            time.sleep(0.5)
            welcome = self.open(sessionId=self.session_id, token=self.token, after=self.last_seq)
            if not welcome["resumed"]:
                failures.append(f"{self.name}: came back to another session")
            counts[f"{self.name} came back"] += 1
            self.talk(done)

    def say_missing(self) -> None:
        for message_id in self.said:
            if message_id not in self.seen:
                self.socket.send(json.dumps({"type": "message", "text": "help", "clientMessageId": message_id}))

    def take(self, frame: dict[str, Any]) -> None:
        self.told = self.told or frame["type"] == "server_shutdown"
        if frame["type"] == "error":
            failures.append(f"{self.name}: {frame['code']}")
        if "seq" not in frame:
            return
        if frame["seq"] <= self.last_seq:
            failures.append(f"{self.name}: event {frame['seq']} came after {self.last_seq}")
        self.last_seq = frame["seq"]
        if frame["type"] == "user_message":
            self.seen[frame["data"]["clientMessageId"]] += 1
        if frame["type"] == "turn_finished" and frame["data"]["outcome"] == "completed":
            self.finished += 1


def main() -> int:
    chats = [Chat("chat", "ws://127.0.0.1:3000/ws"), Chat("chat by nginx", "wss://127.0.0.1/ws")]
    threads = [threading.Thread(target=chat.run) for chat in chats]
    for name, connect, kept in [("request", plain, False), ("request by nginx", by_nginx, True)]:
        arguments = {"kept": kept, "session": chats[0]}
        threads.append(threading.Thread(target=keep_asking, args=(name, connect), kwargs=arguments))
    threads.append(threading.Thread(target=keep_reporting))
    for thread in threads:
        thread.start()
    Path(options["begun"]).touch()
    for thread in threads:
        thread.join()
    for chat in chats:
        if options["reloads"] != counts[f"{chat.name} came back"]:
            failures.append(f"{chat.name}: came back {counts[f'{chat.name} came back']} times")
        counts[f"messages of {chat.name}"] = len(chat.said)
    sys.stdout.write(json.dumps({"failures": len(failures), "first": failures[:10], **counts}) + "\n")
    return 1 if failures else 0


sys.exit(main())
