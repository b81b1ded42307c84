"""A kill at each fault point of the whole server, and in each kind of process that comes to it: nothing is lost, doubled or lied about."""

import random
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chaos.points import POINTS, Provocation, points_in_the_code
from chaos.server import ChaosServer, Kind, attacked, kind_of
from chaos.shapes import all_shapes
from chaos.traffic import Traffic, reading
from chaos.verdict import judge, judge_runs
from support.effects import World, outside_world
from support.running import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PATIENCE_S = 60.0
LOOK_S = 0.05
"""Between two looks at the database: whoever looks all the time takes the server's time."""
MOST_DEATHS = 3
"""Of one service in one supervisor's life: then it waits longer and longer before it starts another."""

SAMPLE = ("chain pure", "chain idempotent", "chain unsafe", "signal", "child", "canceled")
"""What is under way when somebody is killed: between them these come to every point that is not provoked otherwise."""


DEATHS_IN_A_ROUND = {Kind.WORKER: 3, Kind.SERVER: 2, Kind.MANAGER: 2, Kind.SCHEDULER: 1, Kind.SUPERVISOR: 1}


def in_rounds() -> list[list[tuple[str, Kind]]]:
    """Every point with each kind of process that comes to it, in rounds: what follows from one death is the same for several at once.

    The supervisor dies in every second round, because its successor begins to count the deaths of the others anew.
    """
    queues: dict[Kind, list[tuple[str, Kind]]] = {kind: [] for kind in Kind}
    for point, (kinds, _) in sorted(POINTS.items()):
        for kind in kinds:
            queues[kind].append((point, kind))
    rounds: list[list[tuple[str, Kind]]] = []
    while any(queues.values()):
        taken: list[tuple[str, Kind]] = []
        for kind, deaths in DEATHS_IN_A_ROUND.items():
            if kind is Kind.SUPERVISOR and len(rounds) % 2 == 0:
                continue
            for _ in range(deaths):
                points = {point for point, _ in taken}
                fitting = next((case for case in queues[kind] if case[0] not in points), None)
                if fitting is not None:
                    queues[kind].remove(fitting)
                    taken.append(fitting)
        rounds.append(taken)
    return rounds


ROUNDS = in_rounds()


def test_every_point_in_the_code_is_known() -> None:
    assert points_in_the_code() == set(POINTS)
    assert sum(len(cases) for cases in ROUNDS) == sum(len(kinds) for kinds, _ in POINTS.values()) >= 40


