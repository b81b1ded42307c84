"""Patterns, and text blocks at their edges."""

from typing import Any

import pytest

from autogpt_server.blocks import _pattern
from autogpt_server.blocks._pattern import PatternError, search
from autogpt_server.blocks.text import MatchTextPatternBlock
from support.blocks import run_block


def test_a_pattern_that_explodes_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pattern, "MAX_MATCH_S", 0.1)
    with pytest.raises(PatternError, match=r"takes longer than 0\.1 s"):
        search(r"(a|aa|aaa)+$", "a" * 60 + "b")


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<x", "a{2,1}", "(?<=a+)b(", "\\"])
def test_what_is_no_pattern_is_said(pattern: str) -> None:
    with pytest.raises(PatternError, match="is no regular expression"):
        search(pattern, "abc")


def test_a_pattern_of_any_size_is_no_harm() -> None:
    with pytest.raises(PatternError, match="10,001 characters"):
        search("a" * 10_001, "a")
    with pytest.raises(PatternError):
        search("(" * 5_000 + ")" * 5_000, "a" * 10)


@pytest.mark.parametrize(
    ("given", "pin"),
    [
        ({"text": {"a": 1}, "match": '"a": 1'}, "positive"),
        ({"text": False, "match": "false"}, "positive"),
        ({"text": 3.5, "match": r"^3\.5$"}, "positive"),
        ({"text": None, "match": "null"}, "positive"),
        ({"text": "True", "match": "true", "case_sensitive": False}, "positive"),
        ({"text": "True", "match": "true"}, "negative"),
        ({"text": "", "match": "^$"}, "positive"),
    ],
)
async def test_anything_can_be_matched(given: dict[str, object], pin: str) -> None:
    assert await run_block(MatchTextPatternBlock(), {"data": "d", **given}) == [(pin, "d")]


async def test_data_that_is_false_is_still_data() -> None:
    falsy: tuple[Any, ...] = ("", 0, False, [], {})
    for data in falsy:
        assert await run_block(MatchTextPatternBlock(), {"text": "a", "match": "a", "data": data}) == [
            ("positive", data)
        ]
