-- What is worth telling someone: rules, what they find, and the state of each alert.

create table ops.alert_channels (
  channel_name text not null,
  kind text not null,
  secret_env text not null,
  settings jsonb not null default '{}',
  severities text[] not null default '{page,ticket,notice}',
  repeat_interval interval not null default '4 hours',
  max_attempts integer not null default 15,
  only_org_id uuid,
  is_enabled boolean not null default true,
  description text not null default '',
  display_name text,
  labels jsonb not null default '{}',
  annotations jsonb not null default '{}',
  constraint alert_channels_pkey primary key (channel_name),
  constraint alert_channels_kind_check check (kind in ('slack', 'email', 'webhook', 'apprise')),
  -- A name cannot be a URL or a password, so a secret pasted here by mistake is refused.
  constraint alert_channels_secret_env_is_a_variable_name check (secret_env ~ '^[A-Z_][A-Z0-9_]{0,99}$'),
  constraint alert_channels_settings_is_an_object check (jsonb_typeof(settings) = 'object'),
  constraint alert_channels_settings_to_is_a_list_of_texts check (
    jsonb_typeof(coalesce(settings -> 'to', '[]')) = 'array' and not settings @? '$.to[*] ? (@.type() != "string")'
  ),
  constraint alert_channels_labels_and_annotations_are_objects check (
    jsonb_typeof(labels) = 'object' and jsonb_typeof(annotations) = 'object'
  ),
  constraint alert_channels_severities_are_known check (severities <@ array['page', 'ticket', 'notice'] and cardinality(severities) > 0),
  constraint alert_channels_repeat_interval_is_sensible check (repeat_interval >= interval '1 minute' and repeat_interval <= interval '1 year'),
  constraint alert_channels_max_attempts_is_sensible check (max_attempts between 1 and 100)
);
comment on table ops.alert_channels is 'One row a place that alerts are sent to; its secret stays in the environment of the job that sends.';
comment on column ops.alert_channels.channel_name is 'Its name.';
comment on column ops.alert_channels.kind is 'slack (incoming webhook), email, webhook (signed after Standard Webhooks) or apprise.';
comment on column ops.alert_channels.secret_env is 'Name of the environment variable that holds the URL with its secret.';
comment on column ops.alert_channels.settings is 'email: to, from; webhook: signing_env, the name of the variable with the signing secret.';
comment on column ops.alert_channels.severities is 'What it takes: page, ticket, notice.';
comment on column ops.alert_channels.repeat_interval is 'How long until what still fires is sent again.';
comment on column ops.alert_channels.max_attempts is 'Attempts (count) after which a delivery is dead until it is retried by hand.';
comment on column ops.alert_channels.only_org_id is 'Only alerts of this tenant; null: of all.';
comment on column ops.alert_channels.is_enabled is 'False: nothing is sent to it; what waits stays in the outbox.';
comment on column ops.alert_channels.description is 'What it is for.';
comment on column ops.alert_channels.display_name is 'Its name for people; null: the same.';
comment on column ops.alert_channels.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.alert_channels.annotations is 'Annotations of its OpenSLO document that are not ours, kept for the export.';
alter table ops.alert_channels enable row level security;

