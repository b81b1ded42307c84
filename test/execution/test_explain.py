"""What `explain` says is true: of runs that are made up, at every moment, and case by case."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autogpt_server.data.progress import SHOWN, LiveExecution, RunFacts, facts_of
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.dispatch import Bench, Dispatcher
from autogpt_server.execution.explain import Cause, CauseCode, Circumstances, Explainer, Explanation
from autogpt_server.execution.flow import MAX_AHEAD
from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.execution.restore import static_pins
from autogpt_server.execution.state import Execution, RunState
from support.ledger import Ledger, open_memory, store_graph
from support.lives import Life
from support.planning import EPOCH, Game, topology_of

IDLE = QueueReport(["w1"], {}, {})

STATUS_OF = {
    CauseCode.RUNNING: NodeStatus.RUNNING,
    CauseCode.STOPPING: NodeStatus.RUNNING,
    CauseCode.QUEUED: NodeStatus.QUEUED,
    CauseCode.MAX_PARALLEL: NodeStatus.QUEUED,
    CauseCode.FAR_AHEAD: NodeStatus.QUEUED,
    CauseCode.BACKING_OFF: NodeStatus.QUEUED,
    CauseCode.NEEDS_DECISION: NodeStatus.INTERRUPTED,
    CauseCode.WAITS_FOR_SIGNAL: NodeStatus.WAITING,
    CauseCode.WAITS_FOR_CHILD: NodeStatus.WAITING,
    CauseCode.WAITS_FOR_TIME: NodeStatus.WAITING,
    CauseCode.INCOMPLETE: NodeStatus.INCOMPLETE,
}


def explained(life: Life) -> Explanation:
    runs: dict[str, RunFacts] = {}
    for run_id in ("run", *(f"child{number}" for number in range(1, life.children + 1))):
        facts = facts_of(life.connection, run_id, static_pins(life.topology))
        if facts is not None:
            runs[run_id] = facts
    topologies = {(life.topology.graph_id, life.topology.version): life.topology}
    return Explainer(runs, topologies, Circumstances(IDLE), life.game.at).explain("run")


def check(explanation: Explanation, state: RunState, known: dict[str, Execution]) -> None:
    """Each cause is true of the planner's state, and nothing that is live goes without one."""
    assert explanation.status is state.status
    assert explanation.summary.endswith(".")
    assert explanation.causes
    told: Counter[str] = Counter()
    for cause in explanation.causes:
        if cause.node_exec_id is None:
            continue
        execution = known[cause.node_exec_id]
        told[execution.id] += 1
        assert (cause.node_id, cause.block) == (execution.node.id, execution.node.block.name)
        check_cause(cause, execution, state)
    if state.status.is_terminal:
        assert not explanation.is_progressing
        assert set(told) == set(state.live), "what is INCOMPLETE at the end, and nothing else"
    else:
        assert set(state.live) <= set(told)
        assert explanation.is_progressing == any(execution.is_moving for execution in state.live.values())
    assert set(told.values()) <= {1}


def check_cause(cause: Cause, execution: Execution, state: RunState) -> None:
    code, status = cause.code, STATUS_OF.get(cause.code)
    assert status is None or execution.status is status
    node_state = state.nodes[execution.node.index]
    match code:
        case CauseCode.RUNNING | CauseCode.STOPPING:
            assert (code is CauseCode.STOPPING) == execution.is_timed_out
            assert cause.since == execution.started_at
        case CauseCode.BACKING_OFF:
            assert cause.until == execution.not_before is not None
        case CauseCode.QUEUED:
            assert execution.not_before is None
        case CauseCode.MAX_PARALLEL:
            assert node_state.busy >= execution.node.max_parallel == cause.data["max_parallel"]
        case CauseCode.FAR_AHEAD:
            assert (execution.ordinal or 0) - node_state.first_unreleased >= MAX_AHEAD
        case CauseCode.WAITS_FOR_SIGNAL:
            assert (cause.data["name"], cause.until) == (execution.waits_for, execution.not_before)
        case CauseCode.WAITS_FOR_CHILD:
            assert cause.data["child_run_id"] == execution.child_run_id
            assert cause.data["explanation"]["run_id"] == execution.child_run_id
        case CauseCode.WAITS_FOR_TIME:
            assert cause.until == execution.not_before is not None
        case CauseCode.NEEDS_DECISION:
            assert cause.data["choices"] == ["retry", "skip", "fail"]
        case CauseCode.HELD_BACK:
            assert execution.status.is_terminal
            assert execution.held
            assert cause.data["behind"] == node_state.unreleased[0].id != execution.id
        case CauseCode.BEING_CANCELED | CauseCode.BEING_ENDED:
            assert state.closing is (RunStatus.CANCELED if code is CauseCode.BEING_CANCELED else RunStatus.FAILED)
            assert execution.status.is_active
        case _:
            assert code is CauseCode.INCOMPLETE
            slots = [slot for slot in execution.node.slots if slot not in execution.tokens]
            assert cause.missing_pins == [
                *slots,
                *(slot for slot in execution.node.static_slots if slot not in node_state.statics),
            ]
            assert cause.missing_pins


