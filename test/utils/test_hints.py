"""Hints: those that wait for their turn go together, in order, once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from autogpt_server.utils.instance import Identity
from autogpt_server.utils.rpc.endpoint import Endpoint
from autogpt_server.utils.rpc.transport import NameServer
from autogpt_server.utils.service import close_service_client, expose, get_service_client
from autogpt_server.utils.settings import Settings
from support.running import owned, settings_for

LIMIT_S = 20.0


class EarInterface:
    """Hears hints."""

    service_name = "Ear"

    @expose(oneway=True)
    async def hear(self, what: str) -> None:
        raise NotImplementedError

    @expose(oneway=True)
    async def hear_in_thread(self, what: str) -> None:
        raise NotImplementedError


class Ear(EarInterface):
    """Remembers what it has heard; chokes on one word."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def hear(self, what: str) -> None:
        if what == "bang":
            raise ValueError(what)
        self.heard.append(what)
        self.news.set()

    @expose(oneway=True)
    def hear_in_thread(self, what: str) -> None:
        if what == "bang":
            raise ValueError(what)
        self._loop.call_soon_threadsafe(self._note, what)

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self.news.set()

    async def until(self, word: str) -> list[str]:
        """All that was heard, once `word` was."""
        async with asyncio.timeout(LIMIT_S):
            while word not in self.heard:
                self.news.clear()
                await self.news.wait()
        return self.heard


@pytest.fixture
def server(tmp_path: Path) -> Generator[tuple[Settings, Identity]]:
    """A name server, and who may use it."""
    settings = settings_for(tmp_path, rpc_max_message_bytes=64 * 1024)
    with owned(settings) as instance:
        identity = instance.identity()
        names = NameServer(settings, identity.secret)
        yield settings, identity
        names.close()


@pytest.fixture
async def ear(server: tuple[Settings, Identity]) -> AsyncIterator[Ear]:
    settings, identity = server
    listening, loop = Ear(), asyncio.get_running_loop()
    endpoint = await asyncio.to_thread(Endpoint, listening, settings, identity.secret, identity.instance, loop)
    yield listening
    await asyncio.to_thread(endpoint.close)


@pytest.fixture
def caller(server: tuple[Settings, Identity]) -> Generator[EarInterface]:
    client = get_service_client(EarInterface, server[0])
    yield client
    close_service_client(client)


def test_the_thread_for_hints_is_there_before_the_first_one(caller: EarInterface) -> None:
    """A worker whose memory a block has taken gives its first hint on the loop: with no thread to begin, it gets to the block's failure."""
    assert any(thread.name.startswith("hints to Ear") for thread in threading.enumerate())


async def test_hints_given_at_once_arrive_in_their_order(ear: Ear, caller: EarInterface) -> None:
    words = [f"word {number}" for number in range(300)]
    for word in words:
        await caller.hear(word)
    assert await ear.until(words[-1]) == words


async def test_more_than_a_message_holds_goes_in_several(ear: Ear, caller: EarInterface) -> None:
    words = [f"{number:03d}" + "x" * 20_000 for number in range(30)]
    for word in words:
        await caller.hear(word)
    assert await ear.until(words[-1]) == words


async def test_a_hint_that_is_too_large_is_dropped_and_raises_nothing(ear: Ear, caller: EarInterface) -> None:
    await caller.hear("x" * 100_000)
    await caller.hear("after")
    assert await ear.until("after") == ["after"]


async def test_one_that_fails_takes_no_other_with_it(ear: Ear, caller: EarInterface) -> None:
    for word in ("before", "bang", "after"):
        await caller.hear(word)
        await caller.hear_in_thread(word)
    await ear.until("after")
    async with asyncio.timeout(LIMIT_S):
        while ear.heard.count("after") < 2:
            ear.news.clear()
            await ear.news.wait()
    assert sorted(ear.heard) == ["after", "after", "before", "before"]


async def test_a_hint_given_before_the_service_is_there_arrives(
    server: tuple[Settings, Identity], caller: EarInterface
) -> None:
    await caller.hear("early")
    settings, identity = server
    listening, loop = Ear(), asyncio.get_running_loop()
    endpoint = await asyncio.to_thread(Endpoint, listening, settings, identity.secret, identity.instance, loop)
    assert await listening.until("early") == ["early"]
    await asyncio.to_thread(endpoint.close)
