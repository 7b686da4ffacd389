"""The dashboard: pages made on the server, their forms, and the login before both."""

import asyncio
import hashlib
import importlib.resources
import mimetypes
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

import psycopg
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from opskpi.dashboard import pages
from opskpi.dashboard.layout import PAGES
from opskpi.dashboard.pages import Rendered
from opskpi.dashboard.view import View, parse
from opskpi.errors import OpsKpiError
from opskpi.groups import with_group_as_stored
from opskpi.hub import bodies, problems
from opskpi.hub.app_state import database_of, live_of, page_cache_of, sessions_of
from opskpi.hub.deadlines import ANSWER_S
from opskpi.hub.page_cache import Answers, parsed
from opskpi.hub.problems import Problem
from opskpi.hub.sessions import Session, require_same_origin

# Nothing but our own files: no inline script or style, no other host.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-store"}
FORM_BYTES = 16 * 1024
SILENCE = "select public.silence_own_alerts(matcher => %s, until => %s, reason => %s)::text"

router = APIRouter(include_in_schema=False)


@router.get("/static/{name}")
async def get_static(name: str, request: Request) -> Response:
    """A file of ours: style, script, icon."""
    folder = importlib.resources.files("opskpi.dashboard") / "static"
    known = {file.name: file for file in folder.iterdir()}
    if name not in known:
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such file")
    content = known[name].read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])


@router.get("/login")
async def get_login(request: Request) -> Response:
    """The form that asks for a key."""
    return _login_page(request, request.query_params.get("next", "/"), "")


@router.post("/login")
async def post_login(request: Request) -> Response:
    """Take a key or token and start a session."""
    sessions, address = sessions_of(request), request.client.host if request.client else ""
    try:
        require_same_origin(request)
        said = await _form(request)
        async with asyncio.timeout(ANSWER_S):
            session = await sessions.begin(said.get("key", "").strip(), database_of(request))
        if session is None:
            # Never a key that is right: behind a proxy all come from one address, and one of them fails on purpose.
            sessions.attempts.require_some_left(address)
            sessions.attempts.failed(address)
    except (Problem, psycopg.Error, TimeoutError) as error:
        return _failed(error)
    where_to = said.get("next", "/")
    if session is None:
        fault = "This key is unknown, revoked, expired or lacks the scope read."
        return _login_page(request, where_to, fault, HTTPStatus.UNAUTHORIZED)
    answer = RedirectResponse(_own_path(where_to), HTTPStatus.SEE_OTHER, HEADERS)
    # Behind a proxy that speaks TLS the browser says so.
    sessions.remember(answer, session, secure=request.headers.get("origin", "").startswith("https://"))
    return answer


@router.post("/logout")
async def post_logout(request: Request) -> Response:
    """End the session, also for whoever holds a copy of its cookie."""
    try:
        require_same_origin(request)
        said = await _form(request)
        async with asyncio.timeout(ANSWER_S):
            session = await _own_session(request, said)
            await sessions_of(request).end(session, database_of(request))
    except (Problem, psycopg.Error, TimeoutError) as error:
        return _failed(error)
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER, HEADERS)
    answer.delete_cookie("opskpi_session", path="/")
    return answer


@router.post("/alerts/silence")
async def post_silence(request: Request) -> Response:
    """Silence alerts of the reader's org, as `opskpi alert silence` does."""
    try:
        require_same_origin(request)
        said = await _form(request)
        async with asyncio.timeout(ANSWER_S):
            session = await _own_session(request, said)
            zone = parse("alerts", {"tz": said.get("tz", "UTC")}).clock
            until = datetime.fromisoformat(said.get("until", "")).replace(tzinfo=zone)
            await database_of(request).ask_as(
                session.caller, SILENCE, [with_group_as_stored(said.get("matcher", "")), until, said.get("reason", "")]
            )
    except ValueError:
        return _failed(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "until is no instant", hint="Choose a day and a time."))
    except (Problem, OpsKpiError, psycopg.Error, TimeoutError) as error:
        return _failed(error)
    live_of(request).stored(session.caller.org_id)
    return RedirectResponse("/alerts", HTTPStatus.SEE_OTHER, HEADERS)


async def get_page(request: Request) -> Response:
    """A page of the dashboard, as its URL says."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await _page_of(request)
    except (Problem, OpsKpiError, psycopg.Error, TimeoutError) as error:
        return _failed(error)


async def _page_of(request: Request) -> Response:
    session = await sessions_of(request).find(request, database_of(request))
    if session is None:
        where_to = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        return RedirectResponse(f"/login?{urlencode({'next': where_to})}", HTTPStatus.SEE_OTHER, HEADERS)
    view = parse(request.url.path.strip("/") or "overview", request.query_params)
    answers, shown = await page_cache_of(request).shown(session.caller, view)
    # In a thread: whoever sends telemetry must not wait for a page.
    text = await asyncio.to_thread(_page, view, answers, shown, session)
    return HTMLResponse(text, headers=HEADERS)


for name in PAGES:
    router.add_api_route("/" if name == "overview" else f"/{name}", get_page, include_in_schema=False)


def _page(view: View, answers: Answers, shown: list[Rendered], session: Session) -> str:
    return pages.page(view, parsed(answers), shown=shown, reader=session.reader)


def _failed(error: Exception) -> Response:
    """The page that says what went wrong and what to do."""
    if isinstance(error, OpsKpiError):
        error = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, hint=error.hint)
    problem = problems.as_problem(error)
    title = HTTPStatus(problem.status).phrase
    hint = problem.hint or ("Try again in a few seconds." if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else "")
    text = pages.message(title, f"{problem.detail[:1].upper()}{problem.detail[1:]}.", hint)
    return HTMLResponse(text, problem.status, HEADERS | dict(problem.headers))


def _login_page(request: Request, where_to: str, fault: str, status: int = HTTPStatus.OK) -> Response:
    text = pages.login(
        View(), fault=fault, where_to=_own_path(where_to), takes_tokens=sessions_of(request).takes_tokens
    )
    return HTMLResponse(text, status, HEADERS)


async def _own_session(request: Request, said: Mapping[str, str]) -> Session:
    """The session whose form was filled in so. Raises Problem for the form of another."""
    session = await sessions_of(request).find(request, database_of(request))
    if session is None:
        raise Problem(HTTPStatus.UNAUTHORIZED, "the session has ended", hint="Log in again and repeat it.")
    sessions_of(request).require_own_form(session, said.get("token", ""))
    return session


async def _form(request: Request) -> dict[str, str]:
    body = await bodies.read(request, FORM_BYTES)
    try:
        said = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the form cannot be read") from None
    if "\0" in "".join(said.values()):
        raise Problem(HTTPStatus.BAD_REQUEST, "the form holds a NUL character")
    return said


def _own_path(text: str) -> str:
    """A path of ours, whatever a link asked for."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_own else "/"
