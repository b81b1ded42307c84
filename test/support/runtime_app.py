"""The app with some of its services: `python -m support.runtime_app ExecutionManager`; settings come from the environment."""

import sys

from autogpt_server.app import default_services, run_app
from autogpt_server.utils.logging import LogSetup
from autogpt_server.utils.settings import load_settings


def main(names: list[str]) -> int:
    """Run until told to stop."""
    settings = load_settings()
    log = LogSetup(settings.log_format, settings.log_level, settings.log_file)
    return run_app(settings, [spec for spec in default_services(settings, log) if spec.name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
