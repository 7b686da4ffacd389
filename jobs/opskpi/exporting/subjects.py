"""What can be exported: of each subject the relation, its columns and the filters that fit it; for terminal and hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from opskpi.clocks import with_zone
from opskpi.errors import ExitCode, OpsKpiError

Kind = Literal["text", "instant", "whole", "decimal", "boolean", "uuid", "json"]
Given = str | int | bool | datetime | UUID | tuple[str, ...] | list[str] | None
AUDIT_STATUSES = ("success", "failure", "skipped", "unknown")
PERIODS = ("hour", "day", "week", "month")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the relation: whether it may be null, and whether JSON lines have it too."""

    name: str
    kind: Kind
    nullable: bool = True
    in_lines: bool = True


@dataclass(frozen=True, slots=True)
class Subject:
    """A relation to export; the first column that JSON lines have is never null.

    `filters` are conditions with one named parameter each; `defaults` are conditions that hold while none of the
    filters beside them is given. `order` makes two exports comparable; without it rows come as they are stored.
    """

    name: str
    relation: tuple[str, str]
    columns: tuple[Column, ...]
    instant: str
    filters: Mapping[str, LiteralString]
    order: tuple[str, ...] = ()
    defaults: Mapping[LiteralString, tuple[str, ...]] = field(default_factory=dict)

    def conditions(self, values: Mapping[str, object]) -> list[sql.Composable]:
        """The conditions of the filters that have a value, whose names are their parameters."""
        instant = sql.Identifier(self.instant)
        everyone = {
            "since": sql.SQL("{} >= %(since)s").format(instant),
            "until": sql.SQL("{} < %(until)s").format(instant),
            "org": sql.SQL("org_id = %(org)s"),
        }
        own = {name: sql.SQL(condition) for name, condition in self.filters.items()}
        given: list[sql.Composable] = [condition for name, condition in (everyone | own).items() if name in values]
        return given + [
            sql.SQL(condition) for condition, filters in self.defaults.items() if not set(filters) & set(values)
        ]


EVENTS = Subject(
    "events",
    ("public", "telemetry_events"),
    # In the order of the table; JSON lines have what ingest_events takes back, which draws or derives the others.
    (
        Column("id", "whole", in_lines=False),
        Column("event_type", "text", nullable=False),
        Column("event_timestamp", "instant", nullable=False),
        Column("run_id", "whole"),
        Column("tag", "text"),
        Column("metadata", "json"),
        Column("created_at", "instant", in_lines=False),
        Column("event_id", "uuid", nullable=False),
        Column("org_id", "uuid", nullable=False),
        Column("agent_id", "uuid"),
        Column("outcome", "text", in_lines=False),
        Column("duration_ms", "decimal", in_lines=False),
    ),
    instant="event_timestamp",
    filters={
        "event_type": "event_type = any(%(event_type)s)",
        "tag": "tag = %(tag)s",
        "run_id": "run_id = %(run_id)s",
    },
)
KPIS = Subject(
    "kpis",
    ("ops", "kpis"),
    (
        Column("org_id", "uuid", nullable=False),
        Column("metric_name", "text", nullable=False),
        Column("labels", "json", nullable=False),
        Column("aggregation_period", "text", nullable=False),
        Column("period_start", "instant", nullable=False),
        Column("period_end", "instant", nullable=False),
        Column("metric_value", "decimal", nullable=False),
        Column("unit", "text"),
        Column("numerator", "decimal"),
        Column("denominator", "decimal"),
        Column("sample_count", "whole"),
    ),
    instant="period_start",
    filters={
        "metric": "metric_name = any(%(metric)s)",
        "period": "aggregation_period = any(%(period)s)",
        "breakdowns": "%(breakdowns)s",
        "label": "labels @> %(label)s",
    },
    order=("org_id", "metric_name", "aggregation_period", "period_start", "labels"),
    defaults={"labels = '{}'": ("breakdowns", "label")},
)
AUDITS = Subject(
    "audits",
    ("public", "slsa_audit_metrics"),
    (
        Column("id", "whole", in_lines=False),
        Column("audit_run_id", "whole", nullable=False),
        Column("provenance_run_id", "whole"),
        Column("validation_run_id", "whole"),
        Column("audit_timestamp", "instant", nullable=False),
        Column("provenance_status", "text", nullable=False),
        Column("validation_status", "text", nullable=False),
        Column("sha256_verified", "boolean", nullable=False),
        Column("predicate_type_verified", "boolean", nullable=False),
        Column("supabase_provenance_synced", "boolean", nullable=False),
        Column("supabase_validation_synced", "boolean", nullable=False),
        Column("tag", "text"),
        Column("sha256", "text"),
        Column("predicate_type", "text"),
        Column("builder_id", "text"),
        Column("content_sha256", "text"),
        Column("provenance_run_url", "text"),
        Column("validation_run_url", "text"),
        Column("metadata", "json"),
        Column("created_at", "instant", in_lines=False),
        Column("updated_at", "instant", in_lines=False),
        Column("org_id", "uuid", nullable=False),
    ),
    instant="audit_timestamp",
    filters={"tag": "tag = %(tag)s", "status": "%(status)s in (provenance_status, validation_status)"},
    order=("audit_timestamp", "audit_run_id"),
)
SLO = Subject(
    "slo",
    ("public", "v_ops_slo_history"),
    (
        Column("org_id", "uuid", nullable=False),
        Column("slo_name", "text", nullable=False),
        Column("version", "whole", nullable=False),
        Column("day_start", "instant", nullable=False),
        Column("target", "decimal", nullable=False),
        Column("good", "whole", nullable=False),
        Column("total", "whole", nullable=False),
        Column("sli", "decimal"),
        Column("good_unadjusted", "whole"),
        Column("total_unadjusted", "whole"),
        Column("slo_group", "json", nullable=False),
    ),
    instant="day_start",
    filters={"slo": "slo_name = any(%(slo)s)"},
    order=("org_id", "slo_name", "slo_group", "day_start", "version"),
)


def understand(given: Mapping[str, Given]) -> dict[str, object]:
    """The parameters that filters as given come to; what is None, False or empty is no filter.

    Raises OpsKpiError (BAD_ARGUMENT) for an empty range, an instant beyond the calendar, a label that is no KEY=VALUE.
    """
    values: dict[str, object] = {}
    for name, value in given.items():
        if value is None or value is False or value in ((), []):
            continue
        if isinstance(value, datetime):
            values[name] = _in_utc(name, value)
        elif name == "label" and isinstance(value, tuple | list):
            values[name] = Jsonb(dict(_label(text) for text in value))
        else:
            values[name] = list(value) if isinstance(value, tuple) else value
    since, until = values.get("since"), values.get("until")
    if isinstance(since, datetime) and isinstance(until, datetime) and since >= until:
        raise OpsKpiError(f"the range is empty: {since} to {until}", "Pass since before until.", ExitCode.BAD_ARGUMENT)
    return values


def _in_utc(name: str, instant: datetime) -> datetime:
    try:
        return with_zone(instant).astimezone(UTC)
    except OverflowError:
        raise OpsKpiError(f"{name} is beyond the calendar: {instant}", exit_code=ExitCode.BAD_ARGUMENT) from None


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals) or not text.isprintable():
        raise OpsKpiError(f"{text!r} is no label", "Write KEY=VALUE, such as team=payments.", ExitCode.BAD_ARGUMENT)
    return key, value
