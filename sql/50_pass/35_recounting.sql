-- The steps of a rebuild: old states and KPIs are removed, events are counted chunk by chunk, KPIs and SLIs follow.

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
  counted_ids ops.event_ids,
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
    select event from ops.count_events(counted_ids, chunk_start, chunk_end) as event
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
    from ops.count_patterns(counted_ids, chunk_start, chunk_end) as delta
    join ops.rebuild_spans(since, until) as span
      on span.period = delta.period
      and delta.period_start >= span.span_start
      and delta.period_start < span.span_end
  ));
  return coalesce((select sum(event.event_count) from unnest(events) as event), 0);
end;
$$;
comment on function ops.recount_chunk(timestamptz, timestamptz, ops.event_ids, timestamptz, timestamptz) is
  'Adds the counted events and the audits of a chunk to the periods that the range from since to until touches; returns how many it read. Only rebuild calls it.';

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
      from ops.changed_ratios(
        array(
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
        ),
        from_rollups => true
      ) as kpi
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

create function ops.rebuild_slis(since timestamptz, until timestamptz, counted_ids ops.event_ids, recount_units boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  bucket_since timestamptz := date_bin('5 minutes', since, timestamptz '1969-12-29 00:00+00');
  bucket_until timestamptz := date_bin('5 minutes', until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until
    and stored.sli_id not in (select sli.counted_as from ops.counted_slis as sli where sli.objective = 'availability');
  perform ops.add_slis(array(select delta from ops.count_attempts(counted_ids, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (
        select removed.removed_until
        from ops.removed_events as removed
        join ops.counted_slis as sli
          on sli.event_type = removed.event_type
        where sli.counted_as = unit.sli_id
      ),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(counted_ids) as attempted)) as changed
    ));
    perform ops.recount_units();
    -- Their counts have changed at any time.
    bucket_since := '-infinity';
    bucket_until := 'infinity';
  end if;
  perform ops.recount_sli_days(bucket_since, bucket_until);
end;
$$;
comment on function ops.rebuild_slis(timestamptz, timestamptz, ops.event_ids, boolean) is
  'Recounts the attempts of the range and all units of work whose events are all there from the events; only rebuild calls it.';
