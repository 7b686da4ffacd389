-- The steps of a pass over counted events, and the KPIs of the events behind the cursor.

create function ops.note_agents(ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from ops.countable_events as event
  where (
    (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
    or (ids.late is not null and event.id = any (ids.late))
  )
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;
$$;
comment on function ops.note_agents(ops.event_ids) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

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

create function ops.apply_attempts(ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  changes ops.unit_change[] := array(
    select changed
    from ops.changed_units(array(select attempted from ops.count_units(ids) as attempted)) as changed
  );
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(ids, '-infinity', 'infinity') as delta
    union all
    select delta from ops.unit_slis(changes) as delta
  ));
  perform ops.write_units(changes);
end;
$$;
comment on function ops.apply_attempts(ops.event_ids) is 'Adds the attempts among new events to the SLI counts and the units of work.';

create type ops.counted_range as (events bigint, kpi_rows jsonb, ids ops.event_ids, message text);
comment on type ops.counted_range is 'Events counted, KPI rows written by period, the ids of the events, and what a person should know of it.';

create function ops.count_range(ids ops.event_ids, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.counted_range;
  events ops.event_delta[] := '{}'::ops.event_delta[];
  audits ops.event_delta[];
  has_ids constant boolean := ids.until_id > ids.after_id or ids.late is not null;
begin
  counted.ids := ids;
  if has_ids then
    events := array(select event from ops.count_events(ids, '-infinity', 'infinity') as event);
  end if;
  counted.events := coalesce((select sum(event.event_count) from unnest(events) as event), 0);
  audits := array(select audit from ops.take_audit_changes() as audit);
  if cardinality(audits) > 0 then
    events := events || audits;
  end if;
  if cardinality(events) > 0 then
    counted.kpi_rows := ops.apply_events(events, as_of);
  end if;
  if has_ids then
    perform ops.add_patterns(array(select delta from ops.count_patterns(ids, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(ids);
    perform ops.note_agents(ids);
  end if;
  return counted;
end;
$$;
comment on function ops.count_range(ops.event_ids, timestamptz) is
  'Counts the events of a set of ids, and the audits that changed, everywhere they count: rollups, histograms, KPIs, blocked patterns, SLIs, units of work, agents. Once per event; the cursor is the caller''s.';

create function ops.has_fresh_counts()
returns boolean
language plpgsql
stable
set search_path = ''
-- Planning takes longer than the look into the index of each partition.
set plan_cache_mode = force_generic_plan
as $$
begin
  -- Not exists: for that the planner reads all events in search of a first one.
  return (select max(event.id) from public.telemetry_events as event where event.id > ops.cursor_id()) is not null
    or ops.late_ids() is not null
    or exists (select from ops.audit_changes);
end;
$$;
comment on function ops.has_fresh_counts() is
  'Whether there are events or changed audits that no refresh has counted yet, of those that the caller may see.';

create function ops.fresh_kpis()
returns setof ops.kpi_value
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  events ops.event_delta[];
begin
  -- Most reads find all counted: to plan the counting of nothing took ten times as long as the rest of a view.
  if not ops.has_fresh_counts() then
    return;
  end if;
  events := array(
    select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    union all
    select event from ops.count_audit_changes() as event
  );
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
