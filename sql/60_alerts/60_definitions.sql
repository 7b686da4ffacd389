-- Objectives, rules and channels as code: apply what files define, and try what they would have found.

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
