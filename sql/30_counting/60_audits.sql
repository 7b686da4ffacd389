-- Audits: one row per audit run. Their KPIs come from the same rollups, as series of their own.

create table public.slsa_audit_metrics (
  -- Users were promised a bigserial.
  -- squawk-ignore prefer-identity
  id bigserial not null,
  audit_run_id bigint not null,
  provenance_run_id bigint,
  validation_run_id bigint,
  audit_timestamp timestamptz not null default now(),
  provenance_status text not null,
  validation_status text not null,
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
  updated_at timestamptz not null default now(),
  org_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid,
  constraint slsa_audit_metrics_pkey primary key (id),
  constraint slsa_audit_metrics_audit_run_id_key unique (audit_run_id),
  constraint slsa_audit_metrics_provenance_status_check check (
    provenance_status in ('success', 'failure', 'skipped', 'unknown')
  ),
  constraint slsa_audit_metrics_validation_status_check check (
    validation_status in ('success', 'failure', 'skipped', 'unknown')
  )
);
comment on table public.slsa_audit_metrics is 'One row an audit of a SLSA provenance; a repeated audit of the same run updates it.';
comment on column public.slsa_audit_metrics.id is 'Number of the row.';
comment on column public.slsa_audit_metrics.audit_run_id is 'The CI run of the audit.';
comment on column public.slsa_audit_metrics.provenance_run_id is 'The CI run that made the provenance; null when unknown.';
comment on column public.slsa_audit_metrics.validation_run_id is 'The CI run that validated it; null when unknown.';
comment on column public.slsa_audit_metrics.audit_timestamp is 'When the audit was made.';
comment on column public.slsa_audit_metrics.provenance_status is 'success, failure, skipped or unknown.';
comment on column public.slsa_audit_metrics.validation_status is 'success, failure, skipped or unknown.';
comment on column public.slsa_audit_metrics.sha256_verified is 'The artifact''s digest is among the subjects.';
comment on column public.slsa_audit_metrics.predicate_type_verified is 'The predicate type is an allowed one.';
comment on column public.slsa_audit_metrics.supabase_provenance_synced is 'The provenance run was found in the database.';
comment on column public.slsa_audit_metrics.supabase_validation_synced is 'The validation run was found in the database.';
comment on column public.slsa_audit_metrics.tag is 'The release tag; null when there is none.';
comment on column public.slsa_audit_metrics.sha256 is 'SHA-256 of the artifact, hexadecimal.';
comment on column public.slsa_audit_metrics.predicate_type is 'The predicate type found.';
comment on column public.slsa_audit_metrics.builder_id is 'The builder found.';
comment on column public.slsa_audit_metrics.content_sha256 is 'Digest of the content the tag names, hexadecimal.';
comment on column public.slsa_audit_metrics.provenance_run_url is 'Link to the run that made the provenance.';
comment on column public.slsa_audit_metrics.validation_run_url is 'Link to the run that validated it.';
comment on column public.slsa_audit_metrics.metadata is 'Whatever else the audit noted.';
comment on column public.slsa_audit_metrics.created_at is 'When the row was first written.';
comment on column public.slsa_audit_metrics.updated_at is 'When the row was last changed.';
comment on column public.slsa_audit_metrics.org_id is 'The tenant; the nil UUID for single-tenant use.';
alter table public.slsa_audit_metrics enable row level security;

create index idx_slsa_audit_metrics_audit_run_id on public.slsa_audit_metrics (audit_run_id);
create index idx_slsa_audit_metrics_provenance_run_id on public.slsa_audit_metrics (provenance_run_id);
create index idx_slsa_audit_metrics_validation_run_id on public.slsa_audit_metrics (validation_run_id);
create index idx_slsa_audit_metrics_audit_timestamp on public.slsa_audit_metrics (audit_timestamp desc);
create index idx_slsa_audit_metrics_provenance_status on public.slsa_audit_metrics (provenance_status);
create index idx_slsa_audit_metrics_validation_status on public.slsa_audit_metrics (validation_status);
create index idx_slsa_audit_metrics_tag on public.slsa_audit_metrics (tag);

create policy slsa_audit_metrics_select_own_org on public.slsa_audit_metrics for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function public.update_slsa_audit_metrics_updated_at()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
comment on function public.update_slsa_audit_metrics_updated_at() is 'Stamps a changed audit.';

