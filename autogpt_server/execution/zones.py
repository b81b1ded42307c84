"""Time zones of the IANA database, as stretches of time in which the offset from UTC does not change. Pure: no clock."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from autogpt_server.utils.errors import AutoGPTServerError

HORIZON = datetime(2200, 1, 1, tzinfo=UTC)
"""Nothing is computed beyond this instant."""

_ZERO = timedelta(0)
_STEP = timedelta(days=3)  # no zone has two transitions within a week (tzdata 2026, years 1985 to 2040)
_NOT_PLACES = frozenset(
    {"localtime", "posixrules", "Factory"}
)  # files of the database that are no zone, or another one on each machine


class UnknownTimeZone(AutoGPTServerError):
    """This is not the name of a time zone; write one of the IANA database, such as `Europe/Berlin` or `UTC`."""

    code = "unknown_time_zone"


@dataclass(frozen=True, slots=True)
class Transition:
    """The instant at which a zone's offset from UTC changes."""

    at: datetime
    before: timedelta
    after: timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time, from `start` (inclusive) to `end` (exclusive), in which the offset from UTC is the same.

    Local times are naive. `local_end_before` is what the clocks were about to show when the period began: earlier than `local_start`
    if they were put forward (the times between do not exist), later if they were put back (the times between are shown again).
    """

    start: datetime
    end: datetime
    offset: timedelta
    offset_before: timedelta

    @property
    def local_start(self) -> datetime:
        return self.to_local(self.start)

    @property
    def local_end(self) -> datetime:
        return self.to_local(self.end)

    @property
    def local_end_before(self) -> datetime:
        return self.start.replace(tzinfo=None) + self.offset_before

    def to_local(self, instant: datetime) -> datetime:
        """What the clocks show at `instant`, which lies in the period or at its end."""
        return instant.replace(tzinfo=None) + self.offset

    def to_utc(self, local: datetime) -> datetime:
        """The instant at which the clocks show `local` in this period."""
        return (local - self.offset).replace(tzinfo=UTC)


def time_zone(name: str) -> ZoneInfo:
    """The zone of that name; `UnknownTimeZone`, with what may have been meant, if there is none."""
    if name not in _NOT_PLACES:
        try:
            return ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            # OSError: a folder of the database ("Europe"), or a name that is too long for a file.
            pass
    raise UnknownTimeZone(f"{name!r} is not the name of a time zone; {_hint(name)}", timezone=name)


def periods(zone: ZoneInfo, after: datetime, until: datetime = HORIZON) -> Iterator[Period]:
    """The periods that together cover `after` to `until` (aware), in order; the first began at most about a year before `after`."""
    start = datetime(after.astimezone(UTC).year - 1, 1, 1, tzinfo=UTC)
    offset = offset_before = _offset(zone, start)
    until = min(until.astimezone(UTC), HORIZON)
    for year in range(start.year, until.year + 1):
        for transition in _transitions(zone, year):
            if transition.at > after:
                yield Period(start, transition.at, offset, offset_before)
                if transition.at > until:
                    return
            start, offset_before, offset = transition.at, transition.before, transition.after
    yield Period(start, HORIZON + _STEP, offset, offset_before)


def instant_of(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the clocks of a zone show `local` (naive); where they leave it out, the first after the gap."""
    about = local.replace(tzinfo=UTC)
    nearby = periods(zone, about - _STEP, about + _STEP)
    period = next(period for period in nearby if local < period.local_end)
    return max(period.to_utc(local), period.start)


@lru_cache(maxsize=4096)
def _transitions(zone: ZoneInfo, year: int) -> tuple[Transition, ...]:
    """The changes of offset in a year of UTC, in order. `zoneinfo` does not tell them, so they are searched for (some 0.2 ms)."""
    found: list[Transition] = []
    instant, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    before = _offset(zone, instant)
    while instant < end:
        later = min(instant + _STEP, end)
        after = _offset(zone, later)
        if after != before:
            found.append(Transition(_first_second_with(after, zone, instant, later), before, after))
        instant, before = later, after
    return tuple(found)


def _first_second_with(offset: timedelta, zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first whole second in (low, high] from which the zone has this offset."""
    low_s, high_s = 0, round((high - low).total_seconds())
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if _offset(zone, low + timedelta(seconds=middle_s)) == offset:
            high_s = middle_s
        else:
            low_s = middle_s
    return low + timedelta(seconds=high_s)


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or _ZERO


def _hint(name: str) -> str:
    fixed = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?00)?", name.strip())
    if fixed and 0 < int(fixed[2]) <= 12:
        # POSIX counts hours west of Greenwich: https://data.iana.org/time-zones/tzdb/etcetera
        return f"for a fixed offset write 'Etc/GMT{'-' if fixed[1] == '+' else '+'}{int(fixed[2])}' (the sign is inverted in these names)."
    known = _names()
    folded = {known_name.casefold(): known_name for known_name in known}
    wanted = name.strip().casefold().replace(" ", "_")
    by_city = {known_name.rpartition("/")[2].casefold(): known_name for known_name in sorted(known, reverse=True)}
    guess = folded.get(wanted) or by_city.get(wanted.rpartition("/")[2])
    if guess is None:
        close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.75)
        guess = folded[close[0]] if close else None
    if guess is not None:
        return f"did you mean {guess!r}?"
    return "write one of the IANA database, such as 'Europe/Berlin', 'America/New_York' or 'UTC'."


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - _NOT_PLACES)
