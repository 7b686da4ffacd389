"""Events and audits for the tests, refreshes at fixed instants, and all that the aggregation keeps."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, scalar_row, tuple_row
from psycopg.types.json import Json, Jsonb

NIL = UUID(int=0)
NOON = "2026-03-10T12:00:00Z"
AS_OF = "2026-06-01T00:00:00Z"
MONTHS = ("2026-01", "2026-02", "2026-03")
Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a refresh answers."""

    state: str
    events: int
    cursor_id: int
    behind: int
    hour_rows: int
    day_rows: int
    week_rows: int
    month_rows: int
    message: str | None


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def at(time: str) -> str:
    """Return that time of the day of most tests."""
    return f"2026-03-10T{time}Z"


def rows(connection: Connection, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def scalar(connection: Connection, query: LiteralString, *parameters: object) -> Any:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query, parameters).fetchone()


def refresh(
    connection: Connection, *, max_wait: str = "0", max_ids: int = 200_000, as_of: str | datetime = AS_OF
) -> Report:
    with connection.cursor(row_factory=class_row(Report)) as cursor:
        query = "select * from ops.refresh(max_wait => %s, max_ids => %s, as_of => %s)"
        report = cursor.execute(query, [max_wait, max_ids, as_of]).fetchone()
    assert report is not None
    return report


def rebuild(connection: Connection, since: str | datetime, until: str | datetime) -> int:
    return scalar(connection, "select ops.rebuild(since => %s, until => %s, as_of => %s)", since, until, AS_OF)


def add_event(
    connection: Connection,
    event_type: str = "slsa_provenance",
    at: str | datetime = NOON,
    *,
    metadata: object = None,
    run_id: int | None = None,
    tag: str | None = None,
    org_id: UUID = NIL,
    agent_id: UUID | None = None,
    event_id: UUID | None = None,
    **said: object,
) -> int:
    """Insert an event as a user does and return its id; what it says is its metadata."""
    return scalar(
        connection,
        "insert into public.telemetry_events"
        " (event_type, event_timestamp, run_id, tag, metadata, org_id, agent_id, event_id)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id",
        *(event_type, at, run_id, tag, Jsonb(said) if metadata is None else metadata, org_id, agent_id),
        event_id or uuid4(),
    )


def add_events(
    connection: Connection, count: int, event_type: str, at: str | datetime, *, org_id: UUID = NIL, **said: object
) -> None:
    """Insert `count` equal events."""
    connection.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, org_id, metadata)"
        " select %s, %s, %s, %s from generate_series(1, %s)",
        [event_type, at, org_id, Jsonb(said), count],
    )


def fill_past_months(connection: Connection) -> None:
    """Store and count three months of the past, whatever the clock says."""
    for month in MONTHS:
        connection.execute("select ops.create_partition(%s)", [f"{month}-01"])
        add_event(connection, at=f"{month}-10T10:00Z", outcome="success", duration_ms=7)
        add_event(connection, "hook_override", f"{month}-10T10:00Z", findings_count=1)
    refresh(connection)


def ingest(connection: Connection, *documents: Mapping[str, object]) -> dict[str, Any]:
    return scalar(connection, "select public.ingest_events(%s)", Json(documents))


def add_audit(connection: Connection, run: int, at: str | datetime = NOON, **columns: object) -> None:
    """Insert an audit whose provenance and validation succeeded, unless the columns say otherwise."""
    audit = {"audit_run_id": run, "audit_timestamp": str(at)} | columns
    audit = {"provenance_status": "success", "validation_status": "success", "org_id": str(NIL)} | audit
    connection.execute(
        "insert into public.slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status,"
        "  org_id, sha256_verified, predicate_type_verified, supabase_provenance_synced, supabase_validation_synced)"
        " select audit_run_id, audit_timestamp, provenance_status, validation_status, org_id,"
        "  coalesce(sha256_verified, false), coalesce(predicate_type_verified, false),"
        "  coalesce(supabase_provenance_synced, false), coalesce(supabase_validation_synced, false)"
        " from jsonb_populate_record(null::public.slsa_audit_metrics, %s)",
        [Jsonb(audit)],
    )


def kpis(connection: Connection, metric: str, period: str = "day") -> list[tuple[str, dict[str, str], Decimal]]:
    """Return start (UTC), labels and value of a KPI's stored rows, in order."""
    return rows(
        connection,
        "select to_char(period_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), labels, metric_value"
        ' from public.kpi_aggregations where metric_name = %s and aggregation_period = %s order by 1, labels::text collate "C"',
        metric,
        period,
    )


STATES: dict[str, LiteralString] = {
    "rollups": "select org_id, event_type, labels::text, period, period_start, event_count, value_count, value_sum,"
    " value_min, value_max from ops.rollups join ops.series using (org_id, series_id) order by 1, 2, 3, 4, 5",
    "histograms": "select org_id, period, period_start, event_type, labels::text, counts::text from ops.histograms"
    " order by 1, 2, 3, 4, 5",
    "patterns": "select org_id, period, period_start, hook_type, pattern, team, blocked_count from ops.blocked_patterns"
    " order by 1, 2, 3, 4, 5",
    "kpis": "select org_id, metric_name, labels::text, aggregation_period, period_start, period_end, metric_value,"
    " metadata from public.kpi_aggregations order by 1, 2, 3, 4, 5",
    "slis": "select org_id, slo_name, slo_group::text, bucket_start, good, total from ops.slo_counts order by 1, 2, 3, 4",
    "units": "select org_id, event_type, counted_as, unit, first_attempt_at, succeeded"
    " from ops.work_units join ops.counted_slis on counted_as = sli_id order by 1, 2, 3, 4",
}


