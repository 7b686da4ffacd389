"""A refresh of many events with filtered and grouped objectives, against the same one with the shipped objectives alone.

    .venv/bin/python tests/benchmarks/filters.py --events 100000

They run on an embedded server of their own in a temporary folder.
"""

import argparse
import statistics
import sys
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import psycopg

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import NOW, ROUNDS, database, draw, one, report, seconds  # noqa: E402

from support.postgres import running_server  # noqa: E402

OBJECTIVES = 50
GROUPED, VALUES = 10, 100
# Each counts one or two sixths of the workflows or an eighth of the endpoints: error rates, latencies, availabilities, events and values.
FILTERED: LiteralString = """
  insert into ops.slos (
    slo_name, service, objective, description, event_type, target, threshold_ms, at_most, total_labels, good_labels
  )
  select
    'filtered_' || number,
    'service_' || number %% 9,
    kind.objective,
    '',
    kind.event_type,
    0.99,
    case kind.objective when 'latency' then 100000 + number end,
    case kind.objective when 'measured' then 200000 + number end,
    case kind.event_type
      when 'api_request' then jsonb_build_object(
        'endpoint', (select jsonb_agg('/v1/resource-' || n) from generate_series(number %% 8, %(values)s - 1, 8) as n)
      )
      when 'hook_execution' then jsonb_build_object('hook_type', (array['pre-commit', 'pre-push', 'commit-msg'])[1 + number %% 3])
      else jsonb_build_object(
        'workflow',
        (select jsonb_agg('workflow-' || n) from generate_series(0, %(values)s - 1) as n where n %% 6 in (number %% 6, number %% 5))
      )
    end,
    case kind.objective when 'events' then '{"result": ["allowed", "overridden"]}'::jsonb else '{}' end
  from generate_series(1, %(objectives)s) as number
  join (
    values
      (0, 'error_rate', 'workflow_run'), (1, 'latency', 'workflow_run'), (2, 'availability', 'slsa_provenance'), (3, 'error_rate', 'api_request'),
      (4, 'measured', 'api_request'), (5, 'events', 'hook_execution'), (6, 'availability', 'provenance_validate')
  ) as kind (place, objective, event_type)
    on kind.place = number %% 7
"""
# An objective for each of a hundred workflows or endpoints.
BY_GROUP: LiteralString = """
  insert into ops.slos (slo_name, service, objective, description, event_type, target, threshold_ms, at_most, group_by)
  select
    'grouped_' || number,
    'service_' || number,
    kind.objective,
    '',
    kind.event_type,
    0.99,
    case kind.objective when 'latency' then 100000 + number end,
    case kind.objective when 'measured' then 200000 + number end,
    array[kind.label]
  from generate_series(1, %(grouped)s) as number
  join (
    values
      (0, 'error_rate', 'workflow_run', 'workflow'), (1, 'latency', 'workflow_run', 'workflow'), (2, 'availability', 'slsa_provenance', 'workflow'),
      (3, 'error_rate', 'api_request', 'endpoint'), (4, 'measured', 'api_request', 'endpoint')
  ) as kind (place, objective, event_type, label)
    on kind.place = number %% 5
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="new events per refresh (default 100,000)")
    arguments = parser.parse_args()
    with running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server:
        with database(server, "shipped") as shipped, database(server, "filtered") as filtered:
            for connection in (shipped, filtered):
                connection.execute(
                    "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
                    [NOW - timedelta(days=31), NOW],
                )
            with psycopg.ClientCursor(filtered) as cursor:
                cursor.execute(FILTERED, {"objectives": OBJECTIVES, "values": VALUES})
                cursor.execute(BY_GROUP, {"grouped": GROUPED})
            measured = measure(shipped, filtered, arguments.events)
        aim = f"refresh with {OBJECTIVES} filtered objectives and {GROUPED} of {VALUES} groups each / with the nine shipped ones"
        report(aim, measured, "at most 1.5")


def measure(shipped: psycopg.Connection, filtered: psycopg.Connection, events: int) -> float:
    """The median ratio of refreshes side by side, the first of which warms both up."""
    ratios: list[float] = []
    for _ in range(ROUNDS + 1):
        times: list[float] = []
        for connection in (shipped, filtered):
            draw(connection, NOW - timedelta(hours=2), NOW, events * 95 // 100, VALUES, VALUES)
            draw(connection, NOW - timedelta(days=7), NOW, events * 5 // 100, VALUES, VALUES)
            connection.execute("vacuum analyze")
            times.append(
                seconds(
                    lambda connection=connection: one(
                        connection, "select state from ops.refresh(interval '1 second', as_of => %s)", [NOW]
                    )
                )
            )
        print(f"{times[0]:.2f} s with the shipped ones, {times[1]:.2f} s with the filtered ones too", flush=True)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios[1:])


if __name__ == "__main__":
    main()
