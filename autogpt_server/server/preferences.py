"""The `Prefer` header of a request (RFC 7240): what the client would like, and may or may not get."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_WAIT_S = 60
"""The longest time, in seconds, that an answer is held back. Proxies give up on silent connections soon after."""

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')
_WAIT = re.compile(r'wait\s*=\s*("?)(\d{1,9})\d*\1', re.ASCII | re.IGNORECASE)


def preferred_wait_s(headers: Iterable[str]) -> int | None:
    """The seconds of `wait=SECONDS` in a request's `Prefer` headers, at most `MAX_WAIT_S`; None without it.

    What is malformed or unknown is passed over, as the RFC wants it. Of a preference that is given twice the first counts.
    """
    for header in headers:
        for preference in _split(header, ","):
            found = _WAIT.fullmatch(_split(preference, ";")[0].strip())
            if found:
                return min(int(found[2]), MAX_WAIT_S)
    return None


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that do not stand in quotes."""
    blanked = _QUOTED.sub(lambda quoted: "x" * len(quoted[0]), text)
    parts: list[str] = []
    start = 0
    for part in blanked.split(separator):
        parts.append(text[start : start + len(part)])
        start += len(part) + 1
    return parts
