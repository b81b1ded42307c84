"""The lock files hold on any machine: no address of a registry, mirror or this machine is in them."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def poetry_packages() -> list[dict[str, Any]]:
    return tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))["package"]


def node_packages() -> dict[str, dict[str, Any]]:
    packages: dict[str, dict[str, Any]] = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))[
        "packages"
    ]
    return {name: package for name, package in packages.items() if name}


def test_python_packages_are_locked_by_hash_and_from_the_default_index() -> None:
    packages = poetry_packages()

    assert "prisma" in {package["name"] for package in packages}
    for package in packages:
        assert "source" not in package, package["name"]
        assert package["files"], package["name"]
        for file in package["files"]:
            assert set(file) == {"file", "hash"}, package["name"]
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), package["name"]


def test_node_packages_are_locked_by_hash_and_name_no_registry() -> None:
    packages = node_packages()

    assert "node_modules/prisma" in packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name


def test_no_node_package_needs_its_install_script_but_prismas_downloads() -> None:
    """Install scripts are not run (.npmrc). Those that exist only fetch Prisma's engines, which nothing here uses."""
    with_script = {name for name, package in node_packages().items() if package.get("hasInstallScript")}

    assert with_script <= {"node_modules/prisma", "node_modules/@prisma/client", "node_modules/@prisma/engines"}


def test_poetry_and_all_it_needs_is_pinned() -> None:
    lines = (ROOT / "scripts" / "poetry.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert {"poetry", "poetry-plugin-export"} <= {pin.partition("==")[0] for pin in pins}
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][^ ;@]*", pin) for pin in pins)
