"""The protocol of `docs/durability.md`, performed thousands of times with everything that can go wrong.

A seed that fails tells what led there, and how to repeat it: `SIMULATION_SEED=n pytest test/simulation -k one_seed`. `pytest -m stress test/simulation`
takes thousands of new seeds in each mode; `SIMULATION_SEEDS` says how many.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from support.simulation.simulation import Failed, Simulation

SEEDS = 160
"""In the ordinary tests, with and without lying locks; the same ones each time."""
MOST_SEEDS = 5 * SEEDS
"""So many have everything in them that can happen."""
STRESS_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3000"))


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    """Processes that die by the thousand have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def perform(seeds: Iterable[int], mode: str = "") -> Generator[Simulation]:
    for seed in seeds:
        simulation = Simulation(seed, locks_lie=mode == "lying", managers_die=mode == "dying")
        simulation.run()
        yield simulation


@pytest.mark.parametrize("part", range(4))
def test_whatever_goes_wrong_nothing_is_lost_or_doubled_and_all_ends(part: int) -> None:
    performed = list(perform(range(part, SEEDS, 4)))
    runs = sum(len(simulation.watch.status) for simulation in performed)
    compared = sum(simulation.compared for simulation in performed)
    assert runs > SEEDS / 4
    assert compared > runs / 6, "most runs are disturbed: the oracle has nothing to say"


@pytest.mark.parametrize("part", range(2))
def test_an_owner_that_was_taken_for_dead_can_do_no_harm(part: int) -> None:
    list(perform(range(part, SEEDS // 2, 2), "lying"))


def test_nobody_takes_a_run_from_a_live_owner_however_often_managers_die() -> None:
    list(perform(range(SEEDS // 4), "dying"))


def test_the_seeds_have_everything_in_them() -> None:
    """Else the tests above would say less than they seem to."""
    wanted: set[tuple[str, str | None]] = {
        *(("FAILED", code) for code in ("block_failed", "not_pure", "out_of_memory", "timeout", "worker_died")),
        *(
            ("FAILED", code)
            for code in ("outcome_unknown", "limit_exceeded", "node_failed", "effect_not_started", "mixed_origin")
        ),
        *(("INTERRUPTED", code) for code in ("outcome_unknown", "timeout")),
        ("DIED", "worker_died"),
        ("SUSPENDED", None),
        ("COMPLETED", None),
        ("CANCELED", "canceled"),
        ("CANCELED", "outcome_unknown"),
        ("SKIPPED", "outcome_unknown"),
        *((kind, None) for kind in ("cancel", "child_ended", "resolve", "signal")),
    }
    for simulation in perform(range(MOST_SEEDS)):
        for statement in (
            'SELECT "status", "errorCode" FROM "AgentNodeExecution"',
            'SELECT "outcome", "errorCode" FROM "AgentNodeExecutionAttempt"',
            'SELECT "status", "errorCode" FROM "AgentGraphExecution"',
            'SELECT "kind", NULL FROM "AgentRunInboxEntry"',
        ):
            wanted.difference_update(simulation.disk.connection.execute(statement))
        if not wanted:
            return
    assert not wanted


def test_a_seed_does_the_same_again_in_any_process() -> None:
    first = Simulation(7)
    first.run()
    again = Simulation(7)
    again.run()
    assert first.trace == again.trace
    program = "import logging; logging.disable(50); from support.simulation.simulation import Simulation as S; s = S(7); s.run(); print('\\n'.join(s.trace))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.splitlines() == first.trace


def test_one_seed() -> None:
    """The seed that `SIMULATION_SEED` names, in `SIMULATION_MODE`: lying (locks), dying (managers), or neither."""
    list(perform([int(os.environ.get("SIMULATION_SEED", "1"))], os.environ.get("SIMULATION_MODE", "")))


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["", "lying", "dying"])
def test_thousands_of_new_seeds(mode: str, tmp_path: Path) -> None:
    chance = random.Random()
    for _ in range(STRESS_SEEDS):
        seed = chance.getrandbits(48)
        try:
            list(perform([seed], mode))
        except Failed as error:
            (tmp_path / f"{seed}.txt").write_text(str(error), encoding="utf-8")
            raise
