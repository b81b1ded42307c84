"""The WebSocket over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from autogpt_server.data.db import Database
from autogpt_server.server.context import ServerContext
from autogpt_server.server.live import LiveRuns
from autogpt_server.utils import json
from autogpt_server.utils.settings import Settings
from server.api import Api, Told
from server.sample_blocks import BLOCKS, repeat_graph
from server.serving import serving

LIMIT_S = 20.0


class Client:
    """A connection that speaks JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            message = json.loads(await self.connection.recv())
        assert isinstance(message, dict)
        return message

    async def ask(self, method: str, graph_id: str) -> dict[str, Any]:
        """Send a request, and return its answer."""
        await self.send({"method": method, "data": {"graph_id": graph_id}})
        return await self.receive()

    async def until_ended(self, count: int) -> list[dict[str, Any]]:
        """The data of `execution_event`s, until `count` executions have completed."""
        seen: list[dict[str, Any]] = []
        completed: set[str] = set()
        while len(completed) < count:
            message = await self.receive()
            assert message["method"] == "execution_event"
            seen.append(message["data"])
            if message["data"]["status"] == "COMPLETED":
                completed.add(message["data"]["node_exec_id"])
        return seen


@asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncGenerator[Client]:
    async with connect(f"ws://{address}/ws", proxy=None, **options) as connection:
        yield Client(connection)


@pytest.fixture
async def address(api: Api) -> AsyncIterator[str]:
    async with serving(api.context) as address:
        yield address


async def test_changes_of_all_runs_of_a_graph_arrive(api: Api, address: str) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=2))
    other = await api.post_graph(repeat_graph(value="x", times=2))
    before = await api.execute(graph["id"])
    async with connected(address) as client:
        assert await client.ask("subscribe", graph["id"]) == {
            "method": "subscribe",
            "success": True,
            "error": None,
            "data": {"graph_id": graph["id"]},
        }
        after = await api.execute(graph["id"])
        foreign = await api.execute(other["id"])
        for run_id, graph_id in ((foreign, other["id"]), (before, graph["id"]), (after, graph["id"])):
            await api.performer.perform(run_id, graph_id)
        seen = await client.until_ended(6)
    assert {event["graph_exec_id"] for event in seen} == {before, after}
    for run_id in (before, after):
        seqs = [event["seq"] for event in seen if event["graph_exec_id"] == run_id]
        assert seqs == sorted(seqs)
    states = [(event["node_exec_id"], event["status"], event["seq"]) for event in seen]
    assert len(states) == len(set(states))


async def test_after_unsubscribing_nothing_arrives(api: Api, address: str) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=1))
    async with connected(address) as client:
        await client.ask("subscribe", graph["id"])
        assert (await client.ask("unsubscribe", graph["id"]))["success"] is True
        await api.performer.perform(await api.execute(graph["id"]), graph["id"])
        assert (await client.ask("unsubscribe", graph["id"]))["method"] == "unsubscribe"
    assert api.context.live.watched_runs == 0


async def test_subscribing_twice_is_subscribing_once(api: Api, address: str) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=1))
    async with connected(address) as client:
        for _ in range(2):
            assert (await client.ask("subscribe", graph["id"]))["success"] is True
        await api.performer.perform(await api.execute(graph["id"]), graph["id"])
        seen = await client.until_ended(2)
        assert (await client.ask("unsubscribe", graph["id"]))["method"] == "unsubscribe"
    states = [(event["node_exec_id"], event["status"], event["seq"]) for event in seen]
    assert len(states) == len(set(states))


@pytest.mark.parametrize(
    ("message", "method"),
    [
        ("{", None),
        ("[]", None),
        ("null", None),
        ('{"method": 5}', None),
        ('{"method": "shout", "data": {}}', "shout"),
        ('{"method": "subscribe"}', "subscribe"),
        ('{"method": "subscribe", "data": {"graph_id": 5}}', "subscribe"),
        ('{"method": "subscribe", "data": {"graph_id": "none"}}', "subscribe"),
        ('{"method": "subscribe", "data": {"graph_id": "' + "x" * 300 + '"}}', "subscribe"),
        (b"\xff", None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_cannot_be_understood_is_answered(address: str, message: str | bytes, method: str | None) -> None:
    async with connected(address) as client:
        await client.connection.send(message)
        answer = await client.receive()
        assert (answer["method"], answer["success"], answer["data"]) == (method, False, None)
        assert answer["error"]
        await client.send({"method": "heartbeat", "data": "ping"})
        assert (await client.receive())["data"] == "pong"


async def test_the_connection_ends_when_the_server_stops(api: Api, address: str) -> None:
    graph = await api.post_graph(repeat_graph(value="x", times=1))
    async with connected(address) as client:
        await client.ask("subscribe", graph["id"])
        await api.context.live.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


@pytest.mark.parametrize(
    ("headers", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403)]
)
async def test_who_may_not_ask_is_not_connected(address: str, headers: dict[str, str], status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connected(address, additional_headers=headers):
            pass
    assert refused.value.response.status_code == status


async def test_a_key_is_asked_for(settings: Settings, db: Database) -> None:
    settings = settings.model_copy(update={"api_keys": (SecretStr("key"),)})
    async with serving(ServerContext(settings, db, BLOCKS, LiveRuns(db), Told())) as address:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(address):
                pass
        assert refused.value.response.status_code == 401
        async with connected(address, additional_headers={"X-API-Key": "key"}) as client:
            await client.send({"method": "heartbeat"})
            assert (await client.receive())["success"] is True
