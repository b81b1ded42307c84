"""What goes wrong, one thing after the other, each chosen by chance: kills at any moment and at fault points, standstills, commits that fail, a full disk."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chaos.points import POINTS, Provocation
from chaos.server import ChaosServer, Kind, kind_of
from chaos.traffic import Traffic

_MOST_DEATHS = 4
"""A supervisor gives up after six deaths of a service in a row, and waits long before the fifth: so often one is killed in one supervisor's life."""
_ARMED_AT_MOST = 5
_PAUSE_S = 0.4
"""The longest pause between two disturbances."""
_MOSTLY = 0.5
_START_S = 20.0


_LIKELY = dict.fromkeys(Provocation, 1) | {Provocation.RUNS: 5}
"""How often points are chosen: what follows from the death of the manager or the supervisor costs seconds each time."""


class FullDisk:
    """A file system that can be filled up: a small one made for it, or, where that is not allowed, a limit on the size of files."""

    def __init__(self, server: ChaosServer, mounted: Path | None) -> None:
        self._server = server
        self._ballast = mounted / "ballast" if mounted is not None else None

    def fill(self) -> None:
        """Leave no room."""
        if self._ballast is None:
            self._server.limit_files(4096)
            return
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(65536))

    def empty(self) -> None:
        """Make room again."""
        if self._ballast is None:
            self._server.limit_files(None)
        else:
            self._ballast.unlink(missing_ok=True)


