"""Graphs through the API."""

from __future__ import annotations

import itertools

import pytest

from autogpt_server.server.shapes import GRAPH_EXAMPLE
from server.api import Api, problem
from server.sample_blocks import AGENT_INPUT, AGENT_OUTPUT, STORE_VALUE, Repeat, named_graph, repeat_graph


async def test_the_example_of_the_documentation_can_be_stored(api: Api) -> None:
    stored = await api.post_graph(GRAPH_EXAMPLE)
    assert stored["warnings"] == []


async def test_ids_are_given_and_the_order_is_kept(api: Api) -> None:
    posted = repeat_graph(value=1)
    stored = await api.post_graph(posted)
    assert (stored["version"], stored["is_active"]) == (1, True)
    assert [node["block_id"] for node in stored["nodes"]] == [Repeat.id, AGENT_OUTPUT]
    ids = [node["id"] for node in stored["nodes"]]
    assert not {"r", "o"} & set(ids)
    [link] = stored["links"]
    assert (link["source_id"], link["sink_id"]) == tuple(ids)
    again = await api.client.get(f"/graphs/{stored['id']}")
    assert again.json() == stored


async def test_fields_that_the_server_does_not_know_come_back_where_they_were(api: Api) -> None:
    posted = repeat_graph(value=1)
    posted["instructions"] = {"steps": [1, None]}
    posted["nodes"][1] |= {"webhook_id": None, "metadata": {"position": {"x": 1.5, "y": -2}}}
    posted["links"][0]["color"] = "red"
    stored = await api.post_graph(posted)
    fetched = (await api.client.get(f"/graphs/{stored['id']}")).json()
    assert fetched["instructions"] == {"steps": [1, None]}
    assert "webhook_id" in fetched["nodes"][1]
    assert fetched["nodes"][1]["metadata"]["position"] == {"x": 1.5, "y": -2}
    assert fetched["links"][0]["color"] == "red"


async def test_everything_that_is_wrong_is_named_at_once(api: Api) -> None:
    posted = {
        "nodes": [
            {"id": "a", "block_id": Repeat.id, "input_default": {"tmies": 3}},
            {"id": "b", "block_id": "nothing"},
        ],
        "links": [{"source_id": "a", "source_name": "itme", "sink_id": "c", "sink_name": "x"}],
    }
    document = problem(await api.client.post("/graphs", json=posted), 422, "invalid_graph")
    found = {(error["code"], error["node_id"], error["pin"]) for error in document["errors"]}
    assert found == {
        ("unknown_pin", "a", "tmies"),
        ("unknown_block", "b", None),
        ("unknown_pin", "a", "itme"),
        ("unknown_node", "c", "x"),
    }
    assert next(error for error in document["errors"] if error["pin"] == "itme")["expected"][0] == "item"
    assert (await api.client.get("/graphs")).json() == []


async def test_identical_links_are_stored_once_with_a_warning(api: Api) -> None:
    posted = repeat_graph(value=1)
    posted["links"] *= 2
    stored = await api.post_graph(posted)
    assert len(stored["links"]) == 1
    [warning] = stored["warnings"]
    assert (warning["code"], warning["node_id"]) == ("duplicate_link", stored["nodes"][1]["id"])


async def test_settings_of_nodes_are_checked(api: Api) -> None:
    posted = repeat_graph(value=1)
    posted["nodes"][0]["metadata"] = {"timeout_s": -1, "key": 7}
    document = problem(await api.client.post("/graphs", json=posted), 422, "invalid_graph")
    assert {error["code"] for error in document["errors"]} == {"bad_metadata"}
    assert len(document["errors"]) == 2


async def test_older_pins_become_todays(api: Api) -> None:
    template = "db7d8f02-2f44-4c55-ab7a-eae0941f0c30"
    posted = {
        "nodes": [
            {"id": "p", "block_id": STORE_VALUE, "input_default": {"input": "Hello"}},
            {"id": "f", "block_id": template, "input_default": {"format": "{texts[0]}"}},
        ],
        "links": [{"source_id": "p", "source_name": "output", "sink_id": "f", "sink_name": "texts_$_1"}],
    }
    stored = await api.post_graph(posted)
    assert stored["links"][0]["sink_name"] == "values_#_texts_$_1"


