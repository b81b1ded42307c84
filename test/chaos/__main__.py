"""`make chaos`: kill the server's processes some hundred times under load, then look whether anything was lost, doubled or lied about.

Prints a table, and exits with 1 if there is a violation. What is chosen, and in which order, follows from the seed; the moments do not.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import click

from chaos.disturbances import Disturbances, FullDisk
from chaos.server import ChaosServer, attacked, is_root
from chaos.shapes import all_shapes
from chaos.traffic import Traffic, reading
from chaos.verdict import ENDED, Judgement, judge
from support.effects import World, outside_world

_POSTERS = 2
_FOLLOWERS = 2
_PAUSE_S = 0.12
"""Between two runs that one poster starts."""
_DISK_MB = 400
_REST_S = 180.0
"""How long everything may take to come to rest once nothing is disturbed any more."""


@click.command()
@click.option("--seed", type=int, default=None, help="Repeat what an earlier run chose.")
@click.option("--kills", type=int, default=500, show_default=True, help="How many processes to kill.")
@click.option("--keep", is_flag=True, help="Keep database and logs even if nothing is wrong.")
def main(seed: int | None, kills: int, *, keep: bool) -> None:
    """Kill the server's processes under load and check what is left."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    click.echo(f"seed {seed}; database and logs in {folder}")
    began = time.monotonic()
    with _small_disk(folder / "data") as mounted, outside_world() as world:
        judgement, disturbances, server = _attack(folder, mounted, world, seed, kills)
        if keep or judgement.violations:
            shutil.copy(server.database, folder / "end.db")
    _report(judgement, disturbances, server, seed, time.monotonic() - began)
    if judgement.violations:
        sys.exit(1)
    if not keep:
        shutil.rmtree(folder)


def _attack(
    folder: Path, mounted: Path | None, world: World, seed: int, kills: int
) -> tuple[Judgement, Disturbances, ChaosServer]:
    with attacked(
        folder, mounted, num_graph_workers=3, worker_hung_limit_s=3.0, drain_limit_s=5.0, sqlite_busy_timeout_s=5.0
    ) as server:
        traffic = Traffic(server, all_shapes(world.url), random.Random(seed))
        traffic.prepare()
        traffic.schedule()
        disturbances = Disturbances(server, traffic, FullDisk(server, mounted), random.Random(seed + 1))
        began = time.monotonic()
        failed, changed = threading.Event(), Watch(server.database)
        with _people(traffic, changed, failed):
            disturbances.go_on_until(kills, failed, click.echo)
        click.echo(f"{disturbances.kills} kills in {time.monotonic() - began:.0f} s; undisturbed from here on")
        disturbances.end()
        _come_to_rest(server, traffic, changed)
        code = server.stop()
        judgement = judge(str(server.database), world.counts, traffic.record)
        judgement.violations += changed.complaints
        if code != 0:
            judgement.violations.append(f"at the end the server stopped with exit code {code}")
        if failed.is_set():
            judgement.violations.append("somebody who used the server was let down; see above")
    return judgement, disturbances, server


class Watch:
    """Sees to it that what has ended stays as it is."""

    def __init__(self, database: Path) -> None:
        self.complaints: list[str] = []
        self._database = database
        self._ended: dict[str, tuple[object, ...]] = {}

    def look(self) -> None:
        """Compare what is there with what was there before."""
        try:
            with reading(self._database) as connection:
                rows = connection.execute(
                    'SELECT "id", "status", "endedAt", "seq", NULL FROM "AgentGraphExecution" WHERE "endedAt" IS NOT NULL UNION ALL '
                    'SELECT e."id", e."status", e."endedAt", e."endedSeq", e."attempt" FROM "AgentNodeExecution" e '
                    'JOIN "AgentGraphExecution" r ON r."id" = e."agentGraphExecutionId" '
                    # What is written of a run that is none yet may be taken back (`autogpt_server.data.hidden`).
                    'WHERE e."endedAt" IS NOT NULL AND r."status" <> \'HIDDEN\''
                ).fetchall()
        except sqlite3.OperationalError:  # a moment after everything died
            return
        now = {id_: tuple(rest) for id_, *rest in rows}
        for id_, before in self._ended.items():
            if now.get(id_) != before:
                self.complaints.append(f"{id_} had ended as {before}, and is {now.get(id_)} now")
        self._ended = now


