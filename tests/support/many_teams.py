"""An org with many teams, workflows and objectives, some of them grouped, beside which other orgs may stand."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from .tenants import NIL_ORG, callable_by, readable

FILTERS: list[Mapping[str, str]] = [
    {},
    {"team": "team-1"},
    {"hook_type": "pre-push"},
    {"workflow": "workflow-1"},
    {"team": "team-1", "hook_type": "pre-push"},
]
# The same number gives the same event, so that two databases hold the same.
EVENTS: LiteralString = """
  insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, org_id, agent_id)
  select
    kind.event_type,
    %(since)s::timestamptz + (%(until)s::timestamptz - %(since)s::timestamptz) * ((number * 7919::bigint %% 1000003) / 1000003.0),
    number,
    case when kind.event_type in ('slsa_provenance', 'provenance_validate') then 'v' || number / 20 end,
    case kind.event_type
      when 'hook_execution' then jsonb_build_object(
        'hook_type', (array['pre-commit', 'pre-push', 'commit-msg'])[1 + (drawn.place / 3) %% 3],
        'result', (array['allowed', 'blocked', 'overridden'])[1 + drawn.place %% 3],
        'findings_summary', jsonb_build_object('pattern', 'pattern-' || drawn.place %% 10),
        'policy_version', (drawn.place / 9 %% 4)::text,
        'duration_ms', drawn.duration_ms / 1000
      )
      when 'artifact' then jsonb_build_object('kind', 'kind-' || drawn.place %% 4, 'size_bytes', drawn.duration_ms * 1000)
      when 'api_request' then jsonb_build_object(
        'outcome', case when drawn.place %% 50 = 0 then 'failure' else 'success' end,
        'endpoint', '/v1/resource-' || drawn.place %% 40,
        'duration_ms', drawn.duration_ms / 500
      )
      else jsonb_build_object(
        'outcome', case when drawn.place %% 50 = 0 then 'failure' when drawn.place %% 50 = 1 then 'cancelled' else 'success' end,
        'workflow', 'workflow-' || drawn.place %% %(workflows)s,
        'duration_ms', drawn.duration_ms
      )
    end,
    %(org)s::uuid,
    case when kind.event_type = 'hook_execution' then agent.agent_id end
  from generate_series(%(first)s, %(first)s + %(count)s - 1) as number
  cross join lateral (
    select
      (hashint8(number) & 2147483647) as place,
      60000 + (hashint8(number + 1) & 2147483647) %% 400000 as duration_ms
  ) as drawn
  join (
    values
      (0, 'hook_execution'), (1, 'hook_execution'), (2, 'hook_execution'), (3, 'hook_execution'), (4, 'api_request'), (5, 'workflow_run'),
      (6, 'artifact'), (7, 'slsa_provenance'), (8, 'provenance_validate'), (9, 'audit_observer')
  ) as kind (place, event_type)
    on kind.place = number %% 10
  left join ops.agents as agent
    on agent.org_id = %(org)s::uuid
    and agent.team = 'team-' || drawn.place / 9 %% %(teams)s
"""
AGENTS: LiteralString = """
  insert into ops.agents (org_id, agent_id, team)
  select %(org)s, md5(%(org)s || number)::uuid, 'team-' || number from generate_series(0, %(teams)s - 1) as number
"""
AUDITS: LiteralString = """
  insert into public.slsa_audit_metrics (
    audit_run_id, provenance_run_id, audit_timestamp, provenance_status, validation_status, sha256_verified, predicate_type_verified, org_id
  )
  select
    %(first)s + number,
    %(first)s + number,
    %(since)s::timestamptz + (%(until)s::timestamptz - %(since)s::timestamptz) * number / %(audits)s,
    'success',
    case when number %% 9 = 0 then 'failure' else 'success' end,
    number %% 7 > 0,
    true,
    %(org)s::uuid
  from generate_series(1, %(audits)s) as number
"""
ALERTS: LiteralString = """
  insert into ops.alerts (
    org_id, rule_name, kind, severity, subject, state, pending_since, firing_since, resolved_at, evaluated_at, channels, notify_resolved,
    description, detail
  )
  select
    %(org)s, 'made_up', 'kpi_threshold', 'ticket', 'subject ' || number, 'resolved', %(since)s, %(since)s, %(until)s, %(until)s, '{}', true,
    '', '{}'
  from generate_series(1, %(alerts)s) as number
"""
DELIVERIES: LiteralString = """
  select ops.queue_delivery(%(org)s, 'made_up', 'group ' || number, 'dead', '{}', '{}', %(until)s)
  from generate_series(1, %(alerts)s) as number
"""
CHANNEL: LiteralString = """
  insert into ops.alert_channels (channel_name, kind, secret_env) values ('made_up', 'slack', 'NOWHERE') on conflict do nothing
