"""The block library through the API: listed, and called."""

from __future__ import annotations

from typing import Any

import pytest

from autogpt_server.server.block_call import BlockCaller
from autogpt_server.server.problems import BlockTimeout
from autogpt_server.utils.settings import Settings
from server.api import Api, problem
from server.sample_blocks import BLOCKS, STORE_VALUE, Fail, Flood, Repeat, Stuck, StuckAsync


async def test_every_block_is_listed(api: Api) -> None:
    listed = (await api.client.get("/blocks")).json()
    assert {block["id"] for block in listed} == set(BLOCKS)
    store = next(block for block in listed if block["id"] == STORE_VALUE)
    assert set(store) == {
        "id",
        "name",
        "description",
        "categories",
        "inputSchema",
        "outputSchema",
        "staticOutput",
        "effects",
    }
    assert store["inputSchema"]["required"] == ["input"]
    assert store["staticOutput"] is True


async def test_a_block_answers_what_it_yields_in_order(api: Api) -> None:
    response = await api.client.post(f"/blocks/{Repeat.id}/execute", json={"value": [1], "times": 3})
    assert response.json() == [{"item": [1]}] * 3


async def test_input_is_converted_as_in_a_run(api: Api) -> None:
    response = await api.client.post(f"/blocks/{Repeat.id}/execute", json={"value_#_a": 1, "times": "2"})
    assert response.json() == [{"item": {"a": 1}}] * 2


async def test_older_pin_names_are_understood(api: Api) -> None:
    body = {"texts": ["a", "b"], "format": "{texts[0]}-{texts[1]}"}
    response = await api.client.post("/blocks/db7d8f02-2f44-4c55-ab7a-eae0941f0c30/execute", json=body)
    assert response.json() == [{"output": "a-b"}]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {("missing_input", "value")}),
        ({"value": 1, "times": 1.5, "tmies": 1}, {("input_type_mismatch", "times"), ("unknown_pin", "tmies")}),
        ({"value": 1, "times_$_x": 1}, {("bad_pin_name", None)}),
        ({"value": 1, "times": 1, "times_$_0": 1}, {("pin_merge_failed", "times")}),
    ],
)
async def test_everything_that_does_not_fit_is_named(
    api: Api, body: dict[str, Any], expected: set[tuple[str, str | None]]
) -> None:
    document = problem(await api.client.post(f"/blocks/{Repeat.id}/execute", json=body), 422, "invalid_input")
    assert {(error["code"], error["pin"]) for error in document["errors"]} == expected


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("error", "block_failed", "out of milk"),
        ("pin-of-error", "block_failed", "said on the error pin"),
        ("crash", "block_failed", "ZeroDivisionError"),
        ("exit", "block_failed", "end the process"),
        ("nan", "invalid_json_value", "not JSON"),
        ("pin", "unknown_output_pin", "itme"),
    ],
)
async def test_a_block_that_fails_is_a_problem_with_its_own_code(api: Api, how: str, code: str, words: str) -> None:
    document = problem(
        await api.client.post(f"/blocks/{Fail.id}/execute", json={"how": how}), 422, "block_execution_failed"
    )
    assert words in document["detail"]
    assert [error["code"] for error in document["errors"]] == [code]


async def test_there_is_no_such_block(api: Api) -> None:
    problem(await api.client.post("/blocks/none/execute", json={}), 404, "block_not_found")


@pytest.mark.parametrize("block_id", [Stuck.id, StuckAsync.id])
async def test_a_block_that_does_not_end_is_given_up(api: Api, block_id: str) -> None:
    try:
        problem(await api.client.post(f"/blocks/{block_id}/execute", json={}), 422, "block_timeout")
    finally:
        Stuck.freed.set()


async def test_a_block_without_a_limit_of_its_own_gets_the_servers(settings: Settings) -> None:
    caller = BlockCaller(settings, time_limit_s=0.05)
    with pytest.raises(BlockTimeout, match=r"0\.05 s"):
        await caller.call(StuckAsync(), {})
    caller.close()


async def test_a_block_that_yields_without_end_is_stopped(api: Api) -> None:
    document = problem(await api.client.post(f"/blocks/{Flood.id}/execute", json={}), 422, "block_execution_failed")
    assert "yielded more than" in document["detail"]
