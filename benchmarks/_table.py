"""Figures as they are printed: what was measured, beside what is to be reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of a figure."""

    bound: float
    is_floor: bool
    """Whether the figure should be at least the bound; otherwise at most."""

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.is_floor else value <= self.bound


def at_least(bound: float) -> Target:
    """The figure should be this, or more."""
    return Target(bound, is_floor=True)


def at_most(bound: float) -> Target:
    """The figure should be this, or less."""
    return Target(bound, is_floor=False)


def show(what: str, value: float, unit: str, target: Target | None = None) -> None:
    """Print one figure."""
    said = ""
    if target is not None:
        sign = ">=" if target.is_floor else "<="
        said = f"{sign} {_number(target.bound)} {unit}".ljust(20) + ("reached" if target.is_met(value) else "MISSED")
    print(f"  {what:<58}{_number(value):>10} {unit:<10}{said}".rstrip(), flush=True)


def note(words: str) -> None:
    """Print something that explains figures."""
    print(f"    {words}", flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
