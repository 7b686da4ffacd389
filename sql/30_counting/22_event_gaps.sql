-- Gaps behind the cursor: ids that may still appear, because a transaction that drew them was open when the cursor passed.

create type ops.event_ids as (after_id bigint, until_id bigint, missing int8multirange, late bigint[]);
comment on type ops.event_ids is
  'A set of ids of events: those with after_id < id <= until_id that are not missing, and those of late (null: none). Readers of the set name it in one condition, of which the planner drops the parts that are empty.';

create table ops.event_gaps (
  until_id bigint not null,
  ids int8multirange not null,
  writers text[] not null,
  noted_at timestamptz not null,
  constraint event_gaps_pkey primary key (until_id),
  constraint event_gaps_ids_are_some check (not isempty(ids))
);
comment on table ops.event_gaps is
  'One row per set of transactions that may still commit events behind the cursor. Each refresh counts those of the ids that have appeared, and forgets the rest once the transactions have ended.';
comment on column ops.event_gaps.until_id is 'The cursor after the refresh that noted the newest of the ids.';
comment on column ops.event_gaps.ids is 'Ids behind the cursor that have not been counted: not visible when the cursor passed, most of them rolled back.';
comment on column ops.event_gaps.writers is
  'The transactions as ops.open_writers names them; none: they have ended, and the ids have appeared and wait for a smaller refresh.';
comment on column ops.event_gaps.noted_at is 'When the oldest of the ids was noted.';
alter table ops.event_gaps enable row level security;
create policy event_gaps_select_authenticated on ops.event_gaps for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create table ops.awaited_writers (
  name text not null,
  pid integer,
  gid text,
  login text,
  application text,
  since timestamptz not null,
  waiting_since timestamptz not null,
  constraint awaited_writers_pkey primary key (name),
  constraint awaited_writers_is_a_session_or_prepared check ((pid is null) <> (gid is null))
);
comment on table ops.awaited_writers is
  'One row per open transaction that the last refresh waited for, because as many gaps as may be kept were kept for it and others; no row: it waited for none.';
comment on column ops.awaited_writers.name is 'The transaction as pg_locks names it.';
comment on column ops.awaited_writers.pid is 'The server process; null for a prepared transaction.';
comment on column ops.awaited_writers.gid is 'The name of a prepared transaction; else null.';
comment on column ops.awaited_writers.login is 'The user; null where the job may not see it.';
comment on column ops.awaited_writers.application is 'application_name of the session; null where the job may not see it and for a prepared transaction.';
comment on column ops.awaited_writers.since is 'When the transaction began or was prepared; where the job may not see that, when it was first noted.';
comment on column ops.awaited_writers.waiting_since is 'Since when refreshes have waited.';
alter table ops.awaited_writers enable row level security;
-- The sessions of the server concern all tenants.
create policy awaited_writers_select_admin on ops.awaited_writers for select to authenticated
  using ((select ops.caller_may('{admin}')) is not null and (select ops.bound_org_id()) is null);

create function ops.missing_ids()
returns int8multirange
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select range_agg(gap.ids) from ops.event_gaps as gap), '{}');
end;
$$;
comment on function ops.missing_ids() is 'The ids behind the cursor that have not been counted, whether their events have appeared or not.';

create function ops.late_ids()
returns bigint[]
language plpgsql
stable
set search_path = ''
-- The planner takes the ranges for a few; one index scan each is right for any number of them.
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  missing int8multirange;
begin
  -- Views ask for fresh counts whether there are gaps or not.
  if not exists (select from ops.event_gaps) then
    return null;
  end if;
  missing := ops.missing_ids();
  return (
    with parts as (
      select lower(part.ids) as first_id, upper(part.ids) as end_id from unnest(missing) as part (ids)
    ),
    -- Gaps that lie close together are read at once: 10,000 of every second id take 40 ms, one by one 200.
    apart as (
      select parts.*, parts.first_id - lag(parts.end_id, 1, -100) over (order by parts.first_id) >= 100 as is_apart
      from parts
    ),
    numbered as (
      select apart.*, count(*) filter (where apart.is_apart) over (order by apart.first_id) as stretch
      from apart
    ),
    stretches as materialized (
      select min(numbered.first_id) as first_id, max(numbered.end_id) as end_id from numbered group by numbered.stretch
    )
    select array_agg(distinct found.id order by found.id)
    from stretches
    cross join lateral (
      select event.id
      from public.telemetry_events as event
      where event.id >= stretches.first_id
        and event.id < stretches.end_id
      offset 0
    ) as found
    where found.id <@ missing
  );
end;
$$;
comment on function ops.late_ids() is 'The ids behind the cursor whose events have appeared and have not been counted, ascending; null: there is none.';

create function ops.fresh_ids()
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  return row(ops.cursor_id(), 9223372036854775807, '{}', ops.late_ids())::ops.event_ids;
end;
$$;
comment on function ops.fresh_ids() is 'The ids of the events that no refresh has counted yet: those behind the cursor (after it), and late ones in its gaps.';

create function ops.counted_ids()
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  return row(0, ops.cursor_id(), ops.missing_ids(), null)::ops.event_ids;
end;
$$;
comment on function ops.counted_ids() is 'The ids of the events that have been counted: those up to the cursor without its gaps.';

create view ops.uncounted_events
with (security_invoker = true)
as
select event.id, event.org_id, event.created_at
from public.telemetry_events as event
where event.id > (select ops.cursor_id())
-- Two scans, because for one condition with "or" the planner reads all events.
union all
select event.id, event.org_id, event.created_at
from public.telemetry_events as event
where event.id = any (array(select unnest(ops.late_ids())));
comment on view ops.uncounted_events is 'One row per event that no refresh has counted yet.';
