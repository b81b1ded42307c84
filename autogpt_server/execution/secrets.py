"""Finds the secrets in a block's input, and keeps them out of error messages and logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import pydantic

from autogpt_server.data.block import BlockSchema
from autogpt_server.utils.settings import Settings

HIDDEN = "***"

_MIN_CHARS = 4
"""Shorter texts are left alone: what they are part of by chance would become unreadable, and they are no secrets worth the name."""

_SECRET_NAME = re.compile(r"(?:^|_)(?:api_?keys?|private_key|secret|password|passwd|token|authorization|cookie)$")
_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")


def input_secrets(schema: type[BlockSchema], values: Mapping[str, Any]) -> Iterator[str]:
    """The texts in a block's input that must not be shown: all of its secret pins, and those under names like `api_key`."""
    secret_pins = schema.secret_pins()
    for pin, value in values.items():
        yield from _texts(value, is_secret=pin in secret_pins or is_secret_name(pin))


def settings_secrets(settings: Settings) -> Iterator[str]:
    """The secrets among the server's settings."""
    for name in Settings.model_fields:
        value: Any = getattr(settings, name)
        for item in cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,)):
            if isinstance(item, pydantic.SecretStr):
                yield item.get_secret_value()


def mask(text: str, secrets: Iterable[str]) -> str:
    """`text` with `***` in place of each secret."""
    for secret in sorted({secret for secret in secrets if len(secret) >= _MIN_CHARS}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def is_secret_name(name: str) -> bool:
    """Whether `api_key`, `Api-Key`, `accessToken` and the like are what a secret is called."""
    return _SECRET_NAME.search(_WORD_BORDER.sub("_", name).lower()) is not None


def _texts(value: Any, *, is_secret: bool) -> Iterator[str]:
    match value:
        case str():
            if is_secret:
                yield value
        case list():
            for item in cast("list[Any]", value):
                yield from _texts(item, is_secret=is_secret)
        case dict():
            for name, item in cast("dict[str, Any]", value).items():
                yield from _texts(item, is_secret=is_secret or is_secret_name(name))
        case _:
            pass
