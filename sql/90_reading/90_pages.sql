-- Further reads of the dashboard: activity, teams, patterns, burners, filter choices, freshness; and the silences it sets.

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
    and part.labels @> activity.filters
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
  select
    part.labels ->> 'team',
    place.part,
    case place.part when 'period' then part.period_start end,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0)::bigint,
    round(
      100 - 100 * coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0) / nullif(sum(part.event_count), 0),
      6
    )
  from ops.rollup_parts as part
  cross join lateral (
    values
      ('period', part.period_start >= spans.window_start),
      ('whole', part.period_start >= spans.window_start),
      ('settled', part.period_start >= spans.window_start and part.period_start < spans.settled_end),
      ('previous', part.period_start < spans.window_start)
  ) as place (part, is_in)
  where part.org_id = owner_id
    and part.period = team_compliance.period
    and part.period_start >= spans.previous_start
    and part.period_start < spans.window_end
    and part.event_type = 'hook_execution'
    and part.labels ? 'team'
    and part.labels @> team_compliance.filters
    and place.is_in
  group by 1, 2, 3
  order by 1, 2, 3;
end;
$$;
comment on function ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'Hook executions of each team and the share that was not overridden (percent), by period, over the window (whole), its periods that are over (settled) and as many before it (previous).';

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

create function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric)
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
  with spans as materialized (
    select version.slo_name, version.version, version.target, burning.window_name, burning.since, burning.until
    from ops.slo_versions as version
    cross join ops.burn_windows(slo_burn_rates.as_of) as burning
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(select row(owner_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans),
      array(select row(fresh.*)::ops.sli_delta from ops.fresh_slis() as fresh where fresh.org_id = owner_id)
    ) as summed
  )
  select spans.slo_name, spans.window_name, sums.good, sums.total, ops.burn_rate(sums.good, sums.total, spans.target)
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.since = spans.since
  order by spans.slo_name, spans.since desc;
end;
$$;
comment on function ops.slo_burn_rates(timestamptz, uuid) is
  'The burn rate of each objective of an org over the windows that alerts look at, exclusions applied, with the counts behind it; null where nothing was counted.';

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

create function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  account constant ops.slo_account := ops.slo_account(newest_burners.slo_name, newest_burners.since, newest_burners.until);
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until)::ops.slo_span]
    ) as summed
  ),
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select lost.* from ops.newest_losses(account, owner_id, newest_burners.max_events) as lost
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms) as reason
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and case account.objective
          when 'latency' then event.outcome = 'success' and event.duration_ms >= account.threshold_ms
          else event.outcome = 'failure'
        end
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.event_type = account.event_type
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;
comment on function ops.newest_burners(text, timestamptz, timestamptz, integer, uuid) is
  'The newest counted events (for availability: units of work, at their first attempt) of an org that burned the budget in a range, each with its share of the budget of that range, as explain_slo lists all of them; its cost grows neither with the range nor with how rare they are.';

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
  events_set_aside bigint
)
language sql
stable
set search_path = ''
begin atomic
  select
    jobs.last_refresh_at,
    coalesce(jobs.last_refresh_at < now() - 2 * ops.refresh_interval(), true),
    (
      select count(*)
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
    ),
    (select max(event.event_timestamp) from public.telemetry_events as event where event.org_id = caller.org_id),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (select count(*) from ops.uncountable_events as aside where aside.org_id = caller.org_id)
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join (
    select max(run.finished_at) as last_refresh_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  ) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, when the alerts were last evaluated, and how many of its events could not be counted.';

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
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
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
