"""A running server's API, as commands of the shell use it."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import parse_qsl, urlsplit

import click

from autogpt_server.utils.errors import AutoGPTServerError

if TYPE_CHECKING:
    import httpx

REQUEST_TIMEOUT_S = 30.0
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED"})
"""The statuses of runs that never change."""


class RequestFailed(AutoGPTServerError):
    """The server did not do what it was asked."""


class ServerUnreachable(RequestFailed):
    """Nobody answers at the server's address."""


api_key_option = click.option(
    "--api-key",
    envvar="AUTOGPT_API_KEY",
    show_envvar=True,
    help="The server's API key, if it asks for one (its API_KEYS).",
)


class Api:
    """A server's API. Every failure is a `RequestFailed` of one line."""

    def __init__(self, url: str, api_key: str | None) -> None:
        import httpx  # noqa: PLC0415 - `cli --help` need not wait for it

        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise RequestFailed(f"{url!r} is no address of a server; write it as in http://127.0.0.1:8000.")
        self.url = url.rstrip("/")
        self.client: httpx.Client = httpx.Client(
            base_url=self.url, headers={"X-API-Key": api_key} if api_key else {}, timeout=REQUEST_TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the JSON of the answer. `params`: the query; what is None is left out."""
        query = {name: value for name, value in (params or {}).items() if value is not None}
        return self._json_of(self._send(method, path, body, query, headers))

    def items(self, path: str) -> Iterator[Any]:
        """The items of a list, over as many pages as it has."""
        query: Mapping[str, Any] = {}
        while True:
            response = self._send("GET", path, None, query, None)
            yield from self._json_of(response)
            following = response.links.get("next")
            if following is None:
                return
            query = dict(parse_qsl(urlsplit(following["url"]).query))

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any],
        headers: Mapping[str, str] | None,
    ) -> "httpx.Response":
        import httpx  # noqa: PLC0415

        try:
            response = self.client.request(method, path, json=body, params=query, headers=headers)
        except httpx.ConnectError as error:
            raise ServerUnreachable(f"There is no server at {self.url}; start one with `poetry run app`.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RequestFailed(f"{method} {self.url}{path} failed: {error or type(error).__name__}.") from error
        if response.is_error:
            raise RequestFailed(f"{method} {self.url}{path}: {problem_line(response)}")
        return response

    def _json_of(self, response: "httpx.Response") -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise RequestFailed(f"{self.url} answers, but not with JSON; is it an autogpt_server?") from error


def problem_line(response: "httpx.Response") -> str:
    """A problem document (RFC 9457) as one line; another answer by its status."""
    try:
        problem: Any = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return f"the server answered {response.status_code} {response.reason_phrase}."
    document = cast("dict[str, Any]", problem)
    said = [str(document.get("detail") or document.get("title") or response.reason_phrase)]
    for item in cast("list[dict[str, Any]]", document.get("errors") or []):
        where = " ".join(str(item[name]) for name in ("node_id", "pin") if item.get(name))
        said.append(f"{where}: {item.get('message')}" if where else str(item.get("message")))
    code = f" {document['code']}" if document.get("code") else ""
    return f"{response.status_code}{code}: {'; '.join(said)}"
