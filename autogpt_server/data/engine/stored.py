"""Plans kept on disk, so that a process need not load the compiler to learn what another has compiled already.

What it saves was measured, for each process: 14 MB (the compiler, 5 MB of it not shared between processes) and 50 ms before the
first answer, then 2 to 50 ms for each new shape of query; reading a plan takes 0.2 ms.

A plan depends on nothing but the request, the schema and the compiler, which are its key. Each is a file of its own, written
under another name and renamed, so that processes may come and go as they like; a file that is damaged or is of another request counts
as missing. The folder is as trusted as the code beside it.
"""

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from autogpt_server.data.engine.files import write_atomically

log = logging.getLogger(__name__)

MAX_STORED_PLANS: Final = 2000
"""Files for one schema; from then on, plans are kept in memory only. 5 KB each, on average."""


class StoredPlans:
    """The plans of one schema and one version of the compiler. Any number of processes may use the same folder."""

    def __init__(self, folder: Path, *, max_plans: int = MAX_STORED_PLANS) -> None:
        self._folder = folder
        self._max_plans = max_plans
        self._count: int | None = None

    def load(self, text: str) -> dict[str, Any] | None:
        """The plan of the request ``text``, as the compiler made it; None if it is not here."""
        try:
            stored = json.loads(self._path(text).read_bytes())
            return cast("dict[str, Any]", stored["plan"]) if stored["request"] == text else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("engine.stored_plan_unreadable path=%s reason=%s", self._path(text), error)
            return None

    def save(self, text: str, plan: dict[str, Any]) -> None:
        """Keep ``plan``. A folder that cannot be written, or is full, is no error."""
        if self._count is None:
            self._count = sum(1 for _ in self._folder.glob("*.json"))
        if self._count >= self._max_plans:
            return
        try:
            data = json.dumps({"request": text, "plan": plan}, ensure_ascii=False, separators=(",", ":"))
            write_atomically(self._path(text), data.encode())
        except OSError as error:
            log.info("engine.plans_not_stored folder=%s reason=%s", self._folder, error)
            self._count = self._max_plans
        else:
            self._count += 1

    def _path(self, text: str) -> Path:
        return self._folder / f"{sha256(text.encode()).hexdigest()[:40]}.json"
