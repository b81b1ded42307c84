"""The Prisma client is generated without any request: neither to Prisma's servers nor to anybody else.

Recorders inside every Node and Python process of the generation note each connection and name lookup, and all proxies are
a loopback server that refuses and notes whatever arrives. The control shows that this catches what Prisma does by default.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import node_tool
import pytest

RECORDERS = Path(__file__).parent / "recorders"
SCHEMA = node_tool.ROOT / "schema.prisma"
PRISMA_VARIABLES = (
    "PRISMA_QUERY_ENGINE_BINARY",
    "PRISMA_QUERY_ENGINE_LIBRARY",
    "PRISMA_SCHEMA_ENGINE_BINARY",
    "CHECKPOINT_DISABLE",
)


@dataclass(frozen=True)
class Watch:
    """What was tried so far, and the environment that makes it visible."""

    file: Path
    proxied: list[str]
    environment: dict[str, str]

    def attempts(self) -> list[str]:
        recorded = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [*recorded, *self.proxied]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    proxied: list[str] = []

    class Refusal(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            proxied.append(self.requestline)
            self.send_error(403)

        do_GET = do_HEAD = do_POST = do_CONNECT = refuse

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    proxy = f"http://127.0.0.1:{server.server_port}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    environment = {
        **{
            name: value for name, value in os.environ.items() if name not in {*PRISMA_VARIABLES, "NO_PROXY", "no_proxy"}
        },
        **dict.fromkeys((*names, *(name.lower() for name in names)), proxy),
        "NETWORK_RECORD": str(tmp_path / "network"),
        "NODE_OPTIONS": f'--require "{RECORDERS / "record.cjs"}"',
        "PYTHONPATH": str(RECORDERS),
    }
    try:
        yield Watch(tmp_path / "network", proxied, environment)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """The project's schema, generating into a folder of this test instead of the environment that all tests run in."""
    text = SCHEMA.read_text(encoding="utf-8")
    generator = "generator client {\n"
    assert generator in text
    path = tmp_path / "schema.prisma"
    path.write_text(text.replace(generator, f'{generator}  output = "{tmp_path}/generated"\n'), encoding="utf-8")
    return path


@pytest.mark.parametrize("cli", ["make", "poetry run"])
def test_generation_makes_no_request(watch: Watch, schema: Path, cli: str) -> None:
    scripts = node_tool.ROOT / "scripts"
    programs = {"make": [sys.executable, str(scripts / "node_tool.py"), "prisma"], "poetry run": ["prisma"]}
    environment = watch.environment | {"PATH": node_tool.environment(node_tool.find_node())["PATH"]}
    command = [*programs[cli], "generate", "--schema", str(schema)]

    result = subprocess.run(
        command, cwd=node_tool.ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )

    assert result.returncode == 0, result.stderr
    assert "class AgentGraph(" in (schema.parent / "generated" / "models.py").read_text(encoding="utf-8")
    assert watch.attempts() == []


def test_control_without_our_configuration_prisma_would_download(watch: Watch, schema: Path) -> None:
    node = node_tool.find_node()
    environment = watch.environment | {"PATH": node_tool.environment(node)["PATH"]}
    command = node_tool.command(node, "prisma", "generate", "--schema", str(schema))
    elsewhere = schema.parent  # prisma.config.mjs is found in the working directory

    result = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=50, check=False
    )

    assert result.returncode != 0
    assert any("prisma.sh" in attempt for attempt in watch.attempts())
    assert any(attempt.startswith("node connect") for attempt in watch.attempts())


def test_control_python_is_watched(watch: Watch) -> None:
    lookup = "import socket; socket.getaddrinfo('localhost', 1)"

    subprocess.run([sys.executable, "-c", lookup], env=watch.environment, timeout=30, check=True)

    assert watch.attempts() == ["python socket.getaddrinfo ('localhost', 1, 0, 0, 0)"]
