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
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.since, ops.burn_rate(summed.good, summed.total, version.target) as burn
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
    join ops.slo_versions as version
      on version.slo_name = summed.slo_name
      and version.version = summed.version
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
      when ruled.kind = 'burn_rate' then ops.is_burning(long_sum.burn, short_sum.burn, ruled.burn_factor)
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
      'burn_rate_long', ops.readable(long_sum.burn),
      'burn_rate_short', ops.readable(short_sum.burn),
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
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.since = ruled.short_since
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
    select series.org_id, series.event_type, max(newest.period_start) + interval '1 hour' as last_seen_at
    from ops.series
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where rollup.org_id = series.org_id
        and rollup.period = 'hour'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as newest
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

create table ops.alert_silences (
  alert_silence_id bigint generated always as identity,
  only_org_id uuid,
  matcher text not null,
  starts_at timestamptz not null default now(),
  until timestamptz not null,
  reason text not null,
  author text not null,
  created_at timestamptz not null default now(),
  constraint alert_silences_pkey primary key (alert_silence_id),
  constraint alert_silences_ends_after_it_begins check (starts_at < until and isfinite(until)),
  constraint alert_silences_has_a_reason check (char_length(btrim(reason)) between 1 and 1000),
  constraint alert_silences_has_an_author check (char_length(btrim(author)) between 1 and 200)
);
comment on table ops.alert_silences is 'One row a time in which matching alerts are logged and not sent.';
comment on column ops.alert_silences.alert_silence_id is 'Number of the silence.';
comment on column ops.alert_silences.only_org_id is 'Only alerts of this tenant; null: of all.';
comment on column ops.alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; * for everything.';
comment on column ops.alert_silences.starts_at is 'First instant.';
comment on column ops.alert_silences.until is 'First instant after it; what still fires then is sent.';
comment on column ops.alert_silences.reason is 'Why.';
comment on column ops.alert_silences.author is 'Who said so.';
comment on column ops.alert_silences.created_at is 'When it was added.';
alter table ops.alert_silences enable row level security;

create table ops.alert_groups (
  org_id uuid not null,
  channel_name text not null,
  group_key text not null,
  last_firing bigint[] not null default '{}',
  last_resolved bigint[] not null default '{}',
  last_notified_at timestamptz,
  logged_silenced bigint[] not null default '{}',
  constraint alert_groups_pkey primary key (org_id, channel_name, group_key),
  constraint alert_groups_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name)
);
comment on table ops.alert_groups is 'One row a channel and group of alerts that are sent together: what was last said.';
comment on column ops.alert_groups.org_id is 'The tenant.';
comment on column ops.alert_groups.channel_name is 'The channel.';
comment on column ops.alert_groups.group_key is 'The service of the objectives, the KPI, or the kind of silence.';
comment on column ops.alert_groups.last_firing is 'The alerts last said to fire.';
comment on column ops.alert_groups.last_resolved is 'The alerts last said to be over.';
comment on column ops.alert_groups.last_notified_at is 'When; null: never.';
comment on column ops.alert_groups.logged_silenced is 'Firing alerts already logged as silenced.';
alter table ops.alert_groups enable row level security;

create table ops.alert_deliveries (
  org_id uuid not null,
  delivery_id bigint generated always as identity,
  channel_name text not null,
  group_key text not null,
  status text not null,
  alert_ids bigint[] not null,
  message jsonb not null,
  state text not null,
  attempts integer not null default 0,
  created_at timestamptz not null,
  next_attempt_at timestamptz not null,
  leased_until timestamptz,
  settled_at timestamptz,
  last_error text,
  constraint alert_deliveries_pkey primary key (org_id, delivery_id),
  constraint alert_deliveries_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name),
  constraint alert_deliveries_status_check check (status in ('firing', 'resolved', 'test')),
  constraint alert_deliveries_state_check check (state in ('queued', 'sending', 'delivered', 'dead', 'silenced', 'superseded')),
  constraint alert_deliveries_sending_has_a_lease check ((state = 'sending') = (leased_until is not null))
);
comment on table ops.alert_deliveries is 'The outbox: one row a message for a channel; it is sent at least once.';
comment on column ops.alert_deliveries.org_id is 'The tenant.';
comment on column ops.alert_deliveries.delivery_id is 'Number of the delivery; receivers may recognise a repeated one by it.';
comment on column ops.alert_deliveries.channel_name is 'The channel.';
comment on column ops.alert_deliveries.group_key is 'The group; messages of one group and channel are sent in order.';
comment on column ops.alert_deliveries.status is 'firing, resolved (nothing of the group fires any more) or test.';
comment on column ops.alert_deliveries.alert_ids is 'The alerts it speaks of.';
comment on column ops.alert_deliveries.message is 'What it says, as facts; the sender words them for the channel.';
comment on column ops.alert_deliveries.state is
  'queued; sending (leased); delivered; dead (refused, or tried too often); silenced (logged only); superseded (dead, and a later one was sent).';
comment on column ops.alert_deliveries.attempts is 'Attempts begun (count).';
comment on column ops.alert_deliveries.created_at is 'The instant of the evaluation that wrote it.';
comment on column ops.alert_deliveries.next_attempt_at is 'Not before this instant.';
comment on column ops.alert_deliveries.leased_until is 'While sending: when another worker may take it over.';
comment on column ops.alert_deliveries.settled_at is 'When the last attempt ended.';
comment on column ops.alert_deliveries.last_error is 'Why the last attempt failed; null when it did not.';
alter table ops.alert_deliveries enable row level security;
create index alert_deliveries_channel_name_org_id_group_key_delivery_id_idx
  on ops.alert_deliveries (channel_name, org_id, group_key, delivery_id)
  where state in ('queued', 'sending');

create type ops.alert_report as (
  state text,
  found bigint,
  fired bigint,
  resolved bigint,
  frozen bigint,
  queued bigint
);
comment on type ops.alert_report is
  'done; busy: another evaluation runs; past: a later instant has been evaluated. found: conditions that hold; queued: messages written to the outbox.';

