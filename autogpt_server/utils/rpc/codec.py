"""Turns arguments, results and errors into msgpack bytes and back, guided by the annotations of the called method.

Both sides read the same annotations, so types need no names on the wire and no class is ever made because a message says
so. Dataclasses and pydantic models travel as maps, enums as their values, aware datetimes as msgpack timestamps (they
arrive in UTC), integers beyond 64 bits as text.
"""

import functools
import inspect
import pathlib
import typing
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast

import msgpack
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from autogpt_server.utils.errors import AutoGPTServerError, remake_error
from autogpt_server.utils.rpc.errors import InvalidCall, RemoteError

_msgpack: Any = msgpack  # has no type information

# The first byte of a reply says what follows.
_RESULT = b"\x00"
_ERROR = b"\x01"

_BIG_INT = 1  # msgpack extension type: an integer as decimal text


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Codec:
    """How the arguments and the result of one method are encoded. Made when the method is exposed, built when used."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._what = function.__qualname__

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        signature = inspect.signature(self._function)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @functools.cached_property
    def _types(self) -> tuple[dict[str, TypeAdapter[Any]], TypeAdapter[Any]]:
        """(adapter of each parameter, adapter of the result)."""
        if any(parameter.kind in _VARIADIC for parameter in self._signature.parameters.values()):
            raise InvalidCall(f"{self._what} is exposed and so cannot take *args or **kwargs")
        hints = typing.get_type_hints(self._function, include_extras=True)
        missing = [name for name in (*self._signature.parameters, "return") if name not in hints]
        if missing:
            raise InvalidCall(f"{self._what} is exposed but has no annotation for {', '.join(missing)}; add them")
        result = TypeAdapter[Any](hints.pop("return"))
        return {name: TypeAdapter(hints[name]) for name in self._signature.parameters}, result

    def pack_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The arguments as bytes. Raises `InvalidCall` where they do not fit the method."""
        parameters, _ = self._types
        if not kwargs and len(args) == len(parameters):
            bound = dict(zip(parameters, args, strict=True))
        else:
            try:
                bound = self._signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise InvalidCall(f"{self._what}: {error}") from None
        return self._pack({name: self._dump(parameters[name], value, name) for name, value in bound.items()})

    def unpack_arguments(self, data: bytes) -> dict[str, Any]:
        """The arguments by name. Raises `InvalidCall` where they do not fit the method."""
        parameters, _ = self._types
        found = _unpack(data)
        if not isinstance(found, dict):
            raise InvalidCall(f"{self._what}: the arguments are not a map")
        arguments: dict[str, Any] = {}
        for name, value in cast("dict[str, Any]", found).items():
            if name not in parameters:
                raise InvalidCall(f"{self._what} has no parameter {name}")
            arguments[name] = self._load(parameters[name], value, name)
        missing = [
            name
            for name, parameter in self._signature.parameters.items()
            if parameter.default is inspect.Parameter.empty and name not in arguments
        ]
        if missing:
            raise InvalidCall(f"{self._what} needs {', '.join(missing)}")
        return arguments

    def pack_result(self, value: Any) -> bytes:
        """A reply that holds a result. Raises `InvalidCall` where it is not what the method says it returns."""
        return _RESULT + self._pack(self._dump(self._types[1], value, "the result"))

    def unpack_reply(self, reply: bytes) -> Any:
        """The result in a reply, as the type that the method says it returns; raises the error if it holds one."""
        if reply[:1] != _RESULT:
            raise _unpack_error(reply[1:])
        return self._load(self._types[1], _unpack(reply[1:]), "the result")

    def _dump(self, adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
        try:
            return adapter.serializer.to_python(value, warnings="error")
        except PydanticSerializationError as error:
            raise InvalidCall(f"{self._what}: {name} is not what the annotation says: {_first_line(error)}") from None

    def _load(self, adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
        try:
            return adapter.validator.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = "".join(f".{part}" for part in problem["loc"])
            raise InvalidCall(f"{self._what}: {name}{where}: {problem['msg']}") from None

    def _pack(self, value: Any) -> bytes:
        try:
            return _pack(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidCall(f"{self._what}: {error}") from None


def pack_error(error: AutoGPTServerError) -> bytes:
    """A reply that holds an error of ours: its code, message and details."""
    try:
        data = _pack([error.code, type(error).__name__, str(error), error.details])
    except (TypeError, ValueError):
        data = _pack([error.code, type(error).__name__, str(error), {}])
    return _ERROR + data


def _unpack_error(data: bytes) -> AutoGPTServerError:
    """The error that `pack_error` was given: of the same class where this process has it, else a `RemoteError`."""
    code, name, message, details = cast("tuple[str, str, str, dict[str, Any]]", tuple(_unpack(data)))
    error = remake_error(code, message, details)
    return error or RemoteError(f"{name}: {message}", error_type=name, error_code=code)


def _pack(value: Any) -> bytes:
    return _msgpack.packb(value, default=_to_wire, datetime=True)


def _unpack(data: bytes) -> Any:
    return _msgpack.unpackb(data, timestamp=3, ext_hook=_from_ext)


def _to_wire(value: object) -> Any:
    """What msgpack has no type for. The receiver's annotations turn it back."""
    match value:
        case Enum():
            return value.value
        case int():
            return msgpack.ExtType(_BIG_INT, str(value).encode())
        case uuid.UUID() | Decimal() | pathlib.PurePath():
            return str(value)
        case set() | frozenset():
            return list(cast("set[Any]", value))
        case datetime():
            raise TypeError("a datetime without a time zone cannot be sent; use UTC")
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be sent to another process")


def _from_ext(kind: int, data: bytes) -> Any:
    if kind == _BIG_INT:
        return int(data)
    raise InvalidCall(f"unknown msgpack extension {kind}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
