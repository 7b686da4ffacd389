"""Evaluating many objectives of many orgs, against one plain sum over one window."""

import time
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg

SLOS = 200
ORGS = 50
SLIS = 10
DAYS = 30
# Ten ways of counting, twenty objectives each; something in every five minutes.
FILL: LiteralString = """
  delete from ops.slos;
  insert into ops.slos (slo_name, service, objective, description, event_type, target)
  select 'slo_' || number, 'service_' || number %% 20, 'error_rate', '', 'type_' || number %% %(slis)s, 0.99 + (number %% 9)::numeric / 1000
  from generate_series(1, %(slos)s) as number;
  update ops.slis set filled_until = 'infinity';
  insert into ops.series (org_id, event_type, labels)
  select ('00000000-0000-0000-0000-' || lpad(number::text, 12, '0'))::uuid, 'type_1', '{}'
  from generate_series(1, %(orgs)s) as number;
  insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)
  select series.org_id, sli.sli_id, bucket_start, 20 - (random() < 0.1)::integer, 20
  from ops.slis as sli
  cross join ops.series
  cross join generate_series(%(now)s - interval '720 hours', %(now)s, interval '5 minutes') as bucket_start
  where sli.event_type like 'type%%'
  order by 1, 2, 3;
  insert into ops.job_runs (job, started_at, finished_at, outcome) values ('refresh', %(now)s, %(now)s, 'success')
"""
ONE_SUM: LiteralString = """
  select count(summed.good)
  from (
    select org_id, sli_id from ops.slis cross join ops.series where slis.event_type like 'type%%' limit %(pairs)s
  ) as pair
  cross join lateral (
    select sum(bucket.good) as good, sum(bucket.total) as total
    from ops.sli_counts as bucket
    where bucket.org_id = pair.org_id
      and bucket.sli_id = pair.sli_id
      and bucket.bucket_start >= %(since)s
      and bucket.bucket_start <= %(now)s
    offset 0
  ) as summed
"""
PAIRS = 500


def measure(connection: psycopg.Connection, now: datetime) -> tuple[float, float]:
    """Seconds an objective and org of `ops.evaluate_slos` and of `ops.evaluate_alerts`, in units of one window's sum."""
    arguments: dict[str, object] = {"slos": SLOS, "slis": SLIS, "orgs": ORGS, "now": now, "pairs": PAIRS}
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(FILL, arguments)
        connection.execute("vacuum analyze")
        arguments["since"] = now - timedelta(days=DAYS)
        single = min(_seconds(cursor, ONE_SUM, arguments) for _ in range(3)) / PAIRS
        status = _seconds(cursor, "select count(*) from ops.evaluate_slos(%(now)s, false)", arguments)
        alerts = _seconds(cursor, "select ops.evaluate_alerts(%(now)s)", arguments)
    return status / (SLOS * ORGS) / single, alerts / (SLOS * ORGS) / single


def _seconds(cursor: psycopg.Cursor, query: LiteralString, arguments: dict[str, object]) -> float:
    started = time.perf_counter()
    cursor.execute(query, arguments)
    return time.perf_counter() - started