create trigger update_slsa_audit_metrics_updated_at
before update on public.slsa_audit_metrics
for each row execute function public.update_slsa_audit_metrics_updated_at();

create table ops.audit_changes (
  org_id uuid not null,
  -- Not from a sequence: a restore that brings pending changes and notes all audits again would draw their numbers twice.
  audit_change_id uuid not null default gen_random_uuid(),
  audited_at timestamptz not null,
  constraint audit_changes_pkey primary key (org_id, audit_change_id)
);
comment on table ops.audit_changes is 'One row an audit written, moved or removed since the last refresh, which recounts its hour. Audits change, so an id cursor would miss them.';
comment on column ops.audit_changes.org_id is 'The tenant.';
comment on column ops.audit_changes.audit_change_id is 'Drawn at random.';
comment on column ops.audit_changes.audited_at is 'The audit_timestamp, before or after the change.';
alter table ops.audit_changes enable row level security;
create policy audit_changes_select_own_org on ops.audit_changes for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function ops.note_audit_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op in ('UPDATE', 'DELETE') then
    insert into ops.audit_changes (org_id, audited_at) values (old.org_id, old.audit_timestamp);
  end if;
  if tg_op = 'TRUNCATE' then
    insert into ops.audit_changes (org_id, audited_at)
    select rollup.org_id, rollup.period_start
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.period = 'hour'
      and series.event_type = 'slsa_audit_metrics';
  end if;
  if tg_op in ('INSERT', 'UPDATE') then
    insert into ops.audit_changes (org_id, audited_at) values (new.org_id, new.audit_timestamp);
  end if;
  return null;
end;
$$;
comment on function ops.note_audit_change() is 'Notes the hours that a changed audit leaves and enters.';

create trigger note_slsa_audit_metrics_change
after insert or update or delete on public.slsa_audit_metrics
for each row execute function ops.note_audit_change();

create trigger note_slsa_audit_metrics_truncation
after truncate on public.slsa_audit_metrics
for each statement execute function ops.note_audit_change();

create function public.record_audit(audit jsonb)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  given public.slsa_audit_metrics;
  recorded_id bigint;
begin
  given := jsonb_populate_record(null::public.slsa_audit_metrics, audit);
  if given.audit_run_id is null then
    raise exception 'an audit needs its audit_run_id' using errcode = 'OP001', hint = 'Pass the number of the CI run that audited.';
  end if;
  insert into public.slsa_audit_metrics as stored (
    audit_run_id, provenance_run_id, validation_run_id, audit_timestamp, provenance_status, validation_status,
    sha256_verified, predicate_type_verified, supabase_provenance_synced, supabase_validation_synced,
    tag, sha256, predicate_type, builder_id, content_sha256, provenance_run_url, validation_run_url, metadata, org_id
  )
  values (
    given.audit_run_id, given.provenance_run_id, given.validation_run_id, coalesce(given.audit_timestamp, now()),
    coalesce(given.provenance_status, 'unknown'), coalesce(given.validation_status, 'unknown'),
    coalesce(given.sha256_verified, false), coalesce(given.predicate_type_verified, false),
    coalesce(given.supabase_provenance_synced, false), coalesce(given.supabase_validation_synced, false),
    given.tag, given.sha256, given.predicate_type, given.builder_id, given.content_sha256,
    given.provenance_run_url, given.validation_run_url, coalesce(given.metadata, '{}'),
    coalesce(given.org_id, '00000000-0000-0000-0000-000000000000'::uuid)
  )
  on conflict on constraint slsa_audit_metrics_audit_run_id_key do update set
    provenance_run_id = excluded.provenance_run_id,
    validation_run_id = excluded.validation_run_id,
    audit_timestamp = excluded.audit_timestamp,
    provenance_status = excluded.provenance_status,
    validation_status = excluded.validation_status,
    sha256_verified = excluded.sha256_verified,
    predicate_type_verified = excluded.predicate_type_verified,
    supabase_provenance_synced = excluded.supabase_provenance_synced,
    supabase_validation_synced = excluded.supabase_validation_synced,
    tag = excluded.tag,
    sha256 = excluded.sha256,
    predicate_type = excluded.predicate_type,
    builder_id = excluded.builder_id,
    content_sha256 = excluded.content_sha256,
    provenance_run_url = excluded.provenance_run_url,
    validation_run_url = excluded.validation_run_url,
    metadata = excluded.metadata
  where stored.org_id = excluded.org_id
  returning stored.id into recorded_id;
  if recorded_id is null then
    raise exception 'audit run % belongs to another organisation', given.audit_run_id
      using errcode = 'OP001', hint = 'An audit_run_id is unique over all organisations.';
  end if;
  return recorded_id;
