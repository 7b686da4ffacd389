-- Counting costs linear time in what was received, and an event that cannot be counted is set aside, so that no sender can stop the counting of others.

drop function ops.freshness;
drop function ops.rebuild_kpis;
drop function ops.report_refresh;
drop function ops.changed_ratios;
drop function ops.changed_sums;
drop function ops.kpi_groups;

create table ops.uncountable_events (
  org_id uuid not null,
  id bigint not null,
  event_id uuid not null,
  event_type text not null,
  event_timestamp timestamptz not null,
  reason text not null,
  set_aside_at timestamptz not null default clock_timestamp(),
  constraint uncountable_events_pkey primary key (org_id, id)
);
comment on table ops.uncountable_events is
  'One row per event that a refresh could not count. No count, KPI, SLI or unit of work includes it, until ops.count_again counts it or ops.drop_uncountable deletes it.';
comment on column ops.uncountable_events.org_id is 'The tenant.';
comment on column ops.uncountable_events.id is 'telemetry_events.id.';
comment on column ops.uncountable_events.event_id is 'telemetry_events.event_id.';
comment on column ops.uncountable_events.event_type is 'The kind of the event.';
comment on column ops.uncountable_events.event_timestamp is 'When the event happened.';
comment on column ops.uncountable_events.reason is 'The error and its SQLSTATE, or that the attempts to count the event were cut off.';
comment on column ops.uncountable_events.set_aside_at is 'When it was set aside, or last failed to be counted again.';
alter table ops.uncountable_events enable row level security;

create view ops.countable_events
with (security_invoker = true)
as
select
  event.id,
  event.event_type,
  event.event_timestamp,
  event.run_id,
  event.tag,
  event.metadata,
  event.event_id,
  event.org_id,
  event.agent_id,
  event.outcome,
  event.duration_ms
from public.telemetry_events as event
where not exists (
  select
  from ops.uncountable_events as aside
  where aside.org_id = event.org_id
    and aside.id = event.id
);
comment on view ops.countable_events is 'The events without those set aside: all that counts, and the checks of the counts, read the events here.';

alter table ops.cursors add column attempts bigint not null default 0;
alter table ops.cursors add column most_events bigint;
comment on column ops.cursors.last_id is 'Every committed event up to this id has been counted or set aside, and none beyond it.';
comment on column ops.cursors.attempts is 'The number of the last attempt to count events that ended well, see ops.refresh_attempts.';
comment on column ops.cursors.most_events is 'How many events the next attempt takes at most, since one failed; null: as many as the call allows.';

