"""Which methods of a service other processes may call, and on what terms."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.rpc.codec import Codec

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")

_EXPOSURE = "__exposure__"


@dataclass(frozen=True)
class Exposure:
    """The terms on which one method may be called from another process."""

    name: str
    oneway: bool
    """A hint: the caller does not wait, and never hears of a failure."""
    idempotent: bool
    """Doing it twice is as good as once, so a call whose connection broke is made again."""
    timeout_s: float | None
    """How long a call may take; None for the setting RPC_TIMEOUT_S."""
    blocking: Callable[..., Any] | None
    """The plain function behind a method that is not `async def`."""
    codec: Codec


class Exposer(Protocol):
    """What `@expose(...)` returns: it marks a method and leaves its type as callers see it, which is a coroutine."""

    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]], /
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], T], /
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...


@overload
def expose(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]], /
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...
@overload
def expose(method: Callable[Concatenate[S, P], T], /) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...
@overload
def expose(*, oneway: bool = False, idempotent: bool = False, timeout_s: float | None = None) -> Exposer: ...
def expose(
    method: Callable[..., Any] | None = None,
    /,
    *,
    oneway: bool = False,
    idempotent: bool = False,
    timeout_s: float | None = None,
) -> Any:
    """Mark a method of a service, or of the interface it implements, as one that other processes may call.

    Every parameter and the result must be annotated with types that pydantic can check: scalars, lists, dicts,
    dataclasses, pydantic models, enums, aware datetimes, bytes. An `async def` is called on the service's loop. A plain
    method is called in a thread and may block; wherever it is called from it is awaited.

    `oneway`: a hint. The caller goes on at once; a hint that cannot be delivered is logged, not raised. Returns None.
    `idempotent`: a call that broke off half-way is repeated. `timeout_s`: instead of the setting RPC_TIMEOUT_S.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        blocking = None if inspect.iscoroutinefunction(function) else function
        marked = function
        if blocking is not None:

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                return await asyncio.to_thread(function, *args, **kwargs)

            marked = awaited
        exposure = Exposure(function.__name__, oneway, idempotent or oneway, timeout_s, blocking, Codec(function))
        setattr(marked, _EXPOSURE, exposure)
        return marked

    return mark if method is None else mark(method)


def exposures(cls: type) -> dict[str, Exposure]:
    """What `cls` lets others call, by method name. An override keeps the terms of the method it overrides."""
    found: dict[str, Exposure] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            exposure = cast("Exposure | None", getattr(member, _EXPOSURE, None))
            if exposure is not None:
                found[name] = exposure
            elif name in found and callable(member):
                blocking = None if inspect.iscoroutinefunction(member) else member
                terms = found[name]
                found[name] = Exposure(name, terms.oneway, terms.idempotent, terms.timeout_s, blocking, terms.codec)
    return found


def service_name(cls: type) -> str:
    """The name under which a service is found: its `service_name` attribute, else the name of the class."""
    return cast("str | None", getattr(cls, "service_name", None)) or cls.__name__


class NotAServiceError(AutoGPTServerError, TypeError):
    """The class exposes no method, so there is nothing that another process could call."""

    code = "not_a_service"