create function ops.needs_notification(
  last_firing bigint[],
  last_resolved bigint[],
  age interval,
  repeat_interval interval,
  now_firing bigint[],
  now_resolved bigint[]
)
returns boolean
language sql
immutable
set search_path = ''
return case
  when last_firing is null then cardinality(now_firing) > 0
  when not now_firing <@ last_firing then true
  when cardinality(now_firing) = 0 then cardinality(last_firing) > 0
  when not now_resolved <@ coalesce(last_resolved, '{}') then true
  else age > repeat_interval
end;
comment on function ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]) is
  'Whether a group of alerts is to be sent again, as Alertmanager decides it: something new fires, all is over, something is over, or the repeat interval has passed. last_firing is null when nothing was sent yet.';

create function ops.is_silenced(org_id uuid, rule_name text, subject text, service text, as_of timestamptz)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.alert_silences as silence
  where (silence.only_org_id is null or silence.only_org_id = is_silenced.org_id)
    and silence.starts_at <= is_silenced.as_of
    and silence.until > is_silenced.as_of
    and silence.matcher in ('*', is_silenced.rule_name, is_silenced.subject, is_silenced.service)
);
comment on function ops.is_silenced(uuid, text, text, text, timestamptz) is 'Whether a silence covers an alert at an instant.';

create function ops.silence_alerts(matcher text, until timestamptz, reason text, author text, only_org_id uuid default null, starts_at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  silence_id bigint;
begin
  if (silence_alerts.starts_at < silence_alerts.until and isfinite(silence_alerts.until)) is not true then
    raise exception 'the silence is over before it begins: % to %', silence_alerts.starts_at, silence_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant in the future.';
  end if;
  if coalesce(btrim(silence_alerts.reason), '') = '' or coalesce(btrim(silence_alerts.author), '') = '' then
    raise exception 'a silence needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: others wonder why nobody told them.';
  end if;
  if silence_alerts.matcher <> '*' and not exists (
    select from ops.alert_rules as rule where silence_alerts.matcher in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.slos as slo where silence_alerts.matcher in (slo.slo_name, slo.service)
    union all
    select from ops.alerts as alert where silence_alerts.matcher in (alert.rule_name, alert.subject, alert.service)
  ) then
    raise exception 'no rule, objective, service or alert is called %', silence_alerts.matcher
      using errcode = 'OP001', hint = 'opskpi alert list shows the alerts; * silences everything.';
  end if;
  insert into ops.alert_silences (matcher, starts_at, until, reason, author, only_org_id)
  values (
    silence_alerts.matcher, silence_alerts.starts_at, silence_alerts.until, silence_alerts.reason, silence_alerts.author, silence_alerts.only_org_id
  )
  returning alert_silences.alert_silence_id into silence_id;
  return silence_id;
end;
$$;
comment on function ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz) is
  'Keeps alerts of a rule, objective or other subject, or service from being sent for a time; returns the number of the silence.';

create function ops.alert_facts(alert_ids bigint[], as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
return (
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'alert_id', alert.alert_id,
      'rule', alert.rule_name,
      'kind', alert.kind,
      'severity', alert.severity,
      'subject', alert.subject,
      'service', alert.service,
      'description', nullif(alert.description, ''),
      'since', alert.firing_since,
      'resolved_at', alert.resolved_at,
      'slo_version', alert.slo_version,
      'detail', alert.detail - 'explain_since',
      'explain', case
        when alert.kind in ('burn_rate', 'budget_exhausted') then format(
          'opskpi slo explain %s --since %s --until %s%s',
          alert.subject,
          to_char((alert.detail ->> 'explain_since')::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          to_char(alert_facts.as_of at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          case when alert.org_id <> '00000000-0000-0000-0000-000000000000' then format(' --org %s', alert.org_id) else '' end
        )
      end
    )
    order by array_position(array['page', 'ticket', 'notice'], alert.severity), alert.subject, alert.rule_name
  ), '[]')
  from ops.alerts as alert
  where alert.alert_id = any (alert_facts.alert_ids)
);
comment on function ops.alert_facts(bigint[], timestamptz) is 'What there is to say about some alerts, the most urgent first.';

create function ops.evaluate_alerts(as_of timestamptz default now(), kinds text[] default null)
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.alert_report;
  started_at timestamptz := clock_timestamp();
  all_kinds constant text[] := array['burn_rate', 'budget_exhausted', 'kpi_threshold', 'silent_input', 'silent_agents', 'silent_jobs'];
  conditions ops.alert_condition[];
begin
  if as_of is null or not isfinite(as_of) then
    raise exception 'alerts are evaluated as of an instant, not of %', as_of
      using errcode = 'OP001', hint = 'Leave it out for now.';
  end if;
  if kinds <> array['silent_jobs'] or array_position(kinds, null) is not null then
    raise exception 'alerts are evaluated all, or silent_jobs alone, not %', kinds
      using errcode = 'OP001', hint = 'Leave kinds out, or pass {silent_jobs}.';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0)) then
    report.state := 'busy';
    return report;
  end if;
  if exists (select from ops.alert_evaluations as evaluation where evaluation.evaluated_at > as_of and evaluation.evaluated_at <= clock_timestamp()) then
    report.state := 'past';
    return report;
  end if;

  if kinds is null then
    -- First, since an evaluation that runs has not stood still.
    insert into ops.alert_evaluations (evaluated_at) values (as_of)
    on conflict on constraint alert_evaluations_pkey do update set evaluated_at = excluded.evaluated_at;
  end if;
  conditions := array(
    select condition from ops.objective_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.other_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.job_conditions(as_of) as condition where kinds is null or 'silent_jobs' = any (kinds)
  );
  report := ops.move_alerts(conditions, as_of, coalesce(kinds, all_kinds));
  report.queued := ops.queue_notifications(as_of);
  report.state := 'done';
  if kinds is null then
    insert into ops.job_runs (job, started_at, outcome, message)
    values (
      'alerts', started_at, 'success',
      case when report.fired + report.resolved > 0 then format('%s fired, %s resolved', report.fired, report.resolved) end
    );
  end if;
  return report;