class Attack:
    """One server, its users, and what has been done to it."""

    def __init__(self, server: ChaosServer, world: World) -> None:
        self.server = server
        self.world = world
        self.traffic = Traffic(server, all_shapes(world.url), random.Random(0))
        self.traffic.prepare()
        self.traffic.schedule()
        self._deaths: Counter[Kind] = Counter()

    def make_ready(self) -> None:
        """Have everything there, with nothing armed; a supervisor that has seen many deaths is replaced."""
        self.server.disarm()
        if any(deaths >= MOST_DEATHS for kind, deaths in self._deaths.items() if kind is not Kind.WORKER):
            self.kill(Kind.SUPERVISOR)
        self.server.wait_until_ready()

    def kill(self, kind: Kind) -> None:
        """Kill a process of the kind as soon as there is one."""

        def is_killed() -> bool:
            self.server.keep_running()
            return self.server.kill(kind)

        eventually(is_killed, PATIENCE_S)
        self.count(kind)

    def count(self, kind: Kind) -> None:
        """A process has died."""
        if kind is Kind.SUPERVISOR:
            self._deaths.clear()
        else:
            self._deaths[kind] += 1

    def provoke(self, provocation: Provocation, kind: Kind) -> None:
        """Bring about what leads to a point."""
        match provocation:
            case Provocation.DEATH_OF_A_WORKER:
                self.kill(Kind.WORKER)
            case Provocation.DEATH_OF_THE_MANAGER:
                self.kill(Kind.MANAGER)
            case Provocation.DEATH_OF_A_SERVICE:
                self.kill(Kind.SCHEDULER)
            case Provocation.START:
                # Each of them is started by its parent, so its own death is enough; that of the supervisor by us.
                self.kill(kind)
            case Provocation.STUBBORN_BLOCK:
                self.traffic.start("never returns")
            case Provocation.POISON:
                self.traffic.start("poison")
            case Provocation.RUNS | Provocation.RERUN:
                pass  # see `live_until_fired`

    def live_until_fired(self, points: list[str]) -> set[str]:
        """Use the server until all points have fired; answers the runs that were started."""
        runs: set[str] = set()
        stop = threading.Event()
        deadline = time.monotonic() + PATIENCE_S
        with ThreadPoolExecutor(len(SAMPLE) + 1) as people:
            while True:
                started = [people.submit(self.traffic.start, name) for name in SAMPLE]
                new = {future.result() for future in started}
                runs |= new
                people.submit(self.traffic.watch, min(new), stop)
                if any(POINTS[point][1] is Provocation.RERUN for point in points):
                    people.submit(self.traffic.rerun_any)
                while left := [point for point in points if self.server.is_armed(point)]:
                    self.server.keep_running()
                    self.traffic.tend(decide=0)
                    if self.has_ended(runs):
                        break
                    time.sleep(LOOK_S)
                    assert time.monotonic() < deadline, f"nobody came to {left}"
                if not left:
                    stop.set()
                    return runs

    def has_ended(self, runs: set[str]) -> bool:
        """Whether these runs, and those they called, are over or wait for a decision."""
        try:
            with reading(self.server.database) as connection:
                unsettled = connection.execute(
                    'SELECT "id" FROM "AgentGraphExecution" AS run WHERE "endedAt" IS NULL AND NOT ("status" = \'WAITING\' AND EXISTS '
                    '(SELECT 1 FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = run."id" AND "status" = \'INTERRUPTED\'))'
                ).fetchall()
                waiting = connection.execute(
                    'SELECT parent."agentGraphExecutionId" FROM "AgentNodeExecution" AS parent JOIN "AgentNodeExecution" AS child '
                    'ON child."agentGraphExecutionId" = parent."childRunId" WHERE parent."status" = \'WAITING\' AND child."status" = \'INTERRUPTED\''
                ).fetchall()
        except Exception:  # noqa: BLE001 - a moment after everything died there is nothing to read
            return False
        return not ({id_ for (id_,) in unsettled} - {id_ for (id_,) in waiting}) & runs


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Attack]:
    folder = tmp_path_factory.mktemp("server")
    with outside_world() as world, attacked(folder, num_graph_workers=2, worker_hung_limit_s=10.0) as server:
        one = Attack(server, world)
        yield one
        # In the end all of it is judged once more, together: schedules, streams, effects that nobody ordered.
        server.disarm()
        server.wait_until_ready()
        one.traffic.pause_schedules()
        eventually(lambda: one.has_ended(set(one.traffic.record.runs)), PATIENCE_S)
        assert server.stop() == 0
        one.traffic.record.watched.clear()  # they were not followed to their end
        assert judge(str(server.database), world.counts, one.traffic.record).violations == []


@pytest.mark.parametrize(
    "cases", ROUNDS, ids=[", ".join(f"{point} {kind.name.lower()}" for point, kind in cases) for cases in ROUNDS]
)
def test_a_kill_at_a_fault_point(attack: Attack, cases: list[tuple[str, Kind]]) -> None:
    attack.make_ready()
    attack.server.note_fired()
    for point, kind in cases:
        attack.server.arm(point, "kill", kind)
    for point, kind in cases:
        attack.provoke(POINTS[point][1], kind)
    runs = attack.live_until_fired([point for point, _ in cases])
    fired = [(point, kind_of(process)) for point, process in attack.server.note_fired()]
    assert sorted(fired) == sorted(cases)
    for _, kind in fired:
        attack.count(kind)

    def has_ended() -> bool:
        attack.server.keep_running()
        attack.traffic.tend(decide=0)
        time.sleep(LOOK_S)
        return attack.has_ended(runs)

    eventually(has_ended, PATIENCE_S)
    assert judge_runs(str(attack.server.database), attack.world.counts, attack.traffic.record, runs) == []
