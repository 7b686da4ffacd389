-- Explanations: the events that burned a budget, and the exclusions from the account.

create function ops.explain_account(account ops.slo_account, only_org_id uuid default null)
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
  slo_group jsonb
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with slices as materialized (
    select bucket.org_id, bucket.slice_start, sum(bucket.good) as good, sum(bucket.total) as total
    from ops.account_counts(account, explain_account.only_org_id) as bucket
    group by 1, 2
  ),
  budgets as (
    -- In time slices a slice is what counts, else an event is.
    select
      slices.org_id,
      ops.allowed_losses(
        case when account.time_slice is null then sum(slices.total) else count(*) filter (where slices.total > 0) end,
        account.target
      ) as allowed
    from slices
    group by 1
  ),
  placed as materialized (
    select lost.* from ops.account_losses(account, explain_account.only_org_id) as lost
  ),
  numbered as (
    select
      placed.*,
      row_number() over (partition by placed.org_id order by placed.counted_at, placed.event_id) as place,
      row_number() over (partition by placed.org_id, placed.slice_start order by placed.counted_at, placed.event_id) as place_in_slice,
      count(*) over (partition by placed.org_id, placed.slice_start) as bad_in_slice,
      dense_rank() over (partition by placed.org_id order by placed.slice_start) as slice_number
    from placed
    join slices
      on slices.org_id = placed.org_id
      and slices.slice_start = placed.slice_start
    where account.time_slice is null
      or slices.good < account.slice_target * slices.total
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
    select weighed.*, weighed.lost_so_far / budgets.allowed as consumed_so_far
    from weighed
    join budgets
      on budgets.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    account.version,
    burnt.event_timestamp,
    burnt.event_id,
    account.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0),
    account.slo_group
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_account(ops.slo_account, uuid) is
  'The counted events that burned the budget of an account, each with its share of it; the costs of an org add up to exactly its burn rate.';

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
  slo_group jsonb
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
  if since is null or until is null or since >= until then
    raise exception 'the range to explain is empty: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
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
    return query select found.* from ops.explain_account(account, only_org_id) as found;
  end loop;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid, jsonb) is
  'The counted events that burned the budget in the five-minute steps of a range, by the version that held at its end, group by group (only_group null: all groups); cost is a share of the budget of that range, and the costs of an org and group add up to exactly its burn rate there. One that is no longer stored has no event_id, and the start of its five minutes as its time.';
