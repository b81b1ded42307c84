"""Write poetry.lock (`make lock`), also behind a package mirror that lacks PyPI's own JSON pages.

Poetry reads a release's metadata from `/pypi/<name>/<version>/json`. Many mirrors serve only the standard Simple API
(PEP 503, 658, 691), and there `poetry lock` fails with "Package x (1.2) not found". This runs the same Poetry, but lets
a release that has no such page be read from the Simple API, as Poetry itself does for any index other than PyPI. The
lock file is the same either way: names, versions and hashes, no addresses.

Run by the Python of Poetry's own environment: `.tools/poetry/bin/python scripts/lock.py [options of poetry lock]`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from poetry.console.application import main as poetry_main
from poetry.inspection.info import PackageInfo
from poetry.repositories.exceptions import PackageNotFoundError
from poetry.repositories.pypi_repository import PyPiRepository

if TYPE_CHECKING:
    from packaging.utils import NormalizedName
    from poetry.core.constraints.version import Version


class SimpleApiFallback(PyPiRepository):
    """PyPI, or a mirror in its place that may know the Simple API only."""

    def _get_release_info(self, name: NormalizedName, version: Version) -> dict[str, Any]:
        try:
            return super()._get_release_info(name, version)
        except PackageNotFoundError:
            page = self.get_page(name)
            links = list(page.links_for_version(name, version))
            empty = PackageInfo(
                name=name,
                version=version.text,
                summary="",
                requires_dist=[],
                requires_python=None,
                files=[],
                yanked=page.yanked(name, version),
                cache_version=str(self.CACHE_VERSION),
            )
            return self._links_to_data(links, empty)


def main() -> int:
    import poetry.repositories.pypi_repository as module  # noqa: PLC0415

    module.PyPiRepository = SimpleApiFallback
    sys.argv = ["poetry", "lock", *sys.argv[1:]]
    return poetry_main()


if __name__ == "__main__":
    sys.exit(main())
