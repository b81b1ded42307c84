"""Migrations: all or nothing, recorded, backed up, and refused where they do not fit."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autogpt_server.data.migrate import (
    MIGRATIONS,
    DatabaseMissing,
    DatabaseNewer,
    DatabaseOutdated,
    MigrationFailed,
    check_version,
    known_migrations,
    migrate,
)

FIRST = """
-- A comment; with a semicolon.
CREATE TABLE "Parent" ("id" INTEGER PRIMARY KEY, "text" TEXT NOT NULL DEFAULT 'a;b');
CREATE TABLE "Child" ("id" INTEGER PRIMARY KEY, "parent" INTEGER NOT NULL REFERENCES "Parent" ("id") ON DELETE CASCADE);
"""
REBUILD = """
CREATE TABLE "new_Parent" ("id" INTEGER PRIMARY KEY, "text" TEXT, "more" TEXT);
INSERT INTO "new_Parent" ("id", "text") SELECT "id", "text" FROM "Parent";
DROP TABLE "Parent";
ALTER TABLE "new_Parent" RENAME TO "Parent"
"""


class Folder:
    """Migrations and the database that they are for."""

    def __init__(self, path: Path) -> None:
        self.migrations = path / "migrations"
        self.database = path / "data" / "test.db"

    def add(self, name: str, sql: str) -> None:
        (self.migrations / name).mkdir(parents=True)
        (self.migrations / name / "migration.sql").write_text(sql)

    def migrate(self, now: datetime | None = None) -> list[str]:
        return migrate(self.database, folder=self.migrations, now=lambda: now or datetime.now(UTC))

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def backups(self) -> list[str]:
        return sorted(path.name for path in self.database.parent.glob("*.bak"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.add("1_first", FIRST)
    return folder


def test_a_new_database(folder: Folder) -> None:
    with pytest.raises(DatabaseMissing, match="poetry run app"):
        check_version(folder.database, folder.migrations)
    assert folder.migrate() == ["1_first"]
    assert folder.migrate() == []
    check_version(folder.database, folder.migrations)
    assert folder.execute("PRAGMA journal_mode") == [("wal",)]
    assert folder.execute("PRAGMA auto_vacuum") == [(2,)]
    assert folder.backups() == []
    (recorded,) = folder.execute(
        'SELECT "migration_name", "applied_steps_count", length("checksum"), "finished_at" > 0 FROM "_prisma_migrations"'
    )
    assert recorded == ("1_first", 1, 64, 1)


def test_a_table_that_is_rebuilt_keeps_its_children(folder: Folder) -> None:
    folder.migrate()
    folder.execute('INSERT INTO "Parent" ("id") VALUES (1)')
    folder.execute('INSERT INTO "Child" ("id", "parent") VALUES (2, 1)')
    folder.add("2_rebuild", REBUILD)
    with pytest.raises(DatabaseOutdated, match="2_rebuild"):
        check_version(folder.database, folder.migrations)
    assert folder.migrate() == ["2_rebuild"]
    assert folder.execute('SELECT * FROM "Child"') == [(2, 1)]
    assert folder.execute('SELECT * FROM "Parent"') == [(1, "a;b", None)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ('DELETE FROM "Parent"; CREATE TABLE "Parent" ("id" INTEGER);', "already exists"),
        ('DELETE FROM "Parent";', "refer to missing rows of 'Parent'"),
    ],
)
def test_what_fails_leaves_everything_as_it_was(folder: Folder, sql: str, message: str) -> None:
    folder.migrate()
    folder.execute('INSERT INTO "Parent" ("id") VALUES (1)')
    folder.execute('INSERT INTO "Child" ("id", "parent") VALUES (2, 1)')
    folder.add("2_good", 'CREATE TABLE "Good" ("id" INTEGER);')
    folder.add("3_bad", sql)
    with pytest.raises(MigrationFailed, match=message):
        folder.migrate()
    assert folder.execute('SELECT "id" FROM "Parent"') == [(1,)]
    assert folder.execute('SELECT "migration_name" FROM "_prisma_migrations" ORDER BY 1') == [("1_first",), ("2_good",)]


def test_a_newer_database_is_refused(folder: Folder) -> None:
    folder.add("2_later", 'CREATE TABLE "Later" ("id" INTEGER);')
    folder.migrate()
    (folder.migrations / "2_later" / "migration.sql").unlink()
    with pytest.raises(DatabaseNewer, match="2_later"):
        check_version(folder.database, folder.migrations)
    with pytest.raises(DatabaseNewer, match="2_later"):
        folder.migrate()


def test_a_migration_that_was_changed_afterwards_is_refused(folder: Folder) -> None:
    folder.migrate()
    (folder.migrations / "1_first" / "migration.sql").write_text(f"{FIRST}\n-- changed")
    with pytest.raises(MigrationFailed, match="was changed"):
        folder.migrate()


def test_the_newest_backups_are_kept_and_whole(folder: Folder) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    folder.migrate(start)
    folder.execute('INSERT INTO "Parent" ("id") VALUES (7)')
    for number in range(2, 7):
        folder.add(f"{number}_more", f'CREATE TABLE "More{number}" ("id" INTEGER);')
        folder.migrate(start + timedelta(days=number))
    assert folder.backups() == [f"test.db.2026030{day}T000000000000.bak" for day in (5, 6, 7)]
    with closing(sqlite3.connect(folder.database.with_name(folder.backups()[-1]))) as copy:
        assert copy.execute('SELECT "id" FROM "Parent"').fetchall() == [(7,)]
        assert copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'More5'").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'More6'").fetchone() == (0,)


def test_a_start_that_was_killed_half_way_is_carried_on(folder: Folder) -> None:
    folder.database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(folder.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # the first thing a migration does to a new file
    assert folder.migrate() == ["1_first"]


def test_the_real_migrations_apply(tmp_path: Path) -> None:
    assert migrate(tmp_path / "real.db") == [migration.name for migration in known_migrations(MIGRATIONS)]
    check_version(tmp_path / "real.db")
