-- Anonymisation rules applied to stored events, batch by batch, with a log.

create table ops.anonymisations (
  anonymisation_id bigint generated always as identity,
  kind text not null,
  before timestamptz,
  only_org_id uuid,
  only_event_type text,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  looked_at bigint not null default 0,
  changed bigint not null default 0,
  counts jsonb not null default '{}',
  constraint anonymisations_pkey primary key (anonymisation_id),
  constraint anonymisations_kind_check check (kind in ('rules', 'erasure'))
);
comment on table ops.anonymisations is 'One row a run that anonymised stored events: what was done, never to whom or to what.';
comment on column ops.anonymisations.anonymisation_id is 'Number of the run.';
comment on column ops.anonymisations.kind is 'rules: applied to events before an instant; erasure: of one agent.';
comment on column ops.anonymisations.before is 'rules: only events before this instant.';
comment on column ops.anonymisations.only_org_id is 'The tenant; null: all.';
comment on column ops.anonymisations.only_event_type is 'Only this kind of event; null: every kind.';
comment on column ops.anonymisations.started_at is 'When it began.';
comment on column ops.anonymisations.finished_at is 'When it was done; null: it runs, or was killed and the next run finishes its work.';
comment on column ops.anonymisations.looked_at is 'Events looked at (count).';
comment on column ops.anonymisations.changed is 'Events changed (count).';
comment on column ops.anonymisations.counts is 'Values changed by rule (count); for an erasure also rows of other tables.';
alter table ops.anonymisations enable row level security;

create type ops.anonymisation_report as (
  state text,
  last_id bigint,
  looked_at bigint,
  changed bigint,
  counts jsonb,
  kept jsonb
);
comment on type ops.anonymisation_report is
  'more: call again after last_id; done; busy: a refresh, a rebuild or another job has the lock, nothing was done. Events looked at and changed (count); counts as in ops.anonymisations; kept are rows by column in which an erasure leaves a name, since it is part of a definition.';

create function ops.begin_anonymisation(
  kind text,
  before timestamptz default null,
  only_org_id uuid default null,
  only_event_type text default null
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.anonymisations as run (kind, before, only_org_id, only_event_type)
  values (kind, before, only_org_id, only_event_type)
  returning run.anonymisation_id;
end;
comment on function ops.begin_anonymisation(text, timestamptz, uuid, text) is 'Notes that a run begins; returns its number, which its batches are called with.';

create function ops.added_counts(counts jsonb, more jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  select coalesce(jsonb_object_agg(summed.name, summed.changed), '{}')
  from (
    select part.key as name, sum(part.value::numeric) as changed
    from (
      select listed.key, listed.value from jsonb_each(added_counts.counts) as listed
      union all
      select listed.key, listed.value from jsonb_each(added_counts.more) as listed
    ) as part
    group by 1
  ) as summed
);
comment on function ops.added_counts(jsonb, jsonb) is 'Two objects of numbers, added key by key.';

create function ops.note_anonymisation(anonymisation_id bigint, report ops.anonymisation_report)
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.anonymisations as run
  set looked_at = run.looked_at + note_anonymisation.report.looked_at,
      changed = run.changed + note_anonymisation.report.changed,
      counts = ops.added_counts(run.counts, note_anonymisation.report.counts),
      finished_at = case when note_anonymisation.report.state = 'done' then clock_timestamp() end
  where run.anonymisation_id = note_anonymisation.anonymisation_id;
end;
comment on function ops.note_anonymisation(bigint, ops.anonymisation_report) is 'Adds a batch to the log of its run, in the transaction of the batch.';

create function ops.write_anonymised(
  events ops.anonymisable[],
  rules ops.anonymisation_rules[],
  pseudonyms ops.pseudonym[],
  is_erasure boolean,
  dry_run boolean,
  out changed bigint,
  out counts jsonb
)
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
begin
  with anonymised as materialized (
    select event.* from ops.anonymised_events(events, rules, pseudonyms, is_erasure) as event
  ),
  written as (
    update public.telemetry_events as stored
    set agent_id = anonymised.agent_id,
        metadata = anonymised.metadata
    from anonymised
    where not dry_run
      and stored.org_id = anonymised.org_id
      and stored.event_timestamp = anonymised.event_timestamp
      and stored.event_id = anonymised.event_id
      and stored.event_timestamp >= since
      and stored.event_timestamp <= until
  ),
  counted as (
    select rule.rule_name, count(*) as changed
    from anonymised
    cross join unnest(anonymised.changed_by) as rule (rule_name)
    group by 1
  )
  select
    (select count(*) from anonymised),
    coalesce((select jsonb_object_agg(counted.rule_name, counted.changed) from counted), '{}')
  into changed, counts;
end;
$$;
comment on function ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean) is
  'Writes over stored events what the rules and pseudonyms make of them: id, event_id and time stay, so that none is counted again. Returns events changed and values by rule.';

