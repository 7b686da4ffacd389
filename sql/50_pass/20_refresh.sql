-- The exactly-once pass over new events.

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
  'done: all that has appeared is counted; more: call again; waiting: so many gaps are kept for writers that stay open that the cursor waits for them; busy: another refresh runs; failed (of run alone): the message says why. behind is in ids, rows are KPI rows.';

create function ops.require_refreshable(max_ids bigint)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'refresh needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  if max_ids is null or max_ids < 1 then
    raise exception 'a refresh of % ids would never end', max_ids
      using errcode = 'OP001', hint = 'Pass max_ids of 1 or more.';
  end if;
end;
$$;
comment on function ops.require_refreshable(bigint) is
  'Refuses a refresh of no ids, and one in a transaction whose statements do not see what others commit meanwhile.';

create function ops.pass_end(after_id bigint, last_id bigint, max_ids bigint)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  if last_id - after_id <= max_ids then
    return last_id;
  end if;
  -- By events and not by ids, since a restored sequence may have a gap of millions.
  return coalesce(
    (
      select event.id
      from public.telemetry_events as event
      where event.id > after_id
        and event.id <= last_id
      order by event.id
      offset max_ids - 1
      limit 1
    ),
    last_id
  );
end;
$$;
comment on function ops.pass_end(bigint, bigint, bigint) is
  'The id up to which one pass counts: last_id, or the id of the last of max_ids events after the cursor.';

create function ops.report_refresh(counted ops.counted_range, is_waiting boolean, is_all boolean)
returns ops.refresh_report
language plpgsql
stable
set search_path = ''
as $$
declare
  report ops.refresh_report;
begin
  report.events := counted.events;
  report.cursor_id := (counted.ids).until_id;
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - report.cursor_id;
  report.hour_rows := coalesce((counted.kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((counted.kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((counted.kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((counted.kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when not is_all then 'more'
    when is_waiting then 'waiting'
    else 'done'
  end;
  report.message := concat_ws(
    '; ',
    counted.message,
    case
      when report.state = 'waiting'
        then 'counting waits for transactions that write events and stay open: ' || coalesce(ops.awaited_in_words(), 'they end just now')
    end
  );
  report.message := nullif(report.message, '');
  return report;
end;
$$;
comment on function ops.report_refresh(ops.counted_range, boolean, boolean) is
  'The report of a pass: events, KPI rows by period, and whether that is all that it could have counted, or it waits.';

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
  fence ops.fence;
  asked ops.asked_ids;
  counted ops.counted_range;
begin
  perform ops.require_refreshable(max_ids);
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name)
  select 'telemetry_events'
  where not exists (select from ops.cursors where cursors.name = 'telemetry_events');
  fence := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  -- Before the attempt, so that what is lost there was lost in counting.
  perform ops.close_periods(as_of);
  asked := ops.ids_to_count(after_id, fence, max_ids);
  if (asked.ids).until_id > after_id or (asked.ids).late is not null then
    counted := ops.count_or_set_aside(asked.ids, max_ids, as_of);
  else
    counted := ops.count_range(asked.ids, as_of);
  end if;
  if fence.has_gaps or asked.is_held or not isempty((counted.ids).missing) then
    perform ops.settle_gaps(fence, asked.late, counted.ids);
    perform ops.note_awaited_writers(asked.is_held, fence.open_writers);
  end if;

  report := ops.report_refresh(
    counted,
    asked.is_held,
    (counted.ids).until_id >= case when asked.is_held then (asked.ids).until_id else fence.drawn_id end
      and coalesce(cardinality((counted.ids).late), 0) >= coalesce(cardinality(asked.late), 0)
  );
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
