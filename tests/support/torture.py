"""Writers, refreshes and upkeep at once, killed at random, while a shadow table says what the counts must come to.

    .venv/bin/python -m tests.support.torture --seconds 120 --postgres 15

Each event is written together with its shadow, in one statement, so what is visible of one is visible of the other. A
checker compares both in one snapshot again and again: counts, sums, SLIs and units of work, fresh events included.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from opskpi.postgres import migrations  # noqa: E402
from support.events import Connection, rows, scalar  # noqa: E402
from support.postgres import running_server  # noqa: E402

SETUP = """
create table public.shadow (
  id bigint, event_type text, event_timestamp timestamptz, outcome text, duration_ms numeric, tag text
);
select ops.create_partition(month::date) from generate_series(timestamptz '2026-01-01Z', '2026-05-01Z', interval '1 month') as month;
select ops.set_retention('events', interval '30 days', 'artifact');
-- January keeps other events, so retention deletes from it, and that this is known spares it a lock that writers rarely leave it.
select ops.note_removed_events('{artifact}', '2026-01-01Z', '2026-02-01Z');
with added as (
  insert into public.telemetry_events (event_type, event_timestamp, metadata)
  values ('workflow_run', '2026-01-10Z', '{"outcome": "success", "workflow": "old", "duration_ms": 1}')
  returning id, event_type, event_timestamp, outcome, duration_ms, tag
)
insert into public.shadow select * from added;
update ops.anonymisation_rules set is_enabled = false where true;
insert into ops.anonymisation_rules (rule_name, path, action, on_ingest) values ('notes', '$.note', 'remove', false);
create table public.most_gaps (value integer);
insert into public.most_gaps values (10000);
create or replace function ops.most_gaps() returns integer language sql stable set search_path = ''
  return (select bound.value from public.most_gaps as bound);
