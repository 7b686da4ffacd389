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
comment on function ops.rebuild(timestamptz, timestamptz, timestamptz, boolean) is
  'Recomputes every hour, day, week and month that the half-open range touches from the events and audits; returns how many it read. The result equals what the increments give. recount_units false leaves availability to a later call.';
