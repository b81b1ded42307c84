"""The app: a supervisor with sample services, as people start it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest

from autogpt_server.app import default_services
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.logging import LogSetup
from autogpt_server.utils.process import ExitCode
from autogpt_server.utils.service import close_service_client, get_service_client
from autogpt_server.utils.settings import Settings
from support.processes import PaintShopInterface
from support.running import Program, environment_for, eventually, is_running, settings_for

Start = Callable[..., Program]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


@pytest.fixture
def start(settings: Settings) -> Generator[Start]:
    programs: list[Program] = []

    def run(services: str = "Quiet", *, own: Settings = settings, **environment: str) -> Program:
        programs.append(Program(own, services, **environment))
        return programs[-1]

    yield run
    for program in programs:
        program.kill()
    for program in programs:
        program.close()


def family(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def test_it_says_who_is_ready_and_then_the_address(start: Start, settings: Settings) -> None:
    program = start("PaintShop,Quiet")
    program.wait_for("autogpt_server is ready")
    lines = program.output.splitlines()
    assert re.fullmatch(
        r"(PaintShop  ready after \d+\.\d s  paint shop open|Quiet      ready after \d+\.\d s  pid \d+)", lines[0]
    )
    assert lines[2] == f"autogpt_server is ready: {settings.api_url} (how to use it: {settings.api_url}/docs)"
    assert len(lines) == 3


@pytest.fixture
def hang_up_is_heard() -> Generator[None]:
    """Tests may have been started with `nohup`; the programs they start would ignore SIGHUP, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_is_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_it_and_leaves_no_process(start: Start, settings: Settings, number: signal.Signals) -> None:
    program = start("PaintShop,Parent")
    program.wait_for("autogpt_server is ready")
    processes = family(program.pid)
    assert len(processes) >= 3
    began = time.monotonic()
    program.send(number)
    assert program.wait() == ExitCode.OK
    assert time.monotonic() - began < 10
    eventually(lambda: not any(is_running(pid) for pid in processes))
    assert program.output.splitlines()[-2:] == [f"stopping ({number.name}); once more to kill", "stopped"]
    assert not (settings.state_dir / "instance.json").exists()
    assert Instance(settings).server_lock.is_free()
    journal = settings.database_path.with_name("journal").read_text().splitlines()
    assert journal[-1] == "grandchild drained"


def test_ctrl_c_in_a_terminal_reaches_every_process_and_still_drains_in_order(start: Start, settings: Settings) -> None:
    program = start("Parent,Quiet")
    program.wait_for("autogpt_server is ready")
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait() == ExitCode.OK
    drained = [
        line for line in settings.database_path.with_name("journal").read_text().splitlines() if "drained" in line
    ]
    assert drained == ["Quiet drained", "grandchild drained"]
    assert "Traceback" not in program.output


def test_ctrl_c_while_it_starts_prints_no_traceback(start: Start, settings: Settings, tmp_path: Path) -> None:
    # Every Python that is started later interrupts itself in its first moments, as a terminal's Ctrl-C might.
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if any('multiprocessing' in argument for argument in sys.orig_argv):\n"
        "    open(os.path.join(os.path.dirname(__file__), str(os.getpid())), 'x').close()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    program = start("PaintShop,Quiet", PYTHONPATH=f"{early}:{environment_for(settings, '')['PYTHONPATH']}")
    program.wait_for("autogpt_server is ready")
    assert len(list(early.glob("[0-9]*"))) >= 3
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait() == ExitCode.OK
    assert "Traceback" not in program.output


def test_who_does_not_stop_is_killed_within_ten_seconds(start: Start) -> None:
    program = start("Stubborn,Quiet", DRAIN_LIMIT_S="1")
    program.wait_for("autogpt_server is ready")
    processes = family(program.pid)
    began = time.monotonic()
    program.send(signal.SIGINT)
    assert program.wait() == ExitCode.OK
    assert time.monotonic() - began < 10
    eventually(lambda: not any(is_running(pid) for pid in processes))


def test_a_second_signal_kills_at_once(start: Start) -> None:
    program = start("Stubborn")
    program.wait_for("autogpt_server is ready")
    processes = family(program.pid)
    program.send(signal.SIGTERM)
    program.wait_for("stopping (SIGTERM)")
    asked_at = time.monotonic()
    eventually(lambda: time.monotonic() - asked_at > 0.6)  # sooner, it would count as the same
    program.send(signal.SIGINT)
    assert program.wait() == ExitCode.INTERRUPTED
    eventually(lambda: not any(is_running(pid) for pid in processes))


def test_one_ctrl_c_that_arrives_twice_is_one(start: Start) -> None:
    program = start("Quiet", SAMPLE_LINGER_S="1")
    program.wait_for("autogpt_server is ready")
    program.send(signal.SIGINT)
    program.send(signal.SIGINT)
    assert program.wait() == ExitCode.OK
    assert program.output.splitlines()[-1] == "stopped"


def test_a_killed_service_is_back_within_five_seconds(start: Start, settings: Settings) -> None:
    program = start("PaintShop")
    program.wait_for("autogpt_server is ready")
    status = Instance(settings).status()
    assert status is not None
    assert status.services[0].pid is not None
    killed_at = time.monotonic()
    os.kill(status.services[0].pid, signal.SIGKILL)
    program.wait_for("ready again")
    assert time.monotonic() - killed_at < 5
    assert "PaintShop died: killed by SIGKILL" in program.output