"""
INSERT: LiteralString = """
with drawn as (
  select
    (array['slsa_provenance', 'slsa_provenance', 'workflow_run', 'artifact'])[1 + floor(4 * random())::integer] as event_type,
    timestamptz '2026-04-01Z' + random() * interval '20 days' as event_timestamp,
    timestamptz '2026-01-01Z' + random() * interval '20 days' as old_timestamp,
    (array['success', 'failure', 'cancelled'])[1 + floor(3 * random())::integer] as outcome,
    floor(400000 * random())::integer as duration_ms,
    'v' || floor(40 * random())::integer as tag
  from generate_series(1, %(count)s)
),
added as (
  insert into public.telemetry_events (id, event_type, event_timestamp, tag, metadata)
  select
    coalesce(%(id)s, nextval('public.telemetry_events_id_seq')), drawn.event_type,
    case drawn.event_type when 'artifact' then drawn.old_timestamp else drawn.event_timestamp end, drawn.tag,
    jsonb_build_object(
      'outcome', drawn.outcome, 'duration_ms', drawn.duration_ms, 'size_bytes', drawn.duration_ms, 'workflow', drawn.tag,
      'kind', drawn.tag, 'note', 'n'
    )
  from drawn
  returning id, event_type, event_timestamp, outcome, duration_ms, tag
)
insert into public.shadow select * from added
"""
WRONG_PERIODS: LiteralString = """-- periods
with expected as (
  select shadow.event_type, period.name as period, ops.period_start(period.name, shadow.event_timestamp, 'UTC') as period_start,
    count(*) as events, sum(shadow.duration_ms) as value_sum
  from public.shadow
  cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
  group by 1, 2, 3
),
counted as (
  select part.event_type, part.period, part.period_start, sum(part.event_count) as events, sum(part.value_sum) as value_sum
  from ops.rollup_parts as part
  group by 1, 2, 3
  having sum(part.event_count) <> 0
)
select * from expected full join counted using (event_type, period, period_start)
where (expected.events, expected.value_sum) is distinct from (counted.events, counted.value_sum)
"""
WRONG_OBJECTIVES: LiteralString = """-- objectives
with attempts as (
  select date_bin('5 minutes', shadow.event_timestamp, '1969-12-29Z') as bucket_start, shadow.outcome, shadow.tag, shadow.event_timestamp
  from public.shadow
  where shadow.event_type = 'slsa_provenance'
    and shadow.outcome in ('success', 'failure')
),
expected as (
  select 'error_rate' as objective, attempts.bucket_start, count(*) filter (where attempts.outcome = 'success') as good, count(*) as total
  from attempts
  group by 2
  union all
  select 'availability', date_bin('5 minutes', unit.first_at, '1969-12-29Z'), count(*) filter (where unit.succeeded), count(*)
  from (
    select min(attempts.event_timestamp) as first_at, bool_or(attempts.outcome = 'success') as succeeded from attempts group by attempts.tag
  ) as unit
  group by 2
),
counted as (
  select sli.objective, part.bucket_start, sum(part.good) as good, sum(part.total) as total
  from (
    select stored.sli_id, stored.bucket_start, stored.good, stored.total from ops.sli_counts as stored
    union all
    select fresh.sli_id, fresh.bucket_start, fresh.good, fresh.total from ops.fresh_slis() as fresh
  ) as part
  join ops.slis as sli
    on sli.sli_id = part.sli_id
  where sli.event_type = 'slsa_provenance'
    and sli.objective in ('error_rate', 'availability')
  group by 1, 2
  having sum(part.total) <> 0
)
select * from expected full join counted using (objective, bucket_start)
where (expected.good, expected.total) is distinct from (counted.good, counted.total)
"""
COMPARISONS: tuple[LiteralString, ...] = (
    WRONG_PERIODS,
    WRONG_OBJECTIVES,
    "select * from ops.count_differences('2026-04-01Z')",
    "select * from ops.sli_differences('2026-04-01Z')",
)
EXPECTED_FAILURES = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.OperationalError,
)


class Torture:
    """One database, its actors, and what they have seen."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._seed = seed
        self._ends_at = 0.0
        self._victims: dict[str, int] = {}
        self.done: Counter[str] = Counter()
        self.wrong: list[object] = []

    def run(self, seconds: float) -> None:
        """Let all actors loose for so long, then let everything that is open end, and compare once more."""
        with self._connected("setup") as connection:
            connection.execute(SETUP)
        self._ends_at = time.monotonic() + seconds
        acts = [self._write, self._write, self._write, self._forget, self._refresh, self._refresh]
        acts += [
            self._settle_prepared,
            self._rebuild,
            self._retain,
            self._anonymise,
            self._kill,
            self._bound,
            self._check,
        ]
        threads = [threading.Thread(target=self._repeat, args=(act, number)) for number, act in enumerate(acts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._connected("end") as connection:
            for (gid,) in rows(connection, "select gid from pg_prepared_xacts where database = current_database()"):
                connection.execute(sql.SQL("commit prepared {}").format(sql.Literal(gid)))
            connection.execute("update public.most_gaps set value = 10000")
            while scalar(connection, "select state from ops.refresh('1 minute')") == "more":
                pass
            if left := rows(connection, "select ids::text, writers from ops.event_gaps"):
                self.wrong.append(("gaps are left", left))
            if late := rows(connection, "select from public.telemetry_events where id > ops.cursor_id()"):
                self.wrong.append(("events are left", late))
            self._compare(connection)

    def _repeat(self, act: Callable[[random.Random], None], number: int) -> None:
        chance = random.Random(1000 * self._seed + number)  # noqa: S311 - no secret
        while time.monotonic() < self._ends_at:
            try:
                act(chance)
            except EXPECTED_FAILURES as failure:
                self.done[f"{act.__name__[1:]}: {type(failure).__name__}"] += 1
            except Exception as failure:  # noqa: BLE001 - anything else is a finding
                self.wrong.append((act.__name__, repr(failure)))
                return
            self.done[act.__name__[1:]] += 1

    @contextmanager
    def _connected(self, name: str, *, autocommit: bool = True) -> Iterator[Connection]:
        connection = psycopg.connect(self._dsn, autocommit=autocommit, application_name=name, options="-c jit=off")
        key = f"{name} {threading.get_ident()}"
        self._victims[key] = connection.info.backend_pid
        try:
            yield connection
        finally:
            self._victims.pop(key, None)
            connection.close()

    def _until(self, chance: random.Random, least: float, most: float) -> None:
        time.sleep(max(0.0, min(chance.uniform(least, most), self._ends_at - time.monotonic())))

    def _write(self, chance: random.Random) -> None:
        with self._connected("write", autocommit=False) as writer:
            for _ in range(chance.randrange(1, 12)):
                for _ in range(chance.randrange(1, 4)):
                    self._statement(writer, chance)
                    self._until(chance, 0, 0.1)
                self._end(writer, chance)

    def _forget(self, chance: random.Random) -> None:
        """One that stays open for a while, mostly idle."""
        with self._connected("forget", autocommit=False) as writer:
            self._statement(writer, chance)
            self._until(chance, 0.2, 4)
            if chance.random() < 0.3:
                self._statement(writer, chance)
                self._until(chance, 0.1, 0.5)
            self._end(writer, chance)

    def _statement(self, writer: Connection, chance: random.Random) -> None:
        kind = chance.random()
        if kind < 0.5:
            writer.execute(INSERT, {"count": chance.randrange(1, 20), "id": None})
        elif kind < 0.7:
            # An id that is drawn by hand, before or after the first insert, and used later.
            drawn = scalar(writer, "select nextval('public.telemetry_events_id_seq')")
            self._until(chance, 0, 0.4)
            if chance.random() < 0.8:
                writer.execute(INSERT, {"count": 1, "id": drawn})
        else:
            drawn = scalar(writer, "select nextval('public.telemetry_events_id_seq')")
            writer.execute("savepoint before")
            writer.execute(INSERT, {"count": 1, "id": drawn})
            writer.execute(INSERT, {"count": chance.randrange(1, 5), "id": None})
            if chance.random() < 0.6:
                writer.execute("rollback to savepoint before")
                self._until(chance, 0, 0.1)
                if chance.random() < 0.5:
                    writer.execute(INSERT, {"count": 1, "id": drawn})
            else:
                writer.execute("release savepoint before")

    def _end(self, writer: Connection, chance: random.Random) -> None:
        verdict = chance.random()
        if verdict < 0.7:
            writer.commit()
        elif verdict < 0.85 or scalar(writer, "select count(*) > 6 from pg_prepared_xacts"):
            writer.rollback()
        else:
            writer.execute(sql.SQL("prepare transaction {}").format(sql.Literal(f"torture {chance.random()}")))
            writer.rollback()
            self.done["prepared"] += 1

    def _settle_prepared(self, chance: random.Random) -> None:
        self._until(chance, 0.05, 0.8)
        with self._connected("settle") as connection:
            gids = rows(connection, "select gid from pg_prepared_xacts where database = current_database()")
            if gids:
                verdict = sql.SQL("commit" if chance.random() < 0.6 else "rollback")
                with suppress(psycopg.errors.UndefinedObject):
                    connection.execute(sql.SQL("{} prepared {}").format(verdict, sql.Literal(chance.choice(gids)[0])))

    def _refresh(self, chance: random.Random) -> None:
        with self._connected("refresh") as connection:
            for _ in range(20):
                wait, most = (
                    chance.choice(["0", "5 milliseconds", "50 milliseconds"]),
                    chance.choice([5, 30, 200_000, 200_000]),
                )
                state = scalar(connection, "select state from ops.refresh(%s, %s, '2026-06-01Z')", wait, most)
                self.done[f"refresh {state}"] += 1
                self._until(chance, 0, 0.03)

    def _rebuild(self, chance: random.Random) -> None:
        self._until(chance, 2, 6)
        with self._connected("rebuild") as connection:
            since = chance.randrange(20)
            scalar(
                connection,
                "select ops.rebuild(timestamptz '2026-04-01Z' + %s * interval '1 day', timestamptz '2026-04-01Z' + %s * interval '1 day',"
                " '2026-06-01Z', %s)",
                *(since, since + chance.randrange(1, 5), chance.random() < 0.7),
            )

    def _retain(self, chance: random.Random) -> None:
        self._until(chance, 0.3, 2)
        with self._connected("retain") as connection:
            state = "busy"
            while state == "busy" and time.monotonic() < self._ends_at:
                query = "select state from ops.retain('2026-06-01Z', max_rows => %s)"
                state = scalar(connection, query, chance.choice([7, 500]))
                self._until(chance, 0, 0.01)
            self.done[f"retain {state}"] += 1

    def _anonymise(self, chance: random.Random) -> None:
        self._until(chance, 1, 3)
        with self._connected("anonymise") as connection:
            after_id: int | None = 0
            while after_id is not None:
                after_id = scalar(
                    connection,
                    "select last_id from ops.anonymise_events('2026-06-01Z', after_id => %s, max_events => 500)",
                    after_id,
                )

    def _kill(self, chance: random.Random) -> None:
        self._until(chance, 0.1, 1.5)
        with self._connected("kill") as connection:
            pids = [
                pid
                for name, pid in list(self._victims.items())
                if name.split()[0] in {"refresh", "rebuild", "write", "forget"}
            ]
            if pids:
                connection.execute("select pg_terminate_backend(%s)", [chance.choice(pids)])

    def _bound(self, chance: random.Random) -> None:
        """Few gaps may be kept at times; and statistics, which autovacuum would gather."""
        self._until(chance, 0.5, 1)
        with self._connected("bound") as connection:
            connection.execute(
                "analyze public.telemetry_events, ops.work_units, ops.rollups, ops.series, ops.sli_counts"
            )
            connection.execute(
                "update public.most_gaps set value = %s", [chance.choice([0, 2, 5, 10_000, 10_000, 10_000])]
            )

    def _check(self, chance: random.Random) -> None:
        self._until(chance, 0, 0.2)
        with self._connected("check") as connection:
            self._compare(connection, chance.choices(COMPARISONS, [3, 3, 1, 1]))

    def _compare(self, connection: Connection, comparisons: Sequence[LiteralString] = COMPARISONS) -> None:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            for query in comparisons:
                if found := rows(connection, query):
                    kept = (
                        rows(connection, "select * from ops.event_gaps"),
                        rows(connection, "select * from ops.cursors"),
                    )
                    self.wrong.append((query.strip().splitlines()[0], len(found), found[:3], kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--postgres", default="18")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    arguments = parser.parse_args()
    with running_server(arguments.postgres) as server:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute("create database torture")
        with psycopg.connect(server.dsn("torture")) as connection:
            migrations.migrate(connection)
        torture = Torture(server.dsn("torture"), arguments.seed)
        torture.run(arguments.seconds)
        with psycopg.connect(server.dsn("torture")) as connection:
            events = scalar(connection, "select count(*) from public.shadow")
    print(
        f"Postgres {arguments.postgres}, seed {arguments.seed}: {events:,} events, {dict(sorted(torture.done.items()))}"
    )
    print(f"wrong: {len(torture.wrong)}")
    for finding in torture.wrong[:5]:
        print(finding)
    sys.exit(1 if torture.wrong else 0)


if __name__ == "__main__":
    main()