@contextlib.contextmanager
def _people(traffic: Traffic, watch: Watch, failed: threading.Event) -> Generator[None]:
    """Use the server until the block is left."""
    stop = threading.Event()

    def follow() -> None:
        runs = [run for run in list(traffic.record.runs) if run not in traffic.record.watched]
        if runs:
            traffic.watch(runs[-1], stop)

    def repeat(work: Callable[[], object], pause_s: float) -> None:
        while not stop.wait(pause_s):
            try:
                work()
            except Exception:  # noqa: BLE001 - it ends the attack, which reports it
                traceback.print_exc()
                failed.set()
                return

    jobs: list[tuple[Callable[[], object], float]] = [
        *[(traffic.start_any, _PAUSE_S)] * _POSTERS,
        (traffic.rerun_any, 0.5),
        *[(follow, 0.1)] * _FOLLOWERS,
        (lambda: traffic.tend(decide=0.6), 0.3),
        (watch.look, 2.0),
    ]
    threads = [threading.Thread(target=repeat, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(100)


def _come_to_rest(server: ChaosServer, traffic: Traffic, watch: Watch) -> None:
    """Let everything end that can."""
    server.wait_until_ready()
    traffic.pause_schedules()
    deadline = time.monotonic() + _REST_S
    while (left := _unsettled(server)) and time.monotonic() < deadline:
        traffic.tend(decide=0.6)
        time.sleep(0.3)
    watch.look()
    if left:
        click.echo(f"{len(left)} runs do not come to rest: {left[:5]}")
    stop = threading.Event()
    patience = threading.Timer(30, stop.set)
    patience.daemon = True
    patience.start()
    for run in traffic.record.watched:
        with reading(server.database) as connection:
            (status,) = connection.execute(
                'SELECT "status" FROM "AgentGraphExecution" WHERE "id" = ?', (run,)
            ).fetchone()
        if status in ENDED:
            traffic.watch(run, stop)


def _unsettled(server: ChaosServer) -> list[tuple[str, str]]:
    """Runs that are not over, and have no reason to wait for somebody."""
    with reading(server.database) as connection:
        return connection.execute(
            'SELECT "id", "status" FROM "AgentGraphExecution" AS run WHERE "endedAt" IS NULL AND NOT ("status" = \'WAITING\' AND EXISTS '
            '(SELECT 1 FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = run."id" AND ("status" = \'INTERRUPTED\' '
            'OR "childRunId" IS NOT NULL OR "waitsFor" IS NOT NULL)) AND "inboxLast" = "inboxDone")'
        ).fetchall()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Generator[Path | None]:
    """A small file system of its own, so that it can be full; None where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    if not is_root() or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        click.echo("no file system may be mounted: a limit on the size of files stands for the full disk")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _report(
    judgement: Judgement, disturbances: Disturbances, server: ChaosServer, seed: int, duration_s: float
) -> None:
    kills = server.kills
    by_kind: Counter[str] = Counter()
    for (kind, _), count in kills.items():
        by_kind[kind] += count
    rows: list[tuple[str, str, int]] = []
    for kind, total in by_kind.most_common():
        rows.append((kind, "", total))
        rows += sorted(("", point, count) for (of, point), count in kills.items() if of == kind)
    click.echo(f"\n{'killed':<24}{'where':<28}{'times':>6}")
    for kind, point, count in rows:
        click.echo(f"{kind:<24}{point:<28}{count:>6}")
    click.echo(f"{'together':<52}{sum(kills.values()):>6}\n")
    for what, count in sorted(disturbances.others.items()):
        click.echo(f"{what:<52}{count:>6}")
    for code, count in sorted(server.exits.items()):
        click.echo(f"{f'supervisor ended with exit code {code}':<52}{count:>6}")
    click.echo("")
    for (kind, outcome), count in sorted(judgement.outcomes.items()):
        click.echo(f"{f'{kind} runs {outcome}':<52}{count:>6}")
    for effects, count in sorted(judgement.effects.items()):
        click.echo(f"{f'effects of {effects} blocks':<52}{count:>6}")
    click.echo(f"{'node executions':<52}{judgement.executions:>6}")
    click.echo(f"{'attempts that were repeated':<52}{judgement.repeated:>6}")
    click.echo(f"{'runs taken for poison because of kills by chance':<52}{judgement.by_chance:>6}")
    click.echo(f"{'lost, doubled, lies':<52}{len(judgement.violations):>6}\n")
    for violation in judgement.violations[:40]:
        click.echo(f"- {violation}")
    click.echo(f"{duration_s:.0f} s; again: make chaos ARGS='--seed {seed}'")


if __name__ == "__main__":
    main()
