"""Errors as clients see them: RFC 9457 problem documents with a stable `code`, and never a secret or a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, cast

import pydantic
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from autogpt_server.data.db import DatabaseUnavailable
from autogpt_server.data.execution import HiddenRunGone
from autogpt_server.data.graph import GraphChanged, GraphInUse, GraphNotFound, GraphVersionNotFound
from autogpt_server.data.hidden import FormerRunGone
from autogpt_server.data.intake import GraphTooLarge
from autogpt_server.data.problems import InvalidContent, Problem
from autogpt_server.data.requests import (
    AlreadyResolved,
    NodeExecutionEnded,
    NotInterrupted,
    RunEnded,
    RunEnding,
    SignalKeyReused,
    TooManySignals,
)
from autogpt_server.data.runs import IdempotencyConflict, NodeExecutionNotFound, RunNotFound, RunStillActive
from autogpt_server.data.schedule import ScheduleNotFound
from autogpt_server.execution.rerun import RerunTooLarge
from autogpt_server.execution.topology import MissingBlock
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.json import InvalidJSONValue
from autogpt_server.utils.logging import get_logger

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:autogpt-server:problem:"
_MAX_ERRORS = 200
"""A problem document lists at most so many errors."""

log = get_logger(__name__)


class ProblemEntry(pydantic.BaseModel):
    """One of the things that are wrong."""

    code: str = pydantic.Field(description="Stable name of the kind of error.", examples=["unknown_pin"])
    node_id: str | None = pydantic.Field(None, description="The node, by the id it was posted with.")
    pin: str | None = pydantic.Field(None, description="The pin; or, outside of graphs, the place in the request.")
    message: str = pydantic.Field(description="What is wrong and what to do about it.")
    expected: list[str] = pydantic.Field(
        default_factory=list[str], description="What would fit: names, the likeliest first, or a type in words."
    )

    @classmethod
    def of(cls, problem: Problem) -> ProblemEntry:
        """The entry for one finding."""
        expected = [problem.expected] if isinstance(problem.expected, str) else problem.expected or []
        return cls(
            code=problem.code, node_id=problem.node_id, pin=problem.pin, message=problem.message, expected=expected
        )


class ProblemDocument(pydantic.BaseModel):
    """Why a request was not done (RFC 9457)."""

    type: str = pydantic.Field(description="Names the kind of problem; as stable as `code`.")
    title: str = pydantic.Field(description="The HTTP status in words.")
    status: int
    detail: str = pydantic.Field(description="What happened and what to do, for people.")
    instance: str = pydantic.Field(
        description="The path that was asked for; of a 500, the id under which the log has more."
    )
    code: str = pydantic.Field(description="Stable name of the kind of problem, for programs.")
    errors: list[ProblemEntry] = pydantic.Field(
        default_factory=list[ProblemEntry], description="Everything that is wrong with the content."
    )


class RequestError(AutoGPTServerError):
    """The request cannot be done."""

    status: ClassVar[int] = 422
    headers: ClassVar[Mapping[str, str]] = {}


class InvalidBody(RequestError):
    """The request's body is no JSON value."""


class InvalidCursor(RequestError):
    """The cursor was not made by this list; leave it out to begin at the start."""


class RequestTooLarge(RequestError):
    """The request's body is larger than this server takes (MAX_REQUEST_BYTES)."""

    status = 413


class InputTooLarge(RequestError):
    """The run's input is larger than a value may be (MAX_VALUE_BYTES)."""

    status = 413


class SignalTooLarge(RequestError):
    """The signal's value is larger than a signal may be."""

    status = 413


class UnsupportedMediaType(RequestError):
    """The request's body must be JSON: send it with `Content-Type: application/json`."""

    status = 415


class MissingApiKey(RequestError):
    """This server asks for a key: send it in the header X-API-Key."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'ApiKey realm="autogpt_server", header="X-API-Key"'}


class OriginRefused(RequestError):
    """Web pages of this origin may not use this server; add the page's host to ALLOWED_HOSTS if it should."""

    status = 403


class WrongHost(RequestError):
    """This server does not answer under this host name; add it to ALLOWED_HOSTS if it should."""

    status = 421


class BlockNotFound(RequestError):
    """There is no such block; GET /blocks lists them."""

    status = 404


class ValueNotFound(RequestError):
    """There is no such value."""

    status = 404


