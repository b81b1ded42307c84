"""Re-runs (rule D9), one scenario each: a run, what is run again, what is kept and what comes of it (the notation is that of `support.planning`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from autogpt_server.data.execution import abandon_run, insert_run
from autogpt_server.data.problems import InvalidRunInput
from autogpt_server.data.run_rows import CommitOutcome, NewRun
from autogpt_server.data.runs import RunNotFound, RunStillActive
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Due, OwnerDied, Resolution, Resolved, Suspended
from autogpt_server.execution.rerun import InvalidRerun, RerunTooLarge
from autogpt_server.execution.restore import restore_run
from autogpt_server.execution.rows import new_run
from support.ledger import INLINE_BYTES, Ledger, open_memory, store_graph
from support.planning import EPOCH, LIMITS, Game, topology_of
from support.rerunning import outputs, repaired, rerun, written
from support.world import check_counters, differences, essence


class Life:
    """A run and its re-runs, in one database."""

    def __init__(self, connection: Any, graph: str) -> None:
        self.connection = connection
        self.topology = topology_of(graph)
        store_graph(connection, self.topology)
        self.game = Game(self.topology)
        self.ledger = Ledger(connection, self.topology)

    def begin(self, run_input: dict[str, Any] | None = None, **limits: Any) -> None:
        self.game = Game(self.topology, replace(LIMITS, **limits))
        self.game.begin(run_input or {})
        state = self.game.state
        insert_run(self.connection, new_run(state, run_input or {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES))
        self.ledger.seq, self.ledger.epoch, self.ledger.claimed = state.seq, 1, False

    def play(self, script: str) -> None:
        """Play, and write what happened. A line `cancel` cancels the run."""
        before, is_canceled, after = script.partition("cancel")
        self.game.play(before)
        if is_canceled:
            self.game.close(RunStatus.CANCELED)
            self.game.play(after)
        self.save()

    def save(self) -> None:
        assert self.ledger.commit(self.game.state).outcome is CommitOutcome.DONE

    def rerun(self, *chosen: str, version: str | None = None, former: str = "run", **options: Any) -> NewRun:
        """Write a re-run, and have a worker take it up."""
        topology = self.topology
        if version is not None:
            topology = repaired(version)
            store_graph(self.connection, topology)
        run = rerun(self.connection, topology, chosen, former_id=former, **options)
        self.ledger = Ledger(self.connection, topology, run.id, seq=run.seq)
        if run.changes.run.ended_at is None:
            self.game = Game(topology, prefix=f"{run.id}-w")
            self.game.carry_on_with(self.ledger.take_over())
            check_counters(self.game.state)
            self.game.took(self.game.planner.resume())
        return run

    def status(self, run_id: str = "rerun") -> str:
        (status,) = self.connection.execute(
            'SELECT "status" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
        ).fetchone()
        return status

    def lines(self, run_id: str = "rerun") -> list[str]:
        return written(self.connection, run_id)


@contextmanager
def life(graph: str) -> Generator[Life]:
    with closing(open_memory()) as connection:
        yield Life(connection, graph)


@dataclass(frozen=True)
class Scenario:
    name: str
    graph: str
    script: str
    again: str
    """The chosen nodes."""
    started: str
    """What may start at once."""
    then: str
    """The script of the re-run."""
    expected: str
    status: str = "COMPLETED"
    version: str | None = None
    """The repaired version of the graph."""
    run_input: dict[str, Any] = field(default_factory=dict[str, Any])


CHAIN = "A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a"
DIAMOND = "A: free\nB: free\nC: free\nD: free\nA.x -> B.a\nA.x -> C.a\nB.x -> D.a\nC.x -> D.b"
PLAYED_DIAMOND = "A0 x=1 x=2 end\nB0 x=10 end\nB1 fail:boom\nC0 x=100 end\nC1 x=200 end\nD0 end"
HANDLED = "A: free\nB: free\nH: free\nZ: free\nA.x -> B.a\nB.error -> H.a\nA.x -> Z.a"

SCENARIOS = [
    Scenario(
        "chain: from where it failed; what came before is not done again",
        CHAIN,
        "A0 x=1 x=2 end\nB0 x=10 end\nB1 fail:boom\nC0 end",
        "B",
        "B0 B1",
        "B0 x=11 end\nB1 x=21 end\nC0 end\nC1 end",
        "A0 kept COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nC0 COMPLETED a=11\nC1 COMPLETED a=21",
    ),
    Scenario(
        "chain: behind a failure that nobody handled, which stays one",
        CHAIN,
        "A0 x=1 x=2 end\nB0 x=10 end\nB1 fail:boom\nC0 end",
        "C",
        "C0",
        "C0 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED a=1\nB1 kept FAILED block_failed a=2\nC0 COMPLETED a=10",
        "FAILED",
    ),
    Scenario(
        "chain: from its start, all runs again",
        CHAIN,
        "A0 x=1 end\nB0 x=2 end\nC0 end",
        "A",
        "A0",
        "A0 x=5 end\nB0 end",
        "A0 COMPLETED\nB0 COMPLETED a=5",
    ),
    Scenario(
        "a node that nothing ever reached: nothing is left to do",
        CHAIN,
        "A0 end",
        "C",
        "",
        "",
        "A0 kept COMPLETED",
    ),
    Scenario(
        "fan-out, fan-in: one branch runs again, the other's values wait for it",
        DIAMOND,
        PLAYED_DIAMOND,
        "B",
        "B0 B1",
        "B0 x=11 end\nB1 x=21 end\nD0 end\nD1 end",
        "A0 kept COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nC0 kept COMPLETED a=1\nC1 kept COMPLETED a=2\n"
        "D0 COMPLETED a=11 b=100\nD1 COMPLETED a=21 b=200",
    ),
    Scenario(
        "fan-out, fan-in: both branches",
        DIAMOND,
        PLAYED_DIAMOND,
        "B C",
        "B0 B1 C0 C1",
        "B0 end\nB1 end\nC0 x=5 end\nC1 end",
        "A0 kept COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nC0 COMPLETED a=1\nC1 COMPLETED a=2\nD? INCOMPLETE b=5",
    ),
    Scenario(
        "the join alone: values that found no partner are still without one",
        DIAMOND,
        PLAYED_DIAMOND,
        "D",
        "D0",
        "D0 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED a=1\nB1 kept FAILED block_failed a=2\nC0 kept COMPLETED a=1\nC1 kept COMPLETED a=2\n"
        "D0 COMPLETED a=10 b=100\nD? INCOMPLETE b=200",
        "FAILED",
    ),
    Scenario(
        "an execution of a kept node that was never complete stays so",
        "A: free\nB: free\nS: free\nZ: free\nA.x -> S.a\nB.x -> S.b\nA.y -> Z.a",
        "A0 x=1 x=2 y=3 end\nB0 x=10 end\nS0 end\nZ0 end",
        "Z",
        "Z0",
        "Z0 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED\nS0 kept COMPLETED a=1 b=10\nS? kept INCOMPLETE a=2\nZ0 COMPLETED a=3",
    ),
    Scenario(
        "static pins: each value serves again where it served before",
        "A: free\nP: free\nS: free\nA.x -> S.a\nP.x => S.b",
        "A0 x=1\nP0 x=7 x=8 end\nA0 x=2 end\nS0 end\nS1 end",
        "S",
        "S0 S1",
        "S0 end\nS1 end",
        "A0 kept COMPLETED\nP0 kept COMPLETED\nS0 COMPLETED a=1 b=7\nS1 COMPLETED a=2 b=8",
    ),
    Scenario(
        "static pins: the newest value serves what comes from a node that runs again",
        "A: free\nP: free\nS: free\nA.x -> S.a\nP.x => S.b",
        "A0 x=1\nP0 x=7 x=8 end\nA0 x=2 end\nS0 end\nS1 end",
        "A",
        "A0",
        "A0 x=3 end\nS0 end",
        "A0 COMPLETED\nP0 kept COMPLETED\nS0 COMPLETED a=3 b=8",
    ),
    Scenario(
        "static pins: of several sources the one that came last",
        "A: free\nP: free\nQ: free\nS: free\nA.x -> S.a\nP.x => S.b\nQ.x => S.b",
        "Q0 start\nP0 x=7\nQ0 x=9 end\nP0 x=8 end\nA0 end",
        "A",
        "A0",
        "A0 x=3 end\nS0 end",
        "A0 COMPLETED\nP0 kept COMPLETED\nQ0 kept COMPLETED\nS0 COMPLETED a=3 b=8",
    ),
    Scenario(
        "static pins: a node with nothing else runs once more for each value",
        "P: free\nS: free\nP.x => S.a",
        "P0 x=7 x=8 end\nS0 end\nS1 fail:boom",
        "S",
        "S0 S1",
        "S0 end\nS1 end",
        "P0 kept COMPLETED\nS0 COMPLETED a=7\nS1 COMPLETED a=8",
    ),
    Scenario(
        "dynamic pins: parts are picked, and merged, once more",
        "A: free\nS: free\nA.x_#_k -> S.a\nA.y -> S.c_#_p\nA.y_$_1 -> S.c_#_q",
        'A0 x={"k":1} x={} x={"k":2} y=[3,4] y=[5] end\nS0 fail:boom',
        "S",
        "S0",
        "S0 end",
        "A0 kept COMPLETED\nS0 COMPLETED a=1 c_#_p=[3,4] c_#_q=4\nS? INCOMPLETE a=2 c_#_p=[5]",
    ),
    Scenario(
        "loop: all of it runs again",
        "A: free\nL: free\nE: free\nA.x -> L.a\nL.x -> L.a\nL.y -> E.a",
        "A0 x=1 end\nL0 x=2 end\nL1 x=3 y=4 end\nL2 fail:boom\nE0 end",
        "L",
        "L0",
        "L0 x=5 end\nL1 y=6 end\nE0 end",
        "A0 kept COMPLETED\nL0 COMPLETED a=1\nL1 COMPLETED a=5\nE0 COMPLETED a=6",
    ),
    Scenario(
        "loop: what it gave is kept for those behind it",
        "A: free\nL: free\nE: free\nA.x -> L.a\nL.x -> L.a\nL.y -> E.a",
        "A0 x=1 end\nL0 x=2 y=3 end\nL1 y=4 end\nE0 end\nE1 fail:boom",
        "E",
        "E0 E1",
        "E0 end\nE1 end",
        "A0 kept COMPLETED\nL0 kept COMPLETED a=1\nL1 kept COMPLETED a=2\nE0 COMPLETED a=3\nE1 COMPLETED a=4",
    ),
    Scenario(
        "order: outputs that were held arrive in the order of their release",
        "A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a",
        "A0 x=1 x=2 end\nB1 x=20 end\nB0 x=10 x=11 end\nC0 end\nC1 end\nC2 end",
        "C",
        "C0 C1 C2",
        "C0 end\nC1 end\nC2 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED a=1\nB1 kept COMPLETED a=2\nC0 COMPLETED a=10\nC1 COMPLETED a=11\nC2 COMPLETED a=20",
    ),
    Scenario(
        "order: several sources of one pin arrive as they did",
        "A: free\nB: free\nC: free\nA.x -> C.a\nB.x -> C.a",
        "B0 x=1\nA0 x=2\nB0 x=3 end\nA0 x=4 end\nC0 end\nC1 end\nC2 end\nC3 end",
        "C",
        "C0 C1 C2 C3",
        "C0 end\nC1 end\nC2 end\nC3 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED\nC0 COMPLETED a=1\nC1 COMPLETED a=2\nC2 COMPLETED a=3\nC3 COMPLETED a=4",
    ),
    Scenario(
        "errors: a failure whose handler runs again is handled again",
        HANDLED,
        "A0 x=1 end\nB0 fail:boom\nH0 fail:bang\nZ0 end",
        "H",
        "H0",
        "H0 end",
        'A0 kept COMPLETED\nB0 kept FAILED block_failed a=1\nH0 COMPLETED a="boom"\nZ0 kept COMPLETED a=1',
    ),
    Scenario(
        "errors: a failure that a kept node has handled stays handled",
        HANDLED,
        "A0 x=1 end\nB0 fail:boom\nH0 end\nZ0 fail:bang",
        "Z",
        "Z0",
        "Z0 end",
        'A0 kept COMPLETED\nB0 kept FAILED block_failed a=1\nH0 kept COMPLETED a="boom"\nZ0 COMPLETED a=1',
    ),
    Scenario(
        "errors: a repaired graph may handle a failure that nobody had handled",
        CHAIN,
        "A0 x=1 end\nB0 fail:boom",
        "H'",
        "H'0",
        "H'0 end",
        "A'0 kept COMPLETED\nB'0 kept FAILED block_failed a=1\nH'0 COMPLETED a=\"boom\"",
        version=f"{CHAIN}\nH: free\nB.error -> H.a",
    ),
    Scenario(
        "errors: without its handler a failure is not handled any more",
        HANDLED,
        "A0 x=1 end\nB0 fail:boom\nH0 end\nZ0 fail:bang",
        "Z",
        "Z'0",
        "Z'0 end",
        "A'0 kept COMPLETED\nB'0 kept FAILED block_failed a=1\nZ'0 COMPLETED a=1",
        "FAILED",
        version="A: free\nB: free\nZ: free\nA.x -> B.a\nA.x -> Z.a",
    ),
    Scenario(
        "canceled: what was canceled is done, though it was not chosen",
        "A: free\nB: free\nC: free\nD: free\nA.x -> B.a\nB.x -> C.a\nA.x -> D.a",
        "A0 x=1 x=2 end\nB0 x=10 end\nB1 start\nC0 end\nD0 end\nD1 end\ncancel\nB1 stop",
        "D",
        "B0 B1 D0 D1",
        "B0 end\nB1 x=20 end\nC0 end\nD0 end\nD1 end",
        "A0 kept COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nC0 COMPLETED a=20\nD0 COMPLETED a=1\nD1 COMPLETED a=2",
    ),
    Scenario(
        "canceled: what came too late to travel travels now, and is not done again",
        "A: free\nB: free\nZ: free\nA.x -> B.a",
        "A0 x=1\nB0 end\nZ0 end\ncancel\nA0 x=2 end",
        "Z",
        "B0 B1 Z0",
        "Z0 end\nB0 end\nB1 end",
        "A0 kept COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nZ0 COMPLETED",
    ),
    Scenario(
        "canceled: so does an error",
        "A: free\nH: free\nZ: free\nA.error -> H.a",
        "A0 start\nZ0 end\ncancel\nA0 fail:boom",
        "Z",
        "H0 Z0",
        "Z0 end\nH0 end",
        'A0 kept FAILED block_failed\nH0 COMPLETED a="boom"\nZ0 COMPLETED',
    ),
    Scenario(
        "what a failed node that releases at the end never sent is not sent now, even if it would today",
        'A: free @release="end"\nB: free\nZ: free\nA.x -> B.a\nA.error -> Z.a',
        "A0 x=1 fail:boom\nZ0 end",
        "Z",
        "Z'0",
        "Z'0 end",
        "A'0 kept FAILED block_failed\nZ'0 COMPLETED a=\"boom\"",
        version="A: free\nB: free\nZ: free\nA.x -> B.a\nA.error -> Z.a",
    ),
    Scenario(
        "repaired: other defaults and settings where it runs again",
        CHAIN,
        "A0 x=1 end\nB0 fail:boom",
        "B",
        "B'0",
        "B'0 x=2 end\nC'0 end",
        "A'0 kept COMPLETED\nB'0 COMPLETED a=1\nC'0 COMPLETED a=2",
        version="A: free\nB: free b=7\nC: free\nA.x -> B.a\nB.x -> C.a",
    ),
    Scenario(
        "repaired: a node with another block is another node",
        CHAIN,
        "A0 x=1 end\nB0 x=2 end\nC0 fail:boom",
        "C",
        "B'0",
        "B'0 x=3 end\nC'0 end",
        "A'0 kept COMPLETED\nB'0 COMPLETED a=1\nC'0 COMPLETED a=3",
        version="A: free\nB: serial\nC: free\nA.x -> B.a\nB.x -> C.a",
    ),
    Scenario(
        "repaired: a node between two others",
        CHAIN,
        "A0 x=1 end\nB0 x=2 end\nC0 fail:boom",
        "C",
        "N'0",
        "N'0 x=3 end\nC'0 end",
        "A'0 kept COMPLETED\nB'0 kept COMPLETED a=1\nN'0 COMPLETED a=2\nC'0 COMPLETED a=3",
        version="A: free\nB: free\nN: free\nC: free\nA.x -> B.a\nB.x -> N.a\nN.x -> C.a",
    ),
    Scenario(
        "repaired: a new node to start with",
        CHAIN,
        "A0 x=1 end\nB0 x=2 end\nC0 end",
        "C",
        "N'0",
        "N'0 x=5 end\nC'0 end",
        "A'0 kept COMPLETED\nB'0 kept COMPLETED a=1\nC'0 COMPLETED a=2 b=5\nN'0 COMPLETED",
        version=f"{CHAIN}\nN: free\nN.x -> C.b",
    ),
    Scenario(
        "repaired: a node that was linked, never reached, and starts by itself now",
        "A: free\nB: free\nC: free\nA.x -> B.a\nA.y -> C.a",
        "A0 x=1 end\nB0 fail:boom",
        "B",
        "B'0 C'0",
        "C'0 end\nB'0 end",
        "A'0 kept COMPLETED\nB'0 COMPLETED a=1\nC'0 COMPLETED",
        version="A: free\nB: free\nC: free\nA.x -> B.a",
    ),
    Scenario(
        "repaired: without a node, what it gave to others is kept with them",
        "A: free\nB: free\nC: free\nZ: free\nA.x -> B.a\nB.x -> C.a\nB.y_#_k -> C.b\nA.x -> Z.a",
        'A0 x=1 end\nB0 x=2 y={"k":3} end\nC0 end\nZ0 fail:boom',
        "Z",
        "Z'0",
        "Z'0 end",
        "A'0 kept COMPLETED\nC'0 kept COMPLETED a=2 b=3\nZ'0 COMPLETED a=1",
        version="A: free\nC: free\nZ: free\nA.x -> C.a\nA.x -> Z.a",
    ),
    Scenario(
        "repaired: without a link, what ran behind it is kept",
        CHAIN,
        "A0 x=1 end\nB0 x=2 end\nC0 end",
        "B",
        "B'0",
        "B'0 x=3 end",
        "A'0 kept COMPLETED\nB'0 COMPLETED a=1\nC'0 kept COMPLETED a=2",
        version="A: free\nB: free\nC: free\nA.x -> B.a\nA.y -> C.a",
    ),
    Scenario(
        "repaired: a new link leads to a node that runs again",
        CHAIN,
        "A0 x=1 x=2 end\nB0 x=3 end\nB1 x=4 end\nC0 fail:boom\nC1 end",
        "C",
        "C'0 C'1",
        "C'0 end\nC'1 end",
        "A'0 kept COMPLETED\nB'0 kept COMPLETED a=1\nB'1 kept COMPLETED a=2\nC'0 COMPLETED a=3 b=1\nC'1 COMPLETED a=4 b=2",
        version=f"{CHAIN}\nA.x -> C.b",
    ),
    Scenario(
        "mixed origins: values of kept nodes are told apart as if they had just come",
        "A: free\nB: free\nS: unsafe\nA.x -> B.a\nA.x -> S.a\nB.x -> S.b",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end",
        "S",
        "",
        "",
        "A0 kept COMPLETED\nB0 kept COMPLETED a=1\nB1 kept COMPLETED a=2\nS0 FAILED mixed mixed_origin a=1 b=20\nS? INCOMPLETE a=2",
        "FAILED",
    ),
    Scenario(
        "mixed origins: also where the former version had no reason to tell them apart",
        "A: free\nB: free\nC: free\nA.x -> B.a\nA.x -> C.a",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end\nC0 x=100 end\nC1 x=200 end",
        "S'",
        "S'0",
        "S'0 end",
        "A'0 kept COMPLETED\nB'0 kept COMPLETED a=1\nB'1 kept COMPLETED a=2\nC'0 kept COMPLETED a=1\nC'1 kept COMPLETED a=2\n"
        "S'0 COMPLETED mixed a=20 b=100\nS'? INCOMPLETE b=200",
        version="A: free\nB: free\nC: free\nS: free\nA.x -> B.a\nA.x -> C.a\nB.x -> S.a\nC.x -> S.b",
    ),
    Scenario(
        "mixed origins: values that belong together do",
        DIAMOND,
        "A0 x=1 x=2 end\nB0 x=10 end\nB1 x=20 end\nC0 x=100 end\nC1 x=200 end\nD0 end\nD1 end",
        "C",
        "C0 C1",
        "C0 x=101 end\nC1 end\nD0 end",
        "A0 kept COMPLETED\nB0 kept COMPLETED a=1\nB1 kept COMPLETED a=2\nC0 COMPLETED a=1\nC1 COMPLETED a=2\n"
        "D0 COMPLETED a=10 b=101\nD? INCOMPLETE a=20",
    ),
    Scenario(
        "input: agent inputs that run again take the former run's",
        'I: agentin name="in"\nJ: agentin name="other" value=1\nA: free\nI.result -> A.a\nJ.result -> A.b',
        "I0 result=5 end\nJ0 result=6 end\nA0 fail:boom",
        "I",
        "I0",
        "I0 result=7 end\nA0 end",
        "I0 COMPLETED value=3\nJ0 kept COMPLETED value=4\nA0 COMPLETED a=7 b=6",
        run_input={"in": 3, "other": 4},
    ),
    Scenario(
        "input: an agent input that has a link fires again for each value, after its first one",
        'I: agentin name="in"\nA: free\nB: free\nA.x -> I.value\nI.result -> B.a',
        "I0 result=1 end\nA0 x=2 end\nI1 result=2 end\nB0 end\nB1 end",
        "I",
        "I0 I1",
        "I0 result=3 end\nI1 end\nB0 end",
        "I0 COMPLETED value=9\nI1 COMPLETED value=2\nA0 kept COMPLETED\nB0 COMPLETED a=3",
        run_input={"in": 9},
    ),
    Scenario(
        "input: what is kept need not fit the repaired version",
        'I: agentin name="in"\nA: free\nI.result -> A.a',
        "I0 result=5 end\nA0 fail:boom",
        "A",
        "A'0",
        "A'0 end",
        "I'0 kept COMPLETED value=3\nA'0 COMPLETED a=5",
        version='I: agentin name="renamed"\nA: free\nI.result -> A.a',
        run_input={"in": 3},
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario: Scenario) -> None:
    with life(scenario.graph) as lived:
        lived.begin(scenario.run_input)
        lived.play(scenario.script)
        run = lived.rerun(*scenario.again.split(), version=scenario.version)
        if run.changes.run.ended_at is None:
            assert " ".join(lived.game.started) == scenario.started
            lived.play(scenario.then)
        else:
            assert (scenario.started, scenario.then) == ("", "")
        assert "\n".join(lived.lines()) == scenario.expected
        assert lived.status() == scenario.status


# --- what ends in other ways -------------------------------------------------------------------------------------------


def test_of_a_run_that_was_ended_at_a_limit_nothing_on_its_way_is_lost() -> None:
    """The limit was reached while a value was being delivered: to `B`, but not to `C` any more."""
    with life("A: free\nB: free\nC: free\nZ: free\nA.x -> B.a\nA.x -> C.a") as lived:
        lived.begin(max_executions=4)
        lived.play("Z0 end\nA0 x=1\nB0 end\nC0 end\nA0 x=2 end")
        assert lived.lines("run") == [
            "A0 COMPLETED",
            "B0 COMPLETED a=1",
            "B1 CANCELED a=2",
            "C0 COMPLETED a=1",
            "Z0 COMPLETED",
        ]
        assert lived.status("run") == "FAILED"
        lived.rerun("Z")
        assert lived.game.started == ["B0", "B1", "C0", "C1", "Z0"]


def test_a_run_that_could_not_be_carried_on_with() -> None:
    """What was running is FAILED, its outcome unknown: it is not done again unasked. What it had yielded, and its error, are told."""
    graph = "A: unsafe\nB: free\nC: free\nE: free\nZ: free\nA.x -> B.a\nB.x -> C.a\nB.error -> E.a"
    with life(graph) as lived:
        lived.begin()
        lived.play("Z0 end\nA0 x=1 x=2 end\nB1 x=20 end\nB0 start")
        connection = lived.connection
        assert abandon_run(
            connection,
            "run",
            epoch=1,
            seq=lived.ledger.seq,
            code="worker_died",
            message="gone",
            ended_at=EPOCH.isoformat(),
        )
        assert lived.lines("run")[1:3] == ["B0 FAILED outcome_unknown a=1", "B1 COMPLETED a=2"]
        lived.rerun("Z")
        assert lived.lines() == [
            "A0 kept COMPLETED",
            "B0 kept FAILED outcome_unknown a=1",
            "B1 kept COMPLETED a=2",
            "C0 QUEUED a=20",
            'E0 QUEUED a="The run was ended while the block ran; what it did outside is not known."',
            "Z0 QUEUED",
        ]
        lived.play("C0 end\nE0 end\nZ0 end")
        assert lived.status() == "COMPLETED"


def test_skipped_and_repeated_executions_are_kept_with_their_attempts() -> None:
    with life("A: unsafe\nB: free @retry=2\nC: free\nA.x -> C.a\nB.x -> C.b") as lived:
        lived.begin()
        lived.play("A0 x=1\nB0 fail:once")
        lived.game.apply(OwnerDied(lived.game.tick()))
        lived.game.apply(Resolved(lived.game.find("A0").id, lived.game.tick(), Resolution.SKIP))
        lived.game.apply(Due(lived.game.tick(3600)))
        lived.play("B0 x=2 end\nC0 fail:boom")
        lived.rerun("C")
        assert lived.lines() == ["A0 kept SKIPPED outcome_unknown", "B0 kept COMPLETED", "C0 QUEUED a=1 b=2"]
        rows = lived.connection.execute(
            'SELECT e."agentGraphExecutionId", a."attempt", a."outcome", a."error", e."attempt", e."retries" FROM "AgentNodeExecutionAttempt" a '
            'JOIN "AgentNodeExecution" e ON e."id" = a."agentNodeExecutionId" ORDER BY 1 DESC'
        ).fetchall()
        assert rows == [("run", 1, "FAILED", "once", 2, 1), ("rerun", 1, "FAILED", "once", 2, 1)]


def test_an_execution_that_waited_is_kept_as_one_that_has_ended() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1")
        execution = lived.game.find("A0")
        lived.game.apply(Suspended(execution.id, lived.game.tick(), until=lived.game.at))
        lived.game.apply(Due(lived.game.tick()))
        lived.play("A0 x=2 end\nB0 end\nB1 fail:boom")
        lived.rerun("B")
        assert (lived.game.started, lived.game.state.wake_at()) == (["B0", "B1"], None)


# --- a re-run is a run -------------------------------------------------------------------------------------------------


def test_copies_are_rows_of_their_own_with_the_old_outcome_and_times() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        long = "l" * INLINE_BYTES
        lived.play(f'A0 x="{long}" x=1 end\nB0 x=10 end\nB1 x=20 end\nC0 fail:boom\nC1 end')
        run = lived.rerun("C")
        former = _rows(lived, "run")
        copies = _rows(lived, "rerun")
        assert [(copy["replayOfId"], copy["status"]) for copy in copies[:3]] == [
            (row["id"], row["status"]) for row in former[:3]
        ]
        same = ("ordinal", "attempt", "addedAt", "queuedAt", "startedAt", "endedAt")
        assert [[copy[name] for name in same] for copy in copies[:3]] == [
            [row[name] for name in same] for row in former[:3]
        ]
        assert [
            [copy[name] for name in ("seq", "addedSeq", "queuedSeq", "startedSeq", "endedSeq")] for copy in copies[:3]
        ] == [
            [1] * 5,
            [2] * 5,
            [3] * 5,
        ]
        assert (run.seq, [copy["addedSeq"] for copy in copies[3:]]) == (5, [5, 5])
        assert outputs(lived.connection, "rerun", "A") == [("x", long), ("x", 1)]
        values = lived.connection.execute('SELECT count(*) FROM "AgentValue"').fetchone()
        assert values == (1,), "a large value is there once"
        lived.connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = \'run\'')
        assert lived.lines()[1] == f'B0 kept COMPLETED a="{long}"', "the former run is not needed any more"
        assert lived.connection.execute("PRAGMA foreign_key_check").fetchall() == []


def _rows(lived: Life, run_id: str) -> list[dict[str, Any]]:
    found = lived.connection.execute(
        'SELECT * FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? ORDER BY "id"', (run_id,)
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def test_what_is_written_is_what_was_planned() -> None:
    """Restored again and again, after a crash too, it goes on in the same way."""
    with life("A: free\nP: free\nB: free\nS: free\nA.x -> S.a\nP.x => S.c\nB.x -> S.b\nA.error -> B.a") as lived:
        lived.begin()
        lived.play("P0 x=7 end\nA0 x=1 x=2 fail:boom\nB0 x=10 end\nS0 end")
        lived.rerun("B")
        assert lived.game.state.unhandled == {}
        for step in ("B0 x=11", "B0 x=11 x=12 end", "S0 end"):
            lived.play(step)
            found = differences(essence(restore_run(lived.topology, lived.ledger.load())), essence(lived.game.state))
            assert not found, found
            lived.game.carry_on_with(lived.ledger.take_over())
            lived.game.apply(OwnerDied(lived.game.tick()))
            check_counters(lived.game.state)
        lived.play("S1 end")
        assert lived.status() == "COMPLETED"
        assert lived.lines()[-2:] == ["S0 COMPLETED a=1 b=11 c=7", "S1 COMPLETED a=2 b=12 c=7"]


def test_a_rerun_of_a_rerun_keeps_the_order_of_both() -> None:
    with life("A: free\nB: free\nC: free\nD: free\nA.x -> C.a\nB.x -> C.a\nC.x -> D.a") as lived:
        lived.begin()
        lived.play("B0 x=1\nA0 x=2\nB0 x=3 end\nA0 x=4 end\nC0 end\nC1 end\nC2 end\nC3 fail:boom")
        lived.rerun("C")
        lived.play("C1 x=20 end\nC0 x=10 end\nC2 fail:bang\nC3 x=40 end\nD0 end\nD1 end\nD2 fail:boom")
        lived.rerun("C", former="rerun", run_id="third")
        assert lived.lines("third")[2:] == ["C0 QUEUED a=1", "C1 QUEUED a=2", "C2 QUEUED a=3", "C3 QUEUED a=4"]
        lived.rerun("D", former="rerun", run_id="fourth")
        assert lived.lines("fourth")[-3:] == ["D0 QUEUED a=10", "D1 QUEUED a=20", "D2 QUEUED a=40"]
        assert outputs(lived.connection, "fourth", "C") == outputs(lived.connection, "rerun", "C")


def test_a_rerun_with_nothing_to_do_tells_how_its_parts_ended() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1 end\nB0 fail:boom")
        run = lived.rerun("C")
        row = run.changes.run
        assert (row.status, row.error_code, row.error_message) == (
            "FAILED",
            "node_failed",
            "1 node execution failed: boom",
        )
        assert row.ended_at is not None
        assert lived.status() == "FAILED"


def test_an_execution_that_fails_at_once_sends_its_error_on() -> None:
    with life("A: free\nT: typed\nE: free\nA.x -> T.number\nT.error -> E.a") as lived:
        lived.begin()
        lived.play("A0 x=[] end\nE0 fail:boom")
        lived.rerun("T")
        assert [line.split(" a=")[0] for line in lived.lines()] == [
            "A0 kept COMPLETED",
            "T0 FAILED input_type_mismatch number=[]",
            "E0 QUEUED",
        ]


# --- what cannot be run again ------------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_or_is_not_there() -> None:
    with life(CHAIN) as lived:
        with pytest.raises(RunNotFound):
            lived.rerun("A")
        lived.begin()
        with pytest.raises(RunStillActive):
            lived.rerun("A")


def test_nodes_that_are_not_there_are_named() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 end")
        with pytest.raises(InvalidRerun) as caught:
            lived.rerun("B", "C", "nobody", version="A: free\nC: free")
        assert [(problem.code, problem.node_id) for problem in caught.value.problems] == [
            ("node_removed", "B"),
            ("unknown_node", "nobody"),
        ]


def test_an_input_that_does_not_fit_the_repaired_version() -> None:
    with life('I: agentin name="in"\nA: free\nI.result -> A.a') as lived:
        lived.begin({"in": 3})
        lived.play("I0 result=5 end\nA0 fail:boom")
        with pytest.raises(InvalidRunInput) as caught:
            lived.rerun(
                "A", version='I: agentin name="in"\nJ: agentin name="more"\nA: free\nI.result -> A.a\nJ.result -> A.b'
            )
        assert [(problem.code, problem.pin) for problem in caught.value.problems] == [("missing_input", "more")]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_executions": 2}, "MAX_RUN_NODE_EXECUTIONS"),
        ({"max_executions": 4}, "MAX_RUN_NODE_EXECUTIONS"),
        ({"max_bytes": 3}, "MAX_RUN_BYTES"),
    ],
)
def test_a_rerun_beyond_a_limit_is_refused(limits: dict[str, Any], words: str) -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1 x=2 end\nB0 x=10 end\nB1 x=20 end\nC0 end\nC1 end")
        with pytest.raises(RerunTooLarge, match=words):
            lived.rerun("C", limits=replace(LIMITS, **limits))
        assert lived.lines("rerun") == []
