"""A refresh of many events with filtered and grouped objectives, against the same one with the shipped objectives alone.

Once each filter names two workflows or endpoints of a hundred, as objectives of services do, and once a third or an eighth
of them, so that each event is in a dozen objectives. The ratios are of the processor time of the server.

    .venv/bin/python tests/benchmarks/filters.py --events 100000

They run on an embedded server of their own in a temporary folder.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import LiteralString

import psycopg

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import NOW, ROUNDS, database, draw, one, processor_seconds, report  # noqa: E402

from support.postgres import running_server  # noqa: E402

OBJECTIVES = 50
GROUPED, VALUES = 10, 100
# Error rates, latencies, availabilities, events and values.
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
        'endpoint',
        (
          select jsonb_agg('/v1/resource-' || n)
          from generate_series(0, %(values)s - 1) as n
          where case when %(broad)s then n %% 8 = number %% 8 else n in (number, number + 1) end
        )
      )
      when 'hook_execution' then jsonb_build_object('hook_type', (array['pre-commit', 'pre-push', 'commit-msg'])[1 + number %% 3])
      else jsonb_build_object(
        'workflow',
        (
          select jsonb_agg('workflow-' || n)
          from generate_series(0, %(values)s - 1) as n
          where case when %(broad)s then n %% 6 in (number %% 6, number %% 5) else n in (number, number + 1) end
        )
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
    with (
        running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server,
        ExitStack() as opened,
    ):
        connections = [opened.enter_context(database(server, name)) for name in ("shipped", "narrow", "broad")]
        for connection in connections:
            connection.execute(
                "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
                [NOW - timedelta(days=31), NOW],
            )
        for connection, is_broad in zip(connections[1:], (False, True), strict=True):
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(FILTERED, {"objectives": OBJECTIVES, "values": VALUES, "broad": is_broad})
                cursor.execute(BY_GROUP, {"grouped": GROUPED})
        narrow, broad = measure(connections, arguments.events)
        about = f"filtered objectives and {GROUPED} of {VALUES} groups each / with the nine shipped ones"
        report(f"refresh with {OBJECTIVES} {about}, filters of two values", narrow, "at most 1.5")
        report(f"refresh with {OBJECTIVES} {about}, broad filters", broad, "at most 1.5")


def measure(connections: Sequence[psycopg.Connection], events: int) -> list[float]:
    """The median ratios of refreshes side by side to the first's, the first round of which warms all up."""
    rounds: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        times: list[float] = []
        for connection in connections:
            draw(connection, NOW - timedelta(hours=2), NOW, events * 95 // 100, VALUES, VALUES)
            draw(connection, NOW - timedelta(days=7), NOW, events * 5 // 100, VALUES, VALUES)
            connection.execute("vacuum analyze")
            refresh = partial(one, connection, "select state from ops.refresh(interval '1 second', as_of => %s)", [NOW])
            times.append(processor_seconds(connection, refresh))
        print(", ".join(f"{time:.2f} s" for time in times), flush=True)
        rounds.append([time / times[0] for time in times[1:]])
    return [statistics.median(ratios) for ratios in zip(*rounds[1:], strict=True)]


if __name__ == "__main__":
    main()
