"""Audits change after they were counted, and their KPIs follow."""

from pathlib import Path

import psycopg
import pytest

from opskpi.postgres import migrations
from support.events import AS_OF, add_audit, kpis, rebuild, refresh, rows, states
from support.oracle import assert_exact

pytestmark = pytest.mark.database

BEFORE_US = """
create table public.slsa_audit_metrics (
  id bigserial primary key, audit_run_id bigint not null unique, provenance_run_id bigint, validation_run_id bigint,
  audit_timestamp timestamptz not null default now(),
  provenance_status text not null check (provenance_status in ('success', 'failure', 'skipped', 'unknown')),
  validation_status text not null check (validation_status in ('success', 'failure', 'skipped', 'unknown')),
  sha256_verified boolean not null default false, predicate_type_verified boolean not null default false,
  supabase_provenance_synced boolean not null default false, supabase_validation_synced boolean not null default false,
  tag text, sha256 text, predicate_type text, builder_id text, content_sha256 text, provenance_run_url text,
  validation_run_url text, metadata jsonb default '{}', created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
insert into public.slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status)
values
  (1, '2026-03-10T10:00Z', 'success', 'success'),
  (2, '2026-03-10T10:30Z', 'success', 'failure'),
  (3, '2026-03-10T12:00Z', 'failure', 'skipped');
"""


def values(connection: psycopg.Connection, metric: str) -> list[tuple[str, float]]:
    return [(start[-5:], float(value)) for start, _, value in kpis(connection, metric, "hour")]


def test_the_rates_of_audits_are_of_the_right_audits(database):
    add_audit(database, 1, sha256_verified=True, predicate_type_verified=True, supabase_provenance_synced=True)
    add_audit(database, 2, validation_status="failure", sha256_verified=True, supabase_validation_synced=True)
    add_audit(database, 3, provenance_status="failure", validation_status="skipped", sha256_verified=True)
    add_audit(
        database, 4, validation_status="unknown", supabase_provenance_synced=True, supabase_validation_synced=True
    )
    refresh(database)
    query = "select metric_name, metric_value::float from public.kpi_aggregations where aggregation_period = 'hour'"
    assert dict(rows(database, query)) == {
        "provenance_validation_rate": 33.333333,
        "audit_success_rate": 25,
        "sha256_verification_rate": 75,
        "predicate_type_verification_rate": 25,
        "supabase_sync_rate": 25,
    }


def test_an_audit_of_a_provenance_that_failed_has_no_validation_rate(database):
    add_audit(database, 1, provenance_status="failure")
    refresh(database)
    assert values(database, "provenance_validation_rate") == []
    assert values(database, "audit_success_rate") == [("12:00", 0)]


def test_a_changed_verdict_changes_the_rate(database):
    add_audit(database, 1)
    add_audit(database, 2)
    refresh(database)
    database.execute("update public.slsa_audit_metrics set validation_status = 'failure' where audit_run_id = 2")
    refresh(database)
    assert values(database, "audit_success_rate") == [("12:00", 50)]


def test_an_audit_moved_to_another_hour_leaves_the_one_and_enters_the_other(database):
    add_audit(database, 1, "2026-03-10T10:00Z")
    refresh(database)
    database.execute("update public.slsa_audit_metrics set audit_timestamp = '2026-03-10T12:59:59.999999Z'")
    refresh(database)
    assert values(database, "audit_success_rate") == [("12:00", 100)]
    assert_exact(database)


def test_a_deleted_audit_takes_its_kpi_rows_along(database):
    add_audit(database, 1)
    refresh(database)
    database.execute("delete from public.slsa_audit_metrics")
    refresh(database)
    assert rows(database, "select from public.kpi_aggregations") == []
    assert_exact(database)


def test_an_audit_given_to_another_org_leaves_the_first(database):
    add_audit(database, 1)
    refresh(database)
    database.execute("update public.slsa_audit_metrics set org_id = '00000000-0000-0000-0000-000000000007'")
    refresh(database)
    assert_exact(database)


def test_many_changes_between_two_refreshes_count_as_what_they_end_in(database):
    for run in range(1, 6):
        add_audit(database, run, f"2026-03-10T{run:02}:00Z")
    database.execute("update public.slsa_audit_metrics set audit_timestamp = audit_timestamp + interval '1 hour'")
    database.execute("delete from public.slsa_audit_metrics where audit_run_id in (1, 3)")
    refresh(database)
    database.execute("update public.slsa_audit_metrics set sha256_verified = true")
    database.execute(
        "update public.slsa_audit_metrics set audit_timestamp = '2026-03-10T06:30Z' where audit_run_id > 3"
    )
    refresh(database)
    assert_exact(database)


def test_what_changes_leave_equals_what_a_rebuild_gives(database):
    add_audit(database, 1, "2026-03-10T10:00Z")
    refresh(database)
    database.execute(
        "update public.slsa_audit_metrics set audit_timestamp = '2026-03-11T10:00Z', sha256_verified = true"
    )
    refresh(database)
    before = states(database)
    rebuild(database, "2026-03-01T00:00Z", "2026-04-01T00:00Z")
    assert states(database) == before


def test_a_change_is_noted_once_and_forgotten_when_counted(database):
    add_audit(database, 1)
    refresh(database)
    assert rows(database, "select from ops.audit_changes") == []


def test_an_audit_repeated_for_its_run_updates_the_row(database):
    query = (
        "insert into public.slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status)"
        " values (7, '2026-03-10T10:00Z', 'success', %s)"
        " on conflict (audit_run_id) do update set validation_status = excluded.validation_status"
    )
    for status in ("failure", "failure", "success"):
        database.execute(query, [status])
        refresh(database)
    assert values(database, "audit_success_rate") == [("10:00", 100)]
    assert_exact(database)


@pytest.mark.parametrize("at", ["infinity", "-infinity", "0001-01-01T00:00Z", "290000-01-01T00:00Z"])
def test_an_audit_at_an_impossible_instant_does_not_stop_the_others(database, at):
    add_audit(database, 1, "2026-03-10T10:00Z")
    database.execute(
        "insert into public.slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status)"
        " values (2, %s, 'success', 'failure')",
        [at],
    )
    assert refresh(database).state == "done"
    assert values(database, "audit_success_rate") == [("10:00", 100)]
    database.execute("delete from public.slsa_audit_metrics where audit_run_id = 2")
    assert refresh(database).state == "done"
    assert rows(database, "select from ops.audit_changes") == []


def test_audits_that_were_there_before_us_are_counted(empty_database, tmp_path: Path):
    with psycopg.connect(empty_database.dsn, autocommit=True) as connection:
        connection.execute(BEFORE_US)
        migrations.migrate(connection)
        refresh(connection, as_of=AS_OF)
        assert values(connection, "audit_success_rate") == [("10:00", 50), ("12:00", 0)]
        assert rows(connection, "select audit_run_id, validation_status from public.slsa_audit_metrics order by 1") == [
            (1, "success"),
            (2, "failure"),
            (3, "skipped"),
        ]
        assert_exact(connection)


def test_truncated_audits_take_their_kpi_rows_along(database):
    add_audit(database, 1, "2026-03-10T10:10Z")
    refresh(database)
    database.execute("truncate public.slsa_audit_metrics")
    refresh(database)
    assert_exact(database)
    assert rows(database, "select 1 from public.kpi_aggregations") == []
