"""The cli, as a process of its own, with sample services in place of the real ones."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from autogpt_server.cli import main
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.locks import LockOwner
from autogpt_server.utils.process import ExitCode
from autogpt_server.utils.settings import Settings
from support.running import Program, environment_for, eventually, is_running, settings_for

LIMIT_S = 40


class Shell:
    """Runs `cli` for one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(
        self, *arguments: str, services: str = "Quiet", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "support.app", "cli", *arguments],
            check=False,
            env=environment_for(self.settings, services) | environment,
            cwd=self.settings.database_path.parent,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )


def shell_for(folder: Path) -> Generator[Shell]:
    shell = Shell(settings_for(folder))
    yield shell
    shell("stop")
    assert Instance(shell.settings).server_lock.is_free()
    assert Instance(shell.settings).wait_until_alone(10), "a process was left behind"


@pytest.fixture
def cli(tmp_path: Path) -> Generator[Shell]:
    yield from shell_for(tmp_path)


@pytest.fixture
def other_cli(tmp_path: Path) -> Generator[Shell]:
    (tmp_path / "other").mkdir()
    yield from shell_for(tmp_path / "other")


def pid_of(settings: Settings) -> int:
    holder = Instance(settings).server_lock.holder()
    assert holder is not None
    return holder.pid


def test_start_status_stop(cli: Shell) -> None:
    started = cli("start", services="PaintShop,Quiet")
    pid = pid_of(cli.settings)
    assert (started.returncode, started.stderr) == (0, "")
    lines = started.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:2]) == ["PaintShop", "Quiet"]
    url = cli.settings.api_url
    assert lines[2] == f"autogpt_server is ready: {url} (process {pid}; how to use it: {url}/docs)"
    assert lines[3] == f"log: {cli.settings.log_file} (or: cli logs -f)"

    shown = cli("status")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"ready: {url} (process {pid}, since 20")
    assert "PaintShop  ready  process " in shown.stdout

    found = json.loads(cli("status", "--json").stdout)
    assert (found["phase"], found["pid"], [service["name"] for service in found["services"]]) == (
        "ready",
        pid,
        ["PaintShop", "Quiet"],
    )

    processes = [pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))]
    stopped = cli("stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped (process {pid})\n")
    eventually(lambda: not any(is_running(process) for process in processes))
    assert cli("status").returncode == ExitCode.NOT_RUNNING


def test_the_server_outlives_the_shell_that_started_it(cli: Shell) -> None:
    cli("start")
    process = psutil.Process(pid_of(cli.settings))
    assert os.getsid(process.pid) == process.pid


def test_started_twice_the_second_says_so(cli: Shell) -> None:
    cli("start")
    pid = pid_of(cli.settings)
    again = cli("start")
    assert again.returncode == ExitCode.ALREADY_RUNNING
    assert again.stderr == f"cli: already running (process {pid}) at {cli.settings.api_url}\n"
    assert pid_of(cli.settings) == pid


def test_two_starts_at_once_make_one_server(cli: Shell) -> None:
    command = [sys.executable, "-m", "support.app", "cli", "start"]
    environment = environment_for(cli.settings, "Quiet")
    starts = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [start.communicate(timeout=LIMIT_S) for start in starts]
    assert sorted(start.returncode for start in starts) == [0, ExitCode.ALREADY_RUNNING], outputs
    assert cli("status").returncode == 0


def test_a_foreground_server_is_seen_and_stopped_too(cli: Shell) -> None:
    program = Program(cli.settings, "Quiet")
    program.wait_for("autogpt_server is ready")
    assert cli("status").returncode == 0
    assert cli("stop").returncode == 0
    assert program.wait() == ExitCode.OK
    program.close()


def test_two_servers_are_told_apart(cli: Shell, other_cli: Shell) -> None:
    assert cli("start").returncode == 0
    assert other_cli("start").returncode == 0
    first, second = pid_of(cli.settings), pid_of(other_cli.settings)
    assert first != second
    assert cli("stop").stdout == f"stopped (process {first})\n"
    assert is_running(second)
    assert other_cli("status").returncode == 0


def test_which_server_is_meant_may_come_from_a_file(cli: Shell, tmp_path: Path) -> None:
    file = tmp_path / "server.env"
    settings = settings_for(tmp_path, database_url=f"file:{tmp_path / 'from_file.db'}")
    file.write_text(
        f"DATABASE_URL={settings.database_url}\nAGENT_SERVER_PORT={settings.agent_server_port}\nPYRO_PORT={settings.pyro_port}\n"
    )
    plain = {"DATABASE_URL": "", "AGENT_SERVER_PORT": "", "PYRO_PORT": ""}
    assert cli("--env-file", str(file), "start", **plain).returncode == 0
    assert cli("status").returncode == ExitCode.NOT_RUNNING
    assert settings.api_url in cli("--env-file", str(file), "status", **plain).stdout
    assert cli("--env-file", str(file), "stop", **plain).returncode == 0


