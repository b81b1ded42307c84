"""Re-runs (rule D9), one scenario each: a run, what is run again, what is kept and what comes of it (the notation is that of `support.planning`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from support.rerunning import life


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
