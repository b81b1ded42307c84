"""Telling the time in zones and formats."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from autogpt_server.blocks.time import GetCurrentTimeBlock
from autogpt_server.data.block import BlockError
from support.blocks import context, run_block

SUMMER = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


async def told(format_type: dict[str, Any], now: datetime = SUMMER) -> str:
    """The time that the block tells."""
    given = {"trigger": "go", "format_type": format_type}
    ((pin, time),) = await run_block(GetCurrentTimeBlock(), given, context(now=now))
    assert pin == "time"
    return time


@pytest.mark.parametrize(
    ("zone", "time"),
    [
        ("UTC", "T12:00:00+00:00"),
        ("Europe/Berlin", "T14:00:00+02:00"),
        ("Australia/Lord_Howe", "T22:30:00+10:30"),
        ("Pacific/Honolulu", "T02:00:00-10:00"),
    ],
)
async def test_zones_with_their_summer_time(zone: str, time: str) -> None:
    assert await told({"discriminator": "iso8601", "timezone": zone}) == time


async def test_the_machines_own_zone() -> None:
    format_type = {"discriminator": "strftime", "format": "%H:%M", "use_user_timezone": True, "timezone": "Asia/Tokyo"}
    assert await told(format_type) == SUMMER.astimezone().strftime("%H:%M")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../../etc/passwd", "/etc/localtime", "", "Europe", "x" * 5000])
async def test_a_zone_that_is_none(zone: str) -> None:
    with pytest.raises(BlockError, match="no time zone"):
        await told({"discriminator": "iso8601", "timezone": zone})


@pytest.mark.parametrize("format_", ["", "%", "%%", "%1000000000d", "ä %H", "%Q"])
async def test_any_format_gives_text(format_: str) -> None:
    assert len(await told({"discriminator": "strftime", "format": format_})) < 1000


async def test_a_format_has_its_size() -> None:
    with pytest.raises(ValidationError, match="at most 1000 characters"):
        await told({"discriminator": "strftime", "format": "%H" * 501})
