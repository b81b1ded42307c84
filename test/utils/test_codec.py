"""What travels between services, and what does not."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NewType
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.rpc.codec import Codec, pack_error
from autogpt_server.utils.rpc.errors import InvalidCall, RemoteError

RunId = NewType("RunId", str)


class Size(Enum):
    SMALL = 1
    LARGE = 2


@dataclass(frozen=True)
class Box:
    size: Size
    inside: "tuple[Box, ...]" = ()
    label: str | None = None


class Shipment(BaseModel):
    boxes: list[Box]
    at: datetime


class Lost(AutoGPTServerError):
    """It is lost."""

    code = "lost_in_transit"


def method(annotation: Any) -> Codec:
    """The codec of a method that takes and returns one value of this type."""

    def carry(self: object, value: Any) -> Any:
        return value

    carry.__annotations__.update(value=annotation)
    carry.__annotations__["return"] = annotation
    return Codec(carry)


def round_trip(annotation: Any, value: Any) -> Any:
    codec = method(annotation)
    arrived = codec.unpack_arguments(codec.pack_arguments((value,), {}))["value"]
    returned = codec.unpack_reply(codec.pack_result(arrived))
    assert type(returned) is type(arrived)
    assert returned == arrived
    return arrived


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (RunId, RunId("r1")),
        (Box, Box(Size.LARGE, (Box(Size.SMALL, label="inner"),))),
        (list[Box] | None, [Box(Size.SMALL)]),
        (Shipment, Shipment(boxes=[Box(Size.SMALL)], at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))),
        (datetime, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        (dict[str, tuple[int, float]], {"a": (1, 2.5)}),
        (set[str], {"a", "b"}),
        (bytes, b"\x00\xff"),
        (int, 2**200),
        (int, -(2**63)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=5)),
        (Path, Path("/x")),
        (Size, Size.LARGE),
        (None, None),
    ],
)
def test_a_value_arrives_as_what_it_was(annotation: Any, value: Any) -> None:
    arrived = round_trip(annotation, value)
    assert arrived == value
    assert type(arrived) is type(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
    max_leaves=20,
)


@given(JSON)
def test_any_json_value_arrives_unchanged(value: Any) -> None:
    assert round_trip(JsonValue, value) == value
    assert round_trip(Any, value) == value


def test_times_arrive_in_utc() -> None:
    sent = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    arrived = round_trip(datetime, sent)
    assert arrived == sent
    assert arrived.tzinfo is UTC or arrived.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (datetime, datetime(2026, 1, 1), "without a time zone"),
        (Any, object(), "a object cannot be sent|object"),
        (int, "x", "value is not what the annotation says"),
        (Box, {"size": 1}, "value is not what the annotation says"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_sender(annotation: Any, value: Any, problem: str) -> None:
    with pytest.raises(InvalidCall, match=problem):
        method(annotation).pack_arguments((value,), {})


@pytest.mark.parametrize(
    ("annotation", "arguments"),
    [
        (int, {"value": "x"}),
        (int, {}),
        (int, {"value": 1, "other": 2}),
        (Box, {"value": {"size": 3}}),
        (Box, {"value": "Box"}),
        (int, [1]),
    ],
)
def test_what_does_not_fit_is_refused_by_the_receiver(annotation: Any, arguments: Any) -> None:
    packed: Any = msgpack
    with pytest.raises(InvalidCall):
        method(annotation).unpack_arguments(packed.packb(arguments))


def test_a_call_that_does_not_fit_the_method_is_refused_before_it_is_sent() -> None:
    codec = method(int)
    with pytest.raises(InvalidCall, match="too many positional arguments"):
        codec.pack_arguments((1, 2), {})
    with pytest.raises(InvalidCall, match="missing a required argument"):
        codec.pack_arguments((), {})


def test_every_parameter_needs_an_annotation() -> None:
    def unclear(self: object, value: int) -> None:
        """Has a parameter without a type, in a moment."""

    del unclear.__annotations__["value"]
    with pytest.raises(InvalidCall, match="no annotation for value"):
        Codec(unclear).pack_arguments((1,), {})


def test_variadic_methods_cannot_be_exposed() -> None:
    def many(self: object, *values: int) -> None:
        """Takes what comes."""

    with pytest.raises(InvalidCall, match="cannot take"):
        Codec(many).pack_arguments((1,), {})


def test_an_error_arrives_as_its_class_with_its_details() -> None:
    with pytest.raises(Lost, match="on the way") as caught:
        method(int).unpack_reply(pack_error(Lost("on the way", parcel=7)))
    assert caught.value.details == {"parcel": 7}


def test_details_that_cannot_travel_are_left_behind() -> None:
    with pytest.raises(Lost, match="on the way") as caught:
        method(int).unpack_reply(pack_error(Lost("on the way", parcel=object())))
    assert caught.value.details == {}


def test_an_unknown_error_becomes_a_remote_error_and_no_class_is_looked_up() -> None:
    packed: Any = msgpack
    reply = b"\x01" + packed.packb(["never_heard_of", "SystemExit", "bye", {}])
    with pytest.raises(RemoteError, match="SystemExit: bye") as caught:
        method(int).unpack_reply(reply)
    assert caught.value.details == {"error_type": "SystemExit", "error_code": "never_heard_of"}
