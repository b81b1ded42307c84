"""What must become of due times (rule S3), written down once more from `docs/schedules.md`, for occurrences without jitter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

LATE = timedelta(seconds=60)
MOST_CAUGHT_UP = MOST_WAITING = 100

Expected = tuple[datetime, str, str | None]
"""Due time, status, code."""


def expect(
    dues: Sequence[datetime],
    now: datetime,
    catch_up: str,
    overlap: str,
    *,
    active: bool,
    waiting: int,
    unfit: str | None,
) -> list[Expected]:
    """The outcomes of due times that a scheduler comes to at `now`."""
    wanted = list(dues)
    if now - dues[0] > LATE:
        recent = [due for due in dues if now - due <= LATE]
        wanted = {"latest": dues[-1:], "all": dues[-MOST_CAUGHT_UP:], "none": recent}[catch_up]
    found: list[Expected] = []
    for due in dues:
        if due not in wanted:
            found.append((due, "SKIPPED", "missed"))
        elif unfit:
            found.append((due, "SKIPPED", unfit))
        elif overlap == "allow" or not (active or waiting):
            found.append((due, "STARTED", None))
            active = True
        elif overlap == "skip":
            found.append((due, "SKIPPED", "overlap"))
        elif waiting < MOST_WAITING:
            found.append((due, "WAITING", "overlap"))
            waiting += 1
        else:
            found.append((due, "SKIPPED", "queue_full"))
    return found
