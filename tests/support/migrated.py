"""What a database was before it was migrated, and what the migrations leave in it."""

import subprocess
from typing import LiteralString

import psycopg

from opskpi.postgres import history

from .postgres import Database, Server

OLD_ROWS = 500

# What projects that audited before us have: Supabase's grants of that time, the table, its helpers, a few of their own.
OLD_AUDITS: LiteralString = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;

create table public.slsa_audit_metrics (
  id bigserial primary key,
  audit_run_id bigint not null unique,
  provenance_run_id bigint,
  validation_run_id bigint,
  audit_timestamp timestamptz not null default now(),
  provenance_status text not null check (provenance_status in ('success', 'failure', 'skipped', 'unknown')),
  validation_status text not null check (validation_status in ('success', 'failure', 'skipped', 'unknown')),
  sha256_verified boolean not null default false,
  predicate_type_verified boolean not null default false,
  supabase_provenance_synced boolean not null default false,
  supabase_validation_synced boolean not null default false,
  tag text,
  sha256 text,
  predicate_type text,
  builder_id text,
  content_sha256 text,
  provenance_run_url text,
  validation_run_url text,
  metadata jsonb default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index idx_slsa_audit_metrics_audit_run_id on public.slsa_audit_metrics (audit_run_id);
create index idx_slsa_audit_metrics_provenance_run_id on public.slsa_audit_metrics (provenance_run_id);
create index idx_slsa_audit_metrics_validation_run_id on public.slsa_audit_metrics (validation_run_id);
create index idx_slsa_audit_metrics_audit_timestamp on public.slsa_audit_metrics (audit_timestamp desc);
create index idx_slsa_audit_metrics_provenance_status on public.slsa_audit_metrics (provenance_status);
create index idx_slsa_audit_metrics_validation_status on public.slsa_audit_metrics (validation_status);
create index idx_slsa_audit_metrics_tag on public.slsa_audit_metrics (tag);

create function public.update_slsa_audit_metrics_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end;
$$;
create trigger update_slsa_audit_metrics_updated_at before update on public.slsa_audit_metrics
  for each row execute function public.update_slsa_audit_metrics_updated_at();

alter table public.slsa_audit_metrics enable row level security;
create policy "Service role narrow-scope access" on public.slsa_audit_metrics using (true) with check (true);
create policy "Authenticated users can read" on public.slsa_audit_metrics for select to authenticated using (true);

create view public.v_ops_slsa_audit_kpi as
select date(audit_timestamp) as date, count(*) as total_audits
from public.slsa_audit_metrics group by 1 order by 1 desc;
create view public.v_ops_slsa_audit_failures as
select id, audit_run_id, tag from public.slsa_audit_metrics where validation_status = 'failure';

insert into public.slsa_audit_metrics (
  audit_run_id, provenance_run_id, audit_timestamp, provenance_status, validation_status, sha256_verified,
  predicate_type_verified, tag, metadata, created_at, updated_at
)
select
  number, number + 1000000, timestamptz '2026-01-05 00:07+00' + number * interval '7 hours 53 minutes',
  case when number % 10 = 0 then 'failure' else 'success' end,
  (array['success', 'success', 'failure', 'skipped', 'unknown'])[1 + number % 5],
  number % 3 = 0, number % 4 = 0, 'v' || number, jsonb_build_object('number', number),
  timestamptz '2026-01-05 00:00+00', timestamptz '2026-01-06 00:00+00'
from generate_series(1, 500) as number;

create table public.releases (tag text primary key);
create view public.my_releases as select tag from public.releases;
create view public.my_audits as select audit_run_id, tag from public.slsa_audit_metrics;
"""

SNAPSHOT: LiteralString = """
select
  id, audit_run_id, provenance_run_id, validation_run_id, audit_timestamp, provenance_status, validation_status,
  sha256_verified, predicate_type_verified, supabase_provenance_synced, supabase_validation_synced, tag, sha256,
  predicate_type, builder_id, content_sha256, provenance_run_url, validation_run_url, metadata, created_at, updated_at
from public.slsa_audit_metrics
order by id
"""


def migration_history(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Return what `supabase migration list` would read."""
    return connection.execute(
        "select version, name, statements[1] from supabase_migrations.schema_migrations order by version"
    ).fetchall()


def all_shipped() -> list[tuple[str, str, str]]:
    """Return the history of a database that is up to date."""
    return [(migration.version, migration.name, migration.script) for migration in history.shipped()]


def schema_without_own_relations(server: Server, database: Database) -> list[str]:
    """Return what pg_dump says of all but the user's own relations and default privileges."""
    dump = subprocess.run(
        [
            server.bin_dir / "pg_dump",
            "--schema-only",
            "--exclude-schema=supabase_migrations",
            "--exclude-table=public.(releases|my_*)",
            database.dsn,
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    ours = [line for line in dump.splitlines() if not line.startswith(("--", "\\", "ALTER DEFAULT PRIVILEGES"))]
    return [line for line in ours if line]
