"""Re-runs through the API. They are performed by the test, with the real planner and the real commit."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from server.api import Api, problem
from server.sample_blocks import AGENT_OUTPUT, Repeat, named_graph, repeat_graph
from server.serving import events


def broken_graph() -> dict[str, Any]:
    """Words arrive where a number is expected."""
    return {
        "name": "broken",
        "nodes": [
            {"id": "words", "block_id": Repeat.id, "input_default": {"value": "abc"}},
            {"id": "again", "block_id": Repeat.id, "input_default": {"value": 5}},
            {"id": "out", "block_id": AGENT_OUTPUT, "input_default": {"name": "out"}},
        ],
        "links": [
            {"source_id": "words", "source_name": "item", "sink_id": "again", "sink_name": "times"},
            {"source_id": "again", "source_name": "item", "sink_id": "out", "sink_name": "value"},
        ],
    }


async def performed(api: Api, graph: dict[str, Any], run_input: dict[str, Any] | None = None) -> str:
    run_id = await api.execute(graph["id"], run_input)
    await api.performer.perform(run_id, graph["id"])
    return run_id


async def rerun(api: Api, run_id: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = await api.client.post(f"/executions/{run_id}/rerun", json=body, **options)
    assert response.status_code == 200, response.text
    return response.json()


async def executions(api: Api, graph: dict[str, Any], run_id: str) -> list[dict[str, Any]]:
    return (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()


async def repair(api: Api, graph: dict[str, Any]) -> dict[str, Any]:
    response = await api.client.put(f"/graphs/{graph['id']}", json=graph)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_repaired_graph_goes_on_where_it_failed(api: Api) -> None:
    graph = await api.post_graph(broken_graph())
    former_id = await performed(api, graph)
    former = (await api.client.get(f"/executions/{former_id}")).json()
    assert former["status"] == "FAILED"
    graph["links"][0]["sink_name"] = "value"
    repaired = await repair(api, graph)

    started = await rerun(api, former_id, {"node_id": graph["nodes"][1]["id"], "graph_version": 2})
    assert [each["node_id"] for each in started["executions"]] == [repaired["nodes"][1]["id"]] * 2
    assert api.told.runs[-1] == (started["id"], 0)
    run = (await api.client.get(f"/executions/{started['id']}")).json()
    assert (run["status"], run["rerun_of"], run["graph_version"]) == ("QUEUED", former_id, 2)
    assert (run["stats"]["executions"], run["stats"]["completed"]) == (3, 1)
    await api.performer.perform(started["id"], graph["id"], version=2)

    run = (await api.client.get(f"/executions/{started['id']}")).json()
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"out": ["abc"] * 4})
    words, *again = await executions(api, graph, started["id"])
    [performed_once, *_] = await executions(api, graph, former_id)
    assert (words["replay_of"], words["node_id"]) == (performed_once["node_exec_id"], repaired["nodes"][0]["id"])
    same = ("status", "attempt", "input_data", "output_data", "add_time", "queue_time", "start_time", "end_time")
    assert [words[name] for name in same] == [performed_once[name] for name in same]
    assert {each["replay_of"] for each in again} == {None}
    assert (await api.client.get(f"/executions/{former_id}")).json() == former


async def test_what_is_kept_shows_the_defaults_it_ran_with(api: Api) -> None:
    graph = await api.post_graph(repeat_graph(value="old"))
    former_id = await performed(api, graph)
    graph["nodes"][0]["input_default"] = {"times": 3, "value": "new"}
    repaired = await repair(api, graph)
    started = await rerun(api, former_id, {"node_id": graph["nodes"][1]["id"], "graph_version": 2})
    kept, *_ = await executions(api, graph, started["id"])
    assert (kept["input_data"], kept["output_data"]) == ({"value": "old", "times": None}, {"item": ["old", "old"]})
    # And so it does when it is kept once more, by a version that has the old default again.
    await api.performer.perform(started["id"], graph["id"], version=2)
    graph["nodes"][0]["input_default"] = {"value": "old"}
    await repair(api, graph)
    third = await rerun(api, started["id"], {"node_id": repaired["nodes"][1]["id"], "graph_version": 3})
    kept, *_ = await executions(api, graph, third["id"])
    assert kept["input_data"]["value"] == "old"


async def test_a_key_makes_one_rerun(api: Api) -> None:
    graph = await api.post_graph(repeat_graph(value=1))
    former_id = await performed(api, graph)
    body = {"node_ids": [graph["nodes"][1]["id"]]}
    headers = {"Idempotency-Key": "once more"}
    answers = await asyncio.gather(*[rerun(api, former_id, body, headers=headers) for _ in range(5)])
    await api.performer.perform(answers[0]["id"], graph["id"])
    answers.append(await rerun(api, former_id, {"node_id": body["node_ids"][0]}, headers=headers))
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]["executions"]) == 2
    assert len((await api.client.get(f"/graphs/{graph['id']}/executions")).json()) == 2
    other = {"node_id": graph["nodes"][0]["id"]}
    path = f"/executions/{former_id}/rerun"
    problem(await api.client.post(path, json=other, headers=headers), 422, "idempotency_key_reused")


async def test_nothing_left_to_do(api: Api) -> None:
    graph = await api.post_graph(repeat_graph(value=1, times=0))
    former_id = await performed(api, graph)
    started = await rerun(api, former_id, {"node_id": graph["nodes"][1]["id"]})
    assert started["executions"] == []
    run = (await api.client.get(f"/executions/{started['id']}")).json()
    assert (run["status"], run["started_at"], run["stats"]["completed"]) == ("COMPLETED", None, 1)
    async with api.client.stream("GET", f"/executions/{started['id']}/events") as response:
        told = [event async for event in events(response)]
    assert [event.name for event in told] == ["snapshot", "run"]
    assert len(told[0].data["nodes"]) == 1
    explained = (await api.client.get(f"/executions/{started['id']}/explain")).json()
    assert "COMPLETED" in str(explained)


async def test_a_stream_tells_of_what_is_kept_and_of_what_comes(api: Api) -> None:
    graph = await api.post_graph(repeat_graph(value=1, times=3))
    former_id = await performed(api, graph)
    started = await rerun(api, former_id, {"node_id": graph["nodes"][1]["id"]})
    await api.performer.perform(started["id"], graph["id"])
    # After the first copy, and before the re-run's own first event.
    async with api.client.stream(
        "GET", f"/executions/{started['id']}/events", headers={"Last-Event-ID": "1"}
    ) as response:
        told = [event async for event in events(response)]
    assert told[-1].name == "run"
    assert [event.data["status"] for event in told[:-1]].count("COMPLETED") == 3
    assert [event.data["status"] for event in told[:-1]].count("QUEUED") == 3


async def test_refusals(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    node = graph["nodes"][0]["id"]

    async def ask(run_id: str, body: Any) -> httpx.Response:
        return await api.client.post(f"/executions/{run_id}/rerun", json=body)

    run_id = await api.execute(graph["id"], {"topic": "bees"})
    problem(await ask("nobody", {"node_id": node}), 404, "run_not_found")
    problem(await ask(run_id, {"node_id": node}), 409, "run_active")
    await api.performer.perform(run_id, graph["id"])
    wrong: list[dict[str, Any]] = [
        {},
        {"node_ids": []},
        {"node_id": ""},
        {"node_id": node, "graph_version": 0},
        {"node_ids": ["n"] * 1001},
    ]
    for body in wrong:
        assert "Value error" not in problem(await ask(run_id, body), 422, "invalid_request")["detail"]
    problem(await ask(run_id, {"node_id": node, "graph_version": 2}), 404, "graph_version_not_found")
    document = problem(await ask(run_id, {"node_ids": [node, "nobody"]}), 422, "invalid_rerun")
    assert [(error["code"], error["node_id"]) for error in document["errors"]] == [("unknown_node", "nobody")]
    assert document["errors"][0]["message"] == "Version 1 of the graph has no such node."
    graph["nodes"][0]["input_default"]["name"] = "subject"
    await repair(api, graph)
    document = problem(await ask(run_id, {"node_id": node, "graph_version": 2}), 422, "invalid_input")
    assert {(error["code"], error["pin"]) for error in document["errors"]} == {
        ("unknown_input", "topic"),
        ("missing_input", "subject"),
    }
    api.context.settings = api.context.settings.model_copy(update={"max_run_node_executions": 1})
    problem(await ask(run_id, {"node_id": graph["nodes"][1]["id"]}), 422, "rerun_too_large")
    assert len((await api.client.get(f"/graphs/{graph['id']}/executions")).json()) == 1
    assert len(api.told.runs) == 1
    await api.client.delete(f"/graphs/{graph['id']}")
    problem(await ask(run_id, {"node_id": node}), 404, "graph_not_found")
