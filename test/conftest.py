"""What holds for every test: no network beyond loopback, and property tests that repeat exactly in CI."""

import os

import pytest
from hypothesis import settings

from support import network

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    network.block(patch)
    config.add_cleanup(patch.undo)
