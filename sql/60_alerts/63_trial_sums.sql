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

create type ops.trial_history as (
  starts_at timestamptz,
  steps integer,
  slice_target numeric,
  good_before bigint[],
  total_before bigint[],
  good_slices bigint[],
  total_slices bigint[],
  is_seen boolean[],
  seen_at timestamptz
);
comment on type ops.trial_history is
  'What an objective, or a group of it, has counted before each five minutes from starts_at on, exclusions left out, and (steps and slice_target) before each time slice of so many: a window is a difference. is_seen: whether anything was counted in the five minutes, excluded or not; seen_at: the last five minutes of that kind before starts_at.';

create function ops.trial_steps(org_id uuid, sli_id bigint, left_out tstzmultirange, since timestamptz, until timestamptz, fresh ops.sli_delta[])
returns table (good_before bigint[], total_before bigint[], is_seen boolean[])
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    array_agg(summed.good order by summed.starts_at),
    array_agg(summed.total order by summed.starts_at),
    array_agg(summed.is_seen order by summed.starts_at)
  from (
    select
      step.starts_at,
      coalesce(sum(bucket.good) filter (where bucket.counts) over earlier, 0)::bigint as good,
      coalesce(sum(bucket.total) filter (where bucket.counts) over earlier, 0)::bigint as total,
      coalesce(bucket.total > 0, false) as is_seen
    from generate_series(trial_steps.since, trial_steps.until, interval '5 minutes') as step (starts_at)
    left join (
      select
        counted.bucket_start,
        sum(counted.good)::bigint as good,
        sum(counted.total)::bigint as total,
        not counted.bucket_start <@ trial_steps.left_out as counts
      from (
        select stored.bucket_start, stored.good, stored.total
        from ops.sli_counts as stored
        where stored.org_id = trial_steps.org_id
          and stored.sli_id = trial_steps.sli_id
          and stored.bucket_start >= trial_steps.since
          and stored.bucket_start <= trial_steps.until
        union all
        select delta.bucket_start, delta.good, delta.total
        from unnest(trial_steps.fresh) as delta
        where delta.bucket_start >= trial_steps.since
          and delta.bucket_start <= trial_steps.until
      ) as counted
      group by 1
    ) as bucket
      on bucket.bucket_start = step.starts_at
    window earlier as (order by step.starts_at rows between unbounded preceding and 1 preceding)
  ) as summed;
end;
$$;
comment on function ops.trial_steps(uuid, bigint, tstzmultirange, timestamptz, timestamptz, ops.sli_delta[]) is
  'One row: good and total before each five minutes of a range (its last instant included) under a key, stored and fresh, without what is left out, and whether anything was counted in them.';

create function ops.trial_history(
  slo ops.slos, org_id uuid, slo_group jsonb, since timestamptz, until timestamptz, longest interval, fresh ops.sli_delta[]
)
returns ops.trial_history
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  history ops.trial_history;
  counted_as constant bigint := ops.group_key((ops.sli_of(slo)).sli_id, slo_group);
  left_out constant tstzmultirange := coalesce(
    (
      select range_agg(tstzrange(excluded.since, excluded.until))
      from ops.excluded_times as excluded
      where excluded.org_id = trial_history.org_id
        and excluded.slo_name = slo.slo_name
        and excluded.slo_group <@ trial_history.slo_group
    ),
    '{}'
  );
  steps constant integer := extract(epoch from coalesce(slo.time_slice, interval '5 minutes'))::integer / 300;
  good_before bigint[];
  total_before bigint[];
  good_slices bigint[] := array[0::bigint];
  total_slices bigint[] := array[0::bigint];
  good bigint;
  total bigint;
begin
  history.steps := steps;
  history.slice_target := slo.slice_target;
  history.starts_at := date_bin(
    make_interval(mins => 5 * steps),
    least(ops.slo_window_start(slo.rolling_window, slo.calendar_period, slo.time_zone, since), since - ops.in_hours(longest)),
    timestamptz '1969-12-29 00:00+00'
  );
  select counted.* into good_before, total_before, history.is_seen
  from ops.trial_steps(org_id, counted_as, left_out, history.starts_at, until, fresh) as counted;
  if slo.time_slice is not null then
    for place in 1 .. (cardinality(total_before) - 1) / steps loop
      total := total_before[place * steps + 1] - total_before[(place - 1) * steps + 1];
      good := good_before[place * steps + 1] - good_before[(place - 1) * steps + 1];
      total_slices[place + 1] := total_slices[place] + (total > 0)::integer;
      good_slices[place + 1] := good_slices[place] + (total > 0 and good >= slo.slice_target * total)::integer;
    end loop;
  end if;
  history.good_before := good_before;
  history.total_before := total_before;
  history.good_slices := good_slices;
  history.total_slices := total_slices;
  history.seen_at := (
    select newest.last_counted_at
    from ops.last_counts(history.starts_at - interval '1 microsecond', array[trial_history.org_id], array[counted_as], fresh) as newest
  );
  return history;
end;
$$;
comment on function ops.trial_history(ops.slos, uuid, jsonb, timestamptz, timestamptz, interval, ops.sli_delta[]) is
  'What an objective, or a group of it, has counted up to until, from as early as its window and the longest of others look back as of since; fresh is added to what is stored.';

create function ops.trial_sums(slo ops.slos, history ops.trial_history, since timestamptz, until timestamptz, lengths interval[])
returns table (as_of timestamptz, length interval, lost bigint, total bigint, seen_at timestamptz)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  -- Copies, because the arrays of a row are unpacked each time that they are passed on.
  good_before constant bigint[] := history.good_before;
  total_before constant bigint[] := history.total_before;
  good_slices constant bigint[] := history.good_slices;
  total_slices constant bigint[] := history.total_slices;
  is_seen constant boolean[] := history.is_seen;
  good bigint;
begin
  seen_at := history.seen_at;
  for end_step in 0 .. cardinality(total_before) - 1 loop
    as_of := history.starts_at + end_step * interval '5 minutes';
    exit when as_of >= until;
    if is_seen[end_step] then
      seen_at := as_of - interval '5 minutes';
    end if;
    continue when as_of < since;
    foreach length in array lengths || null::interval loop
      select counted.good, counted.total
      into good, total
      from ops.trial_count(
        good_before, total_before, good_slices, total_slices, history.steps, history.slice_target,
        floor(extract(epoch from coalesce(
          as_of - ops.in_hours(length),
          ops.slo_window_start(slo.rolling_window, slo.calendar_period, slo.time_zone, as_of)
        ) - history.starts_at) / 300)::integer,
        end_step
      ) as counted;
      lost := total - good;
      return next;
    end loop;
  end loop;
end;
$$;
comment on function ops.trial_sums(ops.slos, ops.trial_history, timestamptz, timestamptz, interval[]) is
  'What an objective has counted by its history in windows of some lengths (null: its own) as of every five minutes of a range, each knowing only what had happened by then: how many were bad and all, in events or slices, and seen_at, the start of the last five minutes that hold any. since is the first instant of five minutes.';
