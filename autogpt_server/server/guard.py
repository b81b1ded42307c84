"""What every request must pass before it is looked at: the host it names, the page it comes from, the key it brings.

A server on a developer's machine is reachable by every web page that the developer opens. Host and origin are checked so that neither a foreign
page nor a foreign name that resolves to this machine (DNS rebinding) gets an answer.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from autogpt_server.server.problems import MissingApiKey, OriginRefused, RequestError, WrongHost, response_to
from autogpt_server.utils.settings import Settings

OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/health", "/ready"})
"""Paths that need no key: they hold nothing of the user's."""

_KNOWN_HOSTS = 256
"""So many hosts and origins are not looked at anew; clients name the same ones again and again."""
_CORS_HEADERS = "Content-Type, X-API-Key, Idempotency-Key, If-Match, Last-Event-ID, Prefer"
_CORS_METHODS = "GET, POST, PUT, DELETE, OPTIONS"
_CORS_EXPOSED = "Link, ETag, Location, Preference-Applied"


class Guard:
    """ASGI middleware: 421 for a wrong host, 403 for a foreign page, 401 without a key; CORS answers for the pages that may."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = frozenset(host.casefold().rstrip(".") for host in settings.allowed_hosts)
        self._is_ours = lru_cache(_KNOWN_HOSTS)(self._names_us)
        self._keys = tuple(key.get_secret_value().encode() for key in settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refusal = self._refusal(scope, headers, origin)
        if refusal is not None:
            response = response_to(refusal, scope["path"])
            if origin is not None and not isinstance(refusal, WrongHost | OriginRefused):
                response.headers.update(_cors(origin))
            await _answer(response, scope, receive, send)
        elif origin is not None and scope["type"] == "http":
            await self._with_cors(origin, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers, origin: str | None) -> RequestError | None:
        hosts = headers.getlist("host")
        host = ", ".join(hosts)
        if len(hosts) != 1 or not self._is_ours(f"//{host}"):
            return WrongHost(
                f"This server does not answer under the host name {host!r}; add it to ALLOWED_HOSTS if it should."
            )
        if origin is not None and not self._is_ours(origin):
            return OriginRefused(
                f"Pages of {origin!r} may not use this server; add the page's host to ALLOWED_HOSTS if it should."
            )
        is_preflight = (
            scope["type"] == "http" and scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        )
        if (
            self._keys
            and scope["path"] not in OPEN_PATHS
            and not is_preflight
            and not self._is_key(headers.getlist("x-api-key"))
        ):
            return MissingApiKey()
        return None

    def _names_us(self, url: str) -> bool:
        """Whether the host that a URL or origin names is this machine or one that the settings allow."""
        try:
            host = urlsplit(url).hostname
        except ValueError:
            return False
        if not host:
            return False
        host = host.casefold().rstrip(".")
        if host in self._hosts or host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or address == ipaddress.IPv4Address("0.0.0.0")  # noqa: S104 - a name, not a binding

    def _is_key(self, given: Iterable[str]) -> bool:
        """Compared in a time that tells nothing about which key was nearly right."""
        found = False
        for candidate in given:
            for key in self._keys:
                found |= hmac.compare_digest(candidate.encode("latin-1"), key)  # as it came, whatever its encoding
        return found

    async def _with_cors(self, origin: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            headers = {
                **_cors(origin),
                "Access-Control-Allow-Methods": _CORS_METHODS,
                "Access-Control-Allow-Headers": _CORS_HEADERS,
                "Access-Control-Max-Age": "600",
            }
            await Response(status_code=204, headers=headers)(scope, receive, send)
            return

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_cors(origin))
            await send(message)

        await self._app(scope, receive, send_with_cors)


def _cors(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _CORS_EXPOSED, "Vary": "Origin"}


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    websocket = WebSocket(scope, receive, send)
    await receive()  # the handshake's first message
    if "websocket.http.response" in scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close(1008)
