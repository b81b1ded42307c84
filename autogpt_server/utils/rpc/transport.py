"""The only module that knows Pyro5: connections, the sockets that accept them, and the name server.

What crosses is `call(method, payload, timeout_s) -> payload`, and `tell([(method, payload), ...])` for hints, which is one message without an answer;
payloads are bytes made by `codec`. Of Pyro's serializers only msgpack is left, without its conversions to classes: a message can name no class.
"""

# Pyro5 has no type information. What leaves this module is typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false, reportPrivateUsage=false
# pyright: reportUntypedClassDecorator=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Generator, Sequence
from typing import Any, Protocol, cast

import msgpack

from autogpt_server.utils.rpc.errors import CallRefused, CallTimeout, RemoteError, ServiceUnavailable
from autogpt_server.utils.rpc.handshake import Handshake
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.sockets import explain_bind_error, listen


@contextlib.contextmanager
def _without_pyro_environment() -> Generator[None]:
    """Pyro5 reads every PYRO_ variable when imported and refuses those it does not know: ours, PYRO_PORT among them."""
    hidden = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("PYRO_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


with _without_pyro_environment():
    import Pyro5.client
    import Pyro5.configure
    import Pyro5.core
    import Pyro5.errors
    import Pyro5.nameserver
    import Pyro5.protocol
    import Pyro5.serializers
    import Pyro5.server

_Serializer: Any = Pyro5.serializers.MsgpackSerializer
_Daemon: Any = Pyro5.server.Daemon
_NameServerDaemon: Any = Pyro5.nameserver.NameServerDaemon
_PyroProxy: Any = Pyro5.client.Proxy
_msgpack: Any = msgpack

_HANDSHAKE_LIMIT_S = 5.0
_MAX_CONNECTIONS = 512  # to one service; each is a thread there, most of them idle
_ERROR_KEY = "__pyro_error__"


Hint = tuple[str, bytes]
"""The method and the payload of a call that nobody waits for."""


class CallHandler(Protocol):
    """What answers calls, on the thread of the caller's connection."""

    def answer(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """The reply to a call, for which the caller will wait so many seconds."""
        ...

    def take(self, hints: Sequence[Hint]) -> None:
        """Take hints. Never raises."""
        ...


def configure(settings: Settings) -> None:
    """Set what Pyro5 keeps per process: the message limit, TLS, and which serializer there is."""
    config = Pyro5.configure.global_config
    config.SERIALIZER = "msgpack"
    config.SERVERTYPE = "thread"
    config.THREADPOOL_SIZE = _MAX_CONNECTIONS
    config.SOCK_NODELAY = True
    config.ITER_STREAMING = False
    config.MAX_MESSAGE_SIZE = settings.rpc_max_message_bytes
    config.SSL = settings.pyro_tls_cert is not None
    config.SSL_REQUIRECLIENTCERT = True
    config.SSL_SERVERCERT = config.SSL_CLIENTCERT = str(settings.pyro_tls_cert or "")
    config.SSL_SERVERKEY = config.SSL_CLIENTKEY = str(settings.pyro_tls_key or "")
    config.SSL_CACERTS = str(settings.pyro_tls_ca or "")
    strict: Any = _StrictSerializer()
    Pyro5.serializers.serializers.clear()
    Pyro5.serializers.serializers["msgpack"] = strict
    Pyro5.serializers.serializers_by_id.clear()
    Pyro5.serializers.serializers_by_id[strict.serializer_id] = strict


class _StrictSerializer(_Serializer):
    """msgpack's own types and nothing else; what Pyro itself must say (an error, an address) becomes text."""

    def dumpsCall(self, obj: str, method: str, vargs: Any, kwargs: Any) -> bytes:  # noqa: N802 - Pyro's name
        return self.dumps((obj, method, vargs, kwargs))

    def dumps(self, data: Any) -> bytes:
        return _msgpack.packb(data, default=_describe)

    def loadsCall(self, data: Any) -> Any:  # noqa: N802
        return _msgpack.unpackb(data)

    def loads(self, data: Any) -> Any:
        found = _msgpack.unpackb(data)
        if isinstance(found, dict) and _ERROR_KEY in found:
            return Pyro5.errors.PyroError(str(found[_ERROR_KEY]))
        return found


def _describe(value: object) -> Any:
    if isinstance(value, BaseException):
        return {_ERROR_KEY: f"{type(value).__name__}: {value}"}
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, Pyro5.core.URI):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


class _Guarded:
    """A Pyro daemon that lets in only who knows the secret, and that can be closed with all its connections."""

    # Mixed into Pyro's daemon classes below; `_target` is the object that callers come for.
    _handshake_rules: Handshake
    _target: str

    def _prepare(self, handshake: Handshake, target: str) -> None:
        self._handshake_rules = handshake
        self._target = target
        self._connections: set[Any] = set()

    def _accept_without_waiting(self) -> None:
        # Else a client that connects and says nothing would hold up the thread that accepts all others.
        listener: Any = cast("Any", self).sock
        if isinstance(listener, ssl.SSLSocket):
            listener.do_handshake_on_connect = False

    def _handshake(self, conn: Any, denied_reason: str | None = None) -> bool:
        # Whoever connects and then says nothing would hold a thread for ever.
        conn.sock.settimeout(_HANDSHAKE_LIMIT_S)
        if isinstance(conn.sock, ssl.SSLSocket):
            conn.sock.do_handshake()
        accepted = bool(super()._handshake(conn, denied_reason))
        conn.sock.settimeout(None)
        if accepted:
            self._connections.add(conn)
        return accepted

    def validateHandshake(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002, N802
        return self._handshake_rules.answer(data, self._target)

    def clientDisconnect(self, conn: Any) -> None:  # noqa: N802
        self._connections.discard(conn)

    def close_connections(self) -> None:
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


class _ServiceDaemon(_Guarded, _Daemon):
    def __init__(self, host: str, handshake: Handshake, target: str) -> None:
        self._prepare(handshake, target)
        _Daemon.__init__(self, host=host, port=0)
        self._accept_without_waiting()


class _NameDaemon(_Guarded, _NameServerDaemon):
    def __init__(self, host: str, port: int, handshake: Handshake) -> None:
        self._prepare(handshake, Pyro5.core.NAMESERVER_NAME)
        _NameServerDaemon.__init__(self, host=host, port=port)
        self._accept_without_waiting()


class _Loop:
    """A daemon with the thread that runs it."""

    def __init__(self, daemon: Any, name: str) -> None:
        self._daemon = daemon
        self._thread = threading.Thread(target=daemon.requestLoop, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._daemon.close_connections()
        self._daemon.shutdown()
        self._thread.join(timeout=5)


class Listener:
    """Accepts calls on a free port of `host` and passes them to `handler`, on one thread per connection."""

    def __init__(self, host: str, target: str, handshake: Handshake, handler: CallHandler) -> None:
        daemon = _ServiceDaemon(host, handshake, target)
        self.uri = str(daemon.register(Door(handler), target))
        self._loop = _Loop(daemon, f"calls to {target}")

    def close(self) -> None:
        """Stop, and break all connections."""
        self._loop.close()


@Pyro5.server.expose
class Door:
    """The one object that a service shows to Pyro."""

    def __init__(self, handler: CallHandler) -> None:
        self._handler = handler

    def call(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        return self._handler.answer(method, payload, timeout_s)

    def tell(self, hints: Sequence[Hint]) -> None:
        self._handler.take(hints)


class NameServer:
    """Pyro's name server on PYRO_HOST:PYRO_PORT, in a thread. Raises `PortInUse`."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        configure(settings)
        # Asked first, because Pyro leaks its socket when it cannot bind it.
        listen(settings.pyro_host, settings.pyro_port, port_setting="PYRO_PORT", host_setting="PYRO_HOST").close()
        try:
            daemon = _NameDaemon(settings.pyro_host, settings.pyro_port, Handshake(secret))
        except OSError as error:
            raise explain_bind_error(error, settings.pyro_host, settings.pyro_port, "PYRO_PORT", "PYRO_HOST") from error
        self._loop = _Loop(daemon, "name server")

    @property
    def is_alive(self) -> bool:
        return self._loop.is_alive

    def close(self) -> None:
        """Stop, and break all connections."""
        self._loop.close()


class _Proxy(_PyroProxy):
    """One connection. It is thrown away when it breaks, so a hello is used once."""

    def __init__(self, uri: str, handshake: Handshake, timeout_s: float) -> None:
        super().__init__(uri)
        # Pyro's proxies pass on to the other side what they do not know; so this goes around them.
        object.__setattr__(self, "_rules", handshake)
        self._pyroTimeout = timeout_s
        self._pyroHandshake = handshake.hello(self._pyroUri.object)
        self._pyroBind()

    def _pyroValidateHandshake(self, response: object) -> None:  # noqa: N802 - Pyro's name
        self._rules.check_answer(self._pyroHandshake, response, self._pyroUri.object)

    def take(self, timeout_s: float) -> None:
        """Make this thread the one that uses the connection."""
        self._pyroClaimOwnership()
        self._pyroTimeout = timeout_s

    def tell(self, hints: Sequence[Hint]) -> None:
        # Pyro starts a thread for each one-way call, but not for those in a batch, of which this is the only one.
        flags = Pyro5.protocol.FLAGS_BATCH | Pyro5.protocol.FLAGS_ONEWAY
        self._pyroInvoke("<batch>", [("tell", (hints,), {})], {}, flags=flags)

    def socket(self) -> "socket.socket | None":
        return self._pyroConnection and self._pyroConnection.sock

    def release(self) -> None:
        self._pyroClaimOwnership()
        self._pyroRelease()


class Connection:
    """A connection to one Pyro object; used by one thread at a time."""

    def __init__(self, uri: str, handshake: Handshake, timeout_s: float) -> None:
        with _translated(uri):
            self._proxy = _Proxy(uri, handshake, timeout_s)
        self._uri = uri

    def call(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """One round trip. Raises `CallTimeout` or `ServiceUnavailable`, after either of which the connection is dead."""
        return self.invoke("call", method, payload, timeout_s, timeout_s=timeout_s)

    def tell(self, hints: Sequence[Hint], timeout_s: float) -> None:
        """Send hints, and do not wait until they have arrived. Raises as `call` does."""
        with _translated(self._uri):
            self._proxy.take(timeout_s)
            self._proxy.tell(hints)

    def invoke(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Call a method that the Pyro object itself has."""
        with _translated(self._uri):
            self._proxy.take(timeout_s)
            return getattr(self._proxy, method)(*args)

    def is_open(self) -> bool:
        """Whether the other side, as far as this one has heard, still holds the connection."""
        sock = self._proxy.socket()
        if sock is None:
            return False
        timeout = sock.gettimeout()
        try:
            sock.settimeout(0)
            # Between calls there is nothing to read: what can be read is the end, or an answer nobody waits for.
            sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            sock.settimeout(timeout)
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection, from any thread that has it to itself."""
        self._proxy.release()


class Names:
    """What the name server knows. Every call is a connection of its own: it is asked rarely, and may have restarted."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        host = f"[{settings.pyro_host}]" if ":" in settings.pyro_host else settings.pyro_host
        self._uri = f"PYRO:{Pyro5.core.NAMESERVER_NAME}@{host}:{settings.pyro_port}"
        self._handshake = Handshake(secret)

    def register(self, name: str, uri: str, timeout_s: float) -> None:
        """Say where `name` is, in place of what was said before."""
        self._ask("register", name, uri, timeout_s=timeout_s)

    def remove(self, name: str, timeout_s: float) -> None:
        """Forget `name`."""
        self._ask("remove", name, timeout_s=timeout_s)

    def find(self, name: str, timeout_s: float) -> str | None:
        """Where `name` is, if anybody said."""
        # Not `lookup`, for which an unknown name is an error like any other.
        return self._ask("list", name, timeout_s=timeout_s).get(name)

    def _ask(self, method: str, *args: str, timeout_s: float) -> Any:
        connection = Connection(self._uri, self._handshake, timeout_s)
        try:
            return connection.invoke(method, *args, timeout_s=timeout_s)
        finally:
            connection.close()


@contextlib.contextmanager
def _translated(uri: str) -> Generator[None]:
    """Pyro's errors as ours."""
    try:
        yield
    except Pyro5.errors.TimeoutError:
        raise CallTimeout(f"no answer in time from {uri}") from None
    except Pyro5.errors.CommunicationError as error:
        if CallRefused.default_message() in str(error):
            raise CallRefused from None
        raise ServiceUnavailable(f"the connection to {uri} failed: {error}") from error
    except Pyro5.errors.PyroError as error:
        raise RemoteError(f"{uri}: {error}", error_type=type(error).__name__, error_code=None) from error