def states(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that the aggregation keeps, whole and in order."""
    return {name: rows(connection, query) for name, query in STATES.items()}


def add_slo(
    connection: Connection,
    name: str = "deploys",
    *,
    objective: str = "error_rate",
    event_type: str = "deploy",
    target: object = "0.9",
    threshold_ms: object = None,
    window: str | None = "30 days",
    calendar: str | None = None,
    zone: str | None = None,
    slices: tuple[str, object] | None = None,
    expected_interval: str | None = "10 years",
    valid_from: str | datetime = "-infinity",
    at_most: object = None,
    total: Mapping[str, object] | None = None,
    good: Mapping[str, object] | None = None,
    bad: Mapping[str, object] | None = None,
    group_by: Sequence[str] = (),
) -> None:
    """Insert an objective as a user does; slices are the length of a slice and its target, total, good and bad are labels."""
    connection.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target, threshold_ms,"
        " rolling_window, calendar_period, time_zone, budgeting_method, time_slice, slice_target, expected_interval,"
        " valid_from, at_most, total_labels, good_labels, bad_labels, group_by)"
        " values (%s, 'shop', %s, 'a promise', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(name, objective, event_type, target, threshold_ms, None if calendar else window, calendar, zone),
            *("timeslices" if slices else "occurrences", *(slices or (None, None)), expected_interval, valid_from),
            *(at_most, Jsonb(total or {}), Jsonb(good or {}), Jsonb(bad) if bad is not None else None, list(group_by)),
        ],
    )


def evaluate(
    connection: Connection,
    slo: str,
    *columns: str,
    as_of: str | datetime,
    with_fresh: bool = False,
    org_id: UUID = NIL,
) -> tuple[Any, ...]:
    """Return columns of how one objective stands, as if the jobs had just run."""
    connection.execute("update ops.job_runs set finished_at = %s", [as_of])
    query = sql.SQL(
        "select {} from ops.evaluate_slos(as_of => %s, with_fresh => %s, slo_names => array[%s]) where org_id = %s"
    ).format(sql.SQL(", ").join(map(sql.Identifier, columns)))
    with connection.cursor(row_factory=tuple_row) as cursor:
        (found,) = cursor.execute(query, [as_of, with_fresh, slo, org_id]).fetchall()
    return found


@dataclass(frozen=True, slots=True)
class AlertReport:
    """What an evaluation of the alert rules answers."""

    state: str
    found: int | None
    fired: int | None
    resolved: int | None
    frozen: int | None
    queued: int | None


def evaluate_alerts(connection: Connection, as_of: str | datetime, kinds: list[str] | None = None) -> AlertReport:
    with connection.cursor(row_factory=class_row(AlertReport)) as cursor:
        query = "select * from ops.evaluate_alerts(as_of => %s, kinds => %s)"
        report = cursor.execute(query, [as_of, kinds]).fetchone()
    assert report is not None
    return report


def run_jobs(connection: Connection, as_of: str | datetime) -> AlertReport:
    """Refresh and evaluate the alert rules, as cron would have done at that instant."""
    refresh(connection, as_of=as_of)
    connection.execute("update ops.job_runs set finished_at = %s where job = 'refresh'", [as_of])
    return evaluate_alerts(connection, as_of)


def wait_for_a_writer(connection: Connection, *, since: str | datetime, until: str | datetime) -> None:
    """Let refreshes have waited all the time between two instants, as the journal and the cursor tell."""
    connection.execute("update ops.cursors set advanced_at = %s", [since])
    connection.execute(
        "insert into ops.job_runs (job, started_at, finished_at, outcome) select 'refresh', at, at, 'waiting'"
        " from generate_series(%s::timestamptz + interval '5 minutes', %s, interval '5 minutes') as at",
        [since, until],
    )
    connection.execute(
        "insert into ops.job_runs (job, started_at, finished_at, outcome) values ('refresh', %(at)s, %(at)s, 'waiting')",
        {"at": until},
    )


def add_row(connection: Connection, table: str, **columns: object) -> None:
    """Insert a row into a table of the schema ops."""
    connection.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier("ops", table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        ),
        list(columns.values()),
    )


def add_rule(connection: Connection, name: str, kind: str, severity: str = "ticket", **columns: object) -> None:
    add_row(connection, "alert_rules", rule_name=name, kind=kind, severity=severity, **columns)


def add_channel(connection: Connection, name: str = "ops", **columns: object) -> None:
    add_row(
        connection, "alert_channels", **{"channel_name": name, "kind": "webhook", "secret_env": "OPS_URL"} | columns
    )


def alerts(connection: Connection) -> list[tuple[str, str, str]]:
    """Return rule, subject and state of each alert, in order."""
    return rows(connection, "select rule_name, subject, state from ops.alerts order by 1, 2, alert_id")


def told(connection: Connection) -> list[tuple[str, str, list[str], list[str]]]:
    """Return channel, group, and the rules said to fire and to be over, of each message in the outbox."""
    return rows(
        connection,
        "select channel_name, group_key,"
        " array(select fact ->> 'rule' from jsonb_array_elements(message -> 'firing') as fact order by 1),"
        " array(select fact ->> 'rule' from jsonb_array_elements(message -> 'resolved') as fact order by 1)"
        " from ops.alert_deliveries where state <> 'silenced' order by delivery_id",
    )


@contextmanager
def refused(code: str = "OP001") -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """Expect a refusal with the SQLSTATE that says the way out; PostgREST reads its own from the message."""
    with pytest.raises(psycopg.Error) as caught:
        yield caught
    assert caught.value.sqlstate == code
    assert code == "PGRST" or caught.value.diag.message_hint
