"""`Prefer: wait`: one request that starts a run and is answered at its end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from autogpt_server.data.runs import delete_run
from server.api import Api, problem
from server.performing import RunPerformer
from server.sample_blocks import Fail, named_graph, repeat_graph

LIMIT_S = 20.0
FAILING = {"name": "failing", "nodes": [{"id": "f", "block_id": Fail.id, "input_default": {"how": "error"}}]}


class Waiting:
    """A request under way that waits for the end of its run."""

    def __init__(self, api: Api, graph: dict[str, Any], run_input: dict[str, Any], **headers: str) -> None:
        self._api = api
        self._graph = graph
        self._request = asyncio.create_task(
            api.client.post(f"/graphs/{graph['id']}/execute", json=run_input, headers={"Prefer": "wait=30"} | headers)
        )

    async def started(self, count: int = 1) -> list[str]:
        """The runs, once so many are told of and waited for."""
        async with asyncio.timeout(LIMIT_S):
            while len(self._api.told.runs) < count or len(self._api.context.live.ends.run_ids) < count:  # noqa: ASYNC110 - no event says both
                await asyncio.sleep(0.001)
        return [run_id for run_id, _ in self._api.told.runs]

    async def perform(self) -> None:
        [run_id] = await self.started()
        await self._api.performer.perform(run_id, self._graph["id"])

    async def answer(self) -> httpx.Response:
        async with asyncio.timeout(LIMIT_S):
            return await self._request


def _silent_performer(api: Api) -> RunPerformer:
    """One whose hints are all lost."""
    context = api.context
    return RunPerformer(context.db, context.blocks, context.settings, lambda _run_id, _graph_id, _seq: None)


async def test_the_answer_comes_at_the_end_with_the_outputs(api: Api) -> None:
    waiting = Waiting(api, await api.post_graph(repeat_graph(times=2)), {"value": "hi"})
    await waiting.perform()
    response = await waiting.answer()
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=30"
    document = response.json()
    assert document["id"] == api.told.runs[0][0]
    assert [sorted(execution) for execution in document["executions"]] == [["id", "node_id"]]
    assert (document["status"], document["outputs"], document["error"]) == ("COMPLETED", {"out": ["hi", "hi"]}, None)
    assert not api.context.live.ends.run_ids


async def test_a_run_that_fails_says_why_and_one_without_agent_outputs_has_none(api: Api) -> None:
    waiting = Waiting(api, await api.post_graph(FAILING), {})
    await waiting.perform()
    document = (await waiting.answer()).json()
    run = (await api.client.get(f"/executions/{document['id']}")).json()
    assert (document["status"], document["outputs"]) == ("FAILED", {})
    assert document["error"] == run["error"]
    assert document["error"]["message"]


async def test_an_output_named_like_a_secret_is_shown_as_when_the_run_is_read(api: Api) -> None:
    graph = repeat_graph(times=1)
    graph["nodes"][1]["input_default"]["name"] = "token"
    waiting = Waiting(api, await api.post_graph(graph), {"value": {"password": "x", "n": 1}})
    await waiting.perform()
    document = (await waiting.answer()).json()
    assert document["outputs"] == (await api.client.get(f"/executions/{document['id']}")).json()["outputs"]


async def test_when_the_time_is_over_the_answer_says_how_the_run_is(api: Api) -> None:
    waiting = Waiting(api, await api.post_graph(named_graph()), {"topic": 1}, Prefer="wait=0")
    response = await waiting.answer()
    assert response.headers["Preference-Applied"] == "wait=0"
    assert response.json().keys() == {"id", "executions", "status"}
    assert response.json()["status"] == "QUEUED"


async def test_the_time_is_capped_and_the_answer_says_so(api: Api) -> None:
    waiting = Waiting(api, await api.post_graph(named_graph()), {"topic": 1}, Prefer="respond-async, wait=86400")
    await waiting.perform()
    assert (await waiting.answer()).headers["Preference-Applied"] == "wait=60"


@pytest.mark.parametrize("prefer", ["return=minimal", "wait=soon", ""])
async def test_without_the_preference_the_answer_is_as_ever(api: Api, prefer: str) -> None:
    response = await Waiting(api, await api.post_graph(named_graph()), {"topic": 1}, Prefer=prefer).answer()
    assert response.json().keys() == {"id", "executions"}
    assert "Preference-Applied" not in response.headers


async def test_a_known_idempotency_key_waits_for_the_run_it_made(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    first = Waiting(api, graph, {"topic": 1}, **{"Idempotency-Key": "k"})
    await first.started()
    second = Waiting(api, graph, {"topic": 1}, **{"Idempotency-Key": "k"})
    await first.perform()
    assert (await second.answer()).text == (await first.answer()).text
    late = await Waiting(api, graph, {"topic": 1}, **{"Idempotency-Key": "k"}).answer()
    assert late.text == (await first.answer()).text
    assert len(api.told.runs) == 1


async def test_an_end_whose_hint_was_lost_is_found(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    waiting = Waiting(api, graph, {"topic": 1})
    [run_id] = await waiting.started()
    await _silent_performer(api).perform(run_id, graph["id"])
    assert (await waiting.answer()).json()["status"] == "COMPLETED"


async def test_many_wait_and_each_gets_its_own_run(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    waiting = [Waiting(api, graph, {"topic": number}) for number in range(40)]
    for run_id in reversed(await waiting[0].started(40)):
        await api.performer.perform(run_id, graph["id"])
    answers = [(await request.answer()).json() for request in waiting]
    assert [answer["outputs"] for answer in answers] == [{"out": [number]} for number in range(40)]
    assert len({answer["id"] for answer in answers}) == 40


async def test_a_server_that_stops_answers_at_once(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    waiting = Waiting(api, graph, {"topic": 1})
    await waiting.started()
    await api.context.live.stop()
    assert (await waiting.answer()).json()["status"] == "QUEUED"
    assert (await Waiting(api, graph, {"topic": 2}).answer()).json()["status"] == "QUEUED"


async def test_a_run_that_was_deleted_meanwhile_is_not_found(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    waiting = Waiting(api, graph, {"topic": 1}, Prefer="wait=1")
    [run_id] = await waiting.started()
    api.context.live.ends.look = lambda run_ids: None
    await _silent_performer(api).perform(run_id, graph["id"])
    await delete_run(api.context.db, run_id)
    problem(await waiting.answer(), 404, "run_not_found")