class BlockFailed(RequestError):
    """The block could not do its work with this input; `errors` has its own code."""

    code = "block_execution_failed"

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class BlockTimeout(RequestError):
    """The block took longer than it may; run it in a graph, where it can take its time."""

    code = "block_timeout"


class ServerDraining(RequestError):
    """The server is stopping; ask again in a moment."""

    status = 503
    retryable = True
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


_STATUS: Mapping[type[AutoGPTServerError], int] = {
    GraphNotFound: 404,
    GraphVersionNotFound: 404,
    RunNotFound: 404,
    FormerRunGone: 404,
    NodeExecutionNotFound: 404,
    ScheduleNotFound: 404,
    GraphInUse: 409,
    RunStillActive: 409,
    RunEnded: 409,
    RunEnding: 409,
    NodeExecutionEnded: 409,
    NotInterrupted: 409,
    AlreadyResolved: 409,
    SignalKeyReused: 409,
    TooManySignals: 409,
    MissingBlock: 409,
    GraphChanged: 412,
    GraphTooLarge: 413,
    InvalidContent: 422,
    IdempotencyConflict: 422,
    RerunTooLarge: 422,
    InvalidJSONValue: 422,
    HiddenRunGone: 503,
    DatabaseUnavailable: 503,
}
"""The status of errors that other packages raise; an error of none of these classes is the server's own fault."""

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def foreign_errors() -> frozenset[type[AutoGPTServerError]]:
    """The errors of other packages that clients may see."""
    return frozenset(_STATUS)


def status_of(error: AutoGPTServerError) -> int | None:
    """The HTTP status of an error, or None if it is not the client's doing."""
    if isinstance(error, RequestError):
        return error.status
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), None)


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str,
    errors: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    document = ProblemDocument(
        type=_TYPE_PREFIX + code,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        errors=[ProblemEntry.of(problem) for problem in errors][:_MAX_ERRORS],
    )
    # A detail may quote what came in a path: half a surrogate pair has no UTF-8.
    content = document.model_dump_json().encode(errors="replace")
    return Response(content, status, dict(headers or {}), MEDIA_TYPE)


def response_to(error: AutoGPTServerError, path: str) -> Response:
    """The response to an error; an unforeseen one is logged under an id, and only the id is shown."""
    status = status_of(error)
    if status is None:
        return incident_response(error, path)
    problems: Iterable[Problem] = ()
    if isinstance(error, InvalidContent | BlockFailed):
        problems = error.problems
    headers = error.headers if isinstance(error, RequestError) else None
    return problem_response(status, error.code, str(error), instance=path, errors=problems, headers=headers)


def incident_response(error: BaseException, path: str) -> Response:
    """The response to what should not have happened."""
    incident = new_id()
    # The traceback is in the log only: it may quote what the request held.
    log.error("request failed", incident=incident, path=path, traceback="".join(traceback.format_exception(error)))
    detail = (
        f"Something went wrong here that is not your doing. The server's log tells more under the incident {incident}."
    )
    return problem_response(500, "internal_error", detail, instance=f"urn:uuid:{incident}")


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(AutoGPTServerError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_error(request: Request, error: Exception) -> Response:
    return response_to(cast("AutoGPTServerError", error), request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    status = refusal.status_code
    code = _CODES.get(status, f"http_{status}")
    path = request.url.path
    detail = {
        404: f"There is nothing at {path}; /docs lists what there is.",
        405: f"{request.method} is not possible at {path}.",
    }.get(status, str(refusal.detail))
    return problem_response(status, code, detail, instance=path, headers=refusal.headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    problems = [_problem_of(entry) for entry in cast("RequestValidationError", error).errors()]
    count = len(problems)
    detail = (
        f"The request has {count} {'error' if count == 1 else 'errors'}: {problems[0].message}"
        if problems
        else "The request is not valid."
    )
    return problem_response(422, "invalid_request", detail, instance=request.url.path, errors=problems)


def _problem_of(entry: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors. What was sent is not repeated: it may be a secret."""
    where, *path = entry.get("loc", ("request",))
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    words = str(entry.get("msg", "is not valid")).removeprefix(
        "Value error, "
    )  # what our own validators say stands for itself
    if entry.get("type") in {"dict_type", "model_attributes_type"}:
        words = "Input should be a JSON object"  # and not what Python calls it
    message = f"{place or where}: {words}"
    expected = cast("dict[str, Any]", entry.get("ctx") or {}).get("expected")
    return Problem(
        f"invalid_{where}", message, pin=place or None, expected=expected if isinstance(expected, str) else None
    )