create table ops.alert_rules (
  rule_name text not null,
  kind text not null,
  slo_name text,
  metric_name text,
  event_type text,
  severity text not null,
  budget_share numeric,
  factor numeric,
  long_window interval,
  short_window interval,
  comparison text,
  threshold numeric,
  lasting interval,
  alert_after interval not null default '0',
  silent_for interval,
  channels text[] not null default '{}',
  notify_resolved boolean not null default true,
  is_enabled boolean not null default true,
  description text not null default '',
  display_name text,
  labels jsonb not null default '{}',
  annotations jsonb not null default '{}',
  constraint alert_rules_pkey primary key (rule_name),
  constraint alert_rules_slo_name_fkey foreign key (slo_name) references ops.slos (slo_name) on delete cascade,
  constraint alert_rules_metric_name_fkey foreign key (metric_name) references ops.kpi_definitions (metric_name),
  constraint alert_rules_kind_check check (
    kind in ('burn_rate', 'budget_exhausted', 'kpi_threshold', 'silent_input', 'silent_agents', 'silent_jobs')
  ),
  constraint alert_rules_severity_check check (severity in ('page', 'ticket', 'notice')),
  constraint alert_rules_burn_rate_has_a_factor_or_a_budget_share check (
    case kind
      when 'burn_rate' then num_nonnulls(factor, budget_share) = 1 and long_window is not null
      else num_nonnulls(factor, budget_share, long_window, short_window) = 0
    end
  ),
  constraint alert_rules_factor_is_positive check (factor > 0),
  constraint alert_rules_budget_share_is_a_share check (budget_share > 0 and budget_share <= 1),
  constraint alert_rules_short_window_is_shorter check (short_window is null or short_window < long_window),
  -- Counts are kept per five minutes.
  constraint alert_rules_windows_are_multiples_of_5_minutes check (
    extract(epoch from long_window) % 300 = 0
    and extract(epoch from coalesce(short_window, interval '5 minutes')) % 300 = 0
    and long_window between interval '5 minutes' and interval '1 year'
    and coalesce(short_window, interval '5 minutes') >= interval '5 minutes'
  ),
  constraint alert_rules_kpi_threshold_is_whole check (
    num_nonnulls(metric_name, comparison, threshold, lasting) = case kind when 'kpi_threshold' then 4 else 0 end
  ),
  constraint alert_rules_comparison_check check (comparison in ('gt', 'gte', 'lt', 'lte')),
  constraint alert_rules_lasting_is_in_hours check (
    lasting between interval '1 hour' and interval '30 days' and extract(epoch from lasting) % 3600 = 0
  ),
  constraint alert_rules_alert_after_is_sensible check (alert_after >= interval '0' and alert_after <= interval '30 days'),
  constraint alert_rules_silent_for_is_sensible check (silent_for >= interval '1 minute' and silent_for <= interval '1 year'),
  constraint alert_rules_silence_has_a_length check (
    kind <> 'silent_agents' and not (kind = 'silent_input' and event_type is not null) or silent_for is not null
  ),
  constraint alert_rules_slo_name_is_for_objectives check (slo_name is null or kind in ('burn_rate', 'budget_exhausted', 'silent_input')),
  constraint alert_rules_labels_and_annotations_are_objects check (
    jsonb_typeof(labels) = 'object' and jsonb_typeof(annotations) = 'object'
  ),
  constraint alert_rules_event_type_is_for_silent_input check (event_type is null or (kind = 'silent_input' and slo_name is null))
);
comment on table ops.alert_rules is 'One row a rule that alerts.';
comment on column ops.alert_rules.rule_name is 'Its name; <objective>/<policy> where it came from an OpenSLO file.';
comment on column ops.alert_rules.kind is
  'burn_rate; budget_exhausted (overspent); kpi_threshold; silent_input (an objective has no_data, or an event type is silent); silent_agents; silent_jobs.';
