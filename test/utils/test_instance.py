"""The files of a running server."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from autogpt_server.utils.instance import AlreadyRunning, Instance, InstanceError, ServerStatus, ServiceStatus
from support.running import settings_for


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(settings_for(tmp_path))


def status_of(incarnation: str) -> ServerStatus:
    service = ServiceStatus("A", "ready", 1, "here", 0)
    return ServerStatus(incarnation, "ready", os.getpid(), "http://127.0.0.1:8000", "/x.log", "now", (service,))


def test_one_server_owns_a_database(instance: Instance, tmp_path: Path) -> None:
    instance.own(wait_s=1)
    with pytest.raises(AlreadyRunning, match=f"in use by another server \\(process {os.getpid()}\\)") as caught:
        Instance(settings_for(tmp_path)).own(wait_s=1)
    assert caught.value.details["pid"] == os.getpid()
    instance.disown()
    other = Instance(settings_for(tmp_path))
    other.own(wait_s=1)
    other.disown()


def test_two_databases_are_two_servers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = Instance(settings_for(tmp_path / "a")), Instance(settings_for(tmp_path / "b"))
    one.own(wait_s=1)
    other.own(wait_s=1)
    assert one.identity().secret != other.identity().secret
    one.disown()
    other.disown()


JOIN = """
import signal, sys, threading
from pathlib import Path
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.settings import Settings
membership = Instance(Settings(database_url=sys.argv[1])).join()
print("joined", flush=True)
sys.stdin.read() if sys.argv[2] == "ends" else threading.Event().wait()
"""


@pytest.fixture
def member(tmp_path: Path) -> Generator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts a process that belongs to a server, without a server."""
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", JOIN, settings_for(tmp_path).database_url, how]
        root = str(Path(__file__).parents[2])
        started.append(subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "joined\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


Member = Callable[[str], "subprocess.Popen[str]"]


def test_a_server_waits_for_the_processes_of_a_former_one(instance: Instance, member: Member) -> None:
    left_behind = member("ends")
    assert left_behind.stdin is not None
    threading.Timer(0.3, left_behind.stdin.close).start()
    instance.own(wait_s=30)
    assert left_behind.wait(30) == 0
    instance.disown()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/locks to find them")
def test_those_that_do_not_end_are_killed(instance: Instance, member: Member) -> None:
    left_behind = [member("stays"), member("stays")]
    instance.own(wait_s=0.1)
    assert [process.wait(30) for process in left_behind] == [-9, -9]
    instance.disown()


def test_it_never_kills_itself(instance: Instance) -> None:
    own_membership = instance.join()
    with pytest.raises(AlreadyRunning, match="processes of a former server"):
        instance.own(wait_s=0.1)
    assert instance.server_lock.is_free()
    own_membership.release()
    instance.own(wait_s=1)
    instance.disown()


def test_identity_is_new_for_each_server_and_private(instance: Instance) -> None:
    with pytest.raises(InstanceError, match="no server runs on the database"):
        instance.identity()
    instance.own(wait_s=1)
    first = instance.identity()
    assert len(first.secret) == 32
    assert first.secret.hex() not in repr(first)
    file = instance.folder / "instance.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert instance.folder.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    with pytest.raises(InstanceError, match="chmod 600"):
        instance.identity()
    file.write_text("rubbish")
    with pytest.raises(InstanceError, match="cannot be read"):
        instance.identity()
    instance.disown()
    instance.own(wait_s=1)
    assert instance.identity().secret != first.secret
    assert instance.identity().instance != first.instance
    instance.disown()


def test_a_status_is_believed_only_while_its_writer_owns_the_database(instance: Instance) -> None:
    owner = instance.own(wait_s=1)
    assert instance.status() is None
    instance.write_status(status_of("somebody else"))
    assert instance.status() is None
    instance.write_status(status_of(owner.incarnation))
    assert instance.status() == status_of(owner.incarnation)
    instance.server_lock.release()
    assert instance.status() is None


def test_folders_are_made_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    deep = Instance(settings_for(tmp_path, database_url=f"file:{tmp_path}/new/folder/x.db"))
    deep.own(wait_s=1)
    deep.disown()
    (tmp_path / "file").touch()
    with pytest.raises(InstanceError, match="change its rights or DATABASE_URL"):
        Instance(settings_for(tmp_path, database_url=f"file:{tmp_path}/file/x.db")).own(wait_s=1)


def test_each_worker_incarnation_has_a_lock(instance: Instance) -> None:
    lock = instance.worker_lock("w-1")
    assert lock.is_free()
    assert lock.path.parent.parent == instance.folder
