"""Printing, where the console is not what it should be."""

import io
import logging
import sys
from typing import Any

import pytest

from autogpt_server.blocks.basic import PrintToConsoleBlock
from autogpt_server.data.block import BlockError
from support.blocks import run_block


async def printed(value: Any) -> None:
    assert await run_block(PrintToConsoleBlock(), {"text": value}) == [("output", value), ("status", "printed")]


async def test_each_value_is_one_line_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("Hello, World!", {"a": ["ä", None]}, 3.5, "", None):
        await printed(value)
    assert capsys.readouterr().out.split("\n") == ["Hello, World!", '{"a": ["ä", null]}', "3.5", "", "null", ""]


async def test_what_the_console_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    await printed("häus 🏠")
    assert raw.getvalue() == b"h\\xe4us \\U0001f3e0\n"


async def test_a_console_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BlockError, match="Broken pipe"):
        await printed("x")


async def test_without_a_console_it_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with caplog.at_level(logging.INFO):
        await printed("x")
    assert "printed: x" in caplog.text
