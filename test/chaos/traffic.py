"""What people do with the server meanwhile: start runs, send signals, cancel, decide, watch. All of it over HTTP, repeated where no answer came."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from autogpt_server.utils import json
from autogpt_server.utils.ids import new_id
from chaos.server import ChaosServer
from chaos.shapes import SIGNAL, Shape

STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
"""The block of the scheduled graph."""
_SETTLED = frozenset({"COMPLETED", "FAILED", "CANCELED"})
_OVER = _SETTLED | {"SKIPPED"}


@dataclass
class Watched:
    """What a follower of a run was told."""

    nodes: dict[str, str] = field(default_factory=dict[str, str])
    """Node execution -> its status in the newest event."""
    end: str | None = None
    last_id: str = ""
    complaints: list[str] = field(default_factory=list[str])


@dataclass
class Record:
    """What was asked of the server, to be compared with what it has done."""

    runs: dict[str, Shape] = field(default_factory=dict[str, Shape])
    """Runs that were accepted."""
    unanswered: Counter[str] = field(default_factory=Counter[str])
    """Graph -> requests without a key that got no answer: each may have become a run, or not."""
    graphs: dict[str, str] = field(default_factory=dict[str, str])
    """Name of a shape -> its graph."""
    schedules: list[str] = field(default_factory=list[str])
    reruns: dict[str, str] = field(default_factory=dict[str, str])
    """Run -> the run that it repeats in part."""
    canceled: set[str] = field(default_factory=set[str])
    """Runs whose end was asked for, whether or not an answer came."""
    decisions: dict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    """Node execution -> what was decided about it, whether or not an answer came."""
    watched: dict[str, Watched] = field(default_factory=dict[str, Watched])


@contextlib.contextmanager
def reading(database: Path) -> Generator[sqlite3.Connection]:
    """A look at the committed rows, as of one moment."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    try:
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


