"""The pages for people: where to begin, and the API's documentation. Both work without a network."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

# Scripts and styles are in the pages themselves; they talk to this server and to nobody else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def get_index() -> HTMLResponse:
    """What there is, and how to begin."""
    return HTMLResponse(_page("index.html"), headers=_HEADERS)


@router.get("/docs")
async def get_docs() -> HTMLResponse:
    """The API, read from /openapi.json, to be read and tried."""
    return HTMLResponse(_page("docs.html"), headers=_HEADERS)


@cache
def _page(name: str) -> str:
    return (files("autogpt_server.server") / "static" / name).read_text(encoding="utf-8")
