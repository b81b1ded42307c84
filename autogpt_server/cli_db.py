"""`cli db`: what is done to the database while the server is down."""

import click

from autogpt_server.cli import CliContext
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.process import ORPHAN_GRACE_S


@click.group()
def db() -> None:
    """Look after the database. The server must be stopped."""


@db.command()
@click.pass_obj
def migrate(context: CliContext) -> None:
    """Bring the database to this version of the server, without starting it.

    The server does the same whenever it starts. The file is backed up before it is changed.
    """
    from autogpt_server.data.migrate import migrate as migrate_file  # noqa: PLC0415 - `--help` does without it

    settings = context.settings
    instance = Instance(settings)
    instance.own(wait_s=ORPHAN_GRACE_S + 1)
    try:
        applied = migrate_file(settings.database_path)
    finally:
        instance.disown()
    for name in applied:
        click.echo(f"applied {name}")
    click.echo(f"{settings.database_path} is up to date")
