"""The queue of writers: it wakes the next one, and never stands in the way for long, whatever happens to who is first."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.engine import ConnectionOptions, Connections
from autogpt_server.data.engine.sqlite import begin, commit, open_writer, rollback
from autogpt_server.data.engine.turns import Turn
from data.engine.conftest import ROOT

LONG_S = 20.0

# Takes the turn, and keeps it without SQLite's lock: as a process does that is stopped right before BEGIN or right after COMMIT.
HOLDER = """
import sys
from pathlib import Path
from autogpt_server.data.engine.turns import Turn
turn = Turn(Path(sys.argv[1]))
assert turn.take()
print("mine", flush=True)
sys.stdin.readline()
turn.give()
print("given", flush=True)
sys.stdin.readline()
"""

# The same, and a forked child that lives on.
FORKED_HOLDER = """
import os, sys, time
from pathlib import Path
from autogpt_server.data.engine.turns import Turn
turn = Turn(Path(sys.argv[1]))
assert turn.take()
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
sys.stdin.readline()
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turn"


@pytest.fixture
def turn(path: Path) -> Iterator[Turn]:
    turn = Turn(path)
    yield turn
    turn.close()


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts programs that get the path of the file; they are killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(path)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function in a thread; what is returned waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result() -> Any:
        thread.join(LONG_S)
        return results[0]

    return result


def test_one_has_it_at_a_time(path: Path, turn: Turn) -> None:
    with closing(Turn(path)) as other:
        inside: list[str] = []

        def hundred(mine: Turn, name: str) -> None:
            for _ in range(100):
                while not mine.take():  # the other one was kept from running for very long
                    pass
                inside.append(name)
                assert inside == [name]
                inside.remove(name)
                mine.give()

        results = [in_thread(lambda: hundred(turn, "a")), in_thread(lambda: hundred(other, "b"))]
        for result in results:
            assert result() is None


def test_it_is_given_back_by_whoever_dies(monkeypatch: pytest.MonkeyPatch, turn: Turn, start: Start) -> None:
    monkeypatch.setattr("autogpt_server.data.engine.turns.PATIENCE_S", LONG_S)
    holder = start(HOLDER)
    assert first_line(holder) == "mine"
    taking = in_thread(turn.take)
    os.kill(holder.pid, signal.SIGKILL)
    assert taking() is True


def test_whoever_waits_for_a_stopped_process_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, path: Path, turn: Turn, start: Start
) -> None:
    holder = start(HOLDER)
    assert first_line(holder) == "mine"
    os.kill(holder.pid, signal.SIGSTOP)
    assert turn.take() is False
    monkeypatch.setattr("autogpt_server.data.engine.turns.PATIENCE_S", 1e6)
    assert turn.take() is False, "not again the same wait"
    turn.give()
    os.kill(holder.pid, signal.SIGCONT)
    tell(holder)
    assert first_line(holder) == "given"
    deadline = time.monotonic() + LONG_S
    while not turn.take():  # what was asked for in vain is given back when it comes
        assert time.monotonic() < deadline
    with closing(Turn(path)) as other:
        monkeypatch.setattr("autogpt_server.data.engine.turns.PATIENCE_S", 0.01)
        assert other.take() is False
        turn.give()
        while not other.take():
            assert time.monotonic() < deadline


def test_a_forked_child_that_lives_on_keeps_it_and_others_do_without(path: Path, start: Start) -> None:
    holder = start(FORKED_HOLDER)
    child = int(first_line(holder))
    try:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with closing(Turn(path)) as turn:
            assert turn.take() is False
    finally:
        os.kill(child, signal.SIGKILL)


def test_closing_while_waiting(path: Path, turn: Turn) -> None:
    """The waiting thread ends, and keeps nothing."""
    assert turn.take()
    other = Turn(path)
    assert other.take() is False
    other.close()
    turn.give()
    deadline = time.monotonic() + LONG_S
    while any(thread.name == "sqlite-turn" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
    assert turn.take()


def test_transactions_take_and_give_it(path: Path, turn: Turn, tmp_path: Path) -> None:
    def is_free() -> bool:
        free = turn.take()
        turn.give()
        return free

    with closing(open_writer(ConnectionOptions(tmp_path / "x.db", "NORMAL", turn_path=path))) as connection:
        assert is_free()
        for end in (commit, rollback):
            begin(connection, 1)
            with closing(Turn(path)) as other:
                assert not other.take()
            end(connection)
            assert is_free()
        with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            with pytest.raises(Exception, match="busy"):
                begin(connection, 0.01)
            assert is_free()


async def test_writes_go_on_while_a_stopped_process_has_the_turn(start: Start, path: Path, tmp_path: Path) -> None:
    """SQLite's lock alone decides who may write."""
    holder = start(HOLDER)
    assert first_line(holder) == "mine"
    os.kill(holder.pid, signal.SIGSTOP)
    connections = Connections(ConnectionOptions(tmp_path / "x.db", "NORMAL", turn_path=path))
    await connections.open()
    await connections.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
    for _ in range(100):
        await connections.write(lambda c: c.execute("INSERT INTO t VALUES (1)") and None)
    assert await connections.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) == (100,)
    await connections.aclose()


async def test_a_folder_that_is_missing_is_no_hindrance(tmp_path: Path) -> None:
    options = ConnectionOptions(tmp_path / "x.db", "NORMAL", turn_path=tmp_path / "missing" / "turn")
    connections = Connections(options)
    await connections.open()
    await connections.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
    await connections.aclose()
