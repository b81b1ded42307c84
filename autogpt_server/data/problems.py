"""What is wrong with a graph or with the input of a run: found all at once, each with its place and what would fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autogpt_server.utils.errors import AutoGPTServerError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a stable code, words, and where it is."""

    code: str
    message: str
    node_id: str | None = None
    pin: str | None = None
    expected: str | list[str] | None = None
    """What would fit: a type in words, or names with the likeliest first."""

    def as_json(self) -> dict[str, Any]:
        """The entry in the `errors` list of a problem document."""
        return asdict(self)


class InvalidContent(AutoGPTServerError):
    """What was sent can be read, but it does not make sense; `problems` says where."""

    code = "invalid_content"

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message, problems=[problem.as_json() for problem in problems])

    @property
    def problems(self) -> list[Problem]:
        """All that is wrong, in the order of the content."""
        return [Problem(**entry) for entry in self.details["problems"]]


class InvalidGraph(InvalidContent):
    """The graph cannot be run as it is."""

    code = "invalid_graph"


class InvalidRunInput(InvalidContent):
    """The input does not fit the graph."""

    code = "invalid_input"