end;
$$;
comment on function ops.evaluate_alerts(timestamptz, text[]) is
  'Evaluates the rules as of an instant, moves the alerts and writes the messages that follow to the outbox, all in one transaction; kinds {silent_jobs} is the watchdog alone.';

create function ops.move_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.alert_report;
begin
  -- What no rule asks about any more is over, and so is what no longer holds.
  with moved as (
    update ops.alerts as alert
    set state = 'resolved',
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          finding.detail,
          case
            when not exists (select from ops.alert_rules as rule where rule.rule_name = open_alert.rule_name and rule.is_enabled)
              then jsonb '{"rule_is_gone": true}'
          end,
          '{}'
        )
    from ops.alerts as open_alert
    left join unnest(conditions) as finding
      on finding.org_id = open_alert.org_id
      and finding.rule_name = open_alert.rule_name
      and finding.subject = open_alert.subject
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and open_alert.state in ('pending', 'firing')
      and open_alert.kind = any (kinds)
      and (
        finding.holds is false
        or (
          finding.rule_name is null
          -- A KPI without a value has no finding either: that is silence, and alerts freeze.
          and not exists (
            select from ops.alert_rules as rule
            where rule.rule_name = open_alert.rule_name
              and rule.is_enabled
              and rule.kind = 'kpi_threshold'
              and rule.kind = open_alert.kind
              and rule.metric_name = open_alert.subject
          )
        )
      )
    returning alert.firing_since
  )
  select count(*) filter (where moved.firing_since is not null) into report.resolved from moved;
  -- What never fired is no alert.
  delete from ops.alerts as alert where alert.state = 'resolved' and alert.firing_since is null and alert.resolved_at = as_of;

  with frozen as (
    update ops.alerts as alert
    set is_frozen = true,
        evaluated_at = as_of
    from ops.alerts as open_alert
    left join unnest(conditions) as finding
      on finding.org_id = open_alert.org_id
      and finding.rule_name = open_alert.rule_name
      and finding.subject = open_alert.subject
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and open_alert.state in ('pending', 'firing')
      and open_alert.kind = any (kinds)
      and finding.holds is null
    returning 1
  )
  select count(*) into report.frozen from frozen;

  with held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail
    )
    select
      finding.org_id, finding.rule_name, rule.kind, rule.severity, finding.subject, finding.service, finding.slo_version,
      case when rule.alert_after = interval '0' then 'firing' else 'pending' end,
      as_of, case when rule.alert_after = interval '0' then as_of end, as_of, rule.channels,
      rule.notify_resolved, rule.description, finding.detail
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    where finding.holds
    on conflict (org_id, rule_name, subject) where state <> 'resolved' do update set
      kind = excluded.kind,
      detail = excluded.detail,
      slo_version = excluded.slo_version,
      severity = excluded.severity,
      channels = excluded.channels,
      notify_resolved = excluded.notify_resolved,
      description = excluded.description,
      evaluated_at = excluded.evaluated_at,
      is_frozen = false,
      state = case
        when alert.state = 'firing' or excluded.evaluated_at - alert.pending_since >= (
          select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
        ) then 'firing'
        else 'pending'
      end,
      firing_since = coalesce(
        alert.firing_since,
        case
          when excluded.evaluated_at - alert.pending_since >= (
            select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
          ) then excluded.evaluated_at
        end
      )
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) into report.found, report.fired from held;
  return report;
end;
$$;
comment on function ops.move_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Takes each alert of the given kinds from state to state: inactive (no row), pending, firing, resolved; only evaluate_alerts calls it.';

create function ops.queue_notifications(as_of timestamptz)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  alert_group record;
  queued bigint := 0;
begin
  for alert_group in
    with addressed as (
      select
        alert.*,
        channel.channel_name,
        channel.repeat_interval,
        case when alert.kind in ('silent_agents', 'silent_jobs') then alert.kind else coalesce(alert.service, alert.subject) end as group_key,
        alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, as_of) as is_silenced,
        alert.state = 'firing' and alert.severity = 'ticket' and exists (
          select
          from ops.alerts as page
          where page.org_id = alert.org_id
            and page.subject = alert.subject
            and page.state = 'firing'
            and page.severity = 'page'
        ) as is_inhibited
      from ops.alerts as alert
      join ops.alert_channels as channel
        on channel.is_enabled
        and (channel.only_org_id is null or channel.only_org_id = alert.org_id)
        and (
          alert.state = 'resolved'
          or (
            alert.severity = any (channel.severities)
            and (cardinality(alert.channels) = 0 or channel.channel_name = any (alert.channels))
          )
        )
      where alert.state = 'firing'
        -- Hashed: of 100,000 alerts that are over only those last said to fire are looked at.
        or (alert.org_id, channel.channel_name, alert.alert_id) in (
          select known.org_id, known.channel_name, last.alert_id
          from ops.alert_groups as known
          cross join lateral unnest(known.last_firing) as last (alert_id)
        )
    )
    select
      addressed.org_id,
      addressed.channel_name,
      addressed.group_key,
      addressed.repeat_interval,
      known.last_resolved,
      known.last_notified_at,
      coalesce(known.logged_silenced, '{}') as logged_silenced,
      -- What is over and need not be said so is forgotten.
      case when known.org_id is not null then array(
        select last.alert_id
        from unnest(known.last_firing) as last (alert_id)
        where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state = 'resolved' and not addressed.notify_resolved), '{}'))
      ) end as last_firing,
      coalesce(
        array_agg(addressed.alert_id order by addressed.alert_id)
          filter (where addressed.state = 'firing' and not addressed.is_silenced and not addressed.is_inhibited),
        '{}'
      ) as now_firing,
      coalesce(
        array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state = 'resolved' and addressed.notify_resolved),
        '{}'
      ) as now_resolved,
      coalesce(array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.is_silenced), '{}') as now_silenced
    from addressed
    left join ops.alert_groups as known
      on known.org_id = addressed.org_id
      and known.channel_name = addressed.channel_name
      and known.group_key = addressed.group_key
    group by addressed.org_id, addressed.channel_name, addressed.group_key, addressed.repeat_interval, known.org_id, known.channel_name, known.group_key
  loop
    if not alert_group.now_silenced <@ alert_group.logged_silenced then
      perform ops.queue_delivery(
        alert_group.org_id, alert_group.channel_name, alert_group.group_key, 'silenced', alert_group.now_silenced, '{}', as_of
      );
    end if;
    insert into ops.alert_groups as known (org_id, channel_name, group_key, last_firing, logged_silenced)
    values (
      alert_group.org_id, alert_group.channel_name, alert_group.group_key, coalesce(alert_group.last_firing, '{}'), alert_group.now_silenced
    )
    on conflict on constraint alert_groups_pkey do update set
      last_firing = excluded.last_firing,
      logged_silenced = excluded.logged_silenced;
    if cardinality(alert_group.now_firing || alert_group.now_resolved) > 0 and ops.needs_notification(
      case when alert_group.last_notified_at is not null then alert_group.last_firing end,
      alert_group.last_resolved, as_of - alert_group.last_notified_at, alert_group.repeat_interval,
      alert_group.now_firing, alert_group.now_resolved
    ) then
      perform ops.queue_delivery(
        alert_group.org_id, alert_group.channel_name, alert_group.group_key, 'queued', alert_group.now_firing, alert_group.now_resolved, as_of
      );
      update ops.alert_groups as known
      set last_firing = alert_group.now_firing,
          last_resolved = alert_group.now_resolved,
          last_notified_at = as_of
      where known.org_id = alert_group.org_id
        and known.channel_name = alert_group.channel_name
        and known.group_key = alert_group.group_key;
      queued := queued + 1;
    end if;
  end loop;
  return queued;
