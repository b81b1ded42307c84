"""Graphs in the database: versions, the active one, what is refused, and what two at once do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.graph import (
    GraphChanged,
    GraphNotFound,
    GraphVersionNotFound,
    StoredGraph,
    add_version,
    archive_graph,
    create_graph,
    get_graph,
    graph_exists,
    graph_state,
    list_graphs,
    list_versions,
    set_active_version,
)
from autogpt_server.data.intake import AcceptedGraph, GraphTooLarge, IntakeRules, accept_graph, check_stored
from autogpt_server.data.migrate import migrate
from autogpt_server.data.models import Graph
from autogpt_server.data.problems import InvalidGraph
from autogpt_server.data.validation import GraphLimits
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings
from data.sample_graph_blocks import BLOCKS, graph


class NodeSettings(pydantic.BaseModel):
    """The settings that nodes of these graphs may have."""

    timeout_s: float = 1


RULES = IntakeRules(
    blocks=BLOCKS, limits=GraphLimits(nodes=50, links=50), max_bytes=100_000, node_settings=NodeSettings
)
TWO = graph({"a": "Source", "b": "Sink"}, "a.text -> b.text")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    settings = Settings(database_url=f"file:{tmp_path / 'test.db'}", sqlite_synchronous="NORMAL")
    migrate(settings.database_path)
    async with await Database.open(settings) as database:
        yield database


def accepted(subject: Graph = TWO, previous: Graph | None = None) -> AcceptedGraph:
    return accept_graph(subject, RULES, new_id=new_id, previous=previous)


async def create(db: Database, subject: Graph = TWO) -> StoredGraph:
    return await create_graph(db, accepted(subject), BLOCKS)


async def test_what_was_stored_comes_back(db: Database) -> None:
    stored = await create(db)
    assert (await get_graph(db, stored.graph.id)).graph == stored.graph
    assert (await get_graph(db, stored.graph.id, 1)) == stored


async def test_everything_json_can_hold_comes_back(db: Database) -> None:
    value: dict[str, Any] = {
        "text": 'é\u0000"\\\n\u2028💩',
        "numbers": [0, -1, 1.5, 1e300, 2**70],
        "none": None,
        "nested": [[{}], [True, False]],
    }
    subject = Graph.model_validate({**graph({"a": ("Source", {"start": value})}).model_dump(), "extra": value})
    stored = await create(db, subject)
    again = (await get_graph(db, stored.graph.id)).graph
    assert again.nodes[0].input_default["start"] == value
    assert again.unknown_fields["extra"] == value


async def test_versions(db: Database) -> None:
    first = await create(db)
    graph_id = first.graph.id
    second = await add_version(db, graph_id, accepted(previous=first.graph), BLOCKS)
    waiting = await add_version(db, graph_id, accepted(TWO.model_copy(update={"is_active": False})), BLOCKS)
    assert [stored.graph.version for stored in (first, second, waiting)] == [1, 2, 3]
    assert (await get_graph(db, graph_id)).graph.version == 2
    assert [(entry.version, entry.is_active) for entry in await list_versions(db, graph_id, limit=10)] == [
        (3, False),
        (2, True),
        (1, False),
    ]
    await set_active_version(db, graph_id, 3)
    assert (await graph_state(db, graph_id)).active == 3
    assert [entry.version for entry in await list_graphs(db, limit=10)] == [3]
    with pytest.raises(GraphVersionNotFound, match="no version 4"):
        await set_active_version(db, graph_id, 4)
    assert (await graph_state(db, graph_id)).active == 3


async def test_of_two_who_read_the_same_state_one_changes_it(db: Database) -> None:
    stored = await create(db)
    etag = stored.state.etag

    async def change() -> int | None:
        try:
            return (await add_version(db, stored.graph.id, accepted(), BLOCKS, if_match={etag})).graph.version
        except GraphChanged:
            return None

    outcomes = await asyncio.gather(*(change() for _ in range(5)))
    assert sorted(outcomes, key=str) == [2, None, None, None, None]


async def test_versions_made_at_once_are_numbered_one_by_one(db: Database) -> None:
    stored = await create(db)
    made = await asyncio.gather(*(add_version(db, stored.graph.id, accepted(), BLOCKS) for _ in range(6)))
    assert sorted(entry.graph.version for entry in made) == [2, 3, 4, 5, 6, 7]
    active = [entry.version for entry in await list_versions(db, stored.graph.id, limit=10) if entry.is_active]
    assert len(active) == 1


async def test_an_archived_graph_is_not_there(db: Database) -> None:
    stored = await create(db)
    graph_id = stored.graph.id
    await archive_graph(db, graph_id)
    assert await graph_exists(db, graph_id)
    assert await list_graphs(db, limit=10) == []
    for attempt in (
        get_graph(db, graph_id),
        get_graph(db, graph_id, 1),
        list_versions(db, graph_id, limit=1),
        add_version(db, graph_id, accepted(), BLOCKS),
        set_active_version(db, graph_id, 1),
        archive_graph(db, graph_id),
    ):
        with pytest.raises(GraphNotFound):
            await attempt


async def test_pages_of_graphs(db: Database) -> None:
    ids = [(await create(db)).graph.id for _ in range(5)]
    first = await list_graphs(db, limit=2)
    rest = await list_graphs(db, limit=10, before=first[-1].id)
    assert [entry.id for entry in first + rest] == ids[::-1]


async def test_blocks_are_remembered_as_they_are_today(db: Database) -> None:
    await create(db)
    await create(db, graph({"a": "Source", "s": ("Static", {"value": 1})}))
    prisma = await db.prisma()
    rows = {row.id: row.name for row in await prisma.agentblock.find_many()}
    assert sorted(rows.values()) == ["Sink", "Source", "Static"]


def test_a_graph_with_errors_is_refused_whole() -> None:
    with pytest.raises(InvalidGraph, match="2 errors") as refused:
        accepted(graph({"a": "nothing"}, "a.text -> z.text"))
    assert [problem.code for problem in refused.value.problems] == ["unknown_block", "unknown_node"]


def test_a_graph_beyond_the_limit_is_refused() -> None:
    with pytest.raises(GraphTooLarge, match="MAX_GRAPH_BYTES"):
        accepted(graph({"a": ("Source", {"start": "x" * 100_000})}))


def test_identical_links_become_one_that_is_static_if_any_is() -> None:
    link = "a.text -> b.text"
    subject = graph({"a": "Source", "b": "Sink"}, link, link)
    subject.links[1].is_static = True
    [kept] = accepted(subject).graph.links
    assert kept.is_static is True


def test_a_stored_graph_whose_block_is_gone_says_so() -> None:
    stored = accepted().graph
    without = {block_id: block for block_id, block in BLOCKS.items() if block.name != "Sink"}
    rules = IntakeRules(
        blocks=without, limits=RULES.limits, max_bytes=RULES.max_bytes, node_settings=RULES.node_settings
    )
    assert [(problem.code, problem.node_id) for problem in check_stored(stored, rules)] == [
        ("unknown_block", stored.nodes[1].id)
    ]
