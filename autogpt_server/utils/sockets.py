"""Listening sockets whose failures name the setting to change."""

import errno
import socket

from autogpt_server.utils.errors import AutoGPTServerError


class PortInUse(AutoGPTServerError):
    """The port is in use by another program."""

    code = "port_in_use"


class CannotListenError(AutoGPTServerError):
    """The address cannot be listened on."""

    code = "cannot_listen"


def listen(host: str, port: int, *, port_setting: str, host_setting: str, backlog: int = 2048) -> socket.socket:
    """A TCP socket that listens on `host:port`. Raises `PortInUse` or `CannotListenError`, naming the setting."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        # Named, because asyncio switches Nagle off only where the protocol is known to be TCP: 40 ms an answer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(backlog)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise explain_bind_error(error, host, port, port_setting, host_setting) from error
    listener.setblocking(False)
    return listener


def explain_bind_error(
    error: OSError, host: str, port: int, port_setting: str, host_setting: str
) -> PortInUse | CannotListenError:
    """The error to raise when `host:port` could not be bound."""
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} on {host} is in use by another program: stop it, or set {port_setting} to a free port"
        )
    if error.errno == errno.EACCES:
        return CannotListenError(
            f"port {port} needs more rights than this user has: set {port_setting} to 1024 or above"
        )
    reason = error.strerror or str(error)
    return CannotListenError(
        f"cannot listen on {host}:{port} ({reason}): set {host_setting} to an address of this machine"
    )