class Traffic:
    """The people who use one server."""

    def __init__(self, server: ChaosServer, shapes: list[Shape], chance: random.Random) -> None:
        self.record = Record()
        self._server = server
        self._shapes = {shape.name: shape for shape in shapes}
        self._chance = chance
        self._lock = threading.Lock()
        self._undecided: set[str] = set()

    def prepare(self) -> None:
        """Store the graphs."""
        for shape in self._shapes.values():
            stored = self._server.post("/graphs", shape.graph(self.record.graphs))
            self.record.graphs[shape.name] = stored["id"]

    def schedule(self) -> None:
        """Have a run started each second."""
        node: dict[str, Any] = {"id": "n", "block_id": STORE_VALUE, "input_default": {}}
        graph = self._server.post("/graphs", {"name": "tick", "nodes": [node], "links": []})
        body = {
            "cron": "*/1 * * * * *",
            "input_data": {"input": "tick"},
            "overlap": "allow",
            "catch_up": "all",
        }
        self.record.schedules.append(self._server.post(f"/graphs/{graph['id']}/schedules", body)["id"])
        self.record.graphs["schedule"] = graph["id"]

    def pause_schedules(self) -> None:
        """Have no more runs started."""
        for schedule in self.record.schedules:
            path = f"/graphs/schedules/{schedule}"
            _until(lambda path=path: self._server.client.put(path, json={"is_enabled": False}).status_code == 200)

    # --- starting ------------------------------------------------------------------------------------------------

    def start(self, name: str) -> str:
        """Start a run, under a key; answers its id."""
        path, key = f"/graphs/{self.record.graphs[name]}/execute", new_id()
        run = str(self._server.post(path, {}, **{"Idempotency-Key": key})["id"])
        self.record.runs[run] = self._shapes[name]
        return run

    def start_any(self) -> None:
        """Start a run of any shape: mostly under a key, repeated until it is accepted, now and then once more than that."""
        with self._lock:
            names = [shape.name for shape in self._shapes.values() for _ in range(shape.weight)]
            name, luck = self._chance.choice(names), self._chance.random()
        graph = self.record.graphs[name]
        path = f"/graphs/{graph}/execute"
        if luck < 0.15:
            self.start_in_time(name)
            return
        headers = {"Idempotency-Key": new_id()}
        run = self._insist(path, {}, headers)
        self.record.runs[run] = self._shapes[name]
        if luck > 0.9 and (again := self._server.try_post(path, {}, headers)) is not None:
            assert again.json()["id"] == run, "one key has started two runs"

    def rerun_any(self) -> bool:
        """Run a run that was completed again, from a node chosen by chance; False if there is none."""
        with self._lock:
            known = [run for run in list(self.record.runs) if run not in self.record.reruns]
            self._chance.shuffle(known)
        found = self._rows(
            'SELECT run."id", node."id" FROM "AgentGraphExecution" AS run JOIN "AgentNode" AS node ON node."agentGraphId" = run."agentGraphId" '
            'WHERE run."id" IN (SELECT "value" FROM json_each(?)) AND run."status" = \'COMPLETED\' AND NOT EXISTS (SELECT 1 FROM "AgentNodeExecution" '
            'WHERE "agentGraphExecutionId" = run."id" AND "status" <> \'COMPLETED\')',
            json.dumps(known[:20]),
        )
        if not found:
            return False
        run, node = self._chance.choice(found)
        new = self._insist(f"/executions/{run}/rerun", {"node_id": node}, {"Idempotency-Key": new_id()})
        self.record.runs[new] = self.record.runs[run]
        self.record.reruns[new] = run
        return True

    def _insist(self, path: str, body: Any, headers: dict[str, str]) -> str:
        """Post until it is accepted; answers the id of the run."""
        deadline = time.monotonic() + 90
        while True:
            response = self._server.try_post(path, body, headers)
            if response is not None:
                return str(response.json()["id"])
            assert time.monotonic() < deadline, f"POST {path} was not accepted for 90 s"
            time.sleep(0.1)

    def start_in_time(self, name: str) -> bool:
        """Start a run if the server takes it now; whether it did."""
        path = f"/graphs/{self.record.graphs[name]}/execute"
        response = self._server.try_post(path, {}, {})
        if response is None:
            self.record.unanswered[self.record.graphs[name]] += 1
            return False
        self.record.runs[response.json()["id"]] = self._shapes[name]
        return True

    # --- what happens to runs from outside -----------------------------------------------------------------------

    def tend(self, *, decide: float) -> None:
        """Send the signals that are waited for, cancel what shall be, and decide about this share of what is interrupted."""
        for run, execution in self._rows(
            'SELECT "agentGraphExecutionId", "id" FROM "AgentNodeExecution" WHERE "status" = \'WAITING\' AND "waitsFor" = ?',
            SIGNAL,
        ):
            body = {"name": SIGNAL, "key": "only", "value": {"for": execution}}
            self._ask(f"/executions/{run}/nodes/{execution}/signal", body)
        self._cancel()
        self._decide(decide)

    def _cancel(self) -> None:
        for run, started in self._rows(
            'SELECT "id", "startedAt" FROM "AgentGraphExecution" WHERE "endedAt" IS NULL AND "cancelRequestedAt" IS NULL'
        ):
            shape = self.record.runs.get(run)
            if shape is not None and shape.cancel and (started is not None or self._chance.random() < 0.1):
                self.record.canceled.add(run)
                self._ask(f"/executions/{run}/cancel", None)

    def _decide(self, share: float) -> None:
        for run, execution, attempt in self._rows(
            'SELECT "agentGraphExecutionId", "id", "attempt" FROM "AgentNodeExecution" WHERE "status" = \'INTERRUPTED\''
        ):
            case = f"{execution}.{attempt}"
            if case in self._undecided:
                continue
            if self._chance.random() >= share:
                self._undecided.add(case)  # nobody will ever decide about it
                continue
            if case not in self.record.decisions:
                self.record.decisions[case].append(self._chance.choice(["retry", "skip", "fail"]))
            (action,) = self.record.decisions[case]
            self._ask(f"/executions/{run}/nodes/{execution}/resolve", {"action": action})

    def _ask(self, path: str, body: Any) -> None:
        """Ask once; the next round asks again if nothing came of it."""
        with contextlib.suppress(httpx.TransportError):
            response = self._server.client.post(path, json=body)
            assert response.status_code in (202, 404, 409, 500, 503), f"{path}: {response.status_code} {response.text}"

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        try:
            with reading(self._server.database) as connection:
                return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError:  # a moment after everything died
            return []

    # --- watching ------------------------------------------------------------------------------------------------

    def watch(self, run: str, stop: threading.Event) -> None:
        """Follow a run to its end, connecting again whenever the server dies."""
        watched = self.record.watched.setdefault(run, Watched())
        while not stop.is_set():
            headers = {"Last-Event-ID": watched.last_id} if watched.last_id else {}
            try:
                with self._server.client.stream("GET", f"/executions/{run}/events", headers=headers) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code == 200:
                        _take(watched, response.iter_lines(), stop)
            except httpx.TransportError:
                pass
            if watched.end in _SETTLED:
                return
            stop.wait(0.2)


def _take(watched: Watched, lines: Iterator[str], stop: threading.Event) -> None:
    """Take the events of a stream in."""
    event: str = ""
    number: str = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            if watched.last_id and int(value) < int(watched.last_id):
                watched.complaints.append(f"event {value} after event {watched.last_id}")
            number = value
        elif name == "event":
            event = value
        elif name == "data":
            _note(watched, event, json.loads(value))
            watched.last_id = number
        if stop.is_set():
            return


def _note(watched: Watched, event: str, data: Any) -> None:
    nodes = data["nodes"] if event == "snapshot" else [data] if event == "node" else []
    for node in nodes:
        former = watched.nodes.get(node["node_exec_id"])
        if former is not None and former in _OVER and former != node["status"]:
            watched.complaints.append(f"{node['node_exec_id']} was {former}, and then {node['status']}")
        watched.nodes[node["node_exec_id"]] = node["status"]
    run: Any = data["run"] if event == "snapshot" else data if event == "run" else None
    if run is not None:
        watched.end = run["status"]


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if done():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "not accepted for 60 s"
        time.sleep(0.1)
