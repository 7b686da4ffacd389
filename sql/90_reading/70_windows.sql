-- Windows: the parts that add up to all that was counted, and the whole periods that a window touches.

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
  select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
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
  select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
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
