-- Less work for the same figures: a unit of work is looked up once and written only when it changes, series of another org are not
-- joined to a KPI, values of a histogram are summed once, and alerts over many orgs are joined by hashing.

create type ops.unit_change as (
  org_id uuid,
  event_type text,
  unit text,
  old_first_attempt_at timestamptz,
  old_succeeded boolean,
  first_attempt_at timestamptz,
  succeeded boolean
);
comment on type ops.unit_change is 'A unit of work as it is stored (null: it is not) and as it is with new attempts.';

create function ops.changed_units(units ops.unit_delta[])
returns setof ops.unit_change
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.event_type,
    unit.unit,
    stored.first_attempt_at,
    stored.succeeded,
    least(stored.first_attempt_at, unit.first_attempt_at),
    coalesce(stored.succeeded, false) or unit.succeeded
  from unnest(changed_units.units) as unit
  -- One look-up a unit: a join may read all units that ever were, and the cost must follow the new ones.
  left join lateral (
    select work_unit.first_attempt_at, work_unit.succeeded
    from ops.work_units as work_unit
    where work_unit.org_id = unit.org_id
      and work_unit.event_type = unit.event_type
      and work_unit.unit = unit.unit
    limit 1
  ) as stored on true
  -- Most attempts at a unit that is known change nothing: a later check of a good release, a retry that failed again.
  where stored.first_attempt_at is null
    or unit.first_attempt_at < stored.first_attempt_at
    or (unit.succeeded and not stored.succeeded);
end;
comment on function ops.changed_units(ops.unit_delta[]) is 'The units of work that new attempts add or change, before and after; nothing is written.';

create function ops.unit_slis(changes ops.unit_change[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with moved as (
    select change.org_id, change.event_type, change.first_attempt_at, change.succeeded::integer as good, 1 as total
    from unnest(unit_slis.changes) as change
    union all
    select change.org_id, change.event_type, change.old_first_attempt_at, -change.old_succeeded::integer, -1
    from unnest(unit_slis.changes) as change
    where change.old_first_attempt_at is not null
  )
  select
    moved.org_id,
    sli.sli_id,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint
  from moved
  join ops.slis as sli
    on sli.event_type = moved.event_type
    and sli.objective = 'availability'
  group by 1, 2, 3
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;
comment on function ops.unit_slis(ops.unit_change[]) is
  'What changed units of work change in the counts of the availability SLIs, five minutes by five minutes.';


create function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.work_units (org_id, event_type, unit, first_attempt_at, succeeded)
  select change.org_id, change.event_type, change.unit, change.first_attempt_at, change.succeeded
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is null;

  update ops.work_units as stored
  set first_attempt_at = change.first_attempt_at,
      succeeded = change.succeeded
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is not null
    and stored.org_id = change.org_id
    and stored.event_type = change.event_type
    and stored.unit = change.unit;
end;
comment on function ops.write_units(ops.unit_change[]) is
  'Writes changed units of work; only refresh, rebuild and fill_slis call it, under the lock under which the changes were found.';


create or replace function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted
    )) as changed
  )) as delta;
end;

create or replace function ops.apply_attempts(after_id bigint, until_id bigint)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes ops.unit_change[] := array(
    select changed
    from ops.changed_units(array(select attempted from ops.count_units(after_id, until_id) as attempted)) as changed
  );
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(after_id, until_id, '-infinity', 'infinity') as delta
    union all
    select delta from ops.unit_slis(changes) as delta
  ));
  perform ops.write_units(changes);
end;
$$;

