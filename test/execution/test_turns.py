"""Threads plan in turns: one at a time, and nothing that anybody brings is left behind."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from autogpt_server.execution.turns import Alone, Turns


class Plan:
    """Notes what was brought, and that nobody else is planning at the same moment."""

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.applied: list[int] = []
        self.overlaps = 0
        self.turns = Turns(self._work_off, self._finish)
        self._inside = 0

    def bring(self, number: int) -> None:
        self.waiting.append(number)
        self.turns.notify()

    def _work_off(self) -> None:
        self._inside += 1
        self.overlaps += self._inside > 1
        while self.waiting:
            self.applied.append(self.waiting.popleft())
        self._inside -= 1

    def _finish(self) -> None:
        self._inside += 1
        self.overlaps += self._inside > 1
        self._inside -= 1


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - threads know nothing of the loop's events
            await asyncio.sleep(0.001)


async def test_what_many_threads_bring_is_applied_once_each_and_by_one_at_a_time() -> None:
    plan = Plan()
    plan.turns.attach(asyncio.get_running_loop())

    def bring_all(first: int) -> None:
        for number in range(first * 500, first * 500 + 500):
            plan.bring(number)

    threads = [threading.Thread(target=bring_all, args=[first]) for first in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with plan.turns.mine():
            plan.applied.append(-1)
        await asyncio.sleep(0)
    await until(lambda: len([number for number in plan.applied if number >= 0]) == 4000)
    brought = [number for number in plan.applied if number >= 0]
    assert sorted(brought) == list(range(4000))
    for first in range(8):  # each thread's in their order
        mine = [number for number in brought if number // 500 == first]
        assert mine == sorted(mine)
    assert plan.overlaps == 0


async def test_what_is_brought_while_the_loop_plans_is_applied_when_it_is_done() -> None:
    plan = Plan()
    plan.turns.attach(asyncio.get_running_loop())
    with plan.turns.mine():
        thread = threading.Thread(target=plan.bring, args=[1])
        thread.start()
        thread.join(10)  # it does not wait for its turn
        assert not thread.is_alive()
        assert plan.applied == []
    assert plan.applied == [1]


async def test_an_alarm_goes_off_in_turn_unless_it_is_canceled() -> None:
    plan = Plan()
    plan.turns.attach(asyncio.get_running_loop())
    heard: list[str] = []
    plan.turns.call_later(0.01, lambda: heard.append("canceled")).cancel()
    thread = threading.Thread(target=lambda: plan.turns.call_later(0.01, lambda: heard.append("from a thread")))
    thread.start()
    thread.join(10)
    await until(lambda: bool(heard))
    assert heard == ["from a thread"]


async def test_soon_is_at_once_on_the_loop_and_soon_from_elsewhere() -> None:
    plan = Plan()
    plan.turns.attach(asyncio.get_running_loop())
    where: list[int] = []
    plan.turns.soon(lambda: where.append(threading.get_ident()))
    assert where == [threading.get_ident()]
    thread = threading.Thread(target=lambda: plan.turns.soon(lambda: where.append(threading.get_ident())))
    thread.start()
    thread.join(10)
    await until(lambda: len(where) == 2)
    assert where == [threading.get_ident()] * 2


def test_who_is_alone_needs_no_turns() -> None:
    done: list[int] = []
    with Alone().mine():
        Alone().soon(done.append, 1)
    assert done == [1]
