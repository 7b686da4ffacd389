"""The HTTP API: each route takes a request apart, asks the database as the caller, and hands its answer on."""

import asyncio
import importlib.metadata
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from opskpi.access.keys import ApiKey
from opskpi.hub import dashboard, etags, exports, github, metrics, openapi_page, problems, pushing
from opskpi.hub.app_state import database_of
from opskpi.hub.bearer import Key
from opskpi.hub.bodies import read_json
from opskpi.hub.database import Database
from opskpi.hub.deadlines import ANSWER_S
from opskpi.hub.live import Live
from opskpi.hub.page_cache import PageCache
from opskpi.hub.readiness import Readiness
from opskpi.hub.schemas import (
    ETAG,
    Event,
    Health,
    HookMetrics,
    MetricsQuery,
    Policy,
    ProblemDetails,
    Stored,
    body,
    schemas,
)
from opskpi.hub.schemas import problems as described
from opskpi.hub.sessions import Sessions

TELEMETRY_BYTES = 1024 * 1024
POLICY_BYTES = 64 * 1024
DESCRIPTION = "Telemetry of git hooks and CI in, hook metrics and policy out. An API key is bound to one organisation."
BATCH = (
    '[{"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "ci", "duration_ms": 81200,'
    ' "event_id": "0b7d4a52-6f0e-4a3c-9a43-0d7c2e9f6a11", "timestamp": "2026-01-31T10:00:00Z"}}]'
)

INGEST = "select answer::text from public.ingest_events(events => %s::json) as answer"
METRICS = (
    "select answer::text from public.hook_metrics(org_id => %s, start_date => %s, end_date => %s, team => %s,"
    " hook_type => %s) as answer"
)
CURRENT_POLICY = "select answer::text from public.current_policy() as answer"
SET_POLICY = "select answer::text from public.set_policy(policy => %s::jsonb, expected_version => %s) as answer"

NO_VERSION = -1
VERSION_PASSED = "PT412"


router = APIRouter()


@router.post(
    "/api/v1/telemetry",
    summary="Store a batch of events",
    response_model=Stored,
    responses=described(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
    openapi_extra=body(
        {"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/Event"}, {}]}},
        json.loads(BATCH),
        "A JSON array of at most 1 MiB. Any element that is no well-formed event is refused by itself.",
    ),
)
async def post_telemetry(request: Request, key: Key) -> Response:
    """Store the events of a batch, each once. What is malformed is refused by itself, with the reason; scope ingest."""
    events = await read_json(request, TELEMETRY_BYTES)
    caller, answer = await database_of(request).call(key, ["ingest"], INGEST, [events])
    request.app.state.live.stored(caller.org_id)
    return _json(answer)


@router.get(
    "/api/v1/hooks/metrics",
    summary="What the git hooks did",
    response_model=HookMetrics,
    responses=described(401, 403, 422, 500, 503),
)
async def get_hook_metrics(request: Request, query: Annotated[MetricsQuery, Query()], key: Key) -> Response:
    """Count the executions of a range of days, events of this moment included; scope read."""
    asked = [query.org_id, query.start_date, query.end_date, query.team, query.hook_type]
    database = database_of(request)
    async with asyncio.timeout(ANSWER_S), database.reading:
        _, answer = await database.call(key, ["read"], METRICS, asked)
    return _json(answer)


@router.get(
    "/api/v1/policy",
    summary="The hook policy",
    response_model=Policy,
    responses={
        200: {"headers": ETAG},
        304: {"description": "It is still the one that If-None-Match names.", "headers": ETAG},
        **described(401, 403, 500, 503),
    },
)
async def get_policy(
    request: Request,
    key: Key,
    if_none_match: Annotated[str | None, Header(description="ETags that the caller has.")] = None,
) -> Response:
    """The policy of the key's organisation, with an ETag to ask again by; scope ingest or read."""
    caller, answer = await database_of(request).call(key, ["ingest", "read"], CURRENT_POLICY, [])
    tag = etags.entity_tag(caller.org_id, answer)
    if if_none_match is not None and etags.is_named(tag, if_none_match):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=_tagged(tag))
    return _json(answer, _tagged(tag))


