"""What goes wrong, as problem details (RFC 9457); a failure of the database has the status that PostgREST gives it."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from opskpi.access import keys

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
OURS = "OP"
# Malformed values, and requests that exceed a limit of Postgres, such as the depth of its stack. Its own words name
# types, functions and settings of the server, which a caller need not know.
MALFORMED = {
    "22": "a value is malformed or out of range",
    "54": "the request is too large or nested too deeply",
}
JSON_UNREADABLE = "22P02"

log = logging.getLogger("opskpi.hub")


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """A request that cannot be answered as asked: status, what happened, and what to do about it.

    `errors` are objects with `field` and `reason`, one a fault of the request; `headers` go with the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str = "",
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.errors = errors
        self.headers = headers or {}


def of_database(error: psycopg.Error) -> Problem:
    """The problem that a failed call is; what is no fault of the caller is logged, and told without internals."""
    state, said = error.sqlstate or "", error.diag
    message, hint = said.message_primary or "", said.message_hint or ""
    if state == "PGRST":
        return _as_postgrest(message, said.message_detail or "{}")
    if state.startswith("PT") and state[2:].isdigit():
        return Problem(int(state[2:]), message, hint=hint)
    if state == JSON_UNREADABLE:
        return Problem(HTTPStatus.BAD_REQUEST, "the body is not valid JSON")
    if state.startswith(OURS):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, message, hint=hint)
    if state[:2] in MALFORMED:
        log.info("%s %s: %s", type(error).__name__, state, message)
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, MALFORMED[state[:2]])
    return _of_server(error, message)


def _of_server(error: psycopg.Error, message: str) -> Problem:
    log.error("%s %s: %s", type(error).__name__, error.sqlstate, message or _first_line(error))
    # Connections, none free in time, resources, locks, serialization.
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return unavailable("this hub reads a replica, which stores nothing")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return unavailable("the database took too long for this")
    if isinstance(error, psycopg.OperationalError):
        return unavailable("the database cannot answer now")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return Problem(HTTPStatus.FORBIDDEN, "the database refuses this to API keys")
    return _unexpected()


def _unexpected() -> Problem:
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the request failed; the log of the hub says why")


def unavailable(detail: str) -> Problem:
    """503, worth another try in a few seconds."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def install(app: FastAPI) -> None:
    """Let every error that the app answers be a problem."""

    def answer(request: Request, error: Exception) -> Response:
        return render(request.url.path, as_problem(error))

    for kind in (Problem, psycopg.Error, TimeoutError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, answer)
    # The traceback goes to the log, not to the caller.
    app.add_exception_handler(Exception, answer)


def as_problem(error: Exception) -> Problem:
    """The problem that an exception is."""
    match error:
        case Problem():
            problem = error
        case psycopg.Error():
            problem = of_database(error)
        case TimeoutError():
            problem = unavailable("the database did not answer in time")
        case RequestValidationError():
            problem = _of_validation(error)
        case HTTPException():
            problem = Problem(error.status_code, error.detail, headers=error.headers)
        case ClientDisconnect():
            problem = Problem(HTTPStatus.BAD_REQUEST, "the client went away in the middle of its request")
        case _:
            problem = _unexpected()
    return problem


def render(path: str, problem: Problem) -> Response:
    """The answer that tells a problem of what was asked for at a path."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
    }
    if problem.hint:
        document["hint"] = problem.hint
    if problem.errors:
        document["errors"] = list(problem.errors)
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(keys.without_secrets(json.dumps(document, ensure_ascii=False)), problem.status, headers, MEDIA_TYPE)


def _as_postgrest(message: str, detail: str) -> Problem:
    said, answer = json.loads(message), json.loads(detail)
    parts = [said.get("message"), said.get("details")]
    return Problem(
        answer["status"],
        "; ".join(part for part in parts if part),
        hint=said.get("hint") or "",
        headers=answer.get("headers"),
    )


def _of_validation(error: RequestValidationError) -> Problem:
    errors = [{"field": ".".join(map(str, fault["loc"][1:])), "reason": _reason(fault)} for fault in error.errors()]
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the request has faults", errors=errors)


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "string_pattern_mismatch":
        # A pattern is written for programs.
        return "has a form that is not allowed"
    return str(fault["msg"]).removeprefix("Value error, ")


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [""])[0]
