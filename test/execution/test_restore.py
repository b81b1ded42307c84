"""From rows back to the state they came from; that any run goes on as if nothing had been is in `test_plan_properties`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields

import pytest

from autogpt_server.data.models import RunStats
from autogpt_server.data.run_rows import CommitOutcome
from autogpt_server.data.snapshot import StaticPin
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import OwnerDied
from autogpt_server.execution.restore import restore_run, static_pins
from autogpt_server.execution.state import Counters
from support.ledger import INLINE_BYTES, Ledger, open_memory, store_graph
from support.planning import Game, topology_of
from support.world import differences, essence


class Life:
    """A run that is written and read back whenever a test says so."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.game = Game(ledger.topology)

    @property
    def lines(self) -> list[str]:
        return self.game.lines()

    def play(self, script: str) -> None:
        self.game.play(script)

    def crash(self) -> Game:
        """Another owner reads what is written, and learns that the one before it died."""
        self.save()
        owner = Game(self.ledger.topology, prefix=f"f{self.ledger.epoch}-")
        owner.at = self.game.at
        owner.carry_on_with(self.ledger.take_over())
        owner.apply(OwnerDied(owner.tick()))
        self.game = owner
        return owner

    def save(self) -> None:
        """Write, and see that nothing gets lost on the way back."""
        assert self.ledger.commit(self.game.state).outcome is CommitOutcome.DONE
        found = differences(essence(restore_run(self.ledger.topology, self.ledger.load())), essence(self.game.state))
        assert not found, found


@pytest.fixture
def lives() -> Iterator[list[Life]]:
    made: list[Life] = []
    yield made
    for life in made:
        life.ledger.connection.close()


def begin(lives: list[Life], graph: str) -> Life:
    topology = topology_of(graph)
    connection = open_memory()
    store_graph(connection, topology)
    life = Life(Ledger(connection, topology))
    lives.append(life)
    life.game.begin({})
    life.game.started.clear()
    life.ledger.insert(life.game.state)
    life.game.carry_on_with(life.ledger.take_over())
    life.game.took(life.game.planner.resume())
    return life


def test_a_new_run_is_taken_up(lives: list[Life]) -> None:
    life = begin(lives, 'A: free a=1\nB: typed number="7"')
    assert life.game.started == ["A0", "B0"]
    assert life.game.find("B0").input == {"number": 7}


