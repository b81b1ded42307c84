"""Supervised processes: real ones, started, killed and drained."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autogpt_server.utils.process import ExitCode, ProcessSpec
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent, ProcessState, RestartPolicy, Supervisor
from support.processes import (
    Crashing,
    Hanging,
    Misconfigured,
    Parent,
    Quiet,
    Restless,
    Slow,
    Stubborn,
    StuckThread,
)
from support.running import Program, eventually, is_running, owned, settings_for, spec_of

LIMIT_S = 30.0


class Watched:
    """A supervisor in a thread, with its events."""

    def __init__(self, *specs: ProcessSpec, **options: Any) -> None:
        self.events: queue.SimpleQueue[ProcessEvent] = queue.SimpleQueue()
        self.supervisor = Supervisor(specs, on_event=self.events.put, **options)
        self.supervisor.start()

    def wait_for(self, kind: EventKind, name: str | None = None) -> ProcessEvent:
        """The next event of a kind; those before it are dropped."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            event = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            if event.kind is kind and name in {None, event.name}:
                return event

    def stop(self) -> None:
        self.supervisor.request_drain()
        if not self.supervisor.join(LIMIT_S):
            self.supervisor.request_drain()
            assert self.supervisor.join(LIMIT_S)
            raise AssertionError("had to be killed")


Watch = Callable[..., Watched]


@pytest.fixture
def settings(tmp_path: Path) -> Generator[Settings]:
    settings = settings_for(tmp_path)
    with owned(settings):
        yield settings


@pytest.fixture
def watch(settings: Settings) -> Generator[Watch]:
    watched: list[Watched] = []

    def start(*specs: ProcessSpec, **options: Any) -> Watched:
        watched.append(Watched(*specs, **options))
        return watched[-1]

    yield start
    for one in watched:
        one.supervisor.request_drain()
        one.supervisor.request_drain()
        assert one.supervisor.join(LIMIT_S)
    assert settings.state_dir.is_dir()


def test_processes_are_ready_and_end_in_the_opposite_order(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    watched = watch(
        *(
            spec_of(Quiet, settings, name=name, arguments={"journal": journal, "linger_s": 0.05})
            for name in ("one", "two")
        )
    )
    assert watched.supervisor.wait_ready(LIMIT_S)
    processes = watched.supervisor.processes()
    assert [(process.name, process.state, process.restarts) for process in processes] == [
        ("one", ProcessState.READY, 0),
        ("two", ProcessState.READY, 0),
    ]
    assert [process.detail for process in processes] == [f"pid {process.pid}" for process in processes]
    watched.stop()
    lines = [line for line in journal.read_text().splitlines() if " up " not in line]
    assert lines == ["two draining True", "two drained", "one draining True", "one drained"]
    assert not any(process.pid and is_running(process.pid) for process in processes)


def test_a_killed_process_is_back_soon(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Quiet, settings))
    first = watched.wait_for(EventKind.READY)
    assert first.pid is not None
    killed_at = time.monotonic()
    os.kill(first.pid, signal.SIGKILL)
    exited = watched.wait_for(EventKind.EXITED)
    assert (exited.exit_code, exited.detail) == (-9, "killed by SIGKILL")
    second = watched.wait_for(EventKind.READY)
    assert second.pid != first.pid
    assert time.monotonic() - killed_at < 5
    eventually(lambda: watched.supervisor.processes()[0].restarts == 1)


def test_a_process_that_ends_unasked_is_started_again(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Restless, settings))
    assert watched.wait_for(EventKind.EXITED).detail == "it ended without being asked to"
    watched.wait_for(EventKind.READY)


def test_a_process_that_never_gets_ready_is_given_up(settings: Settings) -> None:
    events: list[ProcessEvent] = []
    supervisor = Supervisor([spec_of(Crashing, settings), spec_of(Quiet, settings)], on_event=events.append)
    assert supervisor.run() is ExitCode.GAVE_UP
    deaths = [event for event in events if event.kind is EventKind.EXITED and event.name == "Crashing"]
    assert len(deaths) == RestartPolicy().give_up_at_start_after
    assert all(event.detail == "RuntimeError: no luck today" for event in deaths)
    given_up = next(event for event in events if event.kind is EventKind.GAVE_UP)
    assert (given_up.name, given_up.error_code) == ("Crashing", "unexpected")
    assert not any(event.pid and is_running(event.pid) for event in events)


