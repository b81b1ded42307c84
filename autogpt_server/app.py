"""`poetry run app`: the server in the foreground, and the supervisor of its processes.

Takes the lock beside the database, migrates the database, runs the name server and starts the services; then keeps them
running until Ctrl-C or SIGTERM.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import click

from autogpt_server.utils import faults
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.instance import AlreadyRunning, Identity, Instance, ServerStatus, ServiceStatus
from autogpt_server.utils.logging import LogSetup, rotate, setup_logging
from autogpt_server.utils.process import ORPHAN_GRACE_S, ExitCode, ProcessSpec
from autogpt_server.utils.service import NameServer
from autogpt_server.utils.settings import Settings, SettingsError, load_settings, use_settings
from autogpt_server.utils.sockets import PortInUse, listen
from autogpt_server.utils.supervisor import NOT_READY, EventKind, ProcessEvent, ProcessInfo, ProcessState, Supervisor

log = logging.getLogger(__name__)

# Started all at once; stopped one by one from the last to the first: nothing new comes in while the rest finishes.
_SERVICES = {
    "ExecutionManager": "autogpt_server.execution.manager:ExecutionManager",
    "ExecutionScheduler": "autogpt_server.execution.scheduler:ExecutionScheduler",
    "AgentServer": "autogpt_server.server.server:AgentServer",
}

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HOUSEKEEPING_S = 2.0
_SAME_SIGNAL_S = 0.5  # one Ctrl-C may arrive twice: from the terminal, and passed on by a wrapper such as `timeout`
_HUNG_LIMIT_S = 60.0

_EXIT_CODES = {
    SettingsError.code: ExitCode.SETTINGS,
    AlreadyRunning.code: ExitCode.ALREADY_RUNNING,
    PortInUse.code: ExitCode.PORT_IN_USE,
    NOT_READY: ExitCode.NOT_READY,
}


def default_services(settings: Settings, log_setup: LogSetup) -> list[ProcessSpec]:
    """The services that make up the server."""
    return [
        ProcessSpec(
            name=name,
            target=target,
            settings=settings,
            log=log_setup,
            ready_limit_s=settings.start_limit_s,
            drain_limit_s=settings.drain_limit_s,
            hung_limit_s=_HUNG_LIMIT_S,
        )
        for name, target in _SERVICES.items()
    ]


def migrate_database(settings: Settings) -> None:
    """Bring the database to this server's version. The caller owns the database."""
    # Not imported with this module: the supervisor needs it once, and its children not at all.
    from autogpt_server.data.migrate import migrate  # noqa: PLC0415

    for name in migrate(settings.database_path):
        log.info("migration applied: %s", name)


def run_app(
    settings: Settings,
    services: Sequence[ProcessSpec] | None = None,
    *,
    migrate: Callable[[Settings], None] = migrate_database,
    detached: bool = False,
) -> ExitCode:
    """Run the server until it is told to stop; the signal handlers of this process are taken over.

    `services`: instead of the real ones. `detached`: standard error is the log file already. Returns why it ended; what
    the user must know about that has been printed.
    """
    log_setup = LogSetup(settings.log_format, settings.log_level, None if detached else settings.log_file)
    instance = Instance(settings)
    try:
        owner = instance.own(wait_s=ORPHAN_GRACE_S + 1)
    except AutoGPTServerError as error:
        return _fail(error)
    try:
        setup_logging(log_setup, "app")
        use_settings(settings)
        faults.reach("supervisor.migrate.before")
        migrate(settings)
        specs = default_services(settings, log_setup) if services is None else services
        return _App(settings, instance, owner.incarnation, specs).run()
    except AutoGPTServerError as error:
        return _fail(error)
    except Exception as error:
        log.exception("server failed")
        _say_error(f"unexpected {type(error).__name__}: {error} (the traceback is in the log)")
        return ExitCode.ERROR
    finally:
        # Grandchildren whose parent had to be killed end by themselves; what a block has forked may not.
        if not instance.wait_until_alone(ORPHAN_GRACE_S + 1) and not instance.kill_members():
            log.error("processes of this server are still there")
        instance.disown()
        _let_go_of_broken_streams()


