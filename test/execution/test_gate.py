"""Who yields more than is being written has to wait."""

import asyncio
import threading
from dataclasses import dataclass

from autogpt_server.execution.gate import Allowance, Gate
from support.running import eventually


@dataclass
class Yielding:
    """An attempt, as the gate knows it."""

    node_index: int = 0
    is_stopped: bool = False


def no_pause(is_paused: bool) -> None:
    raise AssertionError("nobody is paused")


def test_a_thread_waits_until_there_is_room() -> None:
    gate = Gate(Allowance(events=2, bytes=100))
    passed: list[int] = []

    def produce() -> None:
        for number in range(3):
            gate.wait_in_thread(Yielding(), no_pause)
            gate.count(10)
            passed.append(number)

    thread = threading.Thread(target=produce)
    thread.start()
    eventually(lambda: len(passed) == 2)
    gate.settle(1, 10)
    thread.join(15)
    assert passed == [0, 1, 2]


def test_bytes_count_too() -> None:
    gate = Gate(Allowance(events=100, bytes=15))
    gate.count(10)
    assert gate.is_open
    gate.count(10)
    assert not gate.is_open
    gate.wait_in_thread(Yielding(is_stopped=True), no_pause)  # does not wait: the attempt is stopped
    gate.settle(2, 20)
    assert gate.is_open


def test_a_stopped_attempt_is_woken() -> None:
    gate = Gate(Allowance(events=1))
    gate.count(1)
    attempt = Yielding()
    thread = threading.Thread(target=gate.wait_in_thread, args=[attempt, no_pause])
    thread.start()
    attempt.is_stopped = True
    gate.wake()
    thread.join(15)
    assert not thread.is_alive()


async def test_tasks_wait_too_and_may_be_canceled() -> None:
    gate = Gate(Allowance(events=1))
    gate.count(1)
    canceled, waiting = (
        asyncio.create_task(gate.wait_on_loop(Yielding(), no_pause)),
        asyncio.create_task(gate.wait_on_loop(Yielding(), no_pause)),
    )
    await asyncio.sleep(0)
    canceled.cancel()
    gate.settle(1, 1)
    await asyncio.wait_for(waiting, 15)
    assert (await asyncio.gather(canceled, return_exceptions=True))[0].__class__ is asyncio.CancelledError


def test_who_sends_values_to_others_with_too_much_to_do_is_paused() -> None:
    gate = Gate()
    pauses: list[bool] = []
    gate.pause(frozenset({3}))
    gate.wait_in_thread(Yielding(node_index=4), no_pause)
    thread = threading.Thread(target=gate.wait_in_thread, args=[Yielding(node_index=3), pauses.append])
    thread.start()
    eventually(lambda: pauses == [True])
    gate.pause(frozenset())
    thread.join(15)
    assert pauses == [True, False]


async def test_on_the_loop_too() -> None:
    gate = Gate()
    pauses: list[bool] = []
    gate.pause(frozenset({3}))
    waiting = asyncio.create_task(gate.wait_on_loop(Yielding(node_index=3), pauses.append))
    await asyncio.sleep(0)
    assert pauses == [True]
    gate.pause(frozenset())
    await asyncio.wait_for(waiting, 15)
    assert pauses == [True, False]
