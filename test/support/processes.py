"""Sample processes and services: each shows one way to behave, so that supervisors, clients and the app can be tested."""

import asyncio
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.process import AppProcess, ProcessContext
from autogpt_server.utils.service import AppService, call_blocking, expose, get_service_client
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.sockets import listen

MODULE = __name__


class Color(StrEnum):
    """An enum to send."""

    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Paint:
    """A dataclass to send."""

    color: Color
    liters: float
    mixed_at: datetime | None = None
    parts: tuple["Paint", ...] = ()


class Order(BaseModel):
    """A pydantic model to send."""

    paints: dict[str, Paint]
    note: str | None = None


class OutOfPaintError(AutoGPTServerError):
    """The shop is out of paint."""

    code = "out_of_paint"

    def __init__(self, color: Color, left: float) -> None:
        super().__init__(f"only {left} liters of {color} left", color=color, left=left)

    @property
    def left(self) -> float:
        """What is left, in liters."""
        return float(self.details["left"])


class PaintShopInterface:
    """What the sample service offers."""

    service_name = "PaintShop"

    @expose
    async def mix(self, paints: list[Paint], *, note: str = "") -> Order:
        """Mix paints into an order."""
        raise NotImplementedError

    @expose(idempotent=True)
    async def pid(self) -> int:
        """The process id of the service."""
        raise NotImplementedError

    @expose
    async def sell(self, color: Color, liters: float) -> Paint:
        """Sell paint; red is out."""
        raise NotImplementedError

    @expose
    async def take(self, seconds: float) -> str:
        """Take some time."""
        raise NotImplementedError

    @expose
    def block(self, seconds: float) -> str:
        """Block a thread for some time."""
        raise NotImplementedError

    @expose
    async def echo(self, value: Any) -> Any:
        """Return what came."""
        raise NotImplementedError

    @expose
    async def blob(self, data: bytes, size: int) -> bytes:
        """Return `size` bytes."""
        raise NotImplementedError

    @expose
    async def break_down(self) -> None:
        """Raise something nobody foresaw."""
        raise NotImplementedError

    @expose(oneway=True)
    async def note(self, text: str) -> None:
        """Remember a text."""
        raise NotImplementedError

    @expose
    async def notes(self) -> list[str]:
        """The remembered texts."""
        raise NotImplementedError

    @expose
    async def die(self) -> None:
        """Die while answering."""
        raise NotImplementedError

    @expose
    async def lie(self) -> int:
        """Return what was not promised."""
        raise NotImplementedError

    @expose
    async def was_cancelled(self) -> bool:
        """Whether `take` was ever cut short."""
        raise NotImplementedError


