-- Explanations: the events that burned a budget, and the exclusions from the account.

create function ops.is_excluded(org_id uuid, slo_name text, bucket_start timestamptz)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.slo_exclusions as exclusion
  where exclusion.org_id = is_excluded.org_id
    and exclusion.slo_name = is_excluded.slo_name
    and exclusion.since < is_excluded.bucket_start + interval '5 minutes'
    and exclusion.until > is_excluded.bucket_start
);
comment on function ops.is_excluded(uuid, text, timestamptz) is 'Whether the objective''s account leaves these five minutes out.';

create function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null
)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  asked ops.slo_versions;
  sli ops.slis;
  from_bucket timestamptz;
  to_bucket timestamptz;
begin
  if explain_slo.since is null or explain_slo.until is null or explain_slo.since >= explain_slo.until then
    raise exception 'the range to explain is empty: % to %', explain_slo.since, explain_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  select known.* into asked
  from ops.slo_versions as known
  where known.slo_name = explain_slo.slo_name
    and known.valid_from < explain_slo.until
  order by known.version desc
  limit 1;
  if asked.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(explain_slo.slo_name, ''), explain_slo.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  select known.* into strict sli from ops.slis as known where known.sli_id = asked.sli_id;
  from_bucket := case
    when isfinite(explain_slo.since) then date_bin('5 minutes', explain_slo.since, timestamptz '1969-12-29 00:00+00')
    else explain_slo.since
  end;
  to_bucket := case
    when isfinite(explain_slo.until)
      then date_bin('5 minutes', explain_slo.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
    else explain_slo.until
  end;

  return query
  with buckets as materialized (
    select bucket.org_id, bucket.bucket_start, bucket.good, bucket.total
    from ops.sli_counts as bucket
    where bucket.sli_id = asked.sli_id
      and (explain_slo.only_org_id is null or bucket.org_id = explain_slo.only_org_id)
      and bucket.bucket_start >= from_bucket
      and bucket.bucket_start < to_bucket
      and not ops.is_excluded(bucket.org_id, asked.slo_name, bucket.bucket_start)
  ),
  counted as materialized (
    select
      bucket.org_id,
      coalesce(date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), from_bucket) as slice_start,
      sum(bucket.good) as good,
      sum(bucket.total) as total
    from buckets as bucket
    group by 1, 2
  ),
  accounts as (
    -- In time slices a slice is what counts, else an event is.
    select
      counted.org_id,
      case when asked.time_slice is null then sum(counted.total) else count(*) filter (where counted.total > 0) end as total
    from counted
    group by 1
  ),
  lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where sli.objective = 'availability'
      and unit.event_type = sli.event_type
      and not unit.succeeded
      and unit.first_attempt_at >= from_bucket
      and unit.first_attempt_at < to_bucket
      and (explain_slo.only_org_id is null or unit.org_id = explain_slo.only_org_id)
  ),
  bad as (
    select
      attempt.org_id,
      attempt.event_timestamp as counted_at,
      attempt.event_timestamp,
      attempt.event_id,
      attempt.run_id,
      attempt.tag,
      case sli.objective when 'latency' then format('took %s ms, the limit is %s ms', attempt.duration_ms, sli.threshold_ms) else 'failed' end
        as reason
    from ops.attempts as attempt
    where sli.objective <> 'availability'
      and attempt.event_type = sli.event_type
      and attempt.id <= ops.cursor_id()
      and attempt.event_timestamp < sli.filled_until
      and attempt.event_timestamp >= from_bucket
      and attempt.event_timestamp < to_bucket
      and (explain_slo.only_org_id is null or attempt.org_id = explain_slo.only_org_id)
      and case sli.objective
        when 'latency' then attempt.succeeded and attempt.duration_ms >= sli.threshold_ms
        else not attempt.succeeded
      end
    union all
    -- A unit of work costs once, however often it was tried; its last attempt stands for it.
    select last_tried.*
    from (
      select distinct on (lost_units.org_id, lost_units.unit)
        lost_units.org_id,
        lost_units.first_attempt_at,
        attempt.event_timestamp,
        attempt.event_id,
        attempt.run_id,
        attempt.tag,
        'never succeeded'
      from lost_units
      join ops.attempts as attempt
        on attempt.org_id = lost_units.org_id
        and attempt.unit = lost_units.unit
        and attempt.event_type = sli.event_type
        and attempt.event_timestamp >= from_bucket
        and attempt.id <= ops.cursor_id()
        and attempt.event_timestamp < sli.filled_until
      order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id
    ) as last_tried
  ),
  stored as materialized (
    select bad.*, date_bin('5 minutes', bad.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from bad
  ),
  -- What retention removed was counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from buckets as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  ),
  placed as (
    select
      bad.*,
      coalesce(
        date_bin(asked.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'),
        from_bucket
      ) as slice_start
    from (
      select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
      from stored
      union all
      select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
      from removed
      cross join generate_series(1, removed.missing)
    ) as bad
    where not ops.is_excluded(bad.org_id, asked.slo_name, date_bin('5 minutes', bad.counted_at, timestamptz '1969-12-29 00:00+00'))
  ),
  numbered as (
    select
      placed.*,
      row_number() over (partition by placed.org_id order by placed.counted_at, placed.event_id) as place,
      row_number() over (partition by placed.org_id, placed.slice_start order by placed.counted_at, placed.event_id) as place_in_slice,
      count(*) over (partition by placed.org_id, placed.slice_start) as bad_in_slice,
      dense_rank() over (partition by placed.org_id order by placed.slice_start) as slice_number
    from placed
    join counted
      on counted.org_id = placed.org_id
      and counted.slice_start = placed.slice_start
    where asked.time_slice is null
      or counted.good < asked.slice_target * counted.total
  ),
  weighed as (
    -- What had been lost after each event; the cost is the difference to the one before, so that costs add up exactly.
    select
      numbered.*,
      case
        when asked.time_slice is null then numbered.place
        when numbered.place_in_slice = numbered.bad_in_slice then numbered.slice_number
        else numbered.slice_number - 1 + numbered.place_in_slice::numeric / numbered.bad_in_slice
      end as lost_so_far
    from numbered
  ),
  burnt as (
    select weighed.*, weighed.lost_so_far / (accounts.total * (1 - asked.target)) as consumed_so_far
    from weighed
    join accounts
      on accounts.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    asked.version,
    burnt.event_timestamp,
    burnt.event_id,
    sli.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0)
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid) is
  'The counted events that burned the budget in the five-minute steps of a range, by the version that held at its end; cost is a share of the budget of that range, and the costs of an org add up to exactly its burn rate there. One that is no longer stored has no event_id, and the start of its five minutes as its time.';
