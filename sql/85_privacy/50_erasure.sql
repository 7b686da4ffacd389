-- Erasure of one agent: its events become those of the erased agent of its team.

create function ops.erase_agent(
  org_id uuid,
  agent_id uuid,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  without_key boolean default false,
  anonymisation_id bigint default null
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  pseudonyms ops.pseudonym[] := array(select pair from ops.erased_pseudonyms(erase_agent.org_id, erase_agent.agent_id, without_key) as pair);
  mention text := (select string_agg(pair.agent, '|') from unnest(pseudonyms) as pair);
  -- Wherever else it is written, in values and in keys.
  traces ops.anonymisation_rules[] := array[
    row('erased-agent', '', '$.**', mention, 'remove', false, true, ops.anonymisation_pattern('$.**', false)),
    row('erased-agent', '', '$.**', null, 'remove', false, true, '(?i)^.*"[^"]*(?:' || mention || ')[^"]*"$')
  ]::ops.anonymisation_rules[];
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled) || traces;
  own ops.anonymisable[];
  others ops.anonymisable[];
  written record;
  written_to_others record;
begin
  if max_events is null or max_events < 1 then
    raise exception 'a batch of % events would never end', max_events
      using errcode = 'OP001', hint = 'Pass max_events of 1 or more.';
  end if;
  if not dry_run and not (
    pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) and pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))
  ) then
    report.state := 'busy';
    return report;
  end if;
  -- Those that are not counted yet, too: nothing is counted meanwhile, and then they count for the same team.
  report.last_id := ops.last_to_anonymise(after_id, 9223372036854775807, 'infinity', max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  select
    array_agg(named.event) filter (where named.is_own),
    array_agg(named.event) filter (where not named.is_own)
  into own, others
  from (
    select
      row(
        row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id,
        event.agent_id
      )::ops.anonymisable as event,
      coalesce(event.agent_id::text ~ mention, false) or coalesce(event.metadata ->> 'agent_id' ~* mention, false) as is_own
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, 9223372036854775807)
      and event.org_id = erase_agent.org_id
      and (event.agent_id::text ~ mention or event.metadata::text ~* mention)
  ) as named;
  if not dry_run and own is not null then
    perform ops.add_pseudonyms(pseudonyms);
  end if;
  select * into written from ops.write_anonymised(coalesce(own, '{}'), rules, pseudonyms, true, dry_run);
  select * into written_to_others from ops.write_anonymised(coalesce(others, '{}'), traces, '{}', true, dry_run);
  report.looked_at := coalesce(cardinality(own), 0) + coalesce(cardinality(others), 0);
  report.changed := written.changed + written_to_others.changed;
  report.counts := ops.added_counts(written.counts, written_to_others.counts);
  if report.state = 'done' then
    report.counts := ops.added_counts(report.counts, ops.forget_agent(pseudonyms, dry_run));
  end if;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint) is
  'Turns one batch of the events of an agent, and of its pseudonym, into those of the erased agent of its team and applies all rules to them; call it again after last_id until it is done, when the agent is taken out of every other table. Events that were not committed by then are for another run.';

create function ops.erased_pseudonyms(org_id uuid, agent_id uuid, without_key boolean)
returns setof ops.pseudonym
language plpgsql
stable
set search_path = ''
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
begin
  if erased_pseudonyms.org_id is null or erased_pseudonyms.agent_id is null then
    raise exception 'an agent is erased by its org and its id'
      using errcode = 'OP001', hint = 'Pass both.';
  end if;
  if exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = erased_pseudonyms.agent_id
      and agent.agent_id = ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'that is what the erased agents of a team are called'
      using errcode = 'OP001', hint = 'Nobody can be told from another by it; there is nothing to erase.';
  end if;
  if pads is null and not without_key and not ops.is_pseudonym(erased_pseudonyms.agent_id::text) and exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.is_pseudonym
      and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'the organisation has pseudonyms, and which of them is this agent''s cannot be said without the anonymisation key'
      using errcode = 'OP003', hint = 'Set OPSKPI_ANONYMISATION_KEY; if the key is gone for good, pass --without-key.';
  end if;
  if exists (
    select
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
    where series.org_id = erased_pseudonyms.org_id
      and series.labels::text ~* concat_ws('|', erased_pseudonyms.agent_id, ops.agent_pseudonym(pads, erased_pseudonyms.org_id, erased_pseudonyms.agent_id::text))
  ) then
    raise exception 'the agent is a label, so what was counted names it'
      using errcode = 'OP001', hint = 'Take that key out of label_keys in ops.event_types, run opskpi rebuild over all time, and erase it then.';
  end if;
  return query
  with names as (
    select name.agent_id, agent.agent_id is not null as is_known, agent.team
    from (
      select erased_pseudonyms.agent_id
      union
      select ops.agent_pseudonym(pads, erased_pseudonyms.org_id, erased_pseudonyms.agent_id::text)
    ) as name
    left join ops.agents as agent
      on agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = name.agent_id
    where name.agent_id is not null
  )
  select
    erased_pseudonyms.org_id,
    '',
    names.agent_id::text,
    names.agent_id,
    ops.erased_agent_id(
      erased_pseudonyms.org_id,
      -- With rules on the way in only the pseudonym may have a row, and without any only the agent.
      case when names.is_known then names.team else (select max(known.team) from names as known) end
    ),
    'erased-agent'
  from names
  order by names.agent_id <> erased_pseudonyms.agent_id;
