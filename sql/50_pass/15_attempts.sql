-- Attempts: a pass that fails is tried again with fewer events, down to one, which is set aside.

-- A sequence, because what it notes survives the transaction of the attempt: an attempt that is cancelled, runs into a timeout
-- or loses its server leaves no other trace.
create sequence ops.refresh_attempts as bigint no cycle;
comment on sequence ops.refresh_attempts is 'The attempts to count events, begun (count); those that ended well are noted in ops.cursors.attempts.';

create function ops.begin_attempt()
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  begun constant bigint := (select case when sequence.is_called then sequence.last_value else 0 end from ops.refresh_attempts as sequence);
  ended constant bigint := (select cursors.attempts from ops.cursors where cursors.name = 'telemetry_events');
begin
  -- setval and not nextval, which draws numbers in stock and would skip some after a crash.
  perform setval('ops.refresh_attempts'::regclass, greatest(begun, ended) + 1);
  return greatest(begun - ended, 0);
end;
$$;
comment on function ops.begin_attempt() is
  'Notes, whatever becomes of the transaction, that an attempt to count events begins; returns how many were lost since the last one that ended well. Only refresh calls it, under its lock.';

create function ops.forget_attempt()
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  begun constant bigint := (select sequence.last_value from ops.refresh_attempts as sequence);
begin
  perform setval('ops.refresh_attempts'::regclass, greatest(begun - 1, 1), begun > 1);
end;
$$;
comment on function ops.forget_attempt() is
  'Takes the note of begin_attempt back: the attempt ended for a reason that counting less would not avoid. Only refresh calls it.';

create function ops.is_fault_of_events(code text)
returns boolean
language sql
immutable
set search_path = ''
-- Data, constraints, limits, memory and internal errors. Locks, rights, objects that are missing and full disks have other causes.
return left(code, 2) in ('21', '22', '23', '54') or code in ('53200', 'XX000');
comment on function ops.is_fault_of_events(text) is 'Whether an error of this SQLSTATE comes from what is counted, so that counting less may avoid it.';

create function ops.events_among(ids ops.event_ids)
returns bigint
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (
    select count(*)
    from ops.countable_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
  );
end;
$$;
comment on function ops.events_among(ops.event_ids) is 'Events of a set of ids that are not set aside (count).';

create function ops.set_aside(ids ops.event_ids, reason text)
returns void
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  insert into ops.uncountable_events (org_id, id, event_id, event_type, event_timestamp, reason)
  select event.org_id, event.id, event.event_id, event.event_type, event.event_timestamp, left(set_aside.reason, 1000)
  from ops.countable_events as event
  where (
    (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
    or (ids.late is not null and event.id = any (ids.late))
  );
end;
$$;
comment on function ops.set_aside(ops.event_ids, text) is
  'Sets the events of a set of ids aside; only refresh calls it, before it moves the cursor past the events in the same transaction.';

create type ops.attempt as (ids ops.event_ids, most_events bigint, is_lost_alone boolean);
comment on type ops.attempt is
  'The events that an attempt counts; how many events it takes at most (null: as many as the call allows); whether the one event that it takes was lost alone three times.';

create function ops.next_attempt(ids ops.event_ids, max_ids bigint)
returns ops.attempt
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt;
  lost bigint := ops.begin_attempt();
  waiting bigint;
begin
  attempt.most_events := (select cursors.most_events from ops.cursors where cursors.name = 'telemetry_events');
  -- A single loss is mostly a server that was restarted or a person who changed their mind.
  if attempt.most_events is null then
    lost := greatest(lost - 1, 0);
  end if;
  attempt.ids := ops.first_events(ids, least(attempt.most_events, max_ids));
  attempt.is_lost_alone := false;
  if lost > 0 then
    lost := least(lost, 62);
    waiting := ops.events_among(attempt.ids);
    attempt.most_events := greatest(waiting >> lost::integer, 1);
    attempt.is_lost_alone := waiting > 0 and lost >= 3 and waiting >> (lost - 3)::integer <= 1;
    attempt.ids := ops.first_events(attempt.ids, attempt.most_events);
  end if;
  return attempt;
end;
$$;
comment on function ops.next_attempt(ops.event_ids, bigint) is
  'Begins an attempt: half as many events as the one before for each that was lost since the last that ended well, the first loss excepted. Only refresh calls it, under its lock.';

create function ops.count_or_set_aside(ids ops.event_ids, max_ids bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt := ops.next_attempt(ids, max_ids);
  counted ops.counted_range;
  set_aside integer := 0;
  waiting bigint;
begin
  if attempt.is_lost_alone then
    perform ops.set_aside(attempt.ids, 'three attempts to count this event alone were cut off: by a timeout, a cancellation or the end of the server process');
    set_aside := 1;
  end if;
  loop
    begin
      counted := ops.count_range(attempt.ids, as_of);
      exit;
    exception
      when others then
        waiting := ops.events_among(attempt.ids);
        if waiting = 0 or not ops.is_fault_of_events(sqlstate) then
          perform ops.forget_attempt();
          raise;
        elsif waiting = 1 then
          perform ops.set_aside(attempt.ids, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
          set_aside := set_aside + 1;
        else
          attempt.most_events := waiting / 2;
          attempt.ids := ops.first_events(attempt.ids, attempt.most_events);
        end if;
    end;
  end loop;
  update ops.cursors
  set last_id = (attempt.ids).until_id,
      moved_at = clock_timestamp(),
      advanced_at = case when (attempt.ids).until_id > cursors.last_id then clock_timestamp() else cursors.advanced_at end,
      attempts = (select sequence.last_value from ops.refresh_attempts as sequence),
      -- From there on by doubling: where one event cannot be counted, there may be more.
      most_events = case when 2 * attempt.most_events < max_ids then 2 * attempt.most_events end
  where cursors.name = 'telemetry_events';
  if set_aside > 0 then
    counted.message := format('%s event(s) could not be counted and are set aside; opskpi doctor says what to do', set_aside);
  end if;
  return counted;
end;
$$;
comment on function ops.count_or_set_aside(ops.event_ids, bigint, timestamptz) is
  'Counts the events of a set of ids and moves the cursor to its end: max_ids at most, or as many as can be counted. The one event that cannot is set aside. Other errors are raised. Only refresh calls it, under its lock.';
