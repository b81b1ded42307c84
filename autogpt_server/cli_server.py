"""`cli start`, `stop`, `status` and `logs`."""

import sys
from dataclasses import asdict

import click

from autogpt_server import control
from autogpt_server.cli import CliContext
from autogpt_server.utils import json


@click.command()
@click.pass_obj
def start(context: CliContext) -> None:
    """Start a server in the background and wait until it is ready.

    It goes on when this shell ends. Prints its address and where its log is.
    """
    status = control.start(context.settings, context.env_file, click.echo)
    click.echo(f"autogpt_server is ready: {status.url} (process {status.pid}; how to use it: {status.url}/docs)")
    click.echo(f"log: {status.log_file} (or: cli logs -f)")


@click.command()
@click.pass_obj
def stop(context: CliContext) -> None:
    """Stop the server: let it finish what it can within DRAIN_LIMIT_S, then kill it.

    Runs that are not finished go on when the server starts again. It is no error if no server runs.
    """
    try:
        owner = control.stop(context.settings, click.echo)
    except control.NotRunningError as error:
        click.echo(str(error))
        return
    click.echo(f"stopped (process {owner.pid})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_obj
def status(context: CliContext, *, as_json: bool) -> None:
    """Show whether the server runs, and how its services are. Exit code 3: no server runs."""
    found = control.status(context.settings)
    if as_json:
        click.echo(json.dumps({**asdict(found), "services": [asdict(service) for service in found.services]}))
        return
    click.echo(f"{found.phase}: {found.url} (process {found.pid}, since {found.started_at or 'a moment ago'})")
    width = max((len(service.name) for service in found.services), default=0)
    for service in found.services:
        pid = f"process {service.pid}" if service.pid else ""
        restarts = f"restarts: {service.restarts}" if service.restarts else ""
        click.echo("  ".join(filter(None, (f"{service.name:<{width}}", service.state, pid, service.detail, restarts))))
    click.echo(f"log: {found.log_file}")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on and print what is added, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many of the last lines to print first.",
)
@click.pass_obj
def logs(context: CliContext, lines: int, *, follow: bool) -> None:
    """Show the server's log, of this run and the ones before."""
    try:
        for text in control.tail(context.settings.log_file, lines, follow=follow):
            click.echo(text, nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        click.echo()
