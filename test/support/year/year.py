"""A year of schedules: real schedulers that die, people who change things at bad moments, a clock that jumps; each look is checked against the rules."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database, db_time, from_db_time
from autogpt_server.data.firing import SchedulesUnavailable, situations
from autogpt_server.data.graph import GraphInUse, add_version, archive_graph, create_graph, set_active_version
from autogpt_server.data.intake import IntakeRules, accept_graph
from autogpt_server.data.models import Graph, Node
from autogpt_server.data.schedule import change_schedule
from autogpt_server.data.scheduling import CatchUp, Overlap, ScheduleFields
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.editing import ScheduleEdit, left_behind
from autogpt_server.execution.occurrences import GRAPH_UNAVAILABLE
from autogpt_server.execution.ticks import Ticker
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import NodeSettings
from autogpt_server.utils import json
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings
from support.scheduling import PRINT_TO_CONSOLE, HandClock, sample_graph
from support.year.calendar import Wish, due_times
from support.year.disk import Died, Disk, Way
from support.year.rules import Expected, expect

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "America/Santiago",
    "Pacific/Chatham",
)
GRAPHS = 10
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Wrong(AssertionError):
    """The scheduler broke a rule."""


@dataclass
class Line:
    """A schedule as people know it, and what they have seen of it."""

    id: str
    graph: int
    wish: Wish
    fields: ScheduleFields
    dues: list[datetime]
    """All its due times under its present timing."""
    accounted: datetime
    """Every due time up to here has been seen."""
    revision: int = 0
    rows: dict[datetime, str] = field(default_factory=dict[datetime, str])
    """Due time -> status."""
    waiting: set[datetime] = field(default_factory=set[datetime])
    """The due times that wait for their run."""
    active: set[str] = field(default_factory=set[str])
    """Runs that have not ended."""

    def pending(self, now: datetime) -> list[datetime]:
        """The due times that nobody has been seen to account for."""
        if not self.fields.is_enabled:
            return []
        first = bisect_right(self.dues, self.accounted)
        return self.dues[first : bisect_right(self.dues, now, lo=first)]


@dataclass
class StoredGraph:
    """A graph with two versions, of which the second wants an input that no schedule has."""

    id: str
    active: int = 1
    is_deleted: bool = False


class Year:
    """The world. `live` lets the year pass, and raises `Wrong` at the first rule that is broken."""

    def __init__(self, seed: int, begin: datetime, *, days: int = 365, lines: int = 200) -> None:
        self.chance = random.Random(seed)
        self.begin, self.end = begin, begin + timedelta(days=days)
        self.clock = HandClock(self.begin)
        self.disk = Disk(self.chance)
        self.settings = Settings(database_url="file:year.db")
        self.db = Database(Way(self.disk, is_sure=True))
        self.blocks = get_blocks()
        self.graphs: list[StoredGraph] = []
        self.lines: dict[str, Line] = {}
        self.seen: Counter[str] = Counter()
        """What has happened, so that a test can see that there was something to see."""
        self.offset = timedelta(0)
        """How wrong the clock is."""
        self._line_count = lines
        self._last_row = self._last_run = 0
        self._ends: list[tuple[datetime, str, Line]] = []
        self._hinted: list[str] = []
        self._caches = [Topologies(self.db, self.blocks) for _ in range(2)]

    # -- The year -----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Let it pass."""
        await self._found()
        true, wake = self.begin, self.begin
        change, line = self._plan_change(true)
        while true < self.end:
            chosen = None
            if wake <= change:
                true = max(true, wake)
            else:
                chosen, true = self._change(line, max(true, change))
                change, line = self._plan_change(true)
            self.clock.at = true + self.offset
            self._end_runs()
            disturbed, next_fire = self._look(chosen)
            lateness = self.chance.choice([timedelta(0), SECOND / 4, SECOND, 55 * SECOND])
            if disturbed:
                wake = true + self.chance.choice([SECOND, 3 * SECOND, 40 * SECOND, 90 * SECOND, 5 * HOUR])
            else:
                wake = self.end if next_fire is None else min(self.end, next_fire - self.offset + lateness)
                # Its sweep: what waits is released soon after the run before it has ended.
                ends = [end for end, _, ending in self._ends if ending.fields.overlap is Overlap.QUEUE]
                wake = max(true + SECOND, min(wake, min(ends, default=wake)))
        self.offset, self.disk.trouble = timedelta(0), 0.0
        self.clock.at = self.end + 2 * HOUR
        self._end_runs()
        self._look(None, quiet=True)
        self._count()

    def _plan_change(self, true: datetime) -> tuple[datetime, Line]:
        """When something is changed next, and on which schedule; often at the worst moment: when it is due."""
        moment = true + timedelta(hours=self.chance.expovariate(1 / 8))
        line = self.chance.choice(list(self.lines.values()))
        following = bisect_right(line.dues, moment + self.offset)
        if following < len(line.dues) and self.chance.random() < 0.8:
            due = line.dues[following] - self.offset
            moment = due if due - moment < timedelta(days=1) else moment
        return moment, line

    async def _found(self) -> None:
        """What there is on New Year's Day."""
        for number in range(GRAPHS):
            limits = IntakeRules(
                blocks=self.blocks,
                limits=GraphLimits.of(self.settings),
                max_bytes=self.settings.max_graph_bytes,
                node_settings=NodeSettings,
            )
            stored = await create_graph(self.db, accept_graph(sample_graph(), limits, new_id=new_id), self.blocks)
            nodes = [*sample_graph().nodes, Node(id="p", block_id=PRINT_TO_CONSOLE)]
            more = accept_graph(Graph(name=f"more {number}", nodes=nodes, is_active=False), limits, new_id=new_id)
            await add_version(self.db, stored.graph.id, more, self.blocks)
            self.graphs.append(StoredGraph(stored.graph.id))
        for number in range(self._line_count):
            self._add_line(number)

    def _add_line(self, number: int) -> None:
        chance, policies = self.chance, [(catch_up, overlap) for catch_up in CatchUp for overlap in Overlap]
        catch_up, overlap = policies[number % len(policies)]
        wish, starts, ends = self._wish()
        fields = ScheduleFields(
            cron=wish.text,
            timezone=ZONES[number % len(ZONES)],
            input_data={"input": number},
            catch_up=catch_up,
            overlap=overlap,
            starts_at=starts,
            ends_at=ends,
            jitter_s=chance.choice([0.0] * 9 + [600.0]),
            graph_version=chance.choice([None, None, None, 1]),
        )
        schedule_id, graph = new_id(), number // len(policies) % GRAPHS
        first = Timing.of(schedule_id, fields).next_fire(after=self.begin)
        values = {
            "id": schedule_id,
            "agentGraphId": self.graphs[graph].id,
            "agentGraphVersion": fields.graph_version,
            "cron": fields.cron,
            "timezone": fields.timezone,
            "inputData": json.dumps(fields.input_data),
            "isEnabled": 1,
            "catchUp": catch_up.value,
            "overlap": overlap.value,
            "startsAt": db_time(starts),
            "endsAt": db_time(ends),
            "jitterS": fields.jitter_s,
            "accountedUntil": db_time(self.begin),
            "nextDueAt": db_time(first),
            "createdAt": db_time(self.begin),
            "updatedAt": db_time(self.begin),
        }
        columns, marks = ", ".join(f'"{name}"' for name in values), ", ".join("?" * len(values))
        self._sql(f'INSERT INTO "AgentGraphExecutionSchedule" ({columns}) VALUES ({marks})', *values.values())
        self.lines[schedule_id] = Line(schedule_id, graph, wish, fields, self._dues(wish, fields), self.begin)

    def _wish(self) -> tuple[Wish, datetime | None, datetime | None]:
        """A timing: what is frequent lasts for some days, often those in which clocks change."""
        chance = self.chance
        minute, hour = (chance.choice([0, 0, 30]),), (chance.choice([0, 1, 2, 2, 3, 9, 23]),)
        match chance.randrange(8):
            case 0:
                return Wish(minute, hour, weekdays=(0,)), None, None
            case 1:
                return Wish(minute, hour, weekdays=(2, 5)), None, None
            case 2 | 3 | 4:
                return Wish(minute, hour, days=(1, 13), weekdays=(0, 5)), None, None
            case 5 | 6:
                return Wish((0, 30), (1, 2), months=(3, 4, 9, 10, 11), weekdays=(0,)), None, None
            case _:
                month, day = chance.choice([(3, 8), (3, 26), (4, 1), (10, 2), (10, 1), (10, 24), (11, 1), (12, 28)])
                start = self.begin.replace(month=month, day=day)
                frequent = chance.choice([Wish((0, 30), None), Wish((15,), None), Wish((0, 20, 40), tuple(range(24)))])
                return frequent, start, start + timedelta(days=2, hours=5)

    def _dues(self, wish: Wish, fields: ScheduleFields) -> list[datetime]:
        first, last = fields.starts_at or self.begin, fields.ends_at or self.end + timedelta(days=3)
        return due_times(wish, fields.timezone, first, last)

    # -- What people and machines do ----------------------------------------------------------------------------------

    def _change(self, line: Line, true: datetime) -> tuple[_Edit | None, datetime]:
        """What happens, and when it is over."""
        chance = self.chance
        graph = self.graphs[line.graph]
        self.disk.trouble = 0.0
        what = chance.choice(
            ["pause", "pause", "pause", "retime", "input", "policy", "graph", "jump", "sleep", "trouble", "delete"]
        )
        self.seen[what] += 1
        match what:
            case "jump":
                self.offset = chance.choice([timedelta(0), HOUR, -HOUR, timedelta(minutes=7)])
            case "sleep":
                return None, true + timedelta(hours=chance.choice([0.1, 1, 3, 24, 40]))
            case "trouble":
                self.disk.trouble = 0.2
            case "graph" if not graph.is_deleted:
                graph.active = 3 - graph.active
                return _Edit(set_active_version(self.db, graph.id, graph.active), graph=line.graph), true
            case "delete" if not graph.is_deleted and chance.random() < 0.06:
                self._end_runs(line.graph)
                left = partial(left_behind, code=GRAPH_UNAVAILABLE, now=true + self.offset)
                return _Edit(archive_graph(self.db, graph.id, left), graph=line.graph, is_end=True), true
            case "pause" | "retime" | "input" | "policy" if not graph.is_deleted:
                return self._edit(line, what, true), true
            case _:
                pass
        return None, true

    def _edit(self, line: Line, what: str, true: datetime) -> _Edit:
        chance, wish, fields = self.chance, line.wish, line.fields.model_copy()
        match what:
            case "pause":
                fields.is_enabled = not fields.is_enabled
            case "retime":
                wish, fields.starts_at, fields.ends_at = self._wish()
                fields.cron, fields.timezone = wish.text, chance.choice(ZONES)
            case "input":
                fields.input_data = {"input": chance.random()}
            case _:
                fields.overlap, fields.catch_up = chance.choice(list(Overlap)), chance.choice(list(CatchUp))
        return _Edit(self._save(line, fields, true + self.offset), line=line, wish=wish, fields=fields)

    async def _save(self, line: Line, fields: ScheduleFields, now: datetime) -> None:
        """As `PUT /graphs/schedules/{id}`."""
        current = (await situations(self.db, [line.id]))[line.id].schedule
        edit = ScheduleEdit(current, fields, Timing.of(line.id, fields), now)
        await change_schedule(self.db, line.id, edit, now=now)

    def _end_runs(self, graph: int | None = None) -> None:
        """Those whose time has come, or all of a graph."""
        now, left = self.clock.at - self.offset, list[tuple[datetime, str, Line]]()
        for end, run_id, line in self._ends:
            if end <= now or line.graph == graph:
                self._sql(
                    'UPDATE "AgentGraphExecution" SET "status" = \'COMPLETED\', "endedAt" = ? WHERE "id" = ?',
                    db_time(end),
                    run_id,
                )
                line.active.discard(run_id)
            else:
                left.append((end, run_id, line))
        self._ends = left

    # -- A look -------------------------------------------------------------------------------------------------------

    def _look(self, edit: _Edit | None, *, quiet: bool = False) -> tuple[bool, datetime | None]:
        """One look of a scheduler, or of several by mistake; whether it was disturbed, and when the next is due."""
        chance, tickers = self.chance, 1
        lives: list[int | None] = [None]
        if not quiet:
            tickers = chance.choice([1, 1, 1, 2])
            lives = [chance.randrange(25) if chance.random() < 0.08 else None for _ in range(tickers)]
        work: list[Coroutine[Any, Any, Any]] = []
        for number, life in enumerate(lives):
            way = Way(self.disk, life)

            def hint(ids: Any, way: Way = way) -> None:
                way.live()
                self._hinted.extend(ids)

            work.append(Ticker(Database(way), self._caches[number], self.clock, self.settings, on_commit=hint).tick())
        if edit is not None:
            work.append(edit.work)
        ends = self._interleave(work)
        disturbed = any(not isinstance(end, datetime | None) for end in ends)
        self._check(edit, disturbed)
        if edit is not None and edit.is_end and edit.graph is not None and ends[-1] is None:
            self.graphs[edit.graph].is_deleted = True
        return disturbed, ends[0] if isinstance(ends[0], datetime) else None

    def _interleave(self, work: list[Coroutine[Any, Any, Any]]) -> list[datetime | BaseException | None]:
        """Perform all at the same time, step by step in any order."""
        ends: list[datetime | BaseException | None] = [None] * len(work)
        going = list(range(len(work)))
        while going:
            number = going[self.chance.randrange(len(going))] if len(going) > 1 else going[0]
            try:
                work[number].send(None)
                continue
            except StopIteration as stop:
                ends[number] = getattr(stop.value, "next_fire_at", None)
            except Died as death:
                self.seen["death"] += 1
                ends[number] = death
            except (SchedulesUnavailable, GraphInUse) as error:
                ends[number] = error
            going.remove(number)
        return ends

    def _check(self, edit: _Edit | None, disturbed: bool) -> None:
        now = self.clock.at
        rows, released = self._news()
        for (what,) in self._sql("SELECT what FROM temp.wrong"):
            raise Wrong(f"{now}: {what}")
        for line in self.lines.values():
            appeared = rows.get(line.id, [])
            touched = edit is not None and edit.concerns(line)
            if not (touched or appeared or line.waiting or line.pending(now)):
                continue
            self._check_line(
                line, appeared, released.get(line.id, []), now, touched=touched, disturbed=disturbed, edit=edit
            )
        for run_id in self._hinted:
            if not self._sql('SELECT 1 FROM "AgentGraphExecution" WHERE "id" = ?', run_id):
                raise Wrong(f"{now}: run {run_id} was announced and is not there")
        self._hinted.clear()

    def _check_line(
        self,
        line: Line,
        appeared: list[tuple[datetime, str, str | None, str | None]],
        released: list[tuple[datetime, str, str | None]],
        now: datetime,
        *,
        touched: bool,
        disturbed: bool,
        edit: _Edit | None,
    ) -> None:
        pending = line.pending(now)
        dues = [due for due, *_ in appeared]
        jitter = timedelta(seconds=line.fields.jitter_s)
        saved = touched and edit is not None and edit.took_place(self._revision(line), line)
        must_all = saved and edit is not None and edit.moves_on(line)
        if dues != pending[: len(dues)]:
            raise Wrong(f"{now}: {line} was due at {pending}, and there are rows for {dues}")
        held = len(pending) - len(dues)
        if held and (must_all or not (disturbed or (held == 1 and now < pending[-1] + jitter))):
            raise Wrong(f"{now}: {line} was due at {pending[-held:]}, and nothing became of it")
        outcomes = [(due, status, code) for due, status, code, _ in appeared]
        if appeared and not touched and not (jitter and now - dues[0] > timedelta(seconds=60)):
            expected = self._expected(line, dues, now)
            if outcomes != expected:
                raise Wrong(f"{now}: of {line} became {outcomes}, and should have become {expected}")
        waiting = sorted(line.waiting)
        for due, status, code, run_id in appeared:
            line.rows[due] = status
            if status == "WAITING":
                line.waiting.add(due)
            self._note_run(line, run_id)
            self.seen[code or status] += 1
        for due, status, run_id in released:
            if status == "STARTED" and due != waiting[0]:
                raise Wrong(f"{now}: of {line}, {due} was released before {waiting}")
            line.rows[due] = status
            line.waiting.discard(due)
            self._note_run(line, run_id)
            self.seen["released"] += status == "STARTED"
        if dues:
            line.accounted = max(line.accounted, dues[-1])
        if (
            not (touched or disturbed)
            and line.fields.is_enabled
            and not line.active
            and line.waiting
            and not self._unfit(line)
        ):
            raise Wrong(f"{now}: {line} waits for nothing")
        if saved and edit is not None:
            edit.apply(line, now, self._dues)

    def _expected(self, line: Line, dues: list[datetime], now: datetime) -> list[Expected]:
        fields = line.fields
        return expect(
            dues,
            now,
            fields.catch_up.value,
            fields.overlap.value,
            active=bool(line.active),
            waiting=len(line.waiting),
            unfit=self._unfit(line),
        )

    def _unfit(self, line: Line) -> str | None:
        return "invalid_input" if (line.fields.graph_version or self.graphs[line.graph].active) == 2 else None

    def _note_run(self, line: Line, run_id: str | None) -> None:
        if run_id is not None:
            line.active.add(run_id)
            hours = self.chance.choice([0.02, 0.02, 0.5, 1, 3, 30])
            self._ends.append((self.clock.at.replace(second=0) - self.offset + hours * HOUR, run_id, line))

    def _news(
        self,
    ) -> tuple[
        dict[str, list[tuple[datetime, str, str | None, str | None]]], dict[str, list[tuple[datetime, str, str | None]]]
    ]:
        """The rows since the last look by schedule, and those that no longer wait. Each new run has to be one's."""
        rows: dict[str, list[tuple[datetime, str, str | None, str | None]]] = {}
        runs: list[str] = []
        newest = self._last_row
        for rowid, schedule_id, due, status, code, run_id in self._sql(
            'SELECT rowid, "scheduleId", "dueAt", "status", "reasonCode", "runId" FROM "AgentScheduleOccurrence" WHERE rowid > ? '
            'ORDER BY "dueAt"',
            self._last_row,
        ):
            newest = max(newest, rowid)
            rows.setdefault(schedule_id, []).append((_moment(due), status, code, run_id))
            runs += [run_id] if run_id else []
        self._last_row = newest
        released: dict[str, list[tuple[datetime, str, str | None]]] = {}
        for line in self.lines.values():
            for due in line.waiting:
                ((status, run_id),) = self._sql(
                    'SELECT "status", "runId" FROM "AgentScheduleOccurrence" WHERE "scheduleId" = ? AND "dueAt" = ?',
                    line.id,
                    db_time(due),
                )
                if status != "WAITING":
                    released.setdefault(line.id, []).append((due, status, run_id))
                    runs += [run_id] if run_id else []
        found = self._sql('SELECT rowid, "id" FROM "AgentGraphExecution" WHERE rowid > ?', self._last_run)
        self._last_run = max([self._last_run, *(rowid for rowid, _ in found)])
        if sorted(runs) != sorted(run_id for _, run_id in found):
            raise Wrong(f"{self.clock.at}: {len(found)} runs began, and {len(runs)} due times have got one")
        return rows, released

    def _revision(self, line: Line) -> int:
        return self._sql('SELECT "revision" FROM "AgentGraphExecutionSchedule" WHERE "id" = ?', line.id)[0][0]

    def _count(self) -> None:
        """At the end: nothing but what was seen."""
        (known,) = self._sql('SELECT count(*) FROM "AgentScheduleOccurrence"')[0]
        if known != sum(len(line.rows) for line in self.lines.values()):
            raise Wrong("there are rows that nobody saw appear")

    def _sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.disk.connection.execute(statement, parameters).fetchall()


