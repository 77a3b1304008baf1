"""JavaScript that would fail in n8n at run time is found before it is written."""

from __future__ import annotations

import pytest

from app.n8n.javascript import MAX_PROBLEMS, code_problems, new_code_problems


def code(text: str, **more):
    return {"nodes": [{"name": "Code", "type": "n8n-nodes-base.code", "parameters": {"jsCode": text, **more}}]}


def expression(text: str):
    parameters = {"assignments": {"assignments": [{"name": "x", "value": text}]}}
    return {"nodes": [{"name": "Set", "type": "n8n-nodes-base.set", "parameters": parameters}]}


@pytest.mark.parametrize(
    "text",
    [
        "return [{ json: { a: 1 } }];",
        "for (const item of $input.all()) { item.json.x ??= 1 }\nreturn $input.all();",
        "const r = await this.helpers.httpRequest({ url: `https://x.example/${$json.id}` });\nreturn r;",
        "// only a comment",
        "",
    ],
)
def test_code_that_parses_is_left_alone(text):
    assert code_problems(code(text)) == []


@pytest.mark.parametrize(
    ("text", "line"), [("const x = ;", 1), ("const a = 1;\nif (a { return a }", 2), ("return [{ json: ]", 1), ("]", 1)]
)
def test_code_that_does_not_parse_is_named_with_its_line(text, line):
    (problem,) = code_problems(code(text))
    assert problem.path == "nodes[0].parameters.jsCode"
    assert f"line {line}" in problem.message


@pytest.mark.parametrize("more", [{"language": "python"}, {"language": "pythonNative"}])
def test_other_languages_are_not_judged(more):
    assert code_problems(code("def f(): pass", **more)) == []


@pytest.mark.parametrize(
    "text",
    [
        "={{ $json.body.id }}",
        "=Hello {{ $('Webhook').first().json.name }}, {{ $now.toISO() }}",
        "={{ $json.a ? 'x' : \"y\" // why\n }}",
        "={{ { a: 1 }.a }}",
        "no expression {{ ( }}",
        "=",
        "={{ }}",
    ],
)
def test_expressions_that_parse_are_left_alone(text):
    assert code_problems(expression(text)) == []


@pytest.mark.parametrize("text", ["={{ $json. }}", "=a {{ $json.x + }} b", "={{ if (x) y }}", "={{ $json.a b }}"])
def test_expressions_that_do_not_parse_are_named(text):
    (problem,) = code_problems(expression(text))
    assert problem.path == "nodes[0].parameters.assignments.assignments[0].value"


def test_the_number_of_problems_and_the_length_looked_at_are_bounded():
    nodes = code("]")["nodes"] * 50
    assert len(code_problems({"nodes": nodes})) == MAX_PROBLEMS
    assert code_problems(code("]" * 100_000)) == []


@pytest.mark.parametrize("workflow", [{}, {"nodes": None}, {"nodes": [1, {"parameters": 2}, {"parameters": {}}]}])
def test_odd_workflows_have_no_javascript(workflow):
    assert code_problems(workflow) == []


def test_only_new_mistakes_count_in_a_change():
    old = code("]")
    assert new_code_problems(old, old) == []
    assert new_code_problems(old, code("return [];")) == []
    assert len(new_code_problems(code("return [];"), old)) == 1
    assert len(new_code_problems(old, {"nodes": [*old["nodes"], *code("(")["nodes"]]})) == 1
