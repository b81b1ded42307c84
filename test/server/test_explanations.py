"""Why a run does not get on, over HTTP. That what is said is true is tested in `test/execution/test_explain.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from autogpt_server.execution.events import Started
from autogpt_server.execution.interfaces import QueueReport
from server.api import Api, problem
from server.performing import Owner
from server.sample_blocks import named_graph, touching_graph


async def explain(api: Api, run_id: str) -> dict[str, Any]:
    response = await api.client.get(f"/executions/{run_id}/explain")
    assert response.status_code == 200, response.text
    return response.json()


async def codes(api: Api, run_id: str) -> list[str]:
    return [cause["code"] for cause in (await explain(api, run_id))["causes"]]


async def test_a_run_that_nobody_has_begun(api: Api) -> None:
    run_id = await api.execute((await api.post_graph(named_graph()))["id"], {"topic": 1})
    assert await codes(api, run_id) == ["manager_unreachable", "queued"]
    api.told.queue = QueueReport(["w1"], {}, {run_id: 2})
    told = await explain(api, run_id)
    assert (told["run_id"], told["status"], told["is_progressing"]) == (run_id, "QUEUED", True)
    assert told["summary"] == "The run is QUEUED: it waits for a worker; 1 execution is queued."


async def test_a_run_that_waits_for_somebody(api: Api) -> None:
    graph = await api.post_graph(touching_graph())
    started = (await api.client.post(f"/graphs/{graph['id']}/execute", json={})).json()
    run_id, execution_id = started["id"], started["executions"][0]["id"]
    owner = await Owner.of(api.context, run_id)
    await owner.interrupt(execution_id)
    told = await explain(api, run_id)
    [cause] = told["causes"]
    assert (cause["code"], cause["node_exec_id"], cause["block"]) == ("needs_decision", execution_id, "Touch")
    request = cause["data"]["request"]
    assert told["is_progressing"] is False
    # What it says to do can be done.
    response = await api.client.request(
        request["method"], request["path"], json={"action": cause["data"]["choices"][0]}
    )
    assert response.status_code == 202
    assert await codes(api, run_id) == ["has_news", "manager_unreachable", "needs_decision"]


async def test_a_run_that_is_performed_and_one_that_has_ended(api: Api) -> None:
    run_id = await api.execute((await api.post_graph(touching_graph()))["id"])
    owner = await Owner.of(api.context, run_id)
    [execution_id] = owner.state.live
    await owner.apply(Started(execution_id, datetime.now(UTC)))
    api.told.queue = QueueReport(["worker-1"], {run_id: "worker-1"}, {})
    assert await codes(api, run_id) == ["running"]
    await api.client.post(f"/executions/{run_id}/cancel")
    assert await codes(api, run_id) == ["has_news", "being_canceled", "running"]
    await (await Owner.of(api.context, run_id)).apply_news()
    assert await codes(api, run_id) == ["being_canceled"]


async def test_a_run_that_there_is_not(api: Api) -> None:
    problem(await api.client.get("/executions/none/explain"), 404, "run_not_found")