end;
$$;
comment on function ops.queue_notifications(timestamptz) is
  'Writes to the outbox what the channels should hear now, group by group, and logs what is silenced; returns how many messages. Only evaluate_alerts calls it.';

create function ops.queue_delivery(
  org_id uuid,
  channel_name text,
  group_key text,
  state text,
  firing bigint[],
  resolved bigint[],
  as_of timestamptz
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.alert_deliveries as delivery (
    org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
  )
  values (
    org_id,
    channel_name,
    group_key,
    case when cardinality(firing) > 0 then 'firing' else 'resolved' end,
    firing || resolved,
    jsonb_build_object(
      'kind', 'alerts',
      'title', format('%s: %s', group_key, case when cardinality(firing) > 0 then format('%s firing', cardinality(firing)) else 'resolved' end),
      'status', case when cardinality(firing) > 0 then 'firing' else 'resolved' end,
      'org_id', org_id,
      'group', group_key,
      'link', ops.setting('dashboard_url'),
      'firing', ops.alert_facts(firing, as_of),
      'resolved', ops.alert_facts(resolved, as_of)
    ),
    state,
    as_of,
    as_of
  )
  returning delivery.delivery_id;
end;
comment on function ops.queue_delivery(uuid, text, text, text, bigint[], bigint[], timestamptz) is
  'Writes one message about alerts that fire and alerts that are over; returns its number.';

create function ops.queue_test(channel_name text, message jsonb, as_of timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  delivery_id bigint;
begin
  if not exists (select from ops.alert_channels as channel where channel.channel_name = queue_test.channel_name) then
    raise exception 'there is no channel %', coalesce(queue_test.channel_name, '')
      using errcode = 'OP001', hint = 'opskpi alert list --channels shows them; opskpi slo apply adds one.';
  end if;
  if not (select channel.is_enabled from ops.alert_channels as channel where channel.channel_name = queue_test.channel_name) then
    raise exception 'the channel % is switched off', queue_test.channel_name
      using errcode = 'OP001', hint = 'Set is_enabled in ops.alert_channels.';
  end if;
  insert into ops.alert_deliveries as delivery (
    org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
  )
  values (
    -- A group of its own, so that it waits for no other test.
    '00000000-0000-0000-0000-000000000000', queue_test.channel_name, 'test ' || gen_random_uuid(), 'test', '{}', queue_test.message, 'queued',
    queue_test.as_of, queue_test.as_of
  )
  returning delivery.delivery_id into delivery_id;
  return delivery_id;
end;
$$;
comment on function ops.queue_test(text, jsonb, timestamptz) is 'Writes a test message for a channel; returns its number.';

create function ops.claim_deliveries(max_deliveries integer default 20, lease interval default '1 minute', as_of timestamptz default now())
returns table (
  delivery_id bigint,
  attempt integer,
  org_id uuid,
  channel_name text,
  channel_kind text,
  secret_env text,
  settings jsonb,
  group_key text,
  created_at timestamptz,
  message jsonb
)
language sql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with claimable as (
    select waiting.org_id, waiting.delivery_id
    from ops.alert_deliveries as waiting
    where waiting.state in ('queued', 'sending')
      and case waiting.state when 'queued' then waiting.next_attempt_at else waiting.leased_until end <= claim_deliveries.as_of
      and exists (
        select from ops.alert_channels as channel where channel.channel_name = waiting.channel_name and channel.is_enabled
      )
      -- A message waits for those before it, so that resolved never overtakes firing.
      and waiting.delivery_id = (
        select min(earlier.delivery_id)
        from ops.alert_deliveries as earlier
        where earlier.channel_name = waiting.channel_name
          and earlier.org_id = waiting.org_id
          and earlier.group_key = waiting.group_key
          and earlier.state in ('queued', 'sending')
      )
    order by waiting.delivery_id
    limit claim_deliveries.max_deliveries
    for update of waiting skip locked
  ),
  claimed as (
    update ops.alert_deliveries as delivery
    -- Each attempt may have ended with the worker that made it.
    set state = case when delivery.attempts < channel.max_attempts then 'sending' else 'dead' end,
        attempts = least(delivery.attempts + 1, greatest(delivery.attempts, channel.max_attempts)),
        leased_until = case when delivery.attempts < channel.max_attempts then claim_deliveries.as_of + claim_deliveries.lease end,
        settled_at = case when delivery.attempts < channel.max_attempts then delivery.settled_at else claim_deliveries.as_of end
    from claimable, ops.alert_channels as channel
    where channel.channel_name = delivery.channel_name
      and delivery.org_id = claimable.org_id
      and delivery.delivery_id = claimable.delivery_id
    returning delivery.*
  )
  select
    claimed.delivery_id,
    claimed.attempts,
    claimed.org_id,
    claimed.channel_name,
    channel.kind,
    channel.secret_env,
    channel.settings,
    claimed.group_key,
    claimed.created_at,
    claimed.message
  from claimed
  join ops.alert_channels as channel
    on channel.channel_name = claimed.channel_name
  where claimed.state = 'sending'
  order by claimed.delivery_id;
end;
comment on function ops.claim_deliveries(integer, interval, timestamptz) is
  'Takes messages that are due for the length of the lease and counts the attempt; commit before sending. At most one message a channel and group, the oldest.';

create function ops.settle_delivery(
  delivery_id bigint,
  attempt integer,
  outcome text,
  error text default null,
  retry_after interval default null,
  as_of timestamptz default now()
)
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled text;
begin
  if outcome is null or outcome not in ('delivered', 'retry', 'dead') then
    raise exception 'a delivery ends as delivered, retry or dead, not as %', outcome
      using errcode = 'OP001', hint = 'Pass one of the three.';
  end if;
  update ops.alert_deliveries as delivery
  set state = case
        -- Who tests a channel looks on, and tries again by hand.
        when outcome = 'retry' and delivery.attempts < channel.max_attempts and delivery.status <> 'test' then 'queued'
        when outcome = 'delivered' then 'delivered'
        else 'dead'
      end,
      leased_until = null,
      settled_at = as_of,
      last_error = left(settle_delivery.error, 1000),
      -- Twice as long each time, an hour at most, half of it by chance so that many do not come back at once.
      next_attempt_at = as_of + greatest(
        settle_delivery.retry_after,
        least(interval '10 seconds' * 2 ^ least(delivery.attempts - 1, 20), interval '1 hour') * (0.5 + random() / 2)
      )
  from ops.alert_channels as channel
  where channel.channel_name = delivery.channel_name
    and delivery.delivery_id = settle_delivery.delivery_id
    and delivery.state = 'sending'
    and delivery.attempts = settle_delivery.attempt
  returning delivery.state into settled;
  return coalesce(settled, 'lost');
end;
$$;
comment on function ops.settle_delivery(bigint, integer, text, text, interval, timestamptz) is
  'Notes how an attempt ended: delivered, queued for another (not before retry_after) or dead; lost when another worker took it over since.';

create function ops.retry_deliveries(channel_name text default null, as_of timestamptz default now())
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with retried as (
    update ops.alert_deliveries as delivery
    set state = case
          when exists (
            select
            from ops.alert_deliveries as later
            where later.channel_name = delivery.channel_name
              and later.org_id = delivery.org_id
              and later.group_key = delivery.group_key
              and later.delivery_id > delivery.delivery_id
              and later.state <> 'silenced'
          ) and delivery.status <> 'test' then 'superseded'
          else 'queued'
        end,
        attempts = 0,
        next_attempt_at = retry_deliveries.as_of
    where delivery.state = 'dead'
      and (retry_deliveries.channel_name is null or delivery.channel_name = retry_deliveries.channel_name)
    returning delivery.state
  )
  select count(*) from retried where retried.state = 'queued';
end;
comment on function ops.retry_deliveries(text, timestamptz) is
  'Queues dead messages again, all or a channel''s, and returns how many; one that a later message has overtaken is superseded instead.';

revoke execute on function
  ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]),
  ops.is_silenced(uuid, text, text, text, timestamptz),
  ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz),
  ops.alert_facts(bigint[], timestamptz),
  ops.evaluate_alerts(timestamptz, text[]),
  ops.move_alerts(ops.alert_condition[], timestamptz, text[]),
  ops.queue_notifications(timestamptz),
  ops.queue_delivery(uuid, text, text, text, bigint[], bigint[], timestamptz),
  ops.queue_test(text, jsonb, timestamptz),
  ops.claim_deliveries(integer, interval, timestamptz),
  ops.settle_delivery(bigint, integer, text, text, interval, timestamptz),
  ops.retry_deliveries(text, timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.alert_silences, ops.alert_deliveries, ops.alert_groups from anon, authenticated, service_role;
  grant select on ops.alert_silences, ops.alert_deliveries to authenticated, service_role;
  grant select on ops.alert_groups to service_role;
  create policy alert_silences_select_own_org on ops.alert_silences for select to authenticated
    using (only_org_id = (select ops.current_org_id()));
  create policy alert_deliveries_select_own_org on ops.alert_deliveries for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]),
    ops.is_silenced(uuid, text, text, text, timestamptz),
    ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz),
    ops.alert_facts(bigint[], timestamptz),
    ops.evaluate_alerts(timestamptz, text[]),
    ops.move_alerts(ops.alert_condition[], timestamptz, text[]),
    ops.queue_notifications(timestamptz),
    ops.queue_delivery(uuid, text, text, text, bigint[], bigint[], timestamptz),
    ops.queue_test(text, jsonb, timestamptz),
    ops.claim_deliveries(integer, interval, timestamptz),
    ops.settle_delivery(bigint, integer, text, text, interval, timestamptz),
    ops.retry_deliveries(text, timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[])
  to authenticated, service_role;