comment on column ops.alert_rules.slo_name is 'Only this objective; null: each that has no rule of the kind of its own.';
comment on column ops.alert_rules.metric_name is 'kpi_threshold: the KPI, of the org as a whole.';
comment on column ops.alert_rules.event_type is 'silent_input: this kind of event instead of an objective.';
comment on column ops.alert_rules.severity is 'page, ticket or notice; a page of an objective inhibits its tickets.';
comment on column ops.alert_rules.budget_share is 'burn_rate: share of the budget burned within long_window; the factor follows from the window of the objective.';
comment on column ops.alert_rules.factor is 'burn_rate: how many times the sustainable rate; null: from budget_share.';
comment on column ops.alert_rules.long_window is 'burn_rate: over how long the rate must be exceeded.';
comment on column ops.alert_rules.short_window is 'burn_rate: over how long it must be exceeded as well; null: long_window alone decides.';
comment on column ops.alert_rules.comparison is 'kpi_threshold: gt, gte, lt or lte.';
comment on column ops.alert_rules.threshold is 'kpi_threshold: the limit, in the unit of the KPI.';
comment on column ops.alert_rules.lasting is 'kpi_threshold: how many whole hours in a row must be beyond it.';
comment on column ops.alert_rules.alert_after is 'How long the condition must hold before the alert fires; it is pending until then.';
comment on column ops.alert_rules.silent_for is 'silent_*: how long; null: for jobs twice refresh_interval, for objectives twice their expected interval.';
comment on column ops.alert_rules.channels is 'Where to; empty: every channel that takes the severity.';
comment on column ops.alert_rules.notify_resolved is 'Whether to say that it is over.';
comment on column ops.alert_rules.is_enabled is 'False: it finds nothing, and what it found is resolved.';
comment on column ops.alert_rules.description is 'What it means and what to do.';
comment on column ops.alert_rules.display_name is 'Its name for people; null: the same.';
comment on column ops.alert_rules.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.alert_rules.annotations is 'Annotations of its OpenSLO document that are not ours, kept for the export.';
alter table ops.alert_rules enable row level security;

create function ops.check_alert_factor()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  hopeless record;
begin
  select
    rule.rule_name,
    coalesce(
      rule.factor,
      ops.alert_factor(
        rule.budget_share,
        ops.slo_window_length(slo.rolling_window, slo.calendar_period, slo.time_zone, now()),
        rule.long_window
      )
    ) as factor,
    ops.highest_burn_rate(slo.target) as highest,
    slo.target
  into hopeless
  from ops.alert_rules as rule
  join ops.slos as slo
    on slo.slo_name = rule.slo_name
  where case tg_table_name when 'slos' then slo.slo_name = to_jsonb(new) ->> 'slo_name' else rule.rule_name = to_jsonb(new) ->> 'rule_name' end
    and rule.kind = 'burn_rate'
    and coalesce(
      rule.factor,
      ops.alert_factor(
        rule.budget_share,
        ops.slo_window_length(slo.rolling_window, slo.calendar_period, slo.time_zone, now()),
        rule.long_window
      )
    ) >= ops.highest_burn_rate(slo.target)
  limit 1;
  if hopeless.rule_name is not null then
    raise exception 'the rule % can never fire: its factor is %, and at a target of % nothing burns faster than %',
      hopeless.rule_name, trim_scale(round(hopeless.factor, 4)), hopeless.target, trim_scale(round(hopeless.highest, 4))
      using errcode = 'OP001', hint = 'Lower the factor, or take a longer long_window.';
  end if;
  return null;
end;
$$;
comment on function ops.check_alert_factor() is 'Trigger: refuses a burn-rate rule whose factor is not below 1 / (1 - target) of its objective.';

-- At the end of the transaction, so that a rule and the target it depends on may change together.
create constraint trigger alert_rules_check_factor
after insert or update on ops.alert_rules
deferrable initially deferred
for each row execute function ops.check_alert_factor();

create constraint trigger slos_check_factor
after update on ops.slos
deferrable initially deferred
for each row execute function ops.check_alert_factor();

