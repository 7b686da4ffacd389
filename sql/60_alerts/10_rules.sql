-- Alert channels and alert rules.

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
  bundle text,
  constraint alert_channels_pkey primary key (channel_name),
  constraint alert_channels_bundle_is_a_name check (ops.is_bundle_name(bundle)),
  -- The job that sends knows the kinds, and slo apply refuses others: listed here, too, a new kind would need a migration.
  constraint alert_channels_kind_is_a_plain_word check (kind ~ '^[a-z][a-z0-9_]{0,29}$'),
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
comment on column ops.alert_channels.kind is 'How it is reached: a word that slo apply and the job that sends know; a delivery over another kind ends dead.';
comment on column ops.alert_channels.secret_env is 'Name of the environment variable that holds the URL with its secret.';
comment on column ops.alert_channels.settings is 'What the kind needs besides: texts and lists of texts; of a further secret only the name of its environment variable.';
comment on column ops.alert_channels.severities is 'What it takes: page, ticket, notice.';
comment on column ops.alert_channels.repeat_interval is 'How long until what still fires is sent again.';
comment on column ops.alert_channels.max_attempts is 'Attempts (count) after which a delivery is dead until it is retried by hand.';
comment on column ops.alert_channels.only_org_id is 'Only alerts of this tenant; null: of all.';
comment on column ops.alert_channels.is_enabled is 'False: nothing is sent to it; what waits stays in the outbox.';
comment on column ops.alert_channels.description is 'What it is for.';
comment on column ops.alert_channels.display_name is 'Its name for people; null: the same.';
comment on column ops.alert_channels.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.alert_channels.annotations is 'Annotations of its OpenSLO document that are not ours, kept for the export.';
comment on column ops.alert_channels.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';
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
  bundle text,
  constraint alert_rules_pkey primary key (rule_name),
  constraint alert_rules_bundle_is_a_name check (ops.is_bundle_name(bundle)),
  constraint alert_rules_slo_name_fkey foreign key (slo_name) references ops.slos (slo_name) on update cascade on delete cascade,
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
comment on column ops.alert_rules.is_enabled is 'False: it finds nothing, and the alerts that it raised end.';
comment on column ops.alert_rules.description is 'What it means and what to do.';
comment on column ops.alert_rules.display_name is 'Its name for people; null: the same.';
comment on column ops.alert_rules.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.alert_rules.annotations is 'Annotations of its OpenSLO document that are not ours, kept for the export.';
comment on column ops.alert_rules.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';
alter table ops.alert_rules enable row level security;
create policy alert_rules_select_authenticated on ops.alert_rules for select to authenticated using ((select ops.caller_may('{read,admin}')) is not null);

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

create function ops.useless_rules(slo_name text default null, rule_name text default null)
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
comment on function ops.useless_rules(text, text) is
  'Burn-rate rules that can mean nothing for an objective that they are for, and why: its own, or the general ones, which leave it out. never_fires: its factor is out of reach. null: every objective, every rule.';

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

create function ops.check_alert_factor()
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
comment on function ops.check_alert_factor() is
  'Trigger: refuses a burn-rate rule of an objective that can mean nothing for it.';

-- At the end of the transaction, so that a rule and the target it depends on may change together.
create constraint trigger alert_rules_check_factor
after insert or update on ops.alert_rules
deferrable initially deferred
for each row execute function ops.check_alert_factor();

create constraint trigger slos_check_factor
after update on ops.slos
deferrable initially deferred
for each row execute function ops.check_alert_factor();
