-- Erasure of one agent: its events become those of the erased agent of its team.

create function ops.erase_agent(
  org_id uuid,
  agent_id uuid,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  without_key boolean default false,
  anonymisation_id bigint default null,
  also text[] default '{}'
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
  mention text := ops.agent_mention(pseudonyms, also);
  -- Wherever else it is written, in values and in keys.
  traces ops.anonymisation_rules[] := array[
    row('erased-agent', '', '$.**', '(?i)' || mention, 'remove', false, true, ops.anonymisation_pattern('$.**', false)),
    row('erased-agent', '', '$.**', null, 'remove', false, true, '(?i)^.*"[^"]*' || mention || '[^"]*"$')
  ]::ops.anonymisation_rules[];
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled) || traces;
  own ops.anonymisable[];
  others ops.anonymisable[];
  written record;
  written_to_others record;
  forgotten record;
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
      coalesce(event.agent_id::text ~* mention, false) or coalesce(event.metadata ->> 'agent_id' ~* mention, false) as is_own
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, 9223372036854775807)
      and event.org_id = erase_agent.org_id
      and (event.agent_id::text ~* mention or event.tag ~* mention or event.metadata::text ~* mention)
  ) as named;
  if not dry_run and own is not null then
    perform ops.add_pseudonyms(pseudonyms);
  end if;
  select * into written from ops.write_anonymised(coalesce(own, '{}'), rules, pseudonyms, true, dry_run);
  select * into written_to_others from ops.write_anonymised(coalesce(others, '{}'), traces, '{}', true, dry_run);
  if not dry_run then
    perform ops.rename_in_events(coalesce(own, '{}') || coalesce(others, '{}'), mention, pseudonyms[1].pseudonym::text);
  end if;
  report.looked_at := coalesce(cardinality(own), 0) + coalesce(cardinality(others), 0);
  -- Each named the agent, and none does any more.
  report.changed := report.looked_at;
  report.counts := ops.added_counts(written.counts, written_to_others.counts);
  if report.state = 'done' then
    select * into forgotten from ops.forget_agent(pseudonyms, mention, dry_run);
    report.counts := ops.added_counts(report.counts, forgotten.counts);
    report.kept := forgotten.kept;
  end if;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint, text[]) is
  'Turns one batch of the events of an agent, and of its pseudonym, into those of the erased agent of its team and applies all rules to them; its ids in any spelling, and what it is also called, are replaced wherever they are written. Call it again after last_id until it is done, when the agent is taken out of every other table. Events that were not committed by then are for another run.';

create function ops.rename_in_events(events ops.anonymisable[], mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
-- A plan for the partitions between the two instants, and no others.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  since timestamptz := (select min(event.event_timestamp) from unnest(events) as event);
  until timestamptz := (select max(event.event_timestamp) from unnest(events) as event);
  tagged constant uuid[] := array(select event.event_id from unnest(events) as event where event.tag ~* mention);
  units ops.unit_rename[];
begin
  -- Before the tags change: the unit of a long one is a hash of it.
  units := array(
    select row(attempt.org_id, attempt.event_type, attempt.unit, attempt.event_id::text)::ops.unit_rename
    from ops.sli_events as attempt
    where attempt.event_id = any (tagged)
      and attempt.event_timestamp between since and until
  );
  update public.telemetry_events as stored
  set tag = regexp_replace(stored.tag, mention, erased, 'gi'),
      metadata = ops.without_mention(stored.metadata, mention, erased)
  from unnest(events) as event
  where stored.org_id = event.org_id
    and stored.event_timestamp = event.event_timestamp
    and stored.event_id = event.event_id
    and stored.event_timestamp between since and until
    and (stored.tag ~* mention or stored.metadata::text ~* mention);
  perform ops.rename_units(array(
    select distinct row(old.org_id, old.event_type, old.old_unit, renamed.unit)::ops.unit_rename
    from unnest(units) as old
    join ops.sli_events as renamed
      on renamed.org_id = old.org_id
      and renamed.event_id::text = old.new_unit
    where renamed.event_id = any (tagged)
      and renamed.event_timestamp between since and until
      and renamed.unit <> old.old_unit
  ));
end;
$$;
comment on function ops.rename_in_events(ops.anonymisable[], text, text) is
  'Replaces what still names an erased agent in events after the rules: tags and what is counted, which no rule touches. The units of work of the tags follow at once, all other states when the erasure is done. Only erase_agent calls it.';

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

create function ops.forget_agent(pseudonyms ops.pseudonym[], mention text, dry_run boolean, out counts jsonb, out kept jsonb)
language plpgsql
volatile
set search_path = ''
as $$
declare
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  of_kind bigint;
begin
  select named.counts, named.kept into counts, kept from ops.count_mentions(owner_id, mention) as named;
  select ops.added_counts(counts, coalesce(jsonb_object_agg(found.name, found.rows), '{}'))
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
  ) as found
  where found.rows > 0;
  -- The kinds of counted events are few, so that only events of such a kind are read.
  select count(*) into of_kind
  from public.telemetry_events as event
  where event.org_id = owner_id
    and event.event_type in (select series.event_type from ops.series where series.org_id = owner_id and series.event_type ~* mention);
  if of_kind > 0 then
    kept := kept || jsonb_build_object('public.telemetry_events.event_type', of_kind);
  end if;
  if dry_run or counts = '{}' then
    return;
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and concat_ws(' ', alert.subject, alert.slo_group) ~* mention;
  update ops.alerts as alert
  set state = 'ended',
      resolved_at = greatest(alert.evaluated_at, now()),
      detail = alert.detail || '{"ended_because": "no_longer_asked"}'
  where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.slo_group) ~* mention and alert.state = 'firing';
  if counts ?| array['ops.series', 'ops.histograms', 'ops.blocked_patterns', 'ops.work_units', 'ops.sli_groups', 'public.kpi_aggregations'] then
    perform ops.rename_states(owner_id, mention, erased);
  end if;
  perform ops.replace_mentions(owner_id, mention, erased, counts);
end;
$$;
comment on function ops.forget_agent(ops.pseudonym[], text, boolean) is
  'Takes an agent, its pseudonym and its other names out of every table but the events; returns the rows by table, and those in which a name stays by its meaning, by column. Its open alerts are over. Only erase_agent calls it.';