async def test_services_can_be_called_from_outside(start: Start, settings: Settings) -> None:
    program = start("PaintShop")
    program.wait_for("autogpt_server is ready")
    shop = get_service_client(PaintShopInterface, settings)
    first = await shop.pid()
    os.kill(first, signal.SIGKILL)
    assert await shop.pid() != first
    close_service_client(shop)


def test_a_reader_that_goes_away_does_not_end_the_server(settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "support.app"],
        env=environment_for(settings, "Quiet"),
        cwd=settings.database_path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as app:
        assert app.stdout is not None
        assert app.stderr is not None
        while b"autogpt_server is ready" not in app.stdout.readline():
            pass
        app.stdout.close()
        app.stderr.close()
        app.send_signal(signal.SIGINT)
        assert app.wait(30) == ExitCode.OK
    assert "Quiet drained" in settings.database_path.with_name("journal").read_text()


def test_nohup_is_respected(settings: Settings) -> None:
    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen(
        [sys.executable, "-m", "support.app"],
        env=environment_for(settings, "Quiet"),
        cwd=settings.database_path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=ignore_hangup,  # noqa: PLW1509 - no threads here
    ) as app:
        assert app.stdout is not None
        while b"autogpt_server is ready" not in app.stdout.readline():
            pass
        app.send_signal(signal.SIGHUP)
        app.send_signal(signal.SIGTERM)
        assert app.wait(30) == ExitCode.OK
        assert app.stdout.readline() == b"stopping (SIGTERM); once more to kill\n"


def test_a_second_server_on_the_database_is_refused_and_names_the_first(start: Start, settings: Settings) -> None:
    first = start()
    first.wait_for("autogpt_server is ready")
    second = start()
    assert second.wait() == ExitCode.ALREADY_RUNNING
    assert second.output == (
        f"app: the database {settings.database_path} is in use by another server (process {first.pid}): "
        "stop it, or give this one another DATABASE_URL\n"
    )
    assert is_running(first.pid)


def test_of_two_started_at_once_one_comes_up(start: Start) -> None:
    programs = [start(), start()]
    eventually(lambda: any("autogpt_server is ready" in program.output for program in programs))
    loser = next(program for program in programs if "autogpt_server is ready" not in program.output)
    winner = next(program for program in programs if program is not loser)
    assert loser.wait() == ExitCode.ALREADY_RUNNING
    assert f"process {winner.pid}" in loser.output


def test_two_servers_run_side_by_side(start: Start, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    programs = [start("PaintShop"), start("PaintShop", own=settings_for(tmp_path / "other"))]
    for program in programs:
        program.wait_for("autogpt_server is ready")


@pytest.mark.parametrize("setting", ["AGENT_SERVER_PORT", "PYRO_PORT"])
def test_a_port_in_use_is_one_line_that_names_the_setting(start: Start, settings: Settings, setting: str) -> None:
    port = settings.agent_server_port if setting == "AGENT_SERVER_PORT" else settings.pyro_port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        program = start()
        assert program.wait() == ExitCode.PORT_IN_USE
    assert program.output == (
        f"app: port {port} on 127.0.0.1 is in use by another program: stop it, or set {setting} to a free port\n"
    )


def test_a_service_that_cannot_start_ends_the_server_with_its_reason(start: Start) -> None:
    program = start("Crashing,Quiet")
    assert program.wait() == ExitCode.GAVE_UP
    assert program.output.splitlines()[-1] == "app: Crashing could not be kept running: RuntimeError: no luck today"


def test_a_service_that_is_not_ready_in_time_ends_the_server(start: Start) -> None:
    program = start("Slow", START_LIMIT_S="1")
    assert program.wait() == ExitCode.NOT_READY
    assert program.output.splitlines()[-1] == "app: Slow could not be kept running: not ready within 1 s"


def test_when_the_app_is_killed_everything_ends_and_a_new_one_starts(start: Start) -> None:
    first = start("PaintShop,Parent")
    first.wait_for("autogpt_server is ready")
    processes = family(first.pid)
    first.send(signal.SIGKILL)
    first.wait()
    second = start("PaintShop,Parent")
    second.wait_for("autogpt_server is ready")
    eventually(lambda: not any(is_running(pid) for pid in processes))


def test_all_processes_log_to_one_file(start: Start, settings: Settings) -> None:
    program = start("Quiet", LOG_LEVEL="DEBUG", LOG_FORMAT="json")
    program.wait_for("autogpt_server is ready")
    eventually(lambda: '"process": "Quiet"' in settings.log_file.read_text())
    assert '"process": "app"' in settings.log_file.read_text()


def test_the_status_file_follows(start: Start, settings: Settings) -> None:
    program = start("Quiet")
    program.wait_for("autogpt_server is ready")
    status = Instance(settings).status()
    assert status is not None
    assert (status.phase, status.pid, status.url) == ("ready", program.pid, settings.api_url)
    assert [(service.name, service.state) for service in status.services] == [("Quiet", "ready")]


def test_the_real_services_are_three(settings: Settings) -> None:
    specs = default_services(settings, LogSetup())
    assert [spec.name for spec in specs] == ["ExecutionManager", "ExecutionScheduler", "AgentServer"]
    assert all(spec.drain_limit_s <= 10 for spec in specs)
