"""Who yields more than is being written has to wait."""

import asyncio
import threading

from autogpt_server.execution.gate import Allowance, Gate
from support.running import eventually


def test_a_thread_waits_until_there_is_room() -> None:
    gate = Gate(Allowance(events=2, bytes=100))
    passed: list[int] = []

    def produce() -> None:
        for number in range(3):
            gate.wait_in_thread(threading.Event())
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
    stopped = threading.Event()
    stopped.set()
    gate.count(10)
    assert gate.is_open
    gate.count(10)
    assert not gate.is_open
    gate.wait_in_thread(stopped)  # does not wait: the attempt is stopped
    gate.settle(2, 20)
    assert gate.is_open


def test_a_stopped_attempt_is_woken() -> None:
    gate = Gate(Allowance(events=1))
    gate.count(1)
    stopped = threading.Event()
    thread = threading.Thread(target=gate.wait_in_thread, args=[stopped])
    thread.start()
    stopped.set()
    gate.wake()
    thread.join(15)
    assert not thread.is_alive()


async def test_tasks_wait_too_and_may_be_canceled() -> None:
    gate = Gate(Allowance(events=1))
    gate.count(1)
    canceled, waiting = asyncio.create_task(gate.wait_on_loop()), asyncio.create_task(gate.wait_on_loop())
    await asyncio.sleep(0)
    canceled.cancel()
    gate.settle(1, 1)
    await asyncio.wait_for(waiting, 15)
    assert (await asyncio.gather(canceled, return_exceptions=True))[0].__class__ is asyncio.CancelledError
