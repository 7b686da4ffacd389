-- The fence: who may still commit events up to an id, so that each event is counted once.

create function ops.open_writers()
returns text[]
language sql
volatile
set search_path = ''
begin atomic
  with locks as materialized (
    select lock.locktype, lock.relation, lock.virtualtransaction, lock.pid, lock.mode, lock.transactionid, lock.database
    from pg_catalog.pg_locks as lock
    where lock.granted
  ),
  writing as (
    select distinct lock.virtualtransaction as name
    from locks as lock
    where lock.locktype = 'relation'
      and lock.mode = 'RowExclusiveLock'
      and lock.database = (select database.oid from pg_catalog.pg_database as database where database.datname = current_database())
      and (
        lock.relation = 'public.telemetry_events'::regclass
        -- Drawing an id locks the sequence to the end of the transaction, so an id drawn by hand is found before its insert.
        or lock.relation = 'public.telemetry_events_id_seq'::regclass
        or lock.relation in (
          select inheritance.inhrelid
          from pg_catalog.pg_inherits as inheritance
          where inheritance.inhparent = 'public.telemetry_events'::regclass
        )
      )
      and lock.pid is distinct from pg_backend_pid()
  )
  select coalesce(
    array_agg(writing.name || case when writing.name not like '-1/%' then ' -1/' || coalesce(own.xid, '') else '' end order by writing.name),
    '{}'
  )
  from writing
  left join lateral (
    -- The oldest, since subtransactions have ids of their own.
    select lock.transactionid::text as xid
    from locks as lock
    where lock.locktype = 'transactionid'
      and lock.mode = 'ExclusiveLock'
      and lock.virtualtransaction = writing.name
    order by age(lock.transactionid) desc
    limit 1
  ) as own on true;
end;
comment on function ops.open_writers() is
  'The transactions, prepared ones included, that have drawn ids of events or may and have not ended: each as pg_locks names it, and as it would name it when prepared and brought back by a restart of the server (-1/ and its id; -1/ alone while it has no id). An insert takes its lock before it draws an id.';

create function ops.still_open(writers text[], open_writers text[])
returns text[]
language sql
immutable
set search_path = ''
begin atomic
  with now_open as (
    select split_part(listed.writer, ' ', 1) as name, split_part(listed.writer, ' ', 2) as restarted
    from unnest(still_open.open_writers) as listed (writer)
  ),
  noted as (
    select listed.writer, split_part(listed.writer, ' ', 1) as name, split_part(listed.writer, ' ', 2) as restarted
    from unnest(still_open.writers) as listed (writer)
  )
  select array(
    select noted.writer
    from noted
    where exists (
      -- After a restart the name may be that of another, and the id is not.
      select from now_open where now_open.name = noted.name and noted.restarted in (now_open.restarted, '-1/')
    )
    union
    select now_open.name
    from noted
    join now_open
      on now_open.name = noted.restarted
      -- A transaction that had no id when it was noted may be any of those that a restart brought back.
      or (noted.restarted = '-1/' and now_open.name like '-1/%')
    order by 1
  );
end;
comment on function ops.still_open(text[], text[]) is
  'Those of some writers that are among the open ones, by the names they have now; both as ops.open_writers names them.';

create function ops.quiet_writers()
returns text[]
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- The contents of pg_stat_activity are remembered to the end of the transaction, unless it is asked anew.
  perform pg_stat_clear_snapshot();
  return array(
    select listed.writer || ' ' || coalesce(extract(epoch from session.state_change)::text, 'prepared')
    from unnest(ops.open_writers()) as listed (writer)
    left join (select distinct lock.virtualtransaction, lock.pid from pg_catalog.pg_locks as lock where lock.pid is not null) as held
      on held.virtualtransaction = split_part(listed.writer, ' ', 1)
    left join pg_catalog.pg_stat_activity as session
      on session.pid = held.pid
      and session.state in ('idle in transaction', 'idle in transaction (aborted)')
    where held.pid is null
      or session.state_change is not null
  );
