"""Services: processes whose methods other processes of the same server call.

A service, or better the interface it implements, marks methods with `@expose`:

    class ManagerInterface:
        service_name = "ExecutionManager"

        @expose(oneway=True)
        async def run_waits(self, run_id: RunId) -> None:
            raise NotImplementedError

    class ExecutionManager(ManagerInterface, AppService):
        async def run_waits(self, run_id: RunId) -> None: ...
        async def serve(self, context: ProcessContext) -> None: ...

Another process holds a client with the same methods, to be awaited:

    manager = get_service_client(ManagerInterface)
    await manager.run_waits(run_id)

Arguments and results are msgpack, checked against the annotations on arrival. An `AutoGPTServerError` arrives as the same
class, any other exception as `RemoteError`. A call that is not answered in time raises `CallTimeout`. While the service
restarts, calls wait for it, within their time; then they raise `ServiceUnavailable`. A call whose connection broke half-way
is repeated only if it is `idempotent`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar, cast

from autogpt_server.utils.instance import Instance
from autogpt_server.utils.process import AppProcess, ProcessContext
from autogpt_server.utils.rpc.client import Mirror, RemoteMethod, ServiceClient, client_of
from autogpt_server.utils.rpc.endpoint import Endpoint
from autogpt_server.utils.rpc.errors import CallRefused, CallTimeout, InvalidCall, RemoteError, ServiceUnavailable
from autogpt_server.utils.rpc.exposure import expose
from autogpt_server.utils.rpc.transport import NameServer
from autogpt_server.utils.settings import Settings, get_settings

__all__ = [
    "AppService",
    "CallRefused",
    "CallTimeout",
    "InvalidCall",
    "NameServer",
    "RemoteError",
    "ServiceUnavailable",
    "call_blocking",
    "close_service_client",
    "expose",
    "get_service_client",
    "with_timeout",
]

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")


class AppService(AppProcess):
    """A process whose exposed methods others can call from when it says it is ready until it ends.

    Exposed coroutines run on the loop that runs `serve`; plain exposed methods run in threads, several at once. The name
    under which it is found is the class attribute `service_name`, which an interface may give, else the class's name.
    """

    _endpoint: Endpoint | None = None

    async def announce(self, context: ProcessContext) -> None:  # noqa: ARG002 - the hook's signature
        """Make the exposed methods callable."""
        identity = Instance(self.settings).identity()
        loop = asyncio.get_running_loop()
        self._endpoint = await asyncio.to_thread(
            Endpoint, self, self.settings, identity.secret, identity.instance, loop
        )

    async def withdraw(self) -> None:
        """Break all connections; who calls now waits for the next incarnation."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await asyncio.to_thread(endpoint.close)


def get_service_client(service: type[S], settings: Settings | None = None, *, timeout_s: float | None = None) -> S:
    """A client of a running service, typed as `service` (its interface or its class), whose exposed methods it has.

    It may be shared by all tasks and threads of a process; make one and keep it, it holds connections. No connection is
    made before the first call. `timeout_s`: for each call, instead of what the method or RPC_TIMEOUT_S says. Raises
    `InstanceError` if no server runs on the database of `settings` (default: those of this process).
    """
    settings = settings or get_settings()
    identity = Instance(settings).identity()
    client = ServiceClient(service, settings, identity.secret, identity.instance)
    return cast("S", Mirror(client, timeout_s))


def with_timeout(client: S, timeout_s: float) -> S:
    """The same client, whose calls may take `timeout_s` seconds."""
    return cast("S", Mirror(client_of(client), timeout_s))


def close_service_client(client: object) -> None:
    """Close a client's connections. Calls under way end by themselves; later ones fail."""
    client_of(client).close()


def call_blocking(method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a client's method from a thread without an event loop: `call_blocking(manager.run_waits, run_id)`."""
    if not isinstance(method, RemoteMethod):
        raise TypeError(f"{method!r} is not the method of a service client")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return cast("T", method.call_blocking(*args, **kwargs))
    raise RuntimeError("call_blocking would block the event loop that runs in this thread: await the method instead")