@dataclass
class _Edit:
    """What a person does while a scheduler looks."""

    work: Coroutine[Any, Any, None]
    line: Line | None = None
    graph: int | None = None
    wish: Wish | None = None
    fields: ScheduleFields | None = None
    is_end: bool = False

    def concerns(self, line: Line) -> bool:
        return line is self.line or line.graph == self.graph

    def took_place(self, revision: int, line: Line) -> bool:
        return revision > line.revision

    def moves_on(self, line: Line) -> bool:
        """Whether all that was due before has to be accounted for."""
        if self.fields is None:
            return self.is_end
        names = ("cron", "timezone", "starts_at", "ends_at")
        return self.fields.is_enabled != line.fields.is_enabled or any(
            getattr(self.fields, n) != getattr(line.fields, n) for n in names
        )

    def apply(self, line: Line, now: datetime, dues: Callable[[Wish, ScheduleFields], list[datetime]]) -> None:
        line.revision += 1
        if self.moves_on(line):
            line.accounted = max(line.accounted, now)
        if self.is_end:
            line.fields.is_enabled = False
        elif self.fields is not None and self.wish is not None:
            line.fields, line.wish = self.fields, self.wish
            line.dues = dues(self.wish, self.fields)


def _moment(text: str) -> datetime:
    found = from_db_time(text)
    assert found is not None
    return found
