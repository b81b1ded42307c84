"""No test reaches beyond this machine: connecting or resolving anything but loopback raises in the test's process."""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest


class NetworkBlockedError(RuntimeError):
    """Not an OSError, so that the error handling under test cannot take it for a failure of the network."""


def is_local(host: object) -> bool:
    """Whether a host, as given to connect() or getaddrinfo(), is this machine."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str):
        return host is None
    if host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def block(patch: pytest.MonkeyPatch) -> None:
    """Guard the socket module until `patch` is undone."""

    def guarded_method(name: str, address_at: int) -> None:
        original: Callable[..., Any] = getattr(socket.socket, name)

        def method(self: socket.socket, *args: Any) -> Any:
            address = args[address_at]
            if self.family in {socket.AF_INET, socket.AF_INET6} and not is_local(address[0]):
                raise NetworkBlockedError(f"a test tried to reach {address}; use a server on 127.0.0.1")
            return original(self, *args)

        patch.setattr(socket.socket, name, method)

    guarded_method("connect", 0)
    guarded_method("connect_ex", 0)
    guarded_method("sendto", -1)
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            is_numeric = kwargs.get("flags", args[3] if len(args) > 3 else 0) & socket.AI_NUMERICHOST
            if not is_numeric:
                raise NetworkBlockedError(f"a test tried to look up {host!r}; use 127.0.0.1")
        return resolve(host, port, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
