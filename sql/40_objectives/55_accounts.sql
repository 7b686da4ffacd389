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
  until timestamptz,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb,
  of_sli_id bigint,
  group_by text[],
  slo_group jsonb
);
comment on type ops.slo_account is
  'A version of an objective, or a group of it ({}: all), how it counts, under which key (sli_id), and a range in whole five minutes over which its budget is explained.';

create function ops.slo_account(slo_name text, since timestamptz, until timestamptz, slo_group jsonb default '{}')
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
    ops.group_key(sli.sli_id, slo_account.slo_group), sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    date_bin('5 minutes', slo_account.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', slo_account.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
    sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels, sli.sli_id, sli.group_by, slo_account.slo_group
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
comment on function ops.slo_account(text, timestamptz, timestamptz, jsonb) is
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
        and excluded.slo_group <@ account.slo_group
        and excluded.since <= bucket.bucket_start
        and excluded.until > bucket.bucket_start
    );
end;
$$;
comment on function ops.account_counts(ops.slo_account, uuid) is
  'What an account counts per five minutes, exclusions left out, with the start of the time slice (without slices: of the range).';

create function ops.is_of_group(account ops.slo_account, event ops.sli_events)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  own_group constant jsonb := ops.label_group(ops.named_labels(event), account.group_by);
begin
  if account.slo_group <> ops.overflow_group() then
    return own_group = account.slo_group;
  end if;
  return not exists (
    select
    from ops.sli_groups as counted
    where counted.org_id = event.org_id
      and counted.of_sli_id = account.of_sli_id
      and counted.slo_group = own_group
  );
end;
$$;
comment on function ops.is_of_group(ops.slo_account, ops.sli_events) is 'Whether an event is counted in the group of an account.';

create function ops.is_admitted(account ops.slo_account, event ops.sli_events)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when ops.sli_verdict(account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most) is null
      then false
    when account.total_labels <> '{}' and not ops.labels_fit(ops.named_labels(event), account.total_labels) then false
    when account.group_by <> '{}' then ops.is_of_group(account, event)
    else true
  end;
end;
$$;
comment on function ops.is_admitted(ops.slo_account, ops.sli_events) is 'Whether an account counts an event of its kind.';

create function ops.lost_because(account ops.slo_account, event ops.sli_events)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  fits_good constant boolean := account.good_labels = '{}' or ops.labels_fit(ops.named_labels(event), account.good_labels);
  fits_bad constant boolean := case when account.bad_labels is not null then ops.labels_fit(ops.named_labels(event), account.bad_labels) end;
begin
  return case
    when ops.sli_verdict(
      account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most, fits_good, fits_bad
    ) then null
    when ops.sli_verdict(account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most)
      then ops.loss_reason('events', null, null)
    when account.objective = 'measured' then ops.loss_reason('measured', event.value, account.at_most)
    else ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
  end;
end;
$$;
comment on function ops.lost_because(ops.slo_account, ops.sli_events) is
  'Why an event that an account counts is bad, in words; null: it is good. Of an attempt at a unit of work it says whether that failed.';

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
  missing constant int8multirange := ops.missing_ids();
begin
  if account.objective <> 'availability' then
    return query
    select judged.org_id, judged.event_timestamp, judged.event_timestamp, judged.event_id, judged.run_id, judged.tag, judged.reason
    from (
      select event.*, ops.lost_because(account, event) as reason
      from ops.sli_events as event
      where event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and event.event_timestamp >= account.since
        and event.event_timestamp < account.until
        and (stored_losses.only_org_id is null or event.org_id = stored_losses.only_org_id)
        -- Most events are good by themselves: only where labels can make them bad is each of these judged.
        and (
          account.good_labels <> '{}'
          or account.bad_labels is not null
          or case account.objective
            when 'latency' then event.duration_ms >= account.threshold_ms
            when 'measured' then event.value > account.at_most
            else event.outcome = 'failure'
          end
        )
        and ops.is_admitted(account, event)
      -- A barrier: each is judged once.
      offset 0
    ) as judged
    where judged.reason is not null;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.sli_id = account.sli_id
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
  join ops.sli_events as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and not attempt.id <@ missing
    and attempt.event_timestamp < account.filled_until
    and attempt.outcome is not null
    and (account.total_labels = '{}' and account.group_by = '{}' or ops.is_admitted(account, attempt))
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
  with found as (
    select lost.*, date_bin('5 minutes', lost.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as lost
  ),
  -- An agent that has changed its team may show more losses than were counted; a rebuild makes them the same.
  stored as materialized (
    select placed.*
    from (
      select found.*, row_number() over (partition by found.org_id, found.bucket_start order by found.counted_at, found.event_id) as place
      from found
    ) as placed
    where placed.place <= (
      select bucket.total - bucket.good
      from ops.sli_counts as bucket
      where bucket.org_id = placed.org_id
        and bucket.sli_id = account.sli_id
        and bucket.bucket_start = placed.bucket_start
    )
  ),
  -- Events that retention removed were counted all the same, and the counts say how many that were.
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
        and excluded.slo_group <@ account.slo_group
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
