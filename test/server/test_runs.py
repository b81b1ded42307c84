"""Runs through the API: started, read, deleted. They are performed by the test, with the real planner and the real commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.api import Api, problem
from server.sample_blocks import AGENT_OUTPUT, Fail, Repeat, named_graph, repeat_graph


async def _set_max_pages(api: Api, pages: int) -> int:
    """Stand in for a disk of so many pages; answers how many it has now."""
    statement = f"PRAGMA max_page_count = {pages}"
    (now,) = await api.context.db.write(lambda connection: connection.execute(statement).fetchone())
    return int(now)


class TestStart:
    async def test_a_run_is_committed_before_the_answer_and_then_hinted(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        response = await api.client.post(f"/graphs/{graph['id']}/execute?priority=3", json={"topic": "bees"})
        started = response.json()
        assert [execution["node_id"] for execution in started["executions"]] == [graph["nodes"][0]["id"]]
        run = (await api.client.get(f"/executions/{started['id']}")).json()
        assert (run["status"], run["graph_version"], run["priority"], run["input"]) == (
            "QUEUED",
            1,
            3,
            {"topic": "bees"},
        )
        assert api.told.runs == [(started["id"], 3)]
        [execution] = (await api.client.get(f"/graphs/{graph['id']}/executions/{started['id']}")).json()
        assert execution["node_exec_id"] == started["executions"][0]["id"]
        assert execution["input_data"]["value"] == "bees"

    async def test_unknown_and_missing_inputs_are_named(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        document = problem(
            await api.client.post(f"/graphs/{graph['id']}/execute", json={"topik": 1}), 422, "invalid_input"
        )
        assert {(error["code"], error["pin"]) for error in document["errors"]} == {
            ("unknown_input", "topik"),
            ("missing_input", "topic"),
        }
        assert api.told.runs == []

    async def test_without_agent_inputs_the_pins_of_start_nodes_are_filled(self, api: Api) -> None:
        graph = await api.post_graph(repeat_graph())
        path = f"/graphs/{graph['id']}/execute"
        assert problem(await api.client.post(path, json={}), 422, "invalid_input")["errors"][0]["pin"] == "value"
        assert (
            problem(await api.client.post(path, json={"value": 1, "x": 2}), 422, "invalid_input")["errors"][0]["pin"]
            == "x"
        )
        assert (await api.client.post(path, json={"value": 1})).status_code == 200

    async def test_no_body_is_no_input(self, api: Api) -> None:
        graph = await api.post_graph(named_graph("default"))
        assert (await api.client.post(f"/graphs/{graph['id']}/execute")).status_code == 200

    async def test_a_graph_without_nodes_cannot_be_run(self, api: Api) -> None:
        graph = await api.post_graph({"name": "empty"})
        assert [warning["code"] for warning in graph["warnings"]] == ["no_start_node"]
        problem(await api.client.post(f"/graphs/{graph['id']}/execute", json={}), 422, "invalid_graph")

    async def test_an_input_that_is_too_large_is_refused(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        body = {"topic": "x" * api.context.settings.max_value_bytes}
        problem(await api.client.post(f"/graphs/{graph['id']}/execute", json=body), 413, "input_too_large")
        assert (await api.client.get(f"/graphs/{graph['id']}/executions")).json() == []

    async def test_with_a_full_disk_nothing_is_promised(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        path = f"/graphs/{graph['id']}/execute"
        pages = await _set_max_pages(api, 1)  # SQLite makes that as many as there are
        problem(await api.client.post(path, json={"topic": "x" * 100_000}), 503, "database_unavailable")
        assert (await api.client.get(f"/graphs/{graph['id']}/executions")).json() == []
        assert api.told.runs == []
        await _set_max_pages(api, pages + 1000)
        assert (await api.client.post(path, json={"topic": "x" * 100_000})).status_code == 200

    async def test_a_version_may_be_named(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        await api.client.put(f"/graphs/{graph['id']}", json=graph)
        path = f"/graphs/{graph['id']}/execute"
        for query, version in (("", 2), ("?graph_version=1", 1)):
            run_id = (await api.client.post(path + query, json={"topic": 1})).json()["id"]
            assert (await api.client.get(f"/executions/{run_id}")).json()["graph_version"] == version
        problem(await api.client.post(f"{path}?graph_version=3", json={"topic": 1}), 404, "graph_version_not_found")
        problem(await api.client.post("/graphs/none/execute", json={}), 404, "graph_not_found")


class TestIdempotency:
    async def test_the_same_request_starts_one_run(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        path, headers = f"/graphs/{graph['id']}/execute", {"Idempotency-Key": "order 66"}
        answers = await asyncio.gather(
            *(
                api.client.post(path, content=body, headers=headers)
                for body in ('{"topic": {"a": 1, "b": 2}}', '{"topic":{"b":2,"a":1}}') * 3
            )
        )
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len({answer.text for answer in answers}) == 1
        assert len((await api.client.get(f"/graphs/{graph['id']}/executions")).json()) == 1
        assert len(api.told.runs) == 1

    async def test_the_answer_stays_whatever_becomes_of_run_and_graph(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        path, headers = f"/graphs/{graph['id']}/execute", {"Idempotency-Key": "k"}
        first = await api.client.post(path, json={"topic": 1}, headers=headers)
        await api.performer.perform(first.json()["id"], graph["id"])
        await api.client.put(f"/graphs/{graph['id']}", json=repeat_graph())
        assert (await api.client.post(path, json={"topic": 1}, headers=headers)).json() == first.json()
        await api.client.delete(f"/graphs/{graph['id']}")
        assert (await api.client.post(path, json={"topic": 1}, headers=headers)).json() == first.json()

    @pytest.mark.parametrize(
        ("query", "body"), [("", {"topic": 2}), ("?priority=1", {"topic": 1}), ("?graph_version=1", {"topic": 1})]
    )
    async def test_another_request_under_the_key_is_refused(self, api: Api, query: str, body: dict[str, Any]) -> None:
        graph = await api.post_graph(named_graph())
        path, headers = f"/graphs/{graph['id']}/execute", {"Idempotency-Key": "k"}
        await api.client.post(path, json={"topic": 1}, headers=headers)
        problem(await api.client.post(path + query, json=body, headers=headers), 422, "idempotency_key_reused")

    async def test_the_key_belongs_to_the_graph(self, api: Api) -> None:
        graphs = [await api.post_graph(named_graph()) for _ in range(2)]
        runs = {
            await api.execute(graph["id"], {"topic": i}, headers={"Idempotency-Key": "k"})
            for i, graph in enumerate(graphs)
        }
        assert len(runs) == 2


class TestRead:
    async def test_a_run_with_its_outputs(self, api: Api) -> None:
        graph = await api.post_graph(repeat_graph(times=3))
        run_id = await api.execute(graph["id"], {"value": "hi"})
        await api.performer.perform(run_id, graph["id"])
        run = (await api.client.get(f"/executions/{run_id}")).json()
        assert run["status"] == "COMPLETED"
        assert run["outputs"] == {"out": ["hi", "hi", "hi"]}
        assert run["stats"]["executions"] == run["stats"]["completed"] == 4
        executions = (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()
        assert [execution["status"] for execution in executions] == ["COMPLETED"] * 4
        assert executions[0]["output_data"] == {"item": ["hi", "hi", "hi"]}
        assert all(
            execution["graph_exec_id"] == run_id and execution["graph_id"] == graph["id"] for execution in executions
        )

    async def test_a_failed_run(self, api: Api) -> None:
        graph = await api.post_graph({"nodes": [{"id": "f", "block_id": Fail.id, "input_default": {"how": "error"}}]})
        run_id = await api.execute(graph["id"])
        await api.performer.perform(run_id, graph["id"])
        run = (await api.client.get(f"/executions/{run_id}")).json()
        assert run["status"] == "FAILED"
        [execution] = (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()
        assert execution["error"] == {"code": "block_failed", "message": "out of milk"}

    async def test_secrets_are_not_shown(self, api: Api) -> None:
        graph = await api.post_graph(repeat_graph(value=1, times=0))
        run_id = await api.execute(
            graph["id"], {"api_key": "hunter2", "value": {"deep": [{"accessToken": "hunter2", "a": 1}]}}
        )
        await api.performer.perform(run_id, graph["id"])
        for path in (
            f"/executions/{run_id}",
            f"/graphs/{graph['id']}/executions",
            f"/graphs/{graph['id']}/executions/{run_id}",
        ):
            text = (await api.client.get(path)).text
            assert "hunter2" not in text
            assert "***" in text

    async def test_runs_newest_first_in_pages_and_by_status(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        ids = [await api.execute(graph["id"], {"topic": i}) for i in range(4)]
        await api.performer.perform(ids[1], graph["id"])
        path = f"/graphs/{graph['id']}/executions"
        first = await api.client.get(f"{path}?limit=3")
        rest = await api.client.get(first.links["next"]["url"])
        assert [run["id"] for run in first.json() + rest.json()] == ids[::-1]
        assert "next" not in rest.links
        done = (await api.client.get(f"{path}?status=COMPLETED&status=FAILED")).json()
        assert [run["id"] for run in done] == [ids[1]]

    async def test_node_executions_oldest_first_in_pages(self, api: Api) -> None:
        graph = await api.post_graph(repeat_graph(times=4))
        run_id = await api.execute(graph["id"], {"value": 1})
        await api.performer.perform(run_id, graph["id"])
        path = f"/graphs/{graph['id']}/executions/{run_id}"
        everything = (await api.client.get(path)).json()
        seen: list[dict[str, Any]] = []
        url: str | None = f"{path}?limit=2"
        while url:
            response = await api.client.get(url)
            seen += response.json()
            url = response.links.get("next", {}).get("url")
        assert seen == everything
        assert len(seen) == 5

    async def test_large_values_are_shown_as_previews_unless_asked_for(self, api: Api) -> None:
        graph = await api.post_graph(repeat_graph(times=1))
        large = "é" * 200_000
        run_id = await api.execute(graph["id"], {"value": large})
        await api.performer.perform(run_id, graph["id"])
        run = (await api.client.get(f"/executions/{run_id}")).json()
        [shown] = run["outputs"]["out"]
        assert set(shown) == {"$value", "size", "preview"}
        assert shown["size"] == 400_002
        assert run["input"] == {"value": shown}
        value = await api.client.get(f"/values/{shown['$value']}")
        assert value.json() == large
        path = f"/graphs/{graph['id']}/executions/{run_id}"
        assert next(entry["output_data"] for entry in (await api.client.get(path)).json()) == {"item": [shown]}
        assert next(entry["output_data"] for entry in (await api.client.get(f"{path}?full=true")).json()) == {
            "item": [large]
        }
        full = (await api.client.get(f"/executions/{run_id}?full=true")).json()
        assert (full["outputs"], full["input"]) == ({"out": [large]}, {"value": large})
        problem(await api.client.get(f"/values/{'0' * 64}"), 404, "value_not_found")

    async def test_what_is_not_there(self, api: Api) -> None:
        graph, other = await api.post_graph(named_graph()), await api.post_graph(named_graph())
        run_id = await api.execute(graph["id"], {"topic": 1})
        problem(await api.client.get("/executions/none"), 404, "run_not_found")
        problem(await api.client.get(f"/graphs/{other['id']}/executions/{run_id}"), 404, "run_not_found")
        problem(await api.client.get("/graphs/none/executions"), 404, "graph_not_found")
        assert (await api.client.get(f"/graphs/{other['id']}/executions")).json() == []


class TestDelete:
    async def test_a_run_can_be_deleted_once_it_has_ended(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        run_id = await api.execute(graph["id"], {"topic": 1})
        problem(await api.client.delete(f"/executions/{run_id}"), 409, "run_active")
        await api.performer.perform(run_id, graph["id"])
        assert (await api.client.delete(f"/executions/{run_id}")).status_code == 204
        problem(await api.client.get(f"/executions/{run_id}"), 404, "run_not_found")
        problem(await api.client.delete(f"/executions/{run_id}"), 404, "run_not_found")


async def test_a_graph_in_which_two_nodes_feed_one_output(api: Api) -> None:
    posted = repeat_graph(value="a", times=1)
    posted["nodes"].append({"id": "r2", "block_id": Repeat.id, "input_default": {"value": "b", "times": 1}})
    posted["links"].append({"source_id": "r2", "source_name": "item", "sink_id": "o", "sink_name": "value"})
    graph = await api.post_graph(posted)
    assert graph["nodes"][1]["block_id"] == AGENT_OUTPUT
    run_id = await api.execute(graph["id"])
    await api.performer.perform(run_id, graph["id"])
    outputs = (await api.client.get(f"/executions/{run_id}")).json()["outputs"]["out"]
    assert sorted(outputs) == ["a", "b"]
