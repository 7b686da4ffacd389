-- What the audit observer found: one row an audit run. Its KPIs come from the same rollups, as series of their own.

create table public.slsa_audit_metrics (
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
  audit_change_id bigint generated always as identity,
  audited_at timestamptz not null,
  constraint audit_changes_pkey primary key (org_id, audit_change_id)
);
comment on table ops.audit_changes is 'One row an audit written, moved or removed since the last refresh, which recounts its hour. Audits change, so an id cursor would miss them.';
comment on column ops.audit_changes.org_id is 'The tenant.';
comment on column ops.audit_changes.audit_change_id is 'Number of the change.';
comment on column ops.audit_changes.audited_at is 'The audit_timestamp, before or after the change.';
alter table ops.audit_changes enable row level security;

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

create function ops.observe_audit(audit jsonb, event jsonb)
returns table (audit_id bigint, audit_timestamp timestamptz, events_stored integer, provenance_synced boolean, validation_synced boolean, validation_run_id bigint)
language plpgsql
volatile
set search_path = ''
as $$
declare
  given constant public.slsa_audit_metrics := jsonb_populate_record(null::public.slsa_audit_metrics, audit);
  owner_id constant uuid := coalesce(given.org_id, '00000000-0000-0000-0000-000000000000'::uuid);
  verdict constant text := event ->> 'outcome';
  known public.slsa_audit_metrics;
  is_repeated boolean;
  answer jsonb;
begin
  -- Two observers of one audit would each find no row and store an event.
  perform pg_advisory_xact_lock(hashtextextended(format('ops.observe_audit %s', given.audit_run_id), 0));
  select stored.* into known
  from public.slsa_audit_metrics as stored
  where stored.audit_run_id = given.audit_run_id
    and stored.org_id = owner_id;
  is_repeated := coalesce(known.metadata ->> 'outcome' = verdict, false);
  observe_audit.audit_timestamp := coalesce(case when is_repeated then known.audit_timestamp end, given.audit_timestamp, now());
  observe_audit.validation_run_id := coalesce(
    given.validation_run_id,
    (
      select found.run_id
      from public.telemetry_events as found
      where found.org_id = owner_id
        and found.event_type = 'provenance_validate'
        and found.tag = given.tag
        and found.run_id is not null
      order by found.event_timestamp desc
      limit 1
    ),
    -- What was found once stays found when retention has removed it.
    case when known.tag = given.tag then known.validation_run_id end
  );
  -- By the index on event_type: releases are few among the events, too few to pay for an index at each insert.
  select
    coalesce(bool_or(found.event_type = 'slsa_provenance' and found.run_id = given.provenance_run_id), false),
    coalesce(bool_or(found.event_type = 'provenance_validate' and found.run_id = observe_audit.validation_run_id), false)
  into observe_audit.provenance_synced, observe_audit.validation_synced
  from public.telemetry_events as found
  where found.org_id = owner_id
    and found.event_type in ('slsa_provenance', 'provenance_validate')
    and found.run_id in (given.provenance_run_id, observe_audit.validation_run_id);
  observe_audit.provenance_synced := observe_audit.provenance_synced
    or coalesce(known.supabase_provenance_synced and known.provenance_run_id = given.provenance_run_id, false);
  observe_audit.validation_synced := observe_audit.validation_synced
    or coalesce(known.supabase_validation_synced and known.validation_run_id = observe_audit.validation_run_id, false);
  observe_audit.audit_id := public.record_audit(
    observe_audit.audit
    || jsonb_build_object(
      'org_id', owner_id,
      'audit_timestamp', observe_audit.audit_timestamp,
      'validation_run_id', observe_audit.validation_run_id,
      'supabase_provenance_synced', observe_audit.provenance_synced,
      'supabase_validation_synced', observe_audit.validation_synced,
      'metadata', coalesce(given.metadata, '{}') || jsonb_build_object('outcome', verdict)
    )
  );
  observe_audit.events_stored := 0;
  -- Its event was stored with it, and has been removed since.
  if is_repeated and exists (
    select
    from ops.removed_events as removed
    where removed.event_type = 'audit_observer'
      and removed.removed_until > observe_audit.audit_timestamp
  ) then
    return next;
    return;
  end if;
  answer := public.ingest_events(
    json_build_array(
      json_build_object(
        'event_type', 'audit_observer',
        'event_id', encode(substr(sha256(convert_to(format('%s %s %s', owner_id, given.audit_run_id, verdict), 'UTF8')), 1, 16), 'hex')::uuid,
        'event_timestamp', observe_audit.audit_timestamp,
        'run_id', given.audit_run_id,
        'tag', given.tag,
        'org_id', owner_id,
        'payload', event
      )
    )
  );
  if answer -> 'refused' <> '[]' then
    raise exception 'the event of the audit is refused: % %', answer #>> '{refused,0,field}', answer #>> '{refused,0,reason}'
      using errcode = 'OP001', hint = 'It becomes an event of type audit_observer; see ops.event_types.';
  end if;
  observe_audit.events_stored := (answer ->> 'accepted')::integer;
  return next;
