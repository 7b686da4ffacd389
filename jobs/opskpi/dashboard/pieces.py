"""What the pages ask of the database: one query a piece, each a call of a function or a read of a view, as JSON.

A piece is asked for with the same parameters by every page and every reader of one org, so one answer serves them all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from opskpi.dashboard.view import View

Rows = list[dict[str, Any]]
EVENTS_EXPLAINED = 30
ALERTS_SHOWN = 200

WINDOW: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.period_window("
    "period => %(period)s, since => %(since)s, until => %(until)s, as_of => %(as_of)s) as answer"
)
KPIS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.kpi_window("
    "period => %(period)s, since => %(since)s, until => %(until)s, as_of => %(as_of)s, filters => %(filters)s,"
    " only_event_type => %(event_type)s, org_id => %(org_id)s) as answer"
)
ACTIVITY: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.activity("
    "period => %(period)s, since => %(since)s, until => %(until)s, filters => %(filters)s,"
    " only_event_type => %(event_type)s, org_id => %(org_id)s) as answer"
)
TEAMS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.team_compliance("
    "period => %(period)s, since => %(since)s, until => %(until)s, as_of => %(as_of)s, filters => %(filters)s,"
    " org_id => %(org_id)s) as answer"
)
PATTERNS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.top_patterns("
    "period => %(period)s, since => %(since)s, until => %(until)s, filters => %(filters)s, org_id => %(org_id)s)"
    " as answer"
)
POLICIES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_hook_policies"
    " where org_id = ops.caller_org(%(org_id)s)) as answer"
)
STATUS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_slo_status"
    " where org_id = ops.caller_org(%(org_id)s)) as answer"
)
BURN_RATES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.slo_burn_rates("
    "as_of => %(as_of)s, org_id => %(org_id)s) as answer"
)
BURNDOWN: LiteralString = (
    "select coalesce(json_agg(answer order by answer.day_start), '[]')::text from ops.slo_burndown("
    "as_of => %(as_of)s, slo_names => array[%(slo)s::text], only_org_id => ops.caller_org(%(org_id)s)) as answer"
)
BURNDOWNS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_error_budget_burndown"
    " where org_id = ops.caller_org(%(org_id)s) and slo_name = any(%(slos)s) order by slo_name, day_start) as answer"
)
EXCLUSIONS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select since, until, reason, author from ops.slo_exclusions"
    " where org_id = ops.caller_org(%(org_id)s) and slo_name = %(slo)s order by since desc limit 50) as answer"
)
EXPLAIN: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.newest_burners("
    "slo_name => %(slo)s, since => %(since)s, until => %(until)s, max_events => %(events_explained)s,"
    " org_id => %(org_id)s) as answer"
)
AUDIT_FAILURES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from ops.failed_audits"
    " where org_id = ops.caller_org(%(org_id)s) order by audit_timestamp desc, audit_run_id desc limit 20) as answer"
)
ALERTS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_alerts"
    " where org_id = ops.caller_org(%(org_id)s) order by state = 'resolved', alert_id desc limit %(alerts_shown)s)"
    " as answer"
)
DELIVERIES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_alert_deliveries"
    " where org_id = ops.caller_org(%(org_id)s) limit %(alerts_shown)s) as answer"
)
SILENCES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from (select * from public.v_ops_alert_silences"
    " where org_id = ops.caller_org(%(org_id)s) and until > %(as_of)s) as answer"
)
CHOICES: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.filter_choices(org_id => %(org_id)s) as answer"
)
FRESHNESS: LiteralString = (
    "select coalesce(json_agg(answer), '[]')::text from ops.freshness(org_id => %(org_id)s) as answer"
)

QUERIES: Mapping[str, LiteralString] = {
    "window": WINDOW,
    "kpis": KPIS,
    "activity": ACTIVITY,
    "teams": TEAMS,
    "patterns": PATTERNS,
    "policies": POLICIES,
    "status": STATUS,
    "burn_rates": BURN_RATES,
    "burndown": BURNDOWN,
    "exclusions": EXCLUSIONS,
    "explain": EXPLAIN,
    "audit_failures": AUDIT_FAILURES,
    "alerts": ALERTS,
    "deliveries": DELIVERIES,
    "silences": SILENCES,
    "choices": CHOICES,
    "freshness": FRESHNESS,
}
# Which filters are applied to what a page counts; the others are of no meaning there.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "overview": ("team", "hook_type", "workflow"),
    "hooks": ("team", "hook_type"),
    "supply-chain": ("workflow",),
    "slo": (),
    "alerts": (),
}
PAGE_PIECES: Mapping[str, tuple[str, ...]] = {
    "overview": ("window", "kpis", "activity", "status", "alerts"),
    "hooks": ("window", "kpis", "teams", "patterns", "policies"),
    "supply-chain": ("window", "kpis", "audit_failures"),
    "slo": ("window", "status", "burn_rates"),
    "alerts": ("window", "alerts", "deliveries", "silences"),
}
ALWAYS = ("choices", "freshness")
OF_ONE_SLO = ("burndown", "exclusions", "explain")


@dataclass(frozen=True, slots=True)
class Piece:
    """A query of a view, with its parameters; `key` is equal where the answers are."""

    name: str
    key: tuple[str, ...]
    query: LiteralString
    parameters: dict[str, object]


def of_view(view: View, org_id: UUID | None, now: datetime) -> list[Piece]:
    """The pieces that a view is made of, as of an instant; `org_id` None: the caller's own."""
    names = [*PAGE_PIECES[view.page], *ALWAYS, *(OF_ONE_SLO if view.page == "slo" and view.slo else ())]
    since, until = view.window(now)
    filters = view.labels(*FILTERS[view.page]) if FILTERS[view.page] else {}
    event_type = view.event_type if view.page == "overview" else ""
    parameters: dict[str, object] = {
        "period": view.effective_period(),
        "since": since,
        "until": until,
        "as_of": now,
        "filters": json.dumps(filters),
        "event_type": event_type or None,
        "slo": view.slo,
        "org_id": org_id,
        "events_explained": EVENTS_EXPLAINED,
        "alerts_shown": ALERTS_SHOWN,
    }
    # Not the instants: those of a range move with every call, and the answer does not.
    window = str(view.range) if view.range != "custom" else f"{since} {until}"
    key = (view.effective_period(), window, json.dumps(filters, sort_keys=True), event_type, view.slo)
    return [
        Piece(name, (name, *_relevant(name, key)), QUERIES[name], _used(QUERIES[name], parameters)) for name in names
    ]


def read(answer: str) -> Rows:
    """The rows of an answer; fractions stay exact."""
    return json.loads(answer, parse_float=Decimal)


def _used(query: LiteralString, parameters: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in parameters.items() if f"%({name})s" in query}


def _relevant(name: str, key: Sequence[str]) -> Sequence[str]:
    query = QUERIES[name]
    period, window, filters, event_type, slo = key
    return [
        *([period, window] if "%(since)s" in query else []),
        *([filters] if "%(filters)s" in query else []),
        *([event_type] if "%(event_type)s" in query else []),
        *([slo] if "%(slo)s" in query else []),
    ]
