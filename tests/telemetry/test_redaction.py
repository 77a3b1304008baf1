"""Secrets do not pass, whatever their shape; what is none is left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from app.telemetry.lines import JsonLineFormatter
from app.telemetry.redaction import MASK, is_secret_name, know_secrets, redact, redact_text
from app.turns.prompts import repair_prompt

SECRETS = {
    "bearer": ("Authorization: Bearer abcDEF123456789", "abcDEF123456789"),
    "basic": ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    "jwt": ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl back", "eyJzdWIiOiIxIn0"),
    "anthropic": ("key sk-ant-api03-AAAAbbbbCCCCdddd1111", "sk-ant-api03"),
    "github": ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123"),
    "gitlab": ("glpat-abcdefghij0123456789", "glpat-abc"),
    "aws": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSF"),
    "google": ("AIzaSyA-0123456789abcdefghijklmnopqrstu", "0123456789abcdefg"),
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
    "n8n's stored credential": ("data U2FsdGVkX18abcdefghijklmnopqrstuv==", "abcdefghijkl"),
    "openai": ("key sk-proj-AbCd1234efGH5678ijKL", "AbCd1234"),
    "github fine-grained": ("github_pat_11ABCDEFG0abcdefghijkl_0123456789", "11ABCDEFG0"),
    "aws secret": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtn"),
    "aws secret in JSON": ('{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}', "wJalrXUtn"),
    "google oauth": ("ya29.a0AfH6SMBabcdefghijklmnop", "a0AfH6SMB"),
    "google client secret": ("GOCSPX-abcdefghij0123456789AB", "abcdefghij0123"),
    "slack webhook": ("https://hooks.slack.com/services/T00000000/B00000000/XXXXyyyyZZZZ", "XXXXyyyy"),
    "discord webhook": ("https://discord.com/api/webhooks/123456789/abcDEF_ghi-0123456789xyz", "abcDEF"),
    "stripe webhook": ("whsec_0123456789abcdefABCDEF", "0123456789abc"),
    "twilio": ("SK0123456789abcdef0123456789abcdef", "0123456789abc"),
    "mailgun": ("key-0123456789abcdef0123456789abcdef", "0123456789abc"),
    "npm": ("npm_abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghij"),
    "hugging face": ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "abcdefghij"),
    "pypi": ("pypi-AgEIcHlwaS5vcmcCJDAxMjM0NTY3", "AgEIcHl"),
    "vault": ("hvs.CAESIJabcdefghijklmnop", "CAESIJ"),
    "shopify": ("shpat_0123456789abcdef0123456789abcdef", "0123456789abc"),
    "azure": ("abc8Q~0123456789abcdefghijklmnopqrstuv", "0123456789abcdef"),
    "azure storage": ("AccountName=a;AccountKey=abcd1234EFGH5678==;EndpointSuffix=x", "abcd1234EFGH"),
    "postgres": ("postgres://app:hunter22@db:5432/x", "hunter22"),
    "mongodb": ("mongodb+srv://app:hunter22@cluster0.example.net", "hunter22"),
    "redis": ("redis://:hunter22@cache:6379/0", "hunter22"),
    "a key as the user of a URL": ("https://0123456789abcdef0123456789abcdef@sentry.example/1", "0123456789abc"),
    "signed URL, AWS": ("https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef", "0123456789abc"),
    "signed URL, Azure": ("https://a.blob.core.windows.net/c?sv=2022&sig=abc%2Bdef%3D", "abc%2Bdef"),
    "authorization of another scheme": ("Authorization: Digest username=x1y2z3abc", "x1y2z3abc"),
    "header in JSON": ('{"Authorization": "Custom abcdef123456"}', "abcdef123456"),
    "environment": ("export MY_SERVICE_TOKEN=abcdef123456", "abcdef123456"),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_in_text_is_masked_wherever_it_stands(text, secret):
    assert secret not in redact_text(text)
    assert MASK in redact_text(text)
    nested = redact({"a": [{"b": f"before {text} after"}]})
    assert secret not in json.dumps(nested)


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_no_log_line_shows_a_secret_in_its_message_its_fields_or_its_traceback(text: str, secret: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as exc:
        trace = (ValueError, exc, exc.__traceback__)
    made = {"name": "app.x", "exc_info": trace, "field": text, "deep": [{"a": text}], "odd": ValueError(text)}
    for message in ({"msg": text}, {"msg": "got %s", "args": (text,)}, {"msg": {"said": text}}):
        line = JsonLineFormatter().format(logging.makeLogRecord({**made, **message}))
        assert secret not in line
        assert json.loads(line)["logger"] == "app.x"


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_no_prompt_shows_a_secret_of_a_report(text: str, secret: str) -> None:
    error = redact({"message": text, "description": f"see {text}"})
    prompt = repair_prompt({"workflowId": "w1", "error": error, "node": redact(f"A {text}")})
    assert secret not in prompt


def test_a_secret_in_a_name_is_masked() -> None:
    assert "abcdefghij" not in json.dumps(redact({"npm_abcdefghijklmnopqrstuvwxyz0123456789": 1}))


@pytest.fixture
def own() -> Iterator[None]:
    know_secrets(["correct horse", 'wei"rd\\one/1', "shorty", "abc", "correct horse battery", None])
    yield
    know_secrets([])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("secret", ["correct horse", "correct horse battery", 'wei"rd\\one/1', "shorty"])
def test_a_configured_secret_is_masked_whatever_it_looks_like(secret: str) -> None:
    for text in (secret, f"got {secret}!", f"a\n({secret})"):
        shown = redact_text(text)
        assert secret not in shown and MASK in shown and "battery" not in shown
    assert secret not in json.loads(JsonLineFormatter().format(logging.makeLogRecord({"msg": secret})))["message"]
    assert redact({"note": secret}) == {"note": MASK}
    assert json.dumps(secret)[1:-1] not in redact_text(json.dumps({"note": secret}))
    assert "%22rd" not in redact_text("https://x.example/?q=wei%22rd%5Cone%2F1")


@pytest.mark.usefixtures("own")
def test_a_short_configured_secret_is_not_found_within_words() -> None:
    assert redact_text("shortys, abc, a shortyish thing") == "shortys, abc, a shortyish thing"


HOSTILE = {
    "jwt": "-eyJaaaaaaaaaa",
    "jwt parts": "eyJaaaaaaaaaa.",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "cookie": "cookie: ",
    "authorization": "authorization: a ",
    "bearer": "bearer  ",
    "basic words": "basic a-a-a-a-a-a-",
    "url": "https://a:",
    "url users": "://aaaaaaaaaaaaaaaaaaaaa",
    "query": "?aaaaaaaa_key",
    "names": "password     ",
    "token": "token: a.a.a.a.a.",
    "token words": "token: aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa-aa1 ",
    "sendgrid": "SG.aaaaaaaaaaaaaaaaaaaa-",
    "slashes": '\\\\\\\\"a"',
    "members": '"password"    ',
    "open member": '"password": "x',
    "one run": "a",
    "equals": "==?&;",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_takes_a_time_in_proportion_to_its_length(piece: str) -> None:
    text = (piece * (1024 * 1024 // len(piece) + 1))[: 1024 * 1024]
    redact_text(text + " password=hunter22 bearer eyj token", limit=len(text) + 100)


@pytest.mark.parametrize(
    "text",
    [
        "The service was not able to process your request",
        "Cannot read properties of undefined (reading 'token')",
        "http://127.0.0.1:5690/workflow/9NHISgDHNWyGRnjc/executions/28",
        "connect ECONNREFUSED 127.0.0.1:9",
        "maxTokens is 4096",
        "max_tokens: 4096",
        "Authorization failed - please check your credentials",
        "https://example.com/a@b?page=2",
        "token expired",
        "The token has expired",
        "Token refresh failed: 400",
        "token validation failed for user 12",
        "missing token: undefined",
        "Bearer token is required",
        "Bearer authentication failed",
        "Basic authentication is required.",
        "basic functionality is missing",
        "authentication failed",
        "Authorization: header missing",
        "password is required",
        "Password: is required",
        "password: required",
        "password must have at least 8 characters",
        "Invalid client secret",
        "secret = undefined",
        "secretary: Jane Miller",
        "Unexpected token } in JSON at position 12",
        "SyntaxError: Unexpected token: punc (})",
        "invalid_grant: Bad Request",
        '401 - {"error":"invalid_token","error_description":"The access token expired"}',
        "The 'Basic Auth' credential (id 12) could not be found",
        'Node does not have any credentials set for "httpBasicAuth"',
        "Please set N8N_ENCRYPTION_KEY before you start",
        "https://medium.com/@someone/article-name",
        "https://api.example.com/items?code=12&status_code=404&sort_key=name",
        "somebody@example.com",
        "@n8n/n8n-nodes-langchain.agent",
        "postgres://localhost:5432/db and redis://cache:6379/0",
        "b3e8a9f0-1c1b-4b7c-9c1e-111111111111",
        "d41d8cd98f00b204e9800998ecf8427e",
        "2.41.1-rc.3 at 2026-01-01T00:00:00.000Z",
        "0 */5 * * * *",
        "={{ $json.token }} and $('Webhook').first().json.apiKey",
        "the cookie banner: please accept",
        "disk_usage=90; task-scheduler-with-a-long-name",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E",
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
