-- The counts of trials: windows as of every five minutes of a range, from one reading of what was counted.

create function ops.trial_count(
  good_before bigint[],
  total_before bigint[],
  good_slices bigint[],
  total_slices bigint[],
  steps integer,
  slice_target numeric,
  first_step integer,
  end_step integer,
  out good bigint,
  out total bigint
)
language plpgsql
immutable
set search_path = ''
as $$
declare
  first_slice constant integer := (first_step + steps - 1) / steps;
  end_slice constant integer := end_step / steps;
  edge integer[];
  seen bigint;
begin
  if slice_target is null then
    total := total_before[end_step + 1] - total_before[first_step + 1];
    good := good_before[end_step + 1] - good_before[first_step + 1];
    return;
  end if;
  total := 0;
  good := 0;
  if first_slice <= end_slice then
    total := total_slices[end_slice + 1] - total_slices[first_slice + 1];
    good := good_slices[end_slice + 1] - good_slices[first_slice + 1];
  end if;
  -- Of a slice at an edge the window sees a part; of one that holds both edges, what is between them.
  foreach edge slice 1 in array case
    when first_slice <= end_slice then array[[first_step, first_slice * steps], [end_slice * steps, end_step]]
    else array[[first_step, end_step]]
  end loop
    seen := total_before[edge[2] + 1] - total_before[edge[1] + 1];
    total := total + (seen > 0)::integer;
    good := good + (
      seen > 0 and good_before[edge[2] + 1] - good_before[edge[1] + 1] >= slice_target * seen
    )::integer;
  end loop;
end;
$$;
comment on function ops.trial_count(bigint[], bigint[], bigint[], bigint[], integer, numeric, integer, integer) is
  'Good and total between two five minutes, from what was counted before each of them, in events; or with a slice_target in slices of so many steps, from those before each slice.';

create function ops.trial_sums(org_id uuid, slo_name text, slo_group jsonb, since timestamptz, until timestamptz, lengths interval[])
returns table (as_of timestamptz, length interval, lost bigint, total bigint, seen_at timestamptz)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  promise ops.slo_versions;
  counted_as bigint;
  origin timestamptz;
  -- What was counted before each five minutes from the origin on, and of whole time slices before each slice: a window is a difference.
  good_before bigint[];
  total_before bigint[];
  good_slices bigint[] := array[0::bigint];
  total_slices bigint[] := array[0::bigint];
  steps integer;
  first_step integer;
  end_step integer;
  good bigint;
begin
  select version.* into promise
  from ops.slo_versions as version
  where version.slo_name = trial_sums.slo_name
    and version.valid_until = 'infinity';
  counted_as := ops.group_key(promise.sli_id, trial_sums.slo_group);
  steps := extract(epoch from coalesce(promise.time_slice, interval '5 minutes'))::integer / 300;
  origin := date_bin(
    make_interval(mins => 5 * steps),
    least(
      ops.slo_window_start(promise.rolling_window, promise.calendar_period, promise.time_zone, trial_sums.since),
      trial_sums.since - (select max(ops.in_hours(known.length)) from unnest(trial_sums.lengths) as known (length))
    ),
    timestamptz '1969-12-29 00:00+00'
  );
  select array_agg(summed.good order by summed.starts_at), array_agg(summed.total order by summed.starts_at)
  into good_before, total_before
  from (
    select
      step.starts_at,
      (coalesce(sum(bucket.good) over earlier, 0))::bigint as good,
      (coalesce(sum(bucket.total) over earlier, 0))::bigint as total
    from generate_series(origin, trial_sums.until, interval '5 minutes') as step (starts_at)
    left join ops.sli_counts as bucket
      on bucket.org_id = trial_sums.org_id
      and bucket.sli_id = counted_as
      and bucket.bucket_start = step.starts_at
      and not exists (
        select
        from ops.excluded_times as excluded
        where excluded.org_id = trial_sums.org_id
          and excluded.slo_name = trial_sums.slo_name
          and excluded.slo_group <@ trial_sums.slo_group
          and excluded.since <= bucket.bucket_start
          and excluded.until > bucket.bucket_start
      )
    window earlier as (order by step.starts_at rows between unbounded preceding and 1 preceding)
  ) as summed;
  if promise.time_slice is not null then
    for place in 1 .. (cardinality(total_before) - 1) / steps loop
      total := total_before[place * steps + 1] - total_before[(place - 1) * steps + 1];
      good := good_before[place * steps + 1] - good_before[(place - 1) * steps + 1];
      total_slices[place + 1] := total_slices[place] + (total > 0)::integer;
      good_slices[place + 1] := good_slices[place] + (total > 0 and good >= promise.slice_target * total)::integer;
    end loop;
  end if;
  seen_at := (
    select max(bucket.bucket_start)
    from ops.sli_counts as bucket
    where bucket.org_id = trial_sums.org_id
      and bucket.sli_id = counted_as
      and bucket.bucket_start < trial_sums.since
  );
  for as_of, seen_at in
    select instant.as_of, max(newest.bucket_start) over (order by instant.as_of)
    from generate_series(trial_sums.since, trial_sums.until - interval '1 microsecond', interval '5 minutes') as instant (as_of)
    left join (
      select max(known.bucket_start) as bucket_start, known.known_at
      from (
        select bucket.bucket_start, bucket.bucket_start + interval '5 minutes' as known_at
        from ops.sli_counts as bucket
        where bucket.org_id = trial_sums.org_id
          and bucket.sli_id = counted_as
          and bucket.bucket_start + interval '5 minutes' > trial_sums.since
        union all
        select seen_at, trial_sums.since
      ) as known
      group by 2
    ) as newest
      on newest.known_at = instant.as_of
  loop
    end_step := extract(epoch from as_of - origin)::integer / 300;
    foreach length in array trial_sums.lengths || null::interval loop
      first_step := floor(extract(epoch from coalesce(
        as_of - ops.in_hours(length),
        ops.slo_window_start(promise.rolling_window, promise.calendar_period, promise.time_zone, as_of)
      ) - origin) / 300);
      select counted.good, counted.total
      into good, total
      from ops.trial_count(
        good_before, total_before, good_slices, total_slices, steps, promise.slice_target, first_step, end_step
      ) as counted;
      lost := total - good;
      return next;
    end loop;
  end loop;
end;
$$;
comment on function ops.trial_sums(uuid, text, jsonb, timestamptz, timestamptz, interval[]) is
  'What an objective, or a group of it, has counted in windows of some lengths (null: its own) as of every five minutes of a range, each knowing only what had happened by then: how many were bad and all, in events or slices, and seen_at, the start of the last five minutes that hold any. since is the first instant of five minutes.';
