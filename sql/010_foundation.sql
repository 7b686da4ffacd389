-- The ground the other families stand on: the private schema, the settings, who is asking, and the journal of the jobs.

create schema ops;
comment on schema ops is 'What opskpi keeps for itself; never exposed to an API. Analysts read public.v_ops_*.';
revoke all on schema ops from public;

create table ops.settings (
  name text not null,
  value text not null,
  description text not null,
  constraint settings_pkey primary key (name),
  constraint settings_time_zone_is_known check (
    case when name = 'time_zone' then (timestamptz '2000-01-01 00:00+00' at time zone value) is not null else true end
  ),
  constraint settings_intervals_are_sensible check (
    case
      when name in ('refresh_interval', 'job_runs_kept', 'expected_interval') then value::interval > interval '0' and value::interval <= interval '10 years'
      else true
    end
  ),
  constraint settings_requests_per_minute_is_a_number check (
    name <> 'requests_per_minute' or (value ~ '^[1-9][0-9]{0,5}$')
  )
);
comment on table ops.settings is 'One row a setting. Change a value with update; a new time_zone also needs opskpi rebuild over all time.';
comment on column ops.settings.name is 'What the setting is called.';
comment on column ops.settings.value is 'Its value as text.';
comment on column ops.settings.description is 'What it means, with its unit.';
alter table ops.settings enable row level security;

create function ops.setting(name text)
returns text
language sql
stable
set search_path = ''
return (select settings.value from ops.settings where settings.name = setting.name);
comment on function ops.setting(text) is 'The value of a setting; null when there is none of that name.';

create function ops.time_zone()
returns text
language sql
stable
set search_path = ''
return coalesce((select settings.value from ops.settings where settings.name = 'time_zone'), 'UTC');
comment on function ops.time_zone() is 'The time zone in which days, weeks and months begin.';

create function ops.refresh_interval()
returns interval
language sql
stable
set search_path = ''
return coalesce((select settings.value::interval from ops.settings where settings.name = 'refresh_interval'), interval '5 minutes');
comment on function ops.refresh_interval() is 'How often the jobs are meant to run.';

create function ops.current_org_id()
returns uuid
language sql
stable
set search_path = ''
return (
  with claims as (
    -- After a transaction PostgREST leaves '' behind, not null.
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,org_id}' as org_id
  )
  select case
    when claims.org_id is null then '00000000-0000-0000-0000-000000000000'::uuid
    when claims.org_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then claims.org_id::uuid
  end
  from claims
);
comment on function ops.current_org_id() is
  'The caller''s org from app_metadata.org_id of the JWT; the nil org without that claim; null, which sees nothing, when the claim is no UUID.';

create function ops.period_start(period text, instant timestamptz, zone text)
returns timestamptz
language sql
stable
set search_path = ''
return case
  -- date_bin is twice as fast as date_trunc with a zone; 1969-12-29 was a Monday.
  when zone = 'UTC' and period = 'hour' then date_bin('1 hour', instant, timestamptz '1969-12-29 00:00+00')
  when zone = 'UTC' and period = 'day' then date_bin('1 day', instant, timestamptz '1969-12-29 00:00+00')
  when zone = 'UTC' and period = 'week' then date_bin('7 days', instant, timestamptz '1969-12-29 00:00+00')
  else date_trunc(period, instant, zone)
end;
comment on function ops.period_start(text, timestamptz, text) is
  'The start of the hour, day, ISO week or month that holds the instant, in the time zone.';

create function ops.period_end(period text, period_start timestamptz, zone text)
returns timestamptz
language sql
stable
set search_path = ''
return case period
  when 'hour' then period_start + interval '1 hour'
  -- From the local date, since a day whose midnight the clocks skip begins at one o'clock.
  else (date_trunc(period, period_start at time zone zone) + ('1 ' || period)::interval) at time zone zone
end;
comment on function ops.period_end(text, timestamptz, text) is
  'The first instant after a period that starts at period_start: a day of 23 or 25 hours ends where the next begins.';

create table ops.job_runs (
  job_run_id bigint generated always as identity,
  job text not null,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  outcome text not null,
  events bigint not null default 0,
  kpi_rows bigint not null default 0,
  message text,
  constraint job_runs_pkey primary key (job_run_id),
  constraint job_runs_outcome_check check (outcome in ('success', 'waiting', 'failure'))
);
create index job_runs_job_started_at_idx on ops.job_runs (job, started_at desc);
comment on table ops.job_runs is 'One row a run of a job, written in the transaction of its work; a failed run is written afterwards.';
comment on column ops.job_runs.job_run_id is 'Number of the run.';
comment on column ops.job_runs.job is 'refresh, alerts, maintain, retention or rebuild.';
comment on column ops.job_runs.started_at is 'When the run began.';
comment on column ops.job_runs.finished_at is 'When its work was done.';
comment on column ops.job_runs.outcome is 'success; waiting: it did less because a writer stayed open; failure.';
comment on column ops.job_runs.events is 'Events it aggregated, or removed (count).';
comment on column ops.job_runs.kpi_rows is 'KPI rows it wrote (count).';
comment on column ops.job_runs.message is 'What a person should know; null when there is nothing to say.';
alter table ops.job_runs enable row level security;

create function ops.record_job_failure(job text, message text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.job_runs (job, started_at, outcome, message)
  values (record_job_failure.job, now(), 'failure', left(record_job_failure.message, 1000));
end;
comment on function ops.record_job_failure(text, text) is
  'Notes in a transaction of its own that a job failed, since the failed transaction took its journal row along.';

revoke execute on function
  ops.setting(text),
  ops.refresh_interval(),
  ops.time_zone(),
  ops.current_org_id(),
  ops.period_start(text, timestamptz, text),
  ops.period_end(text, timestamptz, text),
  ops.record_job_failure(text, text)
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on schema ops from anon, authenticated, service_role;
  grant usage on schema ops to authenticated, service_role;
  revoke all on ops.settings, ops.job_runs from anon, authenticated, service_role;
  grant select on ops.settings to authenticated, service_role;
  grant select on ops.job_runs to service_role;
  -- Whether the jobs run concerns every user; how many events of all orgs they counted, and why one failed, does not.
  grant select (job, started_at, finished_at, outcome) on ops.job_runs to authenticated;
  create policy settings_select_authenticated on ops.settings for select to authenticated using (true);
  create policy job_runs_select_authenticated on ops.job_runs for select to authenticated using (true);
  revoke execute on function
    ops.setting(text),
    ops.refresh_interval(),
    ops.time_zone(),
    ops.current_org_id(),
    ops.period_start(text, timestamptz, text),
    ops.period_end(text, timestamptz, text),
    ops.record_job_failure(text, text)
  from anon, authenticated, service_role;
  grant execute on function
    ops.setting(text),
    ops.refresh_interval(),
    ops.time_zone(),
    ops.current_org_id(),
    ops.period_start(text, timestamptz, text),
    ops.period_end(text, timestamptz, text)
  to authenticated, service_role;
end;
$$;
