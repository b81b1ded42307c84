"""Lists stay fast in a large database: whatever SQL a list of the API comes to reads its page from an index, and sorts nothing.

The SQL is what the database was really given for a request, so a query that is written or generated differently one day is looked at, too.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.schedule import insert_occurrences
from autogpt_server.data.scheduling import NewOccurrence, OccurrenceStatus
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.occurrences import PAUSED
from server.api import Api
from server.sample_blocks import repeat_graph

RUNS, SCHEDULES = "/graphs/{graph_id}/executions", "/graphs/{graph_id}/schedules"
GRAPHS, VERSIONS, EXECUTIONS = "/graphs", "/graphs/{graph_id}/versions", "/graphs/{graph_id}/executions/{run_id}"
OCCURRENCES, ALL_SCHEDULES = "/graphs/schedules/{schedule_id}/occurrences", "/schedules"
FILTERS = {
    RUNS: ["", *(f"&status={status}" for status in RunStatus), "&status=RUNNING&status=QUEUED", "&status=FAILED" * 3,
           "".join(f"&status={status}" for status in RunStatus)],
    EXECUTIONS: ["", "&full=true"],
}  # fmt: skip
"""Of a list the ways to ask for less than all, or for more of each entry."""
LISTS = (GRAPHS, VERSIONS, RUNS, EXECUTIONS, SCHEDULES, OCCURRENCES, ALL_SCHEDULES)


class Spy:
    """Notes the SQL that the connections which read are given."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._noted: list[str] = []

    async def begin(self) -> None:
        for reader in (self._db.read, self._db.peek):
            await reader(lambda connection: connection.set_trace_callback(self._noted.append))

    async def take(self) -> list[str]:
        """What it has noted since the last time, without what frames a snapshot."""
        found, self._noted[:] = [sql for sql in self._noted if sql not in {"BEGIN", "ROLLBACK"}], []
        return found

    async def plan(self, sql: str) -> list[str]:
        def explain(connection: sqlite3.Connection) -> list[str]:
            connection.set_trace_callback(None)
            rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
            connection.set_trace_callback(self._noted.append)
            return [row[3] for row in rows]

        return await self._db.read(explain)


def complaints(plan: Sequence[str]) -> list[str]:
    """Steps that take longer the more rows a table has: it is read as a whole, or rows are sorted."""
    return [
        step
        for step in plan
        if "TEMP B-TREE" in step or (step.startswith("SCAN ") and not re.match(r"SCAN (json_each|\w) VIRTUAL", step))
    ]


async def stored(api: Api) -> dict[str, str]:
    """Three of everything that is listed; the parameters of the paths."""
    graphs = [await api.post_graph(repeat_graph()) for _ in range(3)]
    graph_id = graphs[0]["id"]
    for _ in range(2):
        (await api.client.put(f"/graphs/{graph_id}", json=repeat_graph())).raise_for_status()
    runs = [await api.execute(graph_id, {"value": 1}) for _ in range(3)]
    schedule = {"cron": "0 9 * * *", "input_data": {"value": 1}}
    posted = [await api.client.post(f"/graphs/{graph_id}/schedules", json=schedule) for _ in range(3)]
    schedule_id = posted[0].json()["id"]
    due = [datetime(2026, 11, day, 9, tzinfo=UTC) for day in (1, 2, 3)]
    missed = [NewOccurrence(moment, OccurrenceStatus.SKIPPED, PAUSED, "paused") for moment in due]
    await api.context.db.write(
        lambda connection: insert_occurrences(connection, schedule_id, missed, now=datetime.now(UTC))
    )
    await api.performer.perform(runs[0], graph_id, version=3)
    return {"graph_id": graph_id, "run_id": runs[0], "schedule_id": schedule_id}


async def test_every_list_of_the_api_is_here(api: Api) -> None:
    """What has pages is a list. Another one, or another parameter of one, belongs into the tables above."""
    paths: dict[str, Any] = (await api.client.get("/openapi.json")).json()["paths"]
    found = {
        path: {parameter["name"] for parameter in methods["get"].get("parameters", ()) if parameter["in"] == "query"}
        for path, methods in paths.items()
        if "get" in methods
    }
    lists = {path: names - {"limit", "cursor", "fire_times"} for path, names in found.items() if "limit" in names}
    assert lists.keys() == set(LISTS)
    assert {path: names for path, names in lists.items() if names} == {RUNS: {"status"}, EXECUTIONS: {"full"}}


@pytest.mark.parametrize("path", LISTS)
async def test_a_page_of_a_list_is_read_from_an_index(api: Api, path: str) -> None:
    url = path.format(**await stored(api))
    spy = Spy(api.context.db)
    await spy.begin()
    has_next = False
    for asked_for in FILTERS.get(path, [""]):
        first = await api.client.get(f"{url}?limit=1{asked_for}")
        pages = [first]
        if next_page := first.links.get("next"):
            has_next = True
            pages.append(await api.client.get(next_page["url"]))
        assert all(page.status_code == 200 for page in pages), first.text
        statements = await spy.take()
        assert statements, "it was read from somewhere"
        plans = {sql: await spy.plan(sql) for sql in statements}
        await spy.take()
        assert {sql: found for sql, plan in plans.items() if (found := complaints(plan))} == {}, asked_for
    assert has_next, "there was a second page to be looked at"


def test_complaints_are_made_of_what_grows() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT, b TEXT)")
        connection.execute("CREATE INDEX i ON t (a, b)")

        def of(sql: str) -> list[str]:
            return complaints([row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")])

        assert of("SELECT * FROM t WHERE a = 1 ORDER BY b") == []
        assert of("SELECT * FROM json_each('[]') j JOIN t ON t.id = j.value") == []
        assert of("SELECT * FROM t") == ["SCAN t"]
        assert of("SELECT * FROM t WHERE a IN (1, 2) ORDER BY b") == ["USE TEMP B-TREE FOR ORDER BY"]
    connection.close()
