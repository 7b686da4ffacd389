"""Exports as the hub offers them: the subjects and filters of `opskpi export`, in the format that Accept asks for."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from opskpi.access.keys import ApiKey
from opskpi.errors import OpsKpiError
from opskpi.exporting import formats, statements, subjects
from opskpi.exporting.formats import Format
from opskpi.exporting.parquet import GROUP_BYTES, Encoder
from opskpi.exporting.subjects import AUDITS, EVENTS, KPIS, SLO, Subject
from opskpi.exporting.writing import CHUNK_BYTES
from opskpi.hub import content_negotiation
from opskpi.hub.bearer import Key
from opskpi.hub.database import Database
from opskpi.hub.problems import Problem
from opskpi.hub.schemas import Json, Name, Org, written_as
from opskpi.hub.schemas import problems as described
from opskpi.hub.streams import Stream

PARAMETERS = {"text/csv": "; charset=utf-8; header=present"}
EVERY_TYPE = {media_type: form for form in Format for media_type in form.media_types}
ANSWER: dict[int | str, Json] = {
    200: {
        "description": "The rows. A body that does not end as HTTP says it ends is not whole.",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in EVERY_TYPE},
        "headers": {name: {"required": True, "schema": {"type": "string"}} for name in ("Content-Disposition", "Vary")},
    },
    **described(401, 403, 406, 422, 500, 503),
}


def _one_of_int64(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise ValueError("must be a whole number of 64 bits")
    return number


Instant = Annotated[
    datetime,
    written_as(
        r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?",
        "2026-01-31T12:00:00Z or 2026-01-31",
    ),
]
Names = Annotated[list[Name] | None, Field(max_length=100)]
Tag = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
RunId = Annotated[int, written_as(r"-?\d{1,19}", "a whole number"), AfterValidator(_one_of_int64)]
Label = Annotated[str, Field(max_length=200, pattern=r"^[^=\x00]+=[^\x00]*$")]


class ExportQuery(BaseModel):
    """What every export can be narrowed by."""

    model_config = ConfigDict(extra="forbid")

    since: Instant | None = Field(None, description="The first instant; UTC without an offset.")
    until: Instant | None = Field(None, description="The first instant after the range.")
    org_id: Org | None = Field(None, description="The organisation: the API key's own.")
    spreadsheet_safe: bool = Field(
        default=False, description="Put an apostrophe before text that a spreadsheet would run as a formula; CSV only."
    )


class EventsQuery(ExportQuery):
    """Which events."""

    event_type: Names = Field(None, description="Only these kinds.")
    tag: Tag | None = Field(None, description="Only of this release tag.")
    run_id: RunId | None = Field(None, description="Only of this CI run.")


class KpisQuery(ExportQuery):
    """Which values of KPIs."""

    metric: Names = Field(None, description="Only these KPIs.")
    period: Annotated[list[Literal["hour", "day", "week", "month"]] | None, Field(max_length=100)] = Field(
        None, description="Only these periods."
    )
    breakdowns: bool = Field(default=False, description="Also by team, hook type and so on.")
    label: Annotated[list[Label] | None, Field(max_length=100)] = Field(
        None, description="Only this breakdown, KEY=VALUE."
    )


class AuditsQuery(ExportQuery):
    """Which audits."""

    tag: Tag | None = Field(None, description="Only of this release tag.")
    status: Literal["success", "failure", "skipped", "unknown"] | None = Field(
        None, description="Only audits whose provenance or validation has this status."
    )


class SloQuery(ExportQuery):
    """Which days of objectives."""

    slo: Names = Field(None, description="Only these objectives.")


router = APIRouter()


@router.get("/api/v1/export/events", summary="Export events", response_class=Response, responses=ANSWER)
async def get_events(request: Request, query: Annotated[EventsQuery, Query()], key: Key) -> Response:
    """The events of the key's organisation, in no order; JSON lines are what the ingestion takes back. Scope read."""
    return _export(request, EVENTS, query, key)


@router.get("/api/v1/export/kpis", summary="Export KPIs", response_class=Response, responses=ANSWER)
async def get_kpis(request: Request, query: Annotated[KpisQuery, Query()], key: Key) -> Response:
    """The values of KPIs, events of this moment included; scope read."""
    return _export(request, KPIS, query, key)


@router.get("/api/v1/export/audits", summary="Export audits", response_class=Response, responses=ANSWER)
async def get_audits(request: Request, query: Annotated[AuditsQuery, Query()], key: Key) -> Response:
    """The audits of provenance; scope read."""
    return _export(request, AUDITS, query, key)


@router.get("/api/v1/export/slo", summary="Export days of SLOs", response_class=Response, responses=ANSWER)
async def get_slo(request: Request, query: Annotated[SloQuery, Query()], key: Key) -> Response:
    """Good and total of each objective and day, by the version that held then; scope read."""
    return _export(request, SLO, query, key)


def _export(request: Request, subject: Subject, query: ExportQuery, key: ApiKey) -> Response:
    media_type = _media_type(request)
    form = EVERY_TYPE[media_type]
    given = query.model_dump()
    org_id, is_spreadsheet_safe = given.pop("org_id"), given.pop("spreadsheet_safe")
    try:
        formats.require(form, is_spreadsheet_safe=is_spreadsheet_safe)
        values = subjects.understand(given)
    except OpsKpiError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, hint=error.hint) from error
    database: Database = request.app.state.database

    @asynccontextmanager
    async def source() -> AsyncIterator[AsyncIterator[bytes]]:
        statement = statements.copy(subject, form.rows, values, is_spreadsheet_safe=is_spreadsheet_safe)
        size = GROUP_BYTES if form is Format.PARQUET else CHUNK_BYTES
        async with database.copy(key, ["read"], statement, values, org_id=org_id, chunk_bytes=size) as chunks:
            yield _in_parquet(subject, chunks) if form is Format.PARQUET else chunks

    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="opskpi-{subject.name}{form.endings[0]}"',
        "Vary": "Accept, Authorization",
    }
    return Stream(source, media_type + PARAMETERS.get(media_type, ""), headers)


def _media_type(request: Request) -> str:
    offered = [name for name, form in EVERY_TYPE.items() if form is not Format.PARQUET or formats.has_parquet()]
    chosen = content_negotiation.choose(offered, request.headers.getlist("accept"))
    if chosen is None:
        raise Problem(
            HTTPStatus.NOT_ACCEPTABLE,
            "no format that is offered is acceptable",
            hint=f"Accept one of {', '.join(offered)}.",
            headers={"Vary": "Accept, Authorization"},
        )
    return chosen


async def _in_parquet(subject: Subject, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # It takes the processor for long, and lets go of Python meanwhile; one thread, since each keeps memory of its own.
    thread = ThreadPoolExecutor(1, "opskpi-parquet")
    loop = asyncio.get_running_loop()
    try:
        encoder = await loop.run_in_executor(thread, Encoder, subject)
        async for rows in chunks:
            yield await loop.run_in_executor(thread, encoder.encode, rows)
        yield await loop.run_in_executor(thread, encoder.finish)
    finally:
        thread.shutdown(wait=False)