create function ops.anonymise_events(
  before timestamptz,
  only_org_id uuid default null,
  only_event_type text default null,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
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
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled);
  pseudonyms ops.pseudonym[];
  events ops.anonymisable[];
  missing int8multirange;
begin
  if (before between timestamptz '1970-01-01 00:00+00' and timestamptz '2200-01-01 00:00+00' and max_events >= 1) is not true then
    raise exception 'what to anonymise is not said: before %, max_events %', before, max_events
      using errcode = 'OP001', hint = 'Pass an instant between 1970 and 2200, and a batch of 1 or more.';
  end if;
  if only_event_type is not null and after_id = 0 then
    perform ops.require_rule_for('events', only_event_type);
  end if;
  -- Nothing is counted, rebuilt or deleted meanwhile, so that what is counted now is what was read.
  if not dry_run and not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    return report;
  end if;
  missing := ops.missing_ids();
  report.last_id := ops.last_to_anonymise(after_id, ops.cursor_id(), before, max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  events := array(
    select row(
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, ops.cursor_id())
      and not event.id <@ missing
      and event.event_timestamp < before
      and (only_org_id is null or event.org_id = only_org_id)
      and (only_event_type is null or event.event_type = only_event_type)
  );
  pseudonyms := array(select pair from ops.pseudonyms(events, rules) as pair);
  if not dry_run then
    perform ops.add_pseudonyms(pseudonyms);
    perform ops.follow_teams(pseudonyms);
  end if;
  report.looked_at := cardinality(events);
  select written.changed, written.counts
  into report.changed, report.counts
  from ops.write_anonymised(events, rules, pseudonyms, false, dry_run) as written;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint) is
  'Applies the rules to one batch of counted events before an instant, in the order of their ids; call it again after last_id until it is done. With dry_run it only counts. Applied twice it changes nothing, so a run that was killed is finished by the next.';

create function ops.last_to_anonymise(after_id bigint, until_id bigint, before timestamptz, max_events integer)
returns bigint
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (
    select event.id
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp < before
    order by event.id
    offset max_events - 1
    limit 1
  );
end;
$$;
comment on function ops.last_to_anonymise(bigint, bigint, timestamptz, integer) is 'The id that ends a batch of so many events; null when fewer are left.';

create function ops.follow_teams(pseudonyms ops.pseudonym[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.agents as pseudonym
  set team = agent.team,
      updated_at = now()
  from unnest(follow_teams.pseudonyms) as pair
  join ops.agents as agent
    on agent.org_id = pair.org_id
    and agent.agent_id = pair.agent_id
  where pseudonym.org_id = pair.org_id
    and pseudonym.agent_id = pair.pseudonym
    and pseudonym.team is distinct from agent.team;
end;
comment on function ops.follow_teams(ops.pseudonym[]) is 'Puts pseudonyms into the teams that their agents are in now: one may have moved while no key was set.';