@router.put(
    "/api/v1/policy",
    summary="Set the hook policy",
    response_model=Policy,
    responses={200: {"headers": ETAG}, **described(400, 401, 403, 408, 412, 413, 415, 422, 500, 503)},
    openapi_extra=body(
        {"type": "object"}, {"telemetry": {"enabled": True}}, "The policy, a JSON object of at most 64 KiB."
    ),
)
async def put_policy(
    request: Request,
    key: Key,
    if_match: Annotated[str | None, Header(description="The ETag of the policy that may be replaced.")] = None,
) -> Response:
    """Set a new version of the policy, only over the one that If-Match names, if it names one; scope admin."""
    policy = await read_json(request, POLICY_BYTES)
    async with asyncio.timeout(ANSWER_S):
        return await _set_policy(database_of(request), key, policy, if_match)


async def _set_policy(database: Database, key: ApiKey, policy: str, if_match: str | None) -> Response:
    expected_version = None
    if if_match is not None and if_match.strip() != "*":
        caller, standing = await database.call(key, ["admin"], CURRENT_POLICY, [])
        named = etags.is_strongly_named(etags.entity_tag(caller.org_id, standing), if_match)
        # Only the database knows whether the body is a policy at all, which comes before any condition.
        expected_version = json.loads(standing)["version"] if named else NO_VERSION
    try:
        caller, answer = await database.call(key, ["admin"], SET_POLICY, [policy, expected_version])
    except psycopg.Error as error:
        if error.sqlstate == VERSION_PASSED:
            raise problems.Problem(
                HTTPStatus.PRECONDITION_FAILED,
                "the policy is not the one that If-Match names",
                hint="Read it again, and set yours over that one.",
            ) from error
        raise
    return _json(answer, _tagged(etags.entity_tag(caller.org_id, answer)))


@router.get("/healthz", summary="Whether the process lives", response_model=Health, responses=described(500))
async def get_health() -> Response:
    """Answer without asking the database."""
    return _json('{"status": "ok"}')


@router.get("/readyz", summary="Whether requests can be answered", response_model=Health, responses=described(500, 503))
async def get_readiness(request: Request) -> Response:
    """Answer when the database does and has this program's migrations; else 503 and which of them is wrong."""
    await request.app.state.readiness.require()
    return _json('{"status": "ok"}')


@router.get("/docs", include_in_schema=False)
async def get_page(request: Request) -> Response:
    """This API as a page to read."""
    headers = {"Content-Security-Policy": openapi_page.CONTENT_SECURITY_POLICY}
    return HTMLResponse(openapi_page.render(request.app.openapi()), headers=headers)


def create_app(dsn: str, connections: int, sessions: Sessions, webhook: github.Webhook | None = None) -> FastAPI:
    """The app over a database, with a pool of at most `connections`, which opens and closes with the app.

    `sessions` knows who may see the dashboard. Without `webhook` it takes none of GitHub's.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(dsn, connections)
        app.state.database = database
        app.state.readiness = Readiness(dsn)
        app.state.webhook = webhook
        app.state.sessions = sessions
        app.state.live = Live(database, dsn)
        app.state.page_cache = PageCache(database, app.state.live, connections)
        app.state.scrapes = metrics.Scrapes(database)
        await database.open()
        yield
        await app.state.live.close()
        await database.close()

    app = FastAPI(
        title="opskpi hub",
        version=importlib.metadata.version("opskpi"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(router)
    app.include_router(github.router)
    app.include_router(dashboard.router)
    app.include_router(pushing.router)
    if sessions.is_open:
        # A page of another site could otherwise reach this one under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    app.include_router(metrics.router)
    app.include_router(exports.router)
    problems.install(app)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _refuse_method)

    app.openapi = lambda: _document(app)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once, with problems where FastAPI would have errors of its own form."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document["components"]["schemas"]
        components |= schemas([Event, ProblemDetails])
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation["responses"] = {str(status): said for status, said in described(400, 431).items()} | operation[
                "responses"
            ]
            # Headers cannot be malformed.
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


async def _refuse_method(request: Request, error: Exception) -> Response:
    """405 with the methods of every route of the path, where the framework knows those of the first."""
    problem = problems.as_problem(error)
    methods = request.app.openapi()["paths"].get(request.url.path)
    if methods:
        problem.headers = {"Allow": ", ".join(sorted(map(str.upper, methods)))}
    return problems.render(request.url.path, problem)


def _json(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, headers={"Cache-Control": "no-store", **(headers or {})}, media_type="application/json")


def _tagged(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
