"""Services that call each other, in real processes."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, assert_type

import pytest
import trustme

from autogpt_server.utils.instance import Identity, Instance, InstanceError
from autogpt_server.utils.rpc.client import ServiceClient
from autogpt_server.utils.rpc.endpoint import Endpoint
from autogpt_server.utils.rpc.exposure import NotAServiceError
from autogpt_server.utils.rpc.handshake import Handshake
from autogpt_server.utils.rpc.transport import Connection, Hint, Listener, Names
from autogpt_server.utils.service import (
    CallRefused,
    CallTimeout,
    InvalidCall,
    NameServer,
    RemoteError,
    ServiceUnavailable,
    call_blocking,
    close_service_client,
    expose,
    get_service_client,
    with_timeout,
)
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.sockets import PortInUse
from autogpt_server.utils.supervisor import Supervisor
from support.processes import Color, Customer, Order, OutOfPaintError, Paint, PaintShop, PaintShopInterface
from support.running import Program, eventually, free_port, owned, settings_for, spec_of

LIMIT_S = 30.0


class House(NamedTuple):
    """A server with a paint shop and a customer."""

    settings: Settings
    identity: Identity
    supervisor: Supervisor


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    settings = settings_for(tmp_path_factory.mktemp("house"), rpc_max_message_bytes=256 * 1024)
    with owned(settings) as instance:
        identity = instance.identity()
        names = NameServer(settings, identity.secret)
        supervisor = Supervisor([spec_of(PaintShop, settings), spec_of(Customer, settings)])
        supervisor.start()
        assert supervisor.wait_ready(LIMIT_S)
        yield House(settings, identity, supervisor)
        supervisor.request_drain()
        assert supervisor.join(LIMIT_S)
        names.close()


@pytest.fixture
async def shop(house: House) -> AsyncIterator[PaintShopInterface]:
    client = get_service_client(PaintShopInterface, house.settings)
    yield client
    close_service_client(client)


async def test_a_call_goes_there_and_back(shop: PaintShopInterface) -> None:
    red = Paint(Color.RED, 1.5, datetime(2026, 1, 1, tzinfo=UTC), (Paint(Color.GREEN, 0.5),))
    order = await shop.mix([red], note="urgent")
    assert_type(order, Order)
    assert order == Order(paints={"0": red}, note="urgent")


async def test_a_typed_error_arrives_as_its_class(shop: PaintShopInterface) -> None:
    with pytest.raises(OutOfPaintError, match=r"only 0\.5 liters of red left") as caught:
        await shop.sell(Color.RED, 1)
    assert caught.value.left == 0.5


async def test_a_defect_arrives_by_name_and_without_what_it_said(shop: PaintShopInterface) -> None:
    with pytest.raises(RemoteError, match="ZeroDivisionError; see the log of PaintShop") as caught:
        await shop.break_down()
    assert "hunter2" not in str(caught.value) + str(caught.value.details)
    assert await shop.echo(1) == 1


async def test_a_result_that_was_not_promised_is_an_error(shop: PaintShopInterface) -> None:
    with pytest.raises(InvalidCall, match="the result is not what the annotation says"):
        await shop.lie()


async def test_what_is_not_exposed_is_not_there(shop: PaintShopInterface, house: House) -> None:
    with pytest.raises(AttributeError, match="PaintShop exposes no hidden; it has blob, block"):
        _ = shop.hidden  # type: ignore[attr-defined]
    raw = Names(house.settings, house.identity.secret)
    uri = raw.find(f"{house.identity.instance}.PaintShop", 5)
    assert uri is not None
    connection = Connection(uri, Handshake(house.identity.secret), 5)
    reply = connection.call("hidden", b"\x80", 5)
    assert b"invalid_call" in reply
    connection.close()


async def test_a_call_that_takes_too_long_ends_on_both_sides(shop: PaintShopInterface) -> None:
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"PaintShop\.take"):
        await with_timeout(shop, 0.3).take(60)
    assert time.monotonic() - began < 5
    while not await shop.was_cancelled():
        assert time.monotonic() - began < LIMIT_S


async def test_a_plain_method_blocks_nobody_else(shop: PaintShopInterface) -> None:
    blocked = asyncio.ensure_future(shop.block(0.5))
    assert await shop.echo("meanwhile") == "meanwhile"
    assert not blocked.done()
    assert await blocked == "blocked"


async def test_the_loop_runs_on_while_a_call_waits(shop: PaintShopInterface) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    await shop.take(0.5)
    ticking.cancel()
    assert ticks > 10


async def test_many_calls_at_once_all_get_their_own_answer(shop: PaintShopInterface) -> None:
    answers = await asyncio.gather(*(shop.echo({"n": number}) for number in range(200)))
    assert answers == [{"n": number} for number in range(200)]


async def test_hints_arrive_in_order_and_are_not_waited_for(shop: PaintShopInterface) -> None:
    for number in range(50):
        await shop.note(f"hint {number}")
    deadline = time.monotonic() + LIMIT_S
    while len(notes := await shop.notes()) < 50:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert notes[-50:] == [f"hint {number}" for number in range(50)]


async def test_a_call_from_a_thread(shop: PaintShopInterface) -> None:
    answer = await asyncio.to_thread(call_blocking, shop.mix, [Paint(Color.RED, 1.0)], note="x")
    assert answer.note == "x"
    with pytest.raises(RuntimeError, match="await the method instead"):
        call_blocking(shop.pid)
    with pytest.raises(TypeError, match="not the method of a service client"):
        call_blocking(asyncio.sleep, 0)


async def test_messages_have_a_limit_in_both_directions(shop: PaintShopInterface) -> None:
    with pytest.raises(InvalidCall, match="RPC_MAX_MESSAGE_BYTES"):
        await shop.blob(b"x" * 300_000, 1)
    with pytest.raises(InvalidCall, match="RPC_MAX_MESSAGE_BYTES"):
        await shop.blob(b"x", 300_000)
    assert len(await shop.blob(b"x", 200_000)) == 200_000


async def test_arguments_are_checked_before_they_leave(shop: PaintShopInterface) -> None:
    with pytest.raises(InvalidCall):
        await shop.sell("mauve", "much")  # type: ignore[arg-type]


async def test_a_killed_service_is_found_again_by_services_and_clients(shop: PaintShopInterface, house: House) -> None:
    customer = get_service_client(Customer, house.settings)
    before = await shop.pid()
    assert await customer.shop_pid() == before
    began = time.monotonic()
    os.kill(before, signal.SIGKILL)
    after = await shop.pid()
    assert after != before
    assert time.monotonic() - began < 5
    assert await customer.shop_pid() == after
    assert await customer.shop_pid_from_thread() == after
    close_service_client(customer)


async def test_a_call_that_broke_half_way_is_not_repeated_unless_it_may(shop: PaintShopInterface) -> None:
    with pytest.raises(ServiceUnavailable, match="may or may not have been done"):
        await shop.die()
    assert isinstance(await shop.pid(), int)


async def test_a_frozen_service_costs_its_callers_their_time_limit_only(shop: PaintShopInterface) -> None:
    pid = await shop.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(CallTimeout):
            await with_timeout(shop, 0.3).echo(1)
        await shop.note("a hint to nobody")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await shop.echo(2) == 2


async def test_a_service_that_does_not_run_is_unavailable(house: House) -> None:
    class Ghost:
        @expose
        async def boo(self) -> None:
            raise NotImplementedError

    ghost = get_service_client(Ghost, house.settings, timeout_s=0.3)
    with pytest.raises(ServiceUnavailable, match="Ghost cannot be reached"):
        await ghost.boo()
    close_service_client(ghost)


async def test_a_closed_client_says_so(house: House) -> None:
    client = get_service_client(PaintShopInterface, house.settings)
    assert isinstance(await client.pid(), int)
    close_service_client(client)
    with pytest.raises(ServiceUnavailable, match="has been closed"):
        await client.pid()
    await client.note("lost")


def test_without_a_server_there_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match="no server runs on the database"):
        get_service_client(PaintShopInterface, settings_for(tmp_path))


def test_a_class_that_exposes_nothing_is_refused(house: House) -> None:
    with pytest.raises(NotAServiceError, match="mark some with @expose"):
        get_service_client(Path, house.settings)


# -- strangers -----------------------------------------------------------------


def client_with(house: House, secret: bytes, **changes: Any) -> ServiceClient:
    settings = house.settings.model_copy(update={"rpc_timeout_s": 0.5, **changes})
    return ServiceClient(PaintShopInterface, settings, secret, house.identity.instance)


def test_who_does_not_know_the_secret_is_refused(house: House) -> None:
    stranger = client_with(house, b"guessed")
    with pytest.raises(CallRefused, match="belongs to another server"):
        stranger.connections.call(stranger.exposures["pid"], b"\x80", time.monotonic() + 1)
    uri = Names(house.settings, house.identity.secret).find(f"{house.identity.instance}.PaintShop", 5)
    assert uri is not None
    with pytest.raises(CallRefused):
        Connection(uri, Handshake(b"guessed"), 5)
    stranger.close()


def test_an_impostor_on_the_port_of_a_service_gets_no_call(house: House) -> None:
    heard: list[str] = []

    class Ear:
        """Notes whatever it is told."""

        def answer(self, method: str, payload: bytes, timeout_s: float) -> bytes:
            heard.append(method)
            return b"\x00\x01"

        def take(self, hints: Sequence[Hint]) -> None:
            heard.extend(method for method, _ in hints)

    class Gullible(Handshake):
        """Lets everybody in, and cannot prove that it knows the secret."""

        def answer(self, hello: object, target: str) -> bytes:
            return b"trust me"

    impostor = Listener("127.0.0.1", "target", Gullible(b""), Ear())
    try:
        with pytest.raises(CallRefused):
            Connection(impostor.uri, Handshake(house.identity.secret), 5)
    finally:
        impostor.close()
    assert heard == []


@pytest.mark.parametrize("serializer", [1, 2, 3, 4])
def test_what_a_stranger_sends_is_not_even_decoded(house: House, serializer: int) -> None:
    """The serializers of Pyro that could make objects of what they read are not there."""
    import marshal  # noqa: PLC0415
    import struct  # noqa: PLC0415

    payload = marshal.dumps({"handshake": "hello", "object": "x"})
    header = struct.pack("!4sHBBHHII16sHH", b"PYRO", 502, 1, serializer, 0, 0, len(payload), 0, b"\0" * 16, 0, 0x4DC5)
    with socket.create_connection(("127.0.0.1", house.settings.pyro_port), timeout=10) as stranger:
        stranger.sendall(header + payload)
        answer = b""
        while chunk := stranger.recv(4096):
            answer += chunk
    assert b"hello" not in answer
    assert Names(house.settings, house.identity.secret).find("x", 5) is None


def test_rubbish_on_the_port_does_no_harm(house: House) -> None:
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"PYRO" + b"\xff" * 60, b""):
        with socket.create_connection(("127.0.0.1", house.settings.pyro_port), timeout=10) as stranger:
            stranger.sendall(rubbish)
    assert Names(house.settings, house.identity.secret).find("x", 5) is None


# -- the name server -----------------------------------------------------------


def test_two_servers_cannot_share_a_name_server_port(house: House) -> None:
    with pytest.raises(PortInUse, match="set PYRO_PORT to a free port"):
        NameServer(house.settings, b"another")


async def test_a_restarted_name_server_learns_the_names_again(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    secret = b"secret"
    names = NameServer(settings, secret)
    endpoint = await asyncio.to_thread(Endpoint, PaintShop(settings), settings, secret, "i", asyncio.get_running_loop())
    client = ServiceClient(PaintShopInterface, settings, secret, "i")
    try:
        deadline = time.monotonic() + LIMIT_S
        assert await asyncio.to_thread(client.connections.call, client.exposures["pid"], b"\x80", deadline)
        await asyncio.to_thread(names.close)
        names = await asyncio.to_thread(NameServer, settings, secret)
        asked = Names(settings, secret)
        await asyncio.to_thread(eventually, lambda: asked.find("i.PaintShop", 5))
        client.close()
        client = ServiceClient(PaintShopInterface, settings, secret, "i")
        assert await asyncio.to_thread(client.connections.call, client.exposures["pid"], b"\x80", deadline)
    finally:
        client.close()
        await asyncio.to_thread(endpoint.close)
        assert Names(settings, secret).find("i.PaintShop", 5) is None
        await asyncio.to_thread(names.close)


async def test_a_service_without_a_name_server_does_not_open(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    threads = threading.active_count()
    with pytest.raises(ServiceUnavailable):
        await asyncio.to_thread(Endpoint, PaintShop(settings), settings, b"s", "i", asyncio.get_running_loop())
    await asyncio.to_thread(eventually, lambda: threading.active_count() <= threads + 2)


def test_pyro_does_not_mind_our_environment(tmp_path: Path) -> None:
    """Pyro5 refuses to be imported when it meets a PYRO_ variable it does not know, such as our PYRO_PORT."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    environment = {**os.environ, "PYRO_PORT": str(free_port()), "PYRO_TLS_CERT": "x", "PYRO_SERIALIZER": "marshal"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    code = "import os, autogpt_server.utils.service; print('PYRO_PORT' in os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_with_tls_services_talk_and_silence_holds_up_nobody(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "one.key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "one.pem"))
    settings = settings_for(tmp_path)
    files = {"PYRO_TLS_CERT": "one.pem", "PYRO_TLS_KEY": "one.key", "PYRO_TLS_CA": "ca.pem"}
    program = Program(settings, "PaintShop,Curious", **{name: str(tmp_path / file) for name, file in files.items()})
    try:
        eventually(lambda: not Instance(settings).server_lock.is_free())
        silent: list[socket.socket] = []
        eventually(lambda: connects(settings.pyro_port, silent))
        program.wait_for("autogpt_server is ready")
        assert "the shop said hello" in program.output
        with socket.create_connection(("127.0.0.1", settings.pyro_port), timeout=10) as plain:
            plain.sendall(b"PYRO" + b"\0" * 60)
            assert b"PYRO" not in plain.recv(4096)
        silent[0].close()
    finally:
        program.close()


def connects(port: int, connections: list[socket.socket]) -> bool:
    try:
        connections.append(socket.create_connection(("127.0.0.1", port), timeout=5))
    except OSError:
        return False
    return True


def test_the_instance_of_the_house_is_private(house: House) -> None:
    assert Instance(house.settings).identity() == house.identity
