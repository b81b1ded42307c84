"""The guard of test/support/network.py holds in this very process."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from support.network import NetworkBlockedError

ELSEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody is there


def tcp(host: str) -> None:
    with socket.socket() as connection:
        connection.connect((host, 9))


def tcp_by_code(host: str) -> None:
    with socket.socket() as connection:
        connection.connect_ex((host, 9))


def udp(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as connection:
        connection.sendto(b"x", (host, 9))


def lookup(host: str) -> None:
    socket.getaddrinfo(f"name.{host}.example", 80)


@pytest.mark.parametrize("reach", [tcp, tcp_by_code, udp, lookup])
def test_nothing_beyond_this_machine_is_reached(reach: Callable[[str], None]) -> None:
    with pytest.raises(NetworkBlockedError, match="a test tried to"):
        reach(ELSEWHERE)


async def test_nor_through_asyncio() -> None:
    with pytest.raises(NetworkBlockedError):
        await asyncio.open_connection(ELSEWHERE, 9)
    with pytest.raises(NetworkBlockedError):
        await asyncio.open_connection("name.example", 9)


async def test_this_machine_is() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "localhost", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
