"""Author and check migrations: `make migration name=add_priority`, `make migration-check`.

`new NAME` writes migrations/<UTC time>_<NAME>/migration.sql with the SQL that leads from the last migration to today's
schema.prisma, worked out by the schema engine of the locked Prisma CLI. The server applies the files of this folder
(autogpt_server/data); the Prisma CLI could, too. A migration that was published is never edited: write the next one.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import node_tool
from node_tool import ROOT

MIGRATIONS = ROOT / "migrations"
SCHEMA = ROOT / "schema.prisma"
LOCK_FILE = """# Read by the Prisma CLI: the kind of database that the SQL of this folder is for.
provider = "sqlite"
"""


class MigrationError(Exception):
    """What is wrong with the migrations, and what to do."""


def missing_sql() -> str:
    """The SQL from the last migration to schema.prisma; empty if they agree.

    Raises:
        MigrationError: a file is not valid; the message is the Prisma CLI's.
    """
    node = node_tool.find_node()
    source = ["--from-migrations", str(MIGRATIONS)] if folders() else ["--from-empty"]
    sides = [*source, "--to-schema-datamodel", str(SCHEMA)]
    command = node_tool.command(node, "prisma", "migrate", "diff", *sides, "--script", "--exit-code")
    environment = node_tool.environment(node) | {"DATABASE_URL": ":memory:"}  # not the user's, which it would open
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    match result.returncode:
        case 0:
            return ""
        case 2:  # the sides differ
            return result.stdout.strip() + "\n"
        case _:
            raise MigrationError(f"the Prisma CLI could not compare them:\n{result.stderr or result.stdout}")


def folders() -> list[Path]:
    """The migrations, oldest first."""
    return sorted(path.parent for path in MIGRATIONS.glob("*/migration.sql"))


def new(name: str) -> None:
    """Write a migration, and show that SQLite takes it and that nothing is missing after it."""
    slug = re.sub(r"\W+", "_", name.strip().lower()).strip("_")
    if not slug:
        raise MigrationError("say what changes: make migration name=add_priority")
    MIGRATIONS.mkdir(exist_ok=True)
    (MIGRATIONS / "migration_lock.toml").write_text(LOCK_FILE, encoding="utf-8")
    sql = missing_sql()
    if not sql:
        print("Nothing to write: the migrations lead to schema.prisma already.")
        return
    folder = MIGRATIONS / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{slug}"
    if folders() and folder.name <= folders()[-1].name:
        raise MigrationError(
            f"{folders()[-1].name} is dated in the future; migrations are applied in the order of their names"
        )
    folder.mkdir()
    path = folder / "migration.sql"
    path.write_text(sql, encoding="utf-8")
    apply_all()
    print(f"Wrote {path.relative_to(ROOT)}. Read it before you commit it.")
    for risk in risks(sql):
        print(f"  look twice: {risk}")


def risks(sql: str) -> list[str]:
    """What can lose data or fail on the rows of an existing database; `migrate diff` itself does not say."""
    created = set(re.findall(r'^CREATE TABLE "(\w+)"', sql, re.MULTILINE))
    rebuilt = sorted(table.removeprefix("new_") for table in created if table.startswith("new_"))
    dropped = [table for table in re.findall(r'^DROP TABLE "(\w+)"', sql, re.MULTILINE) if table not in rebuilt]
    unique = re.findall(r'^CREATE UNIQUE INDEX "\w+" ON "(\w+)"\((.+)\);', sql, re.MULTILINE)
    return [
        *(f"{table} is dropped with all its rows" for table in dropped),
        *(f"{table} is rebuilt: a column that its INSERT does not name is lost" for table in rebuilt),
        *(f"{table} must not repeat {columns}" for table, columns in unique if table not in created),
    ]


def check() -> None:
    """Raise unless SQLite takes all migrations and they lead to schema.prisma."""
    apply_all()
    if sql := missing_sql():
        raise MigrationError(
            f"schema.prisma is ahead of the migrations by:\n\n{sql}\nRun: make migration name=WHAT_CHANGES"
        )
    print(f"{len(folders())} migrations lead to schema.prisma.")


def apply_all() -> None:
    """Apply every migration to an empty database in memory, as a first proof that SQLite takes them."""
    with closing(sqlite3.connect(":memory:")) as database:
        for folder in folders():
            try:
                database.executescript((folder / "migration.sql").read_text(encoding="utf-8"))
            except sqlite3.Error as error:
                raise MigrationError(f"SQLite refuses {folder.name}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description="Author and check migrations.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("new", help="write a migration").add_argument("name", help="what changes, in a few words")
    commands.add_parser("check", help="fail unless the migrations lead to schema.prisma")
    arguments = parser.parse_args()
    try:
        if arguments.command == "new":
            new(arguments.name)
        else:
            check()
    except (MigrationError, node_tool.NodeMissingError) as error:
        print(f"migrations: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