create or replace function ops.rebuild_slis(since timestamptz, until timestamptz, last_id bigint, recount_units boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  bucket_since timestamptz := date_bin('5 minutes', since, timestamptz '1969-12-29 00:00+00');
  bucket_until timestamptz := date_bin('5 minutes', until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  delete from ops.sli_counts as stored
  using ops.slis as sli
  where sli.sli_id = stored.sli_id
    and sli.objective <> 'availability'
    and stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until;
  perform ops.add_slis(array(select delta from ops.count_attempts(0, last_id, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole.
    delete from ops.work_units where true;
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(0, last_id) as attempted)) as changed
    ));
    perform ops.recount_units();
  end if;
end;
$$;

create or replace function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  last_id bigint;
  stretch record;
  changes ops.unit_change[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  last_id := ops.cursor_id();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.add_slis(array(
      select delta from ops.count_attempts(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as delta
    ));
    changes := array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as attempted
      )) as changed
    );
    perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
    perform ops.write_units(changes);
    update ops.slis
    set filled_until = fill_slis.until
    where slis.sli_id = any (stretch.sli_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;

drop function ops.unit_slis(ops.unit_delta[]);
drop function ops.add_units(ops.unit_delta[]);

create or replace function ops.objective_conditions(as_of timestamptz, slo_names text[] default null)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with evaluated as materialized (
    select status.* from ops.evaluate_slos(as_of, false, slo_names) as status
  ),
  ruled as materialized (
    select
      rule.rule_name,
      rule.kind,
      rule.long_window,
      rule.short_window,
      rule.silent_for,
      evaluated.*,
      coalesce(rule.factor, ops.alert_factor(rule.budget_share, evaluated.window_length, rule.long_window)) as burn_factor,
      date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00') as long_since,
      date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00') as short_since
    from ops.alert_rules as rule
    join evaluated
      on rule.slo_name = evaluated.slo_name
      or (
        rule.slo_name is null
        and rule.event_type is null
        and not exists (
          select
          from ops.alert_rules as own
          where own.slo_name = evaluated.slo_name
            and own.kind = rule.kind
            and own.is_enabled
        )
      )
    where rule.is_enabled
      and rule.kind in ('burn_rate', 'budget_exhausted', 'silent_input')
  ),
  -- By itself, so that the planner takes it for many rows and hashes it; joined to the versions it was taken for five, and looped over.
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.version, summed.since, summed.good, summed.total
    from ops.sum_slos(array(
      select distinct
        row(
          ruled.org_id, ruled.slo_name, ruled.version, windows.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
        )::ops.slo_span
      from ruled
      cross join lateral (values (ruled.long_since), (ruled.short_since)) as windows (since)
      where windows.since is not null
    )) as summed
  )
  select
    ruled.org_id,
    ruled.rule_name,
    ruled.slo_name,
    ruled.service,
    ruled.version,
    case
      -- Half a history is too much failure or too long a silence.
      when sli.filled_until < 'infinity' then null
      when ruled.kind = 'silent_input' then
        case
          when ruled.status = 'stale' then null
          -- An empty window is not silence yet: a new day has no events at first.
          else coalesce(
            ruled.last_counted_at < as_of - coalesce(
              ops.in_hours(ruled.silent_for),
              2 * ops.in_hours(coalesce(expecting.expected_interval, ops.setting('expected_interval')::interval))
            ),
            false
          )
        end
      when ruled.status in ('no_data', 'stale', 'insufficient') then null
      -- Overspent for certain, but by too few events to say how fast.
      when ruled.kind = 'burn_rate' and ruled.events_needed > 0 then null
      when ruled.kind = 'burn_rate' then ops.is_burning(burning.long_rate, burning.short_rate, ruled.burn_factor)
      else ops.is_overspent(ruled.good, ruled.total, ruled.target)
    end,
    jsonb_strip_nulls(jsonb_build_object(
      'status', ruled.status,
      'sli', ops.readable(ruled.sli),
      'target', ops.readable(ruled.target),
      'good', ruled.good,
      'total', ruled.total,
      'budget_left', ops.readable(ruled.budget_left),
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(burning.long_rate),
      'burn_rate_short', ops.readable(burning.short_rate),
      'factor', case ruled.kind when 'burn_rate' then ops.readable(ruled.burn_factor) end,
      'last_seen_at', ruled.last_counted_at,
      'explain_since', case ruled.kind when 'burn_rate' then ruled.long_since else ruled.window_start end
    ))
  from ruled
  join ops.slo_versions as expecting
    on expecting.slo_name = ruled.slo_name
    and expecting.version = ruled.version
  join ops.slis as sli
    on sli.sli_id = expecting.sli_id
  left join sums as long_sum
    on long_sum.org_id = ruled.org_id
    and long_sum.slo_name = ruled.slo_name
    and long_sum.version = ruled.version
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.version = ruled.version
    and short_sum.since = ruled.short_since
  cross join lateral (
    select
      ops.burn_rate(long_sum.good, long_sum.total, ruled.target) as long_rate,
      ops.burn_rate(short_sum.good, short_sum.total, ruled.target) as short_rate
    -- A barrier: each rate is compared and shown.
    offset 0
  ) as burning
  where ruled.kind <> 'burn_rate'
    -- A rule for every objective leaves out those whose budget is too large for it.
    or ruled.burn_factor < ops.highest_burn_rate(ruled.target);
end;
$$;

create function ops.histogram_quantile(counts bigint[], quantile numeric, total bigint)
returns numeric
language plpgsql
immutable
set search_path = ''
as $$
declare
  above bigint := 0;
  rank bigint := ceil(quantile * total);
begin
  if coalesce(total, 0) = 0 or coalesce(cardinality(counts), 0) = 0 then
    return null;
  end if;
  -- From the top, because the percentiles that people ask for are near it: 2.5 µs, 70 µs with window functions.
  for bin in reverse array_upper(counts, 1) .. array_lower(counts, 1) loop
    above := above + coalesce(counts[bin], 0);
    if total - above < rank then
      return case
        when bin = 0 then 0
        else round((0.002 * 1.0198::double precision ^ bin / 2.0198)::numeric, 6)
      end;
    end if;
  end loop;
  return null;
end;
$$;
comment on function ops.histogram_quantile(bigint[], numeric, bigint) is
  'The value that percentile_disc(quantile) would give over the total of the histogram, within 1 %; 0 for values up to 0.001; null for an empty one.';

create or replace function ops.changed_percentiles(merged ops.histograms[])
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

create or replace function ops.changed_ratios(deltas ops.rollup_delta[])
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

drop function ops.histogram_quantile(bigint[], numeric);

revoke execute on function
  ops.changed_units(ops.unit_delta[]),
  ops.unit_slis(ops.unit_change[]),
  ops.write_units(ops.unit_change[]),
  ops.histogram_quantile(bigint[], numeric, bigint)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.changed_units(ops.unit_delta[]),
    ops.unit_slis(ops.unit_change[]),
    ops.write_units(ops.unit_change[]),
    ops.histogram_quantile(bigint[], numeric, bigint)
  from anon, authenticated, service_role;
  grant execute on function
    ops.changed_units(ops.unit_delta[]),
    ops.unit_slis(ops.unit_change[]),
    ops.histogram_quantile(bigint[], numeric, bigint)
  to authenticated, service_role;
end;
$$;
