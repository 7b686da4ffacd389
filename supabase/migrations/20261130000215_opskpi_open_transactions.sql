-- A transaction that stays open delays its own events only: what has appeared up to the newest id is counted, and the ids that had not are kept
-- as gaps until their transactions have ended.
-- The cursor is one row, and only jobs read what is dropped.
-- squawk-ignore-file ban-drop-column, ban-drop-type, ban-drop-view

drop function ops.report_refresh;
drop function ops.pass_end;
drop function ops.count_or_set_aside;
drop function ops.next_attempt;
drop function ops.set_aside;
drop function ops.count_range;
drop function ops.take_fence;
drop type ops.attempt;
drop type ops.counted_range;

-- Nothing beyond the cursor has been counted, so what was safe or waited for can be found anew.
alter table ops.cursors drop column safe_id, drop column fence_id, drop column fence_holders;

drop function ops.freshness;
drop function ops.scrape;
drop function ops.slo_gauges;
drop function ops.summary_objectives;
drop view ops.histogram_parts;
drop view ops.rollup_parts;
drop view public.v_ops_blocked_patterns;
drop view public.v_ops_hook_policies;
drop view public.v_ops_slo_status;
drop view ops.hook_days;
drop function ops.rebuild_slis;
drop function ops.recount_chunk;
drop function ops.apply_attempts;
drop function ops.note_agents;
drop function ops.evaluate_slos;
drop function ops.fresh_slis;
drop function ops.count_units;
drop function ops.count_attempts;
drop view ops.blocked_pattern_parts;
drop function ops.count_patterns;
drop function ops.count_events;

alter table ops.cursors add column quiet_id bigint;
alter table ops.cursors add column quiet_writers text[] not null default '{}';
comment on column ops.cursors.last_id is 'Every committed event up to this id has been counted or set aside, those in ops.event_gaps excepted, and none beyond it.';
comment on column ops.cursors.quiet_id is 'The newest id that was drawn after quiet_writers were listed; null: there were no gaps.';
comment on column ops.cursors.quiet_writers is 'What ops.quiet_writers said then: a transaction that is still listed in the same words has drawn no id beyond quiet_id.';

create type ops.event_ids as (after_id bigint, until_id bigint, missing int8multirange, late bigint[]);
comment on type ops.event_ids is
  'A set of ids of events: those with after_id < id <= until_id that are not missing, and those of late (null: none). Readers of the set name it in one condition, of which the planner drops the parts that are empty.';

create table ops.event_gaps (
  until_id bigint not null,
  ids int8multirange not null,
  writers text[] not null,
  noted_at timestamptz not null,
  constraint event_gaps_pkey primary key (until_id),
  constraint event_gaps_ids_are_some check (not isempty(ids))
);
comment on table ops.event_gaps is
  'One row per set of transactions that may still commit events behind the cursor. Each refresh counts those of the ids that have appeared, and forgets the rest once the transactions have ended.';
comment on column ops.event_gaps.until_id is 'The cursor after the refresh that noted the newest of the ids.';
comment on column ops.event_gaps.ids is 'Ids behind the cursor that have not been counted: not visible when the cursor passed, most of them rolled back.';
comment on column ops.event_gaps.writers is
  'The transactions as ops.open_writers names them; none: they have ended, and the ids have appeared and wait for a smaller refresh.';
comment on column ops.event_gaps.noted_at is 'When the oldest of the ids was noted.';
alter table ops.event_gaps enable row level security;

create table ops.awaited_writers (
  name text not null,
  pid integer,
  gid text,
  login text,
  application text,
  since timestamptz not null,
  waiting_since timestamptz not null,
  constraint awaited_writers_pkey primary key (name),
  constraint awaited_writers_is_a_session_or_prepared check ((pid is null) <> (gid is null))
);
comment on table ops.awaited_writers is
  'One row per open transaction that the last refresh waited for, because as many gaps as may be kept were kept for it and others; no row: it waited for none.';
comment on column ops.awaited_writers.name is 'The transaction as pg_locks names it.';
comment on column ops.awaited_writers.pid is 'The server process; null for a prepared transaction.';
comment on column ops.awaited_writers.gid is 'The name of a prepared transaction; else null.';
comment on column ops.awaited_writers.login is 'The user; null where the job may not see it.';
comment on column ops.awaited_writers.application is 'application_name of the session; null where the job may not see it and for a prepared transaction.';
comment on column ops.awaited_writers.since is 'When the transaction began or was prepared; where the job may not see that, when it was first noted.';
comment on column ops.awaited_writers.waiting_since is 'Since when refreshes have waited.';
alter table ops.awaited_writers enable row level security;

create function ops.missing_ids()
returns int8multirange
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select range_agg(gap.ids) from ops.event_gaps as gap), '{}');
end;
$$;
comment on function ops.missing_ids() is 'The ids behind the cursor that have not been counted, whether their events have appeared or not.';

create function ops.late_ids()
returns bigint[]
language plpgsql
stable
set search_path = ''
-- The planner takes the ranges for a few; one index scan each is right for any number of them.
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  missing int8multirange;
begin
  -- Views ask for fresh counts whether there are gaps or not.
  if not exists (select from ops.event_gaps) then
    return null;
  end if;
  missing := ops.missing_ids();
  return (
    with parts as (
      select lower(part.ids) as first_id, upper(part.ids) as end_id from unnest(missing) as part (ids)
    ),
    -- Gaps that lie close together are read at once: 10,000 of every second id take 40 ms, one by one 200.
    apart as (
      select parts.*, parts.first_id - lag(parts.end_id, 1, -100) over (order by parts.first_id) >= 100 as is_apart
      from parts
    ),
    numbered as (
      select apart.*, count(*) filter (where apart.is_apart) over (order by apart.first_id) as stretch
      from apart
    ),
    stretches as materialized (
      select min(numbered.first_id) as first_id, max(numbered.end_id) as end_id from numbered group by numbered.stretch
    )
    select array_agg(distinct found.id order by found.id)
    from stretches
    cross join lateral (
      select event.id
      from public.telemetry_events as event
      where event.id >= stretches.first_id
        and event.id < stretches.end_id
      offset 0
    ) as found
    where found.id <@ missing
  );
end;
$$;
comment on function ops.late_ids() is 'The ids behind the cursor whose events have appeared and have not been counted, ascending; null: there is none.';

create function ops.fresh_ids()
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  return row(ops.cursor_id(), 9223372036854775807, '{}', ops.late_ids())::ops.event_ids;
end;
$$;
comment on function ops.fresh_ids() is 'The ids of the events that no refresh has counted yet: those behind the cursor (after it), and late ones in its gaps.';

create function ops.counted_ids()
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  return row(0, ops.cursor_id(), ops.missing_ids(), null)::ops.event_ids;
end;
$$;
comment on function ops.counted_ids() is 'The ids of the events that have been counted: those up to the cursor without its gaps.';

create view ops.uncounted_events
with (security_invoker = true)
as
select event.id, event.org_id, event.created_at
from public.telemetry_events as event
where event.id > (select ops.cursor_id())
-- Two scans, because for one condition with "or" the planner reads all events.
union all
select event.id, event.org_id, event.created_at
from public.telemetry_events as event
where event.id = any (array(select unnest(ops.late_ids())));
comment on view ops.uncounted_events is 'One row per event that no refresh has counted yet.';

create function ops.count_events(ids ops.event_ids, since timestamptz, until timestamptz)
returns setof ops.event_delta
language plpgsql
stable
set search_path = ''
-- A generic plan cannot know which of the two ranges is the narrow one.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  with counted as (
    select
      event.org_id,
      event.event_type,
      event.hour_start,
      event.label_1,
      event.label_2,
      event.label_3,
      event.label_4,
      event.bin,
      count(*) as event_count,
      count(event.value) as value_count,
      coalesce(sum(event.value), 0) as value_sum,
      min(event.value) as value_min,
      max(event.value) as value_max
    from ops.labelled_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < until
    group by 1, 2, 3, 4, 5, 6, 7, 8
  )
  select
    counted.org_id,
    counted.event_type,
    coalesce(
      jsonb_strip_nulls(jsonb_object(
        kind.label_keys,
        (array[counted.label_1, counted.label_2, counted.label_3, counted.label_4])[1:cardinality(kind.label_keys)]
      )),
      '{}'
    ),
    counted.hour_start,
    counted.bin,
    counted.event_count,
    counted.value_count,
    counted.value_sum,
    counted.value_min,
    counted.value_max
  from counted
  left join ops.event_types as kind
    on kind.event_type = counted.event_type;
end;
$$;
comment on function ops.count_events(ops.event_ids, timestamptz, timestamptz) is
  'The events of a set with since <= event_timestamp < until, counted by series, hour and bin.';

