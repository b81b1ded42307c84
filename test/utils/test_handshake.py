"""The handshake between services."""

from typing import Any

import pytest

from autogpt_server.utils.rpc.errors import CallRefused
from autogpt_server.utils.rpc.handshake import Handshake


def test_who_knows_the_secret_is_let_in_and_knows_whom_it_met() -> None:
    client, server = Handshake(b"secret"), Handshake(b"secret")
    hello = client.hello("a.Service.1")
    client.check_answer(hello, server.answer(hello, "a.Service.1"), "a.Service.1")


@pytest.mark.parametrize(
    "hello",
    [
        None,
        "hello",
        {},
        {"nonce": b"x" * 16},
        {"nonce": b"", "mac": b""},
        {"nonce": "x" * 16, "mac": "y"},
        [b"x", b"y"],
    ],
)
def test_who_says_nothing_sensible_is_refused(hello: Any) -> None:
    with pytest.raises(CallRefused):
        Handshake(b"secret").answer(hello, "a")


def test_another_secret_is_refused_by_either_side() -> None:
    client, server = Handshake(b"one"), Handshake(b"other")
    hello = client.hello("a")
    with pytest.raises(CallRefused):
        server.answer(hello, "a")
    with pytest.raises(CallRefused):
        client.check_answer(hello, server.answer(server.hello("a"), "a"), "a")


def test_a_hello_is_for_one_target_and_for_one_time() -> None:
    client, server = Handshake(b"secret"), Handshake(b"secret")
    hello = client.hello("a")
    with pytest.raises(CallRefused):
        server.answer(hello, "b")
    server.answer(hello, "a")
    with pytest.raises(CallRefused):
        server.answer(hello, "a")


def test_an_answer_cannot_be_made_from_the_hello() -> None:
    client = Handshake(b"secret")
    hello = client.hello("a")
    for answer in (hello["mac"], hello["nonce"], b"", None):
        with pytest.raises(CallRefused):
            client.check_answer(hello, answer, "a")


def test_the_secret_does_not_travel() -> None:
    hello = Handshake(b"very secret").hello("a")
    assert b"very secret" not in b"".join(hello.values())
