-- The KPIs themselves: computed from rollups plus a delta, so that refresh and the views that show "now" share one formula.

create table public.kpi_aggregations (
  id bigserial not null,
  metric_name text not null,
  metric_value numeric not null,
  aggregation_period text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  metadata jsonb default '{}',
  created_at timestamptz not null default now(),
  org_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid,
  labels jsonb not null generated always as (coalesce(metadata -> 'labels', '{}'::jsonb)) stored,
  complete boolean not null generated always as (coalesce(metadata -> 'complete' = 'true'::jsonb, false)) stored,
  constraint kpi_aggregations_pkey primary key (org_id, metric_name, aggregation_period, period_start, labels),
  constraint kpi_aggregations_aggregation_period_check check (aggregation_period in ('hour', 'day', 'week', 'month'))
)
-- Half a page is left free: with a fifth most rewritten rows went to another page and into every index.
with (fillfactor = 50);
comment on table public.kpi_aggregations is 'One row an org, KPI, period and breakdown; rewritten when events of that period arrive.';
comment on column public.kpi_aggregations.id is 'Number of the row.';
comment on column public.kpi_aggregations.metric_name is 'The KPI: a row of ops.kpi_definitions.';
comment on column public.kpi_aggregations.metric_value is 'Its value, in metadata.unit.';
comment on column public.kpi_aggregations.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.kpi_aggregations.period_start is 'First instant of the period.';
comment on column public.kpi_aggregations.period_end is 'First instant after the period.';
comment on column public.kpi_aggregations.metadata is
  'unit; numerator and denominator (null for percentiles and counts); sample_count; complete: the period was over when this was written; labels.';
comment on column public.kpi_aggregations.created_at is 'When the row was last written.';
comment on column public.kpi_aggregations.org_id is 'The tenant.';
comment on column public.kpi_aggregations.labels is 'metadata.labels: {} for the org as a whole, {"team": …} or another label for a breakdown.';
comment on column public.kpi_aggregations.complete is 'metadata.complete.';
alter table public.kpi_aggregations enable row level security;

create index idx_kpi_aggregations_metric_name on public.kpi_aggregations (metric_name);
create index idx_kpi_aggregations_period_start on public.kpi_aggregations (period_start desc);
-- Finds the few rows whose period has ended since; on a generated column, so that rewriting a row stays out of the indexes.
create index kpi_aggregations_period_end_idx on public.kpi_aggregations (period_end) where not complete;

create type ops.kpi_value as (
  org_id uuid,
  metric_name text,
  labels jsonb,
  period text,
  period_start timestamptz,
  unit text,
  metric_value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
);
comment on type ops.kpi_value is 'A KPI of one period and breakdown; metric_value is null where there is nothing to divide by.';

create function ops.kpi_groups(deltas ops.rollup_delta[])
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
  with kinds as (
    select series.event_type, series.labels from ops.series
    union
    select delta.event_type, delta.labels from unnest(kpi_groups.deltas) as delta
  ),
  matched as (
    select
      definition.metric_name,
      definition.measure,
      definition.breakdowns,
      definition.breakdown_periods,
      kinds.event_type,
      kinds.labels,
      not exists (
        select from jsonb_each(definition.numerator) as wanted where not coalesce(wanted.value ? (kinds.labels ->> wanted.key), false)
      ) as fits_numerator,
      not exists (
        select from jsonb_each(definition.denominator) as wanted where not coalesce(wanted.value ? (kinds.labels ->> wanted.key), false)
      ) as fits_denominator
    from kinds
    join ops.kpi_definitions as definition
      on definition.event_type is null
      or definition.event_type = kinds.event_type
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
comment on function ops.kpi_groups(ops.rollup_delta[]) is
  'One row a label combination (stored or new) that counts towards a KPI, with the breakdown it counts in and the periods for which that is kept.';

create function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
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
    select distinct_span.*, row_number() over () as span_id
    from (select distinct delta.org_id, delta.period, delta.period_start from unnest(changed_ratios.deltas) as delta) as distinct_span
    left join ops.removed_periods as removed
      on removed.period = distinct_span.period
    -- The hours of audits stay where the others are gone, and would stand for all.
    where coalesce(distinct_span.period_start >= removed.removed_until, true)
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(changed_ratios.deltas) as kpi_group
  ),
  added as materialized (
    select
      span.span_id,
      span.org_id,
      kpi_group.group_id,
      kpi_group.in_numerator,
      delta.event_count,
      delta.value_count,
      delta.value_sum
    from unnest(changed_ratios.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
  ),
  touched as materialized (
    select distinct added.span_id, added.org_id, added.group_id from added
  ),
  member as materialized (
    select series.org_id, series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join ops.series
      on series.event_type = kpi_group.event_type
      and series.labels = kpi_group.series_labels
  ),
  -- The barriers here and below keep the order of the joins, and store nothing.
  wanted as (
    select touched.span_id, touched.group_id, member.series_id, member.in_numerator
    from touched
    join member
      on member.org_id = touched.org_id
      and member.group_id = touched.group_id
    offset 0
  ),
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  found as (
    select span.span_id, rollup.*
    from span
    cross join lateral (
      select stored.series_id, stored.event_count, stored.value_count, stored.value_sum
      from ops.rollups as stored
      where stored.org_id = span.org_id
        and stored.period = span.period
        and stored.period_start = span.period_start
      offset 0
    ) as rollup
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
      select wanted.span_id, wanted.group_id, wanted.in_numerator, found.event_count, found.value_count, found.value_sum
      from wanted
      join found
        on found.span_id = wanted.span_id
        and found.series_id = wanted.series_id
    ) as part
    group by 1, 2
  )
  select
    span.org_id,
    kpi.metric_name,
    kpi.group_labels,
    span.period,
    span.period_start,
    definition.unit,
    case definition.measure
      when 'ratio' then 100 * summed.numerator_events / nullif(summed.events, 0)
      when 'average' then summed.value_sum / nullif(summed.value_count, 0)
      else nullif(summed.events, 0)
    end,
    case definition.measure
      when 'ratio' then summed.numerator_events
      when 'average' then summed.value_sum
    end,
    case definition.measure
      when 'ratio' then summed.events
      when 'average' then summed.value_count
    end,
    case definition.measure when 'average' then summed.value_count else summed.events end::bigint
  from summed
  join span
    on span.span_id = summed.span_id
  join (select distinct kpi_group.group_id, kpi_group.metric_name, kpi_group.group_labels from kpi_group) as kpi
    on kpi.group_id = summed.group_id
  join ops.kpi_definitions as definition
    on definition.metric_name = kpi.metric_name;
