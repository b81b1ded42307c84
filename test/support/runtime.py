"""The real server, or some of its services, for tests: started on a database of its own, watched, killed and started again.

Everything is called from plain tests; the coroutines of the data layer run on a loop that belongs to the `Runtime`.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Coroutine, Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

from autogpt_server.blocks import get_blocks
from autogpt_server.data import runs
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.graph import create_graph
from autogpt_server.data.inbox import put_into_inbox
from autogpt_server.data.intake import IntakeRules, accept_graph
from autogpt_server.data.migrate import migrate
from autogpt_server.data.models import Graph, Link, Node, NodeExecution, Run
from autogpt_server.data.run_rows import InboxEntry
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.interfaces import ManagerInterface
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start, run_limits
from autogpt_server.execution.topology import NodeSettings, Topology, build_topology
from autogpt_server.utils import faults
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.service import close_service_client, get_service_client
from autogpt_server.utils.settings import Settings
from support import misbehavior, runtime_blocks
from support.running import eventually, settings_for

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long anything may take; the machine may be busy with other tests."""
_ROOT = Path(__file__).resolve().parents[2]


class Runtime:
    """One server. Make it with `running`."""

    def __init__(self, folder: Path, services: Sequence[str] = ("ExecutionManager",), **changes: Any) -> None:
        self.folder = folder
        self.services = services
        self.settings: Settings = settings_for(
            folder,
            **{
                "num_graph_workers": 1,
                "block_modules": (runtime_blocks.MODULE, misbehavior.MODULE),
                "drain_limit_s": 10.0,
                **changes,
            },
        )
        self.blocks = get_blocks(self.settings.block_modules)
        self.instance = Instance(self.settings)
        self._changes = changes
        self._runner = asyncio.Runner()
        self._app: subprocess.Popen[bytes] | None = None
        self._seen: set[psutil.Process] = set()
        self._topologies: dict[str, Topology] = {}
        self._faults = folder / "faults"
        self._faults.mkdir()
        migrate(self.settings.database_path)
        self.db = self.call(Database.open(self.settings))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._runner.run(work)

    # -- processes --------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        environment = {
            **os.environ,
            **{name.upper(): _as_text(getattr(self.settings, name)) for name in self.settings.model_fields_set},
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'test'}",
            faults.VARIABLE: str(self._faults),
        }
        with (self.folder / "app.log").open("ab") as log:
            self._app = subprocess.Popen(
                [sys.executable, "-m", "support.runtime_app", *self.services],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._is_ready, PATIENCE_S)

    def _is_ready(self) -> bool:
        assert self._app is not None
        assert self._app.poll() is None, f"the server ended ({self._app.returncode}):\n{self.log()}"
        self._look_around()
        status = self.instance.status()
        return status is not None and status.phase == "ready"

    def _look_around(self) -> list[psutil.Process]:
        """All processes of the server, the supervisor first."""
        if self._app is None:
            return []
        try:
            app = psutil.Process(self._app.pid)
            found = [app, *app.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self._seen.update(found)
        return found

    def log(self) -> str:
        """What the server has written."""
        return (self.folder / "app.log").read_text(errors="replace")

    def manager_pid(self) -> int:
        """The process id of the manager, once it is ready."""

        def pid() -> int | None:
            status = self.instance.status()
            ready = [service for service in status.services if service.state == "ready"] if status else []
            return next((service.pid for service in ready if service.name == "ExecutionManager"), None)

        return eventually(pid, PATIENCE_S) or 0

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that hold their lock."""
        folder = self.settings.state_dir / "workers"
        holders = [self.instance.worker_lock(path.stem).holder() for path in folder.glob("*.lock")]
        return sorted(holder.pid for holder in holders if holder is not None)

    def memory(self, pid: int) -> int:
        """How many bytes of memory a process has to itself."""
        return int(psutil.Process(pid).memory_full_info().uss)

    def wait_for_workers(self, *, others_than: Sequence[int] = ()) -> list[int]:
        """Wait until there are as many workers as there shall be, none of `others_than` among them."""

        def found() -> list[int]:
            pids = self.worker_pids()
            complete = len(pids) == self.settings.num_graph_workers
            return pids if complete and not set(pids) & set(others_than) else []

        pids = eventually(found, PATIENCE_S)
        self._look_around()
        return pids

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process of the server."""
        self._look_around()
        os.kill(pid, number)

    def kill_all(self) -> None:
        """Pull the plug: every process of the server dies at once."""
        assert self._app is not None
        processes = self._look_around()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._app.wait()
        psutil.wait_procs(processes, PATIENCE_S)
        self._app = None

    def kill_supervisor(self) -> None:
        """Kill the supervisor alone; the others have to notice."""
        assert self._app is not None
        self._look_around()
        self._app.kill()
        self._app.wait()
        self._app = None

    def limit_files(self, size: int | None) -> None:
        """Let the server's processes write no file beyond `size` bytes; None: let them again."""
        wanted = psutil.RLIM_INFINITY if size is None else size
        for process in self._look_around():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, (wanted, process.rlimit(psutil.RLIMIT_FSIZE)[1]))

    def request_stop(self) -> None:
        """Ask the server to stop, as Ctrl-C does."""
        assert self._app is not None
        self._look_around()
        self._app.send_signal(signal.SIGTERM)

    def wait_until_stopped(self) -> int:
        """Wait until a server that was asked to stop has ended; answers its exit code."""
        assert self._app is not None
        code = self._app.wait(PATIENCE_S)
        self._app = None
        return code

    def close(self) -> None:
        """End everything; nothing may be left."""
        processes = self._look_around()
        if self._app is not None:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            self._app.send_signal(signal.SIGTERM)
            try:
                self._app.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._app.kill()
                self._app.wait()
        self.call(self.db.close())
        self._runner.close()
        _, left = psutil.wait_procs(self._seen, 15)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert not left, f"left behind: {left}"

    def arm(self, point: str, action: str) -> None:
        """Have the next process that comes to this point do something."""
        faults.arm(self._faults, point, action)

    def disarm(self) -> None:
        """Forget the faults that have not come to pass."""
        for armed in self._faults.iterdir():
            armed.unlink(missing_ok=True)

    def wait_until_fired(self, point: str) -> None:
        """Wait until a process has come to an armed point."""
        eventually(lambda: not (self._faults / point).exists(), PATIENCE_S)

    # -- graphs and runs --------------------------------------------------

    def post(self, nodes: Mapping[str, Node], links: Sequence[tuple[str, str]] = ()) -> str:
        """Store a graph; links are written `("a.out", "b.item")`. Answers its id."""
        graph = Graph(
            name="test",
            nodes=[node.model_copy(update={"id": name}) for name, node in nodes.items()],
            links=[
                Link(source_id=source[0], source_name=source[2], sink_id=sink[0], sink_name=sink[2])
                for source, sink in ((one.partition("."), other.partition(".")) for one, other in links)
            ],
        )
        rules = IntakeRules(
            blocks=self.blocks,
            limits=GraphLimits.of(self.settings),
            max_bytes=self.settings.max_graph_bytes,
            node_settings=NodeSettings,
        )
        stored = self.call(create_graph(self.db, accept_graph(graph, rules, new_id=new_id), self.blocks))
        self._topologies[stored.graph.id] = build_topology(stored.graph, self.blocks)
        return stored.graph.id

    def start_run(self, graph_id: str, run_input: Mapping[str, Any] | None = None, *, hint: bool = True) -> str:
        """Commit a run, and hint to the manager unless told not to. Answers its id."""
        state = plan_start(
            self._topologies[graph_id],
            new_id(),
            run_input or {},
            new_id=new_id,
            limits=run_limits(self.settings),
            at=datetime.now(UTC),
        )
        rows = new_run(
            state,
            run_input or {},
            created_at=datetime.now(UTC),
            inline_value_bytes=self.settings.inline_value_bytes,
        )
        self.call(runs.create_run(self.db, rows))
        if hint:
            self.hint(state.id)
        return state.id

    def hint(self, run_id: str) -> None:
        """Tell the manager that a run waits."""
        manager = get_service_client(ManagerInterface, self.settings)
        self.call(_awaited(manager.run_waits(run_id)))
        close_service_client(manager)

    def put(self, entry: InboxEntry, *, hint: bool = True) -> int | None:
        """Put something into a run's inbox, and hint to the manager unless told not to."""
        at = db_time(datetime.now(UTC)) or ""
        number = self.call(self.db.write(lambda connection: put_into_inbox(connection, entry, at=at)))
        if hint:
            self.hint(entry.run_id)
        return number

    def bump_epoch(self, run_id: str) -> None:
        """Let it look as if another worker had taken the run over."""

        def bump(connection: sqlite3.Connection) -> None:
            connection.execute('UPDATE "AgentGraphExecution" SET "epoch" = "epoch" + 1 WHERE "id" = ?', (run_id,))

        self.call(self.db.write(bump))

    def run(self, run_id: str) -> Run:
        """The run as it is committed."""
        return self.call(runs.get_run(self.db, run_id))

    def runs_of(self, graph_id: str) -> list[Run]:
        """The runs of a graph, child runs too."""
        return self.call(runs.list_runs(self.db, graph_id, limit=500))

    def wait_for_end(self, run_id: str, timeout_s: float = PATIENCE_S) -> Run:
        """Wait until the run has ended, or waits for somebody."""
        resting = {RunStatus.WAITING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED}

        def found() -> Run | None:
            run = self.run(run_id)
            return run if run.status in resting else None

        run = eventually(found, timeout_s)
        assert run is not None
        return run

    def wait_until_ended(self, run_id: str, timeout_s: float = PATIENCE_S) -> Run:
        """Wait until the run has ended."""

        def found() -> Run | None:
            run = self.run(run_id)
            return run if run.is_ended else None

        run = eventually(found, timeout_s)
        assert run is not None
        return run

    def executions(self, run_id: str) -> list[NodeExecution]:
        """The node executions of a run, oldest first."""
        return self.call(runs.list_node_executions(self.db, run_id, limit=5000))

    def count(self, run_id: str, status: NodeStatus) -> int:
        """How many executions of the run have this status."""

        def read(connection: sqlite3.Connection) -> int:
            sql = 'SELECT count(*) FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "status" = ?'
            return int(connection.execute(sql, (run_id, status.value)).fetchone()[0])

        return self.call(self.db.read(read))

    def wait_for_status(self, run_id: str, status: NodeStatus) -> None:
        """Wait until an execution of the run has this status."""
        eventually(lambda: status in self.statuses(run_id), PATIENCE_S)

    def wait_for_outputs(self, run_id: str, count: int) -> None:
        """Wait until the run's executions have committed so many outputs on `out`."""
        eventually(lambda: len(self.outputs(run_id)) >= count, PATIENCE_S)

    def outputs(self, run_id: str) -> list[Any]:
        """What the run's executions have yielded on `out`, execution by execution."""
        return [value for execution in self.executions(run_id) for value in execution.output_data.get("out", [])]

    def statuses(self, run_id: str) -> list[NodeStatus]:
        """The statuses of the run's executions, oldest first."""
        return [execution.status for execution in self.executions(run_id)]


@contextlib.contextmanager
def running(folder: Path, *, start: bool = True, **changes: Any) -> Generator[Runtime]:
    """A server that runs, and is gone when the block ends."""
    runtime = Runtime(folder, **changes)
    try:
        if start:
            runtime.start()
        yield runtime
    except BaseException:
        sys.stderr.write(runtime.log()[-8000:] if (folder / "app.log").exists() else "")
        raise
    finally:
        runtime.close()


async def _awaited(work: Any) -> None:
    await work


def _as_text(value: Any) -> str:
    return ",".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)
