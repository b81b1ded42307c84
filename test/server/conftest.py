"""The API in the test's process, over a real database file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.migrate import migrate
from autogpt_server.server.app import create_app
from autogpt_server.server.context import ServerContext
from autogpt_server.server.live import LiveRuns
from autogpt_server.utils.settings import Settings
from server.api import BASE_URL, Api, Told
from server.sample_blocks import BLOCKS


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated database file; migrated once, because it is the same for every test."""
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    migrate(path)
    return path.read_bytes()


@pytest.fixture
def settings(tmp_path: Path, empty_database: bytes) -> Settings:
    """Settings of a server with an empty database. The power is not cut in these tests: nothing waits for the disk."""
    (tmp_path / "test.db").write_bytes(empty_database)
    return Settings(database_url=f"file:{tmp_path / 'test.db'}", sqlite_synchronous="NORMAL", max_value_bytes=2_000_000)


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    async with await Database.open(settings) as database:
        yield database


@pytest.fixture
async def api(settings: Settings, db: Database) -> AsyncIterator[Api]:
    """The API without its other services."""
    live = LiveRuns(db, sweep_s=0.05)
    told = Told()
    context = ServerContext(settings, db, BLOCKS, live, told)
    await live.start()
    transport = httpx.ASGITransport(app=create_app(context), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        yield Api(client, context, told)
    await live.stop()
    context.caller.close()
