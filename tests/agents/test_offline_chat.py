"""Which sentences the offline agent understands, and that it guesses at no other."""

from __future__ import annotations

import time

import pytest

from app.agents.offline_chat import Interval, Wanted, asks_for_list, read_request

A, B = "https://a.example/x?from=1&to=2", "http://127.0.0.1:5000/in"
TEN = Interval(10, "minutes")


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        (f"every 10 minutes get {A} and post it to {B}", Wanted(TEN, A, B)),
        (f"  Every  10   MINUTES,\n GET {A} and POST it to {B}!! ", Wanted(TEN, A, B)),
        (f"get {A} every 10 minutes and post it to {B}.", Wanted(TEN, A, B)),
        (f"Please build me a workflow that fetches {A} every ten minutes and posts it to {B}", Wanted(TEN, A, B)),
        (
            f"Every 10 minutes download the report from '{A}'. Then send the result to the webhook {B}?",
            Wanted(TEN, A, B),
        ),
        (f'every 10min check "{A}", forward the JSON to <{B}>', Wanted(TEN, A, B)),
        (f"every hour get {A}", Wanted(Interval(1, "hours"), A)),
        (f"check {A} every 30s", Wanted(Interval(30, "seconds"), A)),
        (f"every 2 days fetch {A}, thank you", Wanted(Interval(2, "days"), A)),
        (f"every 120 seconds get {A}", Wanted(Interval(2, "minutes"), A)),
        (f"every 48 hours get {A}", Wanted(Interval(2, "days"), A)),
        ("a webhook that answers pong", Wanted(answer="pong")),
        ("Create a Webhook  that responds with pong.", Wanted(answer="pong")),
        ('I need a webhook which returns "Hello,  World!".', Wanted(answer="Hello,  World!")),
        ("webhook that replies: \u2018it's fine\u2019", Wanted(answer="it's fine")),
        ("make a webhook that returns the text `ok`", Wanted(answer="ok")),
        (f"a webhook that answers {A}", Wanted(answer=A)),
        (f"a webhook that gets {A} and returns it", Wanted(None, A)),
        (f"a webhook that fetches {A} and posts the result to {B}", Wanted(None, A, B)),
    ],
)
def test_a_sentence_of_the_known_kinds_is_understood(prompt, wanted):
    assert read_request(prompt) == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hello",
        "build me a CRM",
        f"get {A}",
        f"every 10 minutes post {A} to {B}",
        "every 10 minutes get the weather and post it",
        f"every 10 minutes get {A} and {B}",
        f"every 10 minutes get {A} and post it to {B} and to {B}",
        f"every 10 minutes get {A} and post it to {B} with a token",
        f"every 10 minutes get {A} and email it to me",
        f"email me and get {A} every hour",
        f"every hour get {A} if it is up",
        f"do not get {A} every hour",
        f"every day at 9 get {A}",
        f"every 90 minutes get {A}",
        f"every 0 minutes get {A}",
        f"every 99999 days get {A}",
        f"every second hour get {A}",
        f"every hour get {A} and every day post it to {B}",
        "every hour get ftp://a.example/",
        "every hour get https://",
        "every hour get http://[::1",
        'a webhook that answers "x" and emails me',
        "a webhook that answers",
        'a webhook that answers ""',
        "don't make a webhook that answers pong",
        "every hour get " + "the " * 400 + A,
    ],
)
def test_anything_else_is_not_guessed_at(prompt):
    assert read_request(prompt) is None


@pytest.mark.parametrize(
    "prompt", ["every hour " + "get the " * 240, "a " * 990 + "webhook", "please " * 280, '"' * 1999]
)
def test_reading_takes_no_time_worth_mentioning(prompt):
    began = time.perf_counter()
    read_request(prompt)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("prompt", ["list workflows", "Show me all my  workflows!", "list the workflows please"])
def test_a_wish_for_the_list_is_understood(prompt):
    assert asks_for_list(prompt)


@pytest.mark.parametrize("prompt", ["", "workflows", "list the errors of my workflows", "delete all workflows"])
def test_other_words_are_no_wish_for_the_list(prompt):
    assert not asks_for_list(prompt)