def test_a_process_that_dies_again_and_again_is_given_up(settings: Settings) -> None:
    policy = RestartPolicy(first_delay_s=0.01, max_delay_s=0.01, give_up_after=3)
    events: list[ProcessEvent] = []
    supervisor = Supervisor([spec_of(Restless, settings)], policy=policy, on_event=events.append)
    assert supervisor.run() is ExitCode.GAVE_UP
    assert [event.kind for event in events].count(EventKind.EXITED) == 3


def test_a_foreseen_error_at_the_start_is_not_tried_again(settings: Settings) -> None:
    import socket  # noqa: PLC0415

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.agent_server_port))
        taken.listen()
        events: list[ProcessEvent] = []
        supervisor = Supervisor([spec_of(Misconfigured, settings)], on_event=events.append)
        assert supervisor.run() is ExitCode.GAVE_UP
    assert [event.kind for event in events] == [EventKind.STARTED, EventKind.EXITED, EventKind.GAVE_UP]
    assert events[-1].error_code == "port_in_use"
    assert "set AGENT_SERVER_PORT to a free port" in events[-1].detail


def test_a_process_that_is_not_ready_in_time_is_given_up(settings: Settings) -> None:
    events: list[ProcessEvent] = []
    supervisor = Supervisor([spec_of(Slow, settings, ready_limit_s=1.0)], on_event=events.append)
    assert supervisor.run() is ExitCode.GAVE_UP
    assert (events[-1].error_code, events[-1].detail) == ("not_ready", "not ready within 1 s")
    assert not supervisor.wait_ready(0)


def test_back_off_grows_to_its_limit() -> None:
    policy = RestartPolicy(first_delay_s=0.1, max_delay_s=10.0)
    assert [policy.delay_s(deaths) for deaths in (1, 2, 3, 4, 5)] == pytest.approx([0.1, 0.4, 1.6, 6.4, 10.0])


def test_who_does_not_stop_in_time_ends_itself(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Stubborn, settings, drain_limit_s=0.5))
    watched.wait_for(EventKind.READY)
    watched.stop()
    assert watched.wait_for(EventKind.EXITED).exit_code == ExitCode.DRAIN_LIMIT


def test_who_cannot_even_do_that_is_killed(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Stubborn, settings, drain_limit_s=0.2))
    pid = watched.wait_for(EventKind.READY).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    watched.stop()
    exited = watched.wait_for(EventKind.EXITED)
    assert (exited.exit_code, exited.detail) == (-9, "did not end in time")


def test_all_together_have_one_time_limit(settings: Settings, watch: Watch) -> None:
    watched = watch(*(spec_of(Stubborn, settings, name=f"s{n}") for n in range(3)), drain_limit_s=0.5)
    assert watched.supervisor.wait_ready(LIMIT_S)
    began = time.monotonic()
    watched.stop()
    assert time.monotonic() - began < 5


def test_asked_twice_all_are_killed(settings: Settings) -> None:
    events: queue.SimpleQueue[ProcessEvent] = queue.SimpleQueue()
    supervisor: Supervisor

    def on_event(event: ProcessEvent) -> None:
        events.put(event)
        if event.kind is EventKind.READY:
            supervisor.request_drain()
            supervisor.request_drain()

    supervisor = Supervisor([spec_of(Stubborn, settings)], on_event=on_event)
    assert supervisor.run() is ExitCode.INTERRUPTED


def test_a_stuck_thread_keeps_nobody_alive(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(StuckThread, settings, drain_limit_s=LIMIT_S), drain_limit_s=LIMIT_S)
    watched.wait_for(EventKind.READY)
    watched.supervisor.request_drain()
    assert watched.supervisor.join(LIMIT_S / 2)
    assert watched.wait_for(EventKind.EXITED).exit_code == ExitCode.OK


def test_a_hung_loop_is_noticed(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    watched = watch(spec_of(Hanging, settings, hung_limit_s=1.0, arguments={"journal": tmp_path / "journal"}))
    first = watched.wait_for(EventKind.READY)
    assert watched.wait_for(EventKind.EXITED).detail == "hung for 1 s"
    second = watched.wait_for(EventKind.READY)
    assert second.pid != first.pid


def test_a_process_that_moves_is_not_taken_for_hung(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Quiet, settings, hung_limit_s=0.5))
    watched.wait_for(EventKind.READY)
    with pytest.raises(queue.Empty):
        watched.events.get(timeout=2)


