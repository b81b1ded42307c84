"""Threads for blocks: made when needed, and kept; a chain of short blocks stays in one."""

import threading

from autogpt_server.execution.threads import BlockThreads
from support.running import eventually


def test_each_job_has_a_thread_and_threads_are_used_again() -> None:
    threads = BlockThreads("test")
    go, seen = threading.Event(), list[str]()

    def job() -> None:
        seen.append(threading.current_thread().name)
        go.wait(30)

    for _ in range(3):
        threads.submit(job)
    eventually(lambda: len(seen) == 3)
    assert len(set(seen)) == 3
    go.set()
    again: list[str] = []
    for number in range(1, 20):
        threads.submit(lambda: again.append(threading.current_thread().name))
        eventually(lambda number=number: len(again) == number)
    assert len({*seen, *again}) <= 4  # one may be made while another is about to say that it is idle


def test_what_a_job_starts_at_its_end_goes_on_in_its_thread() -> None:
    threads = BlockThreads("test")
    names: list[str] = []

    def job() -> None:
        names.append(threading.current_thread().name)
        if len(names) < 10:
            threads.end(lambda: threads.submit(job))

    threads.submit(job)
    eventually(lambda: len(names) == 10)
    assert len(set(names)) == 1


def test_of_several_that_it_starts_the_others_go_elsewhere() -> None:
    threads = BlockThreads("test")
    together = threading.Barrier(3)
    passed: list[int] = []

    def meet() -> None:
        together.wait(30)
        passed.append(threading.get_ident())

    def start_three() -> None:
        for _ in range(3):
            threads.submit(meet)

    threads.submit(lambda: threads.end(start_three))
    eventually(lambda: len(passed) == 3)
    assert len(set(passed)) == 3


def test_outside_of_block_threads_an_end_is_nothing_special() -> None:
    threads = BlockThreads("test")
    done: list[int] = []
    threads.end(lambda: threads.submit(lambda: done.append(threading.get_ident())))
    eventually(lambda: bool(done))
    assert done != [threading.get_ident()]
