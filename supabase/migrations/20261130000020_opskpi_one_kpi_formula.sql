-- One formula for every KPI: changed_ratios, kpi_parts and kpi_window follow kpi_groups, kpi_figures and measured_value.
-- The pass and the rebuild are cut into named steps; locks, snapshots and writes keep their order.

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

create type ops.kpi_span as (span_id bigint, org_id uuid, period text, period_start timestamptz);
comment on type ops.kpi_span is 'A period of an org, with a number to join by: hashing text and instants as they are took most of the time.';

create function ops.changed_spans(deltas ops.rollup_delta[])
returns setof ops.kpi_span
language sql
stable
set search_path = ''
begin atomic
  select row_number() over (), span.org_id, span.period, span.period_start
  from (select distinct delta.org_id, delta.period, delta.period_start from unnest(changed_spans.deltas) as delta) as span
  left join ops.removed_periods as removed
    on removed.period = span.period
  -- The hours of audits stay where the others are gone, and would stand for all.
  where coalesce(span.period_start >= removed.removed_until, true);
end;
comment on function ops.changed_spans(ops.rollup_delta[]) is
  'One row per org and period that a delta changes, numbered, without the periods that retention removed.';

create function ops.span_rollups(spans ops.kpi_span[])
returns table (span_id bigint, series_id bigint, event_count bigint, value_count bigint, value_sum numeric)
language sql
stable
set search_path = ''
begin atomic
  select span.span_id, rollup.*
  from unnest(span_rollups.spans) as span
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  cross join lateral (
    select stored.series_id, stored.event_count, stored.value_count, stored.value_sum
    from ops.rollups as stored
    where stored.org_id = span.org_id
      and stored.period = span.period
      and stored.period_start = span.period_start
    offset 0
  ) as rollup;