create table ops.alerts (
  org_id uuid not null,
  alert_id bigint generated always as identity,
  rule_name text not null,
  kind text not null,
  severity text not null,
  subject text not null,
  service text,
  slo_version integer,
  state text not null,
  pending_since timestamptz not null,
  firing_since timestamptz,
  resolved_at timestamptz,
  evaluated_at timestamptz not null,
  is_frozen boolean not null default false,
  channels text[] not null,
  notify_resolved boolean not null,
  description text not null,
  detail jsonb not null,
  constraint alerts_pkey primary key (org_id, alert_id),
  constraint alerts_state_check check (state in ('pending', 'firing', 'resolved')),
  constraint alerts_fires_after_it_was_pending check (firing_since >= pending_since),
  constraint alerts_resolved_has_its_instant check ((state = 'resolved') = (resolved_at is not null))
);
comment on table ops.alerts is 'One row an alert from when its condition first held; a rule that finds nothing has none.';
comment on column ops.alerts.org_id is 'The tenant; the nil org for what concerns the jobs.';
comment on column ops.alerts.alert_id is 'Number of the alert.';
comment on column ops.alerts.rule_name is 'The rule that found it.';
comment on column ops.alerts.kind is 'The kind of the rule.';
comment on column ops.alerts.severity is 'page, ticket or notice.';
comment on column ops.alerts.subject is 'The objective, KPI, event type, agent or job.';
comment on column ops.alerts.service is 'The service of the objective; else null.';
comment on column ops.alerts.slo_version is 'The version of the objective by which it was found; else null.';
comment on column ops.alerts.state is 'pending, firing or resolved.';
comment on column ops.alerts.pending_since is 'When the condition was first found to hold.';
comment on column ops.alerts.firing_since is 'When it fired; null: not yet.';
comment on column ops.alerts.resolved_at is 'When it was found to be over.';
comment on column ops.alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column ops.alerts.is_frozen is 'The last evaluation could not tell: too few events, none, or the jobs stood still.';
comment on column ops.alerts.channels is 'Where to, as the rule said; empty: every channel that takes the severity.';
comment on column ops.alerts.notify_resolved is 'Whether to say that it is over.';
comment on column ops.alerts.description is 'What it means and what to do.';
comment on column ops.alerts.detail is 'The figures of the last evaluation that could tell.';
alter table ops.alerts enable row level security;
create unique index alerts_org_id_rule_name_subject_idx on ops.alerts (org_id, rule_name, subject) where state <> 'resolved';

create table ops.alert_evaluations (
  is_only boolean not null default true,
  evaluated_at timestamptz not null,
  constraint alert_evaluations_pkey primary key (is_only),
  constraint alert_evaluations_is_one_row check (is_only)
);
comment on table ops.alert_evaluations is 'One row: up to when the rules have been evaluated.';
comment on column ops.alert_evaluations.is_only is 'Always true.';
comment on column ops.alert_evaluations.evaluated_at is 'The instant of the last evaluation; an earlier one is refused, so that alerts go forwards only.';
alter table ops.alert_evaluations enable row level security;

create type ops.alert_condition as (
  org_id uuid,
  rule_name text,
  subject text,
  service text,
  slo_version integer,
  holds boolean,
  detail jsonb
);
comment on type ops.alert_condition is 'What a rule finds about a subject; holds is null where it cannot tell, and an alert then stays as it is.';

create function ops.readable(value numeric)
returns text
language sql
immutable
set search_path = ''
return trim_scale(round(value, 6))::text;
comment on function ops.readable(numeric) is 'A figure for a message: six decimals at most.';

