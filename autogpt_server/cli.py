"""`poetry run cli`: everything that is done to a server from a shell. Each group of commands is a module of its own."""

import importlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.process import ExitCode
from autogpt_server.utils.settings import Settings, load_settings

# Imported when used, so that `cli status` need not wait for what `cli test` imports.
_COMMANDS = {
    "start": ("autogpt_server.cli_server:start", "Start a server in the background and wait until it is ready."),
    "stop": ("autogpt_server.cli_server:stop", "Stop the server: let it finish, then insist."),
    "status": ("autogpt_server.cli_server:status", "Show whether the server runs, and how its services are."),
    "logs": ("autogpt_server.cli_server:logs", "Show the server's log."),
    "run": ("autogpt_server.cli_runs:run", "Start runs, watch them, and do something about them."),
    "schedule": (
        "autogpt_server.cli_schedules:schedule",
        "Schedule graphs, and see when they are due and what became of it.",
    ),
    "db": ("autogpt_server.cli_db:db", "Look after the database."),
    "test": ("autogpt_server.cli_seeds:test", "Fill a running server with example graphs."),
}

_EXIT_CODES = {
    "invalid_settings": ExitCode.SETTINGS,
    "already_running": ExitCode.ALREADY_RUNNING,
    "not_running": ExitCode.NOT_RUNNING,
    "server_unreachable": ExitCode.NOT_RUNNING,
    "port_in_use": ExitCode.PORT_IN_USE,
}


@dataclass(frozen=True)
class CliContext:
    """What every command can ask for, as `@click.pass_obj`."""

    env_file: Path | None

    @cached_property
    def settings(self) -> Settings:
        """The settings, read when first asked for. Raises `SettingsError`."""
        return load_settings(self.env_file)


def exit_code_of(error: AutoGPTServerError) -> int:
    """The exit code of a command that ends with `error`."""
    own = error.details.get("exit_code")
    if isinstance(own, int):
        return own
    if error.code.startswith(("database_", "migration_")):
        return ExitCode.DATABASE
    return _EXIT_CODES.get(error.code, ExitCode.ERROR)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order in which people need them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except AutoGPTServerError as error:
            click.echo(f"cli: {' '.join(str(error).split())}", err=True)
            ctx.exit(exit_code_of(error))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    help="Read settings from this file instead of .env in the working directory. The environment goes before either.",
)
@click.pass_context
def main(ctx: click.Context, env_file: Path | None) -> None:
    """Start, stop and look after an agent graph server.

    Which server is meant follows from the settings, above all from DATABASE_URL: run `cli` in the folder, or with the
    environment or --env-file, that the server was started with.

    Exit codes: 0 done; 2 wrong usage; 3 no server runs; 4 a run did not complete; 10 wrong setting; 11 a server runs already; 12 database;
    13 a port is in use; 14 not ready in time; 15 a service died again and again; 1 anything else.
    """
    ctx.obj = CliContext(env_file)


if __name__ == "__main__":
    sys.exit(main())
