"""Ids."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from autogpt_server.utils.ids import new_id


def test_ids_are_uuid_version_7_in_canonical_form() -> None:
    made = new_id()
    assert uuid.UUID(made).version == 7
    assert str(uuid.UUID(made)) == made


def test_ids_sort_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)


def batch(size: int) -> list[str]:
    return [new_id() for _ in range(size)]


def test_ids_made_by_threads_differ() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [name for names in pool.map(batch, [2_000] * 4) for name in names]
    assert len(set(made)) == len(made)