create function ops.objective_conditions(as_of timestamptz, slo_names text[] default null)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with evaluated as materialized (
    select status.* from ops.evaluate_slos(as_of, false, slo_names) as status
  ),
  ruled as materialized (
    select
      rule.rule_name,
      rule.kind,
      rule.long_window,
      rule.short_window,
      rule.silent_for,
      evaluated.*,
      coalesce(rule.factor, ops.alert_factor(rule.budget_share, evaluated.window_length, rule.long_window)) as burn_factor,
      date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00') as long_since,
      date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00') as short_since
    from ops.alert_rules as rule
    join evaluated
      on rule.slo_name = evaluated.slo_name
      or (
        rule.slo_name is null
        and rule.event_type is null
        and not exists (
          select
          from ops.alert_rules as own
          where own.slo_name = evaluated.slo_name
            and own.kind = rule.kind
            and own.is_enabled
        )
      )
    where rule.is_enabled
      and rule.kind in ('burn_rate', 'budget_exhausted', 'silent_input')
  ),
  -- By itself, so that the planner takes it for many rows and hashes it; joined to the versions it was taken for five, and looped over.
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.version, summed.since, summed.good, summed.total
    from ops.sum_slos(array(
      select distinct
        row(
          ruled.org_id, ruled.slo_name, ruled.version, windows.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
        )::ops.slo_span
      from ruled
      cross join lateral (values (ruled.long_since), (ruled.short_since)) as windows (since)
      where windows.since is not null
    )) as summed
  )
  select
    ruled.org_id,
    ruled.rule_name,
    ruled.slo_name,
    ruled.service,
    ruled.version,
    case
      -- Half a history is too much failure or too long a silence.
      when sli.filled_until < 'infinity' then null
      when ruled.kind = 'silent_input' then
        case
          when ruled.status = 'stale' then null
          -- An empty window is not silence yet: a new day has no events at first.
          else coalesce(
            ruled.last_counted_at < as_of - coalesce(
              ops.in_hours(ruled.silent_for),
              2 * ops.in_hours(coalesce(expecting.expected_interval, ops.setting('expected_interval')::interval))
            ),
            false
          )
        end
      when ruled.status in ('no_data', 'stale', 'insufficient') then null
      -- Overspent for certain, but by too few events to say how fast.
      when ruled.kind = 'burn_rate' and ruled.events_needed > 0 then null
      when ruled.kind = 'burn_rate' then ops.is_burning(burning.long_rate, burning.short_rate, ruled.burn_factor)
      else ops.is_overspent(ruled.good, ruled.total, ruled.target)
    end,
    jsonb_strip_nulls(jsonb_build_object(
      'status', ruled.status,
      'sli', ops.readable(ruled.sli),
      'target', ops.readable(ruled.target),
      'good', ruled.good,
      'total', ruled.total,
      'budget_left', ops.readable(ruled.budget_left),
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(burning.long_rate),
      'burn_rate_short', ops.readable(burning.short_rate),
      'factor', case ruled.kind when 'burn_rate' then ops.readable(ruled.burn_factor) end,
      'last_seen_at', ruled.last_counted_at,
      'explain_since', case ruled.kind when 'burn_rate' then ruled.long_since else ruled.window_start end
    ))
  from ruled
  join ops.slo_versions as expecting
    on expecting.slo_name = ruled.slo_name
    and expecting.version = ruled.version
  join ops.slis as sli
    on sli.sli_id = expecting.sli_id
  left join sums as long_sum
    on long_sum.org_id = ruled.org_id
    and long_sum.slo_name = ruled.slo_name
    and long_sum.version = ruled.version
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.version = ruled.version
    and short_sum.since = ruled.short_since
  cross join lateral (
    select
      ops.burn_rate(long_sum.good, long_sum.total, ruled.target) as long_rate,
      ops.burn_rate(short_sum.good, short_sum.total, ruled.target) as short_rate
    -- A barrier: each rate is compared and shown.
    offset 0
  ) as burning
  where ruled.kind <> 'burn_rate'
    -- A rule for every objective leaves out those whose budget is too large for it.
    or ruled.burn_factor < ops.highest_burn_rate(ruled.target);
end;
$$;
comment on function ops.objective_conditions(timestamptz, text[]) is
  'What the rules on objectives find as of an instant, from the counts alone; one row an org, rule and objective.';

