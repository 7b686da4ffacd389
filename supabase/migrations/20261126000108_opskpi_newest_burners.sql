-- The events that burned a budget are looked for where the counts say that something burned.

create or replace function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  asked ops.slo_versions;
  sli ops.slis;
  from_bucket constant timestamptz := date_bin('5 minutes', newest_burners.since, timestamptz '1969-12-29 00:00+00');
  to_bucket constant timestamptz :=
    date_bin('5 minutes', newest_burners.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  select known.* into asked
  from ops.slo_versions as known
  where known.slo_name = newest_burners.slo_name
    and known.valid_from < newest_burners.until
  order by known.version desc
  limit 1;
  if asked.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(newest_burners.slo_name, ''), newest_burners.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  select known.* into strict sli from ops.slis as known where known.sli_id = asked.sli_id;

  return query
  with exclusions as materialized (
    select exclusion.since, exclusion.until
    from ops.slo_exclusions as exclusion
    where exclusion.org_id = owner_id
      and exclusion.slo_name = asked.slo_name
  ),
  account as materialized (
    select summed.total
    from ops.sum_slos(array[row(owner_id, asked.slo_name, asked.version, from_bucket, to_bucket)::ops.slo_span]) as summed
  ),
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select newest.bucket_start, newest.share, sum(newest.bad) over (order by newest.bucket_start desc) - newest.bad as newer
    from (
      select bucket.bucket_start, bucket.total - bucket.good as bad, coalesce(slice.share, 1) as share
      from ops.sli_counts as bucket
      -- A slice is one loss, which its events share.
      left join lateral (
        select case when sum(part.good) < asked.slice_target * sum(part.total) then 1 / (sum(part.total) - sum(part.good)) end as share
        from ops.sli_counts as part
        where part.org_id = owner_id
          and part.sli_id = asked.sli_id
          and part.bucket_start >= greatest(from_bucket, date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'))
          and part.bucket_start
            < least(to_bucket, date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00') + asked.time_slice)
          and not exists (
            select
            from exclusions
            where exclusions.since < part.bucket_start + interval '5 minutes'
              and exclusions.until > part.bucket_start
          )
      ) as slice
        on asked.time_slice is not null
      where bucket.org_id = owner_id
        and bucket.sli_id = asked.sli_id
        and bucket.bucket_start >= from_bucket
        and bucket.bucket_start < to_bucket
        and bucket.total > bucket.good
        and (asked.time_slice is null or slice.share is not null)
        and not exists (
          select
          from exclusions
          where exclusions.since < bucket.bucket_start + interval '5 minutes'
            and exclusions.until > bucket.bucket_start
        )
      order by bucket.bucket_start desc
      limit newest_burners.max_events
    ) as newest
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        case sli.objective when 'latency' then format('took %s ms, the limit is %s ms', event.duration_ms, sli.threshold_ms) else 'failed' end
          as reason
      from (
        select stored.*
        from public.telemetry_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where sli.objective <> 'availability'
        and event.event_type = sli.event_type
        and event.id <= counted_until
        and event.event_timestamp < sli.filled_until
        and case sli.objective
          when 'latency' then event.outcome = 'success' and event.duration_ms >= sli.threshold_ms
          else event.outcome = 'failure'
        end
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        'never succeeded'
      from ops.work_units as unit
      where sli.objective = 'availability'
        and unit.org_id = owner_id
        and unit.event_type = sli.event_type
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / (account.total * (1 - asked.target))
  from newest
  cross join account
  order by newest.counted_at desc;
end;
$$;
comment on function ops.newest_burners(text, timestamptz, timestamptz, integer, uuid) is
  'The newest counted events (for availability: units of work, at their first attempt) of an org that burned the budget in a range, each with its share of the budget of that range, as explain_slo lists all of them; its cost grows neither with the range nor with how rare they are.';
