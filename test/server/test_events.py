"""Server-sent events over a real connection: a snapshot, then every committed change, in order, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest

from autogpt_server.server.events import with_heartbeat
from server.api import Api, problem
from server.sample_blocks import named_graph, repeat_graph
from server.serving import Event, events, serving

LIMIT_S = 20.0


@pytest.fixture
async def client(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(api.context) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=LIMIT_S) as client,
    ):
        yield client


async def collect(
    client: httpx.AsyncClient, run_id: str, last_event_id: str | None = None, begun: asyncio.Event | None = None
) -> list[Event]:
    """All events of a stream, until the server ends it. `begun` is set at the first."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
    seen: list[Event] = []
    async with (
        asyncio.timeout(LIMIT_S),
        client.stream("GET", f"/executions/{run_id}/events", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for event in events(response):
            seen.append(event)
            if begun is not None:
                begun.set()
    return seen


async def watch(client: httpx.AsyncClient, run_id: str) -> asyncio.Task[list[Event]]:
    """A stream that has begun."""
    begun = asyncio.Event()
    watching = asyncio.create_task(collect(client, run_id, begun=begun))
    async with asyncio.timeout(LIMIT_S):
        await begun.wait()
    return watching


def changes(seen: list[Event]) -> list[tuple[str, str]]:
    """(node execution, status) of the `node` events."""
    return [(event.data["node_exec_id"], event.data["status"]) for event in nodes_of(seen)]


def nodes_of(seen: list[Event]) -> list[Event]:
    """The `node` events."""
    return [event for event in seen if event.name == "node"]


async def test_every_change_of_a_run_arrives_in_order(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=3))
    run_id = await api.execute(graph["id"])
    watching = await watch(client, run_id)
    await api.performer.perform(run_id, graph["id"])
    seen = await watching
    assert [seen[0].name, seen[-1].name] == ["snapshot", "run"]
    assert seen[0].data["run"]["status"] == "QUEUED"
    assert [node["status"] for node in seen[0].data["nodes"]] == ["QUEUED"]
    assert [event.data["status"] for event in seen if event.name == "run"] == ["RUNNING", "COMPLETED"]
    assert [event.id for event in seen] == sorted(event.id for event in seen)
    executions = (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()
    for execution in executions:
        states = [status for node_exec_id, status in changes(seen) if node_exec_id == execution["node_exec_id"]]
        in_order = list(dict.fromkeys(states))
        assert in_order == [status for status in ("QUEUED", "RUNNING", "COMPLETED") if status in in_order]
        assert {"RUNNING", "COMPLETED"} <= set(in_order)
    assert seen[-1].id == (await api.client.get(f"/executions/{run_id}")).json()["seq"]


async def test_a_run_that_has_ended_is_a_snapshot_and_its_end(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    await api.performer.perform(run_id, graph["id"])
    seen = await collect(client, run_id)
    assert [event.name for event in seen] == ["snapshot", "run"]
    assert [node["status"] for node in seen[0].data["nodes"]] == ["COMPLETED", "COMPLETED"]
    assert seen[1].data["status"] == "COMPLETED"


async def test_after_a_break_the_stream_goes_on_where_it_was(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=5))
    run_id = await api.execute(graph["id"])
    steps = api.performer.steps(run_id, graph["id"])
    whole: list[Event] = []
    last: str | None = None
    for _ in range(4):
        async with client.stream(
            "GET", f"/executions/{run_id}/events", headers={"Last-Event-ID": last} if last else {}
        ) as response:
            reached = 0
            for _ in range(3):
                reached = await anext(steps)
            async for event in events(response):
                whole.append(event)
                if event.id >= reached:
                    break
        last = str(whole[-1].id)
    async for _ in steps:
        pass
    whole += await collect(client, run_id, last)
    assert [event.name for event in whole].count("snapshot") == 1
    assert [event.id for event in whole] == sorted(event.id for event in whole)
    seen = [(event.data["node_exec_id"], event.data["seq"]) for event in nodes_of(whole)]
    assert len(seen) == len(set(seen)), "an event that had been received was sent again"
    executions = (await api.client.get(f"/graphs/{graph['id']}/executions/{run_id}")).json()
    assert dict(changes(whole)) == {execution["node_exec_id"]: "COMPLETED" for execution in executions}


async def test_nothing_more_to_come_is_204(api: Api, client: httpx.AsyncClient) -> None:
    """A browser's EventSource connects again after every end; 204 is what makes it stop."""
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    await api.performer.perform(run_id, graph["id"])
    last = (await collect(client, run_id))[-1].id
    response = await client.get(f"/executions/{run_id}/events", headers={"Last-Event-ID": str(last)})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("last", ["0", "-1", "x", "999999", "\uff11"])
async def test_an_id_that_no_event_had_begins_anew(api: Api, client: httpx.AsyncClient, last: str) -> None:
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    await api.performer.perform(run_id, graph["id"])
    headers = {b"Last-Event-ID": last.encode()}
    async with client.stream("GET", f"/executions/{run_id}/events", headers=headers) as response:
        assert (await anext(events(response))).name == "snapshot"


async def test_lost_hints_cost_a_moment_and_nothing_else(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=3))
    run_id = await api.execute(graph["id"])
    watching = await watch(client, run_id)
    api.context.live.reached = lambda hints: None
    await api.performer.perform(run_id, graph["id"])
    assert (await watching)[-1].data["status"] == "COMPLETED"


async def test_many_watch_one_run_with_one_reader(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=3))
    run_id = await api.execute(graph["id"])
    watching = [await watch(client, run_id) for _ in range(8)]
    assert api.context.live.watched_runs == 1
    await api.performer.perform(run_id, graph["id"])
    streams = await asyncio.gather(*watching)
    finals = [dict(changes(seen)) for seen in streams]
    assert all(seen[-1].data["status"] == "COMPLETED" for seen in streams)
    assert all(set(final.values()) <= {"COMPLETED"} for final in finals)
    assert api.context.live.watched_runs == 0


async def test_secrets_are_not_shown(api: Api, client: httpx.AsyncClient) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=1))
    run_id = await api.execute(graph["id"], {"api_key": "hunter2"})
    await api.performer.perform(run_id, graph["id"])
    assert "hunter2" not in repr(await collect(client, run_id))


async def test_there_is_no_such_run(api: Api, client: httpx.AsyncClient) -> None:
    problem(await client.get("/executions/none/events"), 404, "run_not_found")


async def test_streams_end_when_the_server_stops(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    async with (
        serving(api.context) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=LIMIT_S) as client,
    ):
        async with asyncio.timeout(LIMIT_S), client.stream("GET", f"/executions/{run_id}/events") as response:
            seen: list[str] = []
            async for event in events(response):
                seen.append(event.name)
                await api.context.live.stop()
        assert seen == ["snapshot"]
        problem(await client.get(f"/executions/{run_id}/events"), 503, "server_draining")


async def test_silence_is_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes]:
        yield b"first"
        await go_on.wait()
        yield b"second"

    seen: list[bytes] = []
    async for part in with_heartbeat(slow(), 0.01):
        seen.append(part)
        if len(seen) == 3:
            go_on.set()
    assert seen[0] == b"first"
    assert seen[1].startswith(b":")
    assert seen[-1] == b"second"
