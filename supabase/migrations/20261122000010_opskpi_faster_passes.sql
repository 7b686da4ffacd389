-- The same results with less work: refresh reads each rollup once for all KPIs and merges each histogram once,
-- ingest_events stores a batch that is new and valid without keeping a copy of it.

-- Half a page is left free: with a fifth most rewritten rows went to another page and into every index.
alter table public.kpi_aggregations set (fillfactor = 50);
alter table ops.histograms set (fillfactor = 50);

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
  end as bin
from public.telemetry_events as event
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
  -- Materialized, so that the calendar is asked once an hour and not once a row.
  spans as materialized (
    select
      distinct_hour.hour_start,
      period.name as period,
      ops.period_start(period.name, distinct_hour.hour_start, ops.time_zone()) as period_start
    from (select distinct grouped.hour_start from grouped) as distinct_hour
    cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
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

create function ops.merged_histograms(deltas ops.histogram_delta[])
returns setof ops.histograms
language sql
stable
set search_path = ''
begin atomic
  select
    delta.org_id,
    delta.period,
    delta.period_start,
    delta.event_type,
    delta.labels,
    ops.merge_histogram(stored.counts, delta.bins, delta.counts)
  from unnest(merged_histograms.deltas) as delta
  left join lateral (
    select histogram.counts
    from ops.histograms as histogram
    where histogram.org_id = delta.org_id
      and histogram.period = delta.period
      and histogram.period_start = delta.period_start
      and histogram.event_type = delta.event_type
      and histogram.labels = delta.labels
    limit 1
  ) as stored on true;
end;
comment on function ops.merged_histograms(ops.histogram_delta[]) is 'The stored histograms that a delta changes, with the delta added; nothing is written.';

create function ops.write_histograms(merged ops.histograms[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.histograms as histogram (org_id, period, period_start, event_type, labels, counts)
  select changed.org_id, changed.period, changed.period_start, changed.event_type, changed.labels, changed.counts
  from unnest(write_histograms.merged) as changed
  on conflict on constraint histograms_pkey do update set counts = excluded.counts;
end;
comment on function ops.write_histograms(ops.histograms[]) is 'Writes histograms over what is stored; only refresh and rebuild call it.';

create or replace function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
-- Nothing tells the planner how many rows an array or a CTE has; taking them for one row, it loops over all pairs.
set enable_nestloop = off
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
    select distinct added.span_id, added.group_id from added
  ),
  member as materialized (
    select series.org_id, series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join ops.series
      on series.event_type = kpi_group.event_type
      and series.labels = kpi_group.series_labels
  ),
  wanted as materialized (
    select touched.span_id, touched.group_id, member.series_id, member.in_numerator
    from touched
    join span
      on span.span_id = touched.span_id
    join member
      on member.org_id = span.org_id
      and member.group_id = touched.group_id
  ),
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  found as materialized (
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
      select * from added
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
    ops.histogram_quantile(changed.counts, definition.percentile),
    null::numeric,
    null::numeric,
    (select sum(bin.value_count) from unnest(changed.counts) as bin (value_count))::bigint
  from unnest(changed_percentiles.merged) as changed
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

create or replace function ops.write_kpis(kpis ops.kpi_value[], as_of timestamptz)
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

create or replace function ops.apply_events(events ops.event_delta[], as_of timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups ops.rollup_delta[] := array(select delta from ops.rollup_deltas(events) as delta);
  histograms ops.histograms[] := array(
    select merged from ops.merged_histograms(array(select delta from ops.histogram_deltas(events) as delta)) as merged
  );
  kpi_rows jsonb;
begin
  -- KPIs are stored state plus delta, so they are computed before the delta is added: the views do the same without adding it.
  select coalesce(jsonb_object_agg(written.period, written.rows_written), '{}')
  into kpi_rows
  from ops.write_kpis(
    array(
      select kpi from ops.changed_ratios(rollups) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    as_of
  ) as written;
  perform ops.add_rollups(rollups);
  perform ops.write_histograms(histograms);
  return kpi_rows;
end;
$$;

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
    select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
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
  last_id bigint;
  chunk_start timestamptz;
  chunk_end timestamptz;
  next_hour timestamptz;
  scan_end timestamptz;
  periods text[];
  span_starts timestamptz[];
  span_ends timestamptz[];
  events ops.event_delta[];
  counted bigint := 0;
begin
  if since is null or until is null or since >= until or since < timestamptz '1970-01-01 00:00+00' or until > timestamptz '2200-01-01 00:00+00' then
    raise exception 'the range to rebuild is empty or out of bounds: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until, between 1970 and 2200; the range is half-open.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  -- Audits change, so they must stand still between their last refresh and their recount.
  lock table public.slsa_audit_metrics in share mode;
  perform ops.refresh(interval '0', as_of => as_of);
  last_id := ops.cursor_id();

  perform ops.forget_span(since, until);
  select array_agg(span.period), array_agg(span.span_start), array_agg(span.span_end), min(span.span_start), max(span.span_end)
  into periods, span_starts, span_ends, chunk_start, scan_end
  from ops.rebuild_spans(since, until) as span;
  loop
    -- From event to event, so that years without one cost nothing.
    select ops.period_start('hour', min(upcoming.first_at), ops.time_zone())
    into next_hour
    from (
      select min(event.event_timestamp) as first_at
      from public.telemetry_events as event
      where event.event_timestamp >= chunk_start
        and event.event_timestamp < scan_end
      union all
      select min(audit.audit_timestamp)
      from ops.labelled_audits as audit
      where audit.audit_timestamp >= chunk_start
        and audit.audit_timestamp < scan_end
    ) as upcoming;
    exit when next_hour is null;
    chunk_start := greatest(chunk_start, next_hour);
    -- A month at a time, or a day where a month is more than the server should hold in memory.
    chunk_end := chunk_start + case
      when (
        select count(*) from (
          select
          from public.telemetry_events as event
          where event.event_timestamp >= chunk_start
            and event.event_timestamp < chunk_start + interval '720 hours'
          limit 200001
        ) as counted_event
      ) > 200000 then interval '24 hours'
      else interval '720 hours'
    end;
    events := array(
      select event from ops.count_events(0, last_id, chunk_start, chunk_end) as event
      union all
      select event from ops.count_audits_between(chunk_start, chunk_end) as event
    );
    counted := counted + coalesce((select sum(event.event_count) from unnest(events) as event), 0);
    perform ops.add_rollups(array(
      select delta
      from ops.rollup_deltas(events) as delta
      where delta.period_start >= span_starts[array_position(periods, delta.period)]
        and delta.period_start < span_ends[array_position(periods, delta.period)]
    ));
    perform ops.write_histograms(array(
      select merged
      from ops.merged_histograms(array(
        select delta
        from ops.histogram_deltas(events) as delta
        where delta.period_start >= span_starts[array_position(periods, delta.period)]
          and delta.period_start < span_ends[array_position(periods, delta.period)]
      )) as merged
    ));
    perform ops.add_patterns(array(
      select delta
      from ops.count_patterns(0, last_id, chunk_start, chunk_end) as delta
      where delta.period_start >= span_starts[array_position(periods, delta.period)]
        and delta.period_start < span_ends[array_position(periods, delta.period)]
    ));
    chunk_start := chunk_end;
  end loop;
  perform ops.rebuild_kpis(since, until, as_of);
  perform ops.rebuild_slis(since, until, last_id, recount_units);
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, message)
  values ('rebuild', started_at, clock_timestamp(), 'success', counted, format('%s to %s', since, until));
  return counted;
end;
$$;

create or replace function ops.rebuild_kpis(since timestamptz, until timestamptz, as_of timestamptz)
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

drop function ops.changed_percentiles(ops.histogram_delta[]);
drop function ops.add_histograms(ops.histogram_delta[]);

create function ops.leave_to_check()
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  raise exception 'an event is not plainly valid' using errcode = 'data_exception';
end;
$$;
comment on function ops.leave_to_check() is 'Ends the quick way of ingest_events, which catches it, where an event is not plainly valid.';

drop function ops.cast_events(jsonb);

create function ops.cast_events(documents jsonb)
returns table (
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid
)
language sql
stable
set search_path = ''
begin atomic
  select
    case
      when kind.shape is not null
        and jsonb_path_match(event.body, kind.shape, '{}', true)
        and coalesce(jsonb_typeof(event.payload) = 'object', true)
        and pg_column_size(event.element) <= 65536
        and not jsonb_path_exists(event.element, 'strict $.**{33}')
        and event.envelope - array['event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'run_id', 'tag'] = '{}'
        and (event.event_id is null or (event.event_id like '________-____-____-____-____________' and event.instant is not null))
        and (event.org_id is null or event.org_id like '________-____-____-____-____________')
        and (event.agent_id is null or event.agent_id like '________-____-____-____-____________')
        and (
          event.instant is null
          or (
            event.instant like '____-__-__T__:__%'
            and (event.instant like '%Z' or event.instant like '%+__:__' or event.instant like '%:__-__:__')
            and casted.event_timestamp between timestamptz '2000-01-01 00:00+00' and now() + interval '1 day'
          )
        )
        and (caller.is_bound is false or coalesce(casted.org_id, caller.org_id) = caller.org_id)
        and coalesce(casted.run_id between 0 and 999999999999999999, true)
        and coalesce(char_length(event.tag) <= 1000, true)
        then event.event_type
      else ops.leave_to_check()
    end,
    coalesce(casted.event_timestamp, now()),
    casted.run_id,
    event.tag,
    event.body - array['timestamp', 'event_id', 'run_id', 'tag'],
    coalesce(event.event_id::uuid, gen_random_uuid()),
    coalesce(casted.org_id, caller.org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    event.agent_id::uuid
  from ops.read_events(cast_events.documents) as event
  cross join lateral (
    select event.instant::timestamptz as event_timestamp, event.org_id::uuid as org_id, event.run_id::bigint as run_id
    -- A barrier: a cast takes longer than the checks on its result.
    offset 0
  ) as casted
  cross join ops.ingesting_caller() as caller
  left join ops.event_types as kind
    on kind.event_type = event.event_type;
end;
comment on function ops.cast_events(jsonb) is
  'The elements as they would be stored if each is plainly valid; else, and for a malformed number, time or UUID, an error of class 22. Whatever it does not know is left to check_events, which knows all the forms and says what is wrong.';

create or replace function public.ingest_events(events json)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  skips_known boolean;
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  answer jsonb;
begin
  if events is null or json_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "payload": {…}}, …].';
  end if;
  -- Nearly every batch is new and valid as a whole. Looking for repeated events costs a tenth more, finding out what is wrong ten times as much.
  foreach skips_known in array array[false, true] loop
    begin
      document := events::jsonb;
      if skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document)
        on conflict on constraint telemetry_events_pkey do nothing;
      else
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document);
      end if;
      get diagnostics accepted = row_count;
      return jsonb_build_object('accepted', accepted, 'duplicate', jsonb_array_length(document) - accepted, 'refused', '[]'::jsonb);
    exception
      when unique_violation then
        continue;
      when data_exception or program_limit_exceeded then
        exit;
    end;
  end loop;
  if document is null then
    select readable.document, readable.reasons into document, unreadable from ops.readable_events(events) as readable;
  end if;
  with checked as materialized (
    select * from ops.check_events(document)
  ),
  stored as (
    insert into public.telemetry_events (
      event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id
    )
    select
      checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id, checked.agent_id
    from checked
    where checked.refusal is null
    on conflict on constraint telemetry_events_pkey do nothing
    returning 1
  ),
  counted as (
    select
      (select count(*) from stored) as accepted,
      count(*) filter (where checked.refusal is null) as valid,
      jsonb_agg(
        jsonb_build_object('index', checked.place, 'field', checked.refusal[1], 'reason', checked.refusal[2])
        order by checked.place
      ) filter (where checked.refusal is not null and not unreadable @> jsonb_build_array(jsonb_build_object('index', checked.place))) as refused
    from checked
  )
  select jsonb_build_object(
    'accepted', counted.accepted,
    'duplicate', counted.valid - counted.accepted,
    'refused', unreadable || coalesce(counted.refused, '[]')
  )
  into answer
  from counted;
  return answer;
end;
$$;

revoke execute on function
  ops.leave_to_check(),
  ops.cast_events(jsonb),
  ops.merged_histograms(ops.histogram_delta[]),
  ops.write_histograms(ops.histograms[]),
  ops.changed_percentiles(ops.histograms[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.leave_to_check(),
    ops.cast_events(jsonb),
    ops.merged_histograms(ops.histogram_delta[]),
    ops.write_histograms(ops.histograms[]),
    ops.changed_percentiles(ops.histograms[])
  from anon, authenticated, service_role;
  grant execute on function
    ops.leave_to_check(),
    ops.cast_events(jsonb),
    ops.merged_histograms(ops.histogram_delta[]),
    ops.changed_percentiles(ops.histograms[])
  to authenticated, service_role;
end;
$$;
