"""When schedules are due, by enumeration of minutes (rule S2). It shares nothing with the server but the names of the zones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER = 15  # minutes: the zones of the tests change their offset at no other minute (St. John's did, until 2011)


@dataclass(frozen=True)
class Wish:
    """A cron expression by what it means; None stands for a star."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...] | None
    days: tuple[int, ...] | None = None
    months: tuple[int, ...] | None = None
    weekdays: tuple[int, ...] | None = None
    """0 is Sunday."""

    @property
    def text(self) -> str:
        """As it is written."""
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join("*" if field is None else ",".join(map(str, field)) for field in fields)

    def includes(self, day: int) -> bool:
        """Whether it is due on a day, counted from 1970."""
        date = EPOCH + timedelta(days=day)
        if self.months is not None and date.month not in self.months:
            return False
        of_month = self.days is None or date.day in self.days
        of_week = self.weekdays is None or date.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.days and self.weekdays else of_month and of_week


@cache
def _offset(zone: str, quarter: int) -> int:
    offset = (EPOCH + quarter * QUARTER * MINUTE).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return offset // MINUTE


def shown(zone: str, minute: int) -> int:
    """What the clocks of a zone show at a minute of UTC, both counted from 1970."""
    return minute + _offset(zone, minute // QUARTER)


def due_times(wish: Wish, zone: str, first: datetime, last: datetime) -> list[datetime]:
    """The instants from `first` to `last` at which it is due."""
    begin, end = -((EPOCH - first) // MINUTE), (last - EPOCH) // MINUTE
    found = _by_elapsed_time(wish, zone, begin, end) if wish.hours is None else _by_the_clock(wish, zone, begin, end)
    return [EPOCH + minute * MINUTE for minute in sorted(set(found)) if begin <= minute <= end]


def _by_elapsed_time(wish: Wish, zone: str, begin: int, end: int) -> Iterable[int]:
    """Each minute at which the clocks show a time that matches."""
    for minute in range(begin, end + 1):
        local = shown(zone, minute)
        if local % 60 in wish.minutes and wish.includes(local // 1440):
            yield minute


def _by_the_clock(wish: Wish, zone: str, begin: int, end: int) -> Iterable[int]:
    """For each local time that matches, the first minute at which the clocks show it, or, where they never do, a later time."""
    assert wish.hours is not None
    for day in range(begin // 1440 - 2, end // 1440 + 3):
        if wish.includes(day):
            for hour in wish.hours:
                for of_hour in wish.minutes:
                    local = day * 1440 + hour * 60 + of_hour
                    minute = local - max(_offset(zone, (local + hours * 60) // QUARTER) for hours in range(-15, 15))
                    while shown(zone, minute) < local:
                        minute += 1
                    yield minute
