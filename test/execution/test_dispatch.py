"""Which run goes to which worker."""

from autogpt_server.execution.dispatch import Bench, Dispatcher


def test_by_priority_then_by_age_to_the_worker_that_holds_the_fewest() -> None:
    dispatcher = Dispatcher()
    for run_id, priority in [("run-2", 0), ("run-1", 0), ("run-3", 5), ("run-4", -1)]:
        dispatcher.offer(run_id, priority)
    one, two = Bench("one", 1), Bench("two", 2)
    dispatcher.assign([one, two])
    assert (one.given, two.given) == (["run-3"], ["run-1", "run-2"])
    assert dispatcher.waiting == 1
    later = Bench("one", 5)
    dispatcher.assign([later])
    assert later.given == ["run-4"]


def test_a_run_is_in_one_place() -> None:
    dispatcher = Dispatcher()
    dispatcher.offer("run", 0)
    dispatcher.offer("run", 7)
    bench = Bench("one", 10)
    dispatcher.assign([bench])
    dispatcher.offer("run", 0)
    dispatcher.assign([bench])
    assert bench.given == ["run"]
    assert dispatcher.holder("run") == "one"


def test_what_a_worker_is_done_with_may_be_offered_again() -> None:
    dispatcher = Dispatcher()
    dispatcher.offer("run", 0)
    dispatcher.assign([Bench("one", 1)])
    dispatcher.done("two", ["run"])  # not its business
    assert dispatcher.holder("run") == "one"
    dispatcher.done("one", ["run", "never seen"])
    assert dispatcher.holder("run") is None
    dispatcher.offer("run", 0)
    assert dispatcher.waiting == 1


def test_what_did_not_arrive_waits_again_with_its_priority() -> None:
    dispatcher = Dispatcher()
    dispatcher.offer("urgent", 9)
    dispatcher.assign([Bench("one", 1)])
    dispatcher.offer("other", 0)
    dispatcher.take_back("one", ["urgent"])
    dispatcher.take_back("one", ["urgent"])
    dispatcher.take_back("two", ["urgent"])
    bench = Bench("two", 2)
    dispatcher.assign([bench])
    assert bench.given == ["urgent", "other"]


def test_the_runs_of_a_dead_worker_are_free() -> None:
    dispatcher = Dispatcher()
    for run_id in ("a", "b", "c"):
        dispatcher.offer(run_id, 0)
    dispatcher.assign([Bench("one", 2)])
    assert dispatcher.worker_died("one") == ["a", "b"]
    assert dispatcher.worker_died("one") == []
    assert dispatcher.holder("a") is None
    dispatcher.done("one", ["a"])  # a late word of the dead


def test_a_withdrawn_run_is_given_to_nobody() -> None:
    dispatcher = Dispatcher()
    dispatcher.offer("a", 0)
    dispatcher.withdraw("a")
    bench = Bench("one", 1)
    dispatcher.assign([bench])
    assert bench.given == []


def test_a_priority_that_was_withdrawn_counts_no_more() -> None:
    dispatcher = Dispatcher()
    dispatcher.offer("a", 9)
    dispatcher.withdraw("a")
    dispatcher.offer("a", 0)
    dispatcher.offer("b", 5)
    bench = Bench("one", 5)
    dispatcher.assign([bench])
    assert bench.given == ["b", "a"]
    assert dispatcher.waiting == 0