create or replace function ops.add_rollups(deltas ops.rollup_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.series (org_id, event_type, labels)
  select distinct delta.org_id, delta.event_type, delta.labels
  from unnest(add_rollups.deltas) as delta
  where not exists (
    select
    from ops.series
    where series.org_id = delta.org_id
      and series.event_type = delta.event_type
      and series.labels = delta.labels
  )
  on conflict on constraint series_org_id_event_type_labels_key do nothing;

  insert into ops.rollups as rollup (
    org_id, period, period_start, series_id, event_count, value_count, value_sum, value_min, value_max
  )
  select
    delta.org_id, delta.period, delta.period_start, series.series_id,
    delta.event_count, delta.value_count, delta.value_sum, delta.value_min, delta.value_max
  from unnest(add_rollups.deltas) as delta
  join ops.series
    on series.org_id = delta.org_id
    and series.event_type = delta.event_type
    and series.labels = delta.labels
  on conflict on constraint rollups_pkey do update set
    event_count = rollup.event_count + excluded.event_count,
    value_count = rollup.value_count + excluded.value_count,
    value_sum = rollup.value_sum + excluded.value_sum,
    value_min = least(rollup.value_min, excluded.value_min),
    value_max = greatest(rollup.value_max, excluded.value_max);

  -- The last audit of an hour may have moved to another.
  delete from ops.rollups as rollup
  where rollup.ctid = any (array(
    select found.ctid
    from unnest(add_rollups.deltas) as delta
    cross join lateral (
      select stored.ctid
      from ops.series
      join ops.rollups as stored
        on stored.org_id = series.org_id
        and stored.period = delta.period
        and stored.period_start = delta.period_start
        and stored.series_id = series.series_id
      where series.org_id = delta.org_id
        and series.event_type = delta.event_type
        and series.labels = delta.labels
        and stored.event_count = 0
      offset 0
    ) as found
    where delta.event_count < 0
  ));
end;

create or replace view ops.labelled_events
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  event.metadata,
  case when kind.key_1 = 'team' then agent.team else left(event.metadata ->> kind.key_1, 100) end as label_1,
  case when kind.key_2 = 'team' then agent.team else left(event.metadata ->> kind.key_2, 100) end as label_2,
  case when kind.key_3 = 'team' then agent.team else left(event.metadata ->> kind.key_3, 100) end as label_3,
  case when kind.key_4 = 'team' then agent.team else left(event.metadata ->> kind.key_4, 100) end as label_4,
  case
    when zone.is_utc then date_bin('1 hour', event.event_timestamp, timestamptz '1969-12-29 00:00+00')
    else date_trunc('hour', event.event_timestamp, zone.name)
  end as hour_start,
  measured.value,
  case
    when measured.value is null or not kind.has_histogram then null
    when measured.value <= 0.001 then 0
    -- 1.0198 keeps the middle of a bin within 0.98 % of all that is in it.
    else ceil(ln(measured.value::double precision * 1000) / ln(1.0198::double precision))::integer
  end as bin,
  agent.team
from ops.countable_events as event
cross join (
  select setting.name, setting.name = 'UTC' as is_utc
  from (select ops.time_zone() as name offset 0) as setting
) as zone
left join (
  select
    event_type.event_type,
    event_type.value_key,
    event_type.label_keys[1] as key_1,
    event_type.label_keys[2] as key_2,
    event_type.label_keys[3] as key_3,
    event_type.label_keys[4] as key_4,
    event_type.event_type in (select histogram_group.event_type from ops.histogram_groups as histogram_group) as has_histogram
  from ops.event_types as event_type
  -- A barrier, so that the keys are taken out of the array once a type and not once an event.
  offset 0
) as kind
  on kind.event_type = event.event_type
left join ops.agents as agent
  on agent.org_id = event.org_id
  and agent.agent_id = event.agent_id
cross join lateral (
  select case
    when kind.value_key = 'duration_ms' then event.duration_ms
    when jsonb_typeof(event.metadata -> kind.value_key) <> 'number' then null
    when (event.metadata -> kind.value_key)::numeric between 0 and 1000000000000000
      then (event.metadata -> kind.value_key)::numeric
  end as value
  -- A barrier: without it the expression is evaluated once for each of the figures made of it.
  offset 0
) as measured;

create function ops.kept_spans(hours timestamptz[])
returns table (hour_start timestamptz, period text, period_start timestamptz)
language sql
stable
set search_path = ''
begin atomic
  select span.hour_start, span.period, span.period_start
  from (
    select
      hour.hour_start,
      period.name as period,
      ops.period_start(period.name, hour.hour_start, ops.time_zone()) as period_start
    from unnest(kept_spans.hours) as hour (hour_start)
    cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
    offset 0
  ) as span
  left join ops.removed_periods as removed
    on removed.period = span.period
  where coalesce(span.period_start >= removed.removed_until, true);
end;
comment on function ops.kept_spans(timestamptz[]) is
  'One row per given hour and period that holds it, but for periods that retention removed. Called with distinct hours, so that the calendar is asked once an hour and not once a row.';

create or replace function ops.rollup_deltas(events ops.event_delta[])
returns setof ops.rollup_delta
language sql
stable
set search_path = ''
-- The planner takes the array for a few rows; Postgres 15 then loops over all pairs (133 s where hashing takes 1 s).
set enable_nestloop = off
begin atomic
  with hours as (
    select
      event.org_id,
      event.event_type,
      event.labels,
      event.hour_start,
      sum(event.event_count)::bigint as event_count,
      sum(event.value_count)::bigint as value_count,
      sum(event.value_sum) as value_sum,
      min(event.value_min) as value_min,
      max(event.value_max) as value_max
    from unnest(rollup_deltas.events) as event
    group by 1, 2, 3, 4
  ),
  spans as materialized (
    select span.*
    from ops.kept_spans(array(select distinct hours.hour_start from hours)) as span
    where span.period <> 'hour'
  )
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    'hour',
    hours.hour_start,
    hours.event_count,
    hours.value_count,
    hours.value_sum,
    hours.value_min,
    hours.value_max
  from hours
  -- What a changed audit changes is found against its hour, so those stay.
  where hours.event_type = 'slsa_audit_metrics'
    or hours.hour_start >= coalesce(
      (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour'),
      '-infinity'
    )
  union all
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    spans.period,
    spans.period_start,
    sum(hours.event_count)::bigint,
    sum(hours.value_count)::bigint,
    sum(hours.value_sum),
    min(hours.value_min),
    max(hours.value_max)
  from hours
  join spans
    on spans.hour_start = hours.hour_start
  group by 1, 2, 3, 4, 5;
end;

create or replace function ops.histogram_deltas(events ops.event_delta[])
returns setof ops.histogram_delta
language sql
stable
set search_path = ''
-- The planner takes the array for a few rows; Postgres 15 then loops over all pairs (133 s where hashing takes 1 s).
set enable_nestloop = off
-- And sorts 50,000 rows by text and jsonb, which takes four times as long as hashing them.
set enable_sort = off
begin atomic
  with binned as (
    select event.org_id, event.event_type, event.labels, event.hour_start, event.bin, event.value_count
    from unnest(histogram_deltas.events) as event
    where event.bin is not null
  ),
  grouped as (
    -- Labels are folded into their groupings before the periods multiply the rows.
    select
      binned.org_id,
      binned.event_type,
      breakdown.name as breakdown,
      case when breakdown.name is null then '{}' else jsonb_build_object(breakdown.name, binned.labels -> breakdown.name) end as labels,
      binned.hour_start,
      binned.bin,
      sum(binned.value_count)::bigint as value_count
    from binned
    join (select distinct kept.event_type, kept.breakdown as name from ops.histogram_groups as kept) as breakdown
      on breakdown.event_type = binned.event_type
    where breakdown.name is null
      or binned.labels ? breakdown.name
    group by 1, 2, 3, 4, 5, 6
  ),
  spans as materialized (
    select span.* from ops.kept_spans(array(select distinct grouped.hour_start from grouped)) as span
  ),
  spanned as (
    select
      grouped.org_id,
      grouped.event_type,
      grouped.labels,
      spans.period,
      spans.period_start,
      grouped.bin,
      sum(grouped.value_count)::bigint as value_count
    from grouped
    join spans
      on spans.hour_start = grouped.hour_start
    join ops.histogram_groups as kept
      on kept.event_type = grouped.event_type
      and kept.breakdown is not distinct from grouped.breakdown
      and kept.period = spans.period
    group by 1, 2, 3, 4, 5, 6
  )
  select
    spanned.org_id,
    spanned.event_type,
    spanned.labels,
    spanned.period,
    spanned.period_start,
    array_agg(spanned.bin),
    array_agg(spanned.value_count)
  from spanned
  group by 1, 2, 3, 4, 5;
end;
comment on column ops.blocked_patterns.pattern is 'The pattern that blocked; [further patterns] stands for all after the first 50 of an event.';

create or replace function ops.count_patterns(after_id bigint, until_id bigint, since timestamptz, until timestamptz)
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
    where event.id > after_id
      and event.id <= until_id
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
comment on function ops.count_patterns(bigint, bigint, timestamptz, timestamptz) is
  'How often each pattern blocked in the given events, per hour, day, week and month, but for those that retention removed. Patterns are findings_summary.pattern and the first 50 of .patterns; an event that lists more counts once under [further patterns].';

create or replace function ops.write_kpis(kpis ops.kpi_value[], as_of timestamptz)
returns table (period text, rows_written bigint)
language sql
volatile
set search_path = ''
begin atomic
  -- A KPI without a denominator has no row: the last audit of an hour may have moved to another.
  -- Looked up one by one: a join, planned before the table has statistics, compared all of its rows with all KPIs.
  delete from public.kpi_aggregations as stored
  where stored.ctid = any (array(
    select found.ctid
    from unnest(write_kpis.kpis) as kpi
    cross join lateral (
      select known.ctid
      from public.kpi_aggregations as known
      where known.org_id = kpi.org_id
        and known.metric_name = kpi.metric_name
        and known.aggregation_period = kpi.period
        and known.period_start = kpi.period_start
        and known.labels = kpi.labels
      offset 0
    ) as found
    where kpi.metric_value is null
  ));

  -- Materialized, so that the calendar is asked once a period and not once a row.
  with spans as materialized (
    select
      distinct_period.period,
      distinct_period.period_start,
      ops.period_end(distinct_period.period, distinct_period.period_start, ops.time_zone()) as period_end
    from (select distinct kpi.period, kpi.period_start from unnest(write_kpis.kpis) as kpi) as distinct_period
  ),
  written as (
    insert into public.kpi_aggregations as stored (
      metric_name, metric_value, aggregation_period, period_start, period_end, metadata, org_id
    )
    select
      kpi.metric_name,
      round(kpi.metric_value, 6),
      kpi.period,
      kpi.period_start,
      spans.period_end,
      jsonb_build_object(
        'unit', kpi.unit,
        'numerator', kpi.numerator,
        'denominator', kpi.denominator,
        'sample_count', kpi.sample_count,
        'complete', spans.period_end <= write_kpis.as_of,
        'labels', kpi.labels
      ),
      kpi.org_id
    from unnest(write_kpis.kpis) as kpi
    join spans
      on spans.period = kpi.period
      and spans.period_start = kpi.period_start
    where kpi.metric_value is not null
    on conflict on constraint kpi_aggregations_pkey do update set
      metric_value = excluded.metric_value,
      period_end = excluded.period_end,
      metadata = excluded.metadata,
      created_at = excluded.created_at
    returning stored.aggregation_period
  )
  select written.aggregation_period, count(*)
  from written
  group by 1;
end;

create type ops.series_kind as (event_type text, labels jsonb);
comment on type ops.series_kind is 'The event type and labels that series of several orgs may share.';

create function ops.kpi_groups(kinds ops.series_kind[])
returns table (
  metric_name text,
  event_type text,
  series_labels jsonb,
  group_labels jsonb,
  periods text[],
  in_numerator boolean
)
language sql
stable
set search_path = ''
begin atomic
  with matched as (
    select
      definition.metric_name,
      definition.measure,
      definition.breakdowns,
      definition.breakdown_periods,
      kind.event_type,
      kind.labels,
      not exists (
        select from jsonb_each(definition.numerator) as wanted where not coalesce(wanted.value ? (kind.labels ->> wanted.key), false)
      ) as fits_numerator,
      not exists (
        select from jsonb_each(definition.denominator) as wanted where not coalesce(wanted.value ? (kind.labels ->> wanted.key), false)
      ) as fits_denominator
    from unnest(kpi_groups.kinds) as kind
    join ops.kpi_definitions as definition
      on definition.event_type is null
      or definition.event_type = kind.event_type
    where definition.measure <> 'percentile'
  )
  select
    matched.metric_name,
    matched.event_type,
    matched.labels,
    kept.labels,
    kept.periods,
    matched.fits_numerator
  from matched
  cross join lateral (
    select '{}'::jsonb as labels, array['hour', 'day', 'week', 'month'] as periods
    union all
    select jsonb_build_object(breakdown.key, matched.labels -> breakdown.key), matched.breakdown_periods
    from unnest(matched.breakdowns) as breakdown (key)
    where matched.labels ? breakdown.key
  ) as kept
  where matched.fits_denominator
    and (matched.fits_numerator or matched.measure = 'ratio');
end;
comment on function ops.kpi_groups(ops.series_kind[]) is
  'One row per given label combination and KPI that it counts towards, with the breakdown it counts in and the periods for which that is kept.';

create function ops.changed_sums(deltas ops.rollup_delta[])
returns setof ops.kpi_sum
language sql
stable
set search_path = ''
-- Nothing tells the planner how many rows an array or a CTE has; taking them for one row, it loops over all pairs.
set enable_nestloop = off
-- And sorts 100,000 rows to group them.
set enable_sort = off
begin atomic
  -- Spans and groups go by number: hashing them as they are, text and jsonb, took most of the time.
  with span as materialized (
    select changed.*
    from ops.changed_spans(changed_sums.deltas) as changed
  ),
  found as materialized (
    select stored.* from ops.span_rollups(array(select row(span.*)::ops.kpi_span from span)) as stored
  ),
  -- Only the series of these periods: matching all that ever were with the KPIs took seconds where one org had made many.
  stored_series as materialized (
    select series.series_id, series.event_type, series.labels
    from ops.series
    where series.series_id in (select found.series_id from found)
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (
        select stored_series.event_type, stored_series.labels from stored_series
        union
        select delta.event_type, delta.labels from unnest(changed_sums.deltas) as delta
      ) as kind
    )) as kpi_group
  ),
  added as materialized (
    select
      span.span_id,
      kpi_group.group_id,
      kpi_group.in_numerator,
      delta.event_count,
      delta.value_count,
      delta.value_sum
    from unnest(changed_sums.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
  ),
  member as materialized (
    select stored_series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join stored_series
      on stored_series.event_type = kpi_group.event_type
      and stored_series.labels = kpi_group.series_labels
  ),
  -- The barrier keeps the order of the joins: periods times all members of their KPIs would be quadratic.
  counted as (
    select found.span_id, member.group_id, member.in_numerator, found.event_count, found.value_count, found.value_sum
    from found
    join member
      on member.series_id = found.series_id
    offset 0
  ),
  summed as (
    select
      part.span_id,
      part.group_id,
      sum(part.event_count) as events,
      coalesce(sum(part.event_count) filter (where part.in_numerator), 0) as numerator_events,
      sum(part.value_count) as value_count,
      sum(part.value_sum) as value_sum
    from (
      select added.span_id, added.group_id, added.in_numerator, added.event_count, added.value_count, added.value_sum
      from added
      union all
      select counted.span_id, counted.group_id, counted.in_numerator, counted.event_count, counted.value_count, counted.value_sum
      from counted
      join (select distinct added.span_id, added.group_id from added) as touched
        on touched.span_id = counted.span_id
        and touched.group_id = counted.group_id
    ) as part
    group by 1, 2
  )
  select
    span.org_id,
    kpi.metric_name,
    kpi.group_labels,
    span.period,
    span.period_start,
    summed.events,
    summed.numerator_events,
    summed.value_count,
    summed.value_sum
  from summed
  join span
    on span.span_id = summed.span_id
  join (select distinct kpi_group.group_id, kpi_group.metric_name, kpi_group.group_labels from kpi_group) as kpi
    on kpi.group_id = summed.group_id;
end;
comment on function ops.changed_sums(ops.rollup_delta[]) is
  'The sums of the series of each KPI that a delta changes, over the rollups and that delta; one row per KPI, period and breakdown.';

create function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  select
    kpi.org_id,
    kpi.metric_name,
    kpi.labels,
    kpi.period,
    kpi.period_start,
    kpi.unit,
    -- Null without samples, so that write_kpis removes the row of a count of 0, too.
    case when kpi.sample_count <> 0 then ops.measured_value(kpi.measure, kpi.numerator, kpi.denominator, kpi.sample_count) end,
    kpi.numerator,
    kpi.denominator,
    kpi.sample_count
  from ops.kpi_figures(array(select summed from ops.changed_sums(changed_ratios.deltas) as summed)) as kpi;
end;
comment on function ops.changed_ratios(ops.rollup_delta[]) is
  'The ratios, averages and counts that a delta changes, computed from the rollups and that delta; one row a KPI, period and breakdown.';

create or replace function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_counts as stored (org_id, sli_id, bucket_start, good, total)
  select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
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
    and stored.sli_id = delta.sli_id
    and stored.bucket_start = delta.bucket_start;

  delete from ops.sli_counts as stored
  where stored.ctid = any (array(
    select found.ctid
    from unnest(add_slis.deltas) as delta
    cross join lateral (
      select known.ctid
      from ops.sli_counts as known
      where known.org_id = delta.org_id
        and known.sli_id = delta.sli_id
        and known.bucket_start = delta.bucket_start
        and known.total = 0
      offset 0
    ) as found
    where delta.total < 0
  ));
end;

create or replace function ops.add_sli_days()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from ops.sli_days where true;
    return null;
  end if;
  if tg_op in ('UPDATE', 'DELETE') then
    -- An upsert, as below: a join with the days would be planned for as few as there were when the session began.
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      -sum(bucket.good),
      -sum(bucket.total)
    from old_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
  end if;
  if tg_op in ('INSERT', 'UPDATE') then
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      sum(bucket.good),
      sum(bucket.total)
    from new_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
  end if;
  return null;
end;
$$;

create or replace view ops.attempts
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
  end as unit,
  event.event_id,
  event.run_id,
  event.tag
from ops.countable_events as event
where event.outcome in ('success', 'failure')
  and event.event_type in (select sli.event_type from ops.slis as sli);

create or replace function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.work_units (org_id, event_type, unit, first_attempt_at, succeeded)
  select change.org_id, change.event_type, change.unit, change.first_attempt_at, change.succeeded
  from unnest(write_units.changes) as change
  on conflict on constraint work_units_pkey do update set
    first_attempt_at = excluded.first_attempt_at,
    succeeded = excluded.succeeded;
end;

create or replace function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from ops.countable_events as event
  where event.id > note_agents.after_id
    and event.id <= note_agents.until_id
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;

create type ops.counted_range as (events bigint, kpi_rows jsonb, until_id bigint, message text);
comment on type ops.counted_range is 'Events counted, KPI rows written by period, the id up to which that was done, and what a person should know of it.';

create function ops.count_range(after_id bigint, until_id bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.counted_range;
  events ops.event_delta[] := '{}'::ops.event_delta[];
  audits ops.event_delta[];
begin
  if until_id > after_id then
    events := array(select event from ops.count_events(after_id, until_id, '-infinity', 'infinity') as event);
  end if;
  counted.events := coalesce((select sum(event.event_count) from unnest(events) as event), 0);
  audits := array(select audit from ops.take_audit_changes() as audit);
  if cardinality(audits) > 0 then
    events := events || audits;
  end if;
  if cardinality(events) > 0 then
    counted.kpi_rows := ops.apply_events(events, as_of);
  end if;
  if until_id > after_id then
    perform ops.add_patterns(array(select delta from ops.count_patterns(after_id, until_id, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(after_id, until_id);
    perform ops.note_agents(after_id, until_id);
  end if;
  return counted;
end;
$$;
comment on function ops.count_range(bigint, bigint, timestamptz) is
  'Counts the events with after_id < id <= until_id, and the audits that changed, everywhere they count: rollups, histograms, KPIs, blocked patterns, SLIs, units of work, agents. Once per event; the cursor is the caller''s.';

-- A sequence, because what it notes survives the transaction of the attempt: an attempt that is cancelled, runs into a timeout
-- or loses its server leaves no other trace.
create sequence ops.refresh_attempts as bigint no cycle;
comment on sequence ops.refresh_attempts is 'The attempts to count events, begun (count); those that ended well are noted in ops.cursors.attempts.';

create function ops.begin_attempt()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  begun constant bigint := (select case when sequence.is_called then sequence.last_value else 0 end from ops.refresh_attempts as sequence);
  ended constant bigint := (select cursors.attempts from ops.cursors where cursors.name = 'telemetry_events');
begin
  -- setval and not nextval, which draws numbers in stock and would skip some after a crash.
  perform setval('ops.refresh_attempts'::regclass, greatest(begun, ended) + 1);
  return greatest(begun - ended, 0);
end;
$$;
comment on function ops.begin_attempt() is
  'Notes, whatever becomes of the transaction, that an attempt to count events begins; returns how many were lost since the last one that ended well. Only refresh calls it, under its lock.';

create function ops.forget_attempt()
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  begun constant bigint := (select sequence.last_value from ops.refresh_attempts as sequence);
begin
  perform setval('ops.refresh_attempts'::regclass, greatest(begun - 1, 1), begun > 1);
end;
$$;
comment on function ops.forget_attempt() is
  'Takes the note of begin_attempt back: the attempt ended for a reason that counting less would not avoid. Only refresh calls it.';

create function ops.is_fault_of_events(code text)
returns boolean
language sql
immutable
set search_path = ''
-- Data, constraints, limits, memory and internal errors. Locks, rights, objects that are missing and full disks have other causes.
return left(code, 2) in ('21', '22', '23', '54') or code in ('53200', 'XX000');
comment on function ops.is_fault_of_events(text) is 'Whether an error of this SQLSTATE comes from what is counted, so that counting less may avoid it.';

create function ops.events_between(after_id bigint, until_id bigint)
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select count(*)
  from ops.countable_events as event
  where event.id > events_between.after_id
    and event.id <= events_between.until_id;
end;
comment on function ops.events_between(bigint, bigint) is 'Events with after_id < id <= until_id that are not set aside (count).';

create function ops.set_aside(after_id bigint, until_id bigint, reason text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.uncountable_events (org_id, id, event_id, event_type, event_timestamp, reason)
  select event.org_id, event.id, event.event_id, event.event_type, event.event_timestamp, left(set_aside.reason, 1000)
  from ops.countable_events as event
  where event.id > set_aside.after_id
    and event.id <= set_aside.until_id;
end;
comment on function ops.set_aside(bigint, bigint, text) is
  'Sets the events with after_id < id <= until_id aside; only refresh calls it, before it moves the cursor past the events in the same transaction.';

create type ops.attempt as (until_id bigint, most_events bigint, is_lost_alone boolean);
comment on type ops.attempt is
  'How far an attempt goes; how many events it takes at most (null: as many as the call allows); whether the one event that it takes was lost alone three times.';

create function ops.next_attempt(after_id bigint, safe_id bigint, max_ids bigint)
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
  attempt.until_id := ops.pass_end(after_id, safe_id, least(attempt.most_events, max_ids));
  attempt.is_lost_alone := false;
  if lost > 0 then
    lost := least(lost, 62);
    waiting := ops.events_between(after_id, attempt.until_id);
    attempt.most_events := greatest(waiting >> lost::integer, 1);
    attempt.is_lost_alone := waiting > 0 and lost >= 3 and waiting >> (lost - 3)::integer <= 1;
    attempt.until_id := ops.pass_end(after_id, attempt.until_id, attempt.most_events);
  end if;
  return attempt;
end;
$$;
comment on function ops.next_attempt(bigint, bigint, bigint) is
  'Begins an attempt: half as many events as the one before for each that was lost since the last that ended well, the first loss excepted. Only refresh calls it, under its lock.';

create function ops.count_or_set_aside(after_id bigint, safe_id bigint, max_ids bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt := ops.next_attempt(after_id, safe_id, max_ids);
  counted ops.counted_range;
  set_aside integer := 0;
  waiting bigint;
begin
  if attempt.is_lost_alone then
    perform ops.set_aside(after_id, attempt.until_id, 'three attempts to count this event alone were cut off: by a timeout, a cancellation or the end of the server process');
    set_aside := 1;
  end if;
  loop
    begin
      counted := ops.count_range(after_id, attempt.until_id, as_of);
      exit;
    exception
      when others then
        waiting := ops.events_between(after_id, attempt.until_id);
        if waiting = 0 or not ops.is_fault_of_events(sqlstate) then
          perform ops.forget_attempt();
          raise;
        elsif waiting = 1 then
          perform ops.set_aside(after_id, attempt.until_id, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
          set_aside := set_aside + 1;
        else
          attempt.most_events := waiting / 2;
          attempt.until_id := ops.pass_end(after_id, attempt.until_id, attempt.most_events);
        end if;
    end;
  end loop;
  update ops.cursors
  set last_id = attempt.until_id,
      moved_at = clock_timestamp(),
      attempts = (select sequence.last_value from ops.refresh_attempts as sequence),
      -- From there on by doubling: where one event cannot be counted, there may be more.
      most_events = case when 2 * attempt.most_events < max_ids then 2 * attempt.most_events end
  where cursors.name = 'telemetry_events';
  counted.until_id := attempt.until_id;
  if set_aside > 0 then
    counted.message := format('%s event(s) could not be counted and are set aside; opskpi doctor says what to do', set_aside);
  end if;
  return counted;
end;
$$;
comment on function ops.count_or_set_aside(bigint, bigint, bigint, timestamptz) is
  'Counts the events after the cursor and moves it: max_ids at most, or as many as can be counted. The one event that cannot is set aside. Other errors are raised. Only refresh calls it, under its lock.';

create function ops.report_refresh(counted ops.counted_range, safe_id bigint)
returns ops.refresh_report
language plpgsql
stable
set search_path = ''
as $$
declare
  report ops.refresh_report;
begin
  report.events := counted.events;
  report.cursor_id := counted.until_id;
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - counted.until_id;
  report.hour_rows := coalesce((counted.kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((counted.kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((counted.kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((counted.kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when counted.until_id < safe_id then 'more'
    when exists (select from ops.cursors where cursors.name = 'telemetry_events' and cursors.fence_id is not null) then 'waiting'
    else 'done'
  end;
  report.message := concat_ws(
    '; ',
    counted.message,
    case
      when report.state = 'waiting'
        then 'a transaction that writes events stayed open; what it and later ones wrote is counted by a later run'
    end
  );
  report.message := nullif(report.message, '');
  return report;
end;
$$;
comment on function ops.report_refresh(ops.counted_range, bigint) is
  'The report of a pass: events, KPI rows by period, and whether safe ids are left to count.';

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
  safe_id bigint;
  counted ops.counted_range;
begin
  perform ops.require_refreshable(max_ids);
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name) values ('telemetry_events') on conflict on constraint cursors_pkey do nothing;
  safe_id := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  -- Before the attempt, so that what is lost there was lost in counting.
  perform ops.close_periods(as_of);
  if safe_id > after_id then
    counted := ops.count_or_set_aside(after_id, safe_id, max_ids, as_of);
  else
    counted := ops.count_range(after_id, after_id, as_of);
    counted.until_id := after_id;
  end if;

  report := ops.report_refresh(counted, safe_id);
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

create function ops.count_again(only_id bigint default null, as_of timestamptz default now())
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
      counted := counted + (ops.count_range(aside.id - 1, aside.id, as_of)).events;
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
comment on function ops.count_again(bigint, timestamptz) is
  'Counts the events that were set aside (all, or the one of that id) in their own hours, days, weeks and months; returns how many. An event that fails again stays aside, with its new reason.';

create function ops.drop_uncountable(only_id bigint)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  dropped bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  delete from public.telemetry_events as event
  using ops.uncountable_events as aside
  where aside.id = drop_uncountable.only_id
    and event.org_id = aside.org_id
    and event.event_timestamp = aside.event_timestamp
    and event.event_id = aside.event_id;
  delete from ops.uncountable_events as aside where aside.id = drop_uncountable.only_id;
  get diagnostics dropped = row_count;
  return dropped;
end;
$$;
comment on function ops.drop_uncountable(bigint) is
  'Deletes the event of that id that was set aside, for good; returns how many that were (0: none of that id is set aside).';

create function ops.forget_uncountable()
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.uncountable_events as aside
  where not exists (
    select
    from public.telemetry_events as event
    where event.org_id = aside.org_id
      and event.event_timestamp = aside.event_timestamp
      and event.event_id = aside.event_id
  );
end;
comment on function ops.forget_uncountable() is 'Forgets the events set aside that retention or somebody else has deleted; maintain calls it.';

create function ops.rebuild_kpis(since timestamptz, until timestamptz, as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- A delta of nothing to each row that stands there gives the KPIs of what stands there.
  select ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(array(
        select row(
          rollup.org_id, series.event_type, series.labels, rollup.period, rollup.period_start, 0, 0, 0, null, null
        )::ops.rollup_delta
        from ops.rollups as rollup
        join ops.rebuild_spans(since, until) as span
          on span.period = rollup.period
          and rollup.period_start >= span.span_start
          and rollup.period_start < span.span_end
        join ops.series
          on series.org_id = rollup.org_id
          and series.series_id = rollup.series_id
      )) as kpi
      union all
      select kpi
      from ops.changed_percentiles(array(
        select histogram
        from ops.histograms as histogram
        join ops.rebuild_spans(since, until) as span
          on span.period = histogram.period
          and histogram.period_start >= span.span_start
          and histogram.period_start < span.span_end
      )) as kpi
    ),
    as_of
  );
end;
comment on function ops.rebuild_kpis(timestamptz, timestamptz, timestamptz) is 'Rewrites the KPIs of the periods that a range touches from the states; only rebuild calls it.';

create or replace function ops.maintain(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
as $$
declare
  started_at timestamptz := clock_timestamp();
  made integer;
begin
  select count(*) filter (where ops.create_partition(wanted.month))
  into made
  from (
    select (date_trunc('month', as_of at time zone 'UTC') + make_interval(months => ahead))::date as month
    from generate_series(0, 3) as ahead
    union
    -- A year at a time and within sight: a partition for every month of two centuries would exhaust the server's locks.
    (
      select distinct found.month
      from (
        select distinct date_trunc('month', event.event_timestamp at time zone 'UTC')::date as month, event.event_type
        from ops.telemetry_events_default as event
        where event.event_timestamp >= as_of - interval '20 years'
          and event.event_timestamp < as_of + interval '3 months'
      ) as found
      -- Retention takes what is too old from where it lies; else each late event would make a partition only to have it dropped.
      where (found.month + interval '1 month') at time zone 'UTC' > ops.kept_since('events', found.event_type, as_of)
      order by found.month desc
      limit 12
    )
    order by month
  ) as wanted;
  delete from ops.job_runs as run
  where run.started_at < as_of - coalesce(ops.setting('job_runs_kept'), '30 days')::interval;
  perform ops.forget_requests(as_of);
  perform ops.forget_uncountable();
  if made > 0 then
    insert into ops.job_runs (job, started_at, outcome, message)
    values ('maintain', started_at, 'success', format('%s partitions made', made));
  end if;
  return made;
end;
$$;

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
      select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
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

create or replace function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null
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
  account constant ops.slo_account := ops.slo_account(newest_burners.slo_name, newest_burners.since, newest_burners.until);
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until)::ops.slo_span]
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
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms) as reason
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and case account.objective
          when 'latency' then event.outcome = 'success' and event.duration_ms >= account.threshold_ms
          else event.outcome = 'failure'
        end
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.event_type = account.event_type
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;

create function ops.freshness(org_id uuid default null)
returns table (
  last_refresh_at timestamptz,
  is_stale boolean,
  events_waiting bigint,
  newest_event_at timestamptz,
  alerts_evaluated_at timestamptz,
  events_set_aside bigint
)
language sql
stable
set search_path = ''
begin atomic
  select
    jobs.last_refresh_at,
    coalesce(jobs.last_refresh_at < now() - 2 * ops.refresh_interval(), true),
    (
      select count(*)
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
    ),
    (select max(event.event_timestamp) from public.telemetry_events as event where event.org_id = caller.org_id),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (select count(*) from ops.uncountable_events as aside where aside.org_id = caller.org_id)
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join (
    select max(run.finished_at) as last_refresh_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  ) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, when the alerts were last evaluated, and how many of its events could not be counted.';

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
          and event.id <= ops.cursor_id()
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
  select 'audits', exists (select from public.slsa_audit_metrics),
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: no audit has been recorded yet' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false),
    coalesce('last refresh ' || to_char(max(run.finished_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false) then ''
        else '; run opskpi run from cron every ' || ops.refresh_interval() end
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome <> 'failure'
  union all
  select 'alerts', not watched.has_channel or coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), false),
    case when not watched.has_channel then 'no channel: nobody is told'
      else coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated; run opskpi run')
    end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select 'messages', count(*) = 0,
    case when count(*) = 0 then 'none is dead'
      else format('%s dead for %s: %s; mend it and run opskpi alert retry', count(*), min(delivery.channel_name), max(delivery.last_error)) end
  from ops.alert_deliveries as delivery
  where delivery.state = 'dead'
  union all
  select 'partitions', next_month.partition is not null,
    case when next_month.partition is not null then next_month.name || ' is there' else 'ops.' || next_month.name || ' is missing; run opskpi run' end
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
        'what is due since more than two days is still there: %s; run opskpi retention run', string_agg(overdue.name, ', ' order by overdue.month_start)
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from ops.expired_months(doctor.as_of - interval '2 days') as overdue
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
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; run opskpi run' end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
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
        '%s day(s) do not add up, the first has %s events and %s counted; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference;
end;

drop function ops.move_cursor;

revoke execute on function
  ops.begin_attempt,
  ops.kpi_groups,
  ops.changed_sums,
  ops.changed_ratios,
  ops.count_again,
  ops.count_or_set_aside,
  ops.count_range,
  ops.drop_uncountable,
  ops.events_between,
  ops.forget_attempt,
  ops.forget_uncountable,
  ops.freshness,
  ops.kept_spans,
  ops.is_fault_of_events,
  ops.next_attempt,
  ops.report_refresh,
  ops.set_aside,
  ops.rebuild_kpis
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  create policy uncountable_events_select_own_org on ops.uncountable_events for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  revoke execute on function
    ops.begin_attempt,
    ops.kpi_groups,
    ops.changed_sums,
    ops.changed_ratios,
    ops.count_again,
    ops.count_or_set_aside,
    ops.count_range,
    ops.drop_uncountable,
    ops.events_between,
    ops.forget_attempt,
    ops.forget_uncountable,
    ops.freshness,
    ops.kept_spans,
    ops.is_fault_of_events,
    ops.next_attempt,
    ops.report_refresh,
    ops.set_aside,
    ops.rebuild_kpis
  from anon, authenticated, service_role;
  revoke all on sequence ops.refresh_attempts from anon, authenticated, service_role;
  revoke all on
    ops.uncountable_events,
    ops.countable_events
  from anon, authenticated, service_role;
  grant execute on function
    ops.kpi_groups,
    ops.changed_sums,
    ops.changed_ratios,
    ops.freshness,
    ops.kept_spans
  to authenticated, service_role;
  grant select on ops.uncountable_events to service_role;
  -- Not the reason, which is an error of the server.
  grant select (org_id, id, event_id, event_type, event_timestamp, set_aside_at) on ops.uncountable_events to authenticated;
  grant select on ops.countable_events to authenticated, service_role;
end;
$$;
