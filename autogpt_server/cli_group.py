"""Groups of commands that ask a running server: which server is meant, and how its answers are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import click

from autogpt_server.cli_api import Api, api_key_option
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue

if TYPE_CHECKING:
    from autogpt_server.cli import CliContext


@dataclass(frozen=True)
class ApiContext:
    """What the commands of such a group ask for, as `@click.pass_obj`."""

    server: str
    api_key: str | None
    as_json: bool

    def api(self) -> Api:
        """A client for the server."""
        return Api(self.server, self.api_key)

    def tell(self, document: Any, lines: Iterable[str]) -> None:
        """Print the document as JSON where that is wanted, and lines for people where not."""
        if self.as_json:
            click.echo(json.dumps(document))
        else:
            for line in lines:
                click.echo(line)


class ApiGroup(click.Group):
    """A group whose commands take `--json`, too: people write it behind the command as well as before it."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command with its `--json`."""
        cmd.params.append(
            click.Option(
                ["--json"], is_flag=True, expose_value=False, callback=_print_json, help="Print JSON, for programs."
            )
        )
        super().add_command(cmd, name)


def api_group(name: str, text: str) -> ApiGroup:
    """An empty group of that name. `text`: its help."""

    @click.option("--server", metavar="URL", help="The server's address; by default that of the settings.")
    @api_key_option
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs: what the API answers.")
    @click.pass_context
    def choose_server(ctx: click.Context, server: str | None, api_key: str | None, *, as_json: bool) -> None:
        if server is None:
            settings = cast("CliContext", ctx.obj).settings
            server = settings.api_url
            if api_key is None and settings.api_keys:
                api_key = settings.api_keys[0].get_secret_value()
        ctx.obj = ApiContext(server, api_key, as_json)

    where = "By default the server and its API key are those of the settings."
    return click.group(name, cls=ApiGroup, help=f"{text}\n\n{where}")(choose_server)


def object_option(text: str, option: str) -> dict[str, Any]:
    """The JSON object that was given to an option. Raises `click.BadParameter`."""
    try:
        given = json.loads(text)
    except InvalidJSONValue as error:
        raise click.BadParameter(f"{error}", param_hint=option) from None
    if not isinstance(given, dict):
        raise click.BadParameter("it must be a JSON object", param_hint=option)
    return cast("dict[str, Any]", given)


def _print_json(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj = replace(cast("ApiContext", ctx.obj), as_json=True)
