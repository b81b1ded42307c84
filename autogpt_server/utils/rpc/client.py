"""The calling side: finds the service, keeps connections to it, waits for it when it restarts, and never blocks a loop."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from autogpt_server.utils.rpc.errors import CallRefused, CallTimeout, InvalidCall, ServiceUnavailable
from autogpt_server.utils.rpc.exposure import Exposure, NotAServiceError, exposures, service_name
from autogpt_server.utils.rpc.handshake import Handshake
from autogpt_server.utils.rpc.transport import Connection, Hint, Names, configure
from autogpt_server.utils.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

_PARALLEL_CALLS = 8  # threads, and so connections, that one client uses at most; more calls wait their turn
_PENDING_HINTS = 1_000
_FRAME_BYTES = 16  # what msgpack adds to a hint, generously
_FIRST_RETRY_S = 0.02
_MAX_RETRY_S = 0.25
_GRACE_S = 0.25  # what a thread gets on top of the caller's time limit to say itself what went wrong


class ServiceConnections:
    """Connections to one service, wherever it runs now."""

    def __init__(self, name: str, settings: Settings, secret: bytes, instance: str) -> None:
        configure(settings)
        self._name = f"{instance}.{name}"
        self._shown = name
        self._names = Names(settings, secret)
        self._handshake = Handshake(secret)
        self.max_payload = settings.rpc_max_message_bytes - 4096
        self._idle: list[Connection] = []
        self._uri: str | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def call(self, exposure: Exposure, payload: bytes, deadline: float) -> bytes:
        """Make one call, from this thread. `deadline` is on `time.monotonic`."""
        if len(payload) > self.max_payload:
            raise InvalidCall(
                f"{self._shown}.{exposure.name}: the arguments are {len(payload)} bytes; RPC_MAX_MESSAGE_BYTES allows {self.max_payload}"
            )
        return self._use(
            lambda connection: connection.call(exposure.name, payload, _left(deadline)),
            exposure.name,
            deadline,
            is_repeatable=exposure.idempotent,
        )

    def tell(self, hints: Sequence[Hint], deadline: float) -> None:
        """Send hints, from this thread."""
        self._use(lambda connection: connection.tell(hints, _left(deadline)), hints[0][0], deadline, is_repeatable=True)

    def _use(self, use: Callable[[Connection], T], method: str, deadline: float, *, is_repeatable: bool) -> T:
        """Do something with a connection, if need be with a new one to the service's next incarnation."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                connection = self._borrow(deadline)
            except (ServiceUnavailable, CallRefused) as error:
                self._uri = None
                if isinstance(error, CallRefused) and error.details.get("final"):
                    raise
                self._wait(retry_s, deadline, error)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)
                continue
            try:
                result = use(connection)
            except CallTimeout:
                connection.close()
                raise CallTimeout(f"{self._shown}.{method} was not answered in time") from None
            except ServiceUnavailable as error:
                connection.close()
                self._uri = None
                if not is_repeatable:
                    raise ServiceUnavailable(
                        f"{self._shown} went away during {method}, which may or may not have been done"
                    ) from error
                self._wait(retry_s, deadline, error)
            except BaseException:
                connection.close()
                raise
            else:
                self._give_back(connection)
                return result

    def close(self) -> None:
        """Close idle connections; calls under way end by themselves, those that wait for the service fail now."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _borrow(self, deadline: float) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if connection.is_open():
                return connection
            connection.close()
        uri = self._uri or self._find(deadline)
        connection = Connection(uri, self._handshake, _left(deadline))
        self._uri = uri
        return connection

    def _find(self, deadline: float) -> str:
        try:
            uri = self._names.find(self._name, _left(deadline))
        except CallRefused:
            raise CallRefused(
                "the name server on PYRO_HOST and PYRO_PORT belongs to another server; give each its own PYRO_PORT",
                final=True,
            ) from None
        if uri is None:
            raise ServiceUnavailable(f"{self._shown} is not running")
        return uri

    def _wait(self, retry_s: float, deadline: float, error: Exception) -> None:
        if time.monotonic() + retry_s >= deadline or self._closed.wait(retry_s):
            raise ServiceUnavailable(f"{self._shown} cannot be reached; it may be restarting ({error})") from error

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._idle.append(connection)
                return
        connection.close()


class RemoteMethod:
    """One method of a service elsewhere. Awaiting its call never blocks the loop."""

    def __init__(self, client: "ServiceClient", exposure: Exposure, timeout_s: float) -> None:
        self._client = client
        self._exposure = exposure
        self._timeout_s = timeout_s

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        payload = self._exposure.codec.pack_arguments(args, kwargs)
        if self._exposure.oneway:
            return self._hint(payload)
        return self._call(payload)

    def call_blocking(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call in this thread, which must not run an event loop."""
        payload = self._exposure.codec.pack_arguments(args, kwargs)
        if self._exposure.oneway:
            self._client.hint(self._exposure, payload, self._timeout_s)
            return None
        deadline = time.monotonic() + self._timeout_s
        return self._exposure.codec.unpack_reply(self._client.connections.call(self._exposure, payload, deadline))

    async def _hint(self, payload: bytes) -> None:
        self._client.hint(self._exposure, payload, self._timeout_s)

    async def _call(self, payload: bytes) -> Any:
        deadline = time.monotonic() + self._timeout_s
        future = self._client.submit(self._exposure, payload, deadline)
        try:
            # The thread knows best what went wrong, so it may speak first; unless it never got its turn.
            reply = await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s + _GRACE_S)
        except TimeoutError:
            raise CallTimeout(f"{self._client.name}.{self._exposure.name} was not answered in time") from None
        return self._exposure.codec.unpack_reply(reply)


