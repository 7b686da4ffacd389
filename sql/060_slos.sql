-- What is promised: objectives, the units of work, and the good and total counts per five minutes.

create table ops.slos (
  slo_name text not null,
  service text not null,
  objective text not null,
  description text not null,
  event_type text not null,
  target numeric(7, 6) not null,
  threshold_ms numeric,
  rolling_window interval not null default '30 days',
  counted_as jsonb,
  constraint slos_pkey primary key (slo_name),
  constraint slos_objective_check check (objective in ('availability', 'latency', 'error_rate')),
  constraint slos_target_leaves_a_budget check (target > 0 and target < 1),
  constraint slos_latency_has_a_threshold check ((objective = 'latency') = (threshold_ms is not null)),
  constraint slos_threshold_ms_is_positive check (threshold_ms > 0),
  constraint slos_rolling_window_is_sensible check (rolling_window > interval '0' and rolling_window <= interval '10 years')
);
comment on table ops.slos is 'One row a promise; the error budget is 1 - target.';
comment on column ops.slos.slo_name is 'Its name: service and objective.';
comment on column ops.slos.service is 'The service that promises.';
comment on column ops.slos.objective is
  'availability: units of work (the tag, else the run) that succeeded in the end; latency: successful attempts faster than the threshold; error_rate: attempts that succeeded.';
comment on column ops.slos.description is 'The promise in a sentence.';
comment on column ops.slos.event_type is 'The events that are the attempts; only success and failure count.';
comment on column ops.slos.target is 'The share that must be good (ratio).';
comment on column ops.slos.threshold_ms is 'For latency: an attempt is good when it took less (ms).';
comment on column ops.slos.rolling_window is 'How far back the promise looks.';
comment on column ops.slos.counted_as is 'The definition that ops.sli_counts was filled for; when it differs, the next refresh fills it anew.';
alter table ops.slos enable row level security;

create table ops.work_units (
  org_id uuid not null,
  event_type text not null,
  unit text not null,
  first_attempt_at timestamptz not null,
  succeeded boolean not null,
  constraint work_units_pkey primary key (org_id, event_type, unit)
);
comment on table ops.work_units is 'One row a unit of work that was attempted: a tag, else a run, else a single event.';
comment on column ops.work_units.org_id is 'The tenant.';
comment on column ops.work_units.event_type is 'The kind of its attempts.';
comment on column ops.work_units.unit is 'tag:…, run:… or event:…; a tag of over 200 bytes by its SHA-256.';
comment on column ops.work_units.first_attempt_at is 'Its earliest attempt; the unit is counted there, whenever it succeeds.';
comment on column ops.work_units.succeeded is 'Any attempt succeeded.';
alter table ops.work_units enable row level security;

create table ops.sli_counts (
  org_id uuid not null,
  slo_name text not null,
  bucket_start timestamptz not null,
  good bigint not null,
  total bigint not null,
  constraint sli_counts_pkey primary key (org_id, slo_name, bucket_start),
  constraint sli_counts_good_is_part_of_total check (good between 0 and total)
)
with (fillfactor = 80);
comment on table ops.sli_counts is 'One row an objective and five minutes: what was counted and what of it was good.';
comment on column ops.sli_counts.org_id is 'The tenant.';
comment on column ops.sli_counts.slo_name is 'The objective.';
comment on column ops.sli_counts.bucket_start is 'First instant of the five minutes, UTC.';
comment on column ops.sli_counts.good is 'Good ones (count).';
comment on column ops.sli_counts.total is 'All that were counted (count).';
alter table ops.sli_counts enable row level security;

create type ops.unit_delta as (
  org_id uuid,
  event_type text,
  unit text,
  first_attempt_at timestamptz,
  succeeded boolean
);
comment on type ops.unit_delta is 'What a set of attempts says about a unit of work.';

create type ops.sli_delta as (
  org_id uuid,
  slo_name text,
  bucket_start timestamptz,
  good bigint,
  total bigint
);
comment on type ops.sli_delta is 'What is to be added to one row of ops.sli_counts; negative where a unit of work moves.';