end;
$$;

create function ops.compare_definition(stored jsonb, wanted jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  select jsonb_object_agg(field.key, jsonb_build_array(stored -> field.key, field.value))
  from jsonb_each(wanted) as field
  where stored -> field.key is distinct from field.value
);
comment on function ops.compare_definition(jsonb, jsonb) is 'Each field that differs, as [stored, wanted]; null when none does.';

create type ops.definition_change as (
  kind text,
  name text,
  change text,
  differences jsonb
);
comment on type ops.definition_change is 'What becomes of a definition: created, changed (differences has each field as [before, after]), unchanged or removed.';

create function ops.apply_definitions(definitions jsonb)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes ops.definition_change[];
  unknown text;
begin
  select format('the rule %s is about the KPI %s, which there is not', rule.rule_name, rule.metric_name)
  into unknown
  from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
  where rule.metric_name is not null
    and rule.metric_name not in (select definition.metric_name from ops.kpi_definitions as definition)
  limit 1;
  if unknown is null then
    select format('%s is about events of type %s, which is neither described nor has ever arrived', asked.name, asked.event_type)
    into unknown
    from (
      select 'the objective ' || slo.slo_name as name, slo.event_type
      from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
      union all
      select 'the rule ' || rule.rule_name, rule.event_type
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
      where rule.event_type is not null
    ) as asked
    where asked.event_type not in (select kind.event_type from ops.event_types as kind)
      and asked.event_type not in (select series.event_type from ops.series)
    limit 1;
  end if;
  if unknown is not null then
    raise exception '%', unknown
      using errcode = 'OP001', hint = 'Correct the name, or add it to ops.kpi_definitions or ops.event_types first.';
  end if;
  -- Compared as rows, not as the text that came.
  changes := array(
    select row(
      case compared.kind when 'gone' then 'rule' else compared.kind end,
      compared.name,
      case
        when compared.kind = 'gone' then 'removed'
        when compared.stored is null then 'created'
        when compared.differences is null then 'unchanged'
        else 'changed'
      end,
      case when compared.stored is not null then compared.differences end
    )::ops.definition_change
    from (
      select
        wanted.kind,
        wanted.name,
        wanted.stored,
        ops.compare_definition(wanted.stored, wanted.definition) as differences
      from (
        select
          'service' as kind,
          service.service_name as name,
          to_jsonb(service) as definition,
          (select to_jsonb(known) from ops.services as known where known.service_name = service.service_name) as stored
        from jsonb_populate_recordset(null::ops.services, definitions -> 'services') as service
        union all
        select
          'slo',
          slo.slo_name,
          to_jsonb(slo) - 'valid_from',
          (
            select to_jsonb(known) || jsonb_build_object(
              'indicator_name', coalesce(known.indicator_name, known.slo_name),
              'time_zone', case when known.calendar_period is not null then coalesce(known.time_zone, ops.time_zone()) end
            )
            from ops.slos as known
            where known.slo_name = slo.slo_name
          )
        from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
        union all
        select
          'channel',
          channel.channel_name,
          to_jsonb(channel) - array['max_attempts', 'only_org_id', 'is_enabled'],
          (select to_jsonb(known) from ops.alert_channels as known where known.channel_name = channel.channel_name)
        from jsonb_populate_recordset(null::ops.alert_channels, definitions -> 'channels') as channel
        union all
        select
          'rule',
          rule.rule_name,
          to_jsonb(rule) - 'is_enabled',
          (select to_jsonb(known) from ops.alert_rules as known where known.rule_name = rule.rule_name)
        from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
        -- A rule of an objective that the files define and no longer give it.
        union all
        select 'gone', rule.rule_name, null, to_jsonb(rule)
        from ops.alert_rules as rule
        where rule.slo_name in (
            select slo.slo_name from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
          )
          and rule.rule_name not in (
            select wanted_rule.rule_name
            from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as wanted_rule
          )
      ) as wanted
    ) as compared
    order by array_position(array['service', 'slo', 'channel', 'rule', 'gone'], compared.kind), compared.name
  );

  insert into ops.services (service_name, display_name, description, labels, annotations)
  select service.service_name, service.display_name, service.description, service.labels, service.annotations
  from jsonb_populate_recordset(null::ops.services, definitions -> 'services') as service
  where service.service_name in (select changed.name from unnest(changes) as changed where changed.kind = 'service' and changed.change <> 'unchanged')
  on conflict on constraint services_pkey do update set
    display_name = excluded.display_name,
    description = excluded.description,
    labels = excluded.labels,
    annotations = excluded.annotations;

  insert into ops.slos as slo (
    slo_name, service, objective, description, event_type, target, threshold_ms, rolling_window, calendar_period, time_zone,
    budgeting_method, time_slice, slice_target, expected_interval, indicator_name, display_name, labels, annotations
  )
  select
    wanted.slo_name, wanted.service, wanted.objective, wanted.description, wanted.event_type, wanted.target, wanted.threshold_ms,
    wanted.rolling_window, wanted.calendar_period, wanted.time_zone, wanted.budgeting_method, wanted.time_slice, wanted.slice_target,
    wanted.expected_interval, wanted.indicator_name, wanted.display_name, wanted.labels, wanted.annotations
  from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as wanted
  where wanted.slo_name in (select changed.name from unnest(changes) as changed where changed.kind = 'slo' and changed.change <> 'unchanged')
  on conflict on constraint slos_pkey do update set
    service = excluded.service,
    objective = excluded.objective,
    description = excluded.description,
    event_type = excluded.event_type,
    target = excluded.target,
    threshold_ms = excluded.threshold_ms,
    rolling_window = excluded.rolling_window,
    calendar_period = excluded.calendar_period,
    time_zone = excluded.time_zone,
    budgeting_method = excluded.budgeting_method,
    time_slice = excluded.time_slice,
    slice_target = excluded.slice_target,
    expected_interval = excluded.expected_interval,
    indicator_name = excluded.indicator_name,
    display_name = excluded.display_name,
    labels = excluded.labels,
    annotations = excluded.annotations;

  insert into ops.alert_channels (
    channel_name, kind, secret_env, settings, severities, repeat_interval, description, display_name, labels, annotations
  )
  select
    channel.channel_name, channel.kind, channel.secret_env, channel.settings, channel.severities, channel.repeat_interval,
    channel.description, channel.display_name, channel.labels, channel.annotations
  from jsonb_populate_recordset(null::ops.alert_channels, definitions -> 'channels') as channel
  where channel.channel_name in (select changed.name from unnest(changes) as changed where changed.kind = 'channel' and changed.change <> 'unchanged')
  on conflict on constraint alert_channels_pkey do update set
    kind = excluded.kind,
    secret_env = excluded.secret_env,
    settings = excluded.settings,
    severities = excluded.severities,
    repeat_interval = excluded.repeat_interval,
    description = excluded.description,
    display_name = excluded.display_name,
    labels = excluded.labels,
    annotations = excluded.annotations;

  delete from ops.alert_rules as rule
  where rule.rule_name in (select changed.name from unnest(changes) as changed where changed.change = 'removed');
  insert into ops.alert_rules (
    rule_name, kind, slo_name, metric_name, event_type, severity, budget_share, factor, long_window, short_window, comparison, threshold,
    lasting, alert_after, silent_for, channels, notify_resolved, description, display_name, labels, annotations
  )
  select
    rule.rule_name, rule.kind, rule.slo_name, rule.metric_name, rule.event_type, rule.severity, rule.budget_share, rule.factor,
    rule.long_window, rule.short_window, rule.comparison, rule.threshold, rule.lasting, rule.alert_after, rule.silent_for, rule.channels,
    rule.notify_resolved, rule.description, rule.display_name, rule.labels, rule.annotations
  from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
  where rule.rule_name in (select changed.name from unnest(changes) as changed where changed.kind = 'rule' and changed.change <> 'unchanged')
  on conflict on constraint alert_rules_pkey do update set
    kind = excluded.kind,
    slo_name = excluded.slo_name,
    metric_name = excluded.metric_name,
    event_type = excluded.event_type,
    severity = excluded.severity,
    budget_share = excluded.budget_share,
    factor = excluded.factor,
    long_window = excluded.long_window,
    short_window = excluded.short_window,
    comparison = excluded.comparison,
    threshold = excluded.threshold,
    lasting = excluded.lasting,
    alert_after = excluded.alert_after,
    silent_for = excluded.silent_for,
    channels = excluded.channels,
    notify_resolved = excluded.notify_resolved,
    description = excluded.description,
    display_name = excluded.display_name,
    labels = excluded.labels,
    annotations = excluded.annotations;
  -- Now, so that a rule that can never fire is refused here and not when the transaction ends.
  set constraints ops.slos_check_factor, ops.alert_rules_check_factor immediate;

  return query select * from unnest(changes);