create function ops.count_patterns(ids ops.event_ids, since timestamptz, until timestamptz)
returns setof ops.pattern_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the periods for a few rows, and would loop over them for each pattern.
set enable_nestloop = off
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with blocked as (
    select
      event.org_id,
      coalesce(left(event.metadata ->> 'hook_type', 100), '') as hook_type,
      found.pattern,
      event.hour_start,
      coalesce(event.team, '') as team,
      count(*) as blocked_count
    from ops.labelled_events as event
    cross join lateral (
      select left(event.metadata #>> '{findings_summary,pattern}', 100) as pattern
      union
      -- An event of 64 KiB may list thousands, each a row in four periods.
      select case when listed.place <= 50 then left(listed.pattern #>> '{}', 100) else '[further patterns]' end
      from jsonb_path_query(event.metadata, 'lax $.findings_summary.patterns[*]') with ordinality as listed (pattern, place)
      where listed.place <= 51
    ) as found
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < until
      and event.event_type = 'hook_execution'
      and event.metadata ->> 'result' = 'blocked'
      and found.pattern is not null
    group by 1, 2, 3, 4, 5
  ),
  spans as (
    select span.* from ops.kept_spans(array(select distinct blocked.hour_start from blocked)) as span
  )
  select
    blocked.org_id,
    blocked.hook_type,
    blocked.pattern,
    spans.period,
    spans.period_start,
    sum(blocked.blocked_count)::bigint,
    blocked.team
  from blocked
  join spans
    on spans.hour_start = blocked.hour_start
  group by 1, 2, 3, 4, 5, 7;
end;
$$;
comment on function ops.count_patterns(ops.event_ids, timestamptz, timestamptz) is
  'How often each pattern blocked in the given events, per hour, day, week and month, but for those that retention removed. Patterns are findings_summary.pattern and the first 50 of .patterns; an event that lists more counts once under [further patterns].';

create view ops.blocked_pattern_parts
with (security_invoker = true)
as
select stored.org_id, stored.period, stored.period_start, stored.hook_type, stored.pattern, stored.team, stored.blocked_count
from ops.blocked_patterns as stored
union all
select fresh.org_id, fresh.period, fresh.period_start, fresh.hook_type, fresh.pattern, fresh.team, fresh.blocked_count
from ops.count_patterns(ops.fresh_ids(), '-infinity', 'infinity') as fresh;
comment on view ops.blocked_pattern_parts is
  'Parts that add up to how often a pattern blocked: what is stored, and the events behind the cursor beside it.';

create function ops.count_attempts(
  ids ops.event_ids,
  since timestamptz,
  until timestamptz,
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the groups for a few; it would then loop over all pairs of them and the SLIs.
set enable_nestloop = off
set enable_mergejoin = off
-- And their groups for ten times as many as there are; it would sort them by texts, on disk.
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if ids.late is null
      and not exists (select from public.telemetry_events as event where event.id > ids.after_id and event.id <= ids.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select delta.*
      from ops.count_attempts(ids, since, least(count_attempts.until, stretch.filled_until), stretch.sli_ids) as delta;
    end loop;
    return;
  end if;
  return query
  with limits as materialized (
    select found.* from ops.sli_limits(sli_ids) as found
  ),
  -- Events of the same outcome between the same limits (a class) are good for the same SLIs: the smallest of them stands for all.
  grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      date_bin('5 minutes', event.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
      event.event_type,
      (
        case event.outcome when 'success' then 1 when 'failure' then 2 else 0 end * 1000000::bigint
        + coalesce(width_bucket(event.duration_ms, limits.thresholds_ms) + 1, 0)
      ) * 1000000 + coalesce(width_bucket(-event.value, limits.negative_limits) + 1, 0) as class,
      min(event.outcome) as outcome,
      min(event.duration_ms) as duration_ms,
      min(event.value) as value,
      count(*) as events,
      min(event.id) as first_id
    from ops.sli_events as event
    join limits
      on limits.event_type = event.event_type
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < count_attempts.until
    group by
      event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, 3, class
  ),
  -- Columns and not the whole row, which would be taken apart for each group again.
  fitting as materialized (
    select
      found.labels,
      found.fits_good,
      found.fits_bad,
      found.slo_group,
      found.counted_as,
      (found.sli).sli_id as sli_id,
      (found.sli).event_type as event_type,
      (found.sli).objective as objective,
      (found.sli).threshold_ms as threshold_ms,
      (found.sli).at_most as at_most,
      -- The ways in which labels fit an SLI, by number.
      dense_rank() over (order by (found.sli).sli_id, found.fits_good, found.fits_bad) as fit
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective <> 'availability'
  ),
  -- Judged once a class and way: an SLI has a few of these, and ten times as many groups of events.
  verdicts as materialized (
    select way.fit, class.class, judged.is_good
    from (
      select distinct fitting.fit, fitting.event_type, fitting.objective, fitting.threshold_ms, fitting.at_most, fitting.fits_good, fitting.fits_bad
      from fitting
    ) as way
    join (
      select
        grouped.event_type,
        grouped.class,
        min(grouped.outcome) as outcome,
        min(grouped.duration_ms) as duration_ms,
        min(grouped.value) as value
      from grouped
      group by 1, 2
    ) as class
      on class.event_type = way.event_type
    cross join lateral (
      select
        ops.sli_verdict(
          way.objective, class.outcome, class.duration_ms, class.value, way.threshold_ms, way.at_most, way.fits_good, way.fits_bad
        ) as is_good
      offset 0
    ) as judged
    where judged.is_good is not null
  ),
  counted as materialized (
    select
      grouped.org_id,
      fitting.counted_as,
      grouped.bucket_start,
      coalesce(sum(grouped.events) filter (where verdicts.is_good), 0)::bigint as good,
      sum(grouped.events)::bigint as total,
      min(grouped.first_id) as first_id
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    join verdicts
      on verdicts.fit = fitting.fit
      and verdicts.class = grouped.class
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from counted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.bucket_start) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select counted.org_id, counted.counted_as, counted.bucket_start, counted.good, counted.total, null::bigint, null::jsonb
  from counted
  left join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  where placed.own_id is null
  union all
  select counted.org_id, placed.sli_id, counted.bucket_start, sum(counted.good)::bigint, sum(counted.total)::bigint, placed.of_sli_id, placed.counted_in
  from counted
  join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  group by counted.org_id, placed.sli_id, counted.bucket_start, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_attempts(ops.event_ids, timestamptz, timestamptz, bigint[], boolean) is
  'Good and total of the SLIs that count events, availability aside, over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all. Which groups are the first is decided by id, or by time where a history is filled in stretches of time, so that the length of passes and stretches changes nothing.';

create function ops.count_units(
  ids ops.event_ids,
  since timestamptz default '-infinity',
  until timestamptz default 'infinity',
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_nestloop = off
set enable_mergejoin = off
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if ids.late is null
      and not exists (select from public.telemetry_events as event where event.id > ids.after_id and event.id <= ids.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select unit.*
      from ops.count_units(ids, since, least(count_units.until, stretch.filled_until), stretch.sli_ids) as unit;
    end loop;
    return;
  end if;
  return query
  with grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      event.unit,
      min(event.event_timestamp) as first_attempt_at,
      bool_or(event.outcome = 'success') as succeeded,
      min(event.id) as first_id
    from ops.sli_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < count_units.until
      and event.outcome is not null
      and event.event_type in (
        select sli.event_type from ops.slis as sli where sli.sli_id = any (sli_ids) and sli.objective = 'availability'
      )
    group by event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, event.unit
  ),
  fitting as materialized (
    select (found.sli).sli_id, found.labels, found.slo_group, found.counted_as
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective = 'availability'
  ),
  attempted as materialized (
    select
      grouped.org_id,
      grouped.unit,
      fitting.counted_as,
      min(grouped.first_attempt_at) as first_attempt_at,
      bool_or(grouped.succeeded) as succeeded,
      min(grouped.first_id) as first_id
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from attempted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.first_attempt_at) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select attempted.org_id, attempted.unit, attempted.first_attempt_at, attempted.succeeded, attempted.counted_as, null::bigint, null::jsonb
  from attempted
  left join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  where placed.own_id is null
  union all
  select
    attempted.org_id, attempted.unit, min(attempted.first_attempt_at), bool_or(attempted.succeeded), placed.sli_id, placed.of_sli_id, placed.counted_in
  from attempted
  join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  group by attempted.org_id, attempted.unit, placed.sli_id, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_units(ops.event_ids, timestamptz, timestamptz, bigint[], boolean) is
  'The units of work that the given events attempt, by availability SLI: of each SLI what lies before filled_until, or of sli_ids all; groups as in ops.count_attempts.';

create or replace function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  counted_ids ops.event_ids;
  stretch record;
  changes ops.unit_change[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  counted_ids := ops.counted_ids();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.add_slis(array(
      select delta from ops.count_attempts(counted_ids, stretch.since, fill_slis.until, stretch.sli_ids, true) as delta
    ));
    changes := array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(counted_ids, stretch.since, fill_slis.until, stretch.sli_ids, true) as attempted
      )) as changed
    );
    perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
    perform ops.write_units(changes);
    update ops.slis
    set filled_until = fill_slis.until,
        -- Events that retention removed before they were counted are missing for good.
        counted_since = greatest(
          slis.counted_since,
          (
            select removed.removed_until
            from ops.removed_events as removed
            where removed.event_type = slis.event_type
              and removed.removed_until > stretch.since
          )
        )
    where slis.sli_id = any (stretch.sli_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;

create function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.fresh_ids(), '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.fresh_ids()) as attempted
    )) as changed
  )) as delta;
end;
comment on function ops.fresh_slis() is 'What the events behind the cursor add to the SLI counts, as the next refresh would.';

create function ops.evaluate_slos(as_of timestamptz, with_fresh boolean default true, slo_names text[] default null)
returns table (
  org_id uuid,
  slo_name text,
  service text,
  objective text,
  status text,
  target numeric,
  sli numeric,
  good bigint,
  total bigint,
  budget_left numeric,
  burn_rate_1h numeric,
  burn_rate_6h numeric,
  burn_rate_1d numeric,
  burn_rate_3d numeric,
  time_to_exhaustion interval,
  events_needed bigint,
  window_start timestamptz,
  evaluated_at timestamptz,
  version integer,
  budgeting_method text,
  window_length interval,
  last_counted_at timestamptz,
  good_unadjusted bigint,
  total_unadjusted bigint,
  budget_left_unadjusted numeric,
  slo_group jsonb,
  freshness text,
  stale_since timestamptz
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where evaluate_slos.with_fresh) as deltas
  ),
  orgs as materialized (
    select array(select ops.orgs_with_objectives(fresh.deltas)) as ids from fresh
  ),
  promised as materialized (
    select
      held.*,
      2 * ops.in_hours(coalesce(held.expected_interval, (select ops.setting('expected_interval')::interval))) as silent_after
    from ops.slo_windows(evaluate_slos.as_of, evaluate_slos.slo_names) as held
  ),
  grouped as materialized (
    select found.*
    from fresh
    cross join orgs
    cross join lateral ops.groups_of_slis(orgs.ids, array(select distinct promised.sli_id from promised), fresh.deltas) as found
  ),
  measured as materialized (
    select found.*
    from fresh
    cross join lateral ops.measured_slos(
      array(
        select
          row(grouped.org_id, promised.slo_name, promised.version, promised.window_start, promised.window_end, grouped.slo_group)::ops.slo_span
        from grouped
        join promised
          on promised.sli_id = grouped.of_sli_id
      ),
      evaluate_slos.as_of,
      fresh.deltas
    ) as found
  ),
  newest as materialized (
    select found.*
    from fresh
    cross join (select array_agg(grouped.org_id) as org_ids, array_agg(grouped.sli_id) as sli_ids from grouped) as counted
    cross join lateral ops.last_counts(evaluate_slos.as_of, counted.org_ids, counted.sli_ids, fresh.deltas) as found
  ),
  jobs as materialized (
    select found.freshness, found.stale_since from ops.counting_freshness(evaluate_slos.as_of) as found
  )
  select
    measured.org_id,
    measured.slo_name,
    promised.service,
    promised.objective,
    ops.slo_status(
      measured.good,
      measured.total,
      promised.target,
      ops.is_burning(measured.burn_1h, measured.burn_5m, ops.alert_factor(0.02, promised.window_length, interval '1 hour'))
        or ops.is_burning(measured.burn_6h, measured.burn_30m, ops.alert_factor(0.05, promised.window_length, interval '6 hours')),
      -- From the start of its five minutes, so that two intervals are never exceeded. Of stale counts as of them: nobody
      -- can tell the silence of the input from that of the jobs.
      newest.last_counted_at < coalesce(jobs.stale_since, evaluate_slos.as_of) - promised.silent_after
    ),
    promised.target,
    measured.good::numeric / nullif(measured.total, 0),
    measured.good,
    measured.total,
    budget.remaining,
    measured.burn_1h,
    measured.burn_6h,
    measured.burn_1d,
    measured.burn_3d,
    ops.time_to_exhaustion(promised.window_length, measured.burn_1d, budget.remaining),
    greatest(ops.events_to_judge(promised.target) - measured.total, 0),
    promised.window_start,
    evaluate_slos.as_of,
    promised.version,
    promised.budgeting_method,
    promised.window_length,
    newest.last_counted_at,
    measured.good_unadjusted,
    measured.total_unadjusted,
    ops.budget_left(measured.good_unadjusted, measured.total_unadjusted, promised.target),
    measured.slo_group,
    jobs.freshness,
    jobs.stale_since
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = ops.group_key(promised.sli_id, measured.slo_group)
  cross join lateral (
    select ops.budget_left(measured.good, measured.total, promised.target) as remaining offset 0
  ) as budget;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, or group of it, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data), counts of its window, budget and burn rates, and whether its counts are fresh or stale and since when; with_fresh adds the events behind the cursor; slo_names null: all.';