create view ops.attempts
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  event.outcome = 'success' as succeeded,
  event.duration_ms,
  case
    when octet_length(event.tag) > 200 then 'sha256:' || encode(sha256(convert_to(event.tag, 'UTF8')), 'hex')
    else coalesce('tag:' || nullif(btrim(event.tag), ''), 'run:' || event.run_id, 'event:' || event.event_id)
  end as unit
from public.telemetry_events as event
where event.outcome in ('success', 'failure')
  and event.event_type in (select slo.event_type from ops.slos as slo);
comment on view ops.attempts is 'One row an event that an objective counts.';

create function ops.count_attempts(after_id bigint, until_id bigint, since timestamptz, until timestamptz)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select
    attempt.org_id,
    slo.slo_name,
    date_bin('5 minutes', attempt.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
    count(*) filter (where attempt.succeeded and (slo.objective = 'error_rate' or attempt.duration_ms < slo.threshold_ms)),
    count(*)
  from ops.attempts as attempt
  join ops.slos as slo
    on slo.event_type = attempt.event_type
  where attempt.id > after_id
    and attempt.id <= until_id
    and attempt.event_timestamp >= since
    and attempt.event_timestamp < until
    and (slo.objective = 'error_rate' or (slo.objective = 'latency' and attempt.succeeded and attempt.duration_ms is not null))
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_attempts(bigint, bigint, timestamptz, timestamptz) is
  'Good and total of the error_rate and latency objectives over the given events, per five minutes.';

create function ops.count_units(after_id bigint, until_id bigint)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select
    attempt.org_id,
    attempt.event_type,
    attempt.unit,
    min(attempt.event_timestamp),
    bool_or(attempt.succeeded)
  from ops.attempts as attempt
  where attempt.id > after_id
    and attempt.id <= until_id
    and attempt.event_type in (select slo.event_type from ops.slos as slo where slo.objective = 'availability')
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_units(bigint, bigint) is 'The units of work that the given events attempt.';

create function ops.unit_slis(units ops.unit_delta[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with compared as (
    select
      unit.org_id,
      unit.event_type,
      stored.unit is not null as is_known,
      stored.first_attempt_at as old_first_attempt_at,
      stored.succeeded as old_succeeded,
      least(stored.first_attempt_at, unit.first_attempt_at) as first_attempt_at,
      coalesce(stored.succeeded, false) or unit.succeeded as succeeded
    from unnest(unit_slis.units) as unit
    -- One look-up a unit: a join may read all units that ever were, and the cost must follow the new ones.
    left join lateral (
      select work_unit.unit, work_unit.first_attempt_at, work_unit.succeeded
      from ops.work_units as work_unit
      where work_unit.org_id = unit.org_id
        and work_unit.event_type = unit.event_type
        and work_unit.unit = unit.unit
      limit 1
    ) as stored on true
  ),
  moved as (
    select compared.org_id, compared.event_type, compared.first_attempt_at, compared.succeeded::integer as good, 1 as total
    from compared
    union all
    select compared.org_id, compared.event_type, compared.old_first_attempt_at, -compared.old_succeeded::integer, -1
    from compared
    where compared.is_known
  )
  select
    moved.org_id,
    slo.slo_name,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint
  from moved
  join ops.slos as slo
    on slo.event_type = moved.event_type
    and slo.objective = 'availability'
  group by 1, 2, 3
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;
comment on function ops.unit_slis(ops.unit_delta[]) is
  'What new attempts at units of work change in the counts of the availability objectives, five minutes by five minutes.';

create function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_counts as stored (org_id, slo_name, bucket_start, good, total)
  select delta.org_id, delta.slo_name, delta.bucket_start, delta.good, delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good between 0 and delta.total
  on conflict on constraint sli_counts_pkey do update set
    good = stored.good + excluded.good,
    total = stored.total + excluded.total;

  -- A late success or a unit that moves changes a row that is there; as an insert it would fail the check first.
  update ops.sli_counts as stored
  set good = stored.good + delta.good,
      total = stored.total + delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good not between 0 and delta.total
    and stored.org_id = delta.org_id
    and stored.slo_name = delta.slo_name
    and stored.bucket_start = delta.bucket_start;

  delete from ops.sli_counts as stored
  using unnest(add_slis.deltas) as delta
  where delta.total < 0
    and stored.total = 0
    and stored.org_id = delta.org_id
    and stored.slo_name = delta.slo_name
    and stored.bucket_start = delta.bucket_start;
end;
comment on function ops.add_slis(ops.sli_delta[]) is 'Adds a delta to the SLI counts; only refresh and rebuild call it, once a delta.';

create function ops.add_units(units ops.unit_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.work_units as stored (org_id, event_type, unit, first_attempt_at, succeeded)
  select unit.org_id, unit.event_type, unit.unit, unit.first_attempt_at, unit.succeeded
  from unnest(add_units.units) as unit
  on conflict on constraint work_units_pkey do update set
    first_attempt_at = least(stored.first_attempt_at, excluded.first_attempt_at),
    succeeded = stored.succeeded or excluded.succeeded;
end;
comment on function ops.add_units(ops.unit_delta[]) is 'Merges attempts into the units of work; the counts must have been added before.';

create function ops.count_stored_units(slo_names text[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.sli_counts as stored where stored.slo_name = any (count_stored_units.slo_names);

  insert into ops.sli_counts (org_id, slo_name, bucket_start, good, total)
  select
    unit.org_id,
    slo.slo_name,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*)
  from ops.work_units as unit
  join ops.slos as slo
    on slo.event_type = unit.event_type
    and slo.objective = 'availability'
    and slo.slo_name = any (count_stored_units.slo_names)
  group by 1, 2, 3;
end;
comment on function ops.count_stored_units(text[]) is 'Counts availability objectives anew from the units of work; only refresh and rebuild call it.';

create function ops.fill_slos(until_id bigint)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changed text[] := array(
    select slo.slo_name
    from ops.slos as slo
    where slo.counted_as is distinct from
      jsonb_build_object('event_type', slo.event_type, 'objective', slo.objective, 'threshold_ms', slo.threshold_ms)
  );
begin
  if cardinality(changed) = 0 then
    return;
  end if;
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.add_units(array(select attempted from ops.count_units(0, until_id) as attempted));
  perform ops.count_stored_units(changed);
  perform ops.add_slis(array(
    select delta
    from ops.count_attempts(0, until_id, '-infinity', 'infinity') as delta
    where delta.slo_name = any (changed)
  ));
  update ops.slos
  set counted_as = jsonb_build_object('event_type', slos.event_type, 'objective', slos.objective, 'threshold_ms', slos.threshold_ms)
  where slos.slo_name = any (changed);
end;
$$;
comment on function ops.fill_slos(bigint) is
  'Gives a new or changed objective its history: counts the events up to until_id for it. Only refresh calls it.';

revoke execute on function
  ops.count_attempts(bigint, bigint, timestamptz, timestamptz),
  ops.count_units(bigint, bigint),
  ops.unit_slis(ops.unit_delta[]),
  ops.add_slis(ops.sli_delta[]),
  ops.add_units(ops.unit_delta[]),
  ops.count_stored_units(text[]),
  ops.fill_slos(bigint)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.slos, ops.work_units, ops.sli_counts, ops.attempts from anon, authenticated, service_role;
  grant select on ops.slos, ops.work_units, ops.sli_counts, ops.attempts to authenticated, service_role;
  create policy slos_select_authenticated on ops.slos for select to authenticated using (true);
  create policy work_units_select_own_org on ops.work_units for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy sli_counts_select_own_org on ops.sli_counts for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz),
    ops.count_units(bigint, bigint),
    ops.unit_slis(ops.unit_delta[]),
    ops.add_slis(ops.sli_delta[]),
    ops.add_units(ops.unit_delta[]),
    ops.count_stored_units(text[]),
    ops.fill_slos(bigint)
  from anon, authenticated, service_role;
  grant execute on function
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz),
    ops.count_units(bigint, bigint),
    ops.unit_slis(ops.unit_delta[])
  to authenticated, service_role;
end;
$$;
