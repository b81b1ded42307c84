"""Schedules through the API, with a clock set by hand and the scheduler's own looks at the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from autogpt_server.data.models import JsonObject
from autogpt_server.execution.ticks import Ticker
from autogpt_server.server.app import create_app
from autogpt_server.utils.clock import utc_now
from server.api import BASE_URL, Api, problem
from server.sample_blocks import named_graph, repeat_graph
from support.scheduling import HandClock


@dataclass
class Scheduled:
    """The API at noon on 22 November 2026, with one graph, and a scheduler."""

    api: Api
    client: httpx.AsyncClient
    clock: HandClock
    graph_id: str

    async def post(self, **body: Any) -> JsonObject:
        """Make a schedule that must be good."""
        response = await self.try_post(**body)
        assert response.status_code == 200, response.text
        return response.json()

    async def try_post(self, **body: Any) -> httpx.Response:
        """Post a schedule, by default daily at nine with the input that the graph wants."""
        given = {"cron": "0 9 * * *", "input_data": {"value": 1}, **body}
        return await self.client.post(
            f"/graphs/{self.graph_id}/schedules", json={k: v for k, v in given.items() if v is not ...}
        )

    async def put(self, schedule_id: str, **body: Any) -> JsonObject:
        """Make a change that must be good."""
        response = await self.client.put(f"/graphs/schedules/{schedule_id}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def get(self, schedule_id: str) -> JsonObject:
        """Read a schedule that must be there."""
        response = await self.client.get(f"/graphs/schedules/{schedule_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def occurrences(self, schedule_id: str) -> list[JsonObject]:
        """What became of its due times, the first first."""
        response = await self.client.get(f"/graphs/schedules/{schedule_id}/occurrences")
        assert response.status_code == 200, response.text
        return response.json()[::-1]

    async def tick(self, **step: float) -> list[str]:
        """Let time pass and the scheduler look; the runs it made."""
        self.clock.forward(**step)
        ticker = Ticker(self.api.context.db, self.api.context.topologies, self.clock, self.api.context.settings)
        return (await ticker.tick()).run_ids


@pytest.fixture
async def scheduled(api: Api) -> AsyncIterator[Scheduled]:
    clock = HandClock()
    app = create_app(api.context)
    app.dependency_overrides[utc_now] = clock.now
    graph = await api.post_graph(repeat_graph())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url=BASE_URL
    ) as client:
        yield Scheduled(api, client, clock, graph["id"])


async def test_what_a_client_of_2024_sends(scheduled: Scheduled) -> None:
    body = {"graph_id": scheduled.graph_id, "cron": "*/5 * * * *", "input_data": {"value": "hello"}}
    response = await scheduled.client.post(f"/graphs/{scheduled.graph_id}/schedules", json=body)
    assert response.status_code == 200
    stored = response.json()
    assert stored["graph_id"] == scheduled.graph_id
    assert (stored["cron"], stored["timezone"], stored["is_enabled"]) == ("*/5 * * * *", "UTC", True)
    assert (stored["catch_up"], stored["overlap"], stored["graph_version"]) == ("latest", "skip", None)
    assert stored["problems"] == []
    assert (stored["last_occurrence"], stored["lateness"]) == (None, None)
    assert scheduled.api.told.schedules == 1
    assert (await scheduled.get(stored["id"])) == stored
    listed = await scheduled.client.get(f"/graphs/{scheduled.graph_id}/schedules")
    assert listed.json() == [stored]


async def test_next_fire_times_are_told_in_both_clocks(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="30 2 * * *", timezone="Europe/Berlin", starts_at="2027-03-26T12:00:00")
    assert stored["starts_at"] == "2027-03-26T11:00:00Z"
    assert stored["next_fire_times"] == [
        {"local": "2027-03-27T02:30:00+01:00", "utc": "2027-03-27T01:30:00Z"},
        {"local": "2027-03-28T03:00:00+02:00", "utc": "2027-03-28T01:00:00Z"},
        {"local": "2027-03-29T02:30:00+02:00", "utc": "2027-03-29T00:30:00Z"},
        {"local": "2027-03-30T02:30:00+02:00", "utc": "2027-03-30T00:30:00Z"},
        {"local": "2027-03-31T02:30:00+02:00", "utc": "2027-03-31T00:30:00Z"},
    ]
    assert stored["description"] == "At 02:30, every day, from 2027-03-26 12:00:00 (Europe/Berlin)."
    more = await scheduled.client.get(f"/graphs/schedules/{stored['id']}?fire_times=20")
    assert len(more.json()["next_fire_times"]) == 20


async def test_once_at_a_local_time(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron=..., at="2026-11-23T09:00:00", timezone="America/New_York")
    assert (stored["cron"], stored["at"]) == (None, "2026-11-23T14:00:00Z")
    assert stored["next_fire_times"] == [{"local": "2026-11-23T09:00:00-05:00", "utc": "2026-11-23T14:00:00Z"}]
    assert len(await scheduled.tick(days=2)) == 1
    done = await scheduled.get(stored["id"])
    assert (done["next_fire_times"], done["problems"]) == ([], [])
    assert done["last_occurrence"]["status"] == "STARTED"


async def test_everything_that_is_wrong_is_said_at_once(scheduled: Scheduled) -> None:
    response = await scheduled.try_post(
        cron="0 25 * * *",
        timezone="Europe/Berln",
        input_data={"valeu": 1},
        starts_at="2027-01-02T00:00:00Z",
        ends_at="2027-01-01T00:00:00Z",
    )
    errors = problem(response, 422, "invalid_schedule")["errors"]
    assert [(error["code"], error["pin"]) for error in errors] == [
        ("invalid_cron", "cron"),
        ("unknown_time_zone", "timezone"),
        ("ends_before_start", "ends_at"),
        ("unknown_input", "valeu"),
        ("missing_input", "value"),
    ]
    assert "25 is not between 0 and 23" in errors[0]["message"]
    assert "'Europe/Berlin'" in errors[1]["message"]
    assert (await scheduled.client.get(f"/graphs/{scheduled.graph_id}/schedules")).json() == []


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"cron": ...}, "cron_or_at", "cron"),
        ({"cron": None}, "cron_or_at", "cron"),
        ({"at": "2027-01-01T00:00:00Z"}, "cron_or_at", "cron"),
        ({"cron": "0 9 * * 1 2027 *"}, "invalid_cron", "cron"),
        ({"cron": "0 0 ? * 2"}, "invalid_cron", "cron"),
        ({"cron": ..., "at": "2026-11-22T11:59:59Z"}, "at_is_past", "at"),
        ({"ends_at": "2026-11-23T08:00:00Z"}, "never_due", "ends_at"),
        ({"graph_version": 7}, "graph_version_not_found", "graph_version"),
    ],
)
async def test_refusals(scheduled: Scheduled, body: JsonObject, code: str, field: str) -> None:
    (error,) = problem(await scheduled.try_post(**body), 422, "invalid_schedule")["errors"]
    assert (error["code"], error["pin"]) == (code, field)
    assert error["expected"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"cron": 5}, "cron"),
        ({"jitter_s": -1}, "jitter_s"),
        ({"jitter_s": 100_000}, "jitter_s"),
        ({"overlap": "never"}, "overlap"),
        ({"catch_up": "some"}, "catch_up"),
        ({"starts_at": "0001-01-01T00:00:00Z"}, "starts_at"),
        ({"ends_at": "9999-12-31T23:59:59Z"}, "ends_at"),
        ({"at": "soon"}, "at"),
        ({"cron": None, "at": "1795000000"}, "at"),
        ({"timezone": None}, "timezone"),
        ({"graph_version": 0}, "graph_version"),
        ({"input_data": [1]}, "input_data"),
        ({"is_enabled": "perhaps"}, "is_enabled"),
    ],
)
async def test_values_of_a_wrong_type(scheduled: Scheduled, body: JsonObject, field: str) -> None:
    errors = problem(await scheduled.try_post(**body), 422, "invalid_request")["errors"]
    assert [error["pin"] for error in errors] == [field]


async def test_what_does_not_exist(scheduled: Scheduled) -> None:
    client = scheduled.client
    problem(await client.post("/graphs/none/schedules", json={"cron": "* * * * *"}), 404, "graph_not_found")
    problem(await client.get("/graphs/none/schedules"), 404, "graph_not_found")
    for method, path in [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/occurrences")]:
        response = await client.request(method, f"/graphs/schedules/none{path}", json={} if method == "PUT" else None)
        problem(response, 404, "schedule_not_found")


async def test_occurrences_in_pages(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    (run_id,) = await scheduled.tick(hours=1)
    for _ in range(4):
        assert await scheduled.tick(hours=1) == []
    found = await scheduled.occurrences(stored["id"])
    assert [(o["due_at"], o["status"], o["code"]) for o in found[:2]] == [
        ("2026-11-22T13:00:00Z", "STARTED", None),
        ("2026-11-22T14:00:00Z", "SKIPPED", "overlap"),
    ]
    assert (found[0]["run_id"], found[0]["run_status"], found[0]["started_at"]) == (
        run_id,
        "QUEUED",
        "2026-11-22T13:00:00Z",
    )
    assert run_id in found[1]["reason"]
    paged: list[str] = []
    url: str | None = f"/graphs/schedules/{stored['id']}/occurrences?limit=2"
    while url is not None:
        response = await scheduled.client.get(url)
        paged += [o["due_at"] for o in response.json()]
        url = response.links["next"]["url"] if "next" in response.links else None
    assert paged == [o["due_at"] for o in found[::-1]]
    for cursor in ("x", "IngiCg", "ImFiYyI"):
        bad = await scheduled.client.get(f"/graphs/schedules/{stored['id']}/occurrences?cursor={cursor}")
        problem(bad, 422, "invalid_cursor")


async def test_how_late_its_runs_were(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *", overlap="allow")
    other = await scheduled.post(cron="30 * * * *", overlap="allow")
    for late_s in (0.25, 2.0, 0.5):
        scheduled.clock.at = scheduled.clock.at.replace(minute=0, second=0, microsecond=0)
        await scheduled.tick(hours=1, seconds=late_s)
    assert (await scheduled.get(stored["id"]))["lateness"] == {"runs": 3, "p50_s": 0.5, "p99_s": 2.0, "max_s": 2.0}
    late = (await scheduled.get(other["id"]))["lateness"]
    assert (late["runs"], late["max_s"]) == (3, 1802.0)


async def test_lists_are_paged_newest_first(scheduled: Scheduled) -> None:
    ids = [(await scheduled.post(name=str(n)))["id"] for n in range(5)]
    first = await scheduled.client.get(f"/graphs/{scheduled.graph_id}/schedules?limit=3")
    rest = await scheduled.client.get(first.links["next"]["url"])
    assert [entry["id"] for entry in first.json() + rest.json()] == ids[::-1]
    assert "next" not in rest.links


async def test_all_schedules_in_pages(scheduled: Scheduled) -> None:
    first = await scheduled.post()
    other = await scheduled.api.post_graph(repeat_graph())
    body = {"cron": "0 9 * * *", "input_data": {"value": 1}}
    second = (await scheduled.client.post(f"/graphs/{other['id']}/schedules", json=body)).json()
    page = await scheduled.client.get("/schedules?limit=1&fire_times=5")
    assert page.json() == [second]
    assert (await scheduled.client.get(page.links["next"]["url"])).json() == [first]


# -- Changes ------------------------------------------------------------------------------------------------------------------------


async def test_a_change_touches_only_what_it_names(scheduled: Scheduled) -> None:
    stored = await scheduled.post(name="n", timezone="Asia/Tokyo", overlap="queue", jitter_s=3)
    changed = await scheduled.put(stored["id"], name="other", catch_up="none")
    assert changed == stored | {"name": "other", "catch_up": "none"}
    assert await scheduled.put(stored["id"]) == changed
    whole = await scheduled.put(stored["id"], **changed)
    assert whole == changed


async def test_cron_and_at_take_each_others_place(scheduled: Scheduled) -> None:
    stored = await scheduled.post()
    once = await scheduled.put(stored["id"], at="2026-12-01T00:00:00Z")
    assert (once["cron"], once["at"]) == (None, "2026-12-01T00:00:00Z")
    again = await scheduled.put(stored["id"], cron="0 10 * * *")
    assert (again["cron"], again["at"]) == ("0 10 * * *", None)


async def test_a_new_timing_counts_from_now_on(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    scheduled.clock.forward(hours=2, minutes=30)  # and no scheduler looks
    changed = await scheduled.put(stored["id"], cron="15 * * * *")
    assert changed["next_fire_times"][0]["utc"] == "2026-11-22T15:15:00Z"
    assert [(o["due_at"], o["code"]) for o in await scheduled.occurrences(stored["id"])] == [
        ("2026-11-22T13:00:00Z", "changed"),
        ("2026-11-22T14:00:00Z", "changed"),
    ]
    assert changed["problems"] == []
    assert await scheduled.tick() == []
    assert len(await scheduled.tick(minutes=45)) == 1


async def test_pause_and_resume(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *", overlap="allow")
    assert len(await scheduled.tick(hours=1)) == 1
    paused = await scheduled.put(stored["id"], is_enabled=False)
    assert paused["next_fire_times"] == []
    assert await scheduled.tick(hours=5) == []
    resumed = await scheduled.put(stored["id"], is_enabled=True)
    assert resumed["next_fire_times"][0]["utc"] == "2026-11-22T19:00:00Z"
    assert await scheduled.tick(minutes=59) == []
    assert len(await scheduled.tick(minutes=1)) == 1
    assert [o["due_at"] for o in await scheduled.occurrences(stored["id"])] == [
        "2026-11-22T13:00:00Z",
        "2026-11-22T19:00:00Z",
    ]


async def test_what_was_due_before_a_pause_is_told(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    scheduled.clock.forward(hours=1, seconds=1)
    paused = await scheduled.put(stored["id"], is_enabled=False)
    assert [o["code"] for o in await scheduled.occurrences(stored["id"])] == ["paused"]
    assert paused["problems"] == []


async def test_a_change_of_the_input_disturbs_no_due_time(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    scheduled.clock.forward(hours=1)
    await scheduled.put(stored["id"], input_data={"value": 2})
    (run_id,) = await scheduled.tick()
    run = await scheduled.client.get(f"/executions/{run_id}")
    assert (run.json()["input"], run.json()["schedule_id"]) == ({"value": 2}, stored["id"])


async def test_changes_are_checked_like_new_schedules(scheduled: Scheduled) -> None:
    stored = await scheduled.post()
    changes: list[tuple[JsonObject, str]] = [
        ({"cron": "61 * * * *"}, "invalid_cron"),
        ({"timezone": "Mars"}, "unknown_time_zone"),
        ({"input_data": {}}, "missing_input"),
        ({"cron": None}, "cron_or_at"),
        ({"ends_at": "2026-11-22T12:00:00Z"}, "never_due"),
    ]
    for body, code in changes:
        response = await scheduled.client.put(f"/graphs/schedules/{stored['id']}", json=body)
        assert [error["code"] for error in problem(response, 422, "invalid_schedule")["errors"]] == [code]
    assert await scheduled.get(stored["id"]) == stored


async def test_deleting(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    (run_id,) = await scheduled.tick(hours=1)
    assert (await scheduled.client.delete(f"/graphs/schedules/{stored['id']}")).status_code == 204
    problem(await scheduled.client.delete(f"/graphs/schedules/{stored['id']}"), 404, "schedule_not_found")
    assert await scheduled.tick(hours=2) == []
    run = await scheduled.client.get(f"/executions/{run_id}")
    assert (run.status_code, run.json()["schedule_id"]) == (200, None)


async def test_secrets_are_not_shown_and_survive_a_change(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *", input_data={"value": 1, "api_key": "s3cret"})
    assert stored["input_data"] == {"value": 1, "api_key": "***"}
    await scheduled.put(stored["id"], input_data={"value": 2, "api_key": "***"})
    await scheduled.tick(hours=1)
    prisma = await scheduled.api.context.db.prisma()
    rows = await prisma.agentgraphexecution.find_many()
    assert [row.input for row in rows] == ['{"value":2,"api_key":"s3cret"}']


# -- What is wrong, said before it is due -------------------------------------------------------------------------------------------


async def problems_of(scheduled: Scheduled, schedule_id: str) -> list[str]:
    return [entry["code"] for entry in (await scheduled.get(schedule_id))["problems"]]


async def test_a_graph_that_changed_under_it(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    pinned = await scheduled.post(cron="0 * * * *", graph_version=1)
    replaced = await scheduled.client.put(f"/graphs/{scheduled.graph_id}", json=named_graph())
    assert replaced.status_code == 200, replaced.text
    assert "unknown_input" in await problems_of(scheduled, stored["id"])
    assert await problems_of(scheduled, pinned["id"]) == []
    assert len(await scheduled.tick(hours=1)) == 1
    assert (await scheduled.occurrences(stored["id"]))[0]["code"] == "invalid_input"
    assert "last_skipped" in await problems_of(scheduled, stored["id"])


async def test_a_deleted_graph(scheduled: Scheduled) -> None:
    stored = await scheduled.post()
    assert (await scheduled.client.delete(f"/graphs/{scheduled.graph_id}")).status_code == 204
    found = await scheduled.get(stored["id"])
    assert found["is_enabled"] is False
    assert [entry["code"] for entry in found["problems"]] == ["graph_unavailable"]
    problem(
        await scheduled.client.put(f"/graphs/schedules/{stored['id']}", json={"is_enabled": True}),
        404,
        "graph_not_found",
    )


async def test_a_scheduler_that_does_not_come(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    scheduled.clock.forward(hours=1, seconds=30)
    assert await problems_of(scheduled, stored["id"]) == []
    scheduled.clock.forward(minutes=2)
    assert await problems_of(scheduled, stored["id"]) == ["overdue"]
    await scheduled.tick()
    assert await problems_of(scheduled, stored["id"]) == []


async def test_a_clock_that_was_put_back(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    await scheduled.tick(hours=3)
    scheduled.clock.forward(hours=-2)
    found = await scheduled.get(stored["id"])
    assert [entry["code"] for entry in found["problems"]] == ["clock_put_back"]
    assert found["next_fire_times"][0]["utc"] == "2026-11-22T16:00:00Z"


async def test_one_that_is_over(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *", ends_at="2026-11-22T13:30:00Z")
    await scheduled.tick(hours=1)
    assert await problems_of(scheduled, stored["id"]) == ["over"]


async def test_a_run_that_failed(scheduled: Scheduled) -> None:
    stored = await scheduled.post(cron="0 * * * *")
    (run_id,) = await scheduled.tick(hours=1)
    prisma = await scheduled.api.context.db.prisma()
    await prisma.agentgraphexecution.update(where={"id": run_id}, data={"status": "FAILED"})
    found = (await scheduled.get(stored["id"]))["problems"]
    assert [entry["code"] for entry in found] == ["last_failed"]
    assert run_id in found[0]["message"]


# -- Preview ------------------------------------------------------------------------------------------------------------------------


async def test_preview(scheduled: Scheduled) -> None:
    body = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "count": 2}
    response = await scheduled.client.post("/schedules/preview", json=body)
    assert response.status_code == 200
    assert response.json() == {
        "cron": "30 2 * * *",
        "at": None,
        "timezone": "Europe/Berlin",
        "description": "At 02:30, every day (Europe/Berlin).",
        "notes": [
            "On 2027-03-28 the clocks of Europe/Berlin go from 02:00 on to 03:00: what would be due in between is due at 03:00.",
            "On 2027-10-31 the clocks of Europe/Berlin go from 03:00 back to 02:00: what is due in between is due once, the first time.",
        ],
        "next_fire_times": [
            {"local": "2026-11-23T02:30:00+01:00", "utc": "2026-11-23T01:30:00Z"},
            {"local": "2026-11-24T02:30:00+01:00", "utc": "2026-11-24T01:30:00Z"},
        ],
    }
    assert scheduled.api.told.schedules == 0


async def test_preview_takes_the_older_name_and_refuses_like_a_schedule(scheduled: Scheduled) -> None:
    response = await scheduled.client.post("/schedules/preview", json={"schedule": "@daily"})
    assert response.json()["description"] == "At 00:00, every day (UTC)."
    refused = await scheduled.client.post("/schedules/preview", json={"cron": "0 0 L * *"})
    (error,) = problem(refused, 422, "invalid_schedule")["errors"]
    assert "day of month 'L'" in error["message"]
    problem(await scheduled.client.post("/schedules/preview", json={}), 422, "invalid_schedule")