class TestVersions:
    async def test_a_put_makes_the_next_version_and_the_key_stays(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        first["nodes"][0]["input_default"]["value"] = 2
        second = (await api.client.put(f"/graphs/{first['id']}", json=first)).json()
        assert (second["id"], second["version"], second["is_active"]) == (first["id"], 2, True)
        assert second["nodes"][0]["id"] != first["nodes"][0]["id"]
        assert second["nodes"][0]["metadata"]["key"] == first["nodes"][0]["metadata"]["key"]
        old = (await api.client.get(f"/graphs/{first['id']}/versions/1")).json()
        assert old["nodes"][0]["input_default"]["value"] == 1
        assert old["is_active"] is False
        listed = (await api.client.get(f"/graphs/{first['id']}/versions")).json()
        assert [(entry["version"], entry["is_active"]) for entry in listed] == [(2, True), (1, False)]
        assert [entry["version"] for entry in (await api.client.get("/graphs")).json()] == [2]

    async def test_a_node_without_its_key_keeps_it_by_its_id(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        key = first["nodes"][0]["metadata"].pop("key")
        second = (await api.client.put(f"/graphs/{first['id']}", json=first)).json()
        assert second["nodes"][0]["metadata"]["key"] == key

    async def test_a_copied_node_gets_a_key_of_its_own(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        first["nodes"].append({**first["nodes"][0], "id": "copy"})
        second = (await api.client.put(f"/graphs/{first['id']}", json=first)).json()
        keys = [node["metadata"]["key"] for node in second["nodes"]]
        assert len(set(keys)) == 3
        assert [warning["code"] for warning in second["warnings"]] == ["duplicate_key"]
        assert second["warnings"][0]["node_id"] == second["nodes"][2]["id"]

    async def test_a_version_may_wait_to_become_active(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        second = (await api.client.put(f"/graphs/{first['id']}", json={**first, "is_active": False})).json()
        assert second["is_active"] is False
        assert (await api.client.get(f"/graphs/{first['id']}")).json()["version"] == 1
        chosen = await api.client.put(f"/graphs/{first['id']}/versions/active", json={"active_graph_version": 2})
        assert (chosen.status_code, chosen.json()["version"], chosen.json()["is_active"]) == (200, 2, True)
        assert (await api.client.get(f"/graphs/{first['id']}")).json()["version"] == 2
        wrong = await api.client.put(f"/graphs/{first['id']}/versions/active", json={"active_graph_version": 3})
        problem(wrong, 404, "graph_version_not_found")

    async def test_who_read_an_older_state_changes_nothing(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        path = f"/graphs/{first['id']}"
        etag = (await api.client.get(path)).headers["etag"]
        assert (await api.client.put(path, json=first, headers={"If-Match": etag})).status_code == 200
        problem(await api.client.put(path, json=first, headers={"If-Match": etag}), 412, "graph_changed")
        assert (await api.client.put(path, json=first, headers={"If-Match": "*"})).status_code == 200
        newest = (await api.client.get(path)).headers["etag"]
        assert (await api.client.put(path, json=first, headers={"If-Match": f'"0", W/{newest}'})).status_code == 200
        assert len((await api.client.get(f"{path}/versions")).json()) == 4

    async def test_the_etag_tells_apart_what_is_active(self, api: Api) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        path = f"/graphs/{first['id']}"
        await api.client.put(path, json=first)
        before = (await api.client.get(path)).headers["etag"]
        await api.client.put(f"{path}/versions/active", json={"active_graph_version": 1})
        assert (await api.client.get(path)).headers["etag"] != before

    @pytest.mark.parametrize("version", ["2", "0", "99999999999999999999", "x"])
    async def test_versions_that_are_not_there(self, api: Api, version: str) -> None:
        first = await api.post_graph(repeat_graph(value=1))
        response = await api.client.get(f"/graphs/{first['id']}/versions/{version}")
        assert response.status_code == (422 if version == "0" else 404)


class TestDelete:
    async def test_a_deleted_graph_is_gone_and_its_runs_can_be_read(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        run_id = await api.execute(graph["id"], {"topic": "x"})
        path = f"/graphs/{graph['id']}"
        problem(await api.client.delete(path), 409, "graph_in_use")
        await api.performer.perform(run_id, graph["id"])
        assert (await api.client.delete(path)).status_code == 204
        for response in (
            await api.client.get(path),
            await api.client.put(path, json=graph),
            await api.client.delete(path),
        ):
            problem(response, 404, "graph_not_found")
        problem(await api.client.post(f"{path}/execute", json={"topic": "x"}), 404, "graph_not_found")
        assert (await api.client.get("/graphs")).json() == []
        assert [run["id"] for run in (await api.client.get(f"{path}/executions")).json()] == [run_id]

    async def test_schedules_are_told(self, api: Api) -> None:
        graph = await api.post_graph(named_graph())
        await api.client.delete(f"/graphs/{graph['id']}")
        assert api.told.schedules == 1


async def test_pages(api: Api) -> None:
    ids = [(await api.post_graph(named_graph()))["id"] for _ in range(5)]
    seen: list[str] = []
    url: str | None = "/graphs?limit=2"
    pages = 0
    while url:
        response = await api.client.get(url)
        seen += [entry["id"] for entry in response.json()]
        url = response.links.get("next", {}).get("url")
        pages += 1
    assert seen == ids[::-1]
    assert pages == 3


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "cursor=%00", "cursor=a", "cursor=bnVsbA", "cursor=MQ", f"cursor={'x' * 600}"],
)
async def test_bad_pages_are_refused(api: Api, query: str) -> None:
    response = await api.client.get(f"/graphs?{query}")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_graph_of_a_thousand_nodes(api: Api) -> None:
    count = 1000
    posted = {
        "nodes": [
            {"id": str(i), "block_id": STORE_VALUE, "input_default": {} if i else {"input": 1}} for i in range(count)
        ],
        "links": [
            {"source_id": str(i), "source_name": "output", "sink_id": str(i + 1), "sink_name": "input"}
            for i in range(count - 1)
        ],
    }
    stored = await api.post_graph(posted)
    fetched = (await api.client.get(f"/graphs/{stored['id']}")).json()
    order = [node["id"] for node in fetched["nodes"]]
    assert [(link["source_id"], link["sink_id"]) for link in fetched["links"]] == list(itertools.pairwise(order))


async def test_agent_inputs_with_one_name_get_the_same_value(api: Api) -> None:
    node = {"block_id": AGENT_INPUT, "input_default": {"name": "topic"}}
    graph = await api.post_graph({"nodes": [{**node, "id": "a"}, {**node, "id": "b"}]})
    assert [warning["code"] for warning in graph["warnings"]] == ["duplicate_input_name"]
    run_id = await api.execute(graph["id"], {"topic": 1})
    executions = (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()
    assert [execution["input_data"]["value"] for execution in executions] == [1, 1]