create or replace function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  missing constant int8multirange := ops.missing_ids();
begin
  if account.objective <> 'availability' then
    return query
    select judged.org_id, judged.event_timestamp, judged.event_timestamp, judged.event_id, judged.run_id, judged.tag, judged.reason
    from (
      select event.*, ops.lost_because(account, event) as reason
      from ops.sli_events as event
      where event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and event.event_timestamp >= account.since
        and event.event_timestamp < account.until
        and (stored_losses.only_org_id is null or event.org_id = stored_losses.only_org_id)
        -- Most events are good by themselves: only where labels can make them bad is each of these judged.
        and (
          account.good_labels <> '{}'
          or account.bad_labels is not null
          or case account.objective
            when 'latency' then event.duration_ms >= account.threshold_ms
            when 'measured' then event.value > account.at_most
            else event.outcome = 'failure'
          end
        )
        and ops.is_admitted(account, event)
      -- A barrier: each is judged once.
      offset 0
    ) as judged
    where judged.reason is not null;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.sli_id = account.sli_id
      and not unit.succeeded
      and unit.first_attempt_at >= account.since
      and unit.first_attempt_at < account.until
      and (stored_losses.only_org_id is null or unit.org_id = stored_losses.only_org_id)
  )
  select distinct on (lost_units.org_id, lost_units.unit)
    lost_units.org_id,
    lost_units.first_attempt_at,
    attempt.event_timestamp,
    attempt.event_id,
    attempt.run_id,
    attempt.tag,
    ops.loss_reason(account.objective, null, null)
  from lost_units
  join ops.sli_events as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and attempt.event_timestamp < account.filled_until
    and attempt.outcome is not null
    and (account.total_labels = '{}' and account.group_by = '{}' or ops.is_admitted(account, attempt))
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;

create or replace function ops.open_writers()
returns text[]
language sql
volatile
set search_path = ''
begin atomic
  with locks as materialized (
    select lock.locktype, lock.relation, lock.virtualtransaction, lock.pid, lock.mode, lock.transactionid, lock.database
    from pg_catalog.pg_locks as lock
    where lock.granted
  ),
  writing as (
    select distinct lock.virtualtransaction as name
    from locks as lock
    where lock.locktype = 'relation'
      and lock.mode = 'RowExclusiveLock'
      and lock.database = (select database.oid from pg_catalog.pg_database as database where database.datname = current_database())
      and (
        lock.relation = 'public.telemetry_events'::regclass
        -- Drawing an id locks the sequence to the end of the transaction, so an id drawn by hand is found before its insert.
        or lock.relation = 'public.telemetry_events_id_seq'::regclass
        or lock.relation in (
          select inheritance.inhrelid
          from pg_catalog.pg_inherits as inheritance
          where inheritance.inhparent = 'public.telemetry_events'::regclass
        )
      )
      and lock.pid is distinct from pg_backend_pid()
  )
  select coalesce(
    array_agg(writing.name || case when writing.name not like '-1/%' then ' -1/' || coalesce(own.xid, '') else '' end order by writing.name),
    '{}'
  )
  from writing
  left join lateral (
    -- The oldest, since subtransactions have ids of their own.
    select lock.transactionid::text as xid
    from locks as lock
    where lock.locktype = 'transactionid'
      and lock.mode = 'ExclusiveLock'
      and lock.virtualtransaction = writing.name
    order by age(lock.transactionid) desc
    limit 1
  ) as own on true;
end;
comment on function ops.open_writers() is
  'The transactions, prepared ones included, that have drawn ids of events or may and have not ended: each as pg_locks names it, and as it would name it when prepared and brought back by a restart of the server (-1/ and its id; -1/ alone while it has no id). An insert takes its lock before it draws an id.';

create function ops.still_open(writers text[], open_writers text[])
returns text[]
language sql
immutable
set search_path = ''
begin atomic
  with now_open as (
    select split_part(listed.writer, ' ', 1) as name, split_part(listed.writer, ' ', 2) as restarted
    from unnest(still_open.open_writers) as listed (writer)
  ),
  noted as (
    select listed.writer, split_part(listed.writer, ' ', 1) as name, split_part(listed.writer, ' ', 2) as restarted
    from unnest(still_open.writers) as listed (writer)
  )
  select array(
    select noted.writer
    from noted
    where exists (
      -- After a restart the name may be that of another, and the id is not.
      select from now_open where now_open.name = noted.name and noted.restarted in (now_open.restarted, '-1/')
    )
    union
    select now_open.name
    from noted
    join now_open
      on now_open.name = noted.restarted
      -- A transaction that had no id when it was noted may be any of those that a restart brought back.
      or (noted.restarted = '-1/' and now_open.name like '-1/%')
    order by 1
  );
end;
comment on function ops.still_open(text[], text[]) is
  'Those of some writers that are among the open ones, by the names they have now; both as ops.open_writers names them.';

create function ops.quiet_writers()
returns text[]
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- The contents of pg_stat_activity are remembered to the end of the transaction, unless it is asked anew.
  perform pg_stat_clear_snapshot();
  return array(
    select listed.writer || ' ' || coalesce(extract(epoch from session.state_change)::text, 'prepared')
    from unnest(ops.open_writers()) as listed (writer)
    left join (select distinct lock.virtualtransaction, lock.pid from pg_catalog.pg_locks as lock where lock.pid is not null) as held
      on held.virtualtransaction = split_part(listed.writer, ' ', 1)
    left join pg_catalog.pg_stat_activity as session
      on session.pid = held.pid
      and session.state in ('idle in transaction', 'idle in transaction (aborted)')
    where held.pid is null
      or session.state_change is not null
  );
end;
$$;
comment on function ops.quiet_writers() is
  'The open writers that run no statement, with since when: one that is listed twice in the same words has drawn no id in between. Sessions that the caller may not see are left out.';

create type ops.fence as (drawn_id bigint, writers text[], open_writers text[], has_gaps boolean);
comment on type ops.fence is
  'The newest id that was drawn, the open writers that may have drawn ids between the cursor and it, all open writers, and whether there are gaps behind the cursor. What has not appeared of the ids in a snapshot that is taken later, and is of none of the writers, never will.';

create function ops.take_fence(max_wait interval)
returns ops.fence
language plpgsql
volatile
set search_path = ''
as $$
declare
  kept ops.cursors;
  fence ops.fence;
  known text[];
  quiet text[];
  deadline timestamptz := clock_timestamp() + max_wait;
begin
  fence.has_gaps := exists (select from ops.event_gaps);
  select * into strict kept from ops.cursors where cursors.name = 'telemetry_events' for update;

  if (select sequence.seqcache from pg_catalog.pg_sequence as sequence where sequence.seqrelid = 'public.telemetry_events_id_seq'::regclass) <> 1 then
    raise exception 'the sequence of the event ids has a cache, so an id may be drawn long before the transaction that uses it, and the cursor would pass it'
      using errcode = 'OP003', hint = 'Run: alter sequence public.telemetry_events_id_seq cache 1; then opskpi doctor.';
  end if;

  if fence.has_gaps then
    quiet := ops.quiet_writers();
  end if;
  -- The order is what makes it exact: first the id, then who may still commit one up to it, then what can be seen of them.
  select case when sequence.is_called then sequence.last_value else 0 end into fence.drawn_id from public.telemetry_events_id_seq as sequence;
  if fence.drawn_id < kept.last_id then
    raise exception 'the event ids were set back to %, behind the cursor at %', fence.drawn_id, kept.last_id
      using errcode = 'OP003',
        hint = format('Run: select setval(''public.telemetry_events_id_seq'', %s); then opskpi rebuild over the days that changed.', kept.last_id);
  end if;
  fence.open_writers := ops.open_writers();
  fence.writers := fence.open_writers;

  -- Short transactions are waited for, since that leaves no gaps; those for which there are gaps already are not short.
  known := array(select unnest(gap.writers) from ops.event_gaps as gap);
  while not fence.writers <@ known and clock_timestamp() < deadline loop
    perform pg_sleep(0.01);
    fence.open_writers := ops.open_writers();
    fence.writers := ops.still_open(fence.writers, fence.open_writers);
  end loop;

  -- A transaction that has not run a statement since before the cursor passed has drawn nothing beyond it.
  if fence.has_gaps and kept.last_id >= kept.quiet_id and cardinality(fence.writers) > 0 then
    fence.writers := array(
      select listed.writer
      from unnest(fence.writers) as listed (writer)
      where split_part(listed.writer, ' ', 1) not in (
        select split_part(silent.writer, ' ', 1)
        from unnest(ops.quiet_writers()) as silent (writer)
        where silent.writer = any (kept.quiet_writers)
      )
    );
  end if;
  if fence.has_gaps and (kept.quiet_id is null or kept.last_id >= kept.quiet_id) then
    update ops.cursors set quiet_id = fence.drawn_id, quiet_writers = quiet where cursors.name = 'telemetry_events';
  elsif not fence.has_gaps and kept.quiet_id is not null then
    update ops.cursors set quiet_id = null, quiet_writers = '{}' where cursors.name = 'telemetry_events';
  end if;
  return fence;
end;
$$;
comment on function ops.take_fence(interval) is
  'Up to which id events can be counted, and who may still commit some of those; waits for open writers for max_wait at most, but for none for which it has before.';

create function ops.most_gaps()
returns integer
language sql
immutable
set search_path = ''
return 10000;
comment on function ops.most_gaps() is
  'How many ranges of ids are kept behind the cursor (count). At this bound the cursor waits for the transactions that they are kept for.';

create function ops.first_events(ids ops.event_ids, max_events bigint)
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  if cardinality(ids.late) >= max_events then
    return row(ids.after_id, ids.after_id, '{}', ids.late[1:max_events::integer])::ops.event_ids;
  end if;
  ids.until_id := ops.pass_end(ids.after_id, ids.until_id, max_events - coalesce(cardinality(ids.late), 0));
  ids.missing := ids.missing * int8range(ids.after_id, ids.until_id, '(]')::int8multirange;
  return ids;
end;
$$;
comment on function ops.first_events(ops.event_ids, bigint) is 'The part of a set of ids that has its first events, max_events at most, late ones first.';