class _App:
    """The supervisor of one server, with what people see of it."""

    def __init__(self, settings: Settings, instance: Instance, incarnation: str, specs: Sequence[ProcessSpec]) -> None:
        self._settings = settings
        self._instance = instance
        self._incarnation = incarnation
        self._names = _Names(settings, instance.identity(), self._write_status)
        self._is_draining = False
        self._signal: signal.Signals | None = None
        self._signal_at = 0.0
        self._announced = False
        self._started = time.monotonic()
        self._started_at = utc_now().isoformat()
        self._width = max((len(spec.name) for spec in specs), default=0)
        self._ready: set[str] = set()
        self._gave_up: ProcessEvent | None = None
        self._unwritten: ServerStatus | None = None
        self._supervisor = Supervisor(
            specs,
            on_event=self._on_event,
            on_change=self._on_change,
            on_drain=self._on_drain,
            drain_limit_s=settings.drain_limit_s,
        )

    def run(self) -> ExitCode:
        """Supervise to the end."""
        # Found out here, once and in words, rather than by a service that dies of it.
        listen(
            self._settings.agent_server_host,
            self._settings.agent_server_port,
            port_setting="AGENT_SERVER_PORT",
            host_setting="AGENT_SERVER_HOST",
        ).close()
        self._names.open()
        try:
            for number in _STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` wants SIGHUP ignored
                    signal.signal(number, self._on_signal)
            result = self._supervisor.run()
        finally:
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # what is left to do takes a moment and is wanted
            self._names.close()
        if self._gave_up is not None:
            event = self._gave_up
            _say_error(f"{event.name} could not be kept running: {event.detail}")
            return _EXIT_CODES.get(event.error_code or "", ExitCode.GAVE_UP)
        _say("stopped" if result is ExitCode.OK else "killed")
        return result

    def _on_signal(self, number: int, _frame: object) -> None:
        # No prints here: it may have come in the middle of one.
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._signal_at = signal.Signals(number), now
        elif now - self._signal_at < _SAME_SIGNAL_S:
            return
        self._supervisor.request_drain()

    def _on_drain(self) -> None:
        self._is_draining = True
        _say(f"stopping ({self._signal.name if self._signal else 'asked to'}); once more to kill")

    def _on_event(self, event: ProcessEvent) -> None:
        log.debug("%s %s %s %s", event.name, event.kind, event.pid, event.detail)
        match event.kind:
            case EventKind.READY:
                faults.reach("supervisor.child.ready")
                again = " again" if event.name in self._ready else ""
                self._ready.add(event.name)
                seconds = f"{time.monotonic() - self._started:.1f} s"
                _say(f"{event.name:<{self._width}}  ready{again or f' after {seconds}'}  {event.detail}".rstrip())
            case EventKind.EXITED if not self._is_draining and self._gave_up is None:
                log.error("%s died: %s", event.name, event.detail)
                faults.reach("supervisor.child.died")
            case EventKind.GAVE_UP:
                self._gave_up = self._gave_up or event
            case _:
                pass

    def _on_change(self, processes: tuple[ProcessInfo, ...]) -> None:
        is_ready = all(process.state is ProcessState.READY for process in processes)
        if is_ready and not self._announced and not self._is_draining:
            self._announced = True
            _say(f"autogpt_server is ready: {self._settings.api_url} (how to use it: {self._settings.api_url}/docs)")
        phase = "draining" if self._is_draining else "ready" if self._announced else "starting"
        services = tuple(ServiceStatus(p.name, p.state, p.pid, p.detail, p.restarts) for p in processes)
        self._unwritten = ServerStatus(
            incarnation=self._incarnation,
            phase=phase,
            pid=os.getpid(),
            url=self._settings.api_url,
            log_file=str(self._settings.log_file),
            started_at=self._started_at,
            services=services,
        )
        self._write_status()

    def _write_status(self) -> None:
        """Write down how things are, unless that was done. A disk that is full must not end the server: it is tried again in a moment."""
        status = self._unwritten
        if status is None:
            return
        try:
            self._instance.write_status(status)
        except OSError as error:
            log.error("status not written, trying again: %s", error)  # noqa: TRY400 - the message says it all
        else:
            if self._unwritten is status:
                self._unwritten = None


class _Names:
    """The name server, opened anew if its thread should end, and other chores of the supervisor's process."""

    def __init__(self, settings: Settings, identity: Identity, chore: Callable[[], None]) -> None:
        """`chore`: done again and again, too."""
        self._settings = settings
        self._chore = chore
        self._secret = identity.secret
        self._server: NameServer | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_open, name="housekeeping", daemon=True)

    def open(self) -> None:
        """Open it. Raises `PortInUse`."""
        self._server = NameServer(self._settings, self._secret)
        self._thread.start()

    def close(self) -> None:
        """Close it."""
        self._closed.set()
        self._thread.join()
        if self._server is not None:
            self._server.close()

    def _keep_open(self) -> None:
        while not self._closed.wait(_HOUSEKEEPING_S):
            self._chore()
            rotate(self._settings.log_file, self._settings.log_max_bytes)
            if self._server is not None and not self._server.is_alive:
                log.error("name server ended; opening it again")
                try:
                    self._server.close()
                    self._server = NameServer(self._settings, self._secret)
                except AutoGPTServerError as error:
                    log.error("name server not opened: %s", error)  # noqa: TRY400 - tried again in a moment


def _fail(error: AutoGPTServerError) -> ExitCode:
    _say_error(str(error))
    if error.code.startswith(("database_", "migration_")):
        return ExitCode.DATABASE
    return _EXIT_CODES.get(error.code, ExitCode.ERROR)


def _say(message: str) -> None:
    """Print a line for people, if anybody is there to read it: a terminal that was closed must not end the server."""
    try:
        click.echo(message)
    except OSError:
        log.info("standard output is gone; not said: %s", message)
        _let_go_of_broken_streams()


def _let_go_of_broken_streams() -> None:
    """Put nothing in the place of a stream nobody reads; flushing it at the end would change the exit code."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until this process ends


def _say_error(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"app: {message}", err=True)


def package_version() -> str:
    """The version of this package, as installed."""
    try:
        return version("autogpt-server")
    except PackageNotFoundError:
        return "unknown (not installed)"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    help="Read settings from this file instead of .env in the working directory. The environment goes before either.",
)
@click.option(
    "--detached", is_flag=True, help="Log to standard error only, which leads to the log file (for `cli start`)."
)
@click.version_option(package_version(), prog_name="autogpt_server")
def main(env_file: Path | None, *, detached: bool) -> None:
    """Run the agent graph server in the foreground.

    Brings the database up to date, starts the services, prints the address and runs until Ctrl-C. A second Ctrl-C kills
    everything at once. What can be set is listed in .env.example; `cli start` runs the server in the background.

    Exit codes: 0 stopped as asked; 2 wrong usage; 10 wrong setting; 11 the database is in use by another server;
    12 the database could not be migrated; 13 a port is in use; 14 not ready in time; 15 a service died again and again;
    130 killed; 1 anything else.
    """
    # Lines appear when they are printed, also where standard output is a file.
    cast("io.TextIOWrapper[Any]", sys.stdout).reconfigure(line_buffering=True)
    try:
        settings = load_settings(env_file)
    except AutoGPTServerError as error:
        sys.exit(_fail(error))
    sys.exit(run_app(settings, detached=detached))


if __name__ == "__main__":
    main()
