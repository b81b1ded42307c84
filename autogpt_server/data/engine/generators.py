"""Values that the schema has made for new records: ``@default(uuid())``, ``cuid()``, ``now()``, ...

A plan calls them by name (``interpreter/generators.ts`` of ``@prisma/client-engine-runtime`` 7.10.0). The formats are those
of the specifications: RFC 9562 (UUID), github.com/paralleldrive/cuid and cuid2, github.com/ulid/spec, github.com/ai/nanoid.
"""

import datetime as dt
import itertools
import os
import secrets
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from hashlib import sha3_512
from types import MappingProxyType
from typing import Any, Final, cast

import uuid_utils

from autogpt_server.data.engine.errors import UnsupportedPlanError
from autogpt_server.data.engine.parameters import datetime_text

_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_URL_SAFE: Final = "useandom-26T198340PX75pxJACKVERYMINDBUSHWOLF_GQZbfghjklqvwyzrict"
_CUID_BLOCK: Final = 36**4

_cuid_counter = itertools.count()


class Clock:
    """``now()`` of one request: every record it makes gets the same time."""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        self._now: str | None = None

    def now(self) -> str:
        """The time at which it was first asked, as SQLite stores it."""
        if self._now is None:
            self._now = datetime_text(dt.datetime.now(dt.UTC))
        return self._now


def new_uuid(version: int = 4) -> str:
    """A random (4) or time-ordered (7) UUID."""
    match version:
        case 4:
            return str(uuid.uuid4())
        case 7:
            return str(uuid_utils.uuid7())
        case _:
            raise UnsupportedPlanError(f"there is no generator uuid({version})")


def new_cuid(version: int = 1) -> str:
    """A collision-resistant id: 25 characters (1), or 24 that tell nothing of their origin (2)."""
    match version:
        case 1:
            counter = _base36(next(_cuid_counter) % _CUID_BLOCK).rjust(4, "0")
            noise = _base36(secrets.randbelow(_CUID_BLOCK**2)).rjust(8, "0")
            return f"c{_base36(time.time_ns() // 1_000_000)}{counter}{_cuid_fingerprint()}{noise}"
        case 2:
            entropy = secrets.token_bytes(32) + time.time_ns().to_bytes(8) + next(_cuid_counter).to_bytes(8)
            digest = _base36(int.from_bytes(sha3_512(entropy).digest()))
            return secrets.choice(_BASE36[10:]) + digest[1:24]
        case _:
            raise UnsupportedPlanError(f"there is no generator cuid({version})")


def _cuid_fingerprint() -> str:
    """Four characters for the host and the process."""
    host = socket.gethostname()
    mark = sum(map(ord, host)) + len(host) + 36
    return _base36(os.getpid())[-2:].rjust(2, "0") + _base36(mark)[-2:].rjust(2, "0")


def new_ulid() -> str:
    """48 bits of time in milliseconds and 80 random bits, as 26 characters that sort by time."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def new_nanoid(length: int = 21) -> str:
    """``length`` random characters that are safe in URLs."""
    return "".join(secrets.choice(_URL_SAFE) for _ in range(length))


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
        if not number:
            return digits


def product(left: object, right: object) -> list[list[object]]:
    """All pairs of two lists; a value that is no list counts as a list of one."""
    return [[one, other] for one, other in itertools.product(_as_list(left), _as_list(right))]


def _as_list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _without_clock(generate: Callable[..., object]) -> Callable[..., object]:
    def generator(_: Clock, *args: object) -> object:
        return generate(*args)

    return generator


GENERATORS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "uuid": _without_clock(new_uuid),
        "cuid": _without_clock(new_cuid),
        "ulid": _without_clock(new_ulid),
        "nanoid": _without_clock(new_nanoid),
        "now": Clock.now,
        "product": _without_clock(product),
    }
)
"""By the name in a plan; each takes the request's clock and the plan's arguments."""
