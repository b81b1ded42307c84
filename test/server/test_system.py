"""How the server says it is, and its pages for people."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autogpt_server.data import health
from autogpt_server.data.db import Database
from autogpt_server.data.health import DiskFull, check_writable
from autogpt_server.server import problems
from autogpt_server.utils.settings import Settings
from server.api import Api
from server.sample_blocks import named_graph


async def test_alive(api: Api) -> None:
    health = (await api.client.get("/health")).json()
    assert health["status"] == "ok"
    assert health["version"]


async def test_ready(api: Api) -> None:
    response = await api.client.get("/ready")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "ExecutionManager": "ok"}},
    )


async def test_degraded_while_another_service_is_away(api: Api) -> None:
    api.told.peers["ExecutionManager"] = "backing_off"
    response = await api.client.get("/ready")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_not_ready_when_nothing_can_be_written(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Database, "write", full)
    response = await api.client.get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["database"].endswith(": database or disk is full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_not_ready_while_the_disk_is_full(small_disk: Path, empty_database: bytes) -> None:
    (small_disk / "test.db").write_bytes(empty_database)
    async with await Database.open(Settings(database_url=f"file:{small_disk / 'test.db'}")) as db:
        await check_writable(db)
        (small_disk / "ballast").write_bytes(bytes(5 << 20))
        with pytest.raises(DiskFull, match=r"the disk is full: [0-9,]+ KiB are left, 8,192 are needed"):
            await check_writable(db)
        (small_disk / "ballast").unlink()
        await check_writable(db)


async def test_what_is_said_when_the_disk_is_full(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.check_room, "__kwdefaults__", {"at_least": 1 << 60})
    response = await api.client.get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["database"].startswith("not writable: the disk is full")
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    told = (await api.client.get(f"/executions/{run_id}/explain")).json()
    assert told["is_progressing"] is False
    assert "the disk is full" in told["causes"][0]["message"]


async def test_not_ready_while_stopping(api: Api) -> None:
    await api.context.live.stop()
    response = await api.client.get("/ready")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")


async def test_metrics(api: Api) -> None:
    graph = await api.post_graph(named_graph())
    done, _ = [await api.execute(graph["id"], {"topic": 1}) for _ in range(2)]
    await api.performer.perform(done, graph["id"])
    response = await api.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["autogpt_active_runs", ("status", "QUEUED")] == 1
    assert samples["autogpt_runs_created_total",] == 2
    executed = ("method", "POST"), ("route", "/graphs/{graph_id}/execute"), ("status", "200")
    assert samples["autogpt_http_requests_total", *executed] == 2
    assert graph["id"] not in response.text


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_need_nothing_from_elsewhere(api: Api, path: str) -> None:
    response = await api.client.get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_the_description_of_the_api_names_every_path(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()
    operations = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert {
        "GET /blocks",
        "POST /blocks/{block_id}/execute",
        "GET /graphs",
        "POST /graphs",
        "GET /graphs/{graph_id}",
        "PUT /graphs/{graph_id}",
        "DELETE /graphs/{graph_id}",
        "GET /graphs/{graph_id}/versions",
        "GET /graphs/{graph_id}/versions/{version}",
        "PUT /graphs/{graph_id}/versions/active",
        "POST /graphs/{graph_id}/execute",
        "GET /graphs/{graph_id}/executions",
        "GET /graphs/{graph_id}/executions/{run_id}",
        "GET /executions/{run_id}",
        "DELETE /executions/{run_id}",
        "GET /executions/{run_id}/events",
        "GET /health",
        "GET /ready",
        "GET /metrics",
    } <= operations
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path}"
            assert operation["tags"], f"{method} {path}"
            assert "HTTPValidationError" not in str(operation), f"{method} {path}"


async def test_the_documentation_names_every_path_and_code(api: Api) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    described = (await api.client.get("/openapi.json")).json()
    for path, methods in described["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}`" in text, f"docs/api.md lacks {method.upper()} {path}"
    for error in (*problems.RequestError.__subclasses__(), *problems.foreign_errors()):
        assert f"`{error.code}`" in text, f"docs/api.md lacks the code {error.code}"