end;
$$;
comment on function public.record_audit(jsonb) is
  'Stores an audit, given as an object of slsa_audit_metrics columns, or updates the one of the same audit_run_id; returns its id. Statuses left out are unknown, flags false.';

create view ops.labelled_audits
with (security_invoker = true)
as
select
  audit.org_id,
  audit.audit_timestamp,
  jsonb_build_object(
    'provenance_status', audit.provenance_status,
    'validation_status', audit.validation_status,
    'sha256_verified', audit.sha256_verified::text,
    'predicate_type_verified', audit.predicate_type_verified::text,
    'supabase_provenance_synced', audit.supabase_provenance_synced::text,
    'supabase_validation_synced', audit.supabase_validation_synced::text
  ) as labels
from public.slsa_audit_metrics as audit
-- A date that no calendar arithmetic survives must not stop the refresh.
where audit.audit_timestamp >= timestamptz '1970-01-01 00:00+00'
  and audit.audit_timestamp < timestamptz '2200-01-01 00:00+00';
comment on view ops.labelled_audits is 'One row an audit, with its labels.';

create function ops.count_audits_between(since timestamptz, until timestamptz)
returns setof ops.event_delta
language sql
stable
set search_path = ''
begin atomic
  select
    audit.org_id,
    'slsa_audit_metrics',
    audit.labels,
    date_trunc('hour', audit.audit_timestamp, ops.time_zone()),
    null::integer,
    count(*),
    0::bigint,
    0::numeric,
    null::numeric,
    null::numeric
  from ops.labelled_audits as audit
  where audit.audit_timestamp >= count_audits_between.since
    and audit.audit_timestamp < count_audits_between.until
  group by 1, 3, 4;
end;
comment on function ops.count_audits_between(timestamptz, timestamptz) is
  'The audits with since <= audit_timestamp < until, counted by labels and hour.';

create function ops.count_audit_changes()
returns setof ops.event_delta
language sql
stable
set search_path = ''
begin atomic
  with touched as (
    select distinct
      change.org_id,
      date_trunc('hour', change.audited_at, ops.time_zone()) as hour_start
    from ops.audit_changes as change
    where change.audited_at >= timestamptz '1970-01-01 00:00+00'
      and change.audited_at < timestamptz '2200-01-01 00:00+00'
  ),
  parts as (
    select touched.org_id, touched.hour_start, audit.labels, 1 as event_count
    from touched
    join ops.labelled_audits as audit
      on audit.org_id = touched.org_id
      and audit.audit_timestamp >= touched.hour_start
      and audit.audit_timestamp < touched.hour_start + interval '1 hour'
      -- Where the clocks change by half an hour, two hours overlap.
      and date_trunc('hour', audit.audit_timestamp, ops.time_zone()) = touched.hour_start
    union all
    select touched.org_id, touched.hour_start, series.labels, -rollup.event_count
    from touched
    join ops.series
      on series.org_id = touched.org_id
      and series.event_type = 'slsa_audit_metrics'
    join ops.rollups as rollup
      on rollup.org_id = touched.org_id
      and rollup.period = 'hour'
      and rollup.period_start = touched.hour_start
      and rollup.series_id = series.series_id
  )
  select
    parts.org_id,
    'slsa_audit_metrics',
    parts.labels,
    parts.hour_start,
    null::integer,
    sum(parts.event_count)::bigint,
    0::bigint,
    0::numeric,
    null::numeric,
    null::numeric
  from parts
  group by parts.org_id, parts.labels, parts.hour_start
  having sum(parts.event_count) <> 0;
end;
comment on function ops.count_audit_changes() is
  'What the audits changed since the last refresh add to their series: the audits of the touched hours, less what is stored for them.';
