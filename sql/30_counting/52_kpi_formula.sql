-- The formula of a KPI: the series that count towards it, and the value, unit, numerator, denominator and samples that follow.

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

create type ops.kpi_sum as (
  org_id uuid,
  metric_name text,
  labels jsonb,
  period text,
  period_start timestamptz,
  events numeric,
  numerator_events numeric,
  value_count numeric,
  value_sum numeric
);
comment on type ops.kpi_sum is
  'The sums of the series of a KPI in one period and breakdown: events of the denominator, events of the numerator among them, and their values.';

create function ops.kpi_figures(sums ops.kpi_sum[])
returns table (
  org_id uuid,
  metric_name text,
  labels jsonb,
  period text,
  period_start timestamptz,
  measure text,
  unit text,
  numerator numeric,
  denominator numeric,
  sample_count bigint
)
language sql
stable
set search_path = ''
begin atomic
  select
    summed.org_id,
    summed.metric_name,
    summed.labels,
    summed.period,
    summed.period_start,
    definition.measure,
    definition.unit,
    case definition.measure when 'ratio' then summed.numerator_events when 'average' then summed.value_sum end,
    case definition.measure when 'ratio' then summed.events when 'average' then summed.value_count end,
    case definition.measure when 'average' then summed.value_count else summed.events end::bigint
  from unnest(kpi_figures.sums) as summed
  join ops.kpi_definitions as definition
    on definition.metric_name = summed.metric_name;
end;
comment on function ops.kpi_figures(ops.kpi_sum[]) is
  'The unit, numerator, denominator and sample count of KPIs, from the sums of their series; one row per sum. Figures of several periods add up, and measured_value divides them.';

create function ops.measured_value(measure text, numerator numeric, denominator numeric, sample_count bigint)
returns numeric
-- plpgsql, because it is called once per KPI row: 2 µs each, as language sql 7 µs.
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case measure
    when 'ratio' then 100 * numerator / nullif(denominator, 0)
    when 'average' then numerator / nullif(denominator, 0)
    when 'count' then sample_count
  end;
end;
$$;
comment on function ops.measured_value(text, numeric, numeric, bigint) is
  'The value of a ratio (percent), average or count, of the figures of one period or of several added up; null where there is nothing to divide by, and for percentiles, which do not add up.';
