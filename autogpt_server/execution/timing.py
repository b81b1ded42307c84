"""When a schedule is due: its cron expression or its one time, within its first and last moment. Pure: no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from autogpt_server.data.scheduling import ScheduleFields
from autogpt_server.execution.cron import CronExpression, parse
from autogpt_server.execution.zones import HORIZON, time_zone


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule is due. Exactly one of `cron` and `at` is set; all times are aware."""

    seed: str
    """What makes its jitter different from that of other schedules: its id."""
    zone: ZoneInfo
    cron: CronExpression | None = None
    at: datetime | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    jitter_s: float = 0.0

    @classmethod
    def of(cls, seed: str, fields: ScheduleFields) -> Timing:
        """The timing that a schedule's fields describe. Raises `InvalidCron` and `UnknownTimeZone`."""
        return cls(
            seed,
            time_zone(fields.timezone),
            None if fields.cron is None else parse(fields.cron),
            fields.at,
            fields.starts_at,
            fields.ends_at,
            fields.jitter_s,
        )

    def due_times(self, *, after: datetime, until: datetime = HORIZON) -> Iterator[datetime]:
        """The due times in (after, until], ascending, in UTC; `starts_at` and `ends_at` are themselves within the schedule's life."""
        after, until = self._within_life(after, until)
        if self.cron is not None:
            yield from self.cron.due_times(self.zone, after=after, until=until)
        elif self.at is not None and after < self.at <= until:
            yield self.at.astimezone(UTC)

    def latest_due_times(self, *, after: datetime, until: datetime) -> Iterator[datetime]:
        """The due times in (after, until], the latest first."""
        after, until = self._within_life(after, until)
        if self.cron is not None:
            yield from self.cron.latest_due_times(self.zone, after=after, until=until)
        elif self.at is not None and after < self.at <= until:
            yield self.at.astimezone(UTC)

    def next_due_times(self, *, after: datetime, count: int) -> list[datetime]:
        """The first due times after an instant: fewer than `count` if the schedule ends."""
        return list(islice(self.due_times(after=after), count))

    def next_due(self, *, after: datetime) -> datetime | None:
        """The first due time after an instant."""
        return next(self.due_times(after=after), None)

    def fires_at(self, due: datetime) -> datetime:
        """When the occurrence of a due time is started: at once, or later by a part of `jitter_s` that is the same whenever it is asked for.

        Always before the next due time, so that jitter changes no order.
        """
        if self.jitter_s <= 0:
            return due
        following = self.next_due(after=due)
        limit_s = self.jitter_s if following is None else min(self.jitter_s, (following - due).total_seconds())
        digest = hashlib.sha256(f"{self.seed} {due.isoformat()}".encode()).digest()
        fraction = int.from_bytes(digest[:6], "big") / (1 << 48)
        return due + timedelta(milliseconds=int(limit_s * fraction * 1000))

    def next_fire(self, *, after: datetime) -> datetime | None:
        """When the scheduler has to act next if every due time up to `after` is accounted for."""
        due = self.next_due(after=after)
        return None if due is None else self.fires_at(due)

    def _within_life(self, after: datetime, until: datetime) -> tuple[datetime, datetime]:
        if self.starts_at is not None:
            after = max(after, self.starts_at - timedelta(microseconds=1))
        if self.ends_at is not None:
            until = min(until, self.ends_at)
        return after, until
