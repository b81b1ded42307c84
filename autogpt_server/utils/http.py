"""The HTTP client that blocks use: it reaches only addresses that the policy allows, and reads only as much as it is allowed to.

Built on httpx2, the client that the openai library uses, so that one guarded client serves both.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self, cast
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from autogpt_server.utils.addresses import AddressPolicy, ForbiddenAddress
from autogpt_server.utils.errors import AutoGPTServerError

MAX_REDIRECTS = 10

# On the way to another origin only these go along: all others may hold a secret meant for the first one.
_HEADERS_FOR_STRANGERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "content-length", "user-agent"}
)


class ResponseTooLarge(AutoGPTServerError):
    """The answer is larger than blocks may read; see the setting OUTGOING_MAX_BYTES."""

    code = "response_too_large"


class BrokenRedirect(AutoGPTServerError):
    """A server answered with a redirect that leads nowhere. What it was asked to do may be done."""

    code = "broken_redirect"


def user_agent() -> str:
    """How this server introduces itself."""
    try:
        return f"autogpt_server/{version('autogpt-server')}"
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "autogpt_server"


@asynccontextmanager
async def open_client(policy: AddressPolicy, *, timeout_s: float) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client that goes only where `policy` allows. It follows no redirects by itself; `fetch` does."""
    async with httpx2.AsyncClient(
        transport=GuardedTransport(policy),
        timeout=httpx2.Timeout(timeout_s),
        headers={"User-Agent": user_agent()},
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer to a request, after redirects."""

    status: int
    headers: httpx2.Headers
    body: bytes
    """As it was before any Content-Encoding."""
    url: httpx2.URL
    """The address that answered."""

    @property
    def media_type(self) -> str:
        """The type the server names, lower case, without parameters; empty if it names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The encoding of the text, if the server names one."""
        message = Message()
        message["content-type"] = self.headers.get("content-type", "")
        return message.get_content_charset()


async def fetch(client: httpx2.AsyncClient, request: httpx2.Request, *, max_bytes: int) -> Answer:
    """The answer to `request`, read completely, after redirects.

    Raises `ResponseTooLarge`, `BrokenRedirect`, and for the first request `ForbiddenAddress` and `httpx2.HTTPError` as httpx2 does: an
    `httpx2.ConnectError` or `httpx2.ConnectTimeout` means that nothing was sent to anybody.
    """
    first_host = request.url.host
    for hop in range(MAX_REDIRECTS + 1):
        try:
            response = await client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol, ForbiddenAddress) as error:
            if hop == 0:
                raise
            raise BrokenRedirect(f"{first_host} redirects to {request.url.host}: {error}") from error
        try:
            if response.next_request is None:
                body = await _read(response, max_bytes)
                return Answer(response.status_code, response.headers, body, response.url)
        finally:
            await response.aclose()
        request = _redirected(request, response.next_request)
    raise BrokenRedirect(f"{first_host} redirects more than {MAX_REDIRECTS} times.")


async def _read(response: httpx2.Response, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > max_bytes:
            raise ResponseTooLarge(
                f"{response.url.host} answers with more than {max_bytes:,} bytes, the limit that the setting OUTGOING_MAX_BYTES sets."
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _redirected(request: httpx2.Request, following: httpx2.Request) -> httpx2.Request:
    if _origin(request.url) != _origin(following.url):
        for name in list(following.headers):
            if name.lower() not in _HEADERS_FOR_STRANGERS and name.lower() != "host":
                del following.headers[name]
    return following


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Connects only to addresses that the policy allows: checked after resolving, and that very address is used.

    Honours the usual proxy variables (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`). A proxy is the operator's, so it may be
    anywhere; what is asked of it is checked all the same, as far as its name resolves here.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._direct = httpcore2.AsyncConnectionPool(
            ssl_context=_ssl_context(), network_backend=_GuardedBackend(policy)
        )
        self._proxied: dict[str, httpx2.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme not in {"http", "https"}:
            raise httpx2.UnsupportedProtocol(
                f"{url.scheme or 'no scheme'}: only http and https addresses can be reached."
            )
        proxy = _proxy_for(url)
        if proxy is not None:
            return await self._through(proxy, request)
        with _as_httpx_errors():
            response = await self._direct.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=cast("Any", response).extensions,
        )

    async def _through(self, proxy: str, request: httpx2.Request) -> httpx2.Response:
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        with suppress(httpx2.ConnectError):  # Behind a proxy, names often resolve only there.
            self._policy.check(host, port, await resolve(host, port))
        if proxy not in self._proxied:
            self._proxied[proxy] = httpx2.AsyncHTTPTransport(proxy=proxy, trust_env=False)
        return await self._proxied[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        await self._direct.aclose()
        for transport in self._proxied.values():
            await transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()


class _Body(httpx2.AsyncByteStream):
    """A response's body, with httpx2's errors instead of httpcore2's."""

    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves names itself, so that the address that was checked is the address that is connected to."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._network = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = self._policy.check(host, port, await resolve(host, port))
        except httpx2.ConnectError as error:
            raise httpcore2.ConnectError(str(error)) from error
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order of preference; `httpx2.ConnectError` if it has none."""
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host.strip("[]")))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError(f"{host} has no address: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@contextmanager
def _as_httpx_errors() -> Generator[None]:
    """httpcore2 and httpx2 name their errors alike."""
    try:
        yield
    except Exception as error:
        mapped: Any = getattr(httpx2, type(error).__name__, None) if type(error).__module__ == "httpcore2" else None
        if mapped is None:
            raise
        raise mapped(str(error)) from error


def _proxy_for(url: httpx2.URL) -> str | None:
    proxies: Mapping[str, str] = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Loading the system's certificates takes tens of milliseconds: once per process."""
    return httpx2.create_ssl_context()
