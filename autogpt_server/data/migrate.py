"""Brings a database file to this program's schema.

A migration is a folder `migrations/<timestamp>_<name>/migration.sql`, authored with `make migration name=...`. Applied ones are recorded in the
table `_prisma_migrations` as the Prisma CLI does, so that `prisma migrate status` agrees (columns and checksum, the SHA-256 of the file in hex: schema-engine
of Prisma 6.19, `sql-schema-connector`). Only the process that holds the server's lock on the file may call `migrate`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
_BACKUPS_KEPT = 3

_RECORD_TABLE = """
CREATE TABLE IF NOT EXISTS "_prisma_migrations" (
    "id"                    TEXT PRIMARY KEY NOT NULL,
    "checksum"              TEXT NOT NULL,
    "finished_at"           DATETIME,
    "migration_name"        TEXT NOT NULL,
    "logs"                  TEXT,
    "rolled_back_at"        DATETIME,
    "started_at"            DATETIME NOT NULL DEFAULT current_timestamp,
    "applied_steps_count"   INTEGER UNSIGNED NOT NULL DEFAULT 0
)
"""


class DatabaseMissing(AutoGPTServerError):
    """There is no database yet; `poetry run app` makes one, and so does `poetry run cli db migrate`."""

    code = "database_missing"


class DatabaseOutdated(AutoGPTServerError):
    """The database has to be migrated first; restart the server, or run `poetry run cli db migrate` while it is down."""

    code = "database_outdated"


class DatabaseNewer(AutoGPTServerError):
    """The database was written by a newer version of this server; use that version, or restore a backup."""

    code = "database_newer"


class MigrationFailed(AutoGPTServerError):
    """A migration could not be applied; the database is as it was before."""

    code = "migration_failed"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """The statements one by one (comments stay with the statement they precede)."""
        statement = ""
        *closed, rest = self.sql.split(";")
        for piece in closed:
            statement += f"{piece};"
            if sqlite3.complete_statement(statement):  # else the semicolon stands in a text, a comment or a trigger
                yield statement
                statement = ""
        statement += rest
        if _without_comments(statement):
            yield statement


def known_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """All migrations this program has, oldest first."""
    return [
        Migration(path.parent.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/migration.sql"))
    ]


def check_version(path: Path, folder: Path = MIGRATIONS) -> None:
    """Raise unless the database's migrations are exactly this program's."""
    if not path.exists() or path.stat().st_size == 0:
        raise DatabaseMissing(
            f"There is no database at {path}. `poetry run app` makes one, and so does `poetry run cli db migrate`."
        )
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        applied = _applied(connection)
    if pending := _pending(applied, known_migrations(folder), path):
        raise DatabaseOutdated(
            f"The database {path} lacks {len(pending)} migration(s), first {pending[0].name!r}. Restart the server, or run `poetry run cli db migrate` while it is down."
        )


def migrate(
    path: Path, *, folder: Path = MIGRATIONS, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> list[str]:
    """Apply what the database lacks, and answer the names of what was applied.

    Each migration is one transaction, checked for dangling references before it is committed; a copy of the file is made before the first one
    (the newest 3 are kept). Raises `DatabaseNewer` or `MigrationFailed`, in which case nothing of that migration stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists() or path.stat().st_size == 0
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as connection:
        if is_new:
            # Both are fixed by the first page that is written.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
        pending = _pending(_applied(connection), known_migrations(folder), path)
        if pending and not is_new:
            _back_up(connection, path, now())
        # A table rebuild with foreign keys on would cascade to every child row, and inside a transaction the pragma does nothing.
        connection.execute("PRAGMA foreign_keys = OFF")
        for migration in pending:
            _apply(connection, migration, now)
    return [migration.name for migration in pending]


def _applied(connection: sqlite3.Connection) -> dict[str, str]:
    """Name -> checksum of the migrations that the database has."""
    if not connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_prisma_migrations'"
    ).fetchone():
        return {}
    rows = connection.execute(
        'SELECT "migration_name", "checksum" FROM "_prisma_migrations" WHERE "rolled_back_at" IS NULL AND "finished_at" IS NOT NULL ORDER BY "migration_name"'
    )
    return dict(rows.fetchall())


def _pending(applied: dict[str, str], known: Sequence[Migration], path: Path) -> list[Migration]:
    names = {migration.name for migration in known}
    unknown = sorted(applied.keys() - names)
    if unknown:
        raise DatabaseNewer(
            f"The database {path} has the migration {unknown[-1]!r}, which this version of the server does not know. Use the version that wrote it, or restore a backup."
        )
    for migration in known:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationFailed(
                f"The migration {migration.name!r} was changed after the database {path} had applied it. Restore the file as it was; "
                "what has to change belongs in a new migration."
            )
    return [migration for migration in known if migration.name not in applied]


def _apply(connection: sqlite3.Connection, migration: Migration, now: Callable[[], datetime]) -> None:
    started = now()
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in migration.statements():
            connection.execute(statement)
        dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
        if dangling is not None:
            raise MigrationFailed(
                f"The migration {migration.name!r} would leave rows of {dangling[0]!r} that refer to missing rows of {dangling[2]!r}. The database is as it was."
            )
        connection.execute(_RECORD_TABLE)
        connection.execute(
            'INSERT INTO "_prisma_migrations" ("id", "checksum", "finished_at", "migration_name", "started_at", "applied_steps_count") VALUES (?, ?, ?, ?, ?, 1)',
            (new_id(), migration.checksum, _milliseconds(now()), migration.name, _milliseconds(started)),
        )
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        raise MigrationFailed(
            f"The migration {migration.name!r} failed ({error}). The database is as it was before it."
        ) from error
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _back_up(connection: sqlite3.Connection, path: Path, moment: datetime) -> None:
    """Copy the database to `<name>.<time>.bak` beside it, through SQLite so that the WAL is included."""
    target = path.with_name(f"{path.name}.{moment:%Y%m%dT%H%M%S%f}.bak")
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
    for old in sorted(path.parent.glob(f"{path.name}.*.bak"))[:-_BACKUPS_KEPT]:
        old.unlink()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _without_comments(statement: str) -> str:
    return "".join(line for line in statement.splitlines() if not line.lstrip().startswith("--")).strip()
