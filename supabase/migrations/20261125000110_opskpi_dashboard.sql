-- The dashboard: what its pages ask, silences by an org's own admins, and a day-by-day account of objectives in half the time.

create or replace function ops.daily_slos(spans ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
begin atomic
  -- Asked once; asked for each of 15,000 slices it took 0.2 s.
  with zone as materialized (
    select ops.time_zone() as name
  ),
  excluded as materialized (
    select distinct
      exclusion.org_id,
      exclusion.slo_name,
      bucket.starts_at
    from ops.slo_exclusions as exclusion
    cross join lateral generate_series(
      date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00'),
      exclusion.until - interval '1 microsecond',
      interval '5 minutes'
    ) as bucket (starts_at)
  ),
  counted as (
    select
      span.org_id,
      span.slo_name,
      span.version,
      version.slice_target,
      coalesce(
        date_bin(version.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
        bucket.bucket_start
      ) as slice_start,
      bucket.good,
      bucket.total,
      excluded.starts_at is not null as is_excluded
    from unnest(daily_slos.spans) as span
    join ops.slo_versions as version
      on version.slo_name = span.slo_name
      and version.version = span.version
    join ops.sli_counts as bucket
      on bucket.org_id = span.org_id
      and bucket.sli_id = version.sli_id
      and bucket.bucket_start >= span.since
      and bucket.bucket_start < span.until
    left join excluded
      on excluded.org_id = span.org_id
      and excluded.slo_name = span.slo_name
      and excluded.starts_at = bucket.bucket_start
  ),
  sliced as (
    select
      counted.org_id,
      counted.slo_name,
      counted.version,
      counted.slice_target,
      counted.slice_start,
      coalesce(sum(counted.good) filter (where not counted.is_excluded), 0) as good,
      coalesce(sum(counted.total) filter (where not counted.is_excluded), 0) as total,
      sum(counted.good) as good_unadjusted,
      sum(counted.total) as total_unadjusted
    from counted
    group by 1, 2, 3, 4, 5
  )
  select
    sliced.org_id,
    sliced.slo_name,
    sliced.version,
    date_trunc('day', sliced.slice_start, zone.name),
    sum(case
      when sliced.slice_target is null then sliced.good
      else (sliced.total > 0 and sliced.good >= sliced.slice_target * sliced.total)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total else (sliced.total > 0)::integer end)::bigint,
    sum(case
      when sliced.slice_target is null then sliced.good_unadjusted
      else (sliced.total_unadjusted > 0 and sliced.good_unadjusted >= sliced.slice_target * sliced.total_unadjusted)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total_unadjusted else (sliced.total_unadjusted > 0)::integer end)::bigint
  from sliced
  cross join zone
  group by 1, 2, 3, 4;
end;

drop view public.v_ops_error_budget_burndown;
drop function ops.slo_burndown(timestamptz);

create function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric
)
language sql
stable
set search_path = ''
begin atomic
  with spans as (
    select
      counting.org_id,
      version.slo_name,
      version.version,
      date_bin(
        '5 minutes',
        ops.slo_window_start(version.rolling_window, version.calendar_period, version.time_zone, slo_burndown.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as since,
      date_bin('5 minutes', slo_burndown.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as until
    from (
      select distinct series.org_id
      from ops.series
      where slo_burndown.only_org_id is null
        or series.org_id = slo_burndown.only_org_id
    ) as counting
    cross join ops.slo_versions as version
    where version.valid_from <= slo_burndown.as_of
      and version.valid_until > slo_burndown.as_of
      and (slo_burndown.slo_names is null or version.slo_name = any (slo_burndown.slo_names))
  )
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    daily.good,
    daily.total,
    (daily.total - daily.good) / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    1 - sum(daily.total - daily.good) over so_far / nullif((1 - version.target) * sum(daily.total) over whole, 0)
  from ops.daily_slos(array(
    select row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version
  window
    whole as (partition by daily.org_id, daily.slo_name),
    so_far as (partition by daily.org_id, daily.slo_name order by daily.day_start);
end;
comment on function ops.slo_burndown(timestamptz, text[], uuid) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now. slo_names null: all objectives; only_org_id null: all orgs.';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';

-- Few units are lost, and those are what people ask for: the newest, in a window.
create index work_units_org_id_event_type_first_attempt_at_idx
  on ops.work_units (org_id, event_type, first_attempt_at desc)
  where not succeeded;

create view public.v_ops_alert_silences
with (security_invoker = true)
as
select
  silence.only_org_id as org_id,
  silence.alert_silence_id,
  silence.matcher,
  silence.starts_at,
  silence.until,
  silence.reason,
  silence.author,
  silence.created_at
from ops.alert_silences as silence
order by silence.alert_silence_id desc;
comment on view public.v_ops_alert_silences is 'One row a time in which matching alerts are logged and not sent, newest first.';
comment on column public.v_ops_alert_silences.org_id is 'The tenant whose alerts it covers; null: all of them, which only the owner sees.';
comment on column public.v_ops_alert_silences.alert_silence_id is 'Number of the silence.';
comment on column public.v_ops_alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; * for everything.';
comment on column public.v_ops_alert_silences.starts_at is 'First instant.';
comment on column public.v_ops_alert_silences.until is 'First instant after it.';
comment on column public.v_ops_alert_silences.reason is 'Why.';
comment on column public.v_ops_alert_silences.author is 'Who said so.';
comment on column public.v_ops_alert_silences.created_at is 'When it was added.';

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
  select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
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
  select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
)) as delta
cross join lateral unnest(delta.bins, delta.counts) as bin (bin, value_count);
comment on view ops.histogram_parts is
  'Parts that add up to how many values of a KPI grouping and period fell into a bin, the events behind the cursor included.';

create function ops.period_window(period text, since timestamptz, until timestamptz, as_of timestamptz)
returns table (
  window_start timestamptz,
  window_end timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  zone text,
  starts timestamptz[]
)
language plpgsql
stable
set search_path = ''
as $$
begin
  if period is null or period not in ('hour', 'day', 'week', 'month') then
    raise exception 'there is no period %', coalesce(period, '') using errcode = 'OP001', hint = 'Pass hour, day, week or month.';
  end if;
  if (since < until and since >= timestamptz '1970-01-01 00:00+00' and until <= timestamptz '2200-01-01 00:00+00') is not true then
    raise exception 'the window is empty or out of bounds: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until, between 1970 and 2200; the window is half-open.';
  end if;
  zone := ops.time_zone();
  window_start := ops.period_start(period, since, zone);
  window_end := ops.period_end(period, ops.period_start(period, until - interval '1 microsecond', zone), zone);
  if window_end - window_start > 1000 * ('1 ' || period)::interval then
    raise exception 'the window has more than 1,000 periods of one %', period
      using errcode = 'OP001', hint = 'Choose a longer period or a shorter window.';
  end if;
  settled_end := greatest(window_start, least(window_end, ops.period_start(period, as_of, zone)));
  -- By the local calendar, so that a month before March is February and a day before a short day is a whole one.
  previous_start := case period
    when 'hour' then window_start - (settled_end - window_start)
    when 'month' then (
      (window_start at time zone zone)
      - make_interval(months => (
        12 * extract(year from age(settled_end at time zone zone, window_start at time zone zone))
        + extract(month from age(settled_end at time zone zone, window_start at time zone zone))
      )::integer)
    ) at time zone zone
    else ((window_start at time zone zone) - ((settled_end at time zone zone) - (window_start at time zone zone))) at time zone zone
  end;
  starts := case period
    when 'hour' then array(select generate_series(window_start, window_end - interval '1 microsecond', interval '1 hour'))
    else array(
      select local_start at time zone zone
      from generate_series(
        date_trunc(period, window_start at time zone zone),
        (window_end at time zone zone) - interval '1 microsecond',
        ('1 ' || period)::interval
      ) as local_start
    )
  end;
  return next;
end;
$$;
comment on function ops.period_window(text, timestamptz, timestamptz, timestamptz) is
  'The whole periods that a half-open window touches, and where each starts; settled_end: up to where they were over at as_of; previous_start: from where as many periods precede the window as are settled in it; the time zone they follow.';

create function ops.kpi_parts(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb,
  only_event_type text,
  org_id uuid
)
returns table (
  metric_name text,
  period_start timestamptz,
  value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  -- A breakdown that is kept has rows of its own; anything finer is added up from the series.
  kept text[] := array(
    select definition.metric_name
    from ops.kpi_definitions as definition
    where (kpi_parts.only_event_type is null or definition.event_type = kpi_parts.only_event_type)
      and (
        kpi_parts.filters = '{}'
        or (
          kpi_parts.period = any (definition.breakdown_periods)
          and definition.breakdowns @> array(select jsonb_object_keys(kpi_parts.filters))
          and (select count(*) from jsonb_object_keys(kpi_parts.filters)) = 1
        )
      )
  );
  fresh ops.rollup_delta[];
begin
  return query
  select kpi.metric_name, kpi.period_start, kpi.metric_value, kpi.numerator, kpi.denominator, kpi.sample_count
  from ops.kpis as kpi
  where kpi.org_id = kpi_parts.org_id
    and kpi.aggregation_period = kpi_parts.period
    and kpi.period_start >= kpi_parts.since
    and kpi.period_start < kpi_parts.until
    and kpi.labels = kpi_parts.filters
    and kpi.metric_name = any (kept);
  if kpi_parts.filters = '{}' and kpi_parts.only_event_type is null then
    return;
  end if;
  fresh := array(
    select delta
    from ops.rollup_deltas(array(
      select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
    )) as delta
    where delta.org_id = kpi_parts.org_id
  );
  return query
  with members as materialized (
    select kpi_group.metric_name, kpi_group.event_type, kpi_group.series_labels, kpi_group.in_numerator
    -- With the fresh ones, since labels that are new belong to no series yet.
    from ops.kpi_groups(fresh) as kpi_group
    where kpi_group.group_labels = '{}'
      and kpi_group.series_labels @> kpi_parts.filters
      and (kpi_parts.only_event_type is null or kpi_group.event_type = kpi_parts.only_event_type)
      and kpi_group.metric_name <> all (kept)
  ),
  parts as materialized (
    select series.event_type, series.labels, rollup.period_start, rollup.event_count, rollup.value_count, rollup.value_sum
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.org_id = kpi_parts.org_id
      and rollup.period = kpi_parts.period
      and rollup.period_start >= kpi_parts.since
      and rollup.period_start < kpi_parts.until
      and series.labels @> kpi_parts.filters
    union all
    select delta.event_type, delta.labels, delta.period_start, delta.event_count, delta.value_count, delta.value_sum
    from unnest(fresh) as delta
    where delta.period = kpi_parts.period
      and delta.period_start >= kpi_parts.since
      and delta.period_start < kpi_parts.until
      and delta.labels @> kpi_parts.filters
  )
  select
    members.metric_name,
    parts.period_start,
    null::numeric,
    case definition.measure
      when 'ratio' then coalesce(sum(parts.event_count) filter (where members.in_numerator), 0)
      when 'average' then sum(parts.value_sum)
    end,
    case definition.measure when 'ratio' then sum(parts.event_count) when 'average' then sum(parts.value_count) end,
    case definition.measure when 'average' then sum(parts.value_count) else sum(parts.event_count) end::bigint
  from members
  join parts
    on parts.event_type = members.event_type
    and parts.labels = members.series_labels
  join ops.kpi_definitions as definition
    on definition.metric_name = members.metric_name
  group by members.metric_name, definition.measure, parts.period_start;
end;
$$;
comment on function ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'One row a KPI and period of an org, of events that have the labels of filters: what its value is made of; value is given for kept rows only. Percentiles have rows for kept breakdowns only.';

create function ops.kpi_quantiles(
  period text,
  since timestamptz,
  until timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  filters jsonb,
  org_id uuid
)
returns table (metric_name text, part text, value numeric, sample_count bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with binned as materialized (
    select
      histogram.event_type,
      histogram.bin,
      sum(histogram.value_count) filter (where histogram.period_start >= kpi_quantiles.since)::bigint as in_whole,
      sum(histogram.value_count) filter (
        where histogram.period_start >= kpi_quantiles.since and histogram.period_start < kpi_quantiles.settled_end
      )::bigint as in_settled,
      sum(histogram.value_count) filter (where histogram.period_start < kpi_quantiles.since)::bigint as in_previous
    from ops.histogram_parts as histogram
    where histogram.org_id = kpi_quantiles.org_id
      and histogram.period = kpi_quantiles.period
      and histogram.labels = kpi_quantiles.filters
      and histogram.period_start >= kpi_quantiles.previous_start
      and histogram.period_start < kpi_quantiles.until
    group by 1, 2
  ),
  gathered as (
    select
      binned.event_type,
      counted.part,
      array_agg(binned.bin) as bins,
      array_agg(counted.value_count) as counts,
      sum(counted.value_count)::bigint as total
    from binned
    cross join lateral (
      values ('whole', binned.in_whole), ('settled', binned.in_settled), ('previous', binned.in_previous)
    ) as counted (part, value_count)
    where counted.value_count > 0
    group by 1, 2
  )
  select
    definition.metric_name,
    gathered.part,
    ops.histogram_quantile(ops.merge_histogram(null, gathered.bins, gathered.counts), definition.percentile, gathered.total),
    gathered.total
  from gathered
  join ops.kpi_definitions as definition
    on definition.event_type = gathered.event_type
    and definition.measure = 'percentile';
end;
$$;
comment on function ops.kpi_quantiles(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'The percentile KPIs over a whole window (whole), the periods of it that are over (settled) and as many before it (previous), from the histograms added up.';

create function ops.kpi_window(
  period text,
  since timestamptz,
  until timestamptz,
  as_of timestamptz,
  filters jsonb default '{}',
  only_event_type text default null,
  org_id uuid default null
)
returns table (
  metric_name text,
  description text,
  unit text,
  measure text,
  part text,
  period_start timestamptz,
  value numeric,
  sample_count bigint
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(kpi_window.org_id);
  spans record;
begin
  select * into strict spans
  from ops.period_window(kpi_window.period, kpi_window.since, kpi_window.until, kpi_window.as_of);
  return query
  with parts as materialized (
    select kpi.*
    from ops.kpi_parts(
      kpi_window.period, spans.previous_start, spans.window_end, kpi_window.filters, kpi_window.only_event_type, owner_id
    ) as kpi
  ),
  placed as (
    select parts.*, place.part
    from parts
    cross join lateral (
      values
        ('period', parts.period_start >= spans.window_start),
        ('whole', parts.period_start >= spans.window_start),
        ('settled', parts.period_start >= spans.window_start and parts.period_start < spans.settled_end),
        ('previous', parts.period_start < spans.window_start)
    ) as place (part, is_in)
    where place.is_in
  ),
  summed as (
    select
      placed.metric_name,
      placed.part,
      case placed.part when 'period' then placed.period_start end as period_start,
      max(placed.value) as value,
      sum(placed.numerator) as numerator,
      sum(placed.denominator) as denominator,
      sum(placed.sample_count)::bigint as sample_count
    from placed
    group by 1, 2, 3
  ),
  valued as (
    select
      summed.metric_name,
      summed.part,
      summed.period_start,
      case definition.measure
        when 'ratio' then 100 * summed.numerator / nullif(summed.denominator, 0)
        when 'average' then summed.numerator / nullif(summed.denominator, 0)
        when 'count' then summed.sample_count
        else summed.value
      end as value,
      summed.sample_count
    from summed
    join ops.kpi_definitions as definition
      on definition.metric_name = summed.metric_name
    -- Percentiles neither add up nor average: over more than one period they come from the histograms.
    where definition.measure <> 'percentile'
      or summed.part = 'period'
    union all
    select quantile.metric_name, quantile.part, null, quantile.value, quantile.sample_count
    from ops.kpi_quantiles(
      kpi_window.period, spans.window_start, spans.window_end, spans.settled_end, spans.previous_start, kpi_window.filters, owner_id
    ) as quantile
    where quantile.metric_name in (select parts.metric_name from parts)
  )
  select
    valued.metric_name,
    definition.description,
    definition.unit,
    definition.measure,
    valued.part,
    valued.period_start,
    round(valued.value, 6),
    valued.sample_count
  from valued
  join ops.kpi_definitions as definition
    on definition.metric_name = valued.metric_name
  where valued.value is not null
  order by valued.metric_name, valued.part, valued.period_start;
end;
$$;
comment on function ops.kpi_window(text, timestamptz, timestamptz, timestamptz, jsonb, text, uuid) is
  'The KPIs of an org over the whole periods that a window touches, of events with the labels of filters and of one type if named, events behind the cursor included: by period (part period), over all (whole), over the periods that are over at as_of (settled) and over as many before the window (previous). Ratios of sums; percentiles from histograms, where those are kept.';

create function ops.activity(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb default '{}',
  only_event_type text default null,
  org_id uuid default null
)
returns table (event_type text, period_start timestamptz, events bigint, failures bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(activity.org_id);
  spans record;
begin
  select * into strict spans from ops.period_window(activity.period, activity.since, activity.until, activity.until);
  return query
  select
    part.event_type,
    part.period_start,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'outcome' = 'failure'), 0)::bigint
  from ops.rollup_parts as part
  where part.org_id = owner_id
    and part.period = activity.period
    and part.period_start >= spans.window_start
    and part.period_start < spans.window_end
    and part.event_type <> 'slsa_audit_metrics'
    and (activity.only_event_type is null or part.event_type = activity.only_event_type)
    and part.labels @> activity.filters
  group by 1, 2
  order by 1, 2;
end;
$$;
comment on function ops.activity(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'Events and failures by type and period of an org, of events with the labels of filters, events behind the cursor included.';

create function ops.team_compliance(
  period text,
  since timestamptz,
  until timestamptz,
  as_of timestamptz,
  filters jsonb default '{}',
  org_id uuid default null
)
returns table (team text, part text, period_start timestamptz, executions bigint, overridden bigint, blocked bigint, compliance_rate numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(team_compliance.org_id);
  spans record;
begin
  select * into strict spans
  from ops.period_window(team_compliance.period, team_compliance.since, team_compliance.until, team_compliance.as_of);
  return query
  select
    part.labels ->> 'team',
    place.part,
    case place.part when 'period' then part.period_start end,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0)::bigint,
    round(
      100 - 100 * coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0) / nullif(sum(part.event_count), 0),
      6
    )
  from ops.rollup_parts as part
  cross join lateral (
    values
      ('period', part.period_start >= spans.window_start),
      ('whole', part.period_start >= spans.window_start),
      ('settled', part.period_start >= spans.window_start and part.period_start < spans.settled_end),
      ('previous', part.period_start < spans.window_start)
  ) as place (part, is_in)
  where part.org_id = owner_id
    and part.period = team_compliance.period
    and part.period_start >= spans.previous_start
    and part.period_start < spans.window_end
    and part.event_type = 'hook_execution'
    and part.labels ? 'team'
    and part.labels @> team_compliance.filters
    and place.is_in
  group by 1, 2, 3
  order by 1, 2, 3;
end;
$$;
comment on function ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'Hook executions of each team and the share that was not overridden (percent), by period, over the window (whole), its periods that are over (settled) and as many before it (previous).';

create function ops.top_patterns(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb default '{}',
  org_id uuid default null
)
returns table (pattern text, blocked_count bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(top_patterns.org_id);
  spans record;
begin
  select * into strict spans from ops.period_window(top_patterns.period, top_patterns.since, top_patterns.until, top_patterns.until);
  return query
  select part.pattern, sum(part.blocked_count)::bigint
  from ops.blocked_pattern_parts as part
  where part.org_id = owner_id
    and part.period = top_patterns.period
    and part.period_start >= spans.window_start
    and part.period_start < spans.window_end
    and part.team = coalesce(top_patterns.filters ->> 'team', part.team)
    and part.hook_type = coalesce(top_patterns.filters ->> 'hook_type', part.hook_type)
  group by 1
  order by 2 desc, 1
  limit 10;
end;
$$;
comment on function ops.top_patterns(text, timestamptz, timestamptz, jsonb, uuid) is
  'The ten patterns that blocked most executions in the periods that a window touches, of one team or hook type if filters name it.';

create function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(slo_burn_rates.org_id);
begin
  return query
  with spans as materialized (
    select
      version.slo_name,
      version.version,
      version.target,
      windows.name,
      date_bin('5 minutes', slo_burn_rates.as_of - windows.length, timestamptz '1969-12-29 00:00+00') as since
    from ops.slo_versions as version
    cross join (
      values
        ('5m', interval '5 minutes'),
        ('30m', interval '30 minutes'),
        ('1h', interval '1 hour'),
        ('6h', interval '6 hours'),
        ('1d', interval '24 hours'),
        ('3d', interval '72 hours')
    ) as windows (name, length)
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(
        select row(
          owner_id, spans.slo_name, spans.version, spans.since,
          date_bin('5 minutes', slo_burn_rates.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
        )::ops.slo_span
        from spans
      ),
      array(select row(fresh.*)::ops.sli_delta from ops.fresh_slis() as fresh where fresh.org_id = owner_id)
    ) as summed
  )
  select spans.slo_name, spans.name, sums.good, sums.total, ops.burn_rate(sums.good, sums.total, spans.target)
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.since = spans.since
  order by spans.slo_name, spans.since desc;
end;
$$;
comment on function ops.slo_burn_rates(timestamptz, uuid) is
  'The burn rate of each objective of an org over the windows that alerts look at, exclusions applied, with the counts behind it; null where nothing was counted.';

create function ops.newest_burners(
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
  asked ops.slo_versions;
  sli ops.slis;
  from_bucket constant timestamptz := date_bin('5 minutes', newest_burners.since, timestamptz '1969-12-29 00:00+00');
  to_bucket constant timestamptz :=
    date_bin('5 minutes', newest_burners.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  select known.* into asked
  from ops.slo_versions as known
  where known.slo_name = newest_burners.slo_name
    and known.valid_from < newest_burners.until
  order by known.version desc
  limit 1;
  if asked.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(newest_burners.slo_name, ''), newest_burners.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  select known.* into strict sli from ops.slis as known where known.sli_id = asked.sli_id;

  return query
  with exclusions as materialized (
    select exclusion.since, exclusion.until
    from ops.slo_exclusions as exclusion
    where exclusion.org_id = owner_id
      and exclusion.slo_name = asked.slo_name
  ),
  slices as materialized (
    select
      coalesce(date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), from_bucket) as slice_start,
      sum(bucket.total - bucket.good) as bad,
      sum(bucket.total) as total
    from ops.sli_counts as bucket
    where bucket.org_id = owner_id
      and bucket.sli_id = asked.sli_id
      and bucket.bucket_start >= from_bucket
      and bucket.bucket_start < to_bucket
      and not exists (
        select
        from exclusions
        where exclusions.since < bucket.bucket_start + interval '5 minutes'
          and exclusions.until > bucket.bucket_start
      )
    group by 1
  ),
  account as (
    select case when asked.time_slice is null then sum(slices.total) else count(*) filter (where slices.total > 0) end as total
    from slices
  ),
  newest as (
    (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        case sli.objective when 'latency' then format('took %s ms, the limit is %s ms', event.duration_ms, sli.threshold_ms) else 'failed' end
          as reason
      from public.telemetry_events as event
      where sli.objective <> 'availability'
        and event.org_id = owner_id
        and event.event_type = sli.event_type
        and event.id <= counted_until
        and event.event_timestamp >= from_bucket
        and event.event_timestamp < least(to_bucket, sli.filled_until)
        and case sli.objective
          when 'latency' then event.outcome = 'success' and event.duration_ms >= sli.threshold_ms
          else event.outcome = 'failure'
        end
      order by event.event_timestamp desc
      limit newest_burners.max_events
    )
    union all
    (
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        'never succeeded'
      from ops.work_units as unit
      where sli.objective = 'availability'
        and unit.org_id = owner_id
        and unit.event_type = sli.event_type
        and not unit.succeeded
        and unit.first_attempt_at >= from_bucket
        and unit.first_attempt_at < to_bucket
      order by unit.first_attempt_at desc
      limit newest_burners.max_events
    )
  )
  select
    newest.counted_at,
    newest.run_id,
    newest.tag,
    newest.reason,
    case when asked.time_slice is null then 1 else 1 / slices.bad end / (account.total * (1 - asked.target))
  from newest
  cross join account
  join slices
    on slices.slice_start
      = coalesce(date_bin(asked.time_slice, newest.counted_at, timestamptz '1969-12-29 00:00+00'), from_bucket)
  where (asked.time_slice is null or slices.total - slices.bad < asked.slice_target * slices.total)
    and not exists (
      select
      from exclusions
      where exclusions.since < date_bin('5 minutes', newest.counted_at, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
        and exclusions.until > date_bin('5 minutes', newest.counted_at, timestamptz '1969-12-29 00:00+00')
    )
  order by newest.counted_at desc;
end;
$$;
comment on function ops.newest_burners(text, timestamptz, timestamptz, integer, uuid) is
  'The newest counted events (for availability: units of work, at their first attempt) of an org that burned the budget in a range, each with its share of the budget of that range, as explain_slo lists all of them; its cost does not grow with the range.';

create function ops.filter_choices(org_id uuid default null)
returns table (filter text, choice text)
language sql
stable
set search_path = ''
begin atomic
  select distinct label.key, label.value
  from ops.series
  cross join lateral jsonb_each_text(series.labels) as label
  where series.org_id = (select ops.caller_org(filter_choices.org_id))
    and label.key in ('team', 'hook_type', 'workflow')
  union
  select 'event_type', series.event_type
  from ops.series
  where series.org_id = (select ops.caller_org(filter_choices.org_id))
    and series.event_type <> 'slsa_audit_metrics'
  order by 1, 2;
end;
comment on function ops.filter_choices(uuid) is 'The teams, hook types, workflows and event types that an org''s counted events name.';

create function ops.freshness(org_id uuid default null)
returns table (
  last_refresh_at timestamptz,
  is_stale boolean,
  events_waiting bigint,
  newest_event_at timestamptz,
  alerts_evaluated_at timestamptz
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
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation)
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join (
    select max(run.finished_at) as last_refresh_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  ) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, and when the alerts were last evaluated.';

create function ops.change_marker(org_id uuid default null)
returns text
language sql
stable
set search_path = ''
return (
  select concat_ws(
    ' ',
    ops.cursor_id(),
    (
      -- Their number, too: one that commits late may have a lower id.
      select max(event.id) || '/' || count(*)
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
    ),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (
      select max(audit.updated_at) || '/' || count(*)
      from public.slsa_audit_metrics as audit
      where audit.org_id = caller.org_id
    )
  )
  from (select ops.caller_org(change_marker.org_id) as org_id offset 0) as caller
);
comment on function ops.change_marker(uuid) is
  'A text that is another one whenever something that an org''s pages show may have changed; its parts mean nothing to others.';

create function public.silence_own_alerts(matcher text, until timestamptz, reason text)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  owner_id constant uuid := ops.caller_org();
begin
  if owner_id is null or (row_security_active('ops.alert_silences') and not ops.caller_has_scope('admin')) then
    raise exception 'silencing alerts needs the scope admin'
      using errcode = 'PT403', hint = 'Use a key or token of an organisation whose app_metadata.scopes lists admin.';
  end if;
  if silence_own_alerts.until > now() + interval '1 year' then
    raise exception 'a silence until % is too long', silence_own_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant within a year; switch the rule off instead.';
  end if;
  return ops.silence_alerts(
    silence_own_alerts.matcher,
    silence_own_alerts.until,
    left(silence_own_alerts.reason, 1000),
    -- Who it was, as the token says it.
    coalesce(left(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', 200), current_user),
    owner_id
  );
end;
$$;
comment on function public.silence_own_alerts(text, timestamptz, text) is
  'Keeps alerts of the caller''s org (a rule, an objective or other subject, a service; * for all) from being sent until an instant, a year ahead at most; returns the number of the silence. Needs the scope admin.';

revoke execute on function
  ops.slo_burndown(timestamptz, text[], uuid),
  public.silence_own_alerts(text, timestamptz, text),
  ops.period_window(text, timestamptz, timestamptz, timestamptz),
  ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid),
  ops.kpi_quantiles(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, uuid),
  ops.kpi_window(text, timestamptz, timestamptz, timestamptz, jsonb, text, uuid),
  ops.activity(text, timestamptz, timestamptz, jsonb, text, uuid),
  ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid),
  ops.top_patterns(text, timestamptz, timestamptz, jsonb, uuid),
  ops.slo_burn_rates(timestamptz, uuid),
  ops.newest_burners(text, timestamptz, timestamptz, integer, uuid),
  ops.filter_choices(uuid),
  ops.freshness(uuid),
  ops.change_marker(uuid)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on
    ops.rollup_parts,
    ops.histogram_parts,
    public.v_ops_alert_silences,
    public.v_ops_error_budget_burndown
  from anon, authenticated, service_role;
  grant select on
    ops.rollup_parts,
    ops.histogram_parts,
    public.v_ops_alert_silences,
    public.v_ops_error_budget_burndown
  to authenticated, service_role;
  revoke execute on function ops.slo_burndown(timestamptz, text[], uuid) from anon, authenticated, service_role;
  grant execute on function ops.slo_burndown(timestamptz, text[], uuid) to authenticated, service_role;
  -- silence_own_alerts works as its caller; ops is no exposed schema.
  grant insert (matcher, starts_at, until, reason, author, only_org_id) on ops.alert_silences to authenticated;
  create policy alert_silences_insert_own_org_as_admin on ops.alert_silences for insert to authenticated
    with check (only_org_id = (select ops.current_org_id()) and (select ops.caller_has_scope('admin')));
  grant execute on function ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz) to authenticated;
  revoke execute on function
    public.silence_own_alerts(text, timestamptz, text),
    ops.period_window(text, timestamptz, timestamptz, timestamptz),
    ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid),
    ops.kpi_quantiles(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, uuid),
    ops.kpi_window(text, timestamptz, timestamptz, timestamptz, jsonb, text, uuid),
    ops.activity(text, timestamptz, timestamptz, jsonb, text, uuid),
    ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid),
    ops.top_patterns(text, timestamptz, timestamptz, jsonb, uuid),
    ops.slo_burn_rates(timestamptz, uuid),
    ops.newest_burners(text, timestamptz, timestamptz, integer, uuid),
    ops.filter_choices(uuid),
    ops.freshness(uuid),
    ops.change_marker(uuid)
  from anon, authenticated, service_role;
  grant execute on function public.silence_own_alerts(text, timestamptz, text) to authenticated;
  grant execute on function
    ops.period_window(text, timestamptz, timestamptz, timestamptz),
    ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid),
    ops.kpi_quantiles(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, uuid),
    ops.kpi_window(text, timestamptz, timestamptz, timestamptz, jsonb, text, uuid),
    ops.activity(text, timestamptz, timestamptz, jsonb, text, uuid),
    ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid),
    ops.top_patterns(text, timestamptz, timestamptz, jsonb, uuid),
    ops.slo_burn_rates(timestamptz, uuid),
    ops.newest_burners(text, timestamptz, timestamptz, integer, uuid),
    ops.filter_choices(uuid),
    ops.freshness(uuid),
    ops.change_marker(uuid)
  to authenticated, service_role;
end;
$$;