def write_lock_file(settings: Settings, pid: int) -> None:
    instance = Instance(settings)
    instance.folder.mkdir(exist_ok=True)
    owner = LockOwner(pid, psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 1.0, "i", "server")
    instance.server_lock.path.write_text(json.dumps(asdict(owner)))


def test_a_foreign_process_whose_id_is_in_the_file_is_left_alone(cli: Shell) -> None:
    with subprocess.Popen(["sleep", "60"]) as foreign:
        try:
            write_lock_file(cli.settings, foreign.pid)
            assert cli("status").returncode == ExitCode.NOT_RUNNING
            stopped = cli("stop")
            assert (stopped.returncode, stopped.stdout) == (0, f"no server runs on {cli.settings.database_path}\n")
            assert foreign.poll() is None
            assert cli("start").returncode == 0
            assert cli("stop").returncode == 0
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_what_a_killed_server_left_is_no_obstacle(cli: Shell) -> None:
    cli("start", services="PaintShop")
    pid = pid_of(cli.settings)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    assert cli("status").returncode == ExitCode.NOT_RUNNING
    assert cli("start", services="PaintShop").returncode == 0
    assert pid_of(cli.settings) != pid


def test_stop_insists(cli: Shell) -> None:
    assert cli("start", services="PaintShop,Quiet", DRAIN_LIMIT_S="1").returncode == 0
    pid = pid_of(cli.settings)
    processes = [pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    began = time.monotonic()
    stopped = cli("stop", DRAIN_LIMIT_S="1")
    assert stopped.stdout == f"it does not stop; killing it\nstopped (process {pid})\n"
    assert time.monotonic() - began < 15
    eventually(lambda: not any(is_running(process) for process in processes))


def test_a_server_that_does_not_start_says_why(cli: Shell) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", cli.settings.pyro_port))
        taken.listen()
        started = cli("start")
    assert started.returncode == ExitCode.PORT_IN_USE
    assert started.stderr.count("\n") == 1
    assert f"port {cli.settings.pyro_port} on 127.0.0.1 is in use by another program" in started.stderr
    assert "set PYRO_PORT" in started.stderr


def test_a_service_that_does_not_start_is_named(cli: Shell) -> None:
    started = cli("start", services="Crashing")
    assert started.returncode == ExitCode.GAVE_UP
    assert "Crashing could not be kept running: RuntimeError: no luck today" in started.stderr
    assert "Traceback" not in started.stderr


def test_a_wrong_setting_is_one_line(cli: Shell) -> None:
    started = cli("start", NUM_GRAPH_WORKERS="many")
    assert started.returncode == ExitCode.SETTINGS
    assert started.stderr.startswith("cli: NUM_GRAPH_WORKERS: input should be a valid integer")
    assert started.stderr.count("\n") == 1


def test_logs_shows_what_was_logged_and_printed(cli: Shell) -> None:
    nothing = cli("logs")
    assert (nothing.returncode, nothing.stderr) == (
        ExitCode.NOT_RUNNING,
        f"cli: there is no log yet: {cli.settings.log_file}\n",
    )
    cli("start", services="Loud")
    cli("stop")
    shown = cli("logs").stdout
    assert "autogpt_server is ready" in shown
    assert "hello from the loud one" in shown
    assert shown.splitlines()[-1] == "stopped"
    assert cli("logs", "-n", "1").stdout == "stopped\n"
    assert cli("logs", "-n", "0").stdout == ""


def test_logs_follows(cli: Shell) -> None:
    log = cli.settings.log_file
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")
    with subprocess.Popen(
        [sys.executable, "-m", "support.app", "cli", "logs", "-f", "-n", "1"],
        env=environment_for(cli.settings, "Quiet"),
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "two\n"
        with log.open("a") as file:
            file.write("three\n")
        assert following.stdout.readline() == "three\n"
        log.write_text("")  # as when it is rotated
        time.sleep(0.2)
        with log.open("a") as file:
            file.write("four\n")
        assert following.stdout.readline() == "four\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0


def test_db_migrate_makes_the_database_and_needs_the_server_down(cli: Shell) -> None:
    migrated = cli("db", "migrate")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert migrated.stdout.splitlines()[-1] == f"{cli.settings.database_path} is up to date"
    assert cli.settings.database_path.stat().st_size > 0
    assert cli("db", "migrate").stdout == f"{cli.settings.database_path} is up to date\n"
    cli("start")
    refused = cli("db", "migrate")
    assert refused.returncode == ExitCode.ALREADY_RUNNING
    assert f"process {pid_of(cli.settings)}" in refused.stderr


@pytest.mark.parametrize("command", [[], ["start"], ["stop"], ["status"], ["logs"], ["db"], ["db", "migrate"]])
def test_everything_has_help(command: list[str]) -> None:
    shown = CliRunner().invoke(main, [*command, "--help"])
    assert shown.exit_code == 0, shown.output
    for line in shown.output.splitlines():
        assert not line.strip().startswith("--") or "  " in line.strip(), f"an option without help: {line}"


def test_an_unknown_command_is_wrong_usage() -> None:
    shown = CliRunner().invoke(main, ["sart"])
    assert shown.exit_code == ExitCode.USAGE
    assert "No such command" in shown.output
