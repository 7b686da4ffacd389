"""A refresh of many events with filtered objectives, against the same one with the shipped objectives alone.

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
# Each counts one or two of six workflows or eight endpoints: error rates, latencies, availabilities, events and values.
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
      when 'api_request' then jsonb_build_object('endpoint', '/v1/resource-' || number %% 8)
      when 'hook_execution' then jsonb_build_object('hook_type', (array['pre-commit', 'pre-push', 'commit-msg'])[1 + number %% 3])
      else jsonb_build_object('workflow', jsonb_build_array('workflow-' || number %% 6, 'workflow-' || number %% 5))
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
                cursor.execute(FILTERED, {"objectives": OBJECTIVES})
            measured = measure(shipped, filtered, arguments.events)
        report(f"refresh with {OBJECTIVES} filtered objectives / with the nine shipped ones", measured, "at most 1.5")


def measure(shipped: psycopg.Connection, filtered: psycopg.Connection, events: int) -> float:
    """The median ratio of refreshes side by side, the first of which warms both up."""
    ratios: list[float] = []
    for _ in range(ROUNDS + 1):
        times: list[float] = []
        for connection in (shipped, filtered):
            draw(connection, NOW - timedelta(hours=2), NOW, events * 95 // 100)
            draw(connection, NOW - timedelta(days=7), NOW, events * 5 // 100)
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
