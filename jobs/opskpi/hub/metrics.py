"""GET /metrics: KPIs, objectives, alerts and the jobs' health of the caller's org, in the formats of Prometheus."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from opskpi.hub.bearer import Key
from opskpi.hub.database import Caller, Database
from opskpi.hub.schemas import problems as described

SCRAPE = "select answer::text from ops.scrape() as answer"
SHARED_S = 3
OPENMETRICS = "application/openmetrics-text"
STATUSES = ("ok", "at_risk", "breached", "insufficient", "no_data")

Json = Mapping[str, Any]
# Label values and the value; without a value there is no sample.
Sample = tuple[Sequence[str], float | None]

router = APIRouter()


@router.get(
    "/metrics",
    summary="KPIs, objectives, alerts and jobs for Prometheus",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {OPENMETRICS: {"schema": {"type": "string"}}}},
        **described(401, 403, 500, 503),
    },
)
async def get_metrics(request: Request, key: Key) -> Response:
    """The gauges of the key's organisation, in Prometheus's text format or OpenMetrics if asked for; scope read."""
    caller = await request.app.state.database.recognise(key, ["read"])
    answer = await request.app.state.scrapes.of(caller)
    # Rendering thousands of samples must not keep other requests waiting.
    body, content_type = await asyncio.to_thread(render, answer, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store", "Vary": "Accept"})


class Scrapes:
    """Asks the database once for scrapes of one org that come together; the key of each is looked at by itself.

    An answer is shared while it is being made and `shared_s` seconds from when it was asked for.
    """

    def __init__(self, database: Database, shared_s: float = SHARED_S) -> None:
        self._database = database
        self._shared_s = shared_s
        self._asked: dict[tuple[UUID, frozenset[str]], tuple[float, asyncio.Task[Json]]] = {}

    async def of(self, caller: Caller) -> Json:
        """What `ops.scrape` tells the caller. What it raises is shared with nobody who comes later."""
        now = time.monotonic()
        self._asked = {key: kept for key, kept in self._asked.items() if self._is_good(*kept, now)}
        # What row level security can tell callers apart by: the role is the same for all.
        key = (caller.org_id, frozenset(caller.scopes))
        if key not in self._asked:
            self._asked[key] = (now, asyncio.create_task(self._ask(caller)))
        # Whoever goes away takes the answer from none of the others.
        return await asyncio.shield(self._asked[key][1])

    def _is_good(self, asked_at: float, task: asyncio.Task[Json], now: float) -> bool:
        if not task.done():
            return True
        return not task.cancelled() and task.exception() is None and now < asked_at + self._shared_s

    async def _ask(self, caller: Caller) -> Json:
        async with self._database.reading:
            return json.loads(await self._database.ask_as(caller, SCRAPE, []))


class _Gauges(Collector):
    def __init__(self, answer: Json) -> None:
        self._answer = answer

    def collect(self) -> Iterable[Metric]:
        yield from _kpis(self._answer["kpis"])
        yield from _slos(self._answer["slos"])
        yield _gauge(
            "opskpi_alerts",
            "Alerts of the organisation in this state now (count).",
            ("state", "severity"),
            (((alert["state"], alert["severity"]), alert["alerts"]) for alert in self._answer["alerts"]),
        )
        yield from _jobs(self._answer["jobs"])
        yield _gauge(
            "opskpi_events_waiting",
            "Events of the organisation that no refresh has counted yet (count).",
            (),
            [((), self._answer["events_waiting"])],
        )


def render(answer: Json, accept: str) -> tuple[bytes, str]:
    """What `ops.scrape` told, in the format that an Accept header asks for, and the content type of that format."""
    registry = CollectorRegistry()
    registry.register(_Gauges(answer))
    try:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type
    except (TypeError, ValueError):
        # The version is no number; the plain format is what everybody reads.
        encode, content_type = choose_encoder("")
        return encode(registry), content_type


def _kpis(kpis: Sequence[Json]) -> Iterator[Metric]:
    labels = ("metric", "unit", "period", "complete", "breakdown", "breakdown_value")
    told = [
        (
            (
                *(kpi["metric_name"], kpi["unit"], kpi["period"], str(kpi["complete"]).lower()),
                *(kpi["breakdown"], kpi["breakdown_value"]),
            ),
            kpi,
        )
        for kpi in kpis
    ]
    window = 'complete="true": the last whole hour or day; "false": the running one so far'
    yield _gauge(
        "opskpi_kpi_value",
        f"Value of a KPI in the unit of its label (percent, ms, bytes or count); {window}.",
        labels,
        ((values, kpi["metric_value"]) for values, kpi in told),
    )
    yield _gauge(
        "opskpi_kpi_samples",
        f"Events or values behind the value of a KPI (count); {window}.",
        labels,
        ((values, kpi["sample_count"]) for values, kpi in told),
    )


def _slos(slos: Sequence[Json]) -> Iterator[Metric]:
    labels = ("slo", "service", "objective", "group")
    # An empty label is, for Prometheus, one that is not there.
    told = [((slo["slo"], slo["service"], slo["objective"], slo["group"] or ""), slo) for slo in slos]
    yield _gauge(
        "opskpi_slo_status",
        "1 for the status that an objective has now, 0 for each other; stale: 1 beside it while its counts are stale.",
        (*labels, "status"),
        [
            *(((*values, status), float(status == slo["status"])) for values, slo in told for status in STATUSES),
            # Rules of before there was a gauge for freshness ask for it here.
            *(((*values, "stale"), float(slo["freshness"] == "stale")) for values, slo in told),
        ],
    )
    yield _gauge(
        "opskpi_slo_fresh",
        "1 if the counts of an objective are fresh, 0 if they are stale.",
        labels,
        [(values, float(slo["freshness"] == "fresh")) for values, slo in told],
    )
    yield _gauge(
        "opskpi_slo_stale_since_timestamp_seconds",
        "When the jobs last counted for an objective whose counts are stale (seconds since 1970).",
        labels,
        [(values, slo["stale_since"]) for values, slo in told],
        "seconds",
    )
    for field, name, text in (
        ("sli", "sli", "Share measured over the objective's window (ratio)."),
        ("target", "target", "Share promised over the objective's window (ratio)."),
        (
            "budget_left",
            "error_budget_left",
            "Share of the window's error budget that is left (ratio; negative: overspent).",
        ),
    ):
        yield _gauge(f"opskpi_slo_{name}_ratio", text, labels, [(values, slo[field]) for values, slo in told], "ratio")
    yield _gauge(
        "opskpi_slo_burn_rate",
        "Burn rate over the last 1h, 6h, 1d or 3d (1: the budget lasts exactly as long as the objective's window).",
        (*labels, "window"),
        (((*values, window), rate) for values, slo in told for window, rate in slo["burn_rates"].items()),
    )
    yield _gauge(
        "opskpi_slo_events",
        "What the objective counts in its window, exclusions applied (count of events or of time slices).",
        (*labels, "kind"),
        (((*values, kind), count) for values, slo in told for kind, count in slo["events"].items()),
    )


def _jobs(jobs: Sequence[Json]) -> Iterator[Metric]:
    for field, name, text, unit in (
        (
            "last_success_at",
            "last_success_timestamp_seconds",
            "When a job last did its work (seconds since 1970).",
            "seconds",
        ),
        (
            "last_duration_s",
            "last_run_duration_seconds",
            "How long a job took when it last did its work (seconds).",
            "seconds",
        ),
        ("last_failed", "last_run_failed", "1 if the newest run of a job failed, else 0.", ""),
    ):
        yield _gauge(f"opskpi_job_{name}", text, ("job",), [((job["job"],), job[field]) for job in jobs], unit)


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample], unit: str = "") -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels, unit=unit)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family
