"""Plans: cached by shape, bounded, compiled once and aside, kept on disk, and dropped where the compiler breaks."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.engine import get_engine
from autogpt_server.data.engine.compiler import QueryCompiler
from autogpt_server.data.engine.errors import CompilerError, QueryError, UnsupportedPlanError
from autogpt_server.data.engine.interpreter import prepare_plan
from autogpt_server.data.engine.lru import LruCache
from autogpt_server.data.engine.plans import PlanCache
from autogpt_server.data.engine.schema import DataModel, read_datamodel
from autogpt_server.data.engine.stored import StoredPlans
from data.engine.conftest import Conformance


@pytest.fixture(scope="session")
def datamodel(conformance: Conformance) -> DataModel:
    return read_datamodel(conformance.folder / "schema.prisma")


def count(model: str) -> str:
    """The text of a request that counts the records of ``model``."""
    selection = {"_count": {"arguments": {}, "selection": {"_all": True}}}
    return json.dumps({"modelName": model, "action": "aggregate", "query": {"arguments": {}, "selection": selection}})


def test_lru_cache() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


async def test_plans_are_bounded(datamodel: DataModel) -> None:
    plans = PlanCache(lambda: QueryCompiler(datamodel), max_plans=3)
    for model in ("Tag", "Post", "User", "Group", "Page"):
        await plans.get(count(model))
    assert (len(plans), plans.compiled) == (3, 5)
    await plans.get(count("Page"))
    assert plans.compiled == 5
    await plans.get(count("Tag"))
    assert plans.compiled == 6
    await plans.close()


async def test_one_shape_one_plan(db: Any) -> None:
    """Values, and how many there are in a list, are no part of the shape."""
    for index in range(5):
        await db.user.find_many(where={"age": index, "email": {"in": ["x"] * (index + 1)}, "name": f"{index}"}, take=3)
        await db.user.update_many(
            where={"id": f"{index}"}, data={"score": {"increment": index}, "role": ("USER", "ADMIN")[index % 2]}
        )
        await db.scalars.count(where={"bool": bool(index % 2), "big": index * 10**15})
    assert len(get_engine(db).plans) == 3


async def test_many_wait_for_one_compilation(datamodel: DataModel) -> None:
    plans = PlanCache(lambda: QueryCompiler(datamodel))
    found = await asyncio.gather(*[plans.get(count("Tag")) for _ in range(10)])
    assert plans.compiled == 1
    assert all(plan is found[0] for plan in found)
    await plans.close()


async def test_one_who_waits_may_be_cancelled(datamodel: DataModel) -> None:
    plans = PlanCache(lambda: QueryCompiler(datamodel))
    waiting = [asyncio.create_task(plans.get(count("Tag"))) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is results[2]
    assert plans.compiled == 1
    await plans.close()


async def test_refused_requests_are_not_cached(datamodel: DataModel) -> None:
    plans = PlanCache(lambda: QueryCompiler(datamodel))
    for _ in range(2):
        with pytest.raises(QueryError) as caught:
            await plans.get(count("Nothing"))
        assert caught.value.code.startswith("P")
    assert len(plans) == 0
    await plans.close()


async def test_a_compiler_that_panicked_is_replaced(datamodel: DataModel) -> None:
    made: list[QueryCompiler] = []

    def new_compiler() -> QueryCompiler:
        made.append(QueryCompiler(datamodel))
        return made[-1]

    plans = PlanCache(new_compiler)
    assert await plans.get(count("Post"))
    with pytest.raises(CompilerError, match="Unknown query tag: explode"):
        await plans.get('{"action": "explode"}')
    assert await plans.get(count("Tag"))
    assert len(made) == 2
    await plans.close()


async def test_the_loop_runs_while_plans_are_compiled(datamodel: DataModel) -> None:
    """Compiling happens in a thread of its own, which gives Python's lock back all the time."""
    threads: set[int] = set()

    class Watched(QueryCompiler):
        def compile(self, query: str) -> dict[str, Any]:
            threads.add(threading.get_ident())
            return super().compile(query)

    data = {
        "id": "x",
        "posts": {"create": [{"title": "t", "comments": {"create": [{"text": "c"}]}}] * 30},
        "email": "x",
    }
    query = {"arguments": {"data": data}, "selection": {"id": True}}
    plans = PlanCache(lambda: Watched(datamodel))
    await plans.get(count("Tag"))
    compiling = asyncio.create_task(plans.get(json.dumps({"modelName": "User", "action": "createOne", "query": query})))
    ticks = 0
    while not compiling.done():
        await asyncio.sleep(0)
        ticks += 1
    assert (await compiling).statements > 30
    assert ticks > 100
    assert threads
    assert threading.get_ident() not in threads
    await plans.close()


