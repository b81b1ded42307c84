"""The client that blocks use: where it goes, what it sends along, and how much it reads."""

import gzip
import socket
from collections.abc import Generator
from typing import Any

import httpx2
import pytest

from autogpt_server.utils.addresses import AddressPolicy, ForbiddenAddress
from autogpt_server.utils.http import Answer, BrokenRedirect, ResponseTooLarge, fetch, open_client
from support.loopback import Loopback, Received, Reply
from support.running import free_port

HERE = AddressPolicy(allow_private=True)


class Site(Loopback):
    """A few pages, and redirects to wherever `elsewhere` is."""

    elsewhere = "http://127.0.0.1:1"

    def answer(self, request: Received) -> Reply:
        pages: dict[str, Reply] = {
            "/": Reply(b"home", headers={"content-type": "text/plain; charset=latin-1"}),
            "/echo": Reply({"method": request.method, "headers": dict(request.headers), "body": request.body.decode()}),
            "/loop": Reply(b"", 302, {"location": "/loop"}),
            "/away": Reply(b"", 307, {"location": f"{self.elsewhere}/echo"}),
            "/there": Reply(b"", 302, {"location": "/echo"}),
            "/big": Reply(b"x" * 100_000),
            "/bomb": Reply(gzip.compress(b"x" * 10_000_000), headers={"content-encoding": "gzip"}),
            "/drop": Reply(dropped=True),
        }
        return pages.get(request.path, Reply(b"", 404))


@pytest.fixture
def site() -> Generator[Site]:
    with Site() as site:
        yield site


async def get(url: str, policy: AddressPolicy = HERE, *, method: str = "GET", **options: Any) -> Answer:
    async with open_client(policy, timeout_s=10) as client:
        return await fetch(client, client.build_request(method, url, **options), max_bytes=50_000)


async def test_an_answer_is_read_completely(site: Site) -> None:
    answer = await get(site.url)
    assert (answer.status, answer.body, answer.media_type, answer.charset) == (200, b"home", "text/plain", "latin-1")
    assert site.received[0].headers["user-agent"].startswith("autogpt_server")


@pytest.fixture
def names_lead_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver for which every name is this machine, as C's is for `127.1` and `2130706433`."""
    resolve = socket.getaddrinfo

    def getaddrinfo(_host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("names_lead_here")
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "a.example"],
)
async def test_forbidden_addresses_are_not_connected_to(site: Site, host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        await get(f"http://{host}:{site.port}/", AddressPolicy())
    assert site.received == []


@pytest.mark.usefixtures("names_lead_here")
async def test_the_address_that_was_checked_is_the_one_that_is_used(site: Site) -> None:
    answer = await get(f"http://a.example:{site.port}/echo", AddressPolicy(allowed_hosts=frozenset({"a.example"})))
    assert f'"host": "a.example:{site.port}"'.encode() in answer.body


async def test_an_allowed_host_is_reached(site: Site) -> None:
    assert (await get(site.url, AddressPolicy(allowed_hosts=frozenset({f"127.0.0.1:{site.port}"})))).status == 200


async def test_each_redirect_is_checked() -> None:
    with Site() as inner, Site() as outer:
        outer.elsewhere = inner.url
        with pytest.raises(BrokenRedirect, match=rf"redirects to 127\.0\.0\.1: .*{inner.port}"):
            await get(f"{outer.url}/away", AddressPolicy(allowed_hosts=frozenset({f"127.0.0.1:{outer.port}"})))
        assert inner.received == []


@pytest.mark.parametrize("target", ["http://127.0.0.1:1", "ftp://127.0.0.1", "http://"])
async def test_a_redirect_to_nowhere_is_not_a_connection_that_failed(site: Site, target: str) -> None:
    site.elsewhere = target
    with pytest.raises((BrokenRedirect, httpx2.RemoteProtocolError)):
        await get(f"{site.url}/away", method="POST")


async def test_secrets_do_not_follow_to_another_origin() -> None:
    with Site() as inner, Site() as outer:
        outer.elsewhere = inner.url
        headers = {"Authorization": "Bearer s3cret", "X-API-Key": "s3cret", "Cookie": "s3cret", "Accept": "text/x"}
        answer = await get(f"{outer.url}/away", method="POST", headers=headers, content=b"body")
        assert b"s3cret" not in answer.body
        assert b"text/x" in answer.body
        assert b'"body": "body"' in answer.body
        answer = await get(f"{outer.url}/there", headers=headers)
        assert answer.body.count(b"s3cret") == 2


async def test_a_redirect_loop_ends(site: Site) -> None:
    with pytest.raises(BrokenRedirect, match="more than 10 times"):
        await get(f"{site.url}/loop")
    assert len(site.received) == 11


@pytest.mark.parametrize("path", ["/big", "/bomb"])
async def test_no_more_is_read_than_allowed(site: Site, path: str) -> None:
    with pytest.raises(ResponseTooLarge, match=r"more than 50,000 bytes.*OUTGOING_MAX_BYTES"):
        await get(f"{site.url}{path}")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/"])
async def test_only_the_web_is_reached(url: str) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        await get(url)


async def test_failures_are_httpx2s(site: Site) -> None:
    with pytest.raises(httpx2.ConnectError):
        await get(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(httpx2.RemoteProtocolError):
        await get(f"{site.url}/drop")


async def test_a_server_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_client(HERE, timeout_s=0.05) as client:
            request = client.build_request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
            with pytest.raises(httpx2.ReadTimeout):
                await fetch(client, request, max_bytes=1)


async def test_a_proxy_is_used_and_what_is_asked_of_it_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(request: Received) -> Reply:
        return Reply({"through": "proxy"})

    with Loopback(proxy) as server:
        monkeypatch.setenv("http_proxy", server.url)
        answer = await get("http://93.184.216.34/page", AddressPolicy())
        assert answer.body == b'{"through": "proxy"}'
        with pytest.raises(ForbiddenAddress):
            await get("http://169.254.169.254/latest/meta-data", AddressPolicy())
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Site() as site:
            assert (await get(site.url)).body == b"home"
        assert len(server.received) == 1
