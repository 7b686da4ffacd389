-- The fence: which events are counted by this pass, so that each is counted once.

create function ops.open_writers()
returns text[]
language sql
volatile
set search_path = ''
begin atomic
  select coalesce(array_agg(distinct lock.virtualtransaction), '{}')
  from pg_catalog.pg_locks as lock
  where lock.locktype = 'relation'
    and lock.granted
    and lock.mode = 'RowExclusiveLock'
    and lock.database = (select database.oid from pg_catalog.pg_database as database where database.datname = current_database())
    and (
      lock.relation = 'public.telemetry_events'::regclass
      or lock.relation in (
        select inheritance.inhrelid
        from pg_catalog.pg_inherits as inheritance
        where inheritance.inhparent = 'public.telemetry_events'::regclass
      )
    )
    and lock.pid is distinct from pg_backend_pid();
end;
comment on function ops.open_writers() is
  'The transactions, prepared ones included, that have written to the events and not ended. An insert takes its lock before it draws an id.';

create function ops.take_fence(max_wait interval)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  kept ops.cursors;
  drawn_id bigint;
  holders text[];
  deadline timestamptz := clock_timestamp() + max_wait;
begin
  select * into strict kept from ops.cursors where cursors.name = 'telemetry_events' for update;

  if (select sequence.seqcache from pg_catalog.pg_sequence as sequence where sequence.seqrelid = 'public.telemetry_events_id_seq'::regclass) <> 1 then
    raise exception 'the sequence of the event ids has a cache, so ids are not drawn in order and the cursor would pass some'
      using errcode = 'OP003', hint = 'Run: alter sequence public.telemetry_events_id_seq cache 1; then opskpi doctor.';
  end if;

  -- The order is what makes it exact: first the id, then who may still commit one up to it.
  select case when sequence.is_called then sequence.last_value else 0 end into drawn_id from public.telemetry_events_id_seq as sequence;
  if drawn_id < kept.last_id then
    raise exception 'the event ids were set back to %, behind the cursor at %', drawn_id, kept.last_id
      using errcode = 'OP003',
        hint = format('Run: select setval(''public.telemetry_events_id_seq'', %s); then opskpi rebuild over the days that changed.', kept.last_id);
  end if;
  holders := ops.open_writers();

  -- The fence of an earlier call is safe once its holders are gone; one that was prepared goes on under another name, -1/….
  if not kept.fence_holders && holders and not exists (select from unnest(holders) as holder where holder like '-1/%') then
    kept.safe_id := greatest(kept.safe_id, kept.fence_id);
    kept.fence_id := null;
  end if;

  while cardinality(holders) > 0 and clock_timestamp() < deadline loop
    perform pg_sleep(0.01);
    holders := array(
      select writer.name
      from unnest(ops.open_writers()) as writer (name)
      where writer.name = any (holders)
        or writer.name like '-1/%'
    );
  end loop;

  if cardinality(holders) = 0 then
    kept.safe_id := greatest(kept.safe_id, drawn_id);
    kept.fence_id := null;
  elsif kept.fence_id is null then
    -- Kept for the next call, so that writers who overlap forever cannot hold the cursor forever.
    kept.fence_id := drawn_id;
    kept.fence_holders := holders;
  end if;
  if kept.fence_id is null then
    kept.fence_holders := '{}';
  end if;

  update ops.cursors
  set safe_id = kept.safe_id,
      fence_id = kept.fence_id,
      fence_holders = kept.fence_holders
  where cursors.name = 'telemetry_events'
    and (cursors.safe_id, cursors.fence_id, cursors.fence_holders)
      is distinct from (kept.safe_id, kept.fence_id, kept.fence_holders);
  return kept.safe_id;
end;
$$;
comment on function ops.take_fence(interval) is
  'The highest id up to which every event has committed or never will; waits for open writers for max_wait at most.';