def test_the_compiler_names_what_is_wrong(datamodel: DataModel) -> None:
    compiler = QueryCompiler(datamodel)
    for text in ("", "{}", "no json", count("Nothing")):
        with pytest.raises(QueryError):
            compiler.compile(text)
    assert compiler.compile(count("Tag"))["type"]
    with pytest.raises(CompilerError, match="nothing known"):
        QueryCompiler(DataModel("nothing known", {}, {}, datamodel.compiler_text))


@pytest.mark.parametrize(
    "plan",
    [
        {"type": "teleport", "args": {}},
        {"type": "value", "args": {"prisma__type": "oracle"}},
        {"type": "value", "args": {"prisma__type": "generatorCall", "prisma__value": {"name": "dice", "args": []}}},
        {"type": "query", "args": {"type": "poem", "args": [], "argTypes": []}},
        {"type": "query", "args": {"type": "templateSql", "fragments": [{"type": "rune"}], "args": [], "argTypes": []}},
        {"type": "seq", "args": [{"type": "unit"}, {"type": "teleport"}]},
    ],
)
def test_what_the_engine_does_not_know_is_refused_before_anything_runs(plan: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPlanError):
        prepare_plan(plan)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_stored_plans(tmp_path: Path) -> None:
    stored = StoredPlans(tmp_path / "new" / "folder")
    assert stored.load("a") is None
    stored.save("a", {"type": "unit", "text": "\u2028"})
    stored.save("b", {"type": "get"})
    assert StoredPlans(tmp_path / "new" / "folder").load("a") == {"type": "unit", "text": "\u2028"}
    assert stored.load("b") == {"type": "get"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"request": "other", "plan": {"type": "unit"}}', b"\xff"]
)
def test_damaged_files_count_as_missing(tmp_path: Path, content: bytes) -> None:
    stored = StoredPlans(tmp_path)
    stored.save("a", {"type": "unit"})
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert stored.load("a") is None
    stored.save("a", {"type": "unit"})
    assert stored.load("a") == {"type": "unit"}


def test_stored_plans_are_bounded(tmp_path: Path) -> None:
    StoredPlans(tmp_path, max_plans=5).save("first", {})
    stored = StoredPlans(tmp_path, max_plans=5)
    for index in range(10):
        stored.save(str(index), {})
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stored = StoredPlans(tmp_path / "file" / "plans")
    stored.save("a", {})
    assert stored.load("a") is None


async def test_stored_plans_spare_the_compiler(datamodel: DataModel, tmp_path: Path) -> None:
    def no_compiler() -> QueryCompiler:
        pytest.fail("the plan is stored")

    first = PlanCache(lambda: QueryCompiler(datamodel), StoredPlans(tmp_path))
    await first.get(count("Tag"))
    second = PlanCache(no_compiler, StoredPlans(tmp_path))
    assert (await second.get(count("Tag"))).statements == 1
    await first.close()
    await second.close()


async def test_values_are_not_stored(db: Any, conformance: Conformance) -> None:
    secret = "a value that nobody else shall read"
    await db.user.create(data={"email": secret, "name": secret, "posts": {"create": [{"title": secret}]}})
    await db.user.find_many(where={"OR": [{"email": secret}, {"name": {"in": [secret]}}]})
    files = [file for file in conformance.plans.rglob("*") if file.is_file()]
    assert files
    assert not any(secret.encode() in file.read_bytes() for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in files)