end;
$$;
comment on function ops.apply_definitions(jsonb) is
  'Makes services, objectives, channels and rules what the rows in {"services", "slos", "channels", "rules"} say, and removes rules of these objectives that are not among them. One row a definition: created, changed (with each field as [before, after]), unchanged or removed.';

create function ops.backdate_slos(slo_names text[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.slo_versions as version
  where version.slo_name = any (backdate_slos.slo_names)
    and version.valid_until < 'infinity';
  update ops.slo_versions as version
  set valid_from = '-infinity'
  where version.slo_name = any (backdate_slos.slo_names);
end;
comment on function ops.backdate_slos(text[]) is
  'Makes objectives as they stand those that always were, to try them on the past; for a transaction that is rolled back.';

create function ops.simulate_conditions(since timestamptz, until timestamptz, step interval, slo_names text[])
returns table (as_of timestamptz, org_id uuid, rule_name text, severity text, subject text, alert_after interval, holds boolean)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as (
    select
      instant.as_of,
      condition.org_id,
      condition.rule_name,
      rule.severity,
      condition.subject,
      rule.alert_after,
      condition.holds,
      lag(condition.holds) over subject_over_time as held_before,
      row_number() over subject_over_time as place
    from generate_series(simulate_conditions.since, simulate_conditions.until - interval '1 microsecond', simulate_conditions.step) as instant (as_of)
    cross join lateral ops.objective_conditions(instant.as_of, simulate_conditions.slo_names) as condition
    join ops.alert_rules as rule
      on rule.rule_name = condition.rule_name
    window subject_over_time as (partition by condition.org_id, condition.rule_name, condition.subject order by instant.as_of)
  )
  select found.as_of, found.org_id, found.rule_name, found.severity, found.subject, found.alert_after, found.holds
  from found
  where found.place = 1
    or found.holds is distinct from found.held_before
  order by 1, 2, 3, 5;
end;
$$;
comment on function ops.simulate_conditions(timestamptz, timestamptz, interval, text[]) is
  'What the rules on some objectives would have found at each step of a range: the first finding and each change; holds is null where they could not tell.';

revoke execute on function
  ops.compare_definition(jsonb, jsonb),
  ops.apply_definitions(jsonb),
  ops.backdate_slos(text[]),
  ops.simulate_conditions(timestamptz, timestamptz, interval, text[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.compare_definition(jsonb, jsonb),
    ops.apply_definitions(jsonb),
    ops.backdate_slos(text[]),
    ops.simulate_conditions(timestamptz, timestamptz, interval, text[])
  from anon, authenticated, service_role;
end;
$$;

create or replace function ops.run()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report := ops.refresh();
begin
  begin
    perform ops.evaluate_alerts();
  exception
    -- Counting must go on whatever keeps the alerts from theirs.
    when others then
      perform ops.record_job_failure('alerts', sqlerrm);
  end;
  -- Last, since a partition takes locks that are held to the end.
  begin
    perform ops.maintain();
  exception
    -- Counting must go on whatever keeps the upkeep from its work.
    when others then
      perform ops.record_job_failure('maintain', sqlerrm);
  end;
  return report;
end;
$$;

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', exists (select from public.slsa_audit_metrics),
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: no audit has been recorded yet' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false),
    coalesce('last refresh ' || to_char(max(run.finished_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false) then ''
        else '; run opskpi run from cron every ' || ops.refresh_interval() end
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome <> 'failure'
  union all
  select 'alerts', not watched.has_channel or coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), false),
    case when not watched.has_channel then 'no channel: nobody is told'
      else coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated; run opskpi run')
    end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select 'messages', count(*) = 0,
    case when count(*) = 0 then 'none is dead'
      else format('%s dead for %s: %s; mend it and run opskpi alert retry', count(*), min(delivery.channel_name), max(delivery.last_error)) end
  from ops.alert_deliveries as delivery
  where delivery.state = 'dead'
  union all
  select 'partitions', next_month.partition is not null,
    case when next_month.partition is not null then next_month.name || ' is there' else 'ops.' || next_month.name || ' is missing; run opskpi run' end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; run opskpi run' end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference;
end;

comment on function ops.run() is 'Everything that is due, for schedulers that can only call SQL: one refresh, the alerts, then upkeep. Messages wait in the outbox for opskpi alert deliver.';

create view public.v_ops_alerts
with (security_invoker = true)
as
select
  alert.org_id,
  alert.alert_id,
  alert.rule_name,
  alert.kind,
  alert.severity,
  alert.subject,
  alert.service,
  alert.slo_version,
  alert.state,
  alert.is_frozen,
  alert.pending_since,
  alert.firing_since,
  alert.resolved_at,
  alert.evaluated_at,
  alert.description,
  alert.detail
from ops.alerts as alert
order by alert.alert_id desc;
comment on view public.v_ops_alerts is 'One row an alert, newest first.';
comment on column public.v_ops_alerts.org_id is 'The tenant; the nil org for what concerns the jobs.';
comment on column public.v_ops_alerts.alert_id is 'Number of the alert.';
comment on column public.v_ops_alerts.rule_name is 'The rule that found it.';
comment on column public.v_ops_alerts.kind is 'burn_rate, budget_exhausted, kpi_threshold, silent_input, silent_agents or silent_jobs.';
comment on column public.v_ops_alerts.severity is 'page, ticket or notice.';
comment on column public.v_ops_alerts.subject is 'The objective, KPI, event type, agent or job.';
comment on column public.v_ops_alerts.service is 'The service of the objective; else null.';
comment on column public.v_ops_alerts.slo_version is 'The version of the objective by which it was found; else null.';
comment on column public.v_ops_alerts.state is 'pending, firing or resolved.';
comment on column public.v_ops_alerts.is_frozen is 'The last evaluation could not tell, so the state stays.';
comment on column public.v_ops_alerts.pending_since is 'When the condition was first found to hold.';
comment on column public.v_ops_alerts.firing_since is 'When it fired; null: not yet.';
comment on column public.v_ops_alerts.resolved_at is 'When it was found to be over; null: it is not.';
comment on column public.v_ops_alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column public.v_ops_alerts.description is 'What it means and what to do.';
comment on column public.v_ops_alerts.detail is 'The figures: burn rates and factor, SLI, target, budget left; the KPI and its limit; when last heard of.';

create view public.v_ops_alert_deliveries
with (security_invoker = true)
as
select
  delivery.org_id,
  delivery.delivery_id,
  delivery.channel_name,
  delivery.group_key,
  delivery.status,
  delivery.state,
  delivery.alert_ids,
  delivery.attempts,
  delivery.created_at,
  delivery.next_attempt_at,
  delivery.settled_at,
  delivery.last_error
from ops.alert_deliveries as delivery
order by delivery.delivery_id desc;
comment on view public.v_ops_alert_deliveries is 'One row a message for a channel, newest first.';
comment on column public.v_ops_alert_deliveries.org_id is 'The tenant.';
comment on column public.v_ops_alert_deliveries.delivery_id is 'Number of the delivery.';
comment on column public.v_ops_alert_deliveries.channel_name is 'The channel.';
comment on column public.v_ops_alert_deliveries.group_key is 'The service of the objectives, the KPI, or the kind of silence.';
comment on column public.v_ops_alert_deliveries.status is 'firing, resolved or test.';
comment on column public.v_ops_alert_deliveries.state is 'queued, sending, delivered, dead, silenced (logged only) or superseded.';
comment on column public.v_ops_alert_deliveries.alert_ids is 'The alerts it speaks of.';
comment on column public.v_ops_alert_deliveries.attempts is 'Attempts begun (count).';
comment on column public.v_ops_alert_deliveries.created_at is 'The instant of the evaluation that wrote it.';
comment on column public.v_ops_alert_deliveries.next_attempt_at is 'Not before this instant.';
comment on column public.v_ops_alert_deliveries.settled_at is 'When the last attempt ended.';
comment on column public.v_ops_alert_deliveries.last_error is 'Why the last attempt failed; null when it did not.';

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on public.v_ops_alerts, public.v_ops_alert_deliveries from anon, authenticated, service_role;
  grant select on public.v_ops_alerts, public.v_ops_alert_deliveries to authenticated, service_role;
end;
$$;

insert into ops.alert_rules (rule_name, kind, severity, budget_share, long_window, short_window, description)
values
  ('fast_burn', 'burn_rate', 'page', 0.02, '1 hour', '5 minutes', 'Two hundredths of the budget went within an hour.'),
  ('steady_burn', 'burn_rate', 'page', 0.05, '6 hours', '30 minutes', 'A twentieth of the budget went within six hours.'),
  ('slow_burn', 'burn_rate', 'ticket', 0.1, '1 day', '2 hours', 'A tenth of the budget went within a day.'),
  ('trickle', 'burn_rate', 'ticket', 0.1, '3 days', '6 hours', 'A tenth of the budget went within three days.'),
  ('budget_exhausted', 'budget_exhausted', 'ticket', null, null, null, 'More is bad than the error budget allows.'),
  ('silent_input', 'silent_input', 'notice', null, null, null, 'Nothing arrives that the objective could be judged by; its alerts stay as they are.'),
  ('silent_jobs', 'silent_jobs', 'page', null, null, null, 'The jobs stood still: nothing was counted or evaluated.')
on conflict do nothing;
-- Or a later change of the table in the same transaction would find these checks pending.
set constraints all immediate;
