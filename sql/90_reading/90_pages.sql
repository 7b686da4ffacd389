-- Further reads of the dashboard: activity, teams, patterns, filter choices, freshness; and the silences it sets.

create function ops.activity(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb default '{}',
  only_event_type text default null,
  org_id uuid default null
)
returns table (event_type text, period_start timestamptz, events bigint, failures bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- Under row level security the planner has no statistics of labels; taking the series that have them for one, it looked for
-- the rollups of each (106 s for the teams page of 1,000 teams, where hashing takes 0.4 s).
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(activity.org_id);
  spans record;
begin
  select * into strict spans from ops.period_window(activity.period, activity.since, activity.until, activity.until);
  return query
  select
    part.event_type,
    part.period_start,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'outcome' = 'failure'), 0)::bigint
  from ops.rollup_parts as part
  where part.org_id = owner_id
    and part.period = activity.period
    and part.period_start >= spans.window_start
    and part.period_start < spans.window_end
    and part.event_type <> 'slsa_audit_metrics'
    and (activity.only_event_type is null or part.event_type = activity.only_event_type)
    and (activity.filters = '{}' or part.labels @> activity.filters)
  group by 1, 2
  order by 1, 2;
end;
$$;
comment on function ops.activity(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'Events and failures by type and period of an org, of events with the labels of filters, events behind the cursor included.';

create function ops.team_compliance(
  period text,
  since timestamptz,
  until timestamptz,
  as_of timestamptz,
  filters jsonb default '{}',
  org_id uuid default null
)
returns table (team text, part text, period_start timestamptz, executions bigint, overridden bigint, blocked bigint, compliance_rate numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- As for ops.activity.
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(team_compliance.org_id);
  spans record;
begin
  select * into strict spans
  from ops.period_window(team_compliance.period, team_compliance.since, team_compliance.until, team_compliance.as_of);
  return query
  -- By team and period first, so that what is placed below is few.
  with teams as materialized (
    select
      part.labels ->> 'team' as team,
      part.period_start,
      sum(part.event_count) as executions,
      sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden') as overridden,
      sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked') as blocked,
      sum(part.event_count) filter (where part.labels ->> 'result' in ('allowed', 'blocked', 'overridden')) as decided
    from ops.rollup_parts as part
    where part.org_id = owner_id
      and part.period = team_compliance.period
      and part.period_start >= spans.previous_start
      and part.period_start < spans.window_end
      and part.event_type = 'hook_execution'
      -- Not by "?", which the planner takes for one row in a hundred.
      and part.labels ->> 'team' is not null
      and (team_compliance.filters = '{}' or part.labels @> team_compliance.filters)
    group by 1, 2
  )
  select
    teams.team,
    place.part,
    case place.part when 'period' then teams.period_start end,
    sum(teams.executions)::bigint,
    coalesce(sum(teams.overridden), 0)::bigint,
    coalesce(sum(teams.blocked), 0)::bigint,
    round(100 - 100 * coalesce(sum(teams.overridden), 0) / nullif(sum(teams.decided), 0), 6)
  from teams
  cross join lateral (
    values
      ('period', teams.period_start >= spans.window_start),
      ('whole', teams.period_start >= spans.window_start),
      ('settled', teams.period_start >= spans.window_start and teams.period_start < spans.settled_end),
      ('previous', teams.period_start < spans.window_start)
  ) as place (part, is_in)
  where place.is_in
  group by 1, 2, 3
  order by 1, 2, 3;
end;
$$;
comment on function ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'Hook executions of each team and the share of those that decided which was not overridden (percent), by period, over the window (whole), its periods that are over (settled) and as many before it (previous).';

create function ops.top_patterns(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb default '{}',
  org_id uuid default null
)
returns table (pattern text, blocked_count bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(top_patterns.org_id);
  spans record;
begin
  select * into strict spans from ops.period_window(top_patterns.period, top_patterns.since, top_patterns.until, top_patterns.until);
  return query
  select part.pattern, sum(part.blocked_count)::bigint
  from ops.blocked_pattern_parts as part
  where part.org_id = owner_id
    and part.period = top_patterns.period
    and part.period_start >= spans.window_start
    and part.period_start < spans.window_end
    and part.team = coalesce(top_patterns.filters ->> 'team', part.team)
    and part.hook_type = coalesce(top_patterns.filters ->> 'hook_type', part.hook_type)
  group by 1
  order by 2 desc, 1
  limit 10;
end;
$$;
comment on function ops.top_patterns(text, timestamptz, timestamptz, jsonb, uuid) is
  'The ten patterns that blocked most executions in the periods that a window touches, of one team or hook type if filters name it.';

create function ops.filter_choices(org_id uuid default null)
returns table (filter text, choice text)
language sql
stable
set search_path = ''
begin atomic
  select distinct label.key, label.value
  from ops.series
  cross join lateral jsonb_each_text(series.labels) as label
  where series.org_id = (select ops.caller_org(filter_choices.org_id))
    and label.key in ('team', 'hook_type', 'workflow')
  union
  select 'event_type', series.event_type
  from ops.series
  where series.org_id = (select ops.caller_org(filter_choices.org_id))
    and series.event_type <> 'slsa_audit_metrics'
  order by 1, 2;
end;
comment on function ops.filter_choices(uuid) is 'The teams, hook types, workflows and event types that an org''s counted events name.';

create function ops.freshness(org_id uuid default null)
returns table (
  last_refresh_at timestamptz,
  is_stale boolean,
  events_waiting bigint,
  newest_event_at timestamptz,
  alerts_evaluated_at timestamptz,
  events_set_aside bigint,
  stale_since timestamptz,
  is_waiting boolean,
  waits_for text
)
language sql
stable
set search_path = ''
begin atomic
  select
    jobs.last_run_at,
    jobs.freshness <> 'fresh',
    (
      select count(*)
      from ops.uncounted_events as event
      where event.org_id = caller.org_id
    ),
    (select max(event.event_timestamp) from public.telemetry_events as event where event.org_id = caller.org_id),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (select count(*) from ops.uncountable_events as aside where aside.org_id = caller.org_id),
    jobs.stale_since,
    coalesce(
      (
        select run.outcome = 'waiting'
        from ops.job_runs as run
        where run.job = 'refresh'
          and run.outcome in ('success', 'waiting')
        order by run.started_at desc
        limit 1
      ),
      false
    ),
    ops.awaited_in_words()
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join ops.counting_freshness(now()) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, when the alerts were last evaluated, how many of its events could not be counted, whether counting waits for transactions that stay open, and for which (null: for none, or the caller is a tenant without the scope admin).';

create function ops.change_marker(org_id uuid default null)
returns text
language sql
stable
set search_path = ''
return (
  -- A digest, and of instants instead of ids: how many events there are of all tenants can be told from neither.
  select encode(sha256(convert_to(concat_ws(
    ' ',
    (select cursors.moved_at from ops.cursors where cursors.name = 'telemetry_events'),
    (
      -- Their number, too: one that commits late may have begun earlier.
      select max(event.created_at) || '/' || count(*)
      from ops.uncounted_events as event
      where event.org_id = caller.org_id
    ),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (
      select max(audit.updated_at) || '/' || count(*)
      from public.slsa_audit_metrics as audit
      where audit.org_id = caller.org_id
    )
  ), 'UTF8')), 'hex')
  from (select ops.caller_org(change_marker.org_id) as org_id offset 0) as caller
);
comment on function ops.change_marker(uuid) is
  'A text that is another one whenever something that an org''s pages show may have changed; its parts mean nothing to others.';

create function public.silence_own_alerts(matcher text, until timestamptz, reason text)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  owner_id constant uuid := ops.caller_org();
begin
  if owner_id is null or (row_security_active('ops.alert_silences') and not ops.caller_has_scope('admin')) then
    raise exception 'silencing alerts needs the scope admin'
      using errcode = 'PT403', hint = 'Use a key or token of an organisation whose app_metadata.scopes lists admin.';
  end if;
  if silence_own_alerts.until > now() + interval '1 year' then
    raise exception 'a silence until % is too long', silence_own_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant within a year; switch the rule off instead.';
  end if;
  return ops.silence_alerts(
    silence_own_alerts.matcher,
    silence_own_alerts.until,
    left(silence_own_alerts.reason, 1000),
    -- Who it was, as the token says it.
    coalesce(left(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', 200), current_user),
    owner_id
  );
end;
$$;
comment on function public.silence_own_alerts(text, timestamptz, text) is
  'Keeps alerts of the caller''s org (a rule, an objective or other subject, a service; * for all) from being sent until an instant, a year ahead at most; returns the number of the silence. Needs the scope admin.';