end;
comment on function ops.span_rollups(ops.kpi_span[]) is 'The stored rollups of numbered periods; one row per period and series.';

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
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(changed_sums.deltas) as kpi_group
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
    select series.org_id, series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join ops.series
      on series.event_type = kpi_group.event_type
      and series.labels = kpi_group.series_labels
  ),
  -- The barrier keeps the order of the joins, and stores nothing.
  wanted as (
    select touched.span_id, touched.group_id, member.series_id, member.in_numerator
    from (select distinct added.span_id, added.org_id, added.group_id from added) as touched
    join member
      on member.org_id = touched.org_id
      and member.group_id = touched.group_id
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
      join ops.span_rollups(array(select row(span.*)::ops.kpi_span from span)) as found
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

create or replace function ops.changed_ratios(deltas ops.rollup_delta[])
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

create function ops.require_refreshable(max_ids bigint)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'refresh needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  if max_ids is null or max_ids < 1 then
    raise exception 'a refresh of % ids would never end', max_ids
      using errcode = 'OP001', hint = 'Pass max_ids of 1 or more.';
  end if;
end;
$$;
comment on function ops.require_refreshable(bigint) is
  'Refuses a refresh of no ids, and one in a transaction whose statements do not see what others commit meanwhile.';

create function ops.pass_end(after_id bigint, safe_id bigint, max_ids bigint)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  if safe_id - after_id <= max_ids then
    return safe_id;
  end if;
  -- By events and not by ids, since a restored sequence may have a gap of millions.
  return coalesce(
    (
      select event.id
      from public.telemetry_events as event
      where event.id > after_id
        and event.id <= safe_id
      order by event.id
      offset max_ids - 1
      limit 1
    ),
    safe_id
  );
end;
$$;
comment on function ops.pass_end(bigint, bigint, bigint) is
  'The id up to which one pass counts: the safe one, or the id of the last of max_ids events after the cursor.';

create function ops.report_refresh(events ops.event_delta[], kpi_rows jsonb, cursor_id bigint, safe_id bigint)
returns ops.refresh_report
language plpgsql
stable
set search_path = ''
as $$
declare
  report ops.refresh_report;
begin
  report.events := coalesce((select sum(event.event_count) from unnest(events) as event where event.event_type <> 'slsa_audit_metrics'), 0);
  report.cursor_id := cursor_id;
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - cursor_id;
  report.hour_rows := coalesce((kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when cursor_id < safe_id then 'more'
    when exists (select from ops.cursors where cursors.name = 'telemetry_events' and cursors.fence_id is not null) then 'waiting'
    else 'done'
  end;
  if report.state = 'waiting' then
    report.message := 'a transaction that writes events stayed open; what it and later ones wrote is counted by a later run';
  end if;
  return report;
end;
$$;
comment on function ops.report_refresh(ops.event_delta[], jsonb, bigint, bigint) is
  'The report of a pass that counted up to cursor_id: events, KPI rows by period, and whether safe ids are left to count.';

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
  until_id bigint;
  events ops.event_delta[] := '{}'::ops.event_delta[];
  audits ops.event_delta[];
  kpi_rows jsonb := '{}'::jsonb;
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
  until_id := ops.pass_end(after_id, safe_id, max_ids);

  if until_id > after_id then
    events := array(select event from ops.count_events(after_id, until_id, '-infinity', 'infinity') as event);
  end if;
  audits := array(select audit from ops.take_audit_changes() as audit);
  if cardinality(audits) > 0 then
    events := events || audits;
  end if;
  if cardinality(events) > 0 then
    kpi_rows := ops.apply_events(events, as_of);
  end if;
  if until_id > after_id then
    perform ops.move_cursor(after_id, until_id);
  end if;
  perform ops.close_periods(as_of);

  report := ops.report_refresh(events, kpi_rows, greatest(after_id, until_id), safe_id);
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
comment on function ops.refresh(interval, bigint, timestamptz) is
  'Counts every event committed since the last call exactly once, max_ids of them at most, rewrites the KPIs they touch and moves the cursor, all in one transaction. Never blocks a writer.';

create function ops.take_audit_changes()
returns setof ops.event_delta
language plpgsql
volatile
set search_path = ''
as $$
declare
  taken constant bigint[] := array(select change.audit_change_id from ops.audit_changes as change);
begin
  if cardinality(taken) > 0 then
    -- Counted after the changes were listed: a change that commits in between is counted now and adds nothing next time.
    return query select change.* from ops.count_audit_changes() as change;
    delete from ops.audit_changes as change where change.audit_change_id = any (taken);
  end if;
end;
$$;
comment on function ops.take_audit_changes() is
  'Empties the list of audits that changed since the last refresh and returns what they add to their series; only refresh calls it.';

create function ops.move_cursor(after_id bigint, until_id bigint)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.add_patterns(array(select delta from ops.count_patterns(after_id, until_id, '-infinity', 'infinity') as delta));
  perform ops.apply_attempts(after_id, until_id);
  perform ops.note_agents(after_id, until_id);
  update ops.cursors set last_id = until_id, moved_at = clock_timestamp() where cursors.name = 'telemetry_events';
end;
$$;
comment on function ops.move_cursor(bigint, bigint) is
  'Counts the blocked patterns, attempts and agents of new events and moves the cursor past the events; only refresh calls it.';

create function ops.require_rebuild_range(since timestamptz, until timestamptz)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if since is null or until is null or since >= until or since < timestamptz '1970-01-01 00:00+00' or until > timestamptz '2200-01-01 00:00+00' then
    raise exception 'the range to rebuild is empty or out of bounds: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until, between 1970 and 2200; the range is half-open.';
  end if;
end;
$$;
comment on function ops.require_rebuild_range(timestamptz, timestamptz) is 'Refuses a rebuild of an empty or unbounded range.';

create function ops.require_stored_events(since timestamptz)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if since < ops.rebuildable_from() then
    raise exception 'events from before % have been removed, so what was counted of them cannot be counted again',
      (select max(removed.removed_until) from ops.removed_events as removed)
      using errcode = 'OP001',
        hint = format(
          'The first instant whose hour, day, week and month have all their events is %s.',
          to_char(ops.rebuildable_from() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        );
  end if;
end;
$$;
comment on function ops.require_stored_events(timestamptz) is
  'Refuses a rebuild that starts in an hour, day, week or month of which retention removed events.';

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
  last_id := ops.cursor_id();

  perform ops.forget_span(since, until);
  select min(span.span_start), max(span.span_end)
  into scanned_until, scan_end
  from ops.rebuild_spans(since, until) as span;
  loop
    select * into chunk from ops.next_chunk(scanned_until, scan_end);
    exit when not found;
    counted := counted + ops.recount_chunk(chunk.chunk_start, chunk.chunk_end, last_id, since, until);
    scanned_until := chunk.chunk_end;
  end loop;
  perform ops.rebuild_kpis(since, until, as_of);
  perform ops.rebuild_slis(since, until, last_id, recount_units);
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, message)
  values ('rebuild', started_at, clock_timestamp(), 'success', counted, format('%s to %s', since, until));
  return counted;
end;
$$;
comment on function ops.rebuild(timestamptz, timestamptz, timestamptz, boolean) is
  'Recomputes every hour, day, week and month that the half-open range touches from the events and audits; returns how many it read. The result equals what the increments give. recount_units false leaves availability to a later call.';

create function ops.next_chunk(since timestamptz, until timestamptz)
returns table (chunk_start timestamptz, chunk_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  next_hour timestamptz;
begin
  -- From event to event, so that years without one cost nothing.
  select ops.period_start('hour', min(upcoming.first_at), ops.time_zone())
  into next_hour
  from (
    select min(event.event_timestamp) as first_at
    from public.telemetry_events as event
    where event.event_timestamp >= since
      and event.event_timestamp < until
    union all
    select min(audit.audit_timestamp)
    from ops.labelled_audits as audit
    where audit.audit_timestamp >= since
      and audit.audit_timestamp < until
  ) as upcoming;
  if next_hour is null then
    return;
  end if;
  chunk_start := greatest(since, next_hour);
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
  return next;
end;
$$;
comment on function ops.next_chunk(timestamptz, timestamptz) is
  'The next part of a range that a rebuild counts at once, from the hour of its first event or audit; no row when there is none.';

create function ops.recount_chunk(
  chunk_start timestamptz,
  chunk_end timestamptz,
  last_id bigint,
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
    select event from ops.count_events(0, last_id, chunk_start, chunk_end) as event
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
    from ops.count_patterns(0, last_id, chunk_start, chunk_end) as delta
    join ops.rebuild_spans(since, until) as span
      on span.period = delta.period
      and delta.period_start >= span.span_start
      and delta.period_start < span.span_end
  ));
  return coalesce((select sum(event.event_count) from unnest(events) as event), 0);
end;
$$;
comment on function ops.recount_chunk(timestamptz, timestamptz, bigint, timestamptz, timestamptz) is
  'Adds the events and audits of a chunk, up to last_id, to the periods that the range from since to until touches; returns how many it read. Only rebuild calls it.';

create function ops.kept_kpis(period text, filters jsonb, only_event_type text)
returns text[]
language sql
stable
set search_path = ''
return array(
  select definition.metric_name
  from ops.kpi_definitions as definition
  where (kept_kpis.only_event_type is null or definition.event_type = kept_kpis.only_event_type)
    and (
      kept_kpis.filters = '{}'
      or (
        kept_kpis.period = any (definition.breakdown_periods)
        and definition.breakdowns @> array(select jsonb_object_keys(kept_kpis.filters))
        and (select count(*) from jsonb_object_keys(kept_kpis.filters)) = 1
      )
    )
);
comment on function ops.kept_kpis(text, jsonb, text) is
  'The KPIs that have rows of their own for events with the labels of filters: of the org as a whole, or of a breakdown that is kept for the period.';

create function ops.filtered_sums(
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
    -- With the fresh ones, since labels that are new belong to no series yet.
    from ops.kpi_groups(fresh) as kpi_group
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
comment on function ops.filtered_sums(text, timestamptz, timestamptz, jsonb, text, text[], uuid) is
  'The sums of the series of an org that have the labels of filters, for every KPI that kept does not name, events behind the cursor included; one row per KPI and period.';

create or replace function ops.kpi_parts(
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
  kept constant text[] := ops.kept_kpis(kpi_parts.period, kpi_parts.filters, kpi_parts.only_event_type);
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
  return query
  select kpi.metric_name, kpi.period_start, null::numeric, kpi.numerator, kpi.denominator, kpi.sample_count
  from ops.kpi_figures(array(
    select summed
    from ops.filtered_sums(
      kpi_parts.period, kpi_parts.since, kpi_parts.until, kpi_parts.filters, kpi_parts.only_event_type, kept, kpi_parts.org_id
    ) as summed
  )) as kpi;
end;
$$;
comment on function ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'One row a KPI and period of an org, of events that have the labels of filters: what its value is made of; value is given for kept rows only. Percentiles have rows for kept breakdowns only.';

create function ops.window_sums(
  period text,
  since timestamptz,
  until timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  filters jsonb,
  only_event_type text,
  org_id uuid
)
returns table (
  metric_name text,
  part text,
  period_start timestamptz,
  value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
)
language sql
stable
set search_path = ''
begin atomic
  with placed as (
    select parts.*, place.part
    from ops.kpi_parts(
      window_sums.period,
      window_sums.previous_start,
      window_sums.until,
      window_sums.filters,
      window_sums.only_event_type,
      window_sums.org_id
    ) as parts
    cross join lateral (
      values
        ('period', parts.period_start >= window_sums.since),
        ('whole', parts.period_start >= window_sums.since),
        ('settled', parts.period_start >= window_sums.since and parts.period_start < window_sums.settled_end),
        ('previous', parts.period_start < window_sums.since)
    ) as place (part, is_in)
    where place.is_in
  )
  select
    placed.metric_name,
    placed.part,
    case placed.part when 'period' then placed.period_start end,
    max(placed.value),
    sum(placed.numerator),
    sum(placed.denominator),
    sum(placed.sample_count)::bigint
  from placed
  group by 1, 2, 3;
end;
comment on function ops.window_sums(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, text, uuid) is
  'The figures of kpi_parts, added up: each period of a window (part period), all of them (whole), those that are over (settled) and as many before the window (previous).';

create or replace function ops.kpi_window(
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
  with summed as materialized (
    select window_sum.*
    from ops.window_sums(
      kpi_window.period,
      spans.window_start,
      spans.window_end,
      spans.settled_end,
      spans.previous_start,
      kpi_window.filters,
      kpi_window.only_event_type,
      owner_id
    ) as window_sum
  ),
  valued as (
    select
      summed.metric_name,
      summed.part,
      summed.period_start,
      case definition.measure
        when 'percentile' then summed.value
        else ops.measured_value(definition.measure, summed.numerator, summed.denominator, summed.sample_count)
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
    where quantile.metric_name in (select summed.metric_name from summed)
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

revoke execute on function
  ops.kpi_figures(ops.kpi_sum[]),
  ops.measured_value(text, numeric, numeric, bigint),
  ops.changed_spans(ops.rollup_delta[]),
  ops.span_rollups(ops.kpi_span[]),
  ops.changed_sums(ops.rollup_delta[]),
  ops.require_refreshable(bigint),
  ops.pass_end(bigint, bigint, bigint),
  ops.report_refresh(ops.event_delta[], jsonb, bigint, bigint),
  ops.take_audit_changes(),
  ops.move_cursor(bigint, bigint),
  ops.require_rebuild_range(timestamptz, timestamptz),
  ops.require_stored_events(timestamptz),
  ops.next_chunk(timestamptz, timestamptz),
  ops.recount_chunk(timestamptz, timestamptz, bigint, timestamptz, timestamptz),
  ops.kept_kpis(text, jsonb, text),
  ops.filtered_sums(text, timestamptz, timestamptz, jsonb, text, text[], uuid),
  ops.window_sums(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, text, uuid)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.kpi_figures(ops.kpi_sum[]),
    ops.measured_value(text, numeric, numeric, bigint),
    ops.changed_spans(ops.rollup_delta[]),
    ops.span_rollups(ops.kpi_span[]),
    ops.changed_sums(ops.rollup_delta[]),
    ops.require_refreshable(bigint),
    ops.pass_end(bigint, bigint, bigint),
    ops.report_refresh(ops.event_delta[], jsonb, bigint, bigint),
    ops.take_audit_changes(),
    ops.move_cursor(bigint, bigint),
    ops.require_rebuild_range(timestamptz, timestamptz),
    ops.require_stored_events(timestamptz),
    ops.next_chunk(timestamptz, timestamptz),
    ops.recount_chunk(timestamptz, timestamptz, bigint, timestamptz, timestamptz),
    ops.kept_kpis(text, jsonb, text),
    ops.filtered_sums(text, timestamptz, timestamptz, jsonb, text, text[], uuid),
    ops.window_sums(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, text, uuid)
  from anon, authenticated, service_role;
  grant execute on function
    ops.kept_kpis(text, jsonb, text),
    ops.filtered_sums(text, timestamptz, timestamptz, jsonb, text, text[], uuid),
    ops.window_sums(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, text, uuid),
    ops.kpi_figures(ops.kpi_sum[]),
    ops.measured_value(text, numeric, numeric, bigint),
    ops.changed_spans(ops.rollup_delta[]),
    ops.span_rollups(ops.kpi_span[]),
    ops.changed_sums(ops.rollup_delta[])
  to authenticated, service_role;
end;
$$;
