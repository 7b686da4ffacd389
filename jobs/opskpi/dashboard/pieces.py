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

from opskpi import groups
from opskpi.dashboard.layout import PAGES, pieces_of
from opskpi.dashboard.view import View

Rows = list[dict[str, Any]]
EVENTS_EXPLAINED = 30
ALERTS_SHOWN = 200

# What each piece reads, by name; a parameter that is not named here does not matter to the answer.
SOURCES: Mapping[str, LiteralString] = {
    "window": ("ops.period_window(period => %(period)s, since => %(since)s, until => %(until)s, as_of => %(as_of)s)"),
    "kpis": (
        "ops.kpi_window(period => %(period)s, since => %(since)s, until => %(until)s, as_of => %(as_of)s,"
        " filters => %(filters)s, only_event_type => %(event_type)s, org_id => %(org_id)s)"
    ),
    "activity": (
        "ops.activity(period => %(period)s, since => %(since)s, until => %(until)s, filters => %(filters)s,"
        " only_event_type => %(event_type)s, org_id => %(org_id)s)"
    ),
    "teams": (
        "ops.team_compliance(period => %(period)s, since => %(since)s, until => %(until)s, as_of =>"
        " %(as_of)s, filters => %(filters)s, org_id => %(org_id)s)"
    ),
    "patterns": (
        "ops.top_patterns(period => %(period)s, since => %(since)s, until => %(until)s, filters =>"
        " %(filters)s, org_id => %(org_id)s)"
    ),
    "policies": ("(select * from public.v_ops_hook_policies where org_id = ops.caller_org(%(org_id)s))"),
    "status": ("(select * from public.v_ops_slo_status where org_id = ops.caller_org(%(org_id)s))"),
    "burn_rates": ("ops.slo_burn_rates(as_of => %(as_of)s, org_id => %(org_id)s)"),
    "burndown": (
        "(select * from ops.slo_burndown(as_of => %(as_of)s, slo_names => array[%(slo)s::text], only_org_id"
        " => ops.caller_org(%(org_id)s)) where slo_group = %(slo_group)s::jsonb order by day_start)"
    ),
    "exclusions": (
        "(select since, until, reason, author, slo_group from ops.slo_exclusions where org_id ="
        " ops.caller_org(%(org_id)s) and slo_name = %(slo)s and slo_group <@ %(slo_group)s::jsonb"
        " order by since desc limit 50)"
    ),
    "explain": (
        "ops.newest_burners(slo_name => %(slo)s, since => %(since)s, until => %(until)s, max_events =>"
        " %(events_explained)s, org_id => %(org_id)s, slo_group => %(slo_group)s::jsonb)"
    ),
    "audit_failures": (
        "(select * from ops.failed_audits where org_id = ops.caller_org(%(org_id)s) order by audit_timestamp"
        " desc, audit_run_id desc limit 20)"
    ),
    "alerts": (
        "(select * from public.v_ops_alerts where org_id = ops.caller_org(%(org_id)s) order by state in"
        " ('resolved', 'ended'), alert_id desc limit %(alerts_shown)s)"
    ),
    "deliveries": (
        "(select * from public.v_ops_alert_deliveries where org_id = ops.caller_org(%(org_id)s) limit %(alerts_shown)s)"
    ),
    "silences": (
        "(select * from public.v_ops_alert_silences where org_id = ops.caller_org(%(org_id)s) and until > %(as_of)s)"
    ),
    "choices": ("ops.filter_choices(org_id => %(org_id)s)"),
    "freshness": ("ops.freshness(org_id => %(org_id)s)"),
}
BURNDOWNS: LiteralString = (
    "(select * from public.v_ops_error_budget_burndown"
    " where org_id = ops.caller_org(%(org_id)s)"
    " and (slo_name, slo_group) in (select * from unnest(%(slos)s::text[], %(slo_groups)s::text[]::jsonb[]))"
    " order by slo_name, slo_group, day_start)"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A query of a view, with its parameters; `key` is equal where the answers are."""

    name: str
    key: tuple[str, ...]
    query: LiteralString
    parameters: dict[str, object]


def query_of(source: LiteralString) -> LiteralString:
    """The query for the rows of a view or function, as one JSON text; without rows an empty array."""
    return "select coalesce(json_agg(answer), '[]')::text from " + source + " as answer"  # noqa: S608 - of literals


def of_view(view: View, org_id: UUID | None, now: datetime) -> list[Piece]:
    """The pieces that a view is made of, as of an instant; `org_id` None: the caller's own."""
    page = PAGES[view.page]
    since, until = view.window(now)
    chosen = {name: value for name in page.filters if (value := getattr(view, name))}
    event_type = chosen.pop("event_type", "")
    filters = json.dumps(chosen, sort_keys=True)
    parameters: dict[str, object] = {
        "period": view.effective_period(),
        "since": since,
        "until": until,
        "as_of": now,
        "filters": filters,
        "event_type": event_type or None,
        "slo": view.slo,
        "slo_group": json.dumps(groups.from_name(view.group)),
        "org_id": org_id,
        "events_explained": EVENTS_EXPLAINED,
        "alerts_shown": ALERTS_SHOWN,
    }
    # Not the instants: those of a range move with every call, and the answer does not.
    window = str(view.range) if view.range != "custom" else f"{since} {until}"
    key = (view.effective_period(), window, filters, event_type, view.slo, view.group)
    return [
        Piece(name, (name, *_relevant(SOURCES[name], key)), query_of(SOURCES[name]), _used(SOURCES[name], parameters))
        for name in pieces_of(page.shown(view.slo))
    ]


def read(answer: str) -> Rows:
    """The rows of an answer; fractions stay exact."""
    return json.loads(answer, parse_float=Decimal)


def _used(source: LiteralString, parameters: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in parameters.items() if f"%({name})s" in source}


def _relevant(source: LiteralString, key: Sequence[str]) -> Sequence[str]:
    period, window, filters, event_type, slo, group = key
    return [
        *([period, window] if "%(since)s" in source else []),
        *([filters] if "%(filters)s" in source else []),
        *([event_type] if "%(event_type)s" in source else []),
        *([slo] if "%(slo)s" in source else []),
        *([group] if "%(slo_group)s" in source else []),
    ]