create function ops.room_for_gaps(open_writers text[])
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select greatest(ops.most_gaps() - count(*), 0)
  from ops.event_gaps as gap
  cross join lateral unnest(gap.ids) as part (ids)
  where cardinality(ops.still_open(gap.writers, room_for_gaps.open_writers)) > 0;
end;
comment on function ops.room_for_gaps(text[]) is 'How many more gaps may be kept, when those of transactions that have ended are forgotten.';

create function ops.new_gaps(after_id bigint, until_id bigint, max_gaps bigint)
returns setof int8range
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select int8range(seen.previous_id, seen.id, '()')
  from (
    select visible.id, lag(visible.id, 1, after_id) over (order by visible.id) as previous_id
    from (
      select event.id from public.telemetry_events as event where event.id > after_id and event.id <= until_id
      union all
      select until_id + 1
    ) as visible
  ) as seen
  where seen.id - seen.previous_id > 1
  order by seen.id
  limit max_gaps;
end;
$$;
comment on function ops.new_gaps(bigint, bigint, bigint) is 'The ranges of ids with after_id < id <= until_id that no event has, as far as can be seen; the first max_gaps of them.';

create type ops.asked_ids as (ids ops.event_ids, late bigint[], is_held boolean);
comment on type ops.asked_ids is
  'The ids whose events a pass counts; all late ones; is_held: the ids are fewer than there are, since no more gaps may be kept.';

create function ops.ids_to_count(after_id bigint, fence ops.fence, max_ids bigint)
returns ops.asked_ids
language plpgsql
volatile
set search_path = ''
as $$
declare
  late constant bigint[] := case when fence.has_gaps then ops.late_ids() end;
  ids ops.event_ids := ops.first_events(row(after_id, fence.drawn_id, '{}', late)::ops.event_ids, max_ids);
  is_held boolean := false;
  room bigint;
  gaps int8range[];
begin
  if cardinality(fence.writers) > 0 and ids.until_id > after_id then
    room := ops.room_for_gaps(fence.open_writers);
    gaps := array(select gap.ids from ops.new_gaps(after_id, ids.until_id, room + 1) as gap (ids));
    if cardinality(gaps) > room then
      is_held := true;
      ids.until_id := lower(gaps[room + 1]) - 1;
      gaps := gaps[1:room];
    end if;
    -- From here on the set stands: statements that see more than this one did leave out the same ids.
    ids.missing := coalesce((select range_agg(gap.ids) from unnest(gaps) as gap (ids)), '{}');
  end if;
  return row(ids, late, is_held);
end;
$$;
comment on function ops.ids_to_count(bigint, ops.fence, bigint) is
  'The ids whose events a pass counts: late ones and those up to the fence that have appeared, max_ids events at most; all late ones; is_held: the ids are fewer, since no more gaps may be kept. Called after the fence was taken, so that it sees what was committed before.';

