"""A turn of the real Claude program in a container that is stopped, against a scripted Messages API on loopback."""

from __future__ import annotations

from tests.fakes.messages_api import MessagesApi, say
from tests.image.engine import HARDENED, Container, Engine
from tests.support.client import Client
from tests.support.server import wait_for

LIMIT_S = 30.0
GRACE_S = 6


def options(volume: str) -> list[str]:
    # The API listens on this machine's loopback; so does the bridge then, and lets this machine in.
    return ["--network=host", f"--volume={volume}:/data", *HARDENED]


def test_a_turn_that_a_stop_interrupts_goes_on_in_the_next_container(engine: Engine, volume: str) -> None:
    endless = say("word " * 2000, piece=5, piece_delay_s=0.2)
    with MessagesApi([endless, say("Here I am again.", times=0)]) as api:
        settings = {
            "ANTHROPIC_API_KEY": "sk-ant-not-a-key",
            "ANTHROPIC_BASE_URL": api.url,
            "GRACEFUL_TIMEOUT_SECONDS": GRACE_S,
        }
        with Container(engine, options(volume), settings) as first:
            client = Client(first).connect()  # type: ignore[arg-type]
            client.say("Say something long")
            client.receive("assistant_delta", limit_s=LIMIT_S)
            code = first.stop()
            engine.figures.append(f"stop, a turn running, grace {GRACE_S} s: {first.stopped_s:.2f} s")

            assert code == 0
            assert client.wait_closed() == 1012
            messages = first.messages()
            assert {"Graceful shutdown started", "Graceful shutdown complete"} <= set(messages)

        with Container(engine, options(volume), settings) as second:
            client.server = second  # type: ignore[assignment]
            client.connect()
            client.receive("turn_finished", outcome="interrupted", limit_s=LIMIT_S)
            client.receive("turn_finished", outcome="completed", limit_s=LIMIT_S)
            client.disconnect()

            texts = [event["data"]["text"] for event in client.of("assistant_message")]
            assert texts[-1] == "Here I am again."
            assert second.stop() == 0
            assert "Graceful shutdown complete" in second.messages()
        assert api.unexpected == []


def test_a_turn_that_ends_within_the_grace_is_completed(engine: Engine, volume: str) -> None:
    slow = say("one two three four five", piece=5, piece_delay_s=0.5)
    with MessagesApi([slow]) as api:
        settings = {"ANTHROPIC_API_KEY": "sk-ant-not-a-key", "ANTHROPIC_BASE_URL": api.url}
        with Container(engine, options(volume), settings) as first:
            client = Client(first).connect()  # type: ignore[arg-type]
            client.say("Count")
            client.receive("assistant_delta", limit_s=LIMIT_S)
            code = first.stop()
            engine.figures.append(f"stop, a turn that ends by itself: {first.stopped_s:.2f} s")

            assert code == 0
            assert "Graceful shutdown complete" in first.messages()

        with Container(engine, options(volume), settings) as second:
            client.server = second  # type: ignore[assignment]
            client.connect()
            client.receive("turn_finished", outcome="completed", limit_s=LIMIT_S)
            client.disconnect()
            wait_for(lambda: second.get("/health").json["activeTurns"] == 0, what="no turn")
        assert api.unexpected == []
        assert len(api.requests) == 1
