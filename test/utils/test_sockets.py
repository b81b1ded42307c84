"""Listening sockets."""

import errno
import os
import re
import socket

import pytest

from autogpt_server.utils.sockets import CannotListenError, PortInUse, explain_bind_error, listen
from support.running import free_port


def test_a_free_port_is_listened_on() -> None:
    port = free_port()
    with (
        listen("127.0.0.1", port, port_setting="P", host_setting="H"),
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        assert client.getpeername() == ("127.0.0.1", port)


def test_a_port_in_use_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is in use.*set MY_PORT"):
            listen("127.0.0.1", port, port_setting="MY_PORT", host_setting="MY_HOST")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EADDRNOTAVAIL, r"cannot listen on 192\.0\.2\.1:80 .*: set MY_HOST to an address of this machine"),
        (errno.EACCES, "set MY_PORT to 1024 or above"),
    ],
)
def test_other_failures_name_the_setting_too(number: int, advice: str) -> None:
    error = explain_bind_error(OSError(number, os.strerror(number)), "192.0.2.1", 80, "MY_PORT", "MY_HOST")
    assert isinstance(error, CannotListenError)
    assert re.search(advice, str(error))
