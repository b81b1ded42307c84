"""The root of every error this server raises on purpose, and how such an error is recognised in another process."""

import inspect
import re
from typing import Any, ClassVar

_BY_CODE: dict[str, type["AutoGPTServerError"]] = {}


class AutoGPTServerError(Exception):
    """The server could not do what it was asked."""

    # A subclass's docstring is its default message: one sentence that says what happened and, where there is
    # something to do, what. `details` hold JSON values only. They travel with the error to another process, where
    # the same class is made again without calling its `__init__`: a subclass that takes other arguments keeps them
    # in `details` and reads them from there.

    code: ClassVar[str] = "server_error"
    """Stable name of this kind of error, in snake case, unique in the server; clients may rely on it."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, with nothing changed by the caller."""

    def __init__(self, message: str | None = None, /, **details: Any) -> None:
        super().__init__(message or self.default_message())
        self.details: dict[str, Any] = details

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = _snake_case(cls.__name__)
        known = _BY_CODE.get(cls.code)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"the error code {cls.code!r} of {cls.__module__}.{cls.__qualname__} is taken by "
                f"{known.__module__}.{known.__qualname__}; give one of them another `code`"
            )
        _BY_CODE[cls.code] = cls

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.default_message()

    @classmethod
    def default_message(cls) -> str:
        """The docstring as one line."""
        return " ".join((inspect.getdoc(cls) or cls.__name__).split())


_BY_CODE[AutoGPTServerError.code] = AutoGPTServerError


def error_class(code: str) -> type[AutoGPTServerError] | None:
    """The error class that has this code, if this process has imported it."""
    return _BY_CODE.get(code)


def remake_error(code: str, message: str, details: dict[str, Any]) -> AutoGPTServerError | None:
    """An error that came from another process, as the class it was there; None if this process does not know it."""
    cls = error_class(code)
    if cls is None:
        return None
    error = cls.__new__(cls)
    AutoGPTServerError.__init__(error, message, **details)
    return error


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
