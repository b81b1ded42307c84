"""The transition tables (rule D6)."""

import pytest

from autogpt_server.data.status import (
    ACTIVE_NODE_STATUSES,
    NODE_TRANSITIONS,
    RUN_TRANSITIONS,
    TERMINAL_NODE_STATUSES,
    TERMINAL_RUN_STATUSES,
    NodeStatus,
    RunStatus,
)


def test_every_status_has_its_row() -> None:
    assert set(NODE_TRANSITIONS) == set(NodeStatus)
    assert set(RUN_TRANSITIONS) == set(RunStatus)


@pytest.mark.parametrize("status", NodeStatus)
def test_node_executions(status: NodeStatus) -> None:
    assert status.is_terminal == (not NODE_TRANSITIONS[status]) == (status in TERMINAL_NODE_STATUSES)
    assert status.is_active == (status in ACTIVE_NODE_STATUSES)
    # What keeps a run from ending can be brought to an end, and only what is neither active nor over waits for values.
    assert status.is_active or status.is_terminal or status is NodeStatus.INCOMPLETE
    assert not status.is_active or NodeStatus.CANCELED in NODE_TRANSITIONS[status]
    assert status not in NODE_TRANSITIONS[status]


@pytest.mark.parametrize("status", RunStatus)
def test_runs(status: RunStatus) -> None:
    assert status.is_terminal == (not RUN_TRANSITIONS[status]) == (status in TERMINAL_RUN_STATUSES)
    assert status.is_terminal or RUN_TRANSITIONS[status] >= TERMINAL_RUN_STATUSES
    assert RunStatus.QUEUED not in RUN_TRANSITIONS[status]


def test_an_attempt_begins_only_from_the_queue() -> None:
    assert [status for status in NodeStatus if NodeStatus.RUNNING in NODE_TRANSITIONS[status]] == ["QUEUED"]


def test_every_status_can_be_reached() -> None:
    assert set(NodeStatus) - {NodeStatus.INCOMPLETE} == {after for row in NODE_TRANSITIONS.values() for after in row}
    assert set(RunStatus) - {RunStatus.QUEUED} == {after for row in RUN_TRANSITIONS.values() for after in row}
