"""Which nodes lie on a loop with each other."""

from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.execution.order import flow_order, loop_numbers

SIZES = st.integers(0, 8)
GRAPHS = SIZES.flatmap(
    lambda size: st.lists(st.lists(st.integers(0, max(size - 1, 0)), max_size=4), min_size=size, max_size=size)
)


def reached_from(node: int, out_of: list[list[int]]) -> set[int]:
    found: set[int] = set()
    pending = list(out_of[node])
    while pending:
        sink = pending.pop()
        if sink not in found:
            found.add(sink)
            pending.extend(out_of[sink])
    return found


@given(GRAPHS)
def test_nodes_share_a_number_exactly_when_each_reaches_the_other(out_of: list[list[int]]) -> None:
    numbers = loop_numbers(out_of)
    reached = [reached_from(node, out_of) for node in range(len(out_of))]
    for one in range(len(out_of)):
        for other in range(len(out_of)):
            on_a_loop = one == other or (other in reached[one] and one in reached[other])
            assert (numbers[one] == numbers[other]) == on_a_loop


@given(GRAPHS)
def test_sources_come_before_their_sinks_but_for_loops(out_of: list[list[int]]) -> None:
    place = {node: position for position, node in enumerate(flow_order(out_of))}
    numbers = loop_numbers(out_of)
    assert len(place) == len(out_of)
    for node, sinks in enumerate(out_of):
        for sink in sinks:
            assert place[node] < place[sink] or numbers[node] == numbers[sink]


def test_a_long_chain_is_no_trouble() -> None:
    chain = [[node + 1] for node in range(20_000)] + [[0]]
    assert set(loop_numbers(chain)) == {loop_numbers(chain)[0]}
