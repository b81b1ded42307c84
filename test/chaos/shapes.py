"""The graphs whose runs are disturbed, and what a run of each must come to if nobody interferes.

Every block is a script (`support.runtime_blocks`), so what an execution has to yield, and how often it may touch the outside world, follows from its
steps alone: that is the oracle (`verdict`), and it knows nothing of the planner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.misbehavior import MisbehavingBlock
from support.runtime_blocks import AsyncScriptBlock, JoinBlock, ScriptBlock

EFFECTS = ("pure", "idempotent", "unsafe")
ACT: list[Any] = ["act", "{key}.{attempt}"]
"""Touch the outside world, which counts by node execution and attempt."""
PURE = "pure-"
"""The beginning of keys of pure blocks: these run ahead of the record, so the world may know executions that the database never came to know."""
SIGNAL = "go"
PLACES: dict[str, list[list[Any]]] = {
    "before": [ACT, ["sleep", 0.02], ["yield", 1], ["yield", 2]],
    "between": [["yield", 1], ACT, ["sleep", 0.02], ["yield", 2]],
    "after": [["yield", 1], ["yield", 2], ACT, ["sleep", 0.02]],
}
"""Where a block acts, seen from its outputs."""


@dataclass(frozen=True)
class Shape:
    """A graph, and how its runs end."""

    name: str
    nodes: dict[str, dict[str, Any]]
    links: tuple[tuple[str, str], ...] = ()
    """`("a.out", "b.item")`."""
    end: str = "COMPLETED"
    """The status that a run comes to which nobody cancels and in which nothing is interrupted."""
    weight: int = 4
    """How often it is started, compared with the others."""
    cancel: bool = False
    """Runs of it are canceled."""
    calls: str | None = None
    """The shape whose graph `CHILD` stands for."""

    def graph(self, ids: dict[str, str]) -> dict[str, Any]:
        """The graph as it is posted; `ids` are the graphs that are stored already."""
        return {
            "name": self.name,
            "nodes": [
                {**node, "id": name, "input_default": _filled(node["input_default"], ids.get(self.calls or "", ""))}
                for name, node in self.nodes.items()
            ],
            "links": [
                {"source_id": source, "source_name": output, "sink_id": sink, "sink_name": pin}
                for (source, _, output), (sink, _, pin) in (
                    (one.partition("."), other.partition(".")) for one, other in self.links
                )
            ],
        }


CHILD = "{child}"


def _filled(default: dict[str, Any], child: str) -> dict[str, Any]:
    steps = [[child if part == CHILD else part for part in step] for step in default.get("steps", [])]
    return {**default, "steps": steps} if steps else default


def script(
    url: str, *steps: list[Any], effects: str = "pure", on_loop: bool = False, **metadata: Any
) -> dict[str, Any]:
    """A node that performs these steps."""
    if effects == "pure":
        steps = tuple(["act", PURE + ACT[1]] if step is ACT else step for step in steps)
    return {
        "block_id": AsyncScriptBlock.id if on_loop else ScriptBlock.id,
        "input_default": {"steps": list(steps), "effects": effects, "url": url},
        "metadata": metadata,
    }


def all_shapes(url: str) -> list[Shape]:
    """The shapes, those that others call first; `url` is where the outside world is."""
    return [*_basic(url), *_placed(url), *_patient(url), *_failing(url), *_bad()]


def _basic(url: str) -> list[Shape]:
    taker = script(url, ["yield"], on_loop=True)
    chains = [
        Shape(
            f"chain {effects}",
            {
                "source": script(url, *(["yield", number] for number in range(3))),
                "actor": script(url, ACT, ["yield"], ["yield", "done"], effects=effects),
                "taker": taker,
            },
            (("source.out", "actor.item"), ("actor.out", "taker.item")),
            weight=8,
        )
        for effects in EFFECTS
    ]
    fan = Shape(
        "fan out and in",
        {
            "source": script(url, *(["yield", number] for number in range(4))),
            "left": script(url, ACT, ["yield"], effects="idempotent"),
            "right": script(url, ["sleep", 0.01], ["yield"]),
            "join": {"block_id": JoinBlock.id, "input_default": {}},
            "taker": taker,
        },
        (
            ("source.out", "left.item"),
            ("source.out", "right.item"),
            ("left.out", "join.left"),
            ("right.out", "join.right"),
            ("join.out", "taker.item"),
        ),
    )
    many = Shape(
        "many items",
        {
            "source": script(url, *(["yield", number] for number in range(60))),
            "middle": script(url, ["yield"]),
            "actor": script(url, ACT, ["yield"], effects="unsafe", on_loop=True),
        },
        (("source.out", "middle.item"), ("middle.out", "actor.item")),
        weight=2,
    )
    return [*chains, fan, many]


def _placed(url: str) -> list[Shape]:
    return [
        Shape(
            f"{effects} {place} {'loop' if on_loop else 'thread'}",
            {"actor": script(url, *steps, effects=effects, on_loop=on_loop), "taker": script(url, ["yield"])},
            (("actor.out", "taker.item"),),
        )
        for effects in EFFECTS
        for place, steps in PLACES.items()
        for on_loop in (False, True)
    ]


def _patient(url: str) -> list[Shape]:
    """Runs that wait: for a time, a signal, a child, another try."""
    after = script(url, ACT, ["yield"], effects="unsafe")
    return [
        Shape(
            "timer",
            {"a": script(url, ["yield", 1], ["wait", {"s": 0.4}], ["yield", 2], ACT, effects="unsafe")},
            weight=6,
        ),
        Shape(
            "signal",
            {"a": script(url, ["yield", 1], ["wait", {"signal": SIGNAL}], ["yield", 2]), "after": after},
            (("a.out", "after.item"),),
            weight=8,
        ),
        Shape(
            "child",
            {"a": script(url, ["call", CHILD, {}], ["yield", "home"], effects="unsafe"), "after": after},
            (("a.out", "after.item"),),
            calls="chain unsafe",
            weight=8,
        ),
        Shape("grandchild", {"a": script(url, ["call", CHILD, {}], ["yield", "home"])}, calls="child"),
        Shape(
            "child that waits",
            {"a": script(url, ["call", CHILD, {}], ["yield", "home"])},
            calls="signal",
        ),
        Shape(
            "retry",
            {
                "a": script(
                    url,
                    ACT,
                    ["fail until", 3],
                    ["yield", "ok"],
                    effects="idempotent",
                    retry={"max_attempts": 3, "delay_s": 0.1},
                ),
                "after": after,
            },
            (("a.out", "after.item"),),
            weight=6,
        ),
        Shape(
            "canceled",
            {
                "slow": script(url, ["yield", 1], ACT, ["sleep", 30], effects="unsafe", on_loop=True),
                "waits": script(url, ["wait", {"signal": "never"}]),
                "after": after,
            },
            (("slow.out", "after.item"),),
            end="CANCELED",
            cancel=True,
        ),
        Shape(
            "canceled with child",
            {"a": script(url, ["call", CHILD, {}])},
            end="CANCELED",
            cancel=True,
            calls="canceled",
        ),
    ]


def _failing(url: str) -> list[Shape]:
    return [
        Shape("fails", {"a": script(url, ["yield", 1], ["fail", "no fuel"])}, end="FAILED", weight=2),
        Shape(
            "handled failure",
            {"a": script(url, ACT, ["fail", "no fuel"], effects="unsafe"), "taker": script(url, ["yield"])},
            (("a.error", "taker.item"),),
            weight=2,
        ),
        Shape(
            "takes too long",
            {"a": script(url, ["yield", 1], ["sleep", 20], on_loop=True, timeout_s=0.3)},
            end="FAILED",
            weight=2,
        ),
        Shape(
            "unsafe takes too long",
            {"a": script(url, ACT, ["sleep", 20], effects="unsafe", on_loop=True, timeout_s=0.3)},
            end="WAITING",
            weight=2,
        ),
    ]


DEADLY = frozenset({"poison", "eats all memory", "hoards memory", "hoards files"})
"""Runs that may end because their workers have died."""


def _bad() -> list[Shape]:
    """Runs that cost their workers; started seldom, and one after the other."""

    def misbehaving(how: str, **metadata: Any) -> dict[str, Any]:
        return {"block_id": MisbehavingBlock.id, "input_default": {"how": how}, "metadata": metadata}

    return [
        Shape("poison", {"a": misbehaving("kill the process")}, end="FAILED", weight=0),
        Shape("eats all memory", {"a": misbehaving("take all memory")}, end="FAILED", weight=0),
        Shape("hoards memory", {"a": misbehaving("hoard memory")}, end="FAILED", weight=0),
        Shape("hoards files", {"a": misbehaving("hoard files")}, end="FAILED", weight=0),
        Shape("never returns", {"a": misbehaving("never return", timeout_s=0.3)}, end="FAILED", weight=0),
    ]
