-- Simulations only read, so that they run on replicas and take no lock; explanations use the budget of status.

drop function ops.trial_conditions;
drop function ops.trial_sums;
drop function ops.rules_of_slos;
drop function ops.explain_slo;
drop function ops.explain_account;
drop function ops.fitting_slis;

create function ops.sli_of(slo ops.slos)
returns ops.slis
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
immutable
set search_path = ''
as $$
declare
  counted ops.slis;
begin
  counted.event_type := slo.event_type;
  counted.objective := slo.objective;
  counted.threshold_ms := slo.threshold_ms;
  counted.at_most := slo.at_most;
  counted.total_labels := slo.total_labels;
  counted.good_labels := slo.good_labels;
  counted.bad_labels := slo.bad_labels;
  counted.group_by := slo.group_by;
  counted.sli_id := ops.sli_key(
    slo.event_type, slo.objective, slo.threshold_ms, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels, slo.group_by
  );
  return counted;
end;
$$;
comment on function ops.sli_of(ops.slos) is
  'The SLI by which an objective in canonical form counts, whether or not it is stored; up to when it is filled is null.';

create or replace function ops.require_sli(slo ops.slos)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.slis := ops.sli_of(slo);
begin
  -- An SLI has nothing to fill while nothing has been counted; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  counted.counted_since := '-infinity';
  counted.filled_until := case
    when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
    else timestamptz '-infinity'
  end;
  insert into ops.slis select counted.* on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  perform
  from ops.slis as sli
  where sli.sli_id = counted.sli_id
    and to_jsonb(sli) - array['filled_until', 'counted_since'] = to_jsonb(counted) - array['filled_until', 'counted_since'];
  if not found then
    raise exception 'the objective % has the key % of another way of counting', slo.slo_name, counted.sli_id
      using errcode = 'OP001', hint = 'Change its threshold or a label a little: the chance of this is 1 in 10^19.';
  end if;
  return counted.sli_id;
end;
$$;

create view ops.counting_slis
with (security_invoker = true)
as
select
  sli.sli_id, sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels, sli.group_by
from ops.slis as sli
union all
select
  tried.sli_id, tried.event_type, tried.objective, tried.threshold_ms, tried.at_most, tried.total_labels, tried.good_labels, tried.bad_labels,
  tried.group_by
from jsonb_to_recordset(nullif(current_setting('ops.tried_slis', true), '')::jsonb) as tried (
  sli_id bigint,
  event_type text,
  objective text,
  threshold_ms numeric,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb,
  group_by text[]
)
where not exists (select from ops.slis as stored where stored.sli_id = tried.sli_id);
comment on view ops.counting_slis is
  'One row per SLI by which events can be counted: those that are stored and, while ops.trial_counts runs, those that it tries.';

create or replace view ops.sli_kinds
with (security_invoker = true)
as
select
  asked.event_type,
  kind.value_key,
  case when kind.label_keys[1] <> 'team' and kind.label_keys[1] = any (asked.keys) then kind.label_keys[1] end as key_1,
  case when kind.label_keys[2] <> 'team' and kind.label_keys[2] = any (asked.keys) then kind.label_keys[2] end as key_2,
  case when kind.label_keys[3] <> 'team' and kind.label_keys[3] = any (asked.keys) then kind.label_keys[3] end as key_3,
  case when kind.label_keys[4] <> 'team' and kind.label_keys[4] = any (asked.keys) then kind.label_keys[4] end as key_4,
  'team' = any (asked.keys) as asks_team
from (
  select
    sli.event_type,
    array(
      select distinct key.name
      from ops.counting_slis as same_kind
      cross join lateral (
        select jsonb_object_keys(same_kind.total_labels || same_kind.good_labels || coalesce(same_kind.bad_labels, '{}'))
        union all
        select unnest(same_kind.group_by)
      ) as key (name)
      where same_kind.event_type = sli.event_type
    ) as keys
  from ops.counting_slis as sli
  group by 1
) as asked
left join ops.event_types as kind
  on kind.event_type = asked.event_type;

