-- The account of an objective over a range: what it counted, what it lost, exclusions left out.

create type ops.slo_account as (
  slo_name text,
  version integer,
  target numeric,
  time_slice interval,
  slice_target numeric,
  sli_id bigint,
  event_type text,
  objective text,
  threshold_ms numeric,
  filled_until timestamptz,
  since timestamptz,
  until timestamptz
);
comment on type ops.slo_account is 'A version of an objective, how it counts, and a range in whole five minutes over which its budget is explained.';

create function ops.slo_account(slo_name text, since timestamptz, until timestamptz)
returns ops.slo_account
language plpgsql
stable
set search_path = ''
as $$
declare
  account ops.slo_account;
begin
  select
    known.slo_name, known.version, known.target, known.time_slice, known.slice_target,
    sli.sli_id, sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    date_bin('5 minutes', slo_account.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', slo_account.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
  into account
  from ops.slo_versions as known
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  where known.slo_name = slo_account.slo_name
    and known.valid_from < slo_account.until
  order by known.version desc
  limit 1;
  if account.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(slo_account.slo_name, ''), slo_account.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  return account;
end;
$$;
comment on function ops.slo_account(text, timestamptz, timestamptz) is
  'The version of an objective that held at the end of a range, with how it counts and the five minutes that the range touches; refused where there was none.';

create function ops.account_counts(account ops.slo_account, only_org_id uuid default null)
returns table (org_id uuid, bucket_start timestamptz, slice_start timestamptz, good bigint, total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    bucket.org_id,
    bucket.bucket_start,
    coalesce(date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), account.since),
    bucket.good,
    bucket.total
  from ops.sli_counts as bucket
  where bucket.sli_id = account.sli_id
    and (account_counts.only_org_id is null or bucket.org_id = account_counts.only_org_id)
    and bucket.bucket_start >= account.since
    and bucket.bucket_start < account.until
    and not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = bucket.org_id
        and excluded.slo_name = account.slo_name
        and excluded.since <= bucket.bucket_start
        and excluded.until > bucket.bucket_start
    );
end;
$$;
comment on function ops.account_counts(ops.slo_account, uuid) is
  'What an account counts per five minutes, exclusions left out, with the start of the time slice (without slices: of the range).';

create function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
begin
  if account.objective <> 'availability' then
    return query
    select
      attempt.org_id,
      attempt.event_timestamp,
      attempt.event_timestamp,
      attempt.event_id,
      attempt.run_id,
      attempt.tag,
      ops.loss_reason(account.objective, attempt.duration_ms, account.threshold_ms)
    from ops.attempts as attempt
    where attempt.event_type = account.event_type
      and attempt.id <= counted_until
      and attempt.event_timestamp < account.filled_until
      and attempt.event_timestamp >= account.since
      and attempt.event_timestamp < account.until
      and (stored_losses.only_org_id is null or attempt.org_id = stored_losses.only_org_id)
      and case account.objective
        when 'latency' then attempt.succeeded and attempt.duration_ms >= account.threshold_ms
        else not attempt.succeeded
      end;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.event_type = account.event_type
      and not unit.succeeded
      and unit.first_attempt_at >= account.since
      and unit.first_attempt_at < account.until
      and (stored_losses.only_org_id is null or unit.org_id = stored_losses.only_org_id)
  )
  select distinct on (lost_units.org_id, lost_units.unit)
    lost_units.org_id,
    lost_units.first_attempt_at,
    attempt.event_timestamp,
    attempt.event_id,
    attempt.run_id,
    attempt.tag,
    ops.loss_reason(account.objective, null, null)
  from lost_units
  join ops.attempts as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and attempt.event_timestamp < account.filled_until
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;
comment on function ops.stored_losses(ops.slo_account, uuid) is
  'The stored events that an account counts as bad, exclusions not applied; for availability the last attempt of each lost unit of work, counted at its first.';

create function ops.account_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text,
  slice_start timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with stored as materialized (
    select found.*, date_bin('5 minutes', found.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as found
  ),
  -- What retention removed was counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from ops.account_counts(account, account_losses.only_org_id) as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  )
  select
    bad.*,
    coalesce(date_bin(account.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'), account.since) as slice_start
  from (
    select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
    from stored
    where not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = stored.org_id
        and excluded.slo_name = account.slo_name
        and excluded.since <= stored.bucket_start
        and excluded.until > stored.bucket_start
    )
    union all
    select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
    from removed
    cross join generate_series(1, removed.missing)
  ) as bad;
end;
$$;
comment on function ops.account_losses(ops.slo_account, uuid) is
  'One row per bad event of an account, exclusions left out, with its time slice: the stored ones, and those that retention removed, without an event_id and at the start of their five minutes.';