def test_a_supervisor_that_stood_still_blames_nobody(tmp_path: Path) -> None:
    program = Program(settings_for(tmp_path), "Quiet", HUNG_LIMIT_S="0.5")
    program.wait_for("autogpt_server is ready")
    program.send(signal.SIGSTOP)
    with pytest.raises(AssertionError, match="still"):
        eventually(lambda: "died" in program.output, 1.5)
    program.send(signal.SIGCONT)
    with pytest.raises(AssertionError, match="still"):
        eventually(lambda: "died" in program.output, 1.0)
    program.close()


def test_who_is_still_starting_again_is_waited_for(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Quiet, settings, name="one"))
    assert watched.supervisor.wait_ready(LIMIT_S)
    watched.supervisor.add(spec_of(Quiet, settings, name="two"))
    assert watched.supervisor.wait_ready(LIMIT_S)
    assert [process.state for process in watched.supervisor.processes()] == [ProcessState.READY] * 2


def test_sigterm_drains_one_process_and_sigint_does_nothing(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    watched = watch(spec_of(Quiet, settings, restart=False, arguments={"journal": journal}))
    pid = watched.wait_for(EventKind.READY).pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert watched.wait_for(EventKind.EXITED).exit_code == ExitCode.OK
    assert journal.read_text().splitlines()[1:] == ["Quiet draining True", "Quiet drained"]


def test_a_second_sigterm_ends_it_at_once(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Stubborn, settings, restart=False))
    pid = watched.wait_for(EventKind.READY).pid
    assert pid is not None

    def ask_again() -> bool:
        if not is_running(pid):
            return True
        os.kill(pid, signal.SIGTERM)
        return False

    eventually(ask_again)
    assert watched.wait_for(EventKind.EXITED).exit_code == ExitCode.INTERRUPTED


def test_processes_come_and_go(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Quiet, settings, name="one"))
    watched.wait_for(EventKind.READY, "one")
    watched.supervisor.add(spec_of(Quiet, settings, name="two"))
    pid = watched.wait_for(EventKind.READY, "two").pid
    watched.supervisor.remove("one")
    assert watched.wait_for(EventKind.EXITED, "one").exit_code == ExitCode.OK
    eventually(lambda: [process.name for process in watched.supervisor.processes()] == ["two"])
    watched.supervisor.kill("two")
    exited = watched.wait_for(EventKind.EXITED, "two")
    assert (exited.exit_code, exited.detail, exited.pid) == (-9, "on request", pid)
    assert watched.wait_for(EventKind.READY, "two").pid != pid


def test_a_process_may_be_the_last_of_its_kind(settings: Settings, watch: Watch) -> None:
    watched = watch(spec_of(Restless, settings, restart=False), spec_of(Quiet, settings))
    watched.wait_for(EventKind.EXITED, "Restless")
    eventually(lambda: [process.name for process in watched.supervisor.processes()] == ["Quiet"])


def test_when_the_parent_is_killed_so_are_the_children(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    watched = watch(spec_of(Parent, settings, restart=False, arguments={"journal": journal}))
    pid = watched.wait_for(EventKind.READY).pid
    assert pid is not None
    grandchild = int(journal.read_text().split()[-1])
    assert is_running(grandchild)
    os.kill(pid, signal.SIGKILL)
    watched.wait_for(EventKind.EXITED)
    eventually(lambda: not is_running(grandchild), 5)
    assert journal.read_text().splitlines()[1:] == ["grandchild draining True", "grandchild drained"]


def test_grandchildren_drain_with_their_parent(settings: Settings, watch: Watch, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    watched = watch(spec_of(Parent, settings, arguments={"journal": journal}))
    watched.wait_for(EventKind.READY)
    watched.stop()
    assert watched.wait_for(EventKind.EXITED).exit_code == ExitCode.OK
    assert journal.read_text().splitlines()[-1] == "grandchild drained"


def test_a_process_started_from_a_script_needs_no_main_guard_of_ours(settings: Settings, tmp_path: Path) -> None:
    """Started by a program whose main module does work at import, as console scripts do under `if __name__`."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from autogpt_server.utils.settings import Settings\n"
        "from autogpt_server.utils.supervisor import EventKind, Supervisor\n"
        "from support.running import spec_of\n"
        "from support.processes import Quiet\n"
        "if __name__ == '__main__':\n"
        f"    settings = Settings(database_url={settings.database_url!r})\n"
        "    supervisor = Supervisor([spec_of(Quiet, settings)],\n"
        "        on_event=lambda event: event.kind is EventKind.READY and supervisor.request_drain())\n"
        "    raise SystemExit(supervisor.run())\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'test'}"}
    done = subprocess.run(
        [sys.executable, str(script)], check=False, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_process_is_left_by_these_tests() -> None:
    children = [
        child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
    ]
    assert children == []
