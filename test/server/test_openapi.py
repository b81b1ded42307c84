"""The API against its own description: requests of every shape, right and wrong, over a real connection (schemathesis, fixed seed)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

from autogpt_server.data.db import Database
from autogpt_server.server.app import create_app
from autogpt_server.server.context import ServerContext
from autogpt_server.server.live import LiveRuns
from autogpt_server.utils.settings import Settings
from server.api import Told
from server.sample_blocks import BLOCKS, STORE_VALUE, named_graph
from server.serving import serving

checks.load_all_checks()
_REGISTRY = cast("Any", checks).CHECKS


def _checks(*names: str) -> list[Any]:
    return [_REGISTRY.get_one(name) for name in names]


_ANSWER_CHECKS = _checks(
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
_CHECKS = [*_ANSWER_CHECKS, *_checks("negative_data_rejection", "unsupported_method")]
_SETTINGS = settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def _description() -> dict[str, Any]:
    """What the app says about itself; it needs no database for that."""
    nothing = cast("Any", None)
    context = ServerContext(Settings(), nothing, BLOCKS, LiveRuns(nothing), Told())
    return create_app(context).openapi()


# Untyped: the stubs of schemathesis are generic in ways that do not matter here.
schema: Any = schemathesis.openapi.from_dict(_description())
schema.config.seed = 20240701


@dataclass(slots=True)
class Served:
    """A server in a thread of its own, and the ids of what it holds."""

    settings: Settings
    address: str = ""
    started: threading.Event = field(default_factory=threading.Event)
    ids: dict[str, str] = field(default_factory=dict[str, str])
    stop: asyncio.Event | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.stop, self.loop = asyncio.Event(), asyncio.get_running_loop()
        async with await Database.open(self.settings) as db:
            live = LiveRuns(db)
            await live.start()
            context = ServerContext(self.settings, db, BLOCKS, live, Told())
            async with serving(context) as self.address:
                await self._fill()
                self.started.set()
                await self.stop.wait()
            context.caller.close()

    async def _fill(self) -> None:
        async with httpx.AsyncClient(base_url=f"http://{self.address}") as client:
            graph = (await client.post("/graphs", json=named_graph("x"))).json()
            run = (await client.post(f"/graphs/{graph['id']}/execute")).json()
            schedule = (await client.post(f"/graphs/{graph['id']}/schedules", json={"cron": "0 0 1 1 *"})).json()
        self.ids = {
            "graph_id": graph["id"],
            "run_id": run["id"],
            "node_exec_id": run["executions"][0]["id"],
            "schedule_id": schedule["id"],
            "block_id": STORE_VALUE,
        }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: bytes) -> Iterator[Served]:
    path: Path = tmp_path_factory.mktemp("openapi") / "test.db"
    path.write_bytes(empty_database)
    server = Served(Settings(database_url=f"file:{path}", sqlite_synchronous="NORMAL", max_request_bytes=1 << 20))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.started.wait(30)
    yield server
    assert server.loop is not None
    assert server.stop is not None
    server.loop.call_soon_threadsafe(server.stop.set)
    thread.join(30)
    assert not thread.is_alive()


@schema.parametrize()
@pytest.mark.timeout(300)
@_SETTINGS
def test_any_request_is_answered_as_described(case: Any, served: Served) -> None:
    case.call_and_validate(base_url=f"http://{served.address}", checks=_CHECKS, timeout=30)


@(
    schema.exclude(method="DELETE")
    .exclude(path_regex="/events$")
    .include(path_regex="[{](graph|run|schedule|block)_id")
    .parametrize()
)
@pytest.mark.timeout(300)
@_SETTINGS
def test_any_request_about_what_is_there_is_answered_as_described(case: Any, served: Served) -> None:
    case.path_parameters = {
        **(case.path_parameters or {}),
        **{name: served.ids[name] for name in served.ids if name in (case.path_parameters or {})},
    }
    case.call_and_validate(base_url=f"http://{served.address}", checks=_ANSWER_CHECKS, timeout=30)
