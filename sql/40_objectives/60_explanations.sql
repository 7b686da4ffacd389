-- Explanations: the events that burned a budget, and the exclusions from the account.

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
