-- Burn rates and the newest events that burned a budget, as the pages show them.

create function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(slo_burn_rates.org_id);
begin
  return query
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where delta.org_id = owner_id) as deltas
  ),
  spans as materialized (
    select version.slo_name, grouped.slo_group, version.version, burning.window_name, burning.since, burning.until
    from ops.slo_versions as version
    join (
      select found.*
      from fresh
      cross join lateral ops.groups_of_slis(
        array[owner_id], array(select distinct counting.sli_id from ops.slo_versions as counting), fresh.deltas
      ) as found
    ) as grouped
      on grouped.of_sli_id = version.sli_id
    cross join ops.burn_windows(slo_burn_rates.as_of) as burning
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_windows(
      array(select row(owner_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans),
      (select fresh.deltas from fresh)
    ) as summed
  )
  select spans.slo_name, spans.window_name, sums.good, sums.total, ops.share_of_budget(sums.total - sums.good, sums.allowed), spans.slo_group
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  order by spans.slo_name, spans.slo_group, spans.since desc;
end;
$$;
comment on function ops.slo_burn_rates(timestamptz, uuid) is
  'The burn rate of each objective (or group of it) of an org over the windows that alerts look at, exclusions applied, with the counts behind it; null where nothing was counted.';

create function ops.newest_losses(account ops.slo_account, org_id uuid, max_events integer)
returns table (bucket_start timestamptz, share numeric, newer numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with excluded as materialized (
    select times.since, times.until
    from ops.excluded_times as times
    where times.org_id = newest_losses.org_id
      and times.slo_name = account.slo_name
      and times.slo_group <@ account.slo_group
  )
  select newest.bucket_start, newest.share, sum(newest.bad) over (order by newest.bucket_start desc) - newest.bad
  from (
    select bucket.bucket_start, bucket.total - bucket.good as bad, coalesce(slice.share, 1) as share
    from ops.sli_counts as bucket
    -- A slice is one loss, which its events share.
    left join lateral (
      select case when sum(part.good) < account.slice_target * sum(part.total) then 1 / (sum(part.total) - sum(part.good)) end as share
      from ops.sli_counts as part
      where part.org_id = newest_losses.org_id
        and part.sli_id = account.sli_id
        and part.bucket_start >= greatest(account.since, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'))
        and part.bucket_start
          < least(account.until, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00') + account.time_slice)
        and not exists (select from excluded where excluded.since <= part.bucket_start and excluded.until > part.bucket_start)
    ) as slice
      on account.time_slice is not null
    where bucket.org_id = newest_losses.org_id
      and bucket.sli_id = account.sli_id
      and bucket.bucket_start >= account.since
      and bucket.bucket_start < account.until
      and bucket.total > bucket.good
      and (account.time_slice is null or slice.share is not null)
      and not exists (select from excluded where excluded.since <= bucket.bucket_start and excluded.until > bucket.bucket_start)
    order by bucket.bucket_start desc
    limit newest_losses.max_events
  ) as newest;
end;
$$;
comment on function ops.newest_losses(ops.slo_account, uuid, integer) is
  'The newest five minutes in which an org''s account lost something, each with what one bad event there is of a loss (1; in a time slice its share), and how many bad events are newer.';

create function ops.newest_lost_events(account ops.slo_account, org_id uuid, max_events integer)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, share numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := newest_lost_events.org_id;
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  missing constant int8multirange := ops.missing_ids();
  -- Without labels or a value the events say enough, and nobody has to find out where those stand for each five minutes.
  is_plain constant boolean := account.objective in ('error_rate', 'latency')
    and account.total_labels = '{}' and account.good_labels = '{}' and account.bad_labels is null and account.group_by = '{}';
begin
  return query
  with
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select lost.* from ops.newest_losses(account, owner_id, newest_lost_events.max_events) as lost
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        ops.lost_because(account, row(event.*)::ops.sli_events) as reason
      from (
        select stored.*
        from ops.sli_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and not is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and ops.is_admitted(account, row(event.*)::ops.sli_events)
      union all
      select
        event.event_timestamp,
        event.run_id,
        event.tag,
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        offset 0
      ) as event
      where is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and event.outcome in ('success', 'failure')
        and not ops.sli_verdict(account.objective, event.outcome, event.duration_ms, null, account.threshold_ms, null)
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.sli_id = account.sli_id
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_lost_events.max_events
      and found.reason is not null
    order by found.counted_at desc
    limit newest_lost_events.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share
  from newest
  order by newest.counted_at desc;
end;
$$;
comment on function ops.newest_lost_events(ops.slo_account, uuid, integer) is
  'The newest counted events (for availability: units of work, at their first attempt) that an org''s account lost, each with what it is of a loss (1; in a time slice its share).';

create function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null,
  slo_group jsonb default '{}'
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  account constant ops.slo_account := ops.slo_account(
    newest_burners.slo_name, newest_burners.since, newest_burners.until, newest_burners.slo_group
  );
begin
  return query
  select found.event_timestamp, found.run_id, found.tag, found.reason, ops.share_of_budget(found.share, budget.allowed)
  from ops.account_budgets(account, newest_burners.until, array[owner_id]) as budget
  cross join ops.account_parts(account) as part
  cross join lateral ops.newest_lost_events(part, owner_id, newest_burners.max_events) as found
  order by found.event_timestamp desc
  limit newest_burners.max_events;
end;
$$;
comment on function ops.newest_burners(text, timestamptz, timestamptz, integer, uuid, jsonb) is
  'The newest counted events (for availability: units of work, at their first attempt) of an org, in a group of an objective ({}: without groups), that burned the budget in a range, each with its share of the budget as explain_slo lists all of them; its cost grows neither with the range nor with how rare they are.';
