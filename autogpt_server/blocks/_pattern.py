"""Regular expressions that users write, within limits of time: some patterns take exponential time on a text made for it."""

from functools import lru_cache
from typing import TYPE_CHECKING

from autogpt_server.data.block import BlockError

if TYPE_CHECKING:
    import regex

MAX_PATTERN_CHARS = 10_000
MAX_MATCH_S = 2.0


class PatternError(BlockError):
    """The regular expression cannot be used."""

    code = "pattern_failed"


def search(pattern: str, text: str, *, ignore_case: bool = False, dot_all: bool = False) -> "regex.Match[str] | None":
    """The first match of `pattern` in `text`; `PatternError` if it is no pattern or takes longer than `MAX_MATCH_S`.

    Syntax: https://pypi.org/project/regex/ (a superset of Python's `re`).
    """
    try:
        return _compiled(pattern, ignore_case, dot_all).search(text, timeout=MAX_MATCH_S)
    except TimeoutError:
        raise PatternError(
            f"The pattern {_short(pattern)} takes longer than {MAX_MATCH_S:g} s on this text; "
            "repetitions within repetitions are the usual cause."
        ) from None


@lru_cache(maxsize=512)
def _compiled(pattern: str, ignore_case: bool, dot_all: bool) -> "regex.Pattern[str]":
    import regex  # noqa: PLC0415 - loaded on first use

    if len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"The pattern has {len(pattern):,} characters; at most {MAX_PATTERN_CHARS:,} are allowed.")
    flags = (regex.IGNORECASE if ignore_case else 0) | (regex.DOTALL if dot_all else 0)
    try:
        return regex.compile(pattern, flags)
    except regex.error as error:
        raise PatternError(f"{_short(pattern)} is no regular expression: {error}.") from error
    except (RecursionError, OverflowError, MemoryError):
        raise PatternError(f"The pattern {_short(pattern)} is too large.") from None


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else f"{pattern[:77]}...")
