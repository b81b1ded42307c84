"""Make a fresh clone ready: `run` for what serving needs, `dev` for what testing and changing it need, too.

Standard library only, any Python 3.11 to 3.13 (scripts/with_python.sh finds one). A step is skipped when its stamp says
that what it depends on is unchanged:

    environment      .venv
    Poetry           .tools/poetry    in an environment of its own, exactly as scripts/poetry.txt says
    packages         .venv            the packages of poetry.lock, by hash, and this project, editable
    Node             .venv            from PyPI, only where the machine has none that is new enough
    node packages    node_modules     the packages of package-lock.json, without their install scripts
    client           .venv            the Prisma client, generated from schema.prisma
    query compiler   autogpt_server   the WebAssembly that compiles queries, taken out of an npm package

Only package registries are reached, as the user's own pip and npm configuration names them (mirror, proxy, certificate).
pip installs what Poetry exports, because Poetry itself would pass by a mirror that pip is configured for.

A stamp lies inside what it vouches for and is written last: an interrupted step is done again, and deleting .venv,
.tools or node_modules is always a valid way to start over.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import node_tool
from node_tool import NODE_MODULES, ROOT, VENV

TOOLS = ROOT / ".tools"
POETRY = TOOLS / "poetry"
LOGS = TOOLS / "logs"
ENGINE = ROOT / "autogpt_server" / "data" / "engine"

GROUPS = {"run": "main,build", "dev": "main,build,dev"}  # of poetry.lock
GENERATED = ("Prisma client", "query compiler")  # the steps that `make generate` does in any case
SUPPORTED = ((3, 11), (3, 13))
STEP_TIMEOUT_S = 1800.0  # a step on a slow line; pip and npm limit each request themselves
LOG_TAIL_LINES = 25
REGISTRY_LOGS = {"poetry", "packages", "npm"}  # the tools that reach package registries

REGISTRY_HINT = """If the package registries are only reachable through a mirror or a proxy, tell the tools so once:
  pip config set global.index-url ADDRESS     or the environment variable PIP_INDEX_URL
  npm config set registry ADDRESS             or NPM_CONFIG_REGISTRY
  HTTPS_PROXY, PIP_CERT and NODE_EXTRA_CA_CERTS are honored.
Then repeat the command: what is done stays done."""


class StepError(Exception):
    """A step failed; the message shows the command and the end of its output."""


@dataclass(frozen=True)
class Step:
    """Something to do once per value of `inputs`, the texts that its result depends on."""

    name: str
    stamp: Path
    inputs: Sequence[str]
    action: Callable[[], None]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(self.inputs).encode()).hexdigest()

    def is_done(self) -> bool:
        try:
            return self.stamp.read_text() == self.fingerprint
        except OSError:
            return False

    def perform(self, *, again: bool = False) -> None:
        if self.is_done() and not again:
            return
        self.stamp.unlink(missing_ok=True)
        print(f"setup: {self.name} ...", flush=True)
        started = time.monotonic()
        self.action()
        self.stamp.write_text(self.fingerprint)
        print(f"setup: {self.name}: done in {time.monotonic() - started:.1f} s", flush=True)


def steps(profile: str) -> Generator[Step, None, None]:
    """The steps of a profile, in order; a later one may look at what earlier ones made."""
    minor = python_minor()
    place = str(ROOT)  # scripts in an environment hold its absolute path: a moved clone needs a new one
    yield Step(f"environment (Python {minor})", VENV / ".stamp-environment", [place, minor], make_environment)
    yield Step("Poetry", POETRY / ".stamp", [place, minor, content("scripts/poetry.txt")], install_poetry)
    if profile == "poetry":
        return

    locked = [place, minor, content("poetry.lock"), package_metadata()]
    packages = {
        name: Step(f"packages ({groups})", VENV / f".stamp-{name}", locked, partial(install_packages, groups))
        for name, groups in GROUPS.items()
    }
    if not packages["dev"].is_done():
        yield packages[profile]

    node_locked = content("package.json", "package-lock.json", ".npmrc")
    node_packages = Step("node packages", NODE_MODULES / ".stamp", [node_locked], install_node_packages)
    generated = VENV / "lib" / f"python{minor}" / "site-packages" / "prisma"
    client_inputs = [*locked, node_locked, content("schema.prisma")]
    client = Step("Prisma client", generated / ".stamp", client_inputs, generate_client)
    if not (node_packages.is_done() and client.is_done()) and not has_node():
        yield Step("Node from PyPI", VENV / ".stamp-node", locked, partial(install_packages, "node"))
    yield node_packages
    yield client

    compiler_inputs = [*locked, node_locked, content("autogpt_server/data/engine/build.py")]
    yield Step("query compiler", ENGINE / "_build" / ".stamp", compiler_inputs, build_query_compiler)


def make_environment() -> None:
    """Make .venv, unless one is there (from Poetry or by hand) that works and was made for this place."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        made_here = (VENV / "bin" / "pip").read_text().startswith(f"#!{VENV}/bin/python")
        if made_here and venv_minor() == python_minor():
            return
    create_venv(VENV)


