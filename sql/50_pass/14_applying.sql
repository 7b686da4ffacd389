-- The steps of a pass over counted events, and the KPIs of the events behind the cursor.

create function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from ops.countable_events as event
  where event.id > note_agents.after_id
    and event.id <= note_agents.until_id
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;
comment on function ops.note_agents(bigint, bigint) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

create function ops.take_audit_changes()
returns setof ops.event_delta
language plpgsql
volatile
set search_path = ''
as $$
declare
  taken constant uuid[] := array(select change.audit_change_id from ops.audit_changes as change);
begin
  if cardinality(taken) > 0 then
    -- Counted after the changes were listed: a change that commits in between is counted now and adds nothing next time.
    return query select change.* from ops.count_audit_changes() as change;
    delete from ops.audit_changes as change where change.audit_change_id = any (taken);
  end if;
end;
$$;
comment on function ops.take_audit_changes() is
  'Empties the list of audits that changed since the last refresh and returns what they add to their series; only refresh calls it.';

create function ops.apply_events(events ops.event_delta[], as_of timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups ops.rollup_delta[] := array(select delta from ops.rollup_deltas(events) as delta);
  histograms ops.histograms[] := array(
    select merged from ops.merged_histograms(array(select delta from ops.histogram_deltas(events) as delta)) as merged
  );
  kpi_rows jsonb;
begin
  -- KPIs are stored state plus delta, so they are computed before the delta is added: the views do the same without adding it.
  select coalesce(jsonb_object_agg(written.period, written.rows_written), '{}')
  into kpi_rows
  from ops.write_kpis(
    array(
      select kpi from ops.changed_ratios(rollups) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    as_of
  ) as written;
  perform ops.add_rollups(rollups);
  perform ops.write_histograms(histograms);
  return kpi_rows;
end;
$$;
comment on function ops.apply_events(ops.event_delta[], timestamptz) is
  'Rewrites the KPIs that counted events change and adds the events to the states; returns the KPI rows written by period.';

create function ops.apply_attempts(after_id bigint, until_id bigint)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes ops.unit_change[] := array(
    select changed
    from ops.changed_units(array(select attempted from ops.count_units(after_id, until_id) as attempted)) as changed
  );
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(after_id, until_id, '-infinity', 'infinity') as delta
    union all
    select delta from ops.unit_slis(changes) as delta
  ));
  perform ops.write_units(changes);
end;
$$;
comment on function ops.apply_attempts(bigint, bigint) is 'Adds the attempts among new events to the SLI counts and the units of work.';

create type ops.counted_range as (events bigint, kpi_rows jsonb, until_id bigint, message text);
comment on type ops.counted_range is 'Events counted, KPI rows written by period, the id up to which that was done, and what a person should know of it.';

create function ops.count_range(after_id bigint, until_id bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.counted_range;
  events ops.event_delta[] := '{}'::ops.event_delta[];
  audits ops.event_delta[];
begin
  if until_id > after_id then
    events := array(select event from ops.count_events(after_id, until_id, '-infinity', 'infinity') as event);
  end if;
  counted.events := coalesce((select sum(event.event_count) from unnest(events) as event), 0);
  audits := array(select audit from ops.take_audit_changes() as audit);
  if cardinality(audits) > 0 then
    events := events || audits;
  end if;
  if cardinality(events) > 0 then
    counted.kpi_rows := ops.apply_events(events, as_of);
  end if;
  if until_id > after_id then
    perform ops.add_patterns(array(select delta from ops.count_patterns(after_id, until_id, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(after_id, until_id);
    perform ops.note_agents(after_id, until_id);
  end if;
  return counted;
end;
$$;
comment on function ops.count_range(bigint, bigint, timestamptz) is
  'Counts the events with after_id < id <= until_id, and the audits that changed, everywhere they count: rollups, histograms, KPIs, blocked patterns, SLIs, units of work, agents. Once per event; the cursor is the caller''s.';

create function ops.fresh_kpis()
returns setof ops.kpi_value
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  events ops.event_delta[] := array(
    select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
    union all
    select event from ops.count_audit_changes() as event
  );
begin
  if cardinality(events) = 0 then
    return;
  end if;
  return query
  select kpi.*
  from ops.changed_ratios(array(select delta from ops.rollup_deltas(events) as delta)) as kpi
  union all
  select kpi.*
  from ops.changed_percentiles(array(
    select merged from ops.merged_histograms(array(select delta from ops.histogram_deltas(events) as delta)) as merged
  )) as kpi;
end;
$$;
comment on function ops.fresh_kpis() is 'The KPIs that events behind the cursor change, as the next refresh would write them.';