create function ops.other_conditions(as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  -- What has not been counted may have happened all the same.
  is_stale constant boolean := coalesce(
    (
      select max(run.finished_at) < as_of - 2 * ops.refresh_interval()
      from ops.job_runs as run
      where run.job = 'refresh'
        and run.outcome in ('success', 'waiting')
    ),
    true
  );
begin
  return query
  with hours as (
    select
      rule.rule_name,
      rule.metric_name,
      rule.comparison,
      rule.threshold,
      rule.lasting,
      definition.unit,
      ops.period_start('hour', as_of, ops.time_zone()) - ops.in_hours(rule.lasting) as since,
      ops.period_start('hour', as_of, ops.time_zone()) as until
    from ops.alert_rules as rule
    join ops.kpi_definitions as definition
      on definition.metric_name = rule.metric_name
    where rule.is_enabled
      and rule.kind = 'kpi_threshold'
  )
  select
    kpi.org_id,
    hours.rule_name,
    hours.metric_name,
    null::text,
    null::integer,
    -- One hour within the limit ends it; an hour without a value says neither.
    case
      when is_stale then null
      when not bool_and(case hours.comparison
        when 'gt' then kpi.metric_value > hours.threshold
        when 'gte' then kpi.metric_value >= hours.threshold
        when 'lt' then kpi.metric_value < hours.threshold
        else kpi.metric_value <= hours.threshold
      end) then false
      when count(*) * interval '1 hour' = ops.in_hours(hours.lasting) then true
    end,
    jsonb_build_object(
      'value', ops.readable((array_agg(kpi.metric_value order by kpi.period_start desc))[1]),
      'threshold', ops.readable(hours.threshold),
      'comparison', hours.comparison,
      'unit', hours.unit,
      'lasting', hours.lasting::text
    )
  from hours
  join public.kpi_aggregations as kpi
    on kpi.metric_name = hours.metric_name
    and kpi.aggregation_period = 'hour'
    and kpi.labels = '{}'
    and kpi.period_start >= hours.since
    and kpi.period_start < hours.until
  group by kpi.org_id, hours.rule_name, hours.metric_name, hours.comparison, hours.threshold, hours.lasting, hours.unit;

  return query
  with seen as (
    -- Where retention has removed the hours, the month they lay in or else their horizon is the latest it can have been.
    select
      series.org_id,
      series.event_type,
      coalesce(
        max(newest.period_start) + interval '1 hour',
        least(
          ops.period_end('month', max(older.period_start), ops.time_zone()),
          (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour')
        )
      ) as last_seen_at
    from ops.series
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where rollup.org_id = series.org_id
        and rollup.period = 'hour'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as newest
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where newest.period_start is null
        and rollup.org_id = series.org_id
        and rollup.period = 'month'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as older
    where series.event_type in (select rule.event_type from ops.alert_rules as rule where rule.is_enabled)
    group by 1, 2
  )
  select
    seen.org_id,
    rule.rule_name,
    rule.event_type,
    null::text,
    null::integer,
    case when not is_stale then seen.last_seen_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join seen
    on seen.event_type = rule.event_type
  where rule.is_enabled
    and rule.kind = 'silent_input';

  return query
  select
    agent.org_id,
    rule.rule_name,
    agent.agent_id::text,
    agent.team,
    null::integer,
    case when not is_stale then agent.last_event_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;
$$;
comment on function ops.other_conditions(timestamptz) is
  'What the rules on KPIs, event types and agents find as of an instant; a KPI without a value in the time asked for has no row.';

create function ops.job_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    '00000000-0000-0000-0000-000000000000'::uuid,
    rule.rule_name,
    job.name,
    null::text,
    null::integer,
    coalesce(job.last_run_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 2 * ops.refresh_interval())), false),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    )
  from ops.alert_rules as rule
  cross join (
    select 'refresh' as name, max(run.finished_at) as last_run_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
    union all
    select 'alerts', max(evaluation.evaluated_at)
    from ops.alert_evaluations as evaluation
  ) as job
  where rule.is_enabled
    and rule.kind = 'silent_jobs';
end;
comment on function ops.job_conditions(timestamptz) is 'Which jobs have stood still; a job that never ran is not missed.';

revoke execute on function
  ops.check_alert_factor(),
  ops.readable(numeric),
  ops.objective_conditions(timestamptz, text[]),
  ops.other_conditions(timestamptz),
  ops.job_conditions(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.alert_rules, ops.alerts, ops.alert_evaluations, ops.alert_channels from anon, authenticated, service_role;
  grant select on ops.alert_rules, ops.alerts, ops.alert_evaluations to authenticated, service_role;
  grant select on ops.alert_channels to service_role;
  create policy alert_rules_select_authenticated on ops.alert_rules for select to authenticated using (true);
  create policy alert_evaluations_select_authenticated on ops.alert_evaluations for select to authenticated using (true);
  create policy alerts_select_own_org on ops.alerts for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.check_alert_factor(),
    ops.readable(numeric),
    ops.objective_conditions(timestamptz, text[]),
    ops.other_conditions(timestamptz),
    ops.job_conditions(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.readable(numeric)
  to authenticated, service_role;
end;
$$;