end;
$$;
comment on function ops.erased_pseudonyms(uuid, uuid, boolean) is
  'What an agent, and its pseudonym where the key is set, are called when they are erased; refused where that would be half of it.';

create function ops.forget_agent(pseudonyms ops.pseudonym[], dry_run boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  mention constant text := (select string_agg(pair.agent, '|') from unnest(pseudonyms) as pair);
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  counts jsonb;
begin
  select jsonb_object_agg(found.name, found.rows)
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
    union all
    select 'ops.alerts', count(*)
    from ops.alerts as alert
    where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.service, alert.description, alert.detail) ~* mention
    union all
    select 'ops.alert_deliveries', count(*)
    from ops.alert_deliveries as delivery
    where delivery.org_id = owner_id and concat_ws(' ', delivery.group_key, delivery.message, delivery.last_error) ~* mention
    union all
    select 'ops.alert_silences', count(*)
    from ops.alert_silences as silence
    where coalesce(silence.only_org_id, owner_id) = owner_id and concat_ws(' ', silence.matcher, silence.reason) ~* mention
    union all
    select 'ops.job_runs', count(*)
    from ops.job_runs as run
    where run.message ~* mention
    union all
    select 'ops.series', count(*)
    from ops.series
    where series.org_id = owner_id and series.labels::text ~* mention
  ) as found
  where found.rows > 0;
  if dry_run or counts is null then
    return coalesce(counts, '{}');
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and alert.subject ~* mention;
  update ops.alerts as alert
  set state = case when alert.subject ~* mention then 'resolved' else alert.state end,
      -- Nothing asks about it any more.
      resolved_at = case when alert.subject ~* mention then coalesce(alert.resolved_at, greatest(alert.evaluated_at, now())) else alert.resolved_at end,
      subject = regexp_replace(alert.subject, mention, erased, 'gi'),
      service = regexp_replace(alert.service, mention, erased, 'gi'),
      description = regexp_replace(alert.description, mention, erased, 'gi'),
      detail = regexp_replace(alert.detail::text, mention, erased, 'gi')::jsonb
  where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.service, alert.description, alert.detail) ~* mention;
  update ops.alert_deliveries as delivery
  set message = regexp_replace(delivery.message::text, mention, erased, 'gi')::jsonb,
      group_key = regexp_replace(delivery.group_key, mention, erased, 'gi'),
      last_error = regexp_replace(delivery.last_error, mention, erased, 'gi')
  where delivery.org_id = owner_id and concat_ws(' ', delivery.group_key, delivery.message, delivery.last_error) ~* mention;
  update ops.alert_silences as silence
  set matcher = regexp_replace(silence.matcher, mention, erased, 'gi'),
      reason = regexp_replace(silence.reason, mention, erased, 'gi')
  where coalesce(silence.only_org_id, owner_id) = owner_id and concat_ws(' ', silence.matcher, silence.reason) ~* mention;
  update ops.job_runs as run set message = regexp_replace(run.message, mention, erased, 'gi') where run.message ~* mention;
  -- Of labels that were rebuilt away; erased_pseudonyms has refused all others.
  delete from ops.series where series.org_id = owner_id and series.labels::text ~* mention;
  return counts;
end;
$$;
comment on function ops.forget_agent(ops.pseudonym[], boolean) is
  'Takes an agent and its pseudonym out of every table but the events; returns the rows by table. Its open alerts are over. Only erase_agent calls it.';
