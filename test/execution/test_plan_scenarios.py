"""The planner's rules F1 to F12, one scenario each: graph shape and events in, executions out (the notation is that of `support.planning`)."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from support.planning import play


@dataclass(frozen=True)
class Scenario:
    name: str
    graph: str
    script: str
    expected: str
    status: str
    run_input: dict[str, Any] = field(default_factory=dict[str, Any])
    limits: dict[str, Any] = field(default_factory=dict[str, Any])
    started: str | None = None
    """The executions handed out, in order; not looked at when None."""


SCENARIOS = [
    Scenario(
        "F1: every node without incoming links starts, and every agent input",
        "I: agentin name='in' value=5\nA: free\nB: free\nC: free\nC.x -> I.value\nB.x -> C.a",
        "",
        "I0 QUEUED\nA0 QUEUED\nB0 QUEUED",
        "QUEUED",
        started="I0 A0 B0",
    ),
    Scenario(
        "F1: a note is a node like any other",
        "N: note a='hello'\nA: free",
        "N0 end\nA0 end",
        "N0 COMPLETED\nA0 COMPLETED",
        "COMPLETED",
    ),
    Scenario(
        "F1: an agent input with a link fires again for each value that arrives",
        "I: agentin name='in' value=5\nA: free\nA.x -> I.value",
        "A0 x=6 x=7 end\nI0 end\nI1 end\nI2 end",
        "I0 COMPLETED\nI1 COMPLETED value=6\nI2 COMPLETED value=7\nA0 COMPLETED",
        "COMPLETED",
    ),
    Scenario(
        "F2: the run's input goes to the agent input of that name, even when it is nothing much",
        "I: agentin name='in' value=5\nJ: agentin name='other' value=1\nA: free\nI.result -> A.a",
        "I0 result=null end\nJ0 end",
        "I0 COMPLETED value=null\nJ0 COMPLETED value=0\nA0 QUEUED a=null",
        "RUNNING",
        run_input={"in": None, "other": 0},
    ),
    Scenario(
        "F2: without agent inputs each start node that has the pin takes the value",
        "A: free\nB: typed number=1\nC: free",
        "",
        'A0 QUEUED a=false\nB0 QUEUED text=""\nC0 QUEUED a=false',
        "QUEUED",
        run_input={"a": False, "text": ""},
    ),
    Scenario(
        "F3: a value goes to the oldest execution that lacks it",
        "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.b",
        "A0 x=1 x=2 x=3\nB0 x=10 x=20",
        "A0 RUNNING\nB0 RUNNING\nS0 QUEUED a=1 b=10\nS1 QUEUED a=2 b=20\nS? INCOMPLETE a=3",
        "RUNNING",
    ),
    Scenario(
        "F3: None, False, 0 and empty text are values",
        "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.b",
        'A0 x=null x=false x=0 x="" x=[] x={} end\nB0 x=null x=0 x=false x={} x=[] x="" end',
        "A0 COMPLETED\nB0 COMPLETED\nS0 QUEUED a=null b=null\nS1 QUEUED a=false b=0\nS2 QUEUED a=0 b=false\n"
        'S3 QUEUED a="" b={}\nS4 QUEUED a=[] b=[]\nS5 QUEUED a={} b=""',
        "RUNNING",
    ),
    Scenario(
        "F3: identical links carry a value once",
        "A: free\nS: free\nA.x -> S.a\nA.x -> S.a",
        "A0 x=1 end\nS0 end",
        "A0 COMPLETED\nS0 COMPLETED a=1",
        "COMPLETED",
    ),
    Scenario(
        "F3: one output goes to several slots of one node",
        "A: free\nS: free\nA.x -> S.a\nA.x -> S.b",
        "A0 x=1 x=2 end",
        "A0 COMPLETED\nS0 QUEUED a=1 b=1\nS1 QUEUED a=2 b=2",
        "RUNNING",
    ),
    Scenario(
        "F3: several sources of one slot: each value makes an execution, as they arrive",
        "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.a",
        "A0 x=1\nB0 x=2\nA0 x=3 end\nB0 end\nS0 end\nS1 end\nS2 end",
        "A0 COMPLETED\nB0 COMPLETED\nS0 COMPLETED a=1\nS1 COMPLETED a=2\nS2 COMPLETED a=3",
        "COMPLETED",
    ),
    Scenario(
        "F4: a linked pin is waited for although the node has a default",
        "A: free\nB: free\nS: free a=1 b=2\nA.x -> S.a\nB.x -> S.b",
        "A0 x=5 end\nB0 end",
        "A0 COMPLETED\nB0 COMPLETED\nS? INCOMPLETE a=5",
        "COMPLETED",
    ),
    Scenario(
        "F5: the newest static value serves every later execution and starts none",
        "P: free\nA: free\nS: free\nP.x => S.b\nA.x -> S.a",
        "A0 x=1\nP0 x=10 x=20\nA0 x=2 x=3\nP0 x=null\nA0 x=4 end\nP0 end",
        "P0 COMPLETED\nA0 COMPLETED\nS0 QUEUED a=1 b=10\nS1 QUEUED a=2 b=20\nS2 QUEUED a=3 b=20\nS3 QUEUED a=4 b=null",
        "RUNNING",
    ),
    Scenario(
        "F5: a block whose output is static makes its links static",
        "P: fixed\nA: free\nS: free\nP.x -> S.b\nA.x -> S.a",
        "P0 x=10 end\nA0 x=1 x=2 end",
        "P0 COMPLETED\nA0 COMPLETED\nS0 QUEUED a=1 b=10\nS1 QUEUED a=2 b=10",
        "RUNNING",
    ),
    Scenario(
        "F5: where every linked pin is static, each value queues one execution once all have one",
        "P: fixed\nQ: fixed\nS: free\nP.x -> S.a\nQ.x -> S.b",
        "P0 x=1 x=2\nQ0 x=10 x=20\nP0 x=3 end\nQ0 end",
        "P0 COMPLETED\nQ0 COMPLETED\nS0 QUEUED a=2 b=10\nS1 QUEUED a=2 b=20\nS2 QUEUED a=3 b=20",
        "RUNNING",
    ),
    Scenario(
        "F5: a pin with static and ordinary links is ordinary",
        "P: fixed\nA: free\nS: free\nP.x -> S.a\nA.x -> S.a",
        "P0 x=1 end\nA0 x=2 end",
        "P0 COMPLETED\nA0 COMPLETED\nS0 QUEUED a=1\nS1 QUEUED a=2",
        "RUNNING",
    ),
    Scenario(
        "F5: a value that waits for a static one is queued when that comes",
        "P: fixed\nA: free\nS: free\nP.x -> S.b\nA.x -> S.a",
        "A0 x=1 x=2 end\nP0 x=10 end",
        "P0 COMPLETED\nA0 COMPLETED\nS0 QUEUED a=1 b=10\nS1 QUEUED a=2 b=10",
        "RUNNING",
    ),
    Scenario(
        "F6: parts of a pin are slots of their own, and one part satisfies a required pin",
        "A: free\nB: free\nS: typed number=1\nT: typed\nA.x -> S.numbers_$_1\nB.x -> S.numbers_$_0\nA.y -> T.number",
        "A0 x=1 x=2 end\nB0 x=0 end",
        "A0 COMPLETED\nB0 COMPLETED\nS0 QUEUED numbers_$_0=0 numbers_$_1=1\nS? INCOMPLETE numbers_$_1=2",
        "RUNNING",
    ),
    Scenario(
        "F6: a part of a source that does not exist is not sent",
        "A: free\nS: free\nT: free\nA.x_#_k -> S.a\nA.x_$_0 -> T.a",
        'A0 x={"k":null} x={"l":1} x=[0] x=[] x="k" end',
        "A0 COMPLETED\nS0 QUEUED a=null\nT0 QUEUED a=0",
        "RUNNING",
    ),
    Scenario(
        "F6: parts that do not fit together fail the execution",
        "A: free\nB: free\nS: free\nA.x -> S.a_$_0\nB.x -> S.a_#_k",
        "A0 x=1 end\nB0 x=2 end",
        "A0 COMPLETED\nB0 COMPLETED\nS0 FAILED pin_merge_failed a_#_k=2 a_$_0=1",
        "FAILED",
    ),
    Scenario(
        "F7: a value of the wrong type fails the execution when it is queued, and its error travels",
        "A: free\nS: typed\nE: free\nA.x -> S.number\nS.error -> E.a",
        'A0 x="7" x="seven" x=3.7 end\nS0 end\nE0 end\nE1 end',
        'A0 COMPLETED\nS0 COMPLETED number="7"\nS1 FAILED input_type_mismatch number="seven"\nS2 FAILED input_type_mismatch number=3.7\n'
        'E0 COMPLETED a="Pin \'number\' expects a whole number, but got the text \\"seven\\"."\n'
        "E1 COMPLETED a=\"Pin 'number' expects a whole number, but got the number 3.7.\"",
        "COMPLETED",
    ),
    Scenario(
        "F7: a check that breaks is a value that does not fit",
        "A: free\nS: brittle\nA.x -> S.a",
        "A0 x=13 x=14 end\nS1 end",
        "A0 COMPLETED\nS0 FAILED input_type_mismatch a=13\nS1 COMPLETED a=14",
        "FAILED",
    ),
    Scenario(
        "F7: the error of a conversion that failed waits for its turn",
        "A: free\nS: even\nE: free\nA.x -> S.a\nS.error -> E.a\nS.x -> E.a",
        "A0 x=2 x=3 x=4 end\nS2 x=40 end\nS0 x=20 end\nE0 end\nE1 end\nE2 end",
        "A0 COMPLETED\nS0 COMPLETED a=2\nS1 FAILED input_type_mismatch a=3\nS2 COMPLETED a=4\n"
        "E0 COMPLETED a=20\nE1 COMPLETED a=\"Pin 'a' expects a whole number, but got the number 3.\"\nE2 COMPLETED a=40",
        "COMPLETED",
    ),
    Scenario(
        "F8: outputs are released in the order of the executions, whichever ends first",
        "A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a",
        "A0 x=1 x=2 x=3 end\nB2 x=30 end\nB1 x=20\nB0 x=10 end\nB1 x=21 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nB2 COMPLETED a=3\nC0 QUEUED a=10\nC1 QUEUED a=20\nC2 QUEUED a=21\nC3 QUEUED a=30",
        "RUNNING",
    ),
    Scenario(
        "F8: over all pins",
        "A: free\nB: free\nC: free\nD: free\nA.x -> B.a\nB.x -> C.a\nB.y -> D.a",
        "A0 x=1 x=2 end\nB1 x=20 y=21 end\nB0 y=11",
        "A0 COMPLETED\nB0 RUNNING a=1\nB1 COMPLETED a=2\nD0 QUEUED a=11",
        "RUNNING",
    ),
    Scenario(
        "F8: a slot is free when an attempt ends, not when it is released",
        "A: free\nB: free @max_parallel=2\nA.x -> B.a",
        "A0 x=1 x=2 x=3 x=4 end\nB0 start\nB1 end",
        "A0 COMPLETED\nB0 RUNNING a=1\nB1 COMPLETED a=2\nB2 QUEUED a=3\nB3 QUEUED a=4",
        "RUNNING",
        started="A0 B0 B1 B2",
    ),
    Scenario(
        "F8: a block that runs one at a time",
        "A: free\nB: serial\nA.x -> B.a",
        "A0 x=1 x=2 end\nB0 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 QUEUED a=2",
        "RUNNING",
        started="A0 B0 B1",
    ),
    Scenario(
        "release=end: outputs travel when the execution has completed",
        'A: free @release="end"\nB: free\nA.x -> B.a',
        "A0 x=1 x=2",
        "A0 RUNNING",
        "RUNNING",
    ),
    Scenario(
        "release=end: then all at once",
        'A: free @release="end"\nB: free\nA.x -> B.a',
        "A0 x=1 x=2 end",
        "A0 COMPLETED\nB0 QUEUED a=1\nB1 QUEUED a=2",
        "RUNNING",
    ),
    Scenario(
        "release=end: what failed sends its error and nothing else",
        'A: free @release="end"\nB: free\nE: free\nA.x -> B.a\nA.error -> E.a',
        "A0 x=1 x=2 fail:boom\nE0 end",
        'A0 FAILED block_failed\nE0 COMPLETED a="boom"',
        "COMPLETED",
    ),
    Scenario(
        "F8: an upstream execution that yields nothing makes later pairs shift, and that is told",
        "A: free\nB: free\nC: free\nS: free\nA.x -> B.a\nA.x -> C.a\nB.x -> S.a\nC.x -> S.b",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end\nC0 x=10 end\nC1 x=21 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nC0 COMPLETED a=1\nC1 COMPLETED a=2\n"
        "S0 QUEUED mixed a=20 b=10\nS? INCOMPLETE b=21",
        "RUNNING",
    ),
    Scenario(
        "F8: values of mixed origin do not enter an unsafe block",
        "A: free\nB: free\nS: unsafe\nE: free\nA.x -> B.a\nA.x -> S.b\nB.x -> S.a\nS.error -> E.a",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nS0 FAILED mixed mixed_origin a=20 b=1\nS? INCOMPLETE b=2\n"
        'E0 QUEUED a="The values that met here do not belong together: they descend from different outputs of one node. '
        "Set the node's metadata on_mixed_origin to 'warn' to run it nevertheless.\"",
        "RUNNING",
    ),
    Scenario(
        "F8: unless the node says so",
        'A: free\nB: free\nS: unsafe @on_mixed_origin="warn"\nT: free @on_mixed_origin="fail"\n'
        "A.x -> B.a\nA.x -> S.b\nB.x -> S.a\nA.x -> T.b\nB.x -> T.a",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nS0 QUEUED mixed a=20 b=1\nS? INCOMPLETE b=2\n"
        "T0 FAILED mixed mixed_origin a=20 b=1\nT? INCOMPLETE b=2",
        "RUNNING",
    ),
    Scenario(
        "F8: a block that decides by its input, and one that cannot tell, are asked when values are mixed",
        "A: free\nB: free\nS: byinput\nA.x -> B.a\nA.x -> S.b\nB.x -> S.a",
        'A0 x=1 x=2 x=3 x=4 end\nB0 end\nB1 x="get" end\nB2 x="post" end\nB3 x="?" end',
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nB2 COMPLETED a=3\nB3 COMPLETED a=4\n"
        'S0 QUEUED mixed a="get" b=1\nS1 FAILED mixed mixed_origin a="post" b=2\nS2 FAILED mixed mixed_origin a="?" b=3\nS? INCOMPLETE b=4',
        "RUNNING",
    ),
    Scenario(
        "F8: what is made of one meeting belongs together; what is made of it and something else does not",
        "A: free\nB: free\nM: free\nL: free\nR: free\nS: free\nT: free\n"
        "A.x -> B.a\nA.x -> M.b\nB.x -> M.a\nM.x -> L.a\nM.x -> R.a\nL.x -> S.a\nR.x -> S.b\nM.x -> T.a\nA.x -> T.b",
        "A0 x=1 x=2 end\nB0 end\nB1 x=20 end\nM0 x=3 end\nL0 x=4 end\nR0 x=5 end",
        "A0 COMPLETED\nB0 COMPLETED a=1\nB1 COMPLETED a=2\nM0 COMPLETED mixed a=20 b=1\nM? INCOMPLETE b=2\nL0 COMPLETED a=3\nR0 COMPLETED a=3\n"
        "S0 QUEUED a=4 b=5\nT0 QUEUED mixed a=3 b=1\nT? INCOMPLETE b=2",
        "RUNNING",
    ),
    Scenario(
        "F8: static values are not matched by position, so they mix nothing",
        "A: free\nS: free\nA.x => S.a\nA.y -> S.b\nA.x -> S.c",
        "A0 x=1 x=2 y=5 end",
        "A0 COMPLETED\nS0 QUEUED a=2 b=5 c=1\nS? INCOMPLETE c=2",
        "RUNNING",
    ),
    Scenario(
        "F10: a failure that nobody takes fails the run, after all that can still run has run",
        "A: free\nB: free\nC: free\nA.x -> C.a",
        "B0 fail:boom\nA0 x=1 end\nC0 end",
        "A0 COMPLETED\nB0 FAILED block_failed\nC0 COMPLETED a=1",
        "FAILED",
    ),
    Scenario(
        "F10: a failure is handled when its error enters an execution that is queued",
        "A: free\nE: free\nA.error -> E.a",
        "A0 fail:boom\nE0 end",
        'A0 FAILED block_failed\nE0 COMPLETED a="boom"',
        "COMPLETED",
    ),
    Scenario(
        "F10: and not when that execution stays incomplete",
        "A: free\nB: free\nE: free\nA.error -> E.a\nB.x -> E.b",
        "A0 fail:boom\nB0 end",
        'A0 FAILED block_failed\nB0 COMPLETED\nE? INCOMPLETE a="boom"',
        "FAILED",
    ),
    Scenario(
        "F10: what came before the error travels too, in order",
        "A: free\nE: free\nA.x -> E.a\nA.error -> E.a",
        "A0 x=1 fail:boom\nE0 end\nE1 end",
        'A0 FAILED block_failed\nE0 COMPLETED a=1\nE1 COMPLETED a="boom"',
        "COMPLETED",
    ),
    Scenario(
        "F10: a static link carries errors, too",
        "A: free\nB: free\nE: free\nA.error => E.b\nB.x -> E.a",
        "A0 fail:boom\nB0 x=1 end\nE0 end",
        'A0 FAILED block_failed\nB0 COMPLETED\nE0 COMPLETED a=1 b="boom"',
        "COMPLETED",
    ),
    Scenario(
        "F11: executions left incomplete are no failures",
        "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.b",
        "A0 x=1 end\nB0 end",
        "A0 COMPLETED\nB0 COMPLETED\nS? INCOMPLETE a=1",
        "COMPLETED",
    ),
    Scenario(
        "F12: a self-link goes round until nothing is sent",
        "A: free\nL: free\nA.x -> L.a\nL.x -> L.a",
        "A0 x=0 end\nL0 x=1 end\nL1 x=2 end\nL2 end",
        "A0 COMPLETED\nL0 COMPLETED a=0\nL1 COMPLETED a=1\nL2 COMPLETED a=2",
        "COMPLETED",
    ),
    Scenario(
        "F12: a list that grows round by round joins values of different origin",
        "A: free\nS: free\nL: free\nS.x -> L.c\nA.x -> L.a\nL.x -> L.a",
        "A0 x=[] end\nS0 x=1 x=2 end\nL0 x=[1] end\nL1 x=[1,2] end",
        "A0 COMPLETED\nS0 COMPLETED\nL0 COMPLETED a=[] c=1\nL1 COMPLETED mixed a=[1] c=2\nL? INCOMPLETE a=[1,2]",
        "COMPLETED",
    ),
    Scenario(
        "F12: a loop of errors: what fails at queueing feeds itself, until the limit",
        "A: free\nS: even\nA.x -> S.a\nS.error -> S.a",
        "A0 x=1 end",
        "A0 COMPLETED\nS0 FAILED input_type_mismatch a=1\n"
        "S1 FAILED input_type_mismatch a=\"Pin 'a' expects a whole number, but got the number 1.\"\n"
        "S2 CANCELED a=\"Pin 'a' expects a whole number, but got the text \\\"Pin 'a' expects a whole number, but got the number 1.\\\".\"",
        "FAILED",
        limits={"max_executions": 3},
    ),
    Scenario(
        "F12: at the limit of executions what is queued is canceled and what runs is stopped",
        "A: free\nB: free\nA.x -> B.a",
        "A0 x=1 x=2 x=3\nA0 stop",
        "A0 CANCELED\nB0 CANCELED a=1\nB1 CANCELED a=2\nB2 CANCELED a=3",
        "FAILED",
        limits={"max_executions": 3},
    ),
    Scenario(
        "F12: executions that never get all their values count as well",
        "A: free\nB: free\nS: free\nA.x -> S.a\nB.x -> S.b",
        "A0 x=1 x=2 x=3\nA0 stop\n",
        "A0 CANCELED\nB0 CANCELED\nS? INCOMPLETE a=1\nS? INCOMPLETE a=2\nS? INCOMPLETE a=3",
        "FAILED",
        limits={"max_executions": 4},
    ),
    Scenario(
        "F12: at the limit of bytes, counted as UTF-8",
        "A: free\nB: free\nA.x -> B.a",
        'A0 x="ää" x="ää" end',
        'A0 COMPLETED\nB0 CANCELED a="ää"\nB1 CANCELED a="ää"',
        "FAILED",
        limits={"max_bytes": 11},
    ),
    Scenario(
        "nothing to do after the first executions",
        "A: free",
        "A0 x=1 y=2 end",
        "A0 COMPLETED",
        "COMPLETED",
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario: Scenario) -> None:
    graph = scenario.graph.replace("'", '"')
    game = play(graph, scenario.script, scenario.run_input, **scenario.limits)
    assert game.lines() == scenario.expected.splitlines()
    assert game.state.status == scenario.status
    if scenario.started is not None:
        assert game.started == scenario.started.split()
