"""What differs between two workflows, for the wire and for a person."""

from __future__ import annotations

import json
from typing import Any

from app.n8n.diff import describe, diff


def node(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"id of {name}", "name": name, "type": "n8n-nodes-base.httpRequest", "parameters": {}, **more}


def workflow(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "Report", "nodes": list(nodes), "connections": {}, "settings": {"executionOrder": "v1"}, **more}


def link(*targets: str) -> dict[str, Any]:
    return {"main": [[{"node": target, "type": "main", "index": 0} for target in targets]]}


def test_equal_workflows_do_not_differ():
    assert diff(workflow(node("A")), workflow(node("A"))) == []


def test_a_changed_parameter_is_told_with_its_path_and_both_values():
    before = node("A", parameters={"url": "http://a/", "options": {"timeout": 1000}})
    after = node("A", parameters={"url": "http://a/", "options": {"timeout": 10000}}, retryOnFail=True)

    assert diff(workflow(before), workflow(after)) == [
        {"node": "A", "change": "changed", "path": "parameters.options.timeout", "before": 1000, "after": 10000},
        {"node": "A", "change": "added", "path": "retryOnFail", "before": None, "after": True},
    ]


def test_added_and_removed_nodes_are_told_whole():
    entries = diff(workflow(node("A")), workflow(node("B")))
    assert [(entry["node"], entry["change"], entry["path"]) for entry in entries] == [
        ("B", "added", ""),
        ("A", "removed", ""),
    ]
    assert entries[0]["after"] == node("B")


def test_a_renamed_node_is_one_change():
    entries = diff(workflow(node("A")), workflow({**node("A"), "name": "B"}))
    assert entries == [{"node": "B", "change": "changed", "path": "name", "before": "A", "after": "B"}]


def test_connections_and_settings_are_told():
    before = workflow(node("A"), node("B"), connections={"A": link("B")})
    after = workflow(node("A"), node("B"), connections={"B": link("A")}, settings={"executionOrder": "v0"}, name="New")

    lines = describe(diff(before, after)).splitlines()

    assert lines == [
        '- "A" connections.main[0]: "B (main 0)"',
        '+ "B" connections.main[0]: "A (main 0)"',
        '~ workflow name: "Report" → "New"',
        '~ workflow settings.executionOrder: "v1" → "v0"',
    ]


def test_another_order_of_targets_is_a_change():
    before = workflow(node("A"), node("B"), connections={"A": link("A", "B")})
    after = workflow(node("A"), node("B"), connections={"A": link("B", "A")})
    assert [entry["change"] for entry in diff(before, after)] == ["changed"]


def test_true_and_one_differ():
    assert diff(workflow(node("A", disabled=True)), workflow(node("A", disabled=1))) != []


def test_long_values_are_cut_around_the_first_difference():
    code = "x" * 3000
    before = workflow(node("A", parameters={"jsCode": code + "old" + code}))
    after = workflow(node("A", parameters={"jsCode": code + "new" + code}))

    [entry] = diff(before, after)

    assert "xold" in entry["before"]
    assert "xnew" in entry["after"]
    assert max(len(entry["before"]), len(entry["after"])) <= 500


def test_many_differences_are_cut_and_said_to_be_cut():
    before = workflow(*(node(f"n{number}", notes="a") for number in range(300)))
    after = workflow(*(node(f"n{number}", notes="b") for number in range(300)))

    entries = diff(before, after)

    assert len(entries) == 200
    assert "more differences" in entries[-1]["after"]


def test_the_wire_form_is_json_and_the_printed_form_hides_no_characters():
    entries = diff(workflow(node("A")), workflow(node("A", notes="safe\u202egnp.exe\nnext \x1b[31m")))
    assert json.loads(json.dumps(entries)) == entries
    printed = describe(entries)
    assert printed.isprintable()
    assert "\\u202e" in printed