def test_outputs_that_are_held_wait_for_their_turn(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a")
    life.play("A0 x=1 x=2 x=3 end\nB1 x=20 end\nB2 x=30")
    life.crash()
    assert life.game.started == ["B0", "B2"]
    life.play("B2 x=30 x=31 end\nB0 x=10")
    life.crash()
    life.play("B0 x=10 end")
    assert [line for line in life.lines if line.startswith("C")] == [
        "C0 QUEUED a=10",
        "C1 QUEUED a=20",
        "C2 QUEUED a=30",
        "C3 QUEUED a=31",
    ]


@pytest.mark.parametrize("value", ["null", "false", "0", '""', "[]", "{}", '"' + "l" * INLINE_BYTES + '"'])
def test_values_that_are_nothing_much_or_large(lives: list[Life], value: str) -> None:
    life = begin(lives, "A: free\nP: fixed\nS: free\nA.x -> S.a\nA.y_#_k -> S.b\nP.x -> S.c")
    life.play(f"P0 x={value} end\nA0 x={value}")
    life.crash()
    life.play(f'A0 x={value} y={{"k":{value}}} end')
    assert life.game.find("S0").input == dict.fromkeys("abc", life.game.find("S0").tokens["a"].value)
    life.crash()
    assert life.lines == [f"S0 QUEUED a={value} b={value} c={value}"]


def test_a_static_pin_keeps_the_newest_value_that_has_the_part(lives: list[Life]) -> None:
    life = begin(lives, "P: free\nA: free\nS: free\nP.x_#_k => S.b\nP.x => S.c\nA.x -> S.a")
    life.play('P0 x={"k":1} x={"k":2} x={} end')
    life.crash()
    life.play("A0 x=0")
    assert [line for line in life.lines if line.startswith("S")] == ["S0 QUEUED a=0 b=2 c={}"]


def test_of_several_sources_of_a_static_pin_the_latest_wins(lives: list[Life]) -> None:
    life = begin(lives, "P: free\nQ: free\nA: free\nS: free\nP.x => S.b\nP.y => S.b\nQ.x => S.b\nA.x -> S.a")
    life.play("Q0 x=1\nP0 x=2 y=3")
    life.crash()
    life.play("A0 x=0")
    life.play("Q0 x=1 x=4")
    life.crash()
    life.play("A0 x=0 x=0")
    assert sorted(line for line in life.lines if line.startswith("S")) == ["S0 QUEUED a=0 b=3", "S1 QUEUED a=0 b=4"]


def test_static_values_released_together_keep_their_order(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nP: free\nS: free\nA.x -> P.a\nP.x => S.b\nP.y => S.b\nA.y -> S.a")
    life.play("A0 x=1 x=2\nP1 y=20 x=21 end\nP0 x=10 end")
    life.crash()
    life.play("A0 x=1 x=2 y=0")
    assert [line for line in life.lines if line.startswith("S")] == ["S0 QUEUED a=0 b=21"]


def test_incomplete_executions_fill_in_the_order_in_which_they_were_made(lives: list[Life]) -> None:
    """Whatever the clocks of their owners said: ids of later owners may sort before those of earlier ones."""
    life = begin(lives, "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.b")
    life.play("A0 x=1")
    life.save()
    life.game.new_id = iter(["e-early"]).__next__
    life.game.carry_on_with(life.ledger.take_over())
    life.game.apply(OwnerDied(life.game.tick()))
    life.play("A0 x=1 x=2" if life.game.find("A0").replay else "A0 x=2")
    life.crash()
    life.play("B0 x=10 x=20")
    assert [line for line in life.lines if line.startswith("S")] == ["S0 QUEUED a=1 b=10", "S1 QUEUED a=2 b=20"]


def test_errors_that_were_handled_or_not(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nB: free\nC: free\nH: free\nI: free\nA.error -> H.a\nB.error -> I.a\nC.x -> I.b")
    life.play("A0 fail:one\nB0 fail:two\nC0 start")
    owner = life.crash()
    assert [failure.message for failure in owner.state.unhandled.values()] == ["two"]
    life.play("C0 x=1 end")
    assert owner.state.unhandled == {}
    life.crash()
    life.play("H0 end\nI0 end")
    assert life.game.state.status is RunStatus.COMPLETED


def test_an_error_that_is_held_is_handled_when_its_turn_has_come(lives: list[Life]) -> None:
    life = begin(lives, 'A: free\nB: free @release="end"\nE: free\nA.x -> B.a\nB.error -> E.a')
    life.play("A0 x=1 x=2 end\nB1 x=20 fail:boom")
    owner = life.crash()
    assert len(owner.state.unhandled) == 1
    life.play("B0 fail:bang\nE0 end\nE1 end")
    assert owner.state.status is RunStatus.COMPLETED


def test_loops_and_lineage(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nS: free\nL: free\nS.x -> L.c\nA.x -> L.a\nL.x -> L.a")
    life.play("A0 x=0 end\nS0 x=1 x=2 end\nL0 start")
    life.crash()
    life.play("L0 x=5 end")
    life.crash()
    life.play("L1 x=6 end")
    assert life.game.find("L1").mixed_origin
    assert life.game.state.status is RunStatus.COMPLETED


def test_values_that_met_are_told_apart_after_a_crash(lives: list[Life]) -> None:
    life = begin(
        lives,
        "A: free\nB: free\nM: free\nL: free\nS: free\nA.x -> B.a\nA.x -> M.b\nB.x -> M.a\nM.x -> L.a\nM.x -> S.a\nL.x -> S.b",
    )
    life.play("A0 x=1 x=2 end\nB0 end\nB1 x=20 end\nM0 x=3")
    life.crash()
    life.play("M0 x=3 end\nL0 start")
    life.crash()
    life.play("L0 x=4 end")
    assert "S0 QUEUED a=3 b=4" in life.lines


def test_a_run_that_is_closing_goes_on_closing(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nB: free\nA.x -> B.a")
    life.play("A0 x=1\nB0 start")
    life.game.close(RunStatus.CANCELED)
    life.play("A0 x=2")
    owner = life.crash()
    assert (owner.state.status, owner.state.stats.canceled) == (RunStatus.CANCELED, 2)
    assert owner.state.failure is not None
    assert owner.state.failure.code == "canceled"


def test_a_run_that_waits_for_a_person(lives: list[Life]) -> None:
    life = begin(lives, "A: unsafe\nB: free")
    life.play("A0 x=1\nB0 end")
    owner = life.crash()
    assert owner.state.status is RunStatus.WAITING
    life.save()
    again = restore_run(life.ledger.topology, life.ledger.load())
    assert (again.status, again.reason) == (RunStatus.WAITING, owner.state.reason)
    assert again.stats.waiting_since == owner.state.stats.waiting_since is not None
    later = life.crash()
    assert later.lines() == ["A0 INTERRUPTED outcome_unknown"]
    assert later.started == []


def test_many_executions_wait_behind_one_that_runs_one_at_a_time(lives: list[Life]) -> None:
    life = begin(lives, "A: free\nB: serial\nA.x -> B.a")
    life.play("A0 x=1 x=2 x=3 end")
    for number in range(3):
        life.play(f"B{number} start")
        owner = life.crash()
        assert owner.started == [f"B{number}"]
        life.play(f"B{number} x=1 end")
    assert life.game.state.status is RunStatus.COMPLETED


def test_the_outputs_whose_newest_value_is_needed() -> None:
    topology = topology_of(
        "P: free\nF: fixed\nS: free\nP.x_#_k => S.a\nP.x_#_k => S.b\nP.x -> S.c\nF.x -> S.c_#_p\nP.y -> S.c_#_q"
    )
    assert static_pins(topology) == [StaticPin("P", "x", "_#_k"), StaticPin("F", "x")]


def test_a_database_in_memory_can_be_closed() -> None:
    with closing(open_memory()) as connection:
        assert connection.execute('SELECT count(*) FROM "AgentGraph"').fetchone() == (0,)


def test_what_is_counted_is_shown() -> None:
    """The planner's counters are a plain class because they change with each event; what people see of them is read from their JSON."""
    assert {counter.name for counter in fields(Counters)} == RunStats.model_fields.keys()
