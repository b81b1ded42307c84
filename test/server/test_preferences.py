"""The header `Prefer`."""

from __future__ import annotations

import pytest

from autogpt_server.server.preferences import preferred_wait_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([""], None),
        (["wait=5"], 5),
        (["wait=0"], 0),
        (["WAIT = 7"], 7),
        (['wait="8"'], 8),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=4; unit=s, wait=9"], 4),
        (['note="a, wait=3", wait=2'], 2),
        (['note="a \\" b, wait=3"; x="; wait=1", wait=2'], 2),
        (["wait=61"], 60),
        (["wait=" + "9" * 5000], 60),
        (["wait"], None),
        (["wait="], None),
        (["wait=soon"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=٣"], None),
        (["waits=3, await=4"], None),
        (["wait=soon, wait=3"], 3),
        (['note="never closed, wait=3'], 3),
    ],
)
def test_the_first_good_wait_counts_and_all_else_is_passed_over(headers: list[str], seconds: int | None) -> None:
    assert preferred_wait_s(headers) == seconds
