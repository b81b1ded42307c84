"""What the other processes of the multi-process tests do: ``python -m data.engine.workers COMMAND DATABASE [ARGUMENT...]``."""

import asyncio
import importlib
import random
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from autogpt_server.data.engine import ConnectionOptions, bind, get_engine

PATIENCE = timedelta(seconds=60)


def say(what: object) -> None:
    """Tell the test."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def mixed(client: Any, seconds: str, name: str) -> None:
    """Read and write in every way for some time; prints how often it incremented the counter."""
    rng = random.Random(name)
    counter = {"id": "counter"}
    done = 0
    deadline = time.monotonic() + float(seconds)

    async def in_transaction() -> None:
        async with client.tx(max_wait=PATIENCE, timeout=PATIENCE) as tx:
            user = await tx.user.find_unique_or_raise(where=counter)
            await tx.user.update(where=counter, data={"age": user.age + 1})

    async def in_one_statement() -> None:
        assert await client.user.update(where=counter, data={"age": {"increment": 1}}) is not None

    async def in_plain_sql() -> None:
        def increment(connection: Any) -> None:
            (age,) = connection.execute("SELECT age FROM User WHERE id = 'counter'").fetchone()
            connection.execute("UPDATE User SET age = ? WHERE id = 'counter'", (age + 1,))

        await get_engine(client).write(increment)

    async def in_raw_sql() -> None:
        assert await client.execute_raw("UPDATE User SET age = age + 1 WHERE id = ?", "counter") == 1

    async def with_posts() -> None:
        posts = [{"title": f"{name} {index}"} for index in range(3)]
        data = {"age": {"increment": 1}, "posts": {"create": posts}}
        assert await client.user.update(where=counter, data=data) is not None

    writes = (in_transaction, in_one_statement, in_plain_sql, in_raw_sql, with_posts)
    while time.monotonic() < deadline:
        chosen = [rng.choice(writes)() for _ in range(rng.randint(1, 4))]
        done += len(chosen)
        reading = client.user.find_unique_or_raise(where=counter, include={"posts": {"take": 5}})
        user: Any = (await asyncio.gather(reading, *chosen))[0]
        assert user.age >= done - len(chosen)
        assert await client.post.count() % 3 == 0, "posts come three at a time"
    say(done)


async def write_pairs(client: Any) -> None:
    """Until killed: two rows in each transaction, in four different ways. Prints each number once it is committed."""
    number = 0
    while True:
        number += 1
        pair = [{"name": f"{number} a"}, {"name": f"{number} b"}]
        match number % 4:
            case 0:
                async with client.tx(max_wait=PATIENCE, timeout=PATIENCE) as tx:
                    for data in pair:
                        await tx.tag.create(data=data)
            case 1:
                await client.tag.create_many(data=pair)
            case 2:
                async with client.batch_() as batch:
                    for data in pair:
                        batch.tag.create(data=data)
            case _:
                rows = [(data["name"],) for data in pair]
                await get_engine(client).write(
                    lambda c, rows=rows: c.executemany("INSERT INTO Tag VALUES (?)", rows) and None
                )
        say(number)


async def hold(client: Any) -> None:
    """Until killed: hold a transaction in which something was written."""
    async with client.tx(max_wait=PATIENCE, timeout=timedelta(hours=1)) as tx:
        await tx.tag.create(data={"name": "held"})
        say("holding")
        await asyncio.Event().wait()


async def main(command: str, plans: str, database: str, *arguments: str) -> None:
    """Run one of the functions above with a connected client."""
    package: Any = importlib.import_module("conformance_client")
    turns = Path(database).with_suffix(".turn")
    options = ConnectionOptions(Path(database), synchronous="NORMAL", busy_timeout_s=60, turn_path=turns)
    client: Any = bind(package.Prisma, options, plans_dir=Path(plans))
    await client.connect()
    await globals()[command](client, *arguments)
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
