"""`cli test`: fills a running server with example graphs, over its API, as any client would."""

import time
from collections.abc import Mapping
from typing import Any

import click

from autogpt_server import seeds
from autogpt_server.cli_api import ENDED, Api, api_key_option
from autogpt_server.utils.errors import AutoGPTServerError

RUN_WAIT_S = 60.0
POLL_S = 0.2

_DEFAULTS = seeds.RedditMarketing()


class SeedError(AutoGPTServerError):
    """The examples could not be created."""

    code = "seed_failed"


@click.group()
def test() -> None:
    """Fill a running server with example graphs."""


@test.command("populate-db")
@click.argument("url")
@api_key_option
def populate_db(url: str, api_key: str | None) -> None:
    """Create the Hello World graph on the server at URL, run it once, and schedule it every five minutes."""
    with Api(url, api_key) as api:
        graph = api.call("POST", "/graphs", seeds.hello_graph())
        run = api.call("POST", f"/graphs/{graph['id']}/execute", seeds.HELLO_INPUT)
        schedule = api.call(
            "POST",
            f"/graphs/{graph['id']}/schedules",
            {"cron": seeds.HELLO_CRON, "input_data": dict(seeds.HELLO_INPUT)},
        )
        click.echo(f"Graph     {graph['id']}  {graph['name']}")
        click.echo(f"Run       {run['id']}")
        click.echo(f"Schedule  {schedule['id']}  {seeds.HELLO_CRON}{_next_time(schedule)}")
        click.echo("Look at")
        for path in (
            f"/graphs/{graph['id']}",
            f"/graphs/{graph['id']}/executions/{run['id']}",
            f"/graphs/schedules/{schedule['id']}",
        ):
            click.echo(f"  {api.url}{path}")
        _await_run(api, str(run["id"]))


@test.command()
@click.argument("url")
@click.option("--subreddit", default=_DEFAULTS.subreddit, show_default=True, help="The subreddit to read, without r/.")
@click.option("--product", default=_DEFAULTS.product, show_default=True, help="What to advertise, in a few words.")
@click.option("--model", default=_DEFAULTS.model, show_default=True, help="The language model that judges posts.")
@click.option(
    "--post-limit",
    default=_DEFAULTS.post_limit,
    show_default=True,
    type=click.IntRange(1, 100),
    help="How many posts to read.",
)
@click.option("--client-id", envvar="REDDIT_CLIENT_ID", show_envvar=True, help="The id of your Reddit app.")
@click.option("--client-secret", envvar="REDDIT_CLIENT_SECRET", show_envvar=True, help="Its secret.")
@click.option("--username", envvar="REDDIT_USERNAME", show_envvar=True, help="The account that comments.")
@click.option("--password", envvar="REDDIT_PASSWORD", show_envvar=True, help="Its password.")
@click.option("--user-agent", envvar="REDDIT_USER_AGENT", show_envvar=True, help="How to introduce yourself to Reddit.")
@click.option(
    "--openai-api-key",
    envvar="OPENAI_API_KEY",
    show_envvar=True,
    help="The model's key; else the server's own is used.",
)
@click.option("--run", is_flag=True, help="Run it at once: it comments on Reddit!")
@api_key_option
def reddit(
    *,
    url: str,
    subreddit: str,
    product: str,
    model: str,
    post_limit: int,
    client_id: str | None,
    client_secret: str | None,
    username: str | None,
    password: str | None,
    user_agent: str | None,
    openai_api_key: str | None,
    run: bool,
    api_key: str | None,
) -> None:
    """Create the Reddit marketing graph on the server at URL.

    It reads a subreddit, lets a language model decide which posts a product is relevant to, and comments on those. Give
    credentials by the environment rather than by options, which other users of the machine can see.
    """
    given = {"client_id": client_id, "client_secret": client_secret, "username": username, "password": password}
    missing = [f"REDDIT_{name.upper()}" for name, value in given.items() if not value]
    if run and missing:
        raise SeedError(f"The graph cannot run without credentials for Reddit: set {', '.join(missing)}.")
    credentials = {**given, "user_agent": user_agent} if not missing else {}
    told = seeds.RedditMarketing(
        subreddit=subreddit,
        product=product,
        model=model,
        post_limit=post_limit,
        reddit_credentials={name: value for name, value in credentials.items() if value} or None,
        llm_credentials={"provider": "openai", "api_key": openai_api_key} if openai_api_key else None,
    )
    with Api(url, api_key) as api:
        graph = api.call("POST", "/graphs", seeds.reddit_marketing_graph(told))
        click.echo(f"Graph     {graph['id']}  {graph['name']}")
        click.echo("Look at")
        click.echo(f"  {api.url}/graphs/{graph['id']}")
        if missing:
            click.echo(
                f"It has no credentials for Reddit yet and cannot run: set {', '.join(missing)} and create it again."
            )
        elif run:
            started = api.call("POST", f"/graphs/{graph['id']}/execute", {})
            click.echo(f"Run       {started['id']}")
            click.echo(f"  {api.url}/graphs/{graph['id']}/executions/{started['id']}")
            _await_run(api, str(started["id"]))
        else:
            click.echo(
                f"Run it with: curl -X POST -H 'Content-Type: application/json' -d '{{}}' {api.url}/graphs/{graph['id']}/execute"
            )


def _next_time(schedule: Mapping[str, Any]) -> str:
    times: Any = schedule.get("next_fire_times") or []
    return f"  next at {times[0]['local']}" if times else ""


def _await_run(api: Api, run_id: str) -> None:
    """Wait until the run has ended and say how; a run that failed is an error, one that goes on is not."""
    deadline = time.monotonic() + RUN_WAIT_S
    while True:
        run = api.call("GET", f"/executions/{run_id}")
        status = str(run["status"])
        if status in ENDED or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    if status in {"FAILED", "CANCELED"}:
        error: Any = run.get("error") or {}
        raise SeedError(f"The run ended {status}: {error.get('message') or run.get('reason') or 'see its executions'}")
    click.echo(f"Status    {status}")