class ServiceClient:
    """Mirrors what a service exposes. `service.get_service_client` hands it out typed as the service."""

    def __init__(self, interface: type, settings: Settings, secret: bytes, instance: str) -> None:
        self.name = service_name(interface)
        self.exposures = exposures(interface)
        if not self.exposures:
            raise NotAServiceError(f"{interface.__name__} exposes no method; mark some with @expose")
        self.default_timeout_s = settings.rpc_timeout_s
        self.connections = ServiceConnections(self.name, settings, secret, instance)
        self._callers = ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix=f"calls to {self.name}")
        # One thread: hints arrive in the order they were given, and never take the place of a call.
        self._hinter = ThreadPoolExecutor(1, thread_name_prefix=f"hints to {self.name}")
        self._pending_hints: dict[Hint, float] = {}
        """Those that wait to be sent, in their order -> seconds that it may take."""
        self._lock = threading.Lock()
        if any(exposure.oneway for exposure in self.exposures.values()):
            # Its thread is begun now. Hints are given on the loop, and without memory the start of a thread may never return.
            self._hinter.submit(_nothing)

    def submit(self, exposure: Exposure, payload: bytes, deadline: float) -> "Future[bytes]":
        """Make a call in one of the client's threads."""
        try:
            return self._callers.submit(self.connections.call, exposure, payload, deadline)
        except RuntimeError:
            raise ServiceUnavailable(f"this client of {self.name} has been closed") from None

    def hint(self, exposure: Exposure, payload: bytes, timeout_s: float) -> None:
        """Send a hint when its turn comes. One that already waits to be sent is not sent twice; too many are dropped."""
        if len(payload) > self.connections.max_payload:
            log.warning("hint dropped, it is too large: %s.%s", self.name, exposure.name)
            return
        hint = (exposure.name, payload)
        with self._lock:
            if hint not in self._pending_hints and len(self._pending_hints) >= _PENDING_HINTS:
                log.debug("hint dropped: %s.%s", self.name, exposure.name)
                return
            is_first = not self._pending_hints
            self._pending_hints.setdefault(hint, timeout_s)
        if is_first:
            with contextlib.suppress(RuntimeError):  # closed: this hint is lost like any other
                self._hinter.submit(self._send_hints)

    def _send_hints(self) -> None:
        """Send all hints that wait, those that came while the ones before were on their way in one message."""
        with self._lock:
            pending, self._pending_hints = self._pending_hints, {}
        deadline = time.monotonic() + max(pending.values())
        for hints in _messages(pending, self.connections.max_payload):
            try:
                self.connections.tell(hints, deadline)
            except (ServiceUnavailable, CallTimeout, CallRefused) as error:
                log.debug("hints lost: %d of %s: %s", len(hints), self.name, error)

    def close(self) -> None:
        """Close the connections. Calls made afterwards fail."""
        self.connections.close()
        self._callers.shutdown(wait=False, cancel_futures=True)
        self._hinter.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    pass


def _messages(hints: Iterable[Hint], max_bytes: int) -> Iterator[list[Hint]]:
    """The hints, in as few messages as their sizes allow."""
    message: list[Hint] = []
    size = 0
    for hint in hints:
        taken = len(hint[0]) + len(hint[1]) + _FRAME_BYTES
        if message and size + taken > max_bytes:
            yield message
            message, size = [], 0
        message.append(hint)
        size += taken
    if message:
        yield message


class Mirror:
    """The object that callers hold: it has the exposed methods of a service and nothing else."""

    # Not `ServiceClient` itself, whose own names could hide those of the service.

    def __init__(self, client: ServiceClient, timeout_s: float | None = None) -> None:
        self.__client = client
        self.__timeout_s = timeout_s

    def __getattr__(self, name: str) -> RemoteMethod:
        client = self.__client
        exposure = client.exposures.get(name)
        if exposure is None:
            raise AttributeError(
                f"{client.name} exposes no {name}; it has {', '.join(sorted(client.exposures))}", name=name, obj=self
            )
        method = RemoteMethod(client, exposure, self.__timeout_s or exposure.timeout_s or client.default_timeout_s)
        setattr(self, name, method)
        return method

    def __repr__(self) -> str:
        return f"<client of {self.__client.name}>"


def client_of(mirror: object) -> ServiceClient:
    """The client behind a mirror."""
    if not isinstance(mirror, Mirror):
        raise TypeError(f"{mirror!r} does not come from get_service_client")
    client: ServiceClient = vars(mirror)["_Mirror__client"]
    return client


def _left(deadline: float) -> float:
    """Seconds until `deadline`; never nothing, so that what is tried at the last moment fails by itself."""
    return max(deadline - time.monotonic(), 0.001)
