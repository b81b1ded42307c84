"""What `cli run` prints: runs, explanations and events in words, from the documents of the API."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from autogpt_server.utils import json


def shown(found: dict[str, Any], nodes: Sequence[dict[str, Any]], names: dict[str, str]) -> Iterator[str]:
    """A run with its node executions. `names`: block id -> name."""
    yield f"run      {found['id']}"
    yield f"graph    {found['graph_id']} v{found['graph_version']}"
    yield f"status   {found['status']}{f': {why(found)}' if why(found) else ''}"
    for label, name in (
        ("created", "created_at"),
        ("started", "started_at"),
        ("ended", "ended_at"),
        ("cancel", "cancel_requested_at"),
    ):
        if found.get(name):
            yield f"{label:<8} {time_text(found[name])}"
    if found["rerun_of"]:
        yield f"rerun of {found['rerun_of']}"
    if found["parent"]:
        yield f"parent   {found['parent']['run_id']} (node execution {found['parent']['node_exec_id']})"
    if found["input"]:
        yield f"input    {json.dumps(found['input'])}"
    for name, values in found["outputs"].items():
        yield f"output   {name}: {', '.join(map(json.dumps, values))}"
    rows: list[tuple[str, ...]] = []
    for node in nodes:
        block = _block(node, names)
        kept = "kept from the run before" if node["replay_of"] else ""
        rows.append((node["node_exec_id"], block, node["status"], str(node["attempt"]), _why_node(node) or kept))
        rows += [
            ("", "", f"  attempt {attempt['attempt']}", str(attempt["outcome"]), why(attempt))
            for attempt in node["attempts"]
        ]
    if rows:
        yield ""
        yield from table(("NODE EXECUTION", "BLOCK", "STATUS", "ATTEMPT", ""), rows)


def explained(found: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Why a run does not get on, and the commands that do something about it."""
    yield f"{indent}{found['summary']}"
    for cause in found["causes"]:
        if cause["message"] == found["summary"]:
            continue
        times = [f"{word} {time_text(cause[word])}" for word in ("since", "until") if cause[word]]
        yield f"{indent}- {' '.join((cause['message'], *(f'({time})' for time in times)))}"
        if cause["node_exec_id"]:
            yield f"{indent}  node execution {cause['node_exec_id']}"
        if command := _command(found["run_id"], cause):
            yield f"{indent}  {command}"
        if "explanation" in cause["data"]:
            yield from explained(cause["data"]["explanation"], f"{indent}    ")


def _command(run_id: str, cause: dict[str, Any]) -> str:
    """What to type to have the run go on; nothing where only time or the server can do it."""
    data = cause["data"]
    match cause["code"]:
        case "needs_decision":
            choices = "|".join(data["choices"])
            return f"cli run resolve --attempt {data['attempt']} {run_id} {cause['node_exec_id']} {choices}"
        case "waits_for_signal":
            return f"cli run signal {run_id} {cause['node_exec_id']} {shlex.quote(data['name'])} --value VALUE"
        case _:
            return ""


def signal_sent(node: dict[str, Any], name: str, key: str) -> Iterator[str]:
    """That a signal is on record; and whether that is the one which is waited for, as far as it is known when the answer comes."""
    yield f"sent under the key {key}"
    if node["status"] == "WAITING" and node["waits_for"] not in {name, None}:
        yield f"it waits for {node['waits_for']!r} now; a signal of another name is kept until it is waited for"


def told(name: str, data: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    """An event of a run's stream."""
    if name == "snapshot":
        yield f"run {data['run']['id']} {data['run']['status']}"
        for node in data["nodes"]:
            yield _node_line(node, names)
    elif name == "node":
        yield _node_line(data, names)
    else:
        yield f"run {data['id']} {data['status']}{f': {why(data)}' if why(data) else ''}"


def _node_line(node: dict[str, Any], names: dict[str, str]) -> str:
    return f"  {node['status']:<11} {_block(node, names)}  {node['node_exec_id']}  {_why_node(node)}".rstrip()


def _block(node: dict[str, Any], names: dict[str, str]) -> str:
    return names.get(node["block_id"], str(node["block_id"]))


def why(found: dict[str, Any]) -> str:
    """Why a run, or an attempt, is where it is."""
    return str(found["error"]["message"] if found["error"] else found.get("reason") or "")


def _why_node(node: dict[str, Any]) -> str:
    parts = [str(node["error"]["message"])] if node["error"] else []
    if node["status"] == "WAITING" and node["waits_for"]:
        parts.append(f"for the signal {node['waits_for']!r}")
    if node["status"] == "WAITING" and node["child_run_id"]:
        parts.append(f"for the run {node['child_run_id']}")
    if node["not_before"]:
        parts.append(f"until {time_text(node['not_before'])}")
    return "; ".join(parts)


def time_text(text: str | None) -> str:
    """A time of the API, to the second."""
    return "" if text is None else f"{text[:19].replace('T', ' ')}Z"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with columns; the last one takes what room it needs."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header) - 1)]
    for row in (header, *rows):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        yield "  ".join((*cells, " ".join(row[-1].split()))).rstrip()
