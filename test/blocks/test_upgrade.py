"""Graphs saved with the pins of July 2024 become graphs with today's."""

import json
from pathlib import Path
from typing import Any

import pytest

from autogpt_server import seeds
from autogpt_server.blocks import get_block, get_blocks
from autogpt_server.blocks._template import render
from autogpt_server.data.block import NodeWiring, PinLink, block_test_cases
from autogpt_server.data.pins import merge_slots

EXAMPLES = Path(__file__).parents[2] / "examples"


def upgraded(block_id: str, *, sinks: tuple[str, ...] = (), **defaults: Any) -> NodeWiring:
    """The wiring after the block's upgrade, which must leave its own result alone."""
    block = get_block(block_id)
    assert block is not None
    links = [PinLink(f"x{number}", sink) for number, sink in enumerate(sinks)]
    once = block.upgrade(NodeWiring(defaults, links))
    assert block.upgrade(once) == once
    return once


def sinks(node: NodeWiring) -> list[str]:
    return [f"{link.source_name} -> {link.sink_name}" for link in node.incoming]


def test_formatter_texts_and_named_texts() -> None:
    node = upgraded(
        seeds.FILL_TEXT_TEMPLATE,
        sinks=("texts_$_1", "texts_$_2_#_name", "named_texts_#_who", "named_texts", "texts"),
        **{"format": "{texts[0]}", "texts_$_3": "!!!", "named_texts": {}},
    )
    assert node.defaults == {"format": "{texts[0]}", "values_#_texts_$_3": "!!!", "values": {}}
    assert sinks(node) == [
        "x0 -> values_#_texts_$_1",
        "x1 -> values_#_texts_$_2_#_name",
        "x2 -> values_#_who",
        "x3 -> values",
        "x4 -> values_#_texts",
    ]


def test_a_formatters_doubled_braces_were_single_ones() -> None:
    old = 'Answer {{"id": "{id}", "tags": {{"a": []}}}} for {{name}}'
    node = upgraded(seeds.FILL_TEXT_TEMPLATE, sinks=("named_texts",), format=old)
    assert render(node.defaults["format"], {"id": 7, "name": "N"}) == 'Answer {"id": "7", "tags": {"a": []}} for N'
    new = upgraded(seeds.FILL_TEXT_TEMPLATE, sinks=("values",), format=old)
    assert new.defaults["format"] == old


def test_llm_config_as_a_value() -> None:
    node = upgraded(
        seeds.AI_STRUCTURED_RESPONSE,
        sinks=("usr_prompt",),
        config={"model": "gpt-4o", "api_key": "k"},
        sys_prompt="s",
        retry=2,
    )
    assert node.defaults == {
        "model": "gpt-4o",
        "credentials": {"api_key": "k"},
        "sys_prompt": "s",
        "retry": 2,
        "expected_format": {},
    }
    assert sinks(node) == ["x0 -> prompt"]


def test_llm_config_by_links() -> None:
    node = upgraded(
        seeds.AI_STRUCTURED_RESPONSE, sinks=("config", "config_#_model", "config_@_api_key"), expected_format={"a": "b"}
    )
    assert sinks(node) == ["x0_#_model -> model", "x0 -> credentials", "x1 -> model", "x2 -> credentials_#_api_key"]
    assert node.defaults == {"expected_format": {"a": "b"}}


def test_llm_key_of_its_own_pin() -> None:
    assert upgraded(seeds.AI_STRUCTURED_RESPONSE, api_key="", model="m", expected_format={"a": "b"}).defaults == {
        "model": "m",
        "expected_format": {"a": "b"},
    }
    assert upgraded(seeds.AI_STRUCTURED_RESPONSE, api_key="k").defaults["credentials"] == {"api_key": "k"}
    assert (
        upgraded(seeds.AI_STRUCTURED_RESPONSE, usr_prompt="p", expected_format=None).defaults["expected_format"] == {}
    )


def test_reddit_credentials_and_data() -> None:
    node = upgraded(seeds.GET_REDDIT_POSTS, sinks=("creds_#_client_id",), creds={"client_secret": "s"}, subreddit="x")
    assert node.defaults == {"credentials": {"client_secret": "s"}, "subreddit": "x"}
    assert sinks(node) == ["x0 -> credentials_#_client_id"]
    node = upgraded(seeds.POST_REDDIT_COMMENT, sinks=("data",), creds={})
    assert sinks(node) == ["x0_#_post_id -> post_id", "x0_#_comment -> comment"]
    node = upgraded(seeds.POST_REDDIT_COMMENT, sinks=("data_#_post_id", "data_@_comment"))
    assert sinks(node) == ["x0 -> post_id", "x1 -> comment"]
    assert upgraded(seeds.POST_REDDIT_COMMENT, data={"post_id": "p", "comment": "c"}).defaults == {
        "post_id": "p",
        "comment": "c",
    }
    part: dict[str, Any] = {"data_#_comment": "c"}
    assert upgraded(seeds.POST_REDDIT_COMMENT, **part).defaults == {"comment": "c"}


def test_combined_texts_were_numbered_pins() -> None:
    node = upgraded("e30a4d42-7b7d-4e6a-b36e-1f9b8e3b7d85", sinks=("input1", "input3"), input2=" said: ", delimiter="")
    assert node.defaults == {"input_$_2": " said: ", "delimiter": ""}
    assert sinks(node) == ["x0 -> input_$_1", "x1 -> input_$_3"]


def test_time_format_was_a_pin() -> None:
    node = upgraded("a892b8d9-3e4e-4e9c-9c1e-75f8efcf1bfa", trigger="x", format="%H:%M")
    merged = merge_slots(node.defaults, {})
    assert merged["format_type"] == {"discriminator": "strftime", "format": "%H:%M"}


@pytest.mark.parametrize("block", get_blocks().values(), ids=lambda block: block.name)
def test_todays_wiring_comes_back_unchanged(block: Any) -> None:
    for case in block_test_cases(block):
        node = NodeWiring(case.input, [PinLink("a", pin) for pin in block.input_schema.pins()], [PinLink("error", "b")])
        again = block.upgrade(node)
        assert (dict(again.defaults), list(again.incoming), list(again.outgoing)) == (
            dict(node.defaults),
            list(node.incoming),
            list(node.outgoing),
        )


@pytest.mark.parametrize(
    ("name", "graph"),
    [("hello_world", seeds.hello_graph()), ("reddit_marketing", seeds.reddit_marketing_graph())],
)
def test_example_files_are_the_seeds(name: str, graph: dict[str, Any]) -> None:
    assert json.loads((EXAMPLES / f"{name}.json").read_text()) == graph