end;
comment on function ops.changed_ratios(ops.rollup_delta[]) is
  'The ratios, averages and counts that a delta changes, computed from the rollups and that delta; one row a KPI, period and breakdown.';

create function ops.changed_percentiles(merged ops.histograms[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  select
    changed.org_id,
    definition.metric_name,
    changed.labels,
    changed.period,
    changed.period_start,
    definition.unit,
    ops.histogram_quantile(changed.counts, definition.percentile, counted.total),
    null::numeric,
    null::numeric,
    counted.total
  from unnest(changed_percentiles.merged) as changed
  cross join lateral (
    select sum(bin.value_count)::bigint as total
    from unnest(changed.counts) as bin (value_count)
    offset 0
  ) as counted
  join ops.kpi_definitions as definition
    on definition.event_type = changed.event_type
    and definition.measure = 'percentile'
  where changed.labels = '{}'
    or (
      definition.breakdowns && array(select jsonb_object_keys(changed.labels))
      and changed.period = any (definition.breakdown_periods)
    );
end;
comment on function ops.changed_percentiles(ops.histograms[]) is
  'The percentiles of histograms as they are after a delta; one row a KPI, period and breakdown.';

create function ops.write_kpis(kpis ops.kpi_value[], as_of timestamptz)
returns table (period text, rows_written bigint)
language sql
volatile
set search_path = ''
begin atomic
  -- A KPI without a denominator has no row: the last audit of an hour may have moved to another.
  delete from public.kpi_aggregations as stored
  using unnest(write_kpis.kpis) as kpi
  where kpi.metric_value is null
    and stored.org_id = kpi.org_id
    and stored.metric_name = kpi.metric_name
    and stored.aggregation_period = kpi.period
    and stored.period_start = kpi.period_start
    and stored.labels = kpi.labels;

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
comment on function ops.write_kpis(ops.kpi_value[], timestamptz) is
  'Writes KPI rows over what is stored and returns how many rows of each period were written; a null value removes its row.';

create function ops.close_periods(as_of timestamptz)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with closed as (
    update public.kpi_aggregations
    set metadata = kpi_aggregations.metadata || '{"complete": true}'
    where not kpi_aggregations.complete
      and kpi_aggregations.period_end <= close_periods.as_of
      and jsonb_typeof(kpi_aggregations.metadata) = 'object'
    returning 1
  )
  select count(*) from closed;
end;
comment on function ops.close_periods(timestamptz) is 'Marks the KPI rows whose period was over at as_of as complete; returns how many.';

revoke execute on function
  ops.kpi_groups(ops.rollup_delta[]),
  ops.changed_ratios(ops.rollup_delta[]),
  ops.changed_percentiles(ops.histograms[]),
  ops.write_kpis(ops.kpi_value[], timestamptz),
  ops.close_periods(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on public.kpi_aggregations from anon, authenticated, service_role;
  revoke all on sequence public.kpi_aggregations_id_seq from anon, authenticated, service_role;
  grant select on public.kpi_aggregations to authenticated, service_role;
  create policy kpi_aggregations_select_own_org on public.kpi_aggregations for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.kpi_groups(ops.rollup_delta[]),
    ops.changed_ratios(ops.rollup_delta[]),
    ops.changed_percentiles(ops.histograms[]),
    ops.write_kpis(ops.kpi_value[], timestamptz),
    ops.close_periods(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.kpi_groups(ops.rollup_delta[]),
    ops.changed_ratios(ops.rollup_delta[]),
    ops.changed_percentiles(ops.histograms[])
  to authenticated, service_role;
end;
$$;