@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=int(os.environ.get("EXPLAIN_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow],
)
def test_whatever_happens_to_a_run_what_is_said_of_it_is_true(seed: int) -> None:
    with closing(open_memory()) as connection:
        life = Life(connection, random.Random(seed))
        for _ in range(60):
            check(explained(life), life.game.state, life.game.known)
            if life.is_over:
                break
            life.step()
        else:
            check(explained(life), life.game.state, life.game.known)


def test_the_lives_that_are_tried_have_everything_in_them() -> None:
    """Else the property above would say less than it seems to."""
    seen: Counter[CauseCode] = Counter()
    for seed in range(150):
        with closing(open_memory()) as connection:
            life = Life(connection, random.Random(seed))
            while not life.is_over and life.game.state.seq < 60:
                seen.update({cause.code for cause in explained(life).causes})
                life.step()
            seen.update({cause.code for cause in explained(life).causes})
    wanted = {*STATUS_OF, CauseCode.HELD_BACK, CauseCode.BEING_CANCELED, CauseCode.BEING_ENDED, CauseCode.ENDED}
    assert wanted - seen.keys() == {CauseCode.FAR_AHEAD}


# --- the server ----------------------------------------------------------------------------------------------------------


def facts(**changes: Any) -> RunFacts:
    values: dict[str, Any] = {
        "id": "run",
        "graph_id": "graph",
        "graph_version": 1,
        "status": RunStatus.QUEUED,
        **dict.fromkeys(("closing", "error_code", "error_message", "cancel_requested_at", "created_at", "started_at")),
        **dict.fromkeys(("ended_at", "worker_id", "wake_at")),
        "takeovers": 0,
        "has_news": False,
    }
    return RunFacts(**{**values, **changes})


def of_server(run: RunFacts, queue: QueueReport | None, database: str | None = None) -> tuple[Explanation, list[str]]:
    explanation = Explainer({run.id: run}, {}, Circumstances(queue, database), EPOCH).explain(run.id)
    return explanation, [cause.code.value for cause in explanation.causes]


@pytest.mark.parametrize(
    ("run", "queue", "codes", "progresses"),
    [
        ({}, None, ["manager_unreachable"], False),
        ({}, QueueReport([], {}, {}), ["no_worker_ready"], False),
        ({}, QueueReport(["w1"], {}, {"run": 3}), ["waits_for_worker"], True),
        ({}, IDLE, ["waits_for_worker"], True),
        ({}, QueueReport(["w1"], {"run": "w1"}, {}), ["taken_up"], True),
        ({"status": RunStatus.RUNNING, "worker_id": "w1"}, QueueReport(["w1"], {"run": "w1"}, {}), [], True),
        ({"status": RunStatus.RUNNING, "worker_id": "w0"}, QueueReport(["w1"], {}, {"run": 0}), ["owner_gone"], True),
        ({"status": RunStatus.RUNNING, "worker_id": "w1"}, IDLE, ["waits_for_worker"], True),
        ({"status": RunStatus.RUNNING, "worker_id": "w1"}, None, ["manager_unreachable"], False),
        ({"status": RunStatus.WAITING, "worker_id": "w0"}, None, [], False),
        ({"status": RunStatus.WAITING, "has_news": True}, None, ["has_news", "manager_unreachable"], False),
        ({"status": RunStatus.WAITING, "wake_at": EPOCH}, QueueReport([], {}, {}), ["no_worker_ready"], False),
        (
            {"cancel_requested_at": EPOCH},
            QueueReport(["w1"], {}, {"run": 0}),
            ["waits_for_worker", "being_canceled"],
            True,
        ),
    ],
)
def test_what_keeps_a_run_from_having_a_worker(
    run: dict[str, Any], queue: QueueReport | None, codes: list[str], *, progresses: bool
) -> None:
    explanation, found = of_server(facts(**run), queue)
    assert found == codes
    assert explanation.is_progressing == progresses


def test_how_many_are_before_it() -> None:
    explanation, _ = of_server(facts(), QueueReport(["w1", "w2"], {}, {"run": 1234}))
    (cause,) = explanation.causes
    assert cause.data == {"ahead": 1234, "workers": 2}
    assert "1,234 are before it" in cause.message
    assert explanation.summary == "The run is QUEUED: it waits for a worker."


def test_a_run_whose_workers_die_goes_on_alone() -> None:
    explanation, _ = of_server(facts(status=RunStatus.RUNNING, worker_id="w0", takeovers=3), IDLE)
    assert "in a worker of its own" in explanation.causes[0].message


@pytest.mark.parametrize("queue", [QueueReport(["w1"], {}, {"run": 0}), QueueReport([], {}, {})])
def test_what_ran_in_a_worker_that_is_gone_is_not_said_to_run(queue: QueueReport) -> None:
    execution = LiveExecution(
        "e", "n", NodeStatus.RUNNING, EPOCH, EPOCH, EPOCH, None, None, None, None, None, attempt=1, ordinal=0
    )
    run = facts(status=RunStatus.RUNNING, worker_id="w0", executions=[execution], counts={execution.kind: 1})
    explanation, _ = of_server(run, queue)
    assert "was running in a worker that is gone" in explanation.causes[-1].message
    assert "running" not in explanation.summary


def test_nothing_goes_on_while_the_database_cannot_be_written() -> None:
    explanation, found = of_server(
        facts(status=RunStatus.RUNNING), QueueReport(["w1"], {"run": "w1"}, {}), "the disk is full"
    )
    assert found == ["database_unwritable"]
    assert "the disk is full" in explanation.causes[0].message
    assert not explanation.is_progressing


@contextmanager
def performed(graph: str, script: str) -> Generator[tuple[Game, Explanation]]:
    """A run of which the script has happened, and what is said of it."""
    topology = topology_of(graph)
    with closing(open_memory()) as connection:
        store_graph(connection, topology)
        ledger, game = Ledger(connection, topology), Game(topology)
        game.begin({})
        game.play(script)
        ledger.insert(game.state)
        found = facts_of(connection, "run", static_pins(topology))
        assert found is not None
        topologies = {(topology.graph_id, topology.version): topology}
        yield game, Explainer({"run": found}, topologies, Circumstances(IDLE), game.at).explain("run")


def test_of_very_many_executions_the_first_are_told_and_the_others_counted() -> None:
    values = " ".join(["x=1"] * (SHOWN + 5))
    with performed("A: free\nB: serial\nC: free\nA.x -> B.a\nA.x -> C.a\nB.x -> C.b", f"A0 {values}\nB0 start") as (
        _,
        told,
    ):
        codes = Counter(cause.code for cause in told.causes)
        # Of those that wait for B0 the last are counted, and so are those that lack what B has not yielded.
        assert codes == {
            "running": 2,
            "max_parallel": SHOWN,
            "queued": 1,
            "incomplete": SHOWN + 1,
            "waits_for_worker": 1,
        }
        assert [cause.data["count"] for cause in told.causes if "count" in cause.data] == [4, 5]
        assert (
            told.summary
            == "The run is RUNNING: it waits for a worker; 2 executions are running; 4 executions are queued."
        )


def test_those_that_are_only_counted_are_counted_with_those_that_wait_for_the_same() -> None:
    values = " ".join(["x=1"] * (SHOWN + 5))
    retry = '@retry={"max_attempts":2,"delay_s":60} @max_parallel=1000'
    fails = "\n".join(f"B{number} fail:no" for number in range(SHOWN + 2))
    with performed(f"A: free\nB: free {retry}\nA.x -> B.a", f"A0 {values}\n{fails}") as (_, told):
        counted = {cause.code: cause.data["count"] for cause in told.causes if "count" in cause.data}
        assert counted == {"backing_off": 2}
        assert "52 executions wait before they are tried again" in told.summary
        assert sum(cause.code == "queued" for cause in told.causes) == 3


def test_what_waits_because_too_much_is_held_back_already() -> None:
    values = " ".join(["x=1"] * (MAX_AHEAD + 1))
    ends = "\n".join(f"B{number} end" for number in range(1, MAX_AHEAD))
    with performed("A: free\nB: free\nA.x -> B.a", f"A0 {values} end\nB0 start\n{ends}") as (game, told):
        check(told, game.state, game.known)
        assert [cause.code for cause in told.causes if cause.node_exec_id] == ["running", "far_ahead"]


def test_how_many_go_first() -> None:
    dispatcher = Dispatcher()
    for run_id, priority in (("b", 0), ("a", 0), ("c", 5), ("d", -1)):
        dispatcher.offer(run_id, priority)
    assert [dispatcher.ahead_of(run_id) for run_id in "abcde"] == [1, 2, 0, 3, None]
    dispatcher.assign([Bench("w", 1)])
    assert [dispatcher.ahead_of(run_id) for run_id in "abcd"] == [0, 1, None, 2]
