"""What `make bench` makes of its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import available, chosen
from benchmarks._table import at_least, at_most, percentile

ROOT = Path(__file__).resolve().parents[2]


def test_without_names_all_run() -> None:
    names = available()
    assert {"engine", "runs", "schedules"} <= set(names)
    assert chosen([], names) == [(name, []) for name in names]


def test_words_after_a_benchmark_are_its_parts() -> None:
    assert chosen(["engine", "runs", "W1", "W3"], ["engine", "runs"]) == [("engine", []), ("runs", ["W1", "W3"])]
    with pytest.raises(ValueError, match="no benchmark named W1"):
        chosen(["W1", "runs"], ["engine", "runs"])


def test_an_unknown_part_is_refused_before_anything_starts() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "benchmarks", "runs", "W1", "W9"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert "runs has no part W9" in asked.stderr
    assert asked.stdout == ""


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([5.0], 0.99) == 5.0


def test_targets_are_bounds_from_either_side() -> None:
    assert at_least(3).is_met(3)
    assert not at_least(3).is_met(2.9)
    assert at_most(3).is_met(3)
    assert not at_most(3).is_met(3.1)
