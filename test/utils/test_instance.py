"""The files of a running server."""

import os
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


def test_a_server_waits_for_the_processes_of_a_former_one(instance: Instance) -> None:
    left_behind = instance.join()
    with pytest.raises(AlreadyRunning, match="processes of a former server"):
        instance.own(wait_s=0.1)
    assert instance.server_lock.is_free()
    left_behind.release()
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
