"""Secrets in nodes: a placeholder for each, everything else to be read, and back to what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConflictError, ValidationError
from app.journal import Change
from app.journal.records import Snapshot
from app.journal.sqlite import SqliteJournal
from app.n8n.client import N8nClient
from app.n8n.connected import ConnectedWorkflows
from app.n8n.javascript import code_problems
from app.n8n.secret_boundary import SecretLostError
from app.n8n.secrets import (
    UnknownSecretError,
    hide,
    key_of,
    known_secrets,
    mask,
    moved_secrets,
    placeholder,
    placeholders,
    unmask,
)
from app.n8n.workflows import canonical_hash
from app.repairs import snapshots
from app.telemetry.redaction import know_secrets
from tests.fakes.n8n import API_KEY, FakeN8n
from tests.properties.values import texts, values

KEY = bytes(range(32))
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7bq\nq8f3Zl0\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "password": "hunter22-Zq9",
    "basic": "YWxhZGRpbjpvcGVuc2VzYW1l",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlMTIz",
    "private key": PEM,
    "github": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "openai": "sk-proj-AbCd1234efGH5678ijKL",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "google": "AIzaSyA-0123456789abcdefghijklmnopqrstu",
    "slack": "xoxb-123456789012-abcdefABCDEF",
    "stripe": "sk_live_0123456789abcdefABCDEF",
    "sendgrid": "SG.aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbb",
    "telegram": "123456789:AAabcdefghijklmnopqrstuvwxyz0123456",
}


def text_of(secret: str) -> str:
    """As it stands in JSON and in JavaScript."""
    return json.dumps(secret)[1:-1]


PLACES: dict[str, Any] = {
    "header": lambda s: {"headerParameters": {"parameters": [{"name": "X-Api-Key", "value": s}]}},
    "authorization": lambda s: {
        "headerParameters": {"parameters": [{"name": "Authorization", "value": f"Bearer {s}"}]}
    },
    "query parameter": lambda s: {"queryParameters": {"parameters": [{"name": "key", "value": s}]}},
    "URL query": lambda s: {"url": f"https://api.test/v1?page=2&api_key={quote(s, safe='')}&sort=up"},
    "URL user": lambda s: {"url": f"https://app:{quote(s, safe='')}@api.test/v1"},
    "code": lambda s: {"jsCode": f'const headers = {{ Authorization: "Bearer {text_of(s)}" }};\nreturn [];'},
    "code constant": lambda s: {
        "jsCode": f'const apiKey = "{text_of(s)}"; // of the shop\nreturn [{{ json: {{ apiKey }} }}];'
    },
    "JSON body": lambda s: {"jsonBody": f'={{"user": "{{{{ $json.id }}}}", "password": "{text_of(s)}"}}'},
    "nested": lambda s: {"options": {"proxy": {"auth": {"user": "app", "password": s}}}},
    "list": lambda s: {"apiKeys": [s]},
    "assignment": lambda s: {
        "assignments": {"assignments": [{"id": "1", "name": "apiToken", "value": s, "type": "string"}]}
    },
    "expression": lambda s: {"password": f"={{{{ '{text_of(s)}' + $json.suffix }}}}"},
    "notes": lambda s: {"content": f"Log in with password: {s}"},
}


def workflow(parameters: Any, **more: Any) -> dict[str, Any]:
    node = {"id": "n1", "name": "Ask", "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2, "position": [0, 0]}
    return {"name": "Orders", "nodes": [{**node, "parameters": parameters, **more}], "connections": {}, "settings": {}}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_secret_is_replaced_wherever_it_stands_and_comes_back(place: Any, secret: str) -> None:
    original = workflow(place(secret), notes=f"its password is password={secret}")

    masked = mask(original, KEY)

    shown = json.dumps(masked)
    for form in {secret, text_of(secret), quote(secret, safe=""), *secret.split("\n")[1:-1]}:
        assert form not in shown and json.dumps(form)[1:-1] not in shown
    assert placeholders(masked)
    assert mask(masked, KEY) == masked
    assert unmask(masked, [original], KEY) == original
    assert canonical_hash(masked) == canonical_hash(mask(json.loads(json.dumps(original)), KEY))


@pytest.mark.parametrize(
    "parameters",
    [
        {"jsCode": "const token = $json.body.token;"},
        {"jsCode": "const options = { password: getPassword(), apiKey: config.apiKey };"},
        {"jsCode": "const h = { Authorization: 'Bearer ' + token, Cookie: cookie };"},
        {"jsCode": "const h = { Authorization: `Bearer ${token}` };"},
        {"jsCode": "await fetch(`https://api.test/?token=${token}&page=1`);"},
        {"jsCode": "const secret = await this.helpers.get('secret');\nreturn token ? [] : null;"},
        {"pythonCode": "token = os.environ['TOKEN']\npassword = get_password()"},
        {"password": "={{ $json.password }}"},
        {"token": "={{ $('Get Token').first().json['access_token'] }}"},
        {"headers": [{"name": "Authorization", "value": "=Bearer {{ $json.token }}"}]},
        {"url": "=https://api.test/?token={{ $json.token }}&page=1"},
        {"url": "=https://{{ $json.user }}:{{ $json.pass }}@api.test/"},
        {"jsonBody": '={"token": "{{ $json.token }}", "Authorization": "Bearer {{ $json.token }}"}'},
        {"jsonBody": "={{ { password: $json.password, token: $json.token } }}"},
        {"command": 'curl -H "Authorization: Bearer $TOKEN" https://api.test/'},
        {"authentication": "genericCredentialType", "genericAuthType": "httpHeaderAuth", "sendHeaders": True},
        {"maxTokens": 4096, "token": "", "password": None, "includeToken": True},
        {"content": "The token is required; the password has expired. Please set N8N_ENCRYPTION_KEY."},
        {"url": "https://api.test/items?code=12&status_code=404&sort_key=name"},
    ],
)
def test_what_only_names_a_secret_can_be_read(parameters: Any) -> None:
    original = workflow(parameters, credentials={"httpHeaderAuth": {"id": "abcDEF1234567890", "name": "Shop token"}})
    assert mask(original, KEY) == original


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"password": "={{ 'sekrit-' + $json.id }}"}, "={{ '[secret:…]' + $json.id }}"),
        (
            {"token": "={{ $json.kind === 'basic' ? 'abcd1234' : $json.token }}"},
            "={{ $json.kind === 'basic' ? '[secret:…]' : $json.token }}",
        ),
        ({"password": "Bearer abcd1234"}, "Bearer [secret:…]"),
        ({"jsCode": "const password = 'two words';"}, "const password = '[secret:…]';"),
        (
            {"jsCode": "const o = { Cookie: 'sid=abcdef1', method: 'GET' };"},
            "const o = { Cookie: '[secret:…]', method: 'GET' };",
        ),
        ({"jsCode": "const a = b; // password: hunter22"}, "const a = b; // password: [secret:…]"),
        ({"jsCode": "const password = 12345678;"}, "const password = [secret:…];"),
        ({"password": "!§$%&/()"}, "[secret:…]"),
        ({"password": 12345678}, "[secret:…]"),
        (
            {"url": "={{ 'https://api.test/?api_key=abcd1234&id=' + $json.id }}"},
            "={{ 'https://api.test/?api_key=[secret:…]&id=' + $json.id }}",
        ),
    ],
)
def test_only_what_was_typed_is_replaced(parameters: Any, shown: str) -> None:
    original = workflow(parameters)
    masked = mask(original, KEY)
    (name,) = placeholders(masked)
    assert list(masked["nodes"][0]["parameters"].values()) == [shown.replace("[secret:…]", name)]
    assert unmask(masked, [original], KEY) == original
    assert not code_problems(masked)


def test_a_number_comes_back_as_a_number_and_its_digits_as_a_text() -> None:
    original = workflow({"password": 12345678, "options": {"password": "12345678"}})
    masked = mask(original, KEY)
    assert len(placeholders(masked)) == 2
    assert unmask(masked, [original], KEY) == original


def test_equal_secrets_have_equal_placeholders_and_another_key_gives_others() -> None:
    masked = mask(workflow({"password": "hunter22", "url": "https://a:hunter22@x.test/?token=hunter22"}), KEY)
    assert masked["nodes"][0]["parameters"]["password"] in masked["nodes"][0]["parameters"]["url"]
    assert not placeholders(masked) & placeholders(mask(workflow({"password": "hunter22"}), bytes(32)))


def test_a_node_named_like_a_secret_is_still_connected() -> None:
    target = [[{"node": SECRETS["github"], "type": "main", "index": 0}]]
    original = {**workflow({}, name=SECRETS["github"]), "connections": {SECRETS["github"]: {"main": target}}}
    masked = mask(original, KEY)
    name = masked["nodes"][0]["name"]
    assert masked["connections"] == {name: {"main": [[{"node": name, "type": "main", "index": 0}]]}}
    assert unmask(masked, [original], KEY) == original


SECRET_TEXTS = st.sampled_from(
    [
        *SECRETS.values(),
        "password: ",
        "token=",
        "Bearer ",
        "={{ ",
        " }}",
        "'",
        '"',
        "${",
        "}",
        "\\",
        "https://",
        "@",
        "?key=",
        "&",
        "[secret:0123456789ab]",
        "//",
        "\n",
        " ",
        "]",
        "$json.token",
    ]
)
MIXED = st.lists(SECRET_TEXTS | texts, max_size=8).map("".join)
NAMES = st.sampled_from(
    ["url", "password", "jsCode", "name", "value", "notes", "queryParameters", "token", "nodes", "key"]
)
TREES = st.recursive(
    MIXED | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | MIXED, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_any_document_is_the_same_again_when_it_was_masked_and_filled(document: dict[str, Any]) -> None:
    document = json.loads(json.dumps(document))
    masked = mask(document, KEY)
    assert mask(masked, KEY) == masked
    assert unmask(masked, [document], KEY) == document


HOSTILE = [
    "{{",
    "${",
    "{{ 'a' }}",
    "{{ password='abcd1' }}",
    "'password=abcd1' ",
    "// password=abcd1\n",
    "[secret:0123456789ab]",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("name", ["notes", "jsCode", "password"])
def test_a_hostile_text_takes_a_time_in_proportion_to_its_length(piece: str, name: str) -> None:
    original = workflow({name: "=" + piece * (256 * 1024 // len(piece))})
    assert unmask(mask(original, KEY), [original], KEY) == original


def test_an_unknown_placeholder_is_refused_by_its_place() -> None:
    with pytest.raises(UnknownSecretError, match=r'"parameters\.token" of "Ask"') as refused:
        unmask(workflow({"token": "[secret:0123456789ab]"}), [workflow({"token": "another"})], KEY)
    assert isinstance(refused.value, ValidationError)


def test_what_a_person_wrote_that_looks_like_a_placeholder_stays() -> None:
    original = workflow({"text": "see [secret:0123456789ab]"})
    assert unmask(mask(original, KEY), [original], KEY) == original


@pytest.fixture
def own() -> Iterator[None]:
    know_secrets(["correct-horse"])
    yield
    know_secrets([])


def test_a_secret_that_is_masked_in_another_way_today_is_found_by_what_stands_around_it(own: None) -> None:
    original = workflow({"url": "https://api.test/correct-horse/x", "text": "correct-horse and correct-horse!"})
    masked = mask(original, KEY)
    assert "correct" not in json.dumps(masked)
    know_secrets([])

    assert mask(original, KEY) == original
    assert unmask(masked, [original], KEY) == original


def test_a_known_secret_is_hidden_in_other_texts_whatever_it_looks_like_there() -> None:
    known = known_secrets(workflow({"password": "plain-looking", "options": {"password": "short1"}}), KEY)
    told = hide({"message": "no plain-looking here", "list": ["plain-looking", "shorter short1x"]}, known)
    name = placeholder("plain-looking", KEY)
    assert told == {"message": f"no {name} here", "list": [name, "shorter short1x"]}


# -- moved secrets

_HEADERS = [{"name": "X-Api-Key", "value": "hunter22"}, {"name": "Accept", "value": "json"}]
TWO = {
    "nodes": [
        {"name": "A", "parameters": {"url": "https://api.test/gone?page=1", "headers": {"parameters": _HEADERS}}},
        {"name": "B", "parameters": {"jsCode": "const password = 'hunter33';\nreturn [];"}},
    ]
}


def changed(*edits: tuple[str, str]) -> dict[str, Any]:
    text = json.dumps(mask(TWO, KEY))
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    body: dict[str, Any] = json.loads(text)
    return body


A, B = placeholder("hunter22", KEY), placeholder("hunter33", KEY)


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [("/gone", "/here")],
        [("return [];", "return [{ json: {} }];")],
        [(A, "")],
        [('{"name": "Accept", "value": "json"}', '{"name": "Accept", "value": "text"}')],
        [('"parameters": [{"name": "X-Api-Key"', '"parameters": [{"name": "New", "value": "1"}, {"name": "X-Api-Key"')],
    ],
)
def test_a_secret_may_stay_or_go(edits: list[tuple[str, str]]) -> None:
    assert moved_secrets(mask(TWO, KEY), changed(*edits)) == []


@pytest.mark.parametrize(
    ("edits", "where"),
    [
        ([("page=1", f"page={A}")], '"parameters.url" of the node "A"'),
        ([("https://api.test", f"https://{A}.test")], '"parameters.url" of the node "A"'),
        ([("return [];", f"return '{A}';")], '"parameters.jsCode" of the node "B"'),
        ([("return [];", f"return '{B}';")], '"parameters.jsCode" of the node "B"'),
        ([("X-Api-Key", "X-Other")], '"parameters.headers.parameters[X-Other].value" of the node "A"'),
        ([('"name": "A"', '"name": "C"')], 'of the node "C"'),
        ([("return [];", "return '[secret:000000000000]';")], '"parameters.jsCode" of the node "B"'),
    ],
)
def test_a_secret_may_never_move(edits: list[tuple[str, str]], where: str) -> None:
    (sentence,) = moved_secrets(mask(TWO, KEY), changed(*edits))
    assert where in sentence and "hunter" not in sentence


# -- at n8n's boundary

HOOK = {
    "name": "Hook",
    "type": "n8n-nodes-base.webhook",
    "typeVersion": 2,
    "position": [0, 0],
    "parameters": {"path": "p"},
}


def body(*, token: str = "hunter22-abc") -> dict[str, Any]:
    made = workflow({"url": f"https://api.test/?token={token}"})
    return {**made, "nodes": [HOOK, *made["nodes"]]}


@pytest.fixture
def n8n() -> Iterator[FakeN8n]:
    with FakeN8n() as n8n:
        yield n8n


@pytest.fixture
def journal(tmp_path: Any) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal.db")
    yield journal
    journal.close()


def home_of(n8n: FakeN8n, journal: SqliteJournal) -> ConnectedWorkflows:
    return ConnectedWorkflows(N8nClient(n8n.url, API_KEY, timeout_s=2.0), journal)


def url_in(workflow: Any) -> str:
    return str(workflow["nodes"][-1]["parameters"]["url"])


def versions_asked(n8n: FakeN8n) -> int:
    return n8n.count("GET", "/versions/") + n8n.count("GET", "/history")


def test_the_journals_key_is_made_once(journal: SqliteJournal) -> None:
    assert len(key_of(journal)) == 32
    assert key_of(journal) == key_of(journal)


def test_workflows_come_masked_and_are_written_with_their_secrets(n8n: FakeN8n, journal: SqliteJournal) -> None:
    home, workflow_id = home_of(n8n, journal), n8n.add(body())
    n8n.workflows[workflow_id].public["staticData"] = {"token": "hunter22-static"}
    shown = [home.get(workflow_id), home.get(workflow_id, version="active")]
    changed = json.loads(json.dumps(shown[0]).replace("api.test", "api2.test"))
    shown.append(home.put_draft(workflow_id, changed, base_version_id=shown[0]["versionId"]))
    shown.append(home.publish(workflow_id, version_id=shown[-1]["versionId"]))
    shown.append(home.unpublish(workflow_id))

    assert "hunter22" not in json.dumps(shown)
    assert url_in(n8n.workflows[workflow_id].public) == "https://api2.test/?token=hunter22-abc"
    assert url_in(home_of(n8n, journal).get(workflow_id)) == url_in(shown[-1])
    assert not versions_asked(n8n)


def test_a_new_workflow_has_nothing_that_a_placeholder_could_stand_for(n8n: FakeN8n, journal: SqliteJournal) -> None:
    with pytest.raises(ValidationError):
        home_of(n8n, journal).create(body(token="[secret:0123456789ab]"), intent="i")
    assert not n8n.workflows
    assert "hunter22" not in json.dumps(home_of(n8n, journal).create(body(), intent="i"))


def keep(journal: SqliteJournal, shown: dict[str, Any]) -> Snapshot:
    snapshot_id, puts, deletes = snapshots.take(journal, shown, cause="repair", for_write="w")
    journal.commit(Change(puts=puts, deletes=deletes))
    snapshot = Snapshot.get(journal, snapshot_id)
    assert snapshot is not None
    return snapshot


@pytest.mark.parametrize("edits", [1, 30])
def test_a_restore_is_exact_after_the_secret_was_replaced(n8n: FakeN8n, journal: SqliteJournal, edits: int) -> None:
    home, workflow_id = home_of(n8n, journal), n8n.add(body())
    before = canonical_hash(n8n.workflows[workflow_id].public)
    snapshot = keep(journal, home.get(workflow_id))
    for number in range(edits):
        n8n.edit(workflow_id, publish=True, nodes=body(token=f"rotated-{number}")["nodes"])

    home.put_draft(workflow_id, snapshot.workflow, base_version_id=n8n.workflows[workflow_id].public["versionId"])

    assert canonical_hash(n8n.workflows[workflow_id].public) == before
    assert canonical_hash(home.get(workflow_id)) == snapshot.hash
    assert versions_asked(n8n) == 1


def test_a_restore_whose_secret_is_lost_says_what_to_do(n8n: FakeN8n, journal: SqliteJournal) -> None:
    home, workflow_id = home_of(n8n, journal), n8n.add(body())
    snapshot = keep(journal, home.get(workflow_id))
    version_id = n8n.edit(workflow_id, publish=True, nodes=body(token="rotated-1")["nodes"])
    stored = n8n.workflows[workflow_id]
    stored.versions = {version_id: stored.versions[version_id]}

    with pytest.raises(SecretLostError, match="Type that value into a node") as lost:
        home.put_draft(workflow_id, snapshot.workflow, base_version_id=version_id)

    assert isinstance(lost.value, ConflictError)
    assert "parameters.url" in lost.value.detail and "hunter22" not in lost.value.detail
    assert n8n.count("PUT", "/workflows/") == 0

    n8n.edit(workflow_id, publish=True, nodes=body(token="hunter22-abc")["nodes"])
    home.put_draft(workflow_id, snapshot.workflow, base_version_id=n8n.workflows[workflow_id].public["versionId"])


def test_a_placeholder_that_was_never_there_is_the_agents_mistake(n8n: FakeN8n, journal: SqliteJournal) -> None:
    home, workflow_id = home_of(n8n, journal), n8n.add(body())
    wrong = body(token="[secret:0123456789ab]")
    with pytest.raises(ValidationError):
        home.put_draft(workflow_id, wrong, base_version_id=home.get(workflow_id)["versionId"])
    assert n8n.count("PUT", "/workflows/") == 0


def test_a_run_does_not_tell_the_secrets_of_its_workflow(n8n: FakeN8n, journal: SqliteJournal) -> None:
    made = workflow({"errorMessage": "the key hunter22-abc was refused", "password": "hunter22-abc"}, name="Stop")
    made["nodes"][0]["type"] = "n8n-nodes-base.stopAndError"
    hook = {**HOOK, "parameters": {"path": "stop", "httpMethod": "POST"}}
    link = {"Hook": {"main": [[{"node": "Stop", "type": "main", "index": 0}]]}}
    workflow_id = n8n.add({**made, "nodes": [hook, *made["nodes"]], "connections": link})
    n8n.call_webhook("stop", {"said": "hunter22-abc"})

    told = json.dumps(home_of(n8n, journal).execution(workflow_id, max(n8n.executions, key=int)))

    assert "the key [secret:" in told and "hunter22" not in told
