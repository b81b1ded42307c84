"""The conformance suite's own client, generated once into pytest's cache, and databases with its tables."""

import importlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autogpt_server.data.engine import ConnectionOptions, Synchronous, bind

Sql = Callable[..., list[tuple[Any, ...]]]
"""Runs a statement with its parameters and returns the rows."""

ROOT = Path(__file__).parents[3]
SCHEMA = Path(__file__).with_name("conformance.prisma")


@dataclass(frozen=True)
class Conformance:
    """A client generated from ``conformance.prisma``, and a database file with its tables and no rows.

    It is a package of its own, beside the product's ``prisma``: its error classes and value types are others.
    """

    package: ModuleType
    folder: Path
    plans: Path

    @property
    def empty_database(self) -> Path:
        """Copy it, do not open it."""
        return self.folder / "empty.db"

    def client(
        self, path: Path, *, synchronous: Synchronous = "NORMAL", busy_timeout_s: float = 30, read_only: bool = False
    ) -> Any:
        """A client for the database at ``path``, not connected."""
        connection = ConnectionOptions(path, synchronous, busy_timeout_s, read_only)
        return bind(self.package.Prisma, connection, plans_dir=self.plans)


@pytest.fixture(scope="session")
def conformance(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Conformance:
    """Generated with the locked tools; cached by the schema and the versions involved. Plans are compiled anew."""
    assert pytestconfig.cache is not None
    key = f"{SCHEMA.read_text()}{version('prisma')}{version('pydantic')}{sys.version_info[:2]}"
    folder = pytestconfig.cache.mkdir("conformance") / sha256(key.encode()).hexdigest()[:16]
    if not folder.exists():
        _generate(folder)
    sys.path.insert(0, str(folder))
    return Conformance(importlib.import_module("conformance_client"), folder, tmp_path_factory.mktemp("plans"))


def _generate(folder: Path) -> None:
    """Several test processes may do this at once: each in a folder of its own, and one of them is kept."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="generating-"))
    schema = temporary / "schema.prisma"
    shutil.copy(SCHEMA, schema)
    _prisma("generate", "--schema", str(schema))
    sql = _prisma("migrate", "diff", "--from-empty", "--to-schema-datamodel", str(schema), "--script")
    (temporary / "schema.sql").write_text(sql)
    with closing(sqlite3.connect(temporary / "empty.db")) as connection:
        connection.executescript("PRAGMA journal_mode=WAL;" + sql)
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)


def _prisma(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "node_tool.py"), "prisma", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(arguments)} failed; has `make setup` been run?\n{result.stdout}{result.stderr}")
    return result.stdout


@pytest.fixture
def database(conformance: Conformance, tmp_path: Path) -> Path:
    """A database file with the suite's tables."""
    return Path(shutil.copy(conformance.empty_database, tmp_path / "conformance.db"))


@pytest.fixture
async def db(conformance: Conformance, database: Path) -> AsyncIterator[Any]:
    """A connected client."""
    client = conformance.client(database)
    await client.connect()
    yield client
    await client.disconnect()


@pytest.fixture
def errors(conformance: Conformance) -> Any:
    """The error classes of the suite's client."""
    return conformance.package.errors


@pytest.fixture
def sql(database: Path) -> Iterator[Sql]:
    """Plain SQL on the same file, through the standard library."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")

        def run(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
            return connection.execute(statement, parameters).fetchall()

        yield run