class Disturbances:
    """Disturbs one server until it has had enough."""

    def __init__(self, server: ChaosServer, traffic: Traffic, disk: FullDisk, chance: random.Random) -> None:
        self.others: Counter[str] = Counter()
        """What else was done than killing."""
        self._server = server
        self._traffic = traffic
        self._disk = disk
        self._chance = chance
        self._deaths: Counter[Kind] = Counter()
        self._to_fail: set[str] = set()
        """Points that are armed to fail, not to kill."""
        self._later: list[tuple[float, Callable[[], None]]] = []

    @property
    def kills(self) -> int:
        """How many kills there were."""
        return sum(self._server.kills.values())

    def go_on_until(self, kills: int, failed: threading.Event, say: Callable[[str], None]) -> None:
        """Disturb until there were so many kills."""
        actions: list[tuple[Callable[[], None], int]] = [
            (self._kill_at_a_point, 60),
            (self._kill_anywhere, 40),
            (self._kill_two, 8),
            (self._pull_the_plug, 1),
            (self._stand_still, 3),
            (self._stand_still_through_a_takeover, 2),
            (self._fail_a_commit, 6),
            (self._lose_a_message, 3),
            (self._fill_the_disk, 2),
            (self._start_something_bad, 3),
        ]
        told = 0
        while self.kills < kills and not failed.is_set():
            (action,) = self._chance.choices([one for one, _ in actions], [weight for _, weight in actions])
            action()
            self._server.keep_running()
            self._note_fired()
            self._perform_later_ones()
            if self._chance.random() < _MOSTLY:
                self._let_it_start()  # else most kills would meet a server that is only just starting
            if self.kills >= told + 50:
                told = self.kills // 50 * 50
                say(f"{told} kills, {len(self._traffic.record.runs)} runs accepted")
            time.sleep(self._chance.random() * _PAUSE_S)  # not to wait for anything: the moment is meant to be any

    def _let_it_start(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._server.is_ready() and time.monotonic() < deadline:
            self._perform_later_ones()
            time.sleep(0.02)

    def end(self) -> None:
        """Let everything be well again."""
        self._server.disarm()
        self._perform_later_ones(at=float("inf"))
        self._server.resume_all()
        self._disk.empty()
        self._note_fired()

    def _after(self, delay_s: float, perform: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + delay_s, perform))

    def _perform_later_ones(self, at: float | None = None) -> None:
        now = time.monotonic() if at is None else at
        due = [perform for when, perform in self._later if when <= now]
        self._later = [(when, perform) for when, perform in self._later if when > now]
        for perform in due:
            perform()

    # --- kills ---------------------------------------------------------------------------------------------------

    def _pick(self) -> Kind:
        kinds = [Kind.WORKER, Kind.SERVER, Kind.MANAGER, Kind.SCHEDULER, Kind.SUPERVISOR, Kind.SOLO]
        (kind,) = self._chance.choices(kinds, [74, 8, 5, 8, 2, 3])
        return Kind.WORKER if self._deaths[kind] >= _MOST_DEATHS else kind

    def _killed(self, kind: Kind) -> None:
        if kind is Kind.SUPERVISOR:
            self._deaths.clear()
        else:
            self._deaths[kind] += 1

    def _kill_anywhere(self) -> None:
        kind = self._pick()
        if self._server.kill(kind, self._chance):
            self._killed(kind)

    def _kill_two(self) -> None:
        self._kill_anywhere()
        self._kill_anywhere()

    def _pull_the_plug(self) -> None:
        self._server.kill_everything()
        self._deaths.clear()

    def _kill_at_a_point(self) -> None:
        point = self._chance.choice([point for point in sorted(POINTS) for _ in range(_LIKELY[POINTS[point][1]])])
        kinds, provocation = POINTS[point]
        kind = self._chance.choice(kinds)
        if self._deaths[kind] >= _MOST_DEATHS and kind is not Kind.WORKER:
            self._kill_anywhere()
            return
        if point in self._to_fail or self._server.armed >= _ARMED_AT_MOST:
            return
        self._server.arm(point, "kill", kind)
        self._provoke(provocation, kind)

    def _note_fired(self) -> None:
        for point, process in self._server.note_fired():
            kind = kind_of(process)
            if point in self._to_fail:
                self._to_fail.discard(point)
                self.others[f"failed {point}"] += 1
                continue
            self._server.kills[kind.name.lower(), point] += 1
            self._killed(kind)

    def _provoke(self, provocation: Provocation, kind: Kind) -> None:
        match provocation:
            case Provocation.DEATH_OF_A_WORKER:
                self._server.kill(Kind.WORKER, self._chance)
            case Provocation.DEATH_OF_THE_MANAGER if self._deaths[Kind.MANAGER] < _MOST_DEATHS:
                self._server.kill(Kind.MANAGER)
                self._killed(Kind.MANAGER)
            case Provocation.DEATH_OF_A_SERVICE if self._deaths[Kind.SCHEDULER] < _MOST_DEATHS:
                self._server.kill(Kind.SCHEDULER)
                self._killed(Kind.SCHEDULER)
            case Provocation.START:
                if self._server.kill(kind if kind is Kind.WORKER else Kind.SUPERVISOR):
                    self._killed(Kind.WORKER if kind is Kind.WORKER else Kind.SUPERVISOR)
            case Provocation.STUBBORN_BLOCK:
                self._traffic.start_in_time("never returns")
            case Provocation.POISON:
                self._traffic.start_in_time("poison")
            case _:
                pass

    # --- other harm ----------------------------------------------------------------------------------------------

    def _stand_still(self) -> None:
        kind = self._chance.choice([Kind.WORKER, Kind.WORKER, Kind.MANAGER, Kind.SERVER, Kind.SCHEDULER])
        # At times longer than a worker may: then it is killed, and its runs are taken over.
        self._stop_for(kind, self._chance.random() * 5, "stood still")

    def _stand_still_through_a_takeover(self) -> None:
        """A worker that stands still while its manager dies is nobody's; it goes on at about the time at which its runs are taken over."""
        if self._deaths[Kind.MANAGER] >= _MOST_DEATHS:
            return
        if self._stop_for(Kind.WORKER, 2 + self._chance.random() * 4, "stood still through a takeover"):
            self._server.kill(Kind.MANAGER)
            self._killed(Kind.MANAGER)

    def _stop_for(self, kind: Kind, duration_s: float, what: str) -> bool:
        process = self._server.stop_one(kind, self._chance)
        if process is None:
            return False

        def resume() -> None:
            survived = self._server.resume(process)
            self.others[f"{kind.name.lower()} {what}" + ("" if survived else " and was killed")] += 1

        self._after(duration_s, resume)
        return True

    def _fail_a_commit(self) -> None:
        point = self._chance.choice(["sqlite.commit.before", "sqlite.commit.after"])
        if not self._server.is_armed(point):
            self._to_fail.add(point)
            self._server.arm(
                point, "fail", self._chance.choice([Kind.WORKER, Kind.WORKER, Kind.SERVER, Kind.SCHEDULER])
            )

    def _lose_a_message(self) -> None:
        point = "manager.assign.after"
        if not self._server.is_armed(point):
            self._to_fail.add(point)
            self._server.arm(point, "fail", Kind.MANAGER)

    def _fill_the_disk(self) -> None:
        self._disk.fill()
        self.others["disk full"] += 1
        self._after(0.5 + self._chance.random() * 3, self._disk.empty)

    def _start_something_bad(self) -> None:
        name = self._chance.choice(["poison", "eats all memory", "hoards memory", "hoards files", "never returns"])
        if self._traffic.start_in_time(name):
            self.others[f"run started that {name}" if name != "poison" else "poisonous run started"] += 1
