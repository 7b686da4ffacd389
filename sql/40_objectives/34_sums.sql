-- Good and total of spans of time, in events or in time slices.

create function ops.slice_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}', zone text default null)
returns setof ops.slo_count
language sql
stable
set search_path = ''
set jit = off
begin atomic
  -- One change per slice, so that its maximum below is its sum: sums of bigint are what costs here.
  with changes as (
    select
      change.place,
      date_bin(span.time_slice, change.starts_at, timestamptz '1969-12-29 00:00+00') as starts_at,
      sum(change.good)::bigint as good,
      sum(change.total)::bigint as total,
      sum(change.good_unadjusted)::bigint as good_unadjusted,
      sum(change.total_unadjusted)::bigint as total_unadjusted
    from ops.changed_counts(slice_counts.spans, slice_counts.fresh) as change
    join unnest(slice_counts.spans) as span
      on span.place = change.place
    where cardinality(slice_counts.fresh) > 0
      or exists (select from ops.slo_exclusions)
    group by 1, 2
  ),
  added as materialized (
    select changes.place, array_agg(row(changes.*)::ops.slo_count) as counts
    from changes
    group by 1
  )
  select span.place, judged.starts_at, judged.good, judged.total, judged.good_unadjusted, judged.total_unadjusted
  from unnest(slice_counts.spans) as span
  left join added
    on added.place = span.place
  cross join lateral (
    with slices as (
      select
        date_bin(span.time_slice, counted.starts_at, timestamptz '1969-12-29 00:00+00') as starts_at,
        sum(counted.good) as good,
        sum(counted.total) as total,
        max(counted.good_left_out) as good_left_out,
        max(counted.total_left_out) as total_left_out
      from (
        select bucket.bucket_start as starts_at, bucket.good, bucket.total, null::bigint as good_left_out, null::bigint as total_left_out
        from ops.sli_counts as bucket
        where bucket.org_id = span.org_id
          and bucket.sli_id = span.sli_id
          and bucket.bucket_start >= span.since
          and bucket.bucket_start < span.until
        union all
        select change.starts_at, change.good, change.total, change.good_unadjusted - change.good, change.total_unadjusted - change.total
        from unnest(added.counts) as change
      ) as counted
      group by 1
    ),
    judged as (
      select slices.*, slices.total > 0 as counts, slices.total > 0 and slices.good >= span.slice_target * slices.total as is_good
      from slices
      where slices.total + coalesce(slices.total_left_out, 0) > 0
      -- A barrier: without it each slice is judged twice.
      offset 0
    )
    select
      case when slice_counts.zone is not null then date_trunc('day', judged.starts_at, slice_counts.zone) end as starts_at,
      count(*) filter (where judged.is_good) as good,
      count(*) filter (where judged.counts) as total,
      count(*) filter (
        where case
          when judged.total_left_out is null then judged.is_good
          else judged.good + judged.good_left_out >= span.slice_target * (judged.total + judged.total_left_out)
        end
      ) as good_unadjusted,
      count(*) as total_unadjusted
    from judged
    group by 1
    offset 0
  ) as judged;
end;
comment on function ops.slice_counts(ops.counted_span[], ops.sli_delta[], text) is
  'Time slices that each span counts and how many of them are good: of the whole span, or by day of a time zone if one is given.';

create function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  slo_group jsonb
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  -- A step without anything to do is not called: planning it takes longer than a small sum.
  with asked as materialized (
    select span.* from ops.counted_spans(sum_slos.spans) as span
  ),
  changed as materialized (
    select
      change.place,
      sum(change.good)::bigint as good,
      sum(change.total)::bigint as total,
      sum(change.good_unadjusted)::bigint as good_unadjusted,
      sum(change.total_unadjusted)::bigint as total_unadjusted
    from ops.changed_counts(
      array(select row(asked.*)::ops.counted_span from asked where asked.time_slice is null), sum_slos.fresh
    ) as change
    where exists (select from asked where asked.time_slice is null)
      and (cardinality(sum_slos.fresh) > 0 or exists (select from ops.slo_exclusions))
    group by 1
  ),
  sliced as materialized (
    select slices.place, slices.good, slices.total, slices.good_unadjusted, slices.total_unadjusted
    from ops.slice_counts(
      array(select row(asked.*)::ops.counted_span from asked where asked.time_slice is not null), sum_slos.fresh
    ) as slices
    where exists (select from asked where asked.time_slice is not null)
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    asked.since,
    asked.until,
    coalesce(sliced.good, coalesce(stored.good, 0) + coalesce(changed.good, 0)),
    coalesce(sliced.total, coalesce(stored.total, 0) + coalesce(changed.total, 0)),
    coalesce(sliced.good_unadjusted, coalesce(stored.good, 0) + coalesce(changed.good_unadjusted, 0)),
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(changed.total_unadjusted, 0)),
    asked.slo_group
  from asked
  -- A sum and nothing else: this is where the time goes.
  cross join lateral (
    select sum(part.good)::bigint as good, sum(part.total)::bigint as total
    from (
      select day.good, day.total
      from ops.sli_days as day
      where day.org_id = asked.org_id
        and day.sli_id = asked.sli_id
        and day.day_start >= asked.first_day
        and day.day_start < asked.end_day
        and asked.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = asked.org_id
        and bucket.sli_id = asked.sli_id
        and bucket.bucket_start >= asked.since
        and bucket.bucket_start < least(asked.until, asked.first_day)
        and asked.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = asked.org_id
        and bucket.sli_id = asked.sli_id
        and bucket.bucket_start >= greatest(asked.first_day, asked.end_day)
        and bucket.bucket_start < asked.until
        and asked.time_slice is null
    ) as part
    offset 0
  ) as stored
  left join changed
    on changed.place = asked.place
  left join sliced
    on sliced.place = asked.place;
end;
comment on function ops.sum_slos(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of each span, in events or in time slices as the version says, exclusions applied and (unadjusted) not; fresh is added to what is stored. One row a span.';
