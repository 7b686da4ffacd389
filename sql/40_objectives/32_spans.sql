-- Spans of time over which objectives are summed, and what changes their stored counts: fresh events and exclusions.

create type ops.slo_span as (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  slo_group jsonb
);
comment on type ops.slo_span is
  'A time over which to sum what a version of an objective counts, or a group of it ({}: all): the five minutes that begin in it.';

create type ops.counted_span as (
  place bigint,
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  sli_id bigint,
  time_slice interval,
  slice_target numeric,
  first_day timestamptz,
  end_day timestamptz,
  slo_group jsonb
);
comment on type ops.counted_span is
  'A span with its place in the list, how its version counts, and the whole days (UTC) in it, from first_day to before end_day.';

create function ops.counted_spans(spans ops.slo_span[])
returns setof ops.counted_span
language sql
stable
set search_path = ''
begin atomic
  select
    span.place,
    span.org_id,
    span.slo_name,
    span.version,
    span.since,
    span.until,
    ops.group_key(version.sli_id, span.slo_group),
    version.time_slice,
    version.slice_target,
    -- -infinity and infinity are days of their own.
    date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00'),
    date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00'),
    span.slo_group
  from unnest(counted_spans.spans) with ordinality as span (org_id, slo_name, version, since, until, slo_group, place)
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version;
end;
comment on function ops.counted_spans(ops.slo_span[]) is 'Each span of a list with how its version counts; a span of an unknown version is left out.';

create type ops.slo_count as (
  place bigint,
  starts_at timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
);
comment on type ops.slo_count is
  'Good and total of the span of that place, exclusions applied and (unadjusted) not; starts_at null: of the whole span.';

create function ops.changed_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}')
returns setof ops.slo_count
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with asked as materialized (
    select span.place, span.org_id, span.slo_name, span.slo_group, span.sli_id, span.since, span.until
    from unnest(changed_counts.spans) as span
  ),
  fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(changed_counts.fresh) as delta
  ),
  -- By itself, so that its instants are rounded once for each exclusion and not for each span.
  excluded as materialized (
    select times.org_id, times.slo_name, times.slo_group, times.since, times.until from ops.excluded_times as times
  ),
  -- Exclusions overlap, and those of several groups may concern one: each five minutes are left out once.
  left_out as materialized (
    select joined.place, lower(stretch) as since, upper(stretch) as until
    from (
      select
        asked.place,
        range_agg(tstzrange(greatest(excluded.since, asked.since), least(excluded.until, asked.until))) as stretches
      from asked
      join excluded
        on excluded.org_id = asked.org_id
        and excluded.slo_name = asked.slo_name
        and excluded.until > asked.since
        and excluded.since < asked.until
        and excluded.slo_group <@ asked.slo_group
      group by 1
    ) as joined
    cross join lateral unnest(joined.stretches) as stretch
  )
  select asked.place, fresh.bucket_start, fresh.good, fresh.total, fresh.good, fresh.total
  from asked
  join fresh
    on fresh.org_id = asked.org_id
    and fresh.sli_id = asked.sli_id
    and fresh.bucket_start >= asked.since
    and fresh.bucket_start < asked.until
  union all
  select asked.place, bucket.bucket_start, -bucket.good, -bucket.total, 0, 0
  from asked
  join left_out
    on left_out.place = asked.place
  cross join lateral (
    select stored.bucket_start, stored.good, stored.total
    from ops.sli_counts as stored
    where stored.org_id = asked.org_id
      and stored.sli_id = asked.sli_id
      and stored.bucket_start >= left_out.since
      and stored.bucket_start < left_out.until
    union all
    select fresh.bucket_start, fresh.good, fresh.total
    from fresh
    where fresh.org_id = asked.org_id
      and fresh.sli_id = asked.sli_id
      and fresh.bucket_start >= left_out.since
      and fresh.bucket_start < left_out.until
  ) as bucket;
end;
comment on function ops.changed_counts(ops.counted_span[], ops.sli_delta[]) is
  'What is to be added to the stored counts of each span, per five minutes: the fresh counts, and what exclusions leave out of both as negative counts.';
