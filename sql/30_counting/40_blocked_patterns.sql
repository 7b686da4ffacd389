-- Counts of the patterns that blocked.

create table ops.blocked_patterns (
  org_id uuid not null,
  period text not null,
  period_start timestamptz not null,
  hook_type text not null,
  pattern text not null,
  blocked_count bigint not null,
  team text not null default '',
  constraint blocked_patterns_pkey primary key (org_id, period, period_start, hook_type, pattern, team),
  constraint blocked_patterns_period_check check (period in ('hour', 'day', 'week', 'month'))
);
comment on table ops.blocked_patterns is 'One row a finding pattern, hook type, team and period: how often it blocked.';
comment on column ops.blocked_patterns.org_id is 'The tenant.';
comment on column ops.blocked_patterns.period is 'hour, day, week (ISO, from Monday) or month.';
comment on column ops.blocked_patterns.period_start is 'First instant of the period.';
comment on column ops.blocked_patterns.hook_type is 'The hook; empty when the event names none.';
comment on column ops.blocked_patterns.pattern is 'The pattern that blocked; [further patterns] stands for all after the first 50 of an event.';
comment on column ops.blocked_patterns.blocked_count is 'Blocked executions (count).';
comment on column ops.blocked_patterns.team is 'The team of the agent; empty when it has none.';
alter table ops.blocked_patterns enable row level security;
create policy blocked_patterns_select_own_org on ops.blocked_patterns for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create type ops.pattern_delta as (
  org_id uuid,
  hook_type text,
  pattern text,
  period text,
  period_start timestamptz,
  blocked_count bigint,
  team text
);
comment on type ops.pattern_delta is 'What is to be added to one row of ops.blocked_patterns.';

create function ops.count_patterns(ids ops.event_ids, since timestamptz, until timestamptz)
returns setof ops.pattern_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the periods for a few rows, and would loop over them for each pattern.
set enable_nestloop = off
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with blocked as (
    select
      event.org_id,
      coalesce(left(event.metadata ->> 'hook_type', 100), '') as hook_type,
      found.pattern,
      event.hour_start,
      coalesce(event.team, '') as team,
      count(*) as blocked_count
    from ops.labelled_events as event
    cross join lateral (
      select left(event.metadata #>> '{findings_summary,pattern}', 100) as pattern
      union
      -- An event of 64 KiB may list thousands, each a row in four periods.
      select case when listed.place <= 50 then left(listed.pattern #>> '{}', 100) else '[further patterns]' end
      from jsonb_path_query(event.metadata, 'lax $.findings_summary.patterns[*]') with ordinality as listed (pattern, place)
      where listed.place <= 51
    ) as found
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < until
      and event.event_type = 'hook_execution'
      and event.metadata ->> 'result' = 'blocked'
      and found.pattern is not null
    group by 1, 2, 3, 4, 5
  ),
  spans as (
    select span.* from ops.kept_spans(array(select distinct blocked.hour_start from blocked)) as span
  )
  select
    blocked.org_id,
    blocked.hook_type,
    blocked.pattern,
    spans.period,
    spans.period_start,
    sum(blocked.blocked_count)::bigint,
    blocked.team
  from blocked
  join spans
    on spans.hour_start = blocked.hour_start
  group by 1, 2, 3, 4, 5, 7;
end;
$$;
comment on function ops.count_patterns(ops.event_ids, timestamptz, timestamptz) is
  'How often each pattern blocked in the given events, per hour, day, week and month, but for those that retention removed. Patterns are findings_summary.pattern and the first 50 of .patterns; an event that lists more counts once under [further patterns].';

create view ops.blocked_pattern_parts
with (security_invoker = true)
as
select stored.org_id, stored.period, stored.period_start, stored.hook_type, stored.pattern, stored.team, stored.blocked_count
from ops.blocked_patterns as stored
union all
select fresh.org_id, fresh.period, fresh.period_start, fresh.hook_type, fresh.pattern, fresh.team, fresh.blocked_count
from ops.count_patterns(ops.fresh_ids(), '-infinity', 'infinity') as fresh;
comment on view ops.blocked_pattern_parts is
  'Parts that add up to how often a pattern blocked: what is stored, and the events behind the cursor beside it.';

create function ops.add_patterns(deltas ops.pattern_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.blocked_patterns as stored (org_id, period, period_start, hook_type, pattern, team, blocked_count)
  select delta.org_id, delta.period, delta.period_start, delta.hook_type, delta.pattern, delta.team, delta.blocked_count
  from unnest(add_patterns.deltas) as delta
  on conflict on constraint blocked_patterns_pkey do update set
    blocked_count = stored.blocked_count + excluded.blocked_count;
end;
comment on function ops.add_patterns(ops.pattern_delta[]) is 'Adds a delta to the blocked patterns; only refresh and rebuild call it, once a delta.';