create function ops.settle_gaps(fence ops.fence, late bigint[], counted ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled constant int8multirange := coalesce(
    (select range_agg(int8range(counted_late.id, counted_late.id, '[]')) from unnest(counted.late) as counted_late (id)),
    '{}'
  );
  -- Late events that a smaller refresh counts stay, whoever has ended.
  still_late constant int8multirange := coalesce(
    (select range_agg(int8range(seen.id, seen.id, '[]')) from unnest(late) as seen (id)),
    '{}'
  ) - settled;
  stored constant ops.event_gaps[] := array(select gap from ops.event_gaps as gap order by gap.until_id);
  gaps ops.event_gaps[];
begin
  gaps := array(
    select row(max(kept.until_id), range_agg(kept.ids), kept.writers, min(kept.noted_at))::ops.event_gaps
    from (
      select
        gap.until_id,
        gap.noted_at,
        going_on.writers,
        case when cardinality(going_on.writers) > 0 then gap.ids - settled else gap.ids * still_late end as ids
      from unnest(stored) as gap
      cross join lateral (select ops.still_open(gap.writers, fence.open_writers) as writers offset 0) as going_on
      union all
      select counted.until_id, clock_timestamp(), array(select listed.writer from unnest(fence.writers) as listed (writer) order by 1), counted.missing
    ) as kept
    where not isempty(kept.ids)
    group by kept.writers
    order by 1
  );
  if gaps is distinct from stored then
    delete from ops.event_gaps as gap where gap.until_id is not null;
    insert into ops.event_gaps (until_id, ids, writers, noted_at)
    select gap.until_id, gap.ids, gap.writers, gap.noted_at from unnest(gaps) as gap;
  end if;
end;
$$;
comment on function ops.settle_gaps(ops.fence, bigint[], ops.event_ids) is
  'After a pass: forgets the gaps whose events were counted, and those of transactions that had ended before the pass looked, and notes the new ones. late are all ids of gaps that have appeared, counted is what the pass counted. Only refresh calls it.';

create function ops.described_writers(open_writers text[])
returns setof ops.awaited_writers
language sql
volatile
set search_path = ''
begin atomic
  select
    kept.name,
    session.pid,
    prepared.gid,
    coalesce(prepared.owner, session.usename)::text,
    nullif(session.application_name, ''),
    coalesce(prepared.prepared, session.xact_start, kept.noted_at),
    kept.noted_at
  from (
    select split_part(going_on.writer, ' ', 1) as name, min(gap.noted_at) as noted_at
    from ops.event_gaps as gap
    cross join lateral unnest(ops.still_open(gap.writers, described_writers.open_writers)) as going_on (writer)
    group by 1
  ) as kept
  join unnest(described_writers.open_writers) as now_open (writer)
    on split_part(now_open.writer, ' ', 1) = kept.name
  left join pg_catalog.pg_prepared_xacts as prepared
    on '-1/' || prepared.transaction = any (string_to_array(now_open.writer, ' '))
    and prepared.database = current_database()
  left join (select distinct lock.virtualtransaction, lock.pid from pg_catalog.pg_locks as lock where lock.pid is not null) as held
    on held.virtualtransaction = kept.name
  left join pg_catalog.pg_stat_activity as session
    on session.pid = held.pid
  where (prepared.gid is null) <> (session.pid is null);
end;
comment on function ops.described_writers(text[]) is
  'The open writers for which gaps are kept, waiting_since the oldest of those. Of a session of others a caller without pg_read_all_stats sees no start, so since is when the gap was noted.';

create function ops.note_awaited_writers(is_held boolean, open_writers text[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  first_waited_at constant timestamptz := coalesce((select min(writer.waiting_since) from ops.awaited_writers as writer), clock_timestamp());
begin
  delete from ops.awaited_writers as writer where writer.name is not null;
  insert into ops.awaited_writers (name, pid, gid, login, application, since, waiting_since)
  select described.name, described.pid, described.gid, described.login, described.application, described.since, first_waited_at
  from ops.described_writers(open_writers) as described
  where is_held;
end;
$$;
comment on function ops.note_awaited_writers(boolean, text[]) is 'Notes for whom the cursor waits, or that it waits for nobody; only refresh calls it.';

create function ops.writers_in_words(writers ops.awaited_writers[])
returns text
language sql
immutable
set search_path = ''
begin atomic
  select string_agg(
    case
      when writer.gid is not null then format(
        'prepared transaction %s%s, since %s UTC: rollback prepared %s',
        writer.gid,
        coalesce(' (user ' || writer.login || ')', ''),
        to_char(writer.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
        quote_literal(writer.gid)
      )
      else format(
        'pid %s%s, since %s UTC: select pg_terminate_backend(%1$s)',
        writer.pid,
        coalesce(
          ' (' || nullif(concat_ws(', ', 'user ' || writer.login, 'application ' || writer.application), '') || ')',
          ''
        ),
        to_char(writer.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
      )
    end,
    '; ' order by writer.since, writer.name
  )
  from (
    select listed.* from unnest(writers_in_words.writers) as listed order by listed.since, listed.name limit 3
  ) as writer;
end;
comment on function ops.writers_in_words(ops.awaited_writers[]) is
  'Open transactions, the three oldest, each with its user and application as far as they may be seen, since when it is open, and the statement that ends it; null: there is none.';

create function ops.awaited_in_words()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  -- Pages ask whether anybody is waited for or not, and planning the rest takes longer than finding that out.
  if not exists (select from ops.awaited_writers) then
    return null;
  end if;
  return ops.writers_in_words(array(select writer from ops.awaited_writers as writer));
end;
$$;
comment on function ops.awaited_in_words() is 'For whom the counting waits, as writers_in_words says it; null: for nobody, or the caller may not see it.';

create function ops.note_agents(ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from ops.countable_events as event
  where (
    (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
    or (ids.late is not null and event.id = any (ids.late))
  )
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;
$$;
comment on function ops.note_agents(ops.event_ids) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

create function ops.apply_attempts(ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes ops.unit_change[] := array(
    select changed
    from ops.changed_units(array(select attempted from ops.count_units(ids) as attempted)) as changed
  );
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(ids, '-infinity', 'infinity') as delta
    union all
    select delta from ops.unit_slis(changes) as delta
  ));
  perform ops.write_units(changes);
end;
$$;
comment on function ops.apply_attempts(ops.event_ids) is 'Adds the attempts among new events to the SLI counts and the units of work.';

create type ops.counted_range as (events bigint, kpi_rows jsonb, ids ops.event_ids, message text);
comment on type ops.counted_range is 'Events counted, KPI rows written by period, the ids of the events, and what a person should know of it.';

create function ops.count_range(ids ops.event_ids, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.counted_range;
  events ops.event_delta[] := '{}'::ops.event_delta[];
  audits ops.event_delta[];
  has_ids constant boolean := ids.until_id > ids.after_id or ids.late is not null;
begin
  counted.ids := ids;
  if has_ids then
    events := array(select event from ops.count_events(ids, '-infinity', 'infinity') as event);
  end if;
  counted.events := coalesce((select sum(event.event_count) from unnest(events) as event), 0);
  audits := array(select audit from ops.take_audit_changes() as audit);
  if cardinality(audits) > 0 then
    events := events || audits;
  end if;
  if cardinality(events) > 0 then
    counted.kpi_rows := ops.apply_events(events, as_of);
  end if;
  if has_ids then
    perform ops.add_patterns(array(select delta from ops.count_patterns(ids, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(ids);
    perform ops.note_agents(ids);
  end if;
  return counted;
end;
$$;
comment on function ops.count_range(ops.event_ids, timestamptz) is
  'Counts the events of a set of ids, and the audits that changed, everywhere they count: rollups, histograms, KPIs, blocked patterns, SLIs, units of work, agents. Once per event; the cursor is the caller''s.';

create or replace function ops.fresh_kpis()
returns setof ops.kpi_value
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  events ops.event_delta[] := array(
    select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    union all
    select event from ops.count_audit_changes() as event
  );
begin
  if cardinality(events) = 0 then
    return;
  end if;
  return query
  select kpi.*
  from ops.changed_ratios(array(select delta from ops.rollup_deltas(events) as delta)) as kpi
  union all
  select kpi.*
  from ops.changed_percentiles(array(
    select merged from ops.merged_histograms(array(select delta from ops.histogram_deltas(events) as delta)) as merged
  )) as kpi;
end;
$$;

create function ops.events_among(ids ops.event_ids)
returns bigint
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (
    select count(*)
    from ops.countable_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
  );
end;
$$;
comment on function ops.events_among(ops.event_ids) is 'Events of a set of ids that are not set aside (count).';

create function ops.set_aside(ids ops.event_ids, reason text)
returns void
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  insert into ops.uncountable_events (org_id, id, event_id, event_type, event_timestamp, reason)
  select event.org_id, event.id, event.event_id, event.event_type, event.event_timestamp, left(set_aside.reason, 1000)
  from ops.countable_events as event
  where (
    (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
    or (ids.late is not null and event.id = any (ids.late))
  );
end;
$$;
comment on function ops.set_aside(ops.event_ids, text) is
  'Sets the events of a set of ids aside; only refresh calls it, before it moves the cursor past the events in the same transaction.';

create type ops.attempt as (ids ops.event_ids, most_events bigint, is_lost_alone boolean);
comment on type ops.attempt is
  'The events that an attempt counts; how many events it takes at most (null: as many as the call allows); whether the one event that it takes was lost alone three times.';

create function ops.next_attempt(ids ops.event_ids, max_ids bigint)
returns ops.attempt
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt;
  lost bigint := ops.begin_attempt();
  waiting bigint;
begin
  attempt.most_events := (select cursors.most_events from ops.cursors where cursors.name = 'telemetry_events');
  -- A single loss is mostly a server that was restarted or a person who changed their mind.
  if attempt.most_events is null then
    lost := greatest(lost - 1, 0);
  end if;
  attempt.ids := ops.first_events(ids, least(attempt.most_events, max_ids));
  attempt.is_lost_alone := false;
  if lost > 0 then
    lost := least(lost, 62);
    waiting := ops.events_among(attempt.ids);
    attempt.most_events := greatest(waiting >> lost::integer, 1);
    attempt.is_lost_alone := waiting > 0 and lost >= 3 and waiting >> (lost - 3)::integer <= 1;
    attempt.ids := ops.first_events(attempt.ids, attempt.most_events);
  end if;
  return attempt;
end;
$$;
comment on function ops.next_attempt(ops.event_ids, bigint) is
  'Begins an attempt: half as many events as the one before for each that was lost since the last that ended well, the first loss excepted. Only refresh calls it, under its lock.';

create function ops.count_or_set_aside(ids ops.event_ids, max_ids bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt := ops.next_attempt(ids, max_ids);
  counted ops.counted_range;
  set_aside integer := 0;
  waiting bigint;
begin
  if attempt.is_lost_alone then
    perform ops.set_aside(attempt.ids, 'three attempts to count this event alone were cut off: by a timeout, a cancellation or the end of the server process');
    set_aside := 1;
  end if;
  loop
    begin
      counted := ops.count_range(attempt.ids, as_of);
      exit;
    exception
      when others then
        waiting := ops.events_among(attempt.ids);
        if waiting = 0 or not ops.is_fault_of_events(sqlstate) then
          perform ops.forget_attempt();
          raise;
        elsif waiting = 1 then
          perform ops.set_aside(attempt.ids, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
          set_aside := set_aside + 1;
        else
          attempt.most_events := waiting / 2;
          attempt.ids := ops.first_events(attempt.ids, attempt.most_events);
        end if;
    end;
  end loop;
  update ops.cursors
  set last_id = (attempt.ids).until_id,
      moved_at = clock_timestamp(),
      attempts = (select sequence.last_value from ops.refresh_attempts as sequence),
      -- From there on by doubling: where one event cannot be counted, there may be more.
      most_events = case when 2 * attempt.most_events < max_ids then 2 * attempt.most_events end
  where cursors.name = 'telemetry_events';
  if set_aside > 0 then
    counted.message := format('%s event(s) could not be counted and are set aside; opskpi doctor says what to do', set_aside);
  end if;
  return counted;
end;
$$;
comment on function ops.count_or_set_aside(ops.event_ids, bigint, timestamptz) is
  'Counts the events of a set of ids and moves the cursor to its end: max_ids at most, or as many as can be counted. The one event that cannot is set aside. Other errors are raised. Only refresh calls it, under its lock.';
comment on type ops.refresh_report is
  'done: all that has appeared is counted; more: call again; waiting: so many gaps are kept for writers that stay open that the cursor waits for them; busy: another refresh runs; failed (of run alone): the message says why. behind is in ids, rows are KPI rows.';

create function ops.pass_end(after_id bigint, last_id bigint, max_ids bigint)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  if last_id - after_id <= max_ids then
    return last_id;
  end if;
  -- By events and not by ids, since a restored sequence may have a gap of millions.
  return coalesce(
    (
      select event.id
      from public.telemetry_events as event
      where event.id > after_id
        and event.id <= last_id
      order by event.id
      offset max_ids - 1
      limit 1
    ),
    last_id
  );
end;
$$;
comment on function ops.pass_end(bigint, bigint, bigint) is
  'The id up to which one pass counts: last_id, or the id of the last of max_ids events after the cursor.';

create function ops.report_refresh(counted ops.counted_range, is_waiting boolean, is_all boolean)
returns ops.refresh_report
language plpgsql
stable
set search_path = ''
as $$
declare
  report ops.refresh_report;
begin
  report.events := counted.events;
  report.cursor_id := (counted.ids).until_id;
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - report.cursor_id;
  report.hour_rows := coalesce((counted.kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((counted.kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((counted.kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((counted.kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when not is_all then 'more'
    when is_waiting then 'waiting'
    else 'done'
  end;
  report.message := concat_ws(
    '; ',
    counted.message,
    case
      when report.state = 'waiting'
        then 'counting waits for transactions that write events and stay open: ' || coalesce(ops.awaited_in_words(), 'they end just now')
    end
  );
  report.message := nullif(report.message, '');
  return report;
end;
$$;
comment on function ops.report_refresh(ops.counted_range, boolean, boolean) is
  'The report of a pass: events, KPI rows by period, and whether that is all that it could have counted, or it waits.';

create or replace function ops.refresh(max_wait interval default '5 seconds', max_ids bigint default 200000, as_of timestamptz default now())
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
-- Hashing 200,000 events takes less than this; with the default of 4 MB they are sorted on disk, which takes three times as long.
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.refresh_report;
  started_at timestamptz := clock_timestamp();
  after_id bigint;
  fence ops.fence;
  asked ops.asked_ids;
  counted ops.counted_range;
begin
  perform ops.require_refreshable(max_ids);
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name)
  select 'telemetry_events'
  where not exists (select from ops.cursors where cursors.name = 'telemetry_events');
  fence := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  -- Before the attempt, so that what is lost there was lost in counting.
  perform ops.close_periods(as_of);
  asked := ops.ids_to_count(after_id, fence, max_ids);
  if (asked.ids).until_id > after_id or (asked.ids).late is not null then
    counted := ops.count_or_set_aside(asked.ids, max_ids, as_of);
  else
    counted := ops.count_range(asked.ids, as_of);
  end if;
  if fence.has_gaps or asked.is_held or not isempty((counted.ids).missing) then
    perform ops.settle_gaps(fence, asked.late, counted.ids);
    perform ops.note_awaited_writers(asked.is_held, fence.open_writers);
  end if;

  report := ops.report_refresh(
    counted,
    asked.is_held,
    (counted.ids).until_id >= case when asked.is_held then (asked.ids).until_id else fence.drawn_id end
      and coalesce(cardinality((counted.ids).late), 0) >= coalesce(cardinality(asked.late), 0)
  );
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, kpi_rows, message)
  values (
    'refresh',
    started_at,
    clock_timestamp(),
    case when report.state = 'waiting' then 'waiting' else 'success' end,
    report.events,
    report.hour_rows + report.day_rows + report.week_rows + report.month_rows,
    report.message
  );
  return report;
end;
$$;

create or replace function ops.count_again(only_id bigint default null, as_of timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  aside ops.uncountable_events;
  counted bigint := 0;
begin
  perform ops.require_refreshable(1);
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  perform ops.fill_slis();
  for aside in
    select stored.* from ops.uncountable_events as stored where stored.id = coalesce(count_again.only_id, stored.id) order by stored.id
  loop
    begin
      delete from ops.uncountable_events as stored where stored.org_id = aside.org_id and stored.id = aside.id;
      counted := counted + (ops.count_range(row(aside.id - 1, aside.id, '{}', null)::ops.event_ids, as_of)).events;
    exception
      when others then
        if not ops.is_fault_of_events(sqlstate) then
          raise;
        end if;
        update ops.uncountable_events as stored
        set reason = left(format('%s (SQLSTATE %s)', sqlerrm, sqlstate), 1000),
            set_aside_at = clock_timestamp()
        where stored.org_id = aside.org_id
          and stored.id = aside.id;
    end;
  end loop;
  return counted;
end;
$$;

create or replace function ops.rebuild(since timestamptz, until timestamptz, as_of timestamptz default now(), recount_units boolean default true)
returns bigint
language plpgsql
volatile
set search_path = ''
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  started_at timestamptz := clock_timestamp();
  counted_ids ops.event_ids;
  scanned_until timestamptz;
  scan_end timestamptz;
  chunk record;
  counted bigint := 0;
begin
  perform ops.require_rebuild_range(since, until);
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  perform ops.require_stored_events(since);
  -- Audits change, so they must stand still between their last refresh and their recount.
  lock table public.slsa_audit_metrics in share mode;
  perform ops.refresh(interval '0', as_of => as_of);
  counted_ids := ops.counted_ids();

  perform ops.forget_span(since, until);
  select min(span.span_start), max(span.span_end)
  into scanned_until, scan_end
  from ops.rebuild_spans(since, until) as span;
  loop
    select * into chunk from ops.next_chunk(scanned_until, scan_end);
    exit when not found;
    counted := counted + ops.recount_chunk(chunk.chunk_start, chunk.chunk_end, counted_ids, since, until);
    scanned_until := chunk.chunk_end;
  end loop;
  perform ops.rebuild_kpis(since, until, as_of);
  perform ops.rebuild_slis(since, until, counted_ids, recount_units);
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, message)
  values ('rebuild', started_at, clock_timestamp(), 'success', counted, format('%s to %s', since, until));
  return counted;
end;
$$;

create function ops.recount_chunk(
  chunk_start timestamptz,
  chunk_end timestamptz,
  counted_ids ops.event_ids,
  since timestamptz,
  until timestamptz
)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  events constant ops.event_delta[] := array(
    select event from ops.count_events(counted_ids, chunk_start, chunk_end) as event
    union all
    select event from ops.count_audits_between(chunk_start, chunk_end) as event
  );
begin
  perform ops.add_rollups(array(
    select delta
    from ops.rollup_deltas(events) as delta
    join ops.rebuild_spans(since, until) as span
      on span.period = delta.period
      and delta.period_start >= span.span_start
      and delta.period_start < span.span_end
  ));
  perform ops.write_histograms(array(
    select merged
    from ops.merged_histograms(array(
      select delta
      from ops.histogram_deltas(events) as delta
      join ops.rebuild_spans(since, until) as span
        on span.period = delta.period
        and delta.period_start >= span.span_start
        and delta.period_start < span.span_end
    )) as merged
  ));
  perform ops.add_patterns(array(
    select delta
    from ops.count_patterns(counted_ids, chunk_start, chunk_end) as delta
    join ops.rebuild_spans(since, until) as span
      on span.period = delta.period
      and delta.period_start >= span.span_start
      and delta.period_start < span.span_end
  ));
  return coalesce((select sum(event.event_count) from unnest(events) as event), 0);
end;
$$;
comment on function ops.recount_chunk(timestamptz, timestamptz, ops.event_ids, timestamptz, timestamptz) is
  'Adds the counted events and the audits of a chunk to the periods that the range from since to until touches; returns how many it read. Only rebuild calls it.';

create function ops.rebuild_slis(since timestamptz, until timestamptz, counted_ids ops.event_ids, recount_units boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  bucket_since timestamptz := date_bin('5 minutes', since, timestamptz '1969-12-29 00:00+00');
  bucket_until timestamptz := date_bin('5 minutes', until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until
    and stored.sli_id not in (select sli.counted_as from ops.counted_slis as sli where sli.objective = 'availability');
  perform ops.add_slis(array(select delta from ops.count_attempts(counted_ids, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (
        select removed.removed_until
        from ops.removed_events as removed
        join ops.counted_slis as sli
          on sli.event_type = removed.event_type
        where sli.counted_as = unit.sli_id
      ),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(counted_ids) as attempted)) as changed
    ));
    perform ops.recount_units();
    -- Their counts have changed at any time.
    bucket_since := '-infinity';
    bucket_until := 'infinity';
  end if;
  perform ops.recount_sli_days(bucket_since, bucket_until);
end;
$$;
comment on function ops.rebuild_slis(timestamptz, timestamptz, ops.event_ids, boolean) is
  'Recounts the attempts of the range and all units of work whose events are all there from the events; only rebuild calls it.';

create or replace function ops.job_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    '00000000-0000-0000-0000-000000000000'::uuid,
    rule.rule_name,
    job.name,
    null::text,
    null::integer,
    coalesce(
      job.last_run_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 2 * ops.refresh_interval()))
        or least(job.counted_at, job.waiting_since) < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 3 * ops.refresh_interval())),
      false
    ),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    ) || case
      when job.counted_at < job.last_run_at or job.waiting_since is not null
        then jsonb_build_object('waiting_since', least(job.counted_at, job.waiting_since), 'waits_for', ops.awaited_in_words())
      else '{}'
    end,
    jsonb '{}'
  from ops.alert_rules as rule
  cross join (
    select
      'refresh' as name,
      counted.last_run_at,
      counted.counted_at,
      (select min(writer.waiting_since) from ops.awaited_writers as writer) as waiting_since
    from ops.counting_freshness(job_conditions.as_of) as counted
    union all
    select 'alerts', max(evaluation.evaluated_at), null, null
    from ops.alert_evaluations as evaluation
  ) as job
  where rule.is_enabled
    and rule.kind = 'silent_jobs';
end;

create view ops.hook_days
with (security_invoker = true)
as
select
  series.org_id,
  series.event_type,
  series.labels,
  rollup.period_start as day_start,
  rollup.event_count,
  rollup.value_count,
  rollup.value_sum
from ops.rollups as rollup
join ops.series
  on series.org_id = rollup.org_id
  and series.series_id = rollup.series_id
where rollup.period = 'day'
  and series.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
union all
select
  fresh.org_id,
  fresh.event_type,
  fresh.labels,
  ops.period_start('day', fresh.hour_start, ops.time_zone()),
  fresh.event_count,
  fresh.value_count,
  fresh.value_sum
from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as fresh
where fresh.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
  and ops.period_start('day', fresh.hour_start, ops.time_zone()) >= coalesce(
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );
comment on view ops.hook_days is
  'Parts that add up to what the hooks sent by org, kind, labels and day: the stored days, and the events behind the cursor beside them.';

create or replace function ops.has_uncounted_events(relation regclass, since timestamptz, until timestamptz, event_type text default null)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  answer boolean;
begin
  execute format(
    'select exists (
       select
       from %s as event
       where (event.id > $1 or event.id = any ($5)) and event.event_timestamp >= $2 and event.event_timestamp < $3 and ($4 is null or event.event_type = $4)
     )',
    relation
  )
  into answer
  using ops.cursor_id(), since, until, event_type, coalesce(ops.late_ids(), '{}');
  return answer;
end;
$$;

create or replace function ops.delete_month(month ops.retention_step, relation regclass, max_rows integer)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
set lock_timeout = '1s'
as $$
begin
  month.state := 'blocked';
  if not exists (
    select from ops.removed_events as removed where removed.event_type = month.event_type and removed.removed_until >= month.until
  ) then
    -- An ingest_events that began before this is known would meet a deleted event and take its repeat for new; those
    -- are waited for, and later ones know.
    lock table only public.telemetry_events in share row exclusive mode;
    perform ops.note_removed_events(array[month.event_type], month.since, month.until);
  end if;
  execute format(
    'delete from %1$s as event
     where event.ctid = any (array(
       select expired.ctid
       from %1$s as expired
       where expired.event_type = $1
         and expired.event_timestamp >= $2
         and expired.event_timestamp < $3
         and expired.id <= $4
         and not expired.id <@ $6
       limit $5
     ))',
    relation
  )
  using month.event_type, month.since, month.until, ops.cursor_id(), max_rows, ops.missing_ids();
  get diagnostics month.removed = row_count;
  if month.removed = 0 then
    month.message := 'it has events that are not counted yet';
    return month;
  end if;
  insert into ops.removed_months as removed (event_type, month_start, events)
  values (month.event_type, month.since, month.removed)
  on conflict on constraint removed_months_pkey do update set
    events = removed.events + excluded.events,
    removed_at = excluded.removed_at;
  month.state := 'freed';
  return month;
exception
  when lock_not_available or deadlock_detected then
    month.message := month.name || ' is in use';
    month.name := 'events';
    return month;
end;
$$;

create or replace function ops.anonymise_events(
  before timestamptz,
  only_org_id uuid default null,
  only_event_type text default null,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  anonymisation_id bigint default null
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled);
  pseudonyms ops.pseudonym[];
  events ops.anonymisable[];
  missing int8multirange;
begin
  if (before between timestamptz '1970-01-01 00:00+00' and timestamptz '2200-01-01 00:00+00' and max_events >= 1) is not true then
    raise exception 'what to anonymise is not said: before %, max_events %', before, max_events
      using errcode = 'OP001', hint = 'Pass an instant between 1970 and 2200, and a batch of 1 or more.';
  end if;
  if only_event_type is not null and after_id = 0 then
    perform ops.require_rule_for('events', only_event_type);
  end if;
  -- Nothing is counted, rebuilt or deleted meanwhile, so that what is counted now is what was read.
  if not dry_run and not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    return report;
  end if;
  missing := ops.missing_ids();
  report.last_id := ops.last_to_anonymise(after_id, ops.cursor_id(), before, max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  events := array(
    select row(
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, ops.cursor_id())
      and not event.id <@ missing
      and event.event_timestamp < before
      and (only_org_id is null or event.org_id = only_org_id)
      and (only_event_type is null or event.event_type = only_event_type)
  );
  pseudonyms := array(select pair from ops.pseudonyms(events, rules) as pair);
  if not dry_run then
    perform ops.add_pseudonyms(pseudonyms);
    perform ops.follow_teams(pseudonyms);
  end if;
  report.looked_at := cardinality(events);
  select written.changed, written.counts
  into report.changed, report.counts
  from ops.write_anonymised(events, rules, pseudonyms, false, dry_run) as written;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;

create view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted,
  nullif(sli.counted_since, '-infinity') as counted_since,
  evaluated.slo_group,
  evaluated.freshness,
  evaluated.stale_since
from ops.evaluate_slos(now(), true, null) as evaluated
join ops.slo_versions as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
join ops.slis as sli
  on sli.sli_id = version.sli_id
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.slo_group, evaluated.org_id;
comment on view public.v_ops_slo_status is
  'One row an org and objective (of one with groups: each group), as of now, events behind the cursor included; the worst first.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency, error_rate, events or measured.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge) or no_data, whether or not its counts are fresh.';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';
comment on column public.v_ops_slo_status.counted_since is
  'First instant with all its events: retention had removed older ones before the objective was made; null: none is missing.';
comment on column public.v_ops_slo_status.slo_group is
  'The group: {"workflow": "release"}, null where its events have no such label; {"overflow": true}: all beyond the first 1,000 groups; {} of an objective without groups.';
comment on column public.v_ops_slo_status.freshness is 'fresh, or stale: the jobs stopped, or they wait for a transaction.';
comment on column public.v_ops_slo_status.stale_since is 'When the jobs last counted; null: the counts are fresh, or there are none.';

create view public.v_ops_hook_policies
with (security_invoker = true)
as
with versioned as (
  select
    part.org_id,
    case when part.labels ->> 'policy_version' ~ '^[0-9]{1,18}$' then (part.labels ->> 'policy_version')::bigint end as policy_version,
    part.event_type,
    part.labels ->> 'result' as result,
    part.day_start,
    part.event_count
  from ops.hook_days as part
),
counted as (
  select
    versioned.org_id,
    versioned.policy_version,
    min(versioned.day_start) as first_day_start,
    max(versioned.day_start) as last_day_start,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_execution'), 0)::bigint as executions,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'blocked'), 0)::bigint as blocked_count,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'overridden'), 0)::bigint as overridden_count,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_baseline'), 0)::bigint as baseline_count,
    sum(versioned.event_count) filter (where versioned.result in ('allowed', 'blocked', 'overridden')) as decisions
  from versioned
  group by 1, 2
)
select
  counted.policy_version,
  policy.created_at as set_at,
  counted.first_day_start,
  counted.last_day_start,
  counted.executions,
  counted.blocked_count,
  counted.overridden_count,
  counted.baseline_count,
  round(100.0 * counted.blocked_count / nullif(counted.decisions, 0), 6) as block_rate,
  round(100.0 * counted.overridden_count / nullif(counted.decisions, 0), 6) as override_rate,
  round(100.0 * counted.baseline_count / nullif(counted.executions, 0), 6) as baseline_rate,
  counted.org_id
from counted
left join ops.policies as policy
  on policy.org_id = counted.org_id
  and policy.version = counted.policy_version
order by counted.org_id, counted.policy_version desc nulls last;
comment on view public.v_ops_hook_policies is
  'One row an org and version of its hook policy: what the hooks did under it, newest version first, events behind the cursor included.';
comment on column public.v_ops_hook_policies.policy_version is 'The version that the events name; 0: the default; null: they name none.';
comment on column public.v_ops_hook_policies.set_at is 'When that version was set; null for the default and for events that name none.';
comment on column public.v_ops_hook_policies.first_day_start is 'First instant of the first day with events under it.';
comment on column public.v_ops_hook_policies.last_day_start is 'First instant of the newest day with events under it.';
comment on column public.v_ops_hook_policies.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_policies.blocked_count is 'Executions that blocked (count).';
comment on column public.v_ops_hook_policies.overridden_count is 'Executions that were overridden (count).';
comment on column public.v_ops_hook_policies.baseline_count is 'Findings accepted into the baseline (count).';
comment on column public.v_ops_hook_policies.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_policies.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_policies.baseline_rate is 'Findings accepted into the baseline per 100 executions.';
comment on column public.v_ops_hook_policies.org_id is 'The tenant.';

create view public.v_ops_blocked_patterns
with (security_invoker = true)
as
select
  part.period as aggregation_period,
  part.period_start,
  part.hook_type,
  part.pattern,
  sum(part.blocked_count)::bigint as blocked_count,
  part.org_id
from ops.blocked_pattern_parts as part
group by part.org_id, part.period, part.period_start, part.hook_type, part.pattern
order by part.period_start desc, blocked_count desc, part.pattern;
comment on view public.v_ops_blocked_patterns is
  'One row an org, period, hook type and pattern: what blocked most, newest period and most frequent first, events behind the cursor included.';
comment on column public.v_ops_blocked_patterns.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_blocked_patterns.period_start is 'First instant of the period.';
comment on column public.v_ops_blocked_patterns.hook_type is 'The hook; empty when the event names none.';
comment on column public.v_ops_blocked_patterns.pattern is 'What was found.';
comment on column public.v_ops_blocked_patterns.blocked_count is 'Executions that it blocked (count).';
comment on column public.v_ops_blocked_patterns.org_id is 'The tenant.';

create view ops.rollup_parts
with (security_invoker = true)
as
select
  rollup.org_id,
  series.event_type,
  series.labels,
  rollup.period,
  rollup.period_start,
  rollup.event_count,
  rollup.value_count,
  rollup.value_sum
from ops.rollups as rollup
join ops.series
  on series.org_id = rollup.org_id
  and series.series_id = rollup.series_id
union all
select
  delta.org_id,
  delta.event_type,
  delta.labels,
  delta.period,
  delta.period_start,
  delta.event_count,
  delta.value_count,
  delta.value_sum
from ops.rollup_deltas(array(
  select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
)) as delta;
comment on view ops.rollup_parts is
  'Parts that add up to the events of a series and period: what is stored, and the events behind the cursor beside it.';

create view ops.histogram_parts
with (security_invoker = true)
as
select
  stored.org_id,
  stored.period,
  stored.period_start,
  stored.event_type,
  stored.labels,
  (bin.place + array_lower(stored.counts, 1) - 1)::integer as bin,
  bin.value_count
from ops.histograms as stored
cross join lateral unnest(stored.counts) with ordinality as bin (value_count, place)
where bin.value_count is not null
union all
select
  delta.org_id,
  delta.period,
  delta.period_start,
  delta.event_type,
  delta.labels,
  bin.bin,
  bin.value_count
from ops.histogram_deltas(array(
  select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
)) as delta
cross join lateral unnest(delta.bins, delta.counts) as bin (bin, value_count);
comment on view ops.histogram_parts is
  'Parts that add up to how many values of a KPI grouping and period fell into a bin, the events behind the cursor included.';

create or replace function ops.filtered_sums(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb,
  only_event_type text,
  kept text[],
  org_id uuid
)
returns setof ops.kpi_sum
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  fresh constant ops.rollup_delta[] := array(
    select delta
    from ops.rollup_deltas(array(
      select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    )) as delta
    where delta.org_id = filtered_sums.org_id
  );
begin
  return query
  with members as materialized (
    select kpi_group.metric_name, kpi_group.event_type, kpi_group.series_labels, kpi_group.in_numerator
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (
        select series.event_type, series.labels
        from ops.series
        where series.org_id = filtered_sums.org_id
        union
        -- Labels that are new belong to no series yet.
        select delta.event_type, delta.labels from unnest(fresh) as delta
      ) as kind
    )) as kpi_group
    where kpi_group.group_labels = '{}'
      and kpi_group.series_labels @> filtered_sums.filters
      and (filtered_sums.only_event_type is null or kpi_group.event_type = filtered_sums.only_event_type)
      and kpi_group.metric_name <> all (filtered_sums.kept)
  ),
  parts as materialized (
    select series.event_type, series.labels, rollup.period_start, rollup.event_count, rollup.value_count, rollup.value_sum
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.org_id = filtered_sums.org_id
      and rollup.period = filtered_sums.period
      and rollup.period_start >= filtered_sums.since
      and rollup.period_start < filtered_sums.until
      and series.labels @> filtered_sums.filters
    union all
    select delta.event_type, delta.labels, delta.period_start, delta.event_count, delta.value_count, delta.value_sum
    from unnest(fresh) as delta
    where delta.period = filtered_sums.period
      and delta.period_start >= filtered_sums.since
      and delta.period_start < filtered_sums.until
      and delta.labels @> filtered_sums.filters
  )
  select
    filtered_sums.org_id,
    members.metric_name,
    filtered_sums.filters,
    filtered_sums.period,
    parts.period_start,
    sum(parts.event_count),
    coalesce(sum(parts.event_count) filter (where members.in_numerator), 0),
    sum(parts.value_count),
    sum(parts.value_sum)
  from members
  join parts
    on parts.event_type = members.event_type
    and parts.labels = members.series_labels
  group by members.metric_name, parts.period_start;
end;
$$;

create function ops.summary_objectives(org_id uuid, as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with evaluated as materialized (
    select status.*
    from ops.evaluate_slos(summary_objectives.as_of, true, null) as status
    where status.org_id = summary_objectives.org_id
  )
  select jsonb_build_object(
    'by_status', (
      select coalesce(jsonb_object_agg(counted.status, counted.objectives), '{}')
      from (select evaluated.status, count(*) as objectives from evaluated group by evaluated.status) as counted
    ),
    'stale', (select count(*) from evaluated where evaluated.freshness = 'stale'),
    'list', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'objective', evaluated.slo_name,
            'group', ops.group_name(evaluated.slo_group),
            'service', evaluated.service,
            'status', evaluated.status,
            'target', ops.readable(evaluated.target),
            'sli', ops.readable(evaluated.sli),
            'good', evaluated.good,
            'total', evaluated.total,
            'budget_left', ops.readable(evaluated.budget_left)
          )
          order by
            ops.status_rank(evaluated.status),
            evaluated.budget_left,
            evaluated.slo_name,
            evaluated.slo_group
        ),
        '[]'
      )
      from evaluated
    )
  );
end;
comment on function ops.summary_objectives(uuid, timestamptz) is
  'How the objectives of an org stand as of an instant, each over its own window: how many by status, and each, the worst first.';

create or replace function ops.events_waiting()
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select count(*)
  from ops.uncounted_events as event
  where event.org_id = (select ops.current_org_id());
end;

create function ops.slo_gauges(as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'slo', slo.slo_name,
        'group', ops.group_name(slo.slo_group),
        'service', slo.service,
        'objective', slo.objective,
        'status', slo.status,
        'target', slo.target,
        'sli', slo.sli,
        'budget_left', slo.budget_left,
        'events', jsonb_build_object('good', slo.good, 'total', slo.total),
        'burn_rates', jsonb_build_object(
          '1h', slo.burn_rate_1h,
          '6h', slo.burn_rate_6h,
          '1d', slo.burn_rate_1d,
          '3d', slo.burn_rate_3d
        ),
        'freshness', slo.freshness,
        'stale_since', extract(epoch from slo.stale_since)
      )
      order by slo.slo_name, slo.slo_group
    ),
    '[]'
  )
  from ops.evaluate_slos(slo_gauges.as_of, true, null) as slo
  where slo.org_id = (select ops.current_org_id());
end;
comment on function ops.slo_gauges(timestamptz) is
  'The objectives of the caller''s org as they stand at as_of, events behind the cursor included: a JSON array by name; null where there is nothing to measure.';

create function ops.scrape(as_of timestamptz default now())
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select jsonb_build_object(
    'kpis', coalesce(
      (
        select jsonb_agg(
          to_jsonb(gauge)
          order by gauge.metric_name, gauge.period, gauge.complete, gauge.breakdown, gauge.breakdown_value
        )
        from ops.kpi_gauges(scrape.as_of) as gauge
      ),
      '[]'
    ),
    'slos', ops.slo_gauges(scrape.as_of),
    'alerts', ops.alert_gauges(),
    'jobs', coalesce(
      (
        select jsonb_agg(
          jsonb_build_object(
            'job', health.job,
            'last_success_at', extract(epoch from health.last_success_at),
            'last_duration_s', health.last_duration_s,
            'last_failed', health.last_failed
          )
          order by health.job
        )
        from ops.job_health() as health
      ),
      '[]'
    ),
    'events_waiting', ops.events_waiting()
  );
end;
comment on function ops.scrape(timestamptz) is
  'All that GET /metrics tells of the caller''s org: kpis, slos, alerts, jobs (instants in seconds since 1970) and events_waiting.';

create function ops.freshness(org_id uuid default null)
returns table (
  last_refresh_at timestamptz,
  is_stale boolean,
  events_waiting bigint,
  newest_event_at timestamptz,
  alerts_evaluated_at timestamptz,
  events_set_aside bigint,
  stale_since timestamptz,
  is_waiting boolean,
  waits_for text
)
language sql
stable
set search_path = ''
begin atomic
  select
    jobs.last_run_at,
    jobs.freshness <> 'fresh',
    (
      select count(*)
      from ops.uncounted_events as event
      where event.org_id = caller.org_id
    ),
    (select max(event.event_timestamp) from public.telemetry_events as event where event.org_id = caller.org_id),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (select count(*) from ops.uncountable_events as aside where aside.org_id = caller.org_id),
    jobs.stale_since,
    coalesce(
      (
        select run.outcome = 'waiting'
        from ops.job_runs as run
        where run.job = 'refresh'
          and run.outcome in ('success', 'waiting')
        order by run.started_at desc
        limit 1
      ),
      false
    ),
    ops.awaited_in_words()
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join ops.counting_freshness(now()) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, when the alerts were last evaluated, how many of its events could not be counted, whether counting waits for transactions that stay open, and for which (null: for none, or the caller is a tenant without the scope admin).';

create or replace function ops.change_marker(org_id uuid default null)
returns text
language sql
stable
set search_path = ''
return (
  -- A digest, and of instants instead of ids: how many events there are of all tenants can be told from neither.
  select encode(sha256(convert_to(concat_ws(
    ' ',
    (select cursors.moved_at from ops.cursors where cursors.name = 'telemetry_events'),
    (
      -- Their number, too: one that commits late may have begun earlier.
      select max(event.created_at) || '/' || count(*)
      from ops.uncounted_events as event
      where event.org_id = caller.org_id
    ),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (
      select max(audit.updated_at) || '/' || count(*)
      from public.slsa_audit_metrics as audit
      where audit.org_id = caller.org_id
    )
  ), 'UTF8')), 'hex')
  from (select ops.caller_org(change_marker.org_id) as org_id offset 0) as caller
);

create or replace function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null,
  slo_group jsonb default '{}'
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  missing constant int8multirange := ops.missing_ids();
  account constant ops.slo_account := ops.slo_account(
    newest_burners.slo_name, newest_burners.since, newest_burners.until, newest_burners.slo_group
  );
  -- Without labels or a value the events say enough, and nobody has to find out where those stand for each five minutes.
  is_plain constant boolean := account.objective in ('error_rate', 'latency')
    and account.total_labels = '{}' and account.good_labels = '{}' and account.bad_labels is null and account.group_by = '{}';
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until, account.slo_group)::ops.slo_span]
    ) as summed
  ),
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select lost.* from ops.newest_losses(account, owner_id, newest_burners.max_events) as lost
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        ops.lost_because(account, row(event.*)::ops.sli_events) as reason
      from (
        select stored.*
        from ops.sli_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and not is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and ops.is_admitted(account, row(event.*)::ops.sli_events)
      union all
      select
        event.event_timestamp,
        event.run_id,
        event.tag,
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        offset 0
      ) as event
      where is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and event.outcome in ('success', 'failure')
        and not ops.sli_verdict(account.objective, event.outcome, event.duration_ms, null, account.threshold_ms, null)
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.sli_id = account.sli_id
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
      and found.reason is not null
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;

create or replace function ops.expected_slis(since timestamptz)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select delta.* from ops.count_attempts(ops.counted_ids(), expected_slis.since, 'infinity') as delta
  union all
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*),
    null::bigint,
    null::jsonb
  from ops.count_units(ops.counted_ids(), expected_slis.since) as unit
  -- A unit that began before is counted there.
  where not exists (
    select
    from ops.work_units as earlier
    where earlier.org_id = unit.org_id
      and earlier.sli_id = unit.sli_id
      and earlier.unit = unit.unit
      and earlier.first_attempt_at < expected_slis.since
  )
  group by 1, 2, 3;
end;
$$;

create or replace function ops.count_differences(since timestamptz)
returns table (day_start timestamptz, events bigint, counted bigint)
language sql
stable
set search_path = ''
begin atomic
  with stored as (
    select daily.day_start, sum(daily.events) as events
    from (
      select
        hourly.event_type,
        ops.period_start('day', hourly.hour_start, ops.time_zone()) as day_start,
        hourly.events
      from (
        select event.event_type, date_trunc('hour', event.event_timestamp, ops.time_zone()) as hour_start, count(*) as events
        from ops.countable_events as event
        where event.event_timestamp >= ops.period_start('day', count_differences.since, ops.time_zone())
          and event.id <= (select ops.cursor_id())
          and not event.id <@ (select ops.missing_ids())
        group by 1, 2
      ) as hourly
      offset 0
    ) as daily
    where daily.day_start >= ops.compared_from(daily.event_type)
    group by 1
  ),
  counted as (
    select rollup.period_start as day_start, sum(rollup.event_count) as events
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.period = 'day'
      and rollup.period_start >= ops.period_start('day', count_differences.since, ops.time_zone())
      and series.event_type <> 'slsa_audit_metrics'
      and rollup.period_start >= ops.compared_from(series.event_type)
    group by 1
  )
  select
    coalesce(stored.day_start, counted.day_start),
    coalesce(stored.events, 0)::bigint,
    coalesce(counted.events, 0)::bigint
  from stored
  full join counted
    on counted.day_start = stored.day_start
  where stored.events is distinct from counted.events;
end;

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', true,
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: nobody has recorded an audit' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', counted.freshness = 'fresh',
    coalesce('last refresh ' || to_char(counted.last_run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when counted.freshness = 'fresh' then '' else '; ' || ops.counting_advice() end
  from ops.counting_freshness(doctor.as_of) as counted
  union all
  select 'alerts', coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel),
    coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated')
      || case when watched.has_channel then '' else '; no channel: nobody is told' end
      || case when coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel) then ''
        else '; ' || coalesce(ops.failure_in_words('alerts'), 'run opskpi run from cron every ' || ops.refresh_interval()) end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select outbox.check_name, outbox.passed, outbox.detail
  from ops.delivery_checks(doctor.as_of) as outbox
  union all
  select 'partitions', next_month.partition is not null,
    case
      when next_month.partition is not null then next_month.name || ' is there'
      else 'ops.' || next_month.name || ' is missing; ' || coalesce(ops.failure_in_words('maintain'), 'run opskpi run' || ops.as_owner_of_events())
    end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; %s',
        string_agg(overdue.name || coalesce(' (' || overdue.obstacle || ')', ''), ', ' order by overdue.month_start),
        -- Of the obstacles this is the one whose remedy is not said with it.
        case
          when bool_and(overdue.obstacle = 'it has events that are not counted yet') then ops.counting_advice()
          when bool_and(overdue.obstacle is not null) then 'mend that'
          else coalesce(ops.failure_in_words('retention'), 'run opskpi retention run')
        end
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from (
    select month.name, month.month_start, ops.month_obstacle(month.relation, month.month_start, month.month_end, month.is_whole, month.expired) as obstacle
    from ops.expired_months(doctor.as_of - interval '2 days') as month
  ) as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', waiting.events = 0 and held.writers is null,
    case
      when held.writers is not null then format('%s event(s) wait for transactions that stay open: %s', waiting.events, held.writers)
      when waiting.events > 0
        then waiting.events || ' events wait since ' || to_char(waiting.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; ' || ops.counting_advice()
      else 'no event waits' || coalesce(' but what transactions that stay open may have written: ' || held.others, '')
    end
  from (
    select count(*) as events, min(event.created_at) as since
    from ops.uncounted_events as event
    where event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
      and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  ) as waiting
  cross join (
    select
      ops.awaited_in_words() as writers,
      ops.writers_in_words(array(
        select writer
        from ops.described_writers(ops.open_writers()) as writer
        where writer.waiting_since < doctor.as_of - 2 * ops.refresh_interval()
      )) as others
  ) as held
  union all
  select 'uncountable events', count(*) = 0,
    case when count(*) = 0 then 'every event could be counted'
      else format(
        '%s could not be counted, the first is %s (%s): %s; mend the cause and run select ops.count_again(), or delete it with select ops.drop_uncountable(%2$s); ops.uncountable_events lists them',
        count(*),
        min(aside.id),
        (array_agg(aside.event_type order by aside.id))[1],
        (array_agg(aside.reason order by aside.id))[1]
      ) end
  from ops.uncountable_events as aside
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference
  union all
  select 'counts of objectives', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'good and total of the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has good %s of %s and %s of %s counted where they differ; %s',
        count(difference.day_start),
        (array_agg(difference.good order by difference.day_start))[1],
        (array_agg(difference.total order by difference.day_start))[1],
        (array_agg(difference.counted_good order by difference.day_start))[1],
        (array_agg(difference.counted_total order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.sli_differences(doctor.as_of - interval '7 days') as difference;
end;

drop function ops.events_between;

revoke execute on function
  ops.apply_attempts,
  ops.awaited_in_words,
  ops.late_ids,
  ops.count_attempts,
  ops.missing_ids,
  ops.count_events,
  ops.count_or_set_aside,
  ops.count_patterns,
  ops.count_range,
  ops.count_units,
  ops.counted_ids,
  ops.still_open,
  ops.described_writers,
  ops.writers_in_words,
  ops.fresh_ids,
  ops.fresh_slis,
  ops.evaluate_slos,
  ops.events_among,
  ops.first_events,
  ops.freshness,
  ops.ids_to_count,
  ops.most_gaps,
  ops.new_gaps,
  ops.next_attempt,
  ops.note_agents,
  ops.note_awaited_writers,
  ops.pass_end,
  ops.quiet_writers,
  ops.rebuild_slis,
  ops.recount_chunk,
  ops.report_refresh,
  ops.room_for_gaps,
  ops.slo_gauges,
  ops.scrape,
  ops.set_aside,
  ops.settle_gaps,
  ops.summary_objectives,
  ops.take_fence
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  create policy event_gaps_select_authenticated on ops.event_gaps for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  -- The sessions of the server concern all tenants.
  create policy awaited_writers_select_admin on ops.awaited_writers for select to authenticated
    using ((select ops.caller_may('{admin}')) is not null and (select ops.bound_org_id()) is null);
  revoke execute on function
    ops.apply_attempts,
    ops.awaited_in_words,
    ops.late_ids,
    ops.count_attempts,
    ops.missing_ids,
    ops.count_events,
    ops.count_or_set_aside,
    ops.count_patterns,
    ops.count_range,
    ops.count_units,
    ops.counted_ids,
    ops.still_open,
    ops.described_writers,
    ops.writers_in_words,
    ops.fresh_ids,
    ops.fresh_slis,
    ops.evaluate_slos,
    ops.events_among,
    ops.first_events,
    ops.freshness,
    ops.ids_to_count,
    ops.most_gaps,
    ops.new_gaps,
    ops.next_attempt,
    ops.note_agents,
    ops.note_awaited_writers,
    ops.pass_end,
    ops.quiet_writers,
    ops.rebuild_slis,
    ops.recount_chunk,
    ops.report_refresh,
    ops.room_for_gaps,
    ops.slo_gauges,
    ops.scrape,
    ops.set_aside,
    ops.settle_gaps,
    ops.summary_objectives,
    ops.take_fence
  from anon, authenticated, service_role;
  revoke all on
    ops.uncounted_events,
    ops.awaited_writers,
    ops.event_gaps,
    ops.blocked_pattern_parts,
    ops.histogram_parts,
    ops.hook_days,
    ops.rollup_parts,
    public.v_ops_blocked_patterns,
    public.v_ops_hook_policies,
    public.v_ops_slo_status
  from anon, authenticated, service_role;
  grant execute on function
    ops.awaited_in_words,
    ops.late_ids,
    ops.count_attempts,
    ops.missing_ids,
    ops.count_events,
    ops.count_patterns,
    ops.count_units,
    ops.counted_ids,
    ops.writers_in_words,
    ops.fresh_ids,
    ops.fresh_slis,
    ops.evaluate_slos,
    ops.freshness,
    ops.slo_gauges,
    ops.scrape
  to authenticated, service_role;
  grant select on
    ops.uncounted_events,
    ops.awaited_writers,
    ops.blocked_pattern_parts,
    ops.histogram_parts,
    ops.hook_days,
    ops.rollup_parts,
    public.v_ops_blocked_patterns,
    public.v_ops_hook_policies,
    public.v_ops_slo_status
  to authenticated, service_role;
  grant select on ops.event_gaps to service_role;
  grant select (ids) on ops.event_gaps to authenticated;
end;
$$;
