"""The app and the cli, with sample services in place of the real ones: `python -m support.app`, `python -m support.app cli`.

The environment variable SAMPLE_SERVICES names classes of `support.processes`, with commas between them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autogpt_server import cli, control
from autogpt_server.app import run_app
from autogpt_server.utils.logging import LogSetup
from autogpt_server.utils.process import ProcessSpec
from autogpt_server.utils.settings import Settings, load_settings
from support import processes


def sample_services(settings: Settings, log: LogSetup) -> list[ProcessSpec]:
    """The services that the environment asks for."""
    journal = settings.database_path.with_name("journal")
    arguments = {
        "Quiet": {"journal": journal, "linger_s": float(os.environ.get("SAMPLE_LINGER_S", "0"))},
        "Parent": {"journal": journal},
    }
    return [
        ProcessSpec(
            name=name,
            target=f"{processes.MODULE}:{name}",
            settings=settings,
            arguments=arguments.get(name, {}),
            log=log,
            ready_limit_s=settings.start_limit_s,
            drain_limit_s=settings.drain_limit_s,
            hung_limit_s=float(os.environ.get("HUNG_LIMIT_S", "60")),
        )
        for name in os.environ["SAMPLE_SERVICES"].split(",")
    ]


def no_migration(settings: Settings) -> None:
    """Leaves the database alone."""
    settings.database_path.touch()


def main(arguments: Sequence[str]) -> int:
    """Be the app, or the cli."""
    if arguments[:1] == ["cli"]:
        control.SERVER_COMMAND = (sys.executable, "-m", "support.app")
        return int(cli.main(list(arguments[1:])) or 0)
    env_file = Path(arguments[arguments.index("--env-file") + 1]) if "--env-file" in arguments else None
    settings = load_settings(env_file)
    detached = "--detached" in arguments
    log = LogSetup(settings.log_format, settings.log_level, None if detached else settings.log_file)
    return run_app(settings, sample_services(settings, log), migrate=no_migration, detached=detached)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
