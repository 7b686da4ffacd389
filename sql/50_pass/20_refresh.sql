-- The exactly-once pass over new events, and the KPIs of the events behind the cursor.

create function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from public.telemetry_events as event
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

create type ops.refresh_report as (
  state text,
  events bigint,
  cursor_id bigint,
  behind bigint,
  hour_rows bigint,
  day_rows bigint,
  week_rows bigint,
  month_rows bigint,
  message text
);
comment on type ops.refresh_report is
  'done: all that could be counted is; more: call again; waiting: a writer stayed open; busy: another refresh runs. behind is in ids, rows are KPI rows.';

create function ops.refresh(max_wait interval default '5 seconds', max_ids bigint default 200000, as_of timestamptz default now())
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
-- Hashing 200,000 events takes less than this; with the default of 4 MB they are sorted on disk, which takes three times as long.
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.refresh_report;
  started_at timestamptz := clock_timestamp();
  after_id bigint;
  safe_id bigint;
  until_id bigint;
  audit_changes bigint[];
  events ops.event_delta[] := '{}'::ops.event_delta[];
  kpi_rows jsonb := '{}'::jsonb;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'refresh needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  if max_ids is null or max_ids < 1 then
    raise exception 'a refresh of % ids would never end', max_ids
      using errcode = 'OP001', hint = 'Pass max_ids of 1 or more.';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name) values ('telemetry_events') on conflict on constraint cursors_pkey do nothing;
  safe_id := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  until_id := safe_id;
  if safe_id - after_id > max_ids then
    -- By events and not by ids, since a restored sequence may have a gap of millions.
    until_id := coalesce(
      (
        select event.id
        from public.telemetry_events as event
        where event.id > after_id
          and event.id <= safe_id
        order by event.id
        offset max_ids - 1
        limit 1
      ),
      safe_id
    );
  end if;

  if until_id > after_id then
    events := array(select event from ops.count_events(after_id, until_id, '-infinity', 'infinity') as event);
  end if;
  audit_changes := array(select change.audit_change_id from ops.audit_changes as change);
  if cardinality(audit_changes) > 0 then
    events := events || array(select event from ops.count_audit_changes() as event);
    delete from ops.audit_changes as change where change.audit_change_id = any (audit_changes);
  end if;
  if cardinality(events) > 0 then
    kpi_rows := ops.apply_events(events, as_of);
  end if;
  if until_id > after_id then
    perform ops.add_patterns(array(select delta from ops.count_patterns(after_id, until_id, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(after_id, until_id);
    perform ops.note_agents(after_id, until_id);
    update ops.cursors set last_id = until_id, moved_at = clock_timestamp() where cursors.name = 'telemetry_events';
  end if;
  perform ops.close_periods(as_of);

  report.events := coalesce((select sum(event.event_count) from unnest(events) as event where event.event_type <> 'slsa_audit_metrics'), 0);
  report.cursor_id := greatest(after_id, until_id);
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - report.cursor_id;
  report.hour_rows := coalesce((kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when until_id < safe_id then 'more'
    when exists (select from ops.cursors where cursors.name = 'telemetry_events' and cursors.fence_id is not null) then 'waiting'
    else 'done'
  end;
  if report.state = 'waiting' then
    report.message := 'a transaction that writes events stayed open; what it and later ones wrote is counted by a later run';
  end if;
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, kpi_rows, message)
  values (
    'refresh',
    started_at,
    clock_timestamp(),
    case when report.state = 'waiting' then 'waiting' else 'success' end,
    report.events,
    report.hour_rows + report.day_rows + report.week_rows + report.month_rows,
    report.message
  );
  return report;
end;
$$;
comment on function ops.refresh(interval, bigint, timestamptz) is
  'Counts every event committed since the last call exactly once, max_ids of them at most, rewrites the KPIs they touch and moves the cursor, all in one transaction. Never blocks a writer.';

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
