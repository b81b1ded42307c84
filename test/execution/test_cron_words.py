"""Cron expressions in plain English."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.execution.cron import InvalidCron, parse
from autogpt_server.execution.cron_words import describe, notes

AFTER = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * * *", "Every minute."),
        ("*/5 * * * *", "Every 5 minutes."),
        ("*/1 * * * * *", "Every second."),
        ("*/10 * * * * *", "Every 10 seconds."),
        ("*/20 5 * * * *", "Every 20 seconds in minute 5."),
        ("15 * * * * *", "At second 15 of every minute."),
        ("0,30 */5 * * * *", "Every 30 seconds in every 5th minute."),
        ("@hourly", "Every hour, on the hour."),
        ("1 * * * *", "At 1 minute past every hour."),
        ("10,40 * * * *", "At 10 and 40 minutes past every hour."),
        ("*/45 * * * *", "At 0 and 45 minutes past every hour."),
        ("0 */2 * * *", "Every 2 hours, on the hour."),
        ("5 */3 * * *", "Every 3 hours, at 5 minutes past the hour."),
        ("30 */6 * * *", "At 00:30, 06:30, 12:30 and 18:30, every day."),
        ("@daily", "At 00:00, every day."),
        ("15 10 5 * * *", "At 05:10:15, every day."),
        ("0 9 * * 1-5", "At 09:00, Monday to Friday."),
        ("0 9 * * sat,sun", "At 09:00, on Saturday and Sunday."),
        ("0 9 * * 5-7", "At 09:00, Friday to Sunday."),
        ("*/15 9-17 * * 1-5", "Every 15 minutes from 09:00 to 17:45, Monday to Friday."),
        ("0 8-12 * * *", "At 08:00, 09:00, 10:00, 11:00 and 12:00, every day."),
        ("*/20 0,1,5 * * *", "Every 20 minutes in the hours that begin at 00:00, 01:00 and 05:00, every day."),
        ("0 0 1,15 * *", "At 00:00, on the 1st and 15th of the month."),
        ("0 0 1 1 *", "At 00:00, on the 1st of the month, in January."),
        ("0 0 */2 * *", "At 00:00, on days 1, 3, 5, 7, ..., 31 of the month."),
        ("0 12 13 * 5", "At 12:00, on the 13th of the month and also on Friday."),
        ("0 0 */10 * 1", "At 00:00, on Monday, if it is one of the 1st, 11th, 21st and 31st of the month."),
        ("0 0 1-31 * 1", "At 00:00, every day."),
        ("0 8 2 1-3 *", "At 08:00, on the 2nd of the month, from January to March."),
        ("0 8 3 */6 *", "At 08:00, on the 3rd of the month, in January and July."),
    ],
)
def test_sentences(text: str, words: str) -> None:
    assert describe(parse(text)) == words


@pytest.mark.parametrize(
    ("text", "zone", "words"),
    [
        ("*/45 * * * *", "UTC", ["'*/45' in the minute field starts again with each hour: it is due at 0 and 45."]),
        ("*/15 * * * *", "Europe/Berlin", []),
        ("0 12 13 * 5", "UTC", ["Both days of the month and days of the week are given: it is due on days that match either of them, as in Vixie cron."]),
        ("0 12 */2 * 5", "UTC", ["One of the two day fields begins with `*`: it is due only on days that match both, as in Vixie cron."]),
        ("30 2 * * *", "UTC", []),
        ("30 2 * * *", "America/New_York", ["On 2027-03-14 the clocks of America/New_York go from 02:00 on to 03:00: what would be due in between is due at 03:00."]),
        ("30 1 * * *", "America/New_York", ["On 2027-11-07 the clocks of America/New_York go from 02:00 back to 01:00: what is due in between is due once, the first time."]),
        ("30 * * * *", "America/New_York", []),
        ("0 12 * * *", "America/New_York", []),
    ],
)  # fmt: skip
def test_notes(text: str, zone: str, words: list[str]) -> None:
    assert notes(parse(text), ZoneInfo(zone), after=AFTER) == words


FIELD = st.sampled_from(["*", "*/2", "*/7", "1", "1-3", "1,5", "2-6/2", "1,2,3,5", "*,3"])


@given(st.lists(FIELD, min_size=5, max_size=6))
def test_every_expression_has_a_sentence(fields: list[str]) -> None:
    try:
        expression = parse(" ".join(fields))
    except InvalidCron:
        return
    sentence = describe(expression)
    assert sentence.endswith(".")
    assert sentence[0].isupper()
    assert "  " not in sentence
    assert all(note.endswith(".") for note in notes(expression, ZoneInfo("Europe/London"), after=AFTER))
