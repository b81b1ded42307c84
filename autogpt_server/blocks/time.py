"""Blocks that read the clock."""

from datetime import tzinfo
from functools import lru_cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import pydantic

from autogpt_server.blocks._upgrade import rename_pins, uses_pin
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockOutput,
    BlockSchema,
    Effects,
    NodeWiring,
    OutputSchema,
    SchemaField,
)

MAX_FORMAT_CHARS = 1_000


class _Zone(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", hide_input_in_errors=True)

    timezone: str = pydantic.Field("UTC", description="An IANA name, as in Europe/Berlin.")
    use_user_timezone: bool = pydantic.Field(
        default=False, description="Whether to use the time zone of the server's machine."
    )


class TimeStrftimeFormat(_Zone):
    """A format as in C and Python: %H hour, %M minute, %S second, ..."""

    discriminator: Literal["strftime"]
    format: str = pydantic.Field("%H:%M:%S", max_length=MAX_FORMAT_CHARS)


class TimeISO8601Format(_Zone):
    """A time as ISO 8601 writes it where no date goes before it: T14:30:00+00:00."""

    discriminator: Literal["iso8601"]
    include_microseconds: bool = False


TimeFormat = Annotated[TimeStrftimeFormat | TimeISO8601Format, pydantic.Discriminator("discriminator")]


class GetCurrentTimeBlock(Block):
    id = "a892b8d9-3e4e-4e9c-9c1e-75f8efcf1bfa"
    description = "Tells the time."
    categories = frozenset({BlockCategory.TEXT})
    effects = Effects.IDEMPOTENT
    """It reads a clock: again is harmless, but not the same."""

    class Input(BlockSchema):
        trigger: str = SchemaField(description="Any text; the time is told when it arrives.")
        format_type: TimeFormat = SchemaField(
            TimeStrftimeFormat(discriminator="strftime", format="%H:%M:%S", timezone="UTC"),
            description="How the time is written, and in which zone.",
        )

    class Output(OutputSchema):
        time: str = SchemaField("", description="The time.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"trigger": "now"},
        {
            "trigger": "now",
            "format_type": {"discriminator": "strftime", "format": "%H h %M", "timezone": "Asia/Kolkata"},
        },
        {"trigger": "now", "format_type": {"discriminator": "iso8601", "timezone": "America/New_York"}},
        {"trigger": "now", "format_type": {"discriminator": "iso8601", "include_microseconds": True}},
    )
    test_output = (
        [("time", "12:30:45")],
        [("time", "18 h 00")],
        [("time", "T07:30:45-05:00")],
        [("time", "T12:30:45.678901+00:00")],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        wanted = input_data.format_type
        now = ctx.now().astimezone(None if wanted.use_user_timezone else zone(wanted.timezone))
        if isinstance(wanted, TimeISO8601Format):
            moment = now.isoformat(timespec="microseconds" if wanted.include_microseconds else "seconds")
            yield "time", moment[moment.index("T") :]
        else:
            yield "time", now.strftime(wanted.format)

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: the format was a pin of its own."""
        if not uses_pin(node, ("format",)):
            return node
        renamed = rename_pins(node, inputs={"format": "format_type_#_format"})
        return NodeWiring(
            {"format_type_#_discriminator": "strftime", **renamed.defaults}, renamed.incoming, renamed.outgoing
        )


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """The time zone of this IANA name; `BlockError` if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BlockError(f"There is no time zone {name!r}; use an IANA name such as Europe/Berlin or UTC.") from None