end;
$$;
comment on function ops.observe_audit(jsonb, jsonb) is
  'Stores an audit as record_audit does, and its audit_observer event (its metadata, with outcome), in one transaction. Whether the runs are in the events is looked up; a validation run that is not named is the newest of the same tag. What was found once stays found. Repeated with the same outcome, an audit keeps its time and stores no second event; with another it gets both anew. Returns the id and what was found.';

create function ops.unaudited_provenance_runs(max_runs integer, only_org_id uuid default null)
returns table (org_id uuid, run_id bigint, tag text, outcome text, event_timestamp timestamptz, metadata jsonb)
language sql
stable
set search_path = ''
begin atomic
  with attempts as (
    select distinct on (event.org_id, event.run_id)
      event.org_id,
      event.run_id,
      event.tag,
      event.outcome,
      event.event_timestamp,
      event.metadata
    from public.telemetry_events as event
    where event.event_type = 'slsa_provenance'
      and event.run_id is not null
      and event.org_id = coalesce(unaudited_provenance_runs.only_org_id, event.org_id)
    order by event.org_id, event.run_id, event.event_timestamp desc, event.id desc
  )
  select
    attempt.org_id,
    attempt.run_id,
    attempt.tag,
    attempt.outcome,
    attempt.event_timestamp,
    attempt.metadata
  from attempts as attempt
  cross join lateral (
    select
      bool_or(
        audit.validation_status <> 'unknown'
        -- As texts: a cast of what others wrote there could fail, and hold up every run.
        and case
          when audit.metadata ->> 'attempt_at' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z$'
            then audit.metadata ->> 'attempt_at' collate "C"
              >= to_char(attempt.event_timestamp at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
          else audit.updated_at >= attempt.event_timestamp
        end
      ) as is_audited,
      max(audit.updated_at) as looked_for_at
    from public.slsa_audit_metrics as audit
    where audit.org_id = attempt.org_id
      and audit.provenance_run_id = attempt.run_id
      -- A file that merely names a run was not checked to be of it.
      and coalesce(audit.metadata ->> 'run_asked', 'true') = 'true'
  ) as audits
  where audits.is_audited is not true
  -- What was looked for and not found is tried again, but holds up nothing that is new.
  order by audits.looked_for_at nulls first, attempt.event_timestamp desc
  limit unaudited_provenance_runs.max_runs;
end;
comment on function ops.unaudited_provenance_runs(integer, uuid) is
  'The newest attempt of each provenance run, of all orgs or one, that no audit of that run has judged (metadata.attempt_at, else updated_at, says which attempts it could know; with metadata.run_asked false it is of no run): first those never looked for, newest first, then those whose provenance was not found. Runs without a number are left out: no audit could name them.';

revoke execute on function
  public.update_slsa_audit_metrics_updated_at(),
  ops.note_audit_change(),
  public.record_audit(jsonb),
  ops.count_audits_between(timestamptz, timestamptz),
  ops.count_audit_changes(),
  ops.observe_audit(jsonb, jsonb),
  ops.unaudited_provenance_runs(integer, uuid)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on public.slsa_audit_metrics, ops.audit_changes, ops.labelled_audits from anon, authenticated, service_role;
  revoke all on sequence public.slsa_audit_metrics_id_seq from anon, authenticated, service_role;
  grant select on public.slsa_audit_metrics, ops.audit_changes, ops.labelled_audits to authenticated, service_role;
  grant insert, update on public.slsa_audit_metrics to service_role;
  grant insert on ops.audit_changes to service_role;
  grant usage on sequence public.slsa_audit_metrics_id_seq to service_role;
  create policy slsa_audit_metrics_select_own_org on public.slsa_audit_metrics for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy audit_changes_select_own_org on ops.audit_changes for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    public.update_slsa_audit_metrics_updated_at(),
    ops.note_audit_change(),
    public.record_audit(jsonb),
    ops.count_audits_between(timestamptz, timestamptz),
    ops.count_audit_changes(),
    ops.observe_audit(jsonb, jsonb),
    ops.unaudited_provenance_runs(integer, uuid)
  from anon, authenticated, service_role;
  grant execute on function
    ops.count_audits_between(timestamptz, timestamptz),
    ops.count_audit_changes(),
    ops.unaudited_provenance_runs(integer, uuid)
  to authenticated, service_role;
  grant execute on function public.record_audit(jsonb), ops.observe_audit(jsonb, jsonb) to service_role;
end;
$$;
