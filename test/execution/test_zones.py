"""Time zones as periods of constant offset, against `zoneinfo` asked at every quarter of an hour."""

from __future__ import annotations

import itertools
import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from autogpt_server.execution.zones import UnknownTimeZone, instant_of, periods, time_zone

QUARTER = timedelta(minutes=15)


def offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    found = instant.astimezone(zone).utcoffset()
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name",
    [
        "UTC",
        "America/New_York",
        "Europe/Dublin",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "Antarctica/Troll",
    ],
)
def test_periods_agree_with_enumeration(name: str) -> None:
    zone = ZoneInfo(name)
    start, end = datetime(2010, 12, 1, tzinfo=UTC), datetime(2012, 2, 1, tzinfo=UTC)
    changes: list[datetime] = []
    instant = start
    while instant < end:
        if offset(zone, instant) != offset(zone, instant - QUARTER):
            changes.append(instant)
        instant += QUARTER
    found = list(periods(zone, start, end))
    assert [period.start for period in found[1:]] == changes
    assert found[0].start <= start
    assert found[-1].end > end
    for earlier, later in itertools.pairwise(found):
        assert earlier.end == later.start
        assert earlier.offset == later.offset_before == offset(zone, earlier.start)
        assert later.offset == offset(zone, later.start)


def test_no_zone_has_two_changes_within_the_step_of_the_search() -> None:
    for name in zoneinfo.available_timezones() - {"localtime", "posixrules", "Factory"}:
        found = [
            period.start
            for period in periods(ZoneInfo(name), datetime(2016, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC))
        ]
        assert all(later - earlier > timedelta(days=5) for earlier, later in itertools.pairwise(found)), name


def test_a_period_knows_what_the_clocks_skip_and_repeat() -> None:
    apia = list(
        periods(ZoneInfo("Pacific/Apia"), datetime(2011, 12, 1, tzinfo=UTC), datetime(2012, 1, 10, tzinfo=UTC))
    )[1]
    assert apia.local_end_before == datetime(2011, 12, 30)
    assert apia.local_start == datetime(2011, 12, 31)
    lord_howe = list(
        periods(ZoneInfo("Australia/Lord_Howe"), datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
    )[1]
    assert lord_howe.local_end_before - lord_howe.local_start == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("UTC", "2026-11-22T12:00", "2026-11-22T12:00"),
        ("America/New_York", "2026-07-01T12:00", "2026-07-01T16:00"),
        ("America/New_York", "2026-03-08T01:59:59", "2026-03-08T06:59:59"),
        ("America/New_York", "2026-03-08T02:30", "2026-03-08T07:00"),
        ("America/New_York", "2026-03-08T03:00", "2026-03-08T07:00"),
        ("America/New_York", "2026-11-01T01:30", "2026-11-01T05:30"),
        ("America/New_York", "2026-11-01T02:00", "2026-11-01T07:00"),
        ("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T10:00"),
        ("Pacific/Kiritimati", "2026-01-01T00:00", "2025-12-31T10:00"),
    ],
)
def test_local_times_as_instants(zone: str, local: str, utc: str) -> None:
    assert instant_of(datetime.fromisoformat(local), ZoneInfo(zone)) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Berin", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("New York", "did you mean 'America/New_York'?"),
        ("+02:00", "'Etc/GMT-2'"),
        ("UTC-5", "'Etc/GMT+5'"),
        ("PST", "such as 'Europe/Berlin'"),
        ("", "such as 'Europe/Berlin'"),
        ("Europe", "such as 'Europe/Berlin'"),
        ("../../etc/passwd", "such as 'Europe/Berlin'"),
        ("localtime", "such as 'Europe/Berlin'"),
        ("a" * 5000, "such as 'Europe/Berlin'"),
        ("UTC\0", "did you mean 'UTC'?"),
    ],
)
def test_unknown_zones_are_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownTimeZone) as caught:
        time_zone(name)
    assert hint in str(caught.value)


def test_every_zone_of_the_database_is_known() -> None:
    for name in zoneinfo.available_timezones() - {"localtime", "posixrules", "Factory"}:
        assert time_zone(name).key == name
