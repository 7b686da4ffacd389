-- The versions that judge an account, and the budget of which its losses are shares.

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
