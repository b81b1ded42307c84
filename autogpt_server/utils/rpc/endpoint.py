"""The called side: opens a port, tells the name server about it, and answers calls on the service's loop."""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from typing import Any

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.rpc.codec import pack_error
from autogpt_server.utils.rpc.errors import CallRefused, CallTimeout, InvalidCall, RemoteError, ServiceUnavailable
from autogpt_server.utils.rpc.exposure import Exposure, NotAServiceError, exposures, service_name
from autogpt_server.utils.rpc.handshake import Handshake
from autogpt_server.utils.rpc.transport import Hint, Listener, Names, configure
from autogpt_server.utils.settings import Settings

log = logging.getLogger(__name__)

_REGISTER_EVERY_S = 1.0  # how soon a restarted name server knows the service again
_NAME_SERVER_LIMIT_S = 2.0


class Endpoint:
    """Makes what `service` exposes callable from other processes, from construction to `close`."""

    def __init__(
        self, service: object, settings: Settings, secret: bytes, instance: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Open the endpoint. `loop` runs the service's coroutines. Raises `ServiceUnavailable` without a name server."""
        self._service = service
        self._shown = service_name(type(service))
        self._exposures = exposures(type(service))
        if not self._exposures:
            raise NotAServiceError(f"{type(service).__name__} exposes no method; mark some with @expose")
        self._loop = loop
        self._max_reply = settings.rpc_max_message_bytes - 4096
        configure(settings)
        self._name = f"{instance}.{self._shown}"
        self._names = Names(settings, secret)
        # The incarnation is in the target, so a caller that still knows the address of a former one is turned away.
        self._listener = Listener(settings.pyro_host, f"{self._name}.{new_id()}", Handshake(secret), self)
        self._closed = threading.Event()
        self._hints: set[asyncio.Task[Any]] = set()
        self._registrar = threading.Thread(
            target=self._stay_registered, name=f"registrar of {self._shown}", daemon=True
        )
        try:
            self._register()
        except AutoGPTServerError:
            self._listener.close()
            raise
        self._registrar.start()

    def close(self) -> None:
        """Take the name back and break all connections. Blocks for up to a second."""
        self._closed.set()
        self._registrar.join()
        try:
            if self._names.find(self._name, _NAME_SERVER_LIMIT_S) == self._listener.uri:
                self._names.remove(self._name, _NAME_SERVER_LIMIT_S)
        except AutoGPTServerError as error:
            log.debug("name not taken back: %s", error)
        self._listener.close()

    # -- being found ------------------------------------------------------

    def _register(self) -> None:
        self._names.register(self._name, self._listener.uri, _NAME_SERVER_LIMIT_S)

    def _stay_registered(self) -> None:
        while not self._closed.wait(_REGISTER_EVERY_S):
            try:
                if self._names.find(self._name, _NAME_SERVER_LIMIT_S) != self._listener.uri:
                    self._register()
                    log.info("registered again with the name server")
            except (ServiceUnavailable, CallTimeout, CallRefused, RemoteError) as error:
                log.debug("name server not reached: %s", error)

    # -- answering --------------------------------------------------------

    def answer(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """Answer one call. Runs on a thread of the caller's connection."""
        exposure = self._exposures.get(method)
        try:
            if exposure is None:
                raise InvalidCall(f"{self._shown} exposes no {method}")
            arguments = exposure.codec.unpack_arguments(payload)
            reply = exposure.codec.pack_result(self._perform(exposure, arguments, timeout_s))
        except AutoGPTServerError as error:
            return pack_error(error)
        except FutureCancelledError:
            return pack_error(ServiceUnavailable(f"{self._shown} is stopping"))
        except Exception as error:
            # A defect there must not take this connection with it; the caller learns the kind, the log everything.
            log.exception("exposed method failed: %s.%s", self._shown, method)
            name = type(error).__name__
            return pack_error(
                RemoteError(
                    f"{self._shown}.{method} failed with {name}; see the log of {self._shown}",
                    error_type=name,
                    error_code=None,
                )
            )
        if len(reply) > self._max_reply:
            return pack_error(
                InvalidCall(
                    f"{self._shown}.{method}: the result is {len(reply)} bytes; RPC_MAX_MESSAGE_BYTES allows {self._max_reply}"
                )
            )
        return reply

    def _perform(self, exposure: Exposure, arguments: dict[str, Any], timeout_s: float) -> Any:
        if exposure.blocking is not None:
            return exposure.blocking(self._service, **arguments)
        future = self._start(getattr(self._service, exposure.name)(**arguments))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if not future.done():
                future.cancel()
                raise CallTimeout(f"{self._shown}.{exposure.name} took longer than {timeout_s:.1f} s") from None
            raise

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise ServiceUnavailable(f"{self._shown} is stopping") from None

    # -- taking hints -----------------------------------------------------

    def take(self, hints: Sequence[Hint]) -> None:
        """Begin what hints ask for, in their order. Runs on a thread of the sender's connection."""
        begun: list[tuple[Exposure, dict[str, Any]]] = []
        for method, payload in hints:
            exposure = self._exposures.get(method)
            try:
                if exposure is None or not exposure.oneway:
                    raise InvalidCall(f"{self._shown} takes no hint {method}")
                arguments = exposure.codec.unpack_arguments(payload)
                if exposure.blocking is None:
                    begun.append((exposure, arguments))
                else:
                    exposure.blocking(self._service, **arguments)
            except Exception:
                log.exception("hint failed: %s.%s", self._shown, method)
        if begun:
            with contextlib.suppress(RuntimeError):  # the loop is closed: these hints are lost like others
                self._loop.call_soon_threadsafe(self._begin, begun)

    def _begin(self, hints: Sequence[tuple[Exposure, dict[str, Any]]]) -> None:
        """Start the service's coroutines, on its loop."""
        for exposure, arguments in hints:
            task = self._loop.create_task(getattr(self._service, exposure.name)(**arguments))
            self._hints.add(task)
            task.add_done_callback(functools.partial(self._end, exposure))

    def _end(self, exposure: Exposure, task: asyncio.Task[Any]) -> None:
        self._hints.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("hint failed: %s.%s", self._shown, exposure.name, exc_info=task.exception())
