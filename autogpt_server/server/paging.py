"""Lists in pages: `limit`, `cursor`, and a `Link` header that leads to the next page (RFC 8288). The body stays an array."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import pydantic
from fastapi import Depends, Query, Request, Response

from autogpt_server.server.problems import InvalidCursor
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_NODE_EXECUTIONS = 5000
_MAX_CURSOR_CHARS = 500

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many entries at most.")]
NodeExecutionLimit = Annotated[int, Query(ge=1, le=MAX_NODE_EXECUTIONS, description="How many entries at most.")]
CursorText = Annotated[
    str | None,
    Query(
        max_length=_MAX_CURSOR_CHARS,
        description='Where to go on: taken from the `Link` header with `rel="next"` of the page before.',
    ),
]


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list was asked for; it sets the header that leads to the next one."""

    request: Request
    response: Response
    limit: int
    cursor: str | None

    def start(self, kind: type[T]) -> T | None:
        """What the list goes on after; None for its beginning. Raises `InvalidCursor`."""
        return read_cursor(self.cursor, kind)

    @property
    def fetch(self) -> int:
        """How many entries to look for: one more than is shown tells whether there is a next page."""
        return self.limit + 1

    def cut(self, entries: Sequence[T], position_of: Callable[[T], str | int]) -> list[T]:
        """The page's entries out of up to `fetch` found. `position_of(entry)` is what the next page goes on after."""
        shown = list(entries[: self.limit])
        if len(entries) > self.limit:
            url = self.request.url.include_query_params(limit=self.limit, cursor=write_cursor(position_of(shown[-1])))
            self.response.headers["Link"] = f'<{url}>; rel="next"'
        return shown


def _page(request: Request, response: Response, limit: Limit = DEFAULT_LIMIT, cursor: CursorText = None) -> Page:
    return Page(request, response, limit, cursor)


def _execution_page(
    request: Request, response: Response, limit: NodeExecutionLimit = MAX_NODE_EXECUTIONS, cursor: CursorText = None
) -> Page:
    return Page(request, response, limit, cursor)


Paged = Annotated[Page, Depends(_page)]
PagedExecutions = Annotated[Page, Depends(_execution_page)]


def write_cursor(position: str | int) -> str:
    """A position in a list as opaque text."""
    return base64.urlsafe_b64encode(json.dumps_bytes(position)).decode().rstrip("=")


def read_cursor(cursor: str | None, kind: type[T]) -> T | None:
    """The position that a cursor stands for; None without a cursor. Raises `InvalidCursor`."""
    if cursor is None:
        return None
    try:
        position = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        return pydantic.TypeAdapter(kind).validate_python(position, strict=True)
    except (InvalidJSONValue, binascii.Error, ValueError):
        raise InvalidCursor from None
