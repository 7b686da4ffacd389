-- The delta of a range of events: labels looked up, counts by hour and series.

create view ops.histogram_groups
with (security_invoker = true)
as
select distinct
  definition.event_type,
  kept.breakdown,
  kept.period
from ops.kpi_definitions as definition
cross join lateral (
  select null::text as breakdown, unnest(array['hour', 'day', 'week', 'month']) as period
  union all
  select breakdown.key, period.name
  from unnest(definition.breakdowns) as breakdown (key)
  cross join unnest(definition.breakdown_periods) as period (name)
) as kept
where definition.measure = 'percentile';
comment on view ops.histogram_groups is 'One row an event type, breakdown (null: all together) and period for which a percentile KPI wants a histogram.';

create view ops.labelled_events
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
  agent.team,
  kind.bins_by_1,
  kind.bins_by_2,
  kind.bins_by_3,
  kind.bins_by_4
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
    event_type.event_type in (select histogram_group.event_type from ops.histogram_groups as histogram_group) as has_histogram,
    (event_type.event_type, event_type.label_keys[1]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_1,
    (event_type.event_type, event_type.label_keys[2]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_2,
    (event_type.event_type, event_type.label_keys[3]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_3,
    (event_type.event_type, event_type.label_keys[4]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_4
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
comment on view ops.labelled_events is 'One row an event, with its labels, its value, the bin of the value, and by which of the labels its kind has histograms (bins_by_1 to bins_by_4). Nothing that a plain insert may hold makes it fail.';

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
  -- Counts go by all labels, bins by those alone that histograms are kept by: together they would be a row for almost every event.
  with labelled as materialized (
    select
      event.org_id,
      event.event_type,
      event.hour_start,
      event.label_1,
      event.label_2,
      event.label_3,
      event.label_4,
      event.bin,
      case when event.bins_by_1 then event.label_1 end as bin_label_1,
      case when event.bins_by_2 then event.label_2 end as bin_label_2,
      case when event.bins_by_3 then event.label_3 end as bin_label_3,
      case when event.bins_by_4 then event.label_4 end as bin_label_4,
      event.value
    from ops.labelled_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < until
  ),
  counted as (
    select
      labelled.org_id,
      labelled.event_type,
      labelled.hour_start,
      array[labelled.label_1, labelled.label_2, labelled.label_3, labelled.label_4] as labels,
      null::integer as bin,
      count(*) as event_count,
      count(labelled.value) as value_count,
      coalesce(sum(labelled.value), 0) as value_sum,
      min(labelled.value) as value_min,
      max(labelled.value) as value_max
    from labelled
    group by labelled.org_id, labelled.event_type, labelled.hour_start, labelled.label_1, labelled.label_2, labelled.label_3, labelled.label_4
    union all
    select
      labelled.org_id,
      labelled.event_type,
      labelled.hour_start,
      array[labelled.bin_label_1, labelled.bin_label_2, labelled.bin_label_3, labelled.bin_label_4],
      labelled.bin,
      0,
      count(*),
      0,
      null,
      null
    from labelled
    where labelled.bin is not null
    group by
      labelled.org_id, labelled.event_type, labelled.hour_start, labelled.bin,
      labelled.bin_label_1, labelled.bin_label_2, labelled.bin_label_3, labelled.bin_label_4
  )
  select
    counted.org_id,
    counted.event_type,
    coalesce(
      jsonb_strip_nulls(jsonb_object(kind.label_keys, counted.labels[1:cardinality(kind.label_keys)])),
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
  'The events of a set with since <= event_timestamp < until, counted by series and hour, and their values by the labels of histograms, hour and bin.';

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

create function ops.rollup_deltas(events ops.event_delta[])
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
    where event.bin is null
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
comment on function ops.rollup_deltas(ops.event_delta[]) is 'What counted events add to the hours, days, weeks and months of their series, but for those that retention removed.';