end;
$$;
comment on function ops.quiet_writers() is
  'The open writers that run no statement, with since when: one that is listed twice in the same words has drawn no id in between. Sessions that the caller may not see are left out.';

create type ops.fence as (drawn_id bigint, writers text[], open_writers text[], has_gaps boolean);
comment on type ops.fence is
  'The newest id that was drawn, the open writers that may have drawn ids between the cursor and it, all open writers, and whether there are gaps behind the cursor. What has not appeared of the ids in a snapshot that is taken later, and is of none of the writers, never will.';

create function ops.take_fence(max_wait interval)
returns ops.fence
language plpgsql
volatile
set search_path = ''
as $$
declare
  kept ops.cursors;
  fence ops.fence;
  known text[];
  quiet text[];
  deadline timestamptz := clock_timestamp() + max_wait;
begin
  fence.has_gaps := exists (select from ops.event_gaps);
  select * into strict kept from ops.cursors where cursors.name = 'telemetry_events' for update;

  if (select sequence.seqcache from pg_catalog.pg_sequence as sequence where sequence.seqrelid = 'public.telemetry_events_id_seq'::regclass) <> 1 then
    raise exception 'the sequence of the event ids has a cache, so an id may be drawn long before the transaction that uses it, and the cursor would pass it'
      using errcode = 'OP003', hint = 'Run: alter sequence public.telemetry_events_id_seq cache 1; then opskpi doctor.';
  end if;

  if fence.has_gaps then
    quiet := ops.quiet_writers();
  end if;
  -- The order is what makes it exact: first the id, then who may still commit one up to it, then what can be seen of them.
  select case when sequence.is_called then sequence.last_value else 0 end into fence.drawn_id from public.telemetry_events_id_seq as sequence;
  if fence.drawn_id < kept.last_id then
    raise exception 'the event ids were set back to %, behind the cursor at %', fence.drawn_id, kept.last_id
      using errcode = 'OP003',
        hint = format('Run: select setval(''public.telemetry_events_id_seq'', %s); then opskpi rebuild over the days that changed.', kept.last_id);
  end if;
  fence.open_writers := ops.open_writers();
  fence.writers := fence.open_writers;

  -- Short transactions are waited for, since that leaves no gaps; those for which there are gaps already are not short.
  known := array(select unnest(gap.writers) from ops.event_gaps as gap);
  while not fence.writers <@ known and clock_timestamp() < deadline loop
    perform pg_sleep(0.01);
    fence.open_writers := ops.open_writers();
    fence.writers := ops.still_open(fence.writers, fence.open_writers);
  end loop;

  -- A transaction that has not run a statement since before the cursor passed has drawn nothing beyond it.
  if fence.has_gaps and kept.last_id >= kept.quiet_id and cardinality(fence.writers) > 0 then
    fence.writers := array(
      select listed.writer
      from unnest(fence.writers) as listed (writer)
      where split_part(listed.writer, ' ', 1) not in (
        select split_part(silent.writer, ' ', 1)
        from unnest(ops.quiet_writers()) as silent (writer)
        where silent.writer = any (kept.quiet_writers)
      )
    );
  end if;
  if fence.has_gaps and (kept.quiet_id is null or kept.last_id >= kept.quiet_id) then
    update ops.cursors set quiet_id = fence.drawn_id, quiet_writers = quiet where cursors.name = 'telemetry_events';
  elsif not fence.has_gaps and kept.quiet_id is not null then
    update ops.cursors set quiet_id = null, quiet_writers = '{}' where cursors.name = 'telemetry_events';
  end if;
  return fence;
end;
$$;
comment on function ops.take_fence(interval) is
  'Up to which id events can be counted, and who may still commit some of those; waits for open writers for max_wait at most, but for none for which it has before.';
