"""In which order the nodes of a graph come, and which lie on a loop with each other. Pure, and without recursion: a chain may be long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def flow_order(out_of: Sequence[Sequence[int]], roots: Iterable[int] | None = None) -> list[int]:
    """What is reached from `roots` (else everything) such that, loops aside, each comes after those that lead to it."""
    seen: set[int] = set()
    finished: list[int] = []
    for root in range(len(out_of)) if roots is None else roots:
        stack = [(root, iter(out_of[root]))] if root not in seen else []
        seen.add(root)
        while stack:
            node, sinks = stack[-1]
            sink = next((sink for sink in sinks if sink not in seen), None)
            if sink is None:
                finished.append(node)
                stack.pop()
            else:
                seen.add(sink)
                stack.append((sink, iter(out_of[sink])))
    return finished[::-1]


def loop_numbers(out_of: Sequence[Sequence[int]]) -> list[int]:
    """For each node (`out_of` are those it leads to) a number that it shares with exactly those nodes that it reaches and that reach it.

    These are the strongly connected components, found by two searches (M. Sharir, "A strong-connectivity algorithm", 1981).
    """
    into: list[list[int]] = [[] for _ in out_of]
    for node, sinks in enumerate(out_of):
        for sink in sinks:
            into[sink].append(node)
    numbers = [-1] * len(out_of)
    for root in flow_order(out_of):
        pending = [root] if numbers[root] < 0 else []
        while pending:
            node = pending.pop()
            if numbers[node] < 0:
                numbers[node] = root
                pending.extend(into[node])
    return numbers