create function ops.fitting_slis(seen ops.sli_labels[], sli_ids bigint[])
returns table (sli ops.counting_slis, labels ops.sli_labels, fits_good boolean, fits_bad boolean, slo_group jsonb, counted_as bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    counting,
    combination.labels,
    ops.labels_fit(combination.named, counting.good_labels),
    case when counting.bad_labels is not null then ops.labels_fit(combination.named, counting.bad_labels) end,
    own.slo_group,
    coalesce(ops.group_key(counting.sli_id, own.slo_group), counting.sli_id)
  from (
    select
      one as labels,
      one.event_type,
      jsonb_strip_nulls(jsonb_object(
        array[coalesce(kind.key_1, '1'), coalesce(kind.key_2, '2'), coalesce(kind.key_3, '3'), coalesce(kind.key_4, '4'), 'team'],
        array[one.label_1, one.label_2, one.label_3, one.label_4, one.team]
      )) as named
    from unnest(seen) as one
    join ops.sli_kinds as kind
      on kind.event_type = one.event_type
    offset 0
  ) as combination
  join ops.counting_slis as counting
    on counting.event_type = combination.event_type
    and counting.sli_id = any (sli_ids)
  -- A barrier: the group is found once.
  cross join lateral (
    select case when counting.group_by <> '{}' then ops.label_group(combination.named, counting.group_by) end as slo_group offset 0
  ) as own
  where counting.total_labels = '{}'
    or ops.labels_fit(combination.named, counting.total_labels);
end;
$$;
comment on function ops.fitting_slis(ops.sli_labels[], bigint[]) is
  'Which of the SLIs count events of each combination of labels, and whether these are labels of good and (null: the SLI does not say) of bad events; slo_group is the group of these labels, null where the SLI has none, and counted_as the key of the group, else of the SLI.';

create or replace function ops.sli_limits(sli_ids bigint[])
returns table (event_type text, thresholds_ms numeric[], negative_limits numeric[])
language sql
stable
set search_path = ''
begin atomic
  select
    sli.event_type,
    array_agg(distinct sli.threshold_ms order by sli.threshold_ms) filter (where sli.threshold_ms is not null),
    array_agg(distinct -sli.at_most order by -sli.at_most) filter (where sli.at_most is not null)
  from ops.counting_slis as sli
  where sli.sli_id = any (sli_limits.sli_ids)
    and sli.objective <> 'availability'
  group by 1;
end;

create or replace function ops.count_units(
  ids ops.event_ids,
  since timestamptz default '-infinity',
  until timestamptz default 'infinity',
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_nestloop = off
set enable_mergejoin = off
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if ids.late is null
      and not exists (select from public.telemetry_events as event where event.id > ids.after_id and event.id <= ids.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select unit.*
      from ops.count_units(ids, since, least(count_units.until, stretch.filled_until), stretch.sli_ids) as unit;
    end loop;
    return;
  end if;
  return query
  with grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      event.unit,
      min(event.event_timestamp) as first_attempt_at,
      bool_or(event.outcome = 'success') as succeeded,
      min(event.id) as first_id
    from ops.sli_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < count_units.until
      and event.outcome is not null
      and event.event_type in (
        select sli.event_type from ops.counting_slis as sli where sli.sli_id = any (sli_ids) and sli.objective = 'availability'
      )
    group by event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, event.unit
  ),
  fitting as materialized (
    select (found.sli).sli_id, found.labels, found.slo_group, found.counted_as
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective = 'availability'
  ),
  attempted as materialized (
    select
      grouped.org_id,
      grouped.unit,
      fitting.counted_as,
      min(grouped.first_attempt_at) as first_attempt_at,
      bool_or(grouped.succeeded) as succeeded,
      min(grouped.first_id) as first_id
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from attempted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.first_attempt_at) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select attempted.org_id, attempted.unit, attempted.first_attempt_at, attempted.succeeded, attempted.counted_as, null::bigint, null::jsonb
  from attempted
  left join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  where placed.own_id is null
  union all
  select
    attempted.org_id, attempted.unit, min(attempted.first_attempt_at), bool_or(attempted.succeeded), placed.sli_id, placed.of_sli_id, placed.counted_in
  from attempted
  join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  group by attempted.org_id, attempted.unit, placed.sli_id, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.fill_stretch(bigint[], timestamptz, timestamptz, ops.event_ids) is
  'Counts those of some events that are in a range for some SLIs that lack just these; only fill_slis calls it.';

create or replace function ops.window_budget(
  allowed numeric,
  total numeric,
  target numeric,
  slo_window interval,
  elapsed interval,
  whole_slices numeric
)
returns numeric
language sql
immutable
set search_path = ''
-- Trimmed, so that a window that has elapsed has the very quotients of its burn rate, not others in their last digits.
return case
  when total > 0 then trim_scale(allowed + ops.allowed_losses(
    coalesce(whole_slices, total * extract(epoch from slo_window) / extract(epoch from elapsed)) - total, target
  ))
end;

create function ops.slo_window(rolling_window interval, calendar_period text, time_zone text, time_slice interval, as_of timestamptz)
returns table (
  window_length interval,
  window_start timestamptz,
  window_end timestamptz,
  elapsed interval,
  whole_slices numeric,
  budget_basis text
)
language sql
stable
set search_path = ''
begin atomic
  select
    lasting.window_length,
    lasting.window_start,
    lasting.window_end,
    case when basis.name = 'expected' then greatest(slo_window.as_of - lasting.window_start, interval '5 minutes') else lasting.window_length end,
    case when basis.name = 'slices' then extract(epoch from lasting.window_length) / extract(epoch from slo_window.time_slice) end,
    basis.name
  from (
    select
      ops.slo_window_length(slo_window.rolling_window, slo_window.calendar_period, slo_window.time_zone, slo_window.as_of) as window_length,
      -- A window begins with the five minutes that hold its first instant.
      date_bin(
        '5 minutes',
        ops.slo_window_start(slo_window.rolling_window, slo_window.calendar_period, slo_window.time_zone, slo_window.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as window_start,
      date_bin('5 minutes', slo_window.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as window_end
    -- A barrier: each is used several times.
    offset 0
  ) as lasting
  cross join lateral (
    select case
      when slo_window.calendar_period is null then 'counted'
      when slo_window.time_slice is not null then 'slices'
      when lasting.window_start + lasting.window_length > lasting.window_end then 'expected'
      else 'counted'
    end as name
  ) as basis;
end;
comment on function ops.slo_window(interval, text, text, interval, timestamptz) is
  'The window of an objective as of an instant, in whole five minutes up to the ones that hold it. budget_basis: the budget is that of what is counted (counted), of what a calendar period will come to at the pace since it began, which is elapsed ago (expected), or of its whole_slices (slices).';

create or replace function ops.slo_windows(as_of timestamptz, slo_names text[] default null)
returns table (
  slo_name text,
  version integer,
  sli_id bigint,
  service text,
  objective text,
  target numeric,
  budgeting_method text,
  expected_interval interval,
  window_length interval,
  window_start timestamptz,
  window_end timestamptz,
  elapsed interval,
  whole_slices numeric,
  budget_basis text
)
language sql
stable
set search_path = ''
begin atomic
  select
    held.slo_name,
    held.version,
    held.sli_id,
    held.service,
    held.objective,
    held.target,
    held.budgeting_method,
    held.expected_interval,
    lasting.window_length,
    lasting.window_start,
    lasting.window_end,
    lasting.elapsed,
    lasting.whole_slices,
    lasting.budget_basis
  from ops.slo_versions as held
  cross join lateral ops.slo_window(
    held.rolling_window, held.calendar_period, held.time_zone, held.time_slice, slo_windows.as_of
  ) as lasting
  where held.valid_from <= slo_windows.as_of
    and held.valid_until > slo_windows.as_of
    and (slo_windows.slo_names is null or held.slo_name = any (slo_windows.slo_names));
end;
comment on function ops.slo_windows(timestamptz, text[]) is
  'One row per objective with the version that held at as_of and its window as ops.slo_window gives it; slo_names null: all objectives.';

create function ops.account_parts(account ops.slo_account)
returns setof ops.slo_account
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    known.slo_name, known.version, known.target, known.time_slice, known.slice_target,
    ops.group_key(sli.sli_id, account.slo_group), sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    -- Five minutes belong to the version that held when they began, as their counts do.
    date_bin('5 minutes', part.since + interval '00:04:59.999999', timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', part.until + interval '00:04:59.999999', timestamptz '1969-12-29 00:00+00'),
    sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels, sli.sli_id, sli.group_by, account.slo_group
  from ops.slo_parts(
    array[row(null, account.slo_name, account.version, account.since, account.until, account.slo_group)::ops.slo_span]
  ) as part
  join ops.slo_versions as known
    on known.slo_name = part.slo_name
    and known.version = part.version
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  order by part.since;
end;
$$;
comment on function ops.account_parts(ops.slo_account) is
  'An account cut where a version took over from another, as ops.slo_parts cuts windows: one account for each version.';

create function ops.running_since(account ops.slo_account, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select date_bin(
    '5 minutes',
    ops.slo_window_start(known.rolling_window, known.calendar_period, known.time_zone, running_since.as_of),
    timestamptz '1969-12-29 00:00+00'
  )
  from ops.slo_versions as known
  where known.slo_name = (running_since.account).slo_name
    and known.version = (running_since.account).version;
end;
comment on function ops.running_since(ops.slo_account, timestamptz) is
  'The start of the window of the version of an account as of an instant.';

create function ops.account_budgets(account ops.slo_account, until timestamptz, org_ids uuid[])
returns table (org_id uuid, allowed numeric, budget_basis text, budget_since timestamptz)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  promise ops.slo_versions;
  -- The end of the range, and not what is still to come.
  as_of timestamptz := least(account_budgets.until, now());
  budgeted_since timestamptz := account.since;
  period record;
begin
  select known.* into promise
  from ops.slo_versions as known
  where known.slo_name = account.slo_name
    and known.version = account.version;
  if ops.running_since(account, as_of) >= as_of then
    -- The range ends with a period, and does not begin the next.
    as_of := as_of - interval '1 microsecond';
  end if;
  select null::interval as window_length, null::interval as elapsed, null::numeric as whole_slices, 'counted' as budget_basis into period;
  if promise.calendar_period is not null and isfinite(as_of) and account.since >= ops.running_since(account, as_of) then
    select held.window_length, held.elapsed, held.whole_slices, held.budget_basis
    into period
    from ops.slo_window(promise.rolling_window, promise.calendar_period, promise.time_zone, promise.time_slice, as_of) as held;
    budgeted_since := ops.running_since(account, as_of);
  end if;
  return query
  select
    summed.org_id,
    ops.window_budget(
      summed.allowed, summed.total, account.target, coalesce(period.window_length, interval '1 day'),
      coalesce(period.elapsed, interval '1 day'), period.whole_slices
    ),
    period.budget_basis,
    budgeted_since
  from ops.sum_windows(array(
    select row(org.id, account.slo_name, account.version, budgeted_since, account.until, account.slo_group)::ops.slo_span
    from unnest(org_ids) as org (id)
  )) as summed;
end;
$$;
comment on function ops.account_budgets(ops.slo_account, timestamptz, uuid[]) is
  'How many may be bad of what orgs count in an account whose range ends at until, each stretch by its own version, on what that rests (budget_basis) and since when (budget_since). For an objective by the calendar that is the budget of the whole period which holds the range, as status has it (expected or slices, and counted once it is over); else the budget of what is counted in the range (counted).';

create function ops.account_slices(account ops.slo_account, only_org_id uuid default null)
returns table (org_id uuid, slice_start timestamptz)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select bucket.org_id, bucket.slice_start
  from ops.account_counts(account, account_slices.only_org_id) as bucket
  group by 1, 2
  having account.time_slice is null
    or sum(bucket.good) < account.slice_target * sum(bucket.total);
end;
$$;
comment on function ops.account_slices(ops.slo_account, uuid) is
  'The time slices of an account that are bad, and where it has none the range itself: only losses in these cost.';

create function ops.explain_account(account ops.slo_account, until timestamptz, only_org_id uuid default null)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric,
  slo_group jsonb,
  budget_basis text,
  budget_since timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with parts as materialized (
    select part from ops.account_parts(account) as part
  ),
  lost as materialized (
    select (parts.part).version, (parts.part).event_type, loss.*
    from parts
    cross join lateral ops.account_losses(parts.part, explain_account.only_org_id) as loss
    join lateral ops.account_slices(parts.part, explain_account.only_org_id) as slice
      on slice.org_id = loss.org_id
      and slice.slice_start = loss.slice_start
  ),
  budgets as materialized (
    select budget.*
    from ops.account_budgets(account, explain_account.until, array(select distinct lost.org_id from lost)) as budget
  ),
  numbered as (
    select
      lost.*,
      row_number() over (partition by lost.org_id order by lost.counted_at, lost.event_id) as place,
      row_number() over (partition by lost.org_id, lost.slice_start, lost.version order by lost.counted_at, lost.event_id) as place_in_slice,
      count(*) over (partition by lost.org_id, lost.slice_start, lost.version) as bad_in_slice,
      dense_rank() over (partition by lost.org_id order by lost.slice_start, lost.version) as slice_number
    from lost
  ),
  weighed as (
    -- What had been lost after each event; the cost is the difference to the one before, so that costs add up exactly.
    select
      numbered.*,
      case
        when account.time_slice is null then numbered.place
        when numbered.place_in_slice = numbered.bad_in_slice then numbered.slice_number
        else numbered.slice_number - 1 + numbered.place_in_slice::numeric / numbered.bad_in_slice
      end as lost_so_far
    from numbered
  ),
  burnt as (
    select weighed.*, ops.share_of_budget(weighed.lost_so_far, budgets.allowed) as consumed_so_far, budgets.budget_basis, budgets.budget_since
    from weighed
    join budgets
      on budgets.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    burnt.version,
    burnt.event_timestamp,
    burnt.event_id,
    burnt.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0),
    account.slo_group,
    burnt.budget_basis,
    burnt.budget_since
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_account(ops.slo_account, timestamptz, uuid) is
  'The counted events that burned the budget of an account whose range ends at until, each by the version that held then, with its share of the budget that ops.account_budgets gives; the costs of an org add up to exactly what it consumed.';

create function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null,
  only_group jsonb default null
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
  cost numeric,
  slo_group jsonb,
  budget_basis text,
  budget_since timestamptz
)
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_variable
declare
  account ops.slo_account;
  known jsonb[];
  explained jsonb;
begin
  if until is null or since >= until then
    raise exception 'the range to explain is empty: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  since := coalesce(since, ops.running_since(ops.slo_account(slo_name, until - interval '1 microsecond', until), until));
  account := ops.slo_account(slo_name, since, until);
  known := case
    when account.group_by = '{}' then array[jsonb '{}']
    else array(
      select distinct counted.slo_group
      from ops.sli_groups as counted
      where counted.of_sli_id = account.of_sli_id
        and (only_org_id is null or counted.org_id = only_org_id)
      order by 1
    )
  end;
  if only_group is not null and only_group <> all (known) then
    raise exception 'the objective % has counted nothing in a group %', slo_name, coalesce(ops.group_name(only_group), only_group::text)
      using errcode = 'OP001',
        hint = case account.group_by
          when '{}' then 'It has no groups.'
          else format('It is grouped by %s; opskpi slo lists the groups.', array_to_string(account.group_by, ' and '))
            || case when ops.overflow_group() = any (known) then ' Values beyond the first 1,000 count in the group overflow.' else '' end
        end;
  end if;
  foreach explained in array case when only_group is null then known else array[only_group] end loop
    account := ops.slo_account(slo_name, since, until, explained);
    return query select found.* from ops.explain_account(account, until, only_org_id) as found;
  end loop;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid, jsonb) is
  'The counted events that burned the budget in the five-minute steps of a range (since null: the window that ends there), each by the version that held then, group by group (only_group null: all groups). cost is a share of the budget that begins at budget_since and rests on budget_basis, and the costs of an org and group add up to exactly what they consumed of it. That budget is the one of the range (counted): of a rolling window the share that status says. Of an objective by the calendar it is that of the whole period which holds the range, as status has it: of what the period will come to at the pace so far (expected), of its time slices (slices), or of all that it counted (counted). A range over several periods is explained by the budget of what it counted. An event that is no longer stored has no event_id, and the start of its five minutes as its time.';

create function ops.rule_within_slo(
  rolling_window interval,
  calendar_period text,
  time_zone text,
  target numeric,
  factor numeric,
  budget_share numeric,
  long_window interval
)
returns table (useless_because text, never_fires boolean)
language sql
stable
set search_path = ''
begin atomic
  -- Periods of a calendar differ in length: these are in the shortest and in the longest of each, and what means something in either is left.
  with periods as materialized (
    select
      given.place,
      ops.slo_window_length(
        rule_within_slo.rolling_window, rule_within_slo.calendar_period, rule_within_slo.time_zone, given.as_of
      ) as length
    from (values (1, timestamptz '2026-02-15 12:00+00'), (2, '2028-07-15 12:00+00')) as given (place, as_of)
  ),
  meant as materialized (
    select
      period.place,
      period.length,
      coalesce(
        rule_within_slo.factor, ops.alert_factor(rule_within_slo.budget_share, period.length, rule_within_slo.long_window)
      ) as factor
    from periods as period
  ),
  judged as materialized (
    select
      meant.place,
      meant.factor,
      ops.useless_because(meant.factor, meant.length, rule_within_slo.long_window, rule_within_slo.target) as because
    from meant
  )
  select
    case when count(judged.because) = 2 then min(judged.because) filter (where judged.place = 2) end,
    bool_or(judged.factor >= ops.highest_burn_rate(rule_within_slo.target)) filter (where judged.place = 2)
  from judged;
end;
comment on function ops.rule_within_slo(interval, text, text, numeric, numeric, numeric, interval) is
  'Why a burn-rate rule can mean nothing for an objective with that window and target, in words (null: it means something), and whether its factor is out of reach.';

create or replace function ops.useless_rules(slo_name text default null, rule_name text default null)
returns table (slo_name text, rule_name text, is_own boolean, because text, never_fires boolean)
language sql
stable
set search_path = ''
begin atomic
  select slo.slo_name, rule.rule_name, rule.slo_name is not null, judged.useless_because, judged.never_fires
  from ops.slos as slo
  join ops.alert_rules as rule
    on rule.slo_name = slo.slo_name
    or (
      rule.slo_name is null
      and rule.is_enabled
      and not exists (select from ops.alert_rules as own where own.slo_name = slo.slo_name and own.kind = rule.kind and own.is_enabled)
    )
  cross join lateral ops.rule_within_slo(
    slo.rolling_window, slo.calendar_period, slo.time_zone, slo.target, rule.factor, rule.budget_share, rule.long_window
  ) as judged
  where rule.kind = 'burn_rate'
    and judged.useless_because is not null
    and (useless_rules.slo_name is null or slo.slo_name = useless_rules.slo_name)
    and (useless_rules.rule_name is null or rule.rule_name = useless_rules.rule_name);
end;

create function ops.refuse_useless_rule(rule_name text, slo_name text, because text)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  raise exception 'the rule % can mean nothing for the objective %: %', rule_name, slo_name, because
    using errcode = 'OP001',
      hint = 'The factor must be at least 1 and below 1 / (1 - target), and long_window at most the window of the objective; leave the rule out, or change these.';
end;
$$;
comment on function ops.refuse_useless_rule(text, text, text) is 'Refuses a burn-rate rule that can mean nothing for the objective that has it.';

create or replace function ops.check_alert_factor()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  found record;
begin
  select useless.*
  into found
  from ops.useless_rules(
    slo_name => to_jsonb(new) ->> 'slo_name',
    rule_name => case when tg_table_name = 'alert_rules' then to_jsonb(new) ->> 'rule_name' end
  ) as useless
  where useless.is_own
    and to_jsonb(new) ->> 'slo_name' is not null
  limit 1;
  if found.rule_name is not null then
    perform ops.refuse_useless_rule(found.rule_name, found.slo_name, found.because);
  end if;
  return null;
end;
$$;

create function ops.rules_of_slos(kind text, judged ops.judged_slo[], as_of timestamptz, tried ops.alert_rules[] default null)
returns table (
  slo_name text,
  rule_name text,
  factor numeric,
  budget_share numeric,
  long_window interval,
  short_window interval,
  long_since timestamptz,
  short_since timestamptz,
  silent_for interval
)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with asked as materialized (
    select stored.* from ops.alert_rules as stored where tried is null and stored.is_enabled and stored.kind = rules_of_slos.kind
    union all
    select given.* from unnest(tried) as given where given.is_enabled and given.kind = rules_of_slos.kind
  )
  select
    slo.slo_name,
    rule.rule_name,
    rule.factor,
    rule.budget_share,
    rule.long_window,
    rule.short_window,
    date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00'),
    rule.silent_for
  from asked as rule
  join (select distinct found.slo_name from unnest(judged) as found) as slo
    on slo.slo_name = rule.slo_name
    or (
      rule.slo_name is null
      and rule.event_type is null
      and not exists (
        select
        from asked as own
        where own.slo_name = slo.slo_name
      )
    );
end;
$$;
comment on function ops.rules_of_slos(text, ops.judged_slo[], timestamptz, ops.alert_rules[]) is
  'The rules of a kind that apply to each objective: its own, or else the general ones; with the first instant of each window that ends at as_of. tried: these rules instead of those that are stored.';

create function ops.trial_counts(slis ops.slis[])
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  counted_ids constant ops.event_ids := ops.counted_ids();
  stretch record;
begin
  for stretch in
    select coalesce(known.filled_until, '-infinity') as since, array_agg(distinct tried.sli_id) as sli_ids
    from unnest(slis) as tried
    left join ops.slis as known
      on known.sli_id = tried.sli_id
    where known.filled_until is distinct from 'infinity'
    group by 1
  loop
    -- For ops.counting_slis: views have no parameters. It ends with the transaction, whatever happens here.
    perform set_config('ops.tried_slis', to_jsonb(slis)::text, true);
    return query
    select delta.* from ops.count_attempts(counted_ids, stretch.since, 'infinity', stretch.sli_ids, true) as delta
    union all
    select delta.*
    from ops.unit_slis(array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(counted_ids, stretch.since, 'infinity', stretch.sli_ids, true) as attempted
      )) as changed
    )) as delta;
    perform set_config('ops.tried_slis', '', true);
  end loop;
end;
$$;
comment on function ops.trial_counts(ops.slis[]) is
  'What some SLIs, stored or not, lack of their history, from the events before the cursor: what fill_slis would add to the SLI counts. Nothing where all are stored and filled.';

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
        and excluded.slo_group in ('{}', trial_history.slo_group)
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

create function ops.trial_conditions(
  slo ops.slos, rules ops.alert_rules[], history ops.trial_history, is_group boolean, since timestamptz, until timestamptz
)
returns table (as_of timestamptz, rule_name text, holds boolean, starts boolean, lost_since timestamptz, lost bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  named constant ops.judged_slo[] := array[
    jsonb_populate_record(null::ops.judged_slo, jsonb_build_object('slo_name', slo.slo_name))
  ];
  silent_after constant interval := 2 * ops.in_hours(coalesce(slo.expected_interval, ops.setting('expected_interval')::interval));
  min_failures constant integer := coalesce(slo.min_failures, ops.setting('min_failures')::integer, 3);
  follows_calendar constant boolean := slo.calendar_period is not null;
begin
  return query
  with burning as materialized (
    select rule.* from ops.rules_of_slos('burn_rate', named, trial_conditions.until, rules) as rule
  ),
  sums as materialized (
    select counted.*
    from ops.trial_sums(
      slo, history, trial_conditions.since, trial_conditions.until,
      array(select rule.long_window from burning as rule union select rule.short_window from burning as rule where rule.short_window is not null)
    ) as counted
  ),
  -- A window that rolls is the same at every instant, and asked for once.
  periods as materialized (
    select instant.as_of, slo.target, held.window_length, held.window_start, held.elapsed, held.whole_slices
    from (
      select counted.as_of from sums as counted where counted.length is null and follows_calendar
      union all
      select trial_conditions.until where not follows_calendar
    ) as instant (as_of)
    cross join lateral ops.slo_window(slo.rolling_window, slo.calendar_period, slo.time_zone, slo.time_slice, instant.as_of) as held
  ),
  judged as materialized (
    select
      counted.as_of, counted.seen_at, counted.lost, held.target, held.window_length,
      ops.window_budget(
        ops.allowed_losses(counted.total, held.target), counted.total, held.target, held.window_length, held.elapsed, held.whole_slices
      ) as allowed,
      ops.events_needed(held.target, counted.total, held.whole_slices) as events_needed,
      counted.total > 0 and coalesce(counted.seen_at >= counted.as_of - silent_after, true) as is_judged,
      -- A group without anything in the window is over, whether or not that is excluded.
      is_group and coalesce(
        counted.seen_at < case
          when follows_calendar then held.window_start
          else date_bin('5 minutes', counted.as_of - held.window_length, timestamptz '1969-12-29 00:00+00')
        end,
        true
      ) as is_over
    from sums as counted
    join periods as held
      on held.as_of = case when follows_calendar then counted.as_of else trial_conditions.until end
    where counted.length is null
  ),
  ruled as materialized (
    select period.window_length, rule.rule_name, rule.long_window, rule.short_window, meant.factor,
      coalesce(rule.budget_share, ops.budget_share(meant.factor, period.window_length, rule.long_window)) as share
    from (select distinct judged.window_length, judged.target from judged) as period
    cross join burning as rule
    cross join lateral (
      select coalesce(rule.factor, ops.alert_factor(rule.budget_share, period.window_length, rule.long_window)) as factor
      offset 0
    ) as meant
    where ops.useless_because(meant.factor, period.window_length, rule.long_window, period.target) is null
  )
  select
    judged.as_of,
    ruled.rule_name,
    case
      when judged.is_over then false
      when judged.is_judged then ops.is_burning(rates.long, rates.short, ruled.factor)
    end,
    judged.is_judged and ops.begins_alert(
      rates.long, rates.short, short_sum.total, ruled.factor, long_sum.lost, judged.allowed, ruled.share, judged.events_needed, min_failures
    ),
    judged.as_of - ops.in_hours(ruled.long_window),
    long_sum.lost
  from judged
  join ruled
    on ruled.window_length = judged.window_length
  join sums as long_sum
    on long_sum.as_of = judged.as_of
    and long_sum.length = ruled.long_window
  left join sums as short_sum
    on short_sum.as_of = judged.as_of
    and short_sum.length = ruled.short_window
  cross join lateral (
    select
      ops.burn_rate(long_sum.total - long_sum.lost, long_sum.total, judged.target) as long,
      ops.burn_rate(short_sum.total - short_sum.lost, short_sum.total, judged.target) as short
    -- A barrier: each rate is compared twice.
    offset 0
  ) as rates
  union all
  select
    judged.as_of,
    rule.rule_name,
    case
      when judged.is_over then false
      when judged.is_judged and (judged.events_needed = 0 or spent.is_overspent) then spent.is_overspent
    end,
    null,
    null,
    null
  from judged
  cross join ops.rules_of_slos('budget_exhausted', named, trial_conditions.until, rules) as rule
  cross join lateral (select ops.is_overspent(judged.lost, judged.allowed, judged.target) as is_overspent offset 0) as spent
  union all
  select
    judged.as_of,
    rule.rule_name,
    not judged.is_over and coalesce(judged.seen_at < judged.as_of - coalesce(ops.in_hours(rule.silent_for), silent_after), false),
    null,
    null,
    null
  from judged
  cross join ops.rules_of_slos('silent_input', named, trial_conditions.until, rules) as rule;
end;
$$;
comment on function ops.trial_conditions(ops.slos, ops.alert_rules[], ops.trial_history, boolean, timestamptz, timestamptz) is
  'What some rules on an objective, or (is_group) on a group of it, would have found as of every five minutes of a range, by its history up to then: as objective_conditions finds it, from all instants at once. lost: how many were bad since lost_since, which is what a burn rate looks back over.';

create function ops.trial_lost(history ops.trial_history, since timestamptz, until timestamptz)
returns bigint
language sql
immutable
set search_path = ''
begin atomic
  select counted.total - counted.good
  from ops.trial_count(
    (history).good_before, (history).total_before, (history).good_slices, (history).total_slices, (history).steps, (history).slice_target,
    (extract(epoch from since - (history).starts_at) / 300)::integer,
    (extract(epoch from until - (history).starts_at) / 300)::integer
  ) as counted;
end;
comment on function ops.trial_lost(ops.trial_history, timestamptz, timestamptz) is
  'How many were bad between two instants of the five-minute grid of a history.';

create type ops.trial_alert as (
  rule_name text,
  severity text,
  fired_at timestamptz,
  resolved_at timestamptz
);
comment on type ops.trial_alert is 'An alert that would have fired; resolved_at null: it was not over at the end of the trial.';

create function ops.trial_alerts(
  slo ops.slos, rules ops.alert_rules[], history ops.trial_history, is_group boolean, since timestamptz, until timestamptz
)
returns setof ops.trial_alert
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  alert ops.trial_alert;
  alert_after interval;
  pending_since timestamptz;
  mended_at timestamptz;
  mended_since timestamptz;
  mended_lost bigint;
  finding record;
begin
  for finding in
    select found.*
    from ops.trial_conditions(slo, rules, history, is_group, since, until) as found
    order by found.rule_name, found.as_of
  loop
    if finding.rule_name is distinct from alert.rule_name then
      if alert.fired_at is not null then
        return next alert;
      end if;
      select rule.rule_name, rule.severity, rule.alert_after
      into alert.rule_name, alert.severity, alert_after
      from unnest(rules) as rule
      where rule.rule_name = finding.rule_name;
      alert.fired_at := null;
      pending_since := null;
      mended_at := null;
    end if;
    -- From state to state as ops.move_alerts takes an alert: inactive, pending, firing, and then resolved.
    if finding.holds is false then
      if alert.fired_at is not null then
        alert.resolved_at := finding.as_of;
        return next alert;
        mended_at := finding.as_of;
        mended_since := finding.lost_since;
        mended_lost := finding.lost;
      end if;
      alert.fired_at := null;
      alert.resolved_at := null;
      pending_since := null;
    elsif finding.holds and alert.fired_at is null and coalesce(finding.starts, true) then
      -- As ops.repeated_conditions asks: nothing has failed since the alert was resolved, and its failures are still in the window.
      if pending_since is null
        and coalesce(mended_at > finding.lost_since and ops.trial_lost(history, mended_since, finding.as_of) <= mended_lost, false)
      then
        continue;
      end if;
      pending_since := coalesce(pending_since, finding.as_of);
      if finding.as_of - pending_since >= alert_after then
        alert.fired_at := finding.as_of;
      end if;
    end if;
  end loop;
  if alert.fired_at is not null then
    return next alert;
  end if;
end;
$$;
comment on function ops.trial_alerts(ops.slos, ops.alert_rules[], ops.trial_history, boolean, timestamptz, timestamptz) is
  'The alerts that some rules on an objective, or (is_group) on a group of it, would have fired in a range of whole five minutes, evaluated every five minutes.';

create function ops.simulate_slos(slos ops.slos[], rules ops.alert_rules[], since timestamptz, until timestamptz)
returns table (
  org_id uuid,
  rule_name text,
  severity text,
  subject text,
  slo_group jsonb,
  fired_at timestamptz,
  resolved_at timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  slis constant ops.slis[] := array(select distinct ops.sli_of(slo) from unnest(slos) as slo);
  fresh constant ops.sli_delta[] := array(select delta from ops.trial_counts(slis) as delta);
  first_at constant timestamptz := date_bin('5 minutes', since + interval '00:04:59.999999', timestamptz '1969-12-29 00:00+00');
  longest constant interval := coalesce((select max(ops.in_hours(rule.long_window)) from unnest(rules) as rule), interval '0');
begin
  return query
  with fresh_by_key as materialized (
    select delta.org_id, delta.sli_id, array_agg(row(delta.*)::ops.sli_delta) as deltas
    from unnest(fresh) as delta
    group by 1, 2
  ),
  tried as materialized (
    select slo, (ops.sli_of(slo)).sli_id from unnest(slos) as slo
  )
  select counted.org_id, alert.rule_name, alert.severity, (tried.slo).slo_name, counted.slo_group, alert.fired_at, alert.resolved_at
  from tried
  join ops.groups_of_slis(
    array(select ops.orgs_with_objectives()), array(select distinct tried.sli_id from tried), fresh
  ) as counted
    on counted.of_sli_id = tried.sli_id
  left join fresh_by_key as own
    on own.org_id = counted.org_id
    and own.sli_id = counted.sli_id
  cross join lateral (
    select ops.trial_history(
      tried.slo, counted.org_id, counted.slo_group, first_at, simulate_slos.until, longest, coalesce(own.deltas, '{}')
    ) as history
    -- A barrier: it is made once.
    offset 0
  ) as past
  cross join lateral ops.trial_alerts(
    tried.slo, rules, past.history, counted.slo_group <> '{}', first_at, simulate_slos.until
  ) as alert
  order by 6, 2, 4, 5, 1;
end;
$$;
comment on function ops.simulate_slos(ops.slos[], ops.alert_rules[], timestamptz, timestamptz) is
  'The alerts that some rules would have fired over some objectives in a range, had all of them always stood as given, whatever stands: evaluated every five minutes by what had happened by then, each group and org by itself. It only reads.';

create function ops.require_valid(relation regclass, definitions jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  constrained record;
  is_broken boolean;
begin
  for constrained in
    select held.conname as name, pg_catalog.pg_get_expr(held.conbin, held.conrelid) as expression
    from pg_catalog.pg_constraint as held
    where held.conrelid = relation
      and held.contype = 'c'
    union all
    select attribute.attname, pg_catalog.format('%I is not null', attribute.attname)
    from pg_catalog.pg_attribute as attribute
    where attribute.attrelid = relation
      and attribute.attnum > 0
      and attribute.attnotnull
      and not attribute.attisdropped
    order by 1
  loop
    execute format('select exists (select from jsonb_populate_recordset(null::%s, $1) where (%s) is false)', relation, constrained.expression)
    into is_broken
    using definitions;
    if is_broken then
      raise exception 'a row for the table % violates the constraint %', relation, constrained.name
        using errcode = '23514', constraint = constrained.name;
    end if;
  end loop;
end;
$$;
comment on function ops.require_valid(regclass, jsonb) is
  'Refuses rows, as a list of objects, that the check constraints of a table would refuse, or that lack a column that it must have; nothing is inserted.';

create function ops.tried_slos(definitions jsonb)
returns setof ops.slos
language plpgsql
stable
set search_path = ''
as $$
declare
  tried ops.slos;
begin
  for tried in
    select wanted.* from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as wanted order by wanted.slo_name
  loop
    tried := ops.canonical_slo(tried);
    tried.is_enabled := true;
    tried.valid_from := '-infinity';
    -- As ops.check_slo: an objective that stands may count what nobody could begin to count now.
    if not exists (
      select from ops.slos as known where known.slo_name = tried.slo_name and ops.is_same_promise(known, tried)
    ) then
      perform ops.require_countable(tried);
    end if;
    perform ops.require_valid('ops.slos', jsonb_build_array(tried));
    return next tried;
  end loop;
end;
$$;
comment on function ops.tried_slos(jsonb) is 'The objectives that definitions would make, enabled and as if they had always stood; those that could not be made are refused.';

create function ops.tried_rules(definitions jsonb)
returns setof ops.alert_rules
language plpgsql
stable
set search_path = ''
as $$
declare
  tried ops.alert_rules;
begin
  for tried in
    select wanted.* from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as wanted
  loop
    tried.is_enabled := coalesce((select known.is_enabled from ops.alert_rules as known where known.rule_name = tried.rule_name), true);
    perform ops.require_valid('ops.alert_rules', jsonb_build_array(tried));
    return next tried;
  end loop;
  -- Of those that stand the ones for every objective; the own ones of these objectives are what the files say.
  return query
  select known.*
  from ops.alert_rules as known
  where known.slo_name is null
    and not exists (
      select
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as wanted
      where wanted.rule_name = known.rule_name
    );
end;
$$;
comment on function ops.tried_rules(jsonb) is
  'The rules by which the objectives of definitions would be judged: those of the definitions, and those that stand for every objective. A rule that could not be made is refused.';

create function ops.require_useful_rules(slos ops.slos[], rules ops.alert_rules[])
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform ops.refuse_useless_rule(rule.rule_name, slo.slo_name, judged.useless_because)
  from unnest(slos) as slo
  join unnest(rules) as rule
    on rule.slo_name = slo.slo_name
    and rule.kind = 'burn_rate'
  cross join lateral ops.rule_within_slo(
    slo.rolling_window, slo.calendar_period, slo.time_zone, slo.target, rule.factor, rule.budget_share, rule.long_window
  ) as judged
  where judged.useless_because is not null;
end;
$$;
comment on function ops.require_useful_rules(ops.slos[], ops.alert_rules[]) is 'Refuses burn-rate rules that can mean nothing for the objective that has them.';

create function ops.simulate_definitions(definitions jsonb, since timestamptz, until timestamptz, event_type text default null)
returns table (
  org_id uuid,
  rule_name text,
  severity text,
  subject text,
  slo_group jsonb,
  fired_at timestamptz,
  resolved_at timestamptz
)
language plpgsql
stable
set search_path = ''
as $$
declare
  slos ops.slos[];
  rules ops.alert_rules[];
begin
  perform ops.check_definitions(definitions);
  slos := array(select slo from ops.tried_slos(definitions) as slo);
  rules := array(select rule from ops.tried_rules(definitions) as rule);
  perform ops.require_useful_rules(slos, rules);
  return query
  select alert.*
  from ops.simulate_slos(
    array(
      select slo
      from unnest(slos) as slo
      where simulate_definitions.event_type is null
        or slo.event_type = simulate_definitions.event_type
    ),
    rules, since, until
  ) as alert;
end;
$$;
comment on function ops.simulate_definitions(jsonb, timestamptz, timestamptz, text) is
  'The alerts that the objectives and rules in {"slos", "rules"} would have fired in a range, as ops.simulate_slos finds them; refused where slo apply would refuse the definitions. event_type null: all objectives, else those that count it. It only reads.';

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

create or replace function ops.newest_burners(
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

drop function ops.try_slis;
drop function ops.simulate_conditions;
drop function ops.lost_between;
drop function ops.backdate_slos;

revoke execute on function
  ops.account_budgets,
  ops.account_parts,
  ops.account_slices,
  ops.slo_window,
  ops.explain_account,
  ops.explain_slo,
  ops.fitting_slis,
  ops.newest_lost_events,
  ops.refuse_useless_rule,
  ops.require_useful_rules,
  ops.require_valid,
  ops.rule_within_slo,
  ops.rules_of_slos,
  ops.running_since,
  ops.simulate_definitions,
  ops.simulate_slos,
  ops.sli_of,
  ops.trial_alerts,
  ops.trial_conditions,
  ops.trial_counts,
  ops.trial_history,
  ops.trial_lost,
  ops.trial_steps,
  ops.trial_sums,
  ops.tried_rules,
  ops.tried_slos
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.account_budgets,
    ops.account_parts,
    ops.account_slices,
    ops.slo_window,
    ops.explain_account,
    ops.explain_slo,
    ops.fitting_slis,
    ops.newest_lost_events,
    ops.refuse_useless_rule,
    ops.require_useful_rules,
    ops.require_valid,
    ops.rule_within_slo,
    ops.rules_of_slos,
    ops.running_since,
    ops.simulate_definitions,
    ops.simulate_slos,
    ops.sli_of,
    ops.trial_alerts,
    ops.trial_conditions,
    ops.trial_counts,
    ops.trial_history,
    ops.trial_lost,
    ops.trial_steps,
    ops.trial_sums,
    ops.tried_rules,
    ops.tried_slos
  from anon, authenticated, service_role;
  revoke all on ops.counting_slis from anon, authenticated, service_role;
  grant execute on function
    ops.account_budgets,
    ops.account_parts,
    ops.account_slices,
    ops.slo_window,
    ops.explain_account,
    ops.explain_slo,
    ops.fitting_slis,
    ops.newest_lost_events,
    ops.running_since
  to authenticated, service_role;
  grant select on ops.counting_slis to authenticated, service_role;
end;
$$;
