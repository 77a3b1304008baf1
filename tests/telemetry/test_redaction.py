"""Secrets do not pass, whatever their shape; what is none is left alone."""

from __future__ import annotations

import json

import pytest

from app.telemetry.redaction import MASK, is_secret_name, redact, redact_text

SECRETS = {
    "bearer": ("Authorization: Bearer abcDEF123456789", "abcDEF123456789"),
    "basic": ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    "jwt": ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl back", "eyJzdWIiOiIxIn0"),
    "anthropic": ("key sk-ant-api03-AAAAbbbbCCCCdddd1111", "sk-ant-api03"),
    "github": ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123"),
    "gitlab": ("glpat-abcdefghij0123456789", "glpat-abc"),
    "aws": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSF"),
    "google": ("AIzaSyA-0123456789abcdefghijklmnopqrstu", "AIzaSyA"),
    "slack": ("xoxb-123456789012-abcdefABCDEF", "xoxb-1234"),
    "stripe": ("sk_live_0123456789abcdefABCDEF", "sk_live_0123"),
    "sendgrid": ("SG.aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbb", "SG.aaaa"),
    "telegram": ("bot 123456789:AAabcdefghijklmnopqrstuvwxyz0123456", "AAabcdef"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "MIIabc"),
    "private key cut off": ("-----BEGIN PRIVATE KEY-----\nMIIdef", "MIIdef"),
    "basic auth in a URL": ("GET https://user:hunter22@db.example.com/x", "hunter22"),
    "query": ("https://x.example/y?api_key=12345abc&page=2", "12345abc"),
    "cookie": ("Cookie: sid=abcdef; theme=dark", "abcdef"),
    "set-cookie": ("set-cookie: sid=zzzz9999; HttpOnly", "zzzz9999"),
    "password in text": ("login failed, password=hunter22, try again", "hunter22"),
    "password in JSON text": ('{"password": "hunter22"}', "hunter22"),
    "n8n": ("n8n_api_0123456789abcdef0123", "n8n_api_0123"),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_in_text_is_masked_wherever_it_stands(text, secret):
    assert secret not in redact_text(text)
    assert MASK in redact_text(text)
    nested = redact({"a": [{"b": f"before {text} after"}]})
    assert secret not in json.dumps(nested)


@pytest.mark.parametrize(
    "text",
    [
        "The service was not able to process your request",
        "Cannot read properties of undefined (reading 'token')",
        "http://127.0.0.1:5690/workflow/9NHISgDHNWyGRnjc/executions/28",
        "connect ECONNREFUSED 127.0.0.1:9",
        "maxTokens is 4096",
        "Authorization failed - please check your credentials",
        "https://example.com/a@b?page=2",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text):
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "name",
    ["password", "Authorization", "x-api-key", "apiKey", "client_secret", "accessToken", "Set-Cookie", "dbPassword"],
)
def test_a_value_under_a_secret_name_is_masked_whole(name):
    assert is_secret_name(name)
    assert redact({name: "anything at all"}) == {name: MASK}
    assert redact({name: ["a", "b"]}) == {name: [MASK, MASK]}
    assert redact([{"name": name, "value": "anything"}]) == [{"name": name, "value": MASK}]


@pytest.mark.parametrize("name", ["authentication", "maxTokens", "name", "message", "author", "tokenizer", "key"])
def test_names_that_only_look_alike_are_kept(name):
    assert redact({name: "none"}) == {name: "none"}


def test_sizes_depth_and_numbers_are_bounded():
    assert len(redact_text("x" * 10**6, limit=100)) < 150
    assert len(redact(list(range(10_000)))) == 200
    deep = value = {}
    for _ in range(100):
        value["a"] = {}
        value = value["a"]
    assert json.dumps(redact(deep)).count("{") <= 25
    assert json.loads(json.dumps(redact({"n": float("nan"), "i": float("-inf")}), allow_nan=False))


def test_a_secret_across_the_cut_does_not_show_its_beginning():
    text = "y" * 90 + " Bearer abcdefghijklmnopqrstuvwxyz0123456789" + "z" * 500
    assert "abcdefgh" not in redact_text(text, limit=100)