"""
OBJECTIVES: LiteralString = """
  insert into ops.slos (
    slo_name, service, objective, description, event_type, target, threshold_ms, total_labels, good_labels, group_by, budgeting_method, time_slice, slice_target
  )
  select
    'objective_' || number,
    'service_' || number %% 20,
    case when is_of_teams then 'events' else (array['latency', 'error_rate', 'availability'])[1 + number %% 3] end,
    '',
    case when is_of_teams then 'hook_execution' when number %% 2 = 0 then 'workflow_run' else 'slsa_provenance' end,
    0.9 + (number %% 9)::numeric / 1000,
    case when number %% 3 = 0 and not is_of_teams then 100000 + number end,
    case
      when number <= %(grouped)s then '{}'
      else jsonb_build_object('workflow', (select jsonb_agg('workflow-' || n) from generate_series(number %% 7, %(workflows)s - 1, 7) as n))
    end,
    case when is_of_teams then '{"result": ["allowed", "overridden"]}'::jsonb else '{}' end,
    case when is_of_teams then '{team}'::text[] when number <= %(grouped)s then '{workflow}' else '{}' end,
    case when number %% 10 = 9 and number %% 3 <> 2 then 'timeslices' else 'occurrences' end,
    case when number %% 10 = 9 and number %% 3 <> 2 then interval '5 minutes' end,
    case when number %% 10 = 9 and number %% 3 <> 2 then 0.9 end
  from generate_series(1, %(objectives)s) as number
  cross join lateral (select number <= %(by_team)s as is_of_teams) as kind
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each there is; the events lie in the days before the end."""

    teams: int
    workflows: int
    objectives: int
    by_team: int
    by_workflow: int
    events: int
    waiting: int
    days: int
    audits: int
    alerts: int


@dataclass(frozen=True, slots=True)
class Read:
    """A view, or a call of a function."""

    name: str
    source: str

    @property
    def query(self) -> sql.Composed:
        """The query for how many rows it gives, and a digest of them in any order."""
        return sql.SQL("select count(*), bit_xor(hashtextextended(answer::text, 0)) from {} as answer").format(
            sql.SQL(cast("LiteralString", self.source))
        )


def fill(connection: psycopg.Connection, until: datetime, sizes: Sizes) -> None:
    """Make the objectives, and store and count the events of the nil org."""
    since = until - timedelta(days=sizes.days)
    connection.execute(
        "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
        [since - timedelta(days=32), until + timedelta(days=1)],
    )
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(
            OBJECTIVES,
            {
                "objectives": sizes.objectives,
                "by_team": sizes.by_team,
                "grouped": sizes.by_team + sizes.by_workflow,
                "workflows": sizes.workflows,
            },
        )
    add_org(connection, NIL_ORG, until, sizes)


def add_org(connection: psycopg.Connection, org: str, until: datetime, sizes: Sizes, first: int = 1) -> None:
    """Store and count the events of an org, numbered from `first`."""
    arguments: dict[str, object] = {"org": org, "since": until - timedelta(days=sizes.days), "until": until} | asdict(
        sizes
    )
    with psycopg.ClientCursor(connection) as cursor:
        for statement in (AGENTS, EVENTS, AUDITS, CHANNEL, ALERTS, DELIVERIES):
            cursor.execute(statement, arguments | {"first": first, "count": sizes.events})
    _count(connection, until)


def add_waiting(connection: psycopg.Connection, until: datetime, sizes: Sizes) -> None:
    """Store events of the nil org that no refresh has counted, and take the statistics of all."""
    arguments: dict[str, object] = {"org": NIL_ORG, "since": until - timedelta(hours=1), "until": until} | asdict(sizes)
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(EVENTS, arguments | {"first": 1 + sizes.events, "count": sizes.waiting})
        cursor.execute("vacuum analyze")


def _count(connection: psycopg.Connection, as_of: datetime) -> None:
    with connection.cursor(row_factory=scalar_row) as cursor:
        while (
            cursor.execute("select state from ops.refresh(interval '1 second', 2000000, %s)", [as_of]).fetchone()
            == "more"
        ):
            pass


def reads(connection: psycopg.Connection, until: datetime, sizes: Sizes) -> list[Read]:
    """List every view and reading function that a tenant may ask, functions with filters once for each kind of filter."""
    given = {
        "since": f"{until - timedelta(days=sizes.days - 1)}",
        "until": f"{until}",
        "settled_end": f"{until}",
        "previous_start": f"{until - timedelta(days=sizes.days)}",
        "slo_name": f"objective_{sizes.objectives}",
    }
    called = {
        function.call: function.name
        for filters in FILTERS
        for function in callable_by(connection, "authenticated", given | {"filters": json.dumps(filters)})
        if function.volatility != "v"
    }
    views = [relation.name for relation in readable(connection, "authenticated") if relation.kind == "v"]
    return [Read(name, source) for source, name in called.items()] + [Read(name, name) for name in views]
