"""`make migration` and `make migration-check` in a small project of their own."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import migration
import node_tool
import pytest

ROOT = node_tool.ROOT


SCHEMA = """
datasource db {
  provider = "sqlite"
  url      = env("DATABASE_URL")
}

model Graph {
  id    String @id
  nodes Node[]
}

model Node {
  id      String @id
  graphId String
  graph   Graph  @relation(fields: [graphId], references: [id], onDelete: Cascade)
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A schema without migrations."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prisma.config.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "schema.prisma").write_text(SCHEMA, encoding="utf-8")
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / "migration.py"), *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=50, check=False)


def add_model(project: Path, fields: str) -> None:
    with (project / "schema.prisma").open("a", encoding="utf-8") as schema:
        schema.write(f"\nmodel Extra {{\n  id String @id\n{fields}}}\n")


def migrations(project: Path) -> list[Path]:
    return sorted((project / "migrations").glob("*/migration.sql"))


def test_changes_of_the_schema_become_migrations(project: Path) -> None:
    first = run(project, "new", "init")
    assert first.returncode == 0, first.stderr
    assert "look twice" not in first.stdout
    add_model(project, "  note String?\n")

    refused = run(project, "check")
    assert refused.returncode == 1
    assert 'CREATE TABLE "Extra"' in refused.stderr
    assert 'CREATE TABLE "Graph"' not in refused.stderr
    assert "make migration name=" in refused.stderr

    assert run(project, "new", "Extra notes!").returncode == 0
    assert [path.parent.name.partition("_")[2] for path in migrations(project)] == ["init", "extra_notes"]
    with closing(sqlite3.connect(":memory:")) as database:
        for path in migrations(project):
            database.executescript(path.read_text(encoding="utf-8"))
        database.execute("INSERT INTO Extra (id, note) VALUES ('1', NULL)")

    assert "2 migrations" in run(project, "check").stdout
    assert "Nothing to write" in run(project, "new", "again").stdout
    assert not list(project.glob("*.db"))


def test_a_migration_needs_a_name(project: Path) -> None:
    result = run(project, "new", "  ")

    assert result.returncode == 1
    assert "make migration name=" in result.stderr


def test_sql_that_sqlite_refuses_is_named(project: Path) -> None:
    broken = project / "migrations" / "99990101000000_broken"
    broken.mkdir(parents=True)
    (broken / "migration.sql").write_text("CREATE TABEL x;\n")

    result = run(project, "check")

    assert result.returncode == 1
    assert "SQLite refuses 99990101000000_broken" in result.stderr


def test_a_schema_that_is_not_valid_is_explained(project: Path) -> None:
    add_model(project, "  other Missing\n")

    result = run(project, "check")

    assert result.returncode == 1
    assert "Missing" in result.stderr


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('CREATE TABLE "A" (id TEXT);\nCREATE UNIQUE INDEX "A_id" ON "A"("id");\n', []),
        ('DROP TABLE "A";\n', ["A is dropped with all its rows"]),
        (
            'CREATE TABLE "new_A" (id TEXT);\nINSERT INTO "new_A" SELECT id FROM "A";\nDROP TABLE "A";\n',
            ["A is rebuilt: a column that its INSERT does not name is lost"],
        ),
        ('CREATE UNIQUE INDEX "A_b" ON "A"("b", "c");\n', ['A must not repeat "b", "c"']),
    ],
)
def test_what_may_lose_data_is_pointed_out(sql: str, expected: list[str]) -> None:
    assert migration.risks(sql) == expected
