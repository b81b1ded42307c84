"""Schedules on the whole server: due each second, through the death of the scheduler and of the manager."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from autogpt_server.utils.instance import Instance
from support.live_server import LiveServer, live_server
from support.running import eventually

STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
LIMIT_S = 60.0


def pid_of(server: LiveServer, name: str) -> int:
    """The process of a service; 0 while there is none."""
    status = Instance(server.settings).status()
    assert status is not None
    return next(service.pid or 0 for service in status.services if service.name == name)


def occurrences(server: LiveServer, schedule_id: str) -> list[dict[str, Any]]:
    """What became of its due times, the first first."""
    return server.get(f"/graphs/schedules/{schedule_id}/occurrences?limit=500")[::-1]


def kill(server: LiveServer, name: str) -> None:
    """Kill a service and wait for the next one in its place."""
    pid = eventually(lambda: pid_of(server, name))
    psutil.Process(pid).kill()
    eventually(lambda: pid_of(server, name) not in (0, pid), LIMIT_S)


@pytest.mark.timeout(300)
def test_each_second_has_one_run_that_completes(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        graph = server.post("/graphs", {"name": "tick", "nodes": [{"id": "n", "block_id": STORE_VALUE}], "links": []})
        body = {
            "graph_id": graph["id"],
            "cron": "*/1 * * * * *",
            "input_data": {"input": "tick"},
            "overlap": "allow",
            "catch_up": "all",
        }
        schedule = server.post(f"/graphs/{graph['id']}/schedules", body)
        for name in ("ExecutionScheduler", "ExecutionManager"):
            before = len(occurrences(server, schedule["id"]))
            eventually(lambda before=before: len(occurrences(server, schedule["id"])) >= before + 2, LIMIT_S)
            kill(server, name)
        before = len(occurrences(server, schedule["id"]))
        eventually(lambda: len(occurrences(server, schedule["id"])) >= before + 2, LIMIT_S)
        paused = server.client.put(f"/graphs/schedules/{schedule['id']}", json={"is_enabled": False}).json()
        assert paused["next_fire_times"] == []

        def all_completed() -> bool:
            return {found["run_status"] for found in occurrences(server, schedule["id"])} == {"COMPLETED"}

        eventually(all_completed, LIMIT_S)
        found = occurrences(server, schedule["id"])
        dues = [datetime.fromisoformat(occurrence["due_at"]) for occurrence in found]
        assert dues == [dues[0] + timedelta(seconds=n) for n in range(len(dues))]
        runs = server.get(f"/graphs/{graph['id']}/executions?limit=500")
        assert sorted(run["id"] for run in runs) == sorted(occurrence["run_id"] for occurrence in found)
        assert {run["schedule_id"] for run in runs} == {schedule["id"]}
