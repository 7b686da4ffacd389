-- Rebuild: a range is recounted from the events, which must give the same rows.

create function ops.rebuild_spans(since timestamptz, until timestamptz)
returns table (period text, span_start timestamptz, span_end timestamptz)
language sql
stable
set search_path = ''
begin atomic
  select
    period.name,
    ops.period_start(period.name, rebuild_spans.since, ops.time_zone()),
    ops.period_end(
      period.name,
      ops.period_start(period.name, rebuild_spans.until - interval '1 microsecond', ops.time_zone()),
      ops.time_zone()
    )
  from unnest(array['hour', 'day', 'week', 'month']) as period (name);
end;
comment on function ops.rebuild_spans(timestamptz, timestamptz) is 'The whole hours, days, weeks and months that a range touches.';

create function ops.rebuildable_from()
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select max(
    case
      when ops.period_start(period.name, removed.removed_until, ops.time_zone()) = removed.removed_until then removed.removed_until
      else ops.period_end(
        period.name,
        ops.period_start(period.name, removed.removed_until, ops.time_zone()),
        ops.time_zone()
      )
    end
  )
  from (select max(removed_event.removed_until) as removed_until from ops.removed_events as removed_event) as removed
  cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
  where removed.removed_until is not null;
end;
comment on function ops.rebuildable_from() is
  'The first instant whose hour, day, week and month all begin after the last event that retention removed; null when it removed none.';

create function ops.rebuild(since timestamptz, until timestamptz, as_of timestamptz default now(), recount_units boolean default true)
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
  if since < ops.rebuildable_from() then
    raise exception 'events from before % have been removed, so what was counted of them cannot be counted again',
      (select max(removed.removed_until) from ops.removed_events as removed)
      using errcode = 'OP001',
        hint = format(
          'The first instant whose hour, day, week and month have all their events is %s.',
          to_char(ops.rebuildable_from() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        );
  end if;
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
comment on function ops.rebuild(timestamptz, timestamptz, timestamptz, boolean) is
  'Recomputes every hour, day, week and month that the half-open range touches from the events and audits; returns how many it read. The result equals what the increments give. recount_units false leaves availability to a later call.';

create function ops.forget_span(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.rollups as stored
  using ops.rebuild_spans(since, until) as span
  where stored.period = span.period and stored.period_start >= span.span_start and stored.period_start < span.span_end;
  delete from ops.histograms as stored
  using ops.rebuild_spans(since, until) as span
  where stored.period = span.period and stored.period_start >= span.span_start and stored.period_start < span.span_end;
  delete from ops.blocked_patterns as stored
  using ops.rebuild_spans(since, until) as span
  where stored.period = span.period and stored.period_start >= span.span_start and stored.period_start < span.span_end;
  delete from public.kpi_aggregations as stored
  using ops.rebuild_spans(since, until) as span
  where stored.aggregation_period = span.period and stored.period_start >= span.span_start and stored.period_start < span.span_end;
end;
comment on function ops.forget_span(timestamptz, timestamptz) is 'Removes the states and KPIs of the periods that a range touches; only rebuild calls it.';

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

create function ops.rebuild_slis(since timestamptz, until timestamptz, last_id bigint, recount_units boolean)
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
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (select removed.removed_until from ops.removed_events as removed where removed.event_type = unit.event_type),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(0, last_id) as attempted)) as changed
    ));
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rebuild_slis(timestamptz, timestamptz, bigint, boolean) is
  'Recounts the attempts of the range and all units of work whose events are all there from the events; only rebuild calls it.';

create function ops.stored_range(since timestamptz, until timestamptz)
returns table (first_at timestamptz, end_at timestamptz)
language sql
stable
set search_path = ''
begin atomic
  select
    greatest(stored_range.since, min(stored.first_at)),
    least(stored_range.until, max(stored.last_at) + interval '1 microsecond')
  from (
    select min(event.event_timestamp) as first_at, max(event.event_timestamp) as last_at from public.telemetry_events as event
    union all
    select min(audit.audit_timestamp), max(audit.audit_timestamp) from ops.labelled_audits as audit
    union all
    select min(rollup.period_start), max(ops.period_end(rollup.period, rollup.period_start, ops.time_zone()))
    from ops.rollups as rollup
    where rollup.period = 'month'
  ) as stored
  having greatest(stored_range.since, min(stored.first_at)) < least(stored_range.until, max(stored.last_at) + interval '1 microsecond');
end;
comment on function ops.stored_range(timestamptz, timestamptz) is
  'The part of a range for which there are events, audits or rollups; no row when there is none.';
