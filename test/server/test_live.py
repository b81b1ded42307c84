"""The feeds behind the streams: shared readers, slow watchers, watched graphs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.live import Changes, first_id_of, read_changes
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.runs import RunNotFound, list_node_executions
from autogpt_server.server import live
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.ids import new_id
from server.api import Api
from server.sample_blocks import repeat_graph

LIMIT_S = 20.0


async def start(api: Api, times: int) -> tuple[str, str]:
    """(run id, graph id) of a run that will have `times` + 1 executions."""
    graph = await api.post_graph(repeat_graph(value="x", times=times))
    return await api.execute(graph["id"]), graph["id"]


async def drain(batches: AsyncGenerator[Changes]) -> list[Changes]:
    async with asyncio.timeout(LIMIT_S):
        return [changes async for changes in batches]


def last_states(batches: list[Changes]) -> dict[str, NodeExecution]:
    return {node.node_exec_id: node for changes in batches for node in changes.nodes}


async def final(db: Database, run_id: str) -> dict[str, NodeExecution]:
    return {node.node_exec_id: node for node in await list_node_executions(db, run_id, limit=5000)}


def assert_in_order(batches: list[Changes]) -> None:
    seqs = [node.seq for changes in batches for node in changes.nodes]
    assert seqs == sorted(seqs)
    assert [changes.seq for changes in batches] == sorted({changes.seq for changes in batches})


async def test_a_watcher_that_is_too_slow_is_served_from_the_database(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUEUE_BATCHES", 2)
    monkeypatch.setattr(live, "_REST_RATIO", 0.0)
    run_id, graph_id = await start(api, 12)
    slow = api.context.live.follow(run_id, 0)
    batches = [await anext(slow)]
    steps = api.performer.steps(run_id, graph_id)
    await anext(steps)
    batches.append(await anext(slow))  # it has caught up: from here on it is served by the reader
    async for _ in steps:
        for _ in range(50):  # the reader gets its turns; the slow one takes nothing
            await asyncio.sleep(0)
    batches += await drain(slow)
    assert last_states(batches) == await final(api.context.db, run_id)
    assert_in_order(batches)


async def test_fast_and_late_watchers_see_the_same_end(api: Api) -> None:
    run_id, graph_id = await start(api, 8)
    watching = [
        asyncio.create_task(drain(api.context.live.follow(run_id, 0)))
        async for seq in api.performer.steps(run_id, graph_id)
        if seq % 3 == 0
    ]
    expected = await final(api.context.db, run_id)
    for task in watching:
        batches = await task
        assert last_states(batches) == expected
        assert_in_order(batches)
        assert batches[-1].ends_run
    assert api.context.live.watched_runs == 0


async def test_small_pages_lose_nothing(api: Api) -> None:
    run_id, graph_id = await start(api, 9)
    await api.performer.perform(run_id, graph_id)
    after, seen = 0, list[Changes]()
    while True:
        changes = await read_changes(api.context.db, run_id, after, limit=2)
        seen.append(changes)
        assert changes.seq > after
        after = changes.seq
        if changes.is_last_page:
            break
    assert len(seen) > 3
    assert last_states(seen) == await final(api.context.db, run_id)
    assert_in_order(seen)


async def test_a_run_that_is_deleted_ends_its_streams(api: Api) -> None:
    run_id, graph_id = await start(api, 1)
    await api.performer.perform(run_id, graph_id)
    with pytest.raises(RunNotFound):
        await drain(api.context.live.follow("none", 0))
    assert api.context.live.watched_runs == 0


async def test_a_watched_graph_tells_of_active_and_of_new_runs(api: Api) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=1))
    ended = await api.execute(graph["id"])
    await api.performer.perform(ended, graph["id"])
    active = await api.execute(graph["id"])
    async with api.context.live.watch_graph(graph["id"]) as runs, asyncio.timeout(LIMIT_S):
        assert await anext(runs) == (active, 1)
        hinted, unhinted = [await api.execute(graph["id"]) for _ in range(2)]
        api.context.live.reached([(hinted, graph["id"], 1), (ended, graph["id"], 9), (active, graph["id"], 2)])
        assert await anext(runs) == (hinted, 0)
        assert await anext(runs) == (unhinted, 0)
        async with api.context.live.watch_graph(graph["id"]) as others:
            assert {await anext(others) for _ in range(3)} == {(active, 1), (hinted, 1), (unhinted, 1)}
        newest = await api.execute(graph["id"])
        assert await anext(runs) == (newest, 0)


async def test_the_first_id_of_a_time_lies_before_all_ids_made_then() -> None:
    before = first_id_of(utc_now())
    made = [new_id() for _ in range(100)]
    assert all(before < made_id for made_id in made)
