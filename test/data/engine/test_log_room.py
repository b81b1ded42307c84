"""Room for the write-ahead log, made at once."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autogpt_server.data.engine import ConnectionOptions, Connections
from autogpt_server.data.engine.sqlite import open_reader, reserve_log


class Usage(NamedTuple):
    free: int


def log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def add(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("INSERT INTO Tag VALUES (?)", (name,))


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM Tag ORDER BY name")]


async def test_the_log_has_its_full_length_and_holds_what_is_committed(database: Path, tmp_path: Path) -> None:
    connections = Connections(ConnectionOptions(database, "FULL"))
    await connections.open()
    await connections.write(lambda c: add(c, "a"))
    assert await connections.reserve_log()
    size = log_of(database).stat().st_size
    assert size > 16_000_000
    await connections.write(lambda c: add(c, "b"))
    assert await connections.read(names) == ["a", "b"]
    assert await connections.reserve_log(), "once more"
    assert log_of(database).stat().st_size == size
    # As after the loss of power: another process finds all of it, and goes on.
    folder = tmp_path / "after"
    folder.mkdir()
    for path in (database, log_of(database)):
        shutil.copy(path, folder / path.name)
    await connections.aclose()
    assert not log_of(database).exists()
    connections = Connections(ConnectionOptions(folder / database.name, "FULL"))
    await connections.open()
    assert await connections.read(names) == ["a", "b"]
    await connections.write(lambda c: add(c, "c"))
    await connections.aclose()
    with closing(sqlite3.connect(folder / database.name)) as stored:
        assert names(stored) == ["a", "b", "c"]
        assert stored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_disk_without_plenty_of_room_is_left_alone(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def little(_: Any) -> Usage:
        return Usage(free=100_000_000)

    connections = Connections(ConnectionOptions(database, "FULL"))
    await connections.open()
    await connections.write(lambda c: add(c, "a"))
    before = log_of(database).stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", little)
    assert not await connections.reserve_log()
    assert log_of(database).stat().st_size == before
    await connections.aclose()


async def test_what_fails_on_the_way_does_no_harm(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise OSError("No space left on device")

    connections = Connections(ConnectionOptions(database, "FULL"))
    await connections.open()
    monkeypatch.setattr(os, "fsync", full)
    assert not await connections.reserve_log()
    await connections.write(lambda c: add(c, "a"))
    assert await connections.read(names) == ["a"]
    await connections.aclose()


def test_without_a_log_there_is_nothing_to_make_longer(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as plain:
        plain.execute("PRAGMA journal_mode=DELETE")
        assert not reserve_log(plain, ConnectionOptions(database))
        assert not plain.in_transaction
    with closing(open_reader(ConnectionOptions(database))) as reader:
        assert names(reader) == []