def install_poetry() -> None:
    create_venv(POETRY)
    packages = ["poetry", "poetry-plugin-export"]
    run_tool(
        "poetry", POETRY / "bin" / "pip", "install", "--no-compile", "--constraint", "scripts/poetry.txt", *packages
    )


def install_packages(groups: str) -> None:
    """Install groups of poetry.lock into .venv, then the project with its commands `app` and `cli`."""
    requirements = str(TOOLS / "requirements.txt")
    poetry, python = POETRY / "bin" / "poetry", VENV / "bin" / "python"
    run_tool("export", poetry, "export", "--only", groups, "--without-urls", "--output", requirements)
    install = ["-m", "pip", "install", "--no-deps"]
    run_tool("packages", python, *install, "--require-hashes", "--requirement", requirements)
    # Not `poetry install --only-root`: the commands that it writes do not start where the path holds a space.
    run_tool("project", python, *install, "--no-build-isolation", "--editable", str(ROOT))


def install_node_packages() -> None:
    node = node_tool.find_node()
    run_tool("npm", *node.npm, "ci", "--ignore-scripts", env=node_tool.environment(node))


def generate_client() -> None:
    node = node_tool.find_node()
    generate = node_tool.command(node, "prisma", "generate", "--schema", "schema.prisma")
    run_tool("client", *generate, env=node_tool.environment(node))


def build_query_compiler() -> None:
    module = "autogpt_server.data.engine.build"
    run_tool("query-compiler", VENV / "bin" / "python", "-m", module, "--node-modules", str(NODE_MODULES))


def python_minor() -> str:
    """`3.12`: of .venv if there is a fitting one and the user asked for no other ($PYTHON), else of this Python."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return running if os.environ.get("PYTHON") else venv_minor() or running


def venv_minor() -> str | None:
    """`3.12` if .venv works and has a supported Python; None if it is missing, broken or too old."""
    if Path(sys.prefix) == VENV:
        version = sys.version_info[:2]
    else:
        probe = [VENV / "bin" / "python", "-c", "import pip, sys; print(*sys.version_info[:2])"]
        try:
            answer = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        version = tuple(map(int, answer.split()))
    return ".".join(map(str, version)) if SUPPORTED[0] <= version <= SUPPORTED[1] else None


def has_node() -> bool:
    try:
        node_tool.find_node()
    except node_tool.NodeMissingError:
        return False
    return True


def content(*names: str) -> str:
    """Files of the project as one input of a step."""
    return "\0".join(f"{name}\0{(ROOT / name).read_text(encoding='utf-8')}" for name in names)


def package_metadata() -> str:
    """What an installation depends on in pyproject.toml: not the settings of linters and the like."""
    document = tomllib.loads(content("pyproject.toml").partition("\0")[2])
    tools = {name: document["tool"][name] for name in ("poetry", "prisma")}
    return repr((document["project"], document["build-system"], tools))


def create_venv(folder: Path) -> None:
    # Not sys.executable: that may be the Python of the very environment that is made anew.
    base = getattr(sys, "_base_executable", sys.executable)
    run_tool("environment", base, "-m", "venv", "--clear", str(folder))


def run_tool(log: str, program: str | Path, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a tool in ROOT with its output in .tools/logs.

    Raises:
        StepError: it could not be started, failed, or took longer than `STEP_TIMEOUT_S`.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{log}.log"
    command = [str(program), *arguments]
    with path.open("wb") as output:
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=clean_environment() if env is None else env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=STEP_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "".join(f"\n  | {line}" for line in lines[-LOG_TAIL_LINES:])
            hint = f"\n\n{REGISTRY_HINT}" if log in REGISTRY_LOGS else ""
            what = error if isinstance(error, OSError) else f"`{shlex.join(command)}` did not succeed"
            raise StepError(f"{what}{tail}\nAll of its output: {path}{hint}") from error


def clean_environment() -> dict[str, str]:
    """The user's environment without what would lead pip or Poetry to another environment than ours."""
    foreign = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_PYTHON"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return kept | {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@contextlib.contextmanager
def alone() -> Generator[None, None, None]:
    """Two `make` at once would install into the same folders: the second waits for the first."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: waiting for another make in this folder ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a fresh clone ready.")
    parser.add_argument("profile", choices=["poetry", *GROUPS], help="how far to go; poetry stops at that step")
    parser.add_argument("--generate", action="store_true", help="generate anew even what seems up to date")
    arguments = parser.parse_args()
    name = "preparing"
    try:
        with alone():
            for step in steps(arguments.profile):
                name = step.name
                step.perform(again=arguments.generate and name in GENERATED)
    except (StepError, node_tool.NodeMissingError, OSError) as error:
        print(f"setup: {name} failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nsetup: interrupted at {name}; the next run carries on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
