"""SendWebRequest against a server on this machine."""

import base64
import socket
from collections.abc import Generator
from typing import Any

import pytest

from autogpt_server.blocks.web import SendWebRequestBlock
from autogpt_server.data.block import BlockContext, BlockError, EffectNotStarted, Effects, EffectUnknown
from autogpt_server.utils.settings import Settings
from support.blocks import context, run_block
from support.loopback import Loopback, Received, Reply
from support.running import free_port


def lent(**changes: Any) -> BlockContext:
    values: dict[str, Any] = {"outgoing_allow_private": True, **changes}
    return context(Settings(**values))


def page(request: Received) -> Reply:
    replies: dict[str, Reply] = {
        "/echo": Reply(
            {"method": request.method, "headers": dict(request.headers), "body": request.body.decode("latin-1")}
        ),
        "/text": Reply("häus".encode("latin-1"), headers={"content-type": "text/html; charset=iso-8859-1"}),
        "/image": Reply(b"\x89PNG\xff", headers={"content-type": "image/png"}),
        "/not-json": Reply(b"<html>", headers={"content-type": "application/json"}),
        "/problem": Reply({"detail": "no"}, 422, {"content-type": "application/problem+json"}),
        "/broken": Reply(b"oops", 500),
        "/nothing": Reply(b"", 204),
        "/drop": Reply(dropped=True),
        "/nowhere": Reply(b"", 303, {"location": "http://127.0.0.1:1/"}),
    }
    return replies.get(request.path, Reply(b"nothing here", 404))


@pytest.fixture
def site() -> Generator[Loopback]:
    with Loopback(page) as server:
        yield server


async def send(site: Loopback, path: str, **given: Any) -> tuple[str, Any]:
    """The one output of the block."""
    (output,) = await run_block(SendWebRequestBlock(), {"url": f"{site.url}{path}", **given}, lent())
    return output


async def test_json_goes_out_and_comes_back(site: Loopback) -> None:
    pin, echo = await send(site, "/echo", body={"ä": [1, None]}, headers={"X-Own": "1"})
    assert pin == "response"
    assert (echo["method"], echo["body"].encode("latin-1").decode()) == ("POST", '{"ä":[1,null]}')
    assert echo["headers"]["content-type"] == "application/json"
    assert echo["headers"]["x-own"] == "1"


async def test_text_that_is_json_is_sent_as_it_is(site: Loopback) -> None:
    assert (await send(site, "/echo", body='{"a": 1}'))[1]["body"] == '{"a": 1}'
    assert (await send(site, "/echo", body="plain"))[1]["body"] == '"plain"'
    assert (await send(site, "/echo", body="plain", json_format=False))[1]["body"] == "plain"


async def test_forms_and_files(site: Loopback) -> None:
    _, echo = await send(site, "/echo", body={"a": "b c", "n": 1}, json_format=False)
    assert echo["body"] == "a=b+c&n=1"
    assert echo["headers"]["content-type"] == "application/x-www-form-urlencoded"
    files = [f"data:image/png;base64,{base64.b64encode(b'PNG').decode()}", "data:,hello%20you"]
    _, echo = await send(site, "/echo", body={"a": "b"}, files=files, files_name="upload")
    assert echo["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    for part in ('name="a"', 'name="upload"; filename="file1"', "Content-Type: image/png", "PNG", "hello you"):
        assert part in echo["body"]


@pytest.mark.parametrize("file", ["/etc/passwd", "http://x/y", "data:image/png;base64,***"])
async def test_no_file_of_the_server_is_uploaded(site: Loopback, file: str) -> None:
    with pytest.raises(BlockError, match="File 1"):
        await send(site, "/echo", files=[file])
    assert site.received == []


async def test_a_request_that_changes_something_can_be_known_again(site: Loopback) -> None:
    assert (await send(site, "/echo", method="PUT"))[1]["headers"]["idempotency-key"] == "node-exec-1"
    own = {"Idempotency-Key": "mine"}
    assert (await send(site, "/echo", headers=own))[1]["headers"]["idempotency-key"] == "mine"
    assert "idempotency-key" not in (await send(site, "/echo", method="GET"))[1]["headers"]


@pytest.mark.parametrize(
    ("path", "method", "output"),
    [
        ("/text", "GET", ("response", "häus")),
        (
            "/image",
            "GET",
            ("response", f"data:image/png;base64,{base64.b64encode(bytes([0x89]) + b'PNG' + bytes([0xFF])).decode()}"),
        ),
        ("/not-json", "GET", ("response", "<html>")),
        ("/nothing", "DELETE", ("response", None)),
        ("/problem", "POST", ("client_error", {"detail": "no"})),
        ("/missing", "GET", ("client_error", "nothing here")),
        ("/broken", "POST", ("server_error", "oops")),
    ],
)
async def test_the_body_of_an_answer(site: Loopback, path: str, method: str, output: tuple[str, Any]) -> None:
    assert await send(site, path, method=method) == output


async def test_head_tells_the_headers(site: Loopback) -> None:
    pin, headers = await send(site, "/text", method="HEAD")
    assert (pin, headers["content-type"]) == ("response", "text/html; charset=iso-8859-1")


async def test_a_lost_answer_leaves_the_outcome_unknown_only_where_something_changes(site: Loopback) -> None:
    with pytest.raises(EffectUnknown, match="may have been carried out"):
        await send(site, "/drop", method="POST")
    with pytest.raises(BlockError, match="broke off") as caught:
        await send(site, "/drop", method="GET")
    assert not isinstance(caught.value, EffectUnknown)


async def test_a_request_that_was_answered_with_a_redirect_has_been_made(site: Loopback) -> None:
    with pytest.raises(EffectUnknown, match=r"redirects to 127\.0\.0\.1"):
        await send(site, "/nowhere", method="POST")
    with pytest.raises(BlockError, match="redirects to") as caught:
        await send(site, "/nowhere", method="GET")
    assert not isinstance(caught.value, EffectUnknown | EffectNotStarted)


async def test_nobody_there() -> None:
    with pytest.raises(EffectNotStarted, match=r"127\.0\.0\.1 cannot be reached"):
        await run_block(SendWebRequestBlock(), {"url": f"http://127.0.0.1:{free_port()}/"}, lent())


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_server_that_says_nothing(method: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        expected = EffectUnknown if method == "POST" else BlockError
        with pytest.raises(expected, match=r"did not answer within 0\.1 s"):
            await run_block(SendWebRequestBlock(), {"url": url, "method": method}, lent(outgoing_timeout_s=0.1))


async def test_the_servers_own_network_is_closed(site: Loopback) -> None:
    with pytest.raises(BlockError, match=f"127.0.0.1:{site.port} to the setting OUTGOING_ALLOWED_HOSTS"):
        await run_block(SendWebRequestBlock(), {"url": site.url}, lent(outgoing_allow_private=False))
    assert site.received == []


@pytest.mark.parametrize("url", ["example", "ftp://127.0.0.1/x", "http://", "file:///etc/passwd", "http://a:b:c/"])
async def test_what_is_no_web_address(url: str) -> None:
    with pytest.raises(BlockError, match=r"no web address|cannot be reached"):
        await run_block(SendWebRequestBlock(), {"url": url}, lent())


def test_effects_depend_on_the_method() -> None:
    block = SendWebRequestBlock()
    effects = {
        method: block.effects_for({"url": "x", "method": method})
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH")
    }
    assert {method for method, effect in effects.items() if effect is Effects.IDEMPOTENT} == {"GET", "HEAD", "OPTIONS"}
    assert block.effects_for({"url": "x"}) is Effects.UNSAFE
