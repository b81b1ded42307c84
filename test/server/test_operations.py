"""What people do to a run over HTTP: each request is an entry in the run's inbox, once; how it is applied on the real worker is in `test/execution`."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from autogpt_server.data import inbox
from autogpt_server.data.execution import look_for_work
from autogpt_server.data.inbox import StoredEntry, read_inbox
from autogpt_server.data.requests import MAX_SIGNALS
from autogpt_server.server.operations import MAX_SIGNAL_BYTES
from server.api import Api, problem
from server.performing import Owner
from server.sample_blocks import touching_graph


class Case:
    """A run of one node, and what can be asked of it."""

    def __init__(self, api: Api, run_id: str, execution_id: str) -> None:
        self.api = api
        self.run_id = run_id
        self.execution_id = execution_id

    async def owner(self) -> Owner:
        return await Owner.of(self.api.context, self.run_id)

    async def inbox(self) -> list[StoredEntry]:
        return await self.api.context.db.read(lambda connection: read_inbox(connection, self.run_id, after=0))

    async def cancel(self) -> httpx.Response:
        return await self.api.client.post(f"/executions/{self.run_id}/cancel")

    async def ask(self, what: str, body: Any) -> httpx.Response:
        return await self.api.client.post(f"/executions/{self.run_id}/nodes/{self.execution_id}/{what}", json=body)

    async def resolve(self, action: str, attempt: int | None = None) -> httpx.Response:
        return await self.ask(
            "resolve", {"action": action} if attempt is None else {"action": action, "attempt": attempt}
        )

    async def signal(self, name: str = "go", key: str = "1", value: Any = None) -> httpx.Response:
        return await self.ask("signal", {"name": name, "key": key, "value": value})

    async def execution(self) -> dict[str, Any]:
        run = (await self.api.client.get(f"/executions/{self.run_id}")).json()
        path = f"/graphs/{run['graph_id']}/executions/{self.run_id}"
        return (await self.api.client.get(path)).json()[0]


@pytest.fixture
async def case(api: Api) -> Case:
    graph = await api.post_graph(touching_graph())
    started = (await api.client.post(f"/graphs/{graph['id']}/execute", json={})).json()
    api.told.runs.clear()
    return Case(api, started["id"], started["executions"][0]["id"])


async def test_a_run_is_canceled(case: Case) -> None:
    response = await case.cancel()
    assert response.status_code == 202
    asked = response.json()
    assert (asked["id"], asked["status"]) == (case.run_id, "QUEUED")
    assert asked["cancel_requested_at"]
    assert case.api.told.runs == [(case.run_id, None)]
    again = (await case.cancel()).json()
    assert again["cancel_requested_at"] == asked["cancel_requested_at"]
    assert [entry.kind for entry in await case.inbox()] == ["cancel"]
    await (await case.owner()).apply_news()
    run = (await case.api.client.get(f"/executions/{case.run_id}")).json()
    assert (run["status"], run["error"]["code"]) == ("CANCELED", "canceled")
    problem(await case.cancel(), 409, "run_ended")


async def test_what_is_not_there_cannot_be_asked(case: Case) -> None:
    run, execution = f"/executions/{case.run_id}", f"/nodes/{case.execution_id}"
    nowhere = (
        ("/executions/none/cancel", None, "run_not_found"),
        (f"/executions/none{execution}/resolve", {"action": "skip"}, "run_not_found"),
        (f"{run}/nodes/none/resolve", {"action": "skip"}, "node_execution_not_found"),
        (f"{run}/nodes/none/signal", {"name": "a", "key": "b"}, "node_execution_not_found"),
    )
    for path, body, code in nowhere:
        problem(await case.api.client.post(path, json=body), 404, code)
    assert await case.inbox() == []
    assert case.api.told.runs == []


async def test_an_execution_of_another_run_is_not_there(case: Case) -> None:
    other = await case.api.execute((await case.api.post_graph(touching_graph()))["id"])
    path = f"/executions/{other}/nodes/{case.execution_id}/signal"
    response = await case.api.client.post(path, json={"name": "a", "key": "b"})
    problem(response, 404, "node_execution_not_found")


async def test_somebody_decides_about_an_interrupted_execution_once_per_attempt(case: Case) -> None:
    problem(await case.resolve("retry"), 409, "not_interrupted")
    owner = await case.owner()
    await owner.interrupt(case.execution_id)
    response = await case.resolve("retry")
    assert response.status_code == 202
    assert (response.json()["node_exec_id"], response.json()["status"]) == (case.execution_id, "INTERRUPTED")
    assert response.json()["error"]["code"] == "outcome_unknown"
    assert (await case.resolve("retry")).status_code == 202
    assert "retry" in problem(await case.resolve("skip"), 409, "already_resolved")["detail"]
    owner = await case.owner()
    await owner.apply_news()
    # It has been applied: who has not heard of that may send it again, and nobody may send another.
    assert (await case.resolve("retry")).json()["status"] == "QUEUED"
    problem(await case.resolve("skip"), 409, "already_resolved")
    await owner.interrupt(case.execution_id)
    # The next attempt wants a decision of its own, and one that comes late is not taken for it.
    assert (await case.resolve("retry", attempt=1)).json()["attempt"] == 2
    problem(await case.resolve("fail", attempt=1), 409, "already_resolved")
    assert "attempt 2" in problem(await case.resolve("fail", attempt=3), 409, "not_interrupted")["detail"]
    assert (await case.resolve("skip", attempt=2)).status_code == 202
    entries = await case.inbox()
    assert [(entry.key, entry.payload["action"]) for entry in entries] == [("1", "retry"), ("2", "skip")]
    await (await case.owner()).apply_news()
    shown = await case.execution()
    assert (shown["status"], shown["attempt"], shown["retries"]) == ("SKIPPED", 2, 0)
    assert [(attempt["attempt"], attempt["outcome"]) for attempt in shown["attempts"]] == [(1, "INTERRUPTED")]
    assert shown["attempts"][0]["error"]["message"] == "The answer was lost."
    assert (await case.resolve("skip")).status_code == 202
    problem(await case.resolve("retry", attempt=2), 409, "already_resolved")
    assert len(await case.inbox()) == 2


async def test_of_two_decisions_at_once_one_counts(case: Case) -> None:
    await (await case.owner()).interrupt(case.execution_id)
    answers = await asyncio.gather(*(case.resolve(action) for action in ("skip", "fail", "retry", "skip")))
    [entry] = await case.inbox()
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len(accepted) == (2 if entry.payload["action"] == "skip" else 1)
    assert {answer.status_code for answer in answers} == {202, 409}


async def test_a_signal_is_taken_once_per_key(case: Case) -> None:
    await (await case.owner()).suspend(case.execution_id, signal="go")
    shown = await case.execution()
    assert (shown["status"], shown["waits_for"], shown["attempts"][0]["outcome"]) == ("WAITING", "go", "SUSPENDED")
    answers = await asyncio.gather(*(case.signal(value={"b": 1, "a": [None]}) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert (await case.signal(value={"a": [None], "b": 1})).status_code == 202
    for different in (True, 1.0, "1", {"a": [None]}):
        problem(await case.signal(value=different), 409, "signal_key_reused")
    problem(await case.signal("stop", value={"b": 1, "a": [None]}), 409, "signal_key_reused")
    assert (await case.signal(key="2")).status_code == 202
    assert [(entry.key, entry.payload["value"]) for entry in await case.inbox()] == [
        ("1", {"b": 1, "a": [None]}),
        ("2", None),
    ]
    await (await case.owner()).apply_news()
    assert (await case.execution())["status"] == "QUEUED"


async def test_an_execution_that_has_ended_takes_no_signal_but_one_that_it_was_sent_may_be_sent_again(
    case: Case,
) -> None:
    assert (await case.signal()).status_code == 202
    await case.cancel()
    problem(await case.signal(key="2"), 409, "run_ending")
    await (await case.owner()).apply_news()
    assert (await case.signal()).status_code == 202
    problem(await case.signal(key="2"), 409, "node_execution_ended")


async def test_nothing_is_decided_in_a_run_that_is_being_ended(case: Case) -> None:
    await (await case.owner()).interrupt(case.execution_id)
    await case.cancel()
    problem(await case.resolve("retry"), 409, "run_ending")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "key": "k"},
        {"name": "n" * 201, "key": "k"},
        {"name": "n", "key": ""},
        {"name": "n", "key": "k" * 256},
        {"name": "n"},
        {"key": "k"},
        [],
    ],
)
async def test_signals_that_are_none(case: Case, body: Any) -> None:
    problem(await case.ask("signal", body), 422, "invalid_request")


async def test_actions_that_are_none(case: Case) -> None:
    problem(await case.resolve("repeat"), 422, "invalid_request")


async def test_signals_have_a_size_and_a_number(case: Case) -> None:
    largest = "x" * (MAX_SIGNAL_BYTES - 2)
    assert (await case.signal(value=largest)).status_code == 202
    problem(await case.signal(key="2", value=largest + "x"), 413, "signal_too_large")
    entries = [
        inbox.InboxEntry(case.run_id, inbox.InboxKind.SIGNAL, case.execution_id, f"n{number}")
        for number in range(1, MAX_SIGNALS)
    ]
    for entry in entries:
        await case.api.context.db.write(lambda connection, entry=entry: inbox.put_into_inbox(connection, entry, at=""))
    problem(await case.signal(key="one too many"), 409, "too_many_signals")
    assert (await case.signal(value=largest)).status_code == 202


async def test_a_request_survives_without_a_hint(case: Case) -> None:
    """Whoever looks into the database finds that the run wants attention."""
    await case.cancel()
    await (await case.owner()).suspend(case.execution_id, signal="go")
    runs, _ = await case.api.context.db.read(lambda connection: look_for_work(connection, now="2000", limit=10))
    assert [(run.id, run.has_news) for run in runs] == [(case.run_id, True)]
