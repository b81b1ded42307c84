"""Time as an argument, so that what depends on it can be tested without waiting."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time of day: aware, in UTC. It may jump, back too."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment; never runs backwards. For durations and deadlines."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return time.monotonic()


def utc_now() -> datetime:
    """The time of day: aware, in UTC."""
    return datetime.now(UTC)


class Alarm(Protocol):
    """Something that will be called at its time, unless it is canceled before."""

    def cancel(self) -> None:
        """Not be called any more."""
        ...