class PaintShop(PaintShopInterface, AppService):
    """The sample service."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._notes: list[str] = []
        self._was_cancelled = False

    async def serve(self, context: ProcessContext) -> None:
        await context.ready("paint shop open")
        await context.drain_requested()

    async def mix(self, paints: list[Paint], *, note: str = "") -> Order:
        assert all(isinstance(paint, Paint) and isinstance(paint.color, Color) for paint in paints)
        return Order(paints={str(index): paint for index, paint in enumerate(paints)}, note=note or None)

    async def pid(self) -> int:
        return os.getpid()

    async def sell(self, color: Color, liters: float) -> Paint:
        if color is Color.RED:
            raise OutOfPaintError(color, 0.5)
        return Paint(color, liters)

    async def take(self, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._was_cancelled = True
            raise
        return "taken"

    @expose
    def block(self, seconds: float) -> str:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(seconds)
        return "blocked"

    async def echo(self, value: Any) -> Any:
        return value

    async def blob(self, data: bytes, size: int) -> bytes:
        return data[:1] * size

    async def break_down(self) -> None:
        raise ZeroDivisionError("password=hunter2")

    async def note(self, text: str) -> None:
        self._notes.append(text)

    async def notes(self) -> list[str]:
        return self._notes

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def lie(self) -> int:
        return Path("not a number")  # type: ignore[return-value]

    async def was_cancelled(self) -> bool:
        return self._was_cancelled

    def hidden(self) -> str:
        """Not exposed."""
        return "hidden"


class Customer(AppService):
    """A service that calls another service and shows what it got."""

    async def serve(self, context: ProcessContext) -> None:
        self._shop = get_service_client(PaintShopInterface, self.settings)
        await context.ready("customer there")
        await context.drain_requested()

    @expose
    async def shop_pid(self) -> int:
        """Ask the shop for its process id."""
        return await self._shop.pid()

    @expose
    def shop_pid_from_thread(self) -> int:
        """Ask the shop from a thread."""
        return call_blocking(self._shop.pid)


class Curious(AppProcess):
    """Ready when it has talked to the shop, and says what it heard."""

    async def serve(self, context: ProcessContext) -> None:
        shop = get_service_client(PaintShopInterface, self.settings, timeout_s=20)
        await context.ready(f"the shop said {await shop.echo('hello')}")
        await context.drain_requested()


class Quiet(AppProcess):
    """Ready at once; works until asked to stop; then writes to a file that it drained, after `linger_s` seconds."""

    def __init__(self, settings: Settings, journal: Path | None = None, linger_s: float = 0.0) -> None:
        super().__init__(settings)
        self._journal = journal
        self._linger_s = linger_s

    async def serve(self, context: ProcessContext) -> None:
        self._write(f"{context.name} up {os.getpid()}")
        await context.ready(f"pid {os.getpid()}")
        await context.drain_requested()
        self._write(f"{context.name} draining {context.drain_left_s() > 0}")
        await asyncio.sleep(self._linger_s)
        self._write(f"{context.name} drained")

    def _write(self, line: str) -> None:
        if self._journal is not None:
            with self._journal.open("a") as file:
                file.write(line + "\n")


class Stubborn(AppProcess):
    """Ready, but does not stop when asked."""

    async def serve(self, context: ProcessContext) -> None:
        await context.ready()
        await asyncio.Event().wait()


class Slow(AppProcess):
    """Never ready."""

    async def serve(self, context: ProcessContext) -> None:
        await context.drain_requested()


class Crashing(AppProcess):
    """Dies before it is ready, each time."""

    async def serve(self, context: ProcessContext) -> None:
        raise RuntimeError("no luck today")


class Misconfigured(AppProcess):
    """Cannot start, and says what to do."""

    async def serve(self, context: ProcessContext) -> None:
        listen(
            "127.0.0.1",
            self.settings.agent_server_port,
            port_setting="AGENT_SERVER_PORT",
            host_setting="AGENT_SERVER_HOST",
        )


class Restless(AppProcess):
    """Returns without being asked, after it was ready."""

    async def serve(self, context: ProcessContext) -> None:
        await context.ready()


class Hanging(AppProcess):
    """Ready, then blocks its own loop, the first time it is started with this journal."""

    def __init__(self, settings: Settings, journal: Path) -> None:
        super().__init__(settings)
        self._journal = journal

    async def serve(self, context: ProcessContext) -> None:
        await context.ready()
        if not self._journal.exists():
            self._journal.write_text("hung")
            time.sleep(3600)  # noqa: ASYNC251 - the point
        await context.drain_requested()


class StuckThread(AppProcess):
    """Stops when asked, though a thread of its own never ends."""

    async def serve(self, context: ProcessContext) -> None:
        threading.Thread(target=time.sleep, args=[3600], daemon=False).start()
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
        await context.ready()
        await context.drain_requested()


class Parent(AppProcess):
    """Supervises a process of its own, as the manager does its workers."""

    def __init__(self, settings: Settings, journal: Path) -> None:
        super().__init__(settings)
        self._journal = journal

    async def serve(self, context: ProcessContext) -> None:
        from autogpt_server.utils.process import ProcessSpec  # noqa: PLC0415
        from autogpt_server.utils.supervisor import Supervisor  # noqa: PLC0415

        spec = ProcessSpec(
            name="grandchild", target=f"{MODULE}:Quiet", settings=self.settings, arguments={"journal": self._journal}
        )
        supervisor = Supervisor([spec])
        supervisor.start()
        assert await asyncio.to_thread(supervisor.wait_ready, 20)
        await context.ready()
        await context.drain_requested()
        supervisor.request_drain()
        await asyncio.to_thread(supervisor.join)


class Loud(AppProcess):
    """Writes to standard output, then is ready."""

    async def serve(self, context: ProcessContext) -> None:
        sys.stdout.write("hello from the loud one\n")
        await context.ready()
        await context.drain_requested()
