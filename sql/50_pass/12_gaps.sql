-- Gaps: what a pass counts although some transactions are open, what it keeps for later, and for whom it waits.

create function ops.most_gaps()
returns integer
language sql
immutable
set search_path = ''
return 10000;
comment on function ops.most_gaps() is
  'How many ranges of ids are kept behind the cursor (count). At this bound the cursor waits for the transactions that they are kept for.';

create function ops.first_events(ids ops.event_ids, max_events bigint)
returns ops.event_ids
language plpgsql
stable
set search_path = ''
as $$
begin
  if cardinality(ids.late) >= max_events then
    return row(ids.after_id, ids.after_id, '{}', ids.late[1:max_events::integer])::ops.event_ids;
  end if;
  ids.until_id := ops.pass_end(ids.after_id, ids.until_id, max_events - coalesce(cardinality(ids.late), 0));
  ids.missing := ids.missing * int8range(ids.after_id, ids.until_id, '(]')::int8multirange;
  return ids;
end;
$$;
comment on function ops.first_events(ops.event_ids, bigint) is 'The part of a set of ids that has its first events, max_events at most, late ones first.';

create function ops.room_for_gaps(open_writers text[])
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select greatest(ops.most_gaps() - count(*), 0)
  from ops.event_gaps as gap
  cross join lateral unnest(gap.ids) as part (ids)
  where cardinality(ops.still_open(gap.writers, room_for_gaps.open_writers)) > 0;
end;
comment on function ops.room_for_gaps(text[]) is 'How many more gaps may be kept, when those of transactions that have ended are forgotten.';

create function ops.new_gaps(after_id bigint, until_id bigint, max_gaps bigint)
returns setof int8range
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select int8range(seen.previous_id, seen.id, '()')
  from (
    select visible.id, lag(visible.id, 1, after_id) over (order by visible.id) as previous_id
    from (
      select event.id from public.telemetry_events as event where event.id > after_id and event.id <= until_id
      union all
      select until_id + 1
    ) as visible
  ) as seen
  where seen.id - seen.previous_id > 1
  order by seen.id
  limit max_gaps;
end;
$$;
comment on function ops.new_gaps(bigint, bigint, bigint) is 'The ranges of ids with after_id < id <= until_id that no event has, as far as can be seen; the first max_gaps of them.';

create type ops.asked_ids as (ids ops.event_ids, late bigint[], is_held boolean);
comment on type ops.asked_ids is
  'The ids whose events a pass counts; all late ones; is_held: the ids are fewer than there are, since no more gaps may be kept.';

create function ops.ids_to_count(after_id bigint, fence ops.fence, max_ids bigint)
returns ops.asked_ids
language plpgsql
volatile
set search_path = ''
as $$
declare
  late constant bigint[] := case when fence.has_gaps then ops.late_ids() end;
  ids ops.event_ids := ops.first_events(row(after_id, fence.drawn_id, '{}', late)::ops.event_ids, max_ids);
  is_held boolean := false;
  room bigint;
  gaps int8range[];
begin
  if cardinality(fence.writers) > 0 and ids.until_id > after_id then
    room := ops.room_for_gaps(fence.open_writers);
    gaps := array(select gap.ids from ops.new_gaps(after_id, ids.until_id, room + 1) as gap (ids));
    if cardinality(gaps) > room then
      is_held := true;
      ids.until_id := lower(gaps[room + 1]) - 1;
      gaps := gaps[1:room];
    end if;
    -- From here on the set stands: statements that see more than this one did leave out the same ids.
    ids.missing := coalesce((select range_agg(gap.ids) from unnest(gaps) as gap (ids)), '{}');
  end if;
  return row(ids, late, is_held);
end;
$$;
comment on function ops.ids_to_count(bigint, ops.fence, bigint) is
  'The ids whose events a pass counts: late ones and those up to the fence that have appeared, max_ids events at most; all late ones; is_held: the ids are fewer, since no more gaps may be kept. Called after the fence was taken, so that it sees what was committed before.';

create function ops.settle_gaps(fence ops.fence, late bigint[], counted ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled constant int8multirange := coalesce(
    (select range_agg(int8range(counted_late.id, counted_late.id, '[]')) from unnest(counted.late) as counted_late (id)),
    '{}'
  );
  -- Late events that a smaller refresh counts stay, whoever has ended.
  still_late constant int8multirange := coalesce(
    (select range_agg(int8range(seen.id, seen.id, '[]')) from unnest(late) as seen (id)),
    '{}'
  ) - settled;
  stored constant ops.event_gaps[] := array(select gap from ops.event_gaps as gap order by gap.until_id);
  gaps ops.event_gaps[];
begin
  gaps := array(
    select row(max(kept.until_id), range_agg(kept.ids), kept.writers, min(kept.noted_at))::ops.event_gaps
    from (
      select
        gap.until_id,
        gap.noted_at,
        going_on.writers,
        case when cardinality(going_on.writers) > 0 then gap.ids - settled else gap.ids * still_late end as ids
      from unnest(stored) as gap
      cross join lateral (select ops.still_open(gap.writers, fence.open_writers) as writers offset 0) as going_on
      union all
      select counted.until_id, clock_timestamp(), array(select listed.writer from unnest(fence.writers) as listed (writer) order by 1), counted.missing
    ) as kept
    where not isempty(kept.ids)
    group by kept.writers
    order by 1
  );
  if gaps is distinct from stored then
    delete from ops.event_gaps as gap where gap.until_id is not null;
    insert into ops.event_gaps (until_id, ids, writers, noted_at)
    select gap.until_id, gap.ids, gap.writers, gap.noted_at from unnest(gaps) as gap;
  end if;
end;
$$;
comment on function ops.settle_gaps(ops.fence, bigint[], ops.event_ids) is
  'After a pass: forgets the gaps whose events were counted, and those of transactions that had ended before the pass looked, and notes the new ones. late are all ids of gaps that have appeared, counted is what the pass counted. Only refresh calls it.';

create function ops.described_writers(open_writers text[])
returns setof ops.awaited_writers
language sql
volatile
set search_path = ''
begin atomic
  select
    kept.name,
    session.pid,
    prepared.gid,
    coalesce(prepared.owner, session.usename)::text,
    nullif(session.application_name, ''),
    coalesce(prepared.prepared, session.xact_start, kept.noted_at),
    kept.noted_at
  from (
    select split_part(going_on.writer, ' ', 1) as name, min(gap.noted_at) as noted_at
    from ops.event_gaps as gap
    cross join lateral unnest(ops.still_open(gap.writers, described_writers.open_writers)) as going_on (writer)
    group by 1
  ) as kept
  join unnest(described_writers.open_writers) as now_open (writer)
    on split_part(now_open.writer, ' ', 1) = kept.name
  left join pg_catalog.pg_prepared_xacts as prepared
    on '-1/' || prepared.transaction = any (string_to_array(now_open.writer, ' '))
    and prepared.database = current_database()
  left join (select distinct lock.virtualtransaction, lock.pid from pg_catalog.pg_locks as lock where lock.pid is not null) as held
    on held.virtualtransaction = kept.name
  left join pg_catalog.pg_stat_activity as session
    on session.pid = held.pid
  where (prepared.gid is null) <> (session.pid is null);
end;
comment on function ops.described_writers(text[]) is
  'The open writers for which gaps are kept, waiting_since the oldest of those. Of a session of others a caller without pg_read_all_stats sees no start, so since is when the gap was noted.';

create function ops.note_awaited_writers(is_held boolean, open_writers text[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  first_waited_at constant timestamptz := coalesce((select min(writer.waiting_since) from ops.awaited_writers as writer), clock_timestamp());
begin
  delete from ops.awaited_writers as writer where writer.name is not null;
  insert into ops.awaited_writers (name, pid, gid, login, application, since, waiting_since)
  select described.name, described.pid, described.gid, described.login, described.application, described.since, first_waited_at
  from ops.described_writers(open_writers) as described
  where is_held;
end;
$$;
comment on function ops.note_awaited_writers(boolean, text[]) is 'Notes for whom the cursor waits, or that it waits for nobody; only refresh calls it.';

create function ops.writers_in_words(writers ops.awaited_writers[])
returns text
language sql
immutable
set search_path = ''
begin atomic
  select string_agg(
    case
      when writer.gid is not null then format(
        'prepared transaction %s%s, since %s UTC: rollback prepared %s',
        writer.gid,
        coalesce(' (user ' || writer.login || ')', ''),
        to_char(writer.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
        quote_literal(writer.gid)
      )
      else format(
        'pid %s%s, since %s UTC: select pg_terminate_backend(%1$s)',
        writer.pid,
        coalesce(
          ' (' || nullif(concat_ws(', ', 'user ' || writer.login, 'application ' || writer.application), '') || ')',
          ''
        ),
        to_char(writer.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
      )
    end,
    '; ' order by writer.since, writer.name
  )
  from (
    select listed.* from unnest(writers_in_words.writers) as listed order by listed.since, listed.name limit 3
  ) as writer;
end;
comment on function ops.writers_in_words(ops.awaited_writers[]) is
  'Open transactions, the three oldest, each with its user and application as far as they may be seen, since when it is open, and the statement that ends it; null: there is none.';

create function ops.awaited_in_words()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  -- Pages ask whether anybody is waited for or not, and planning the rest takes longer than finding that out.
  if not exists (select from ops.awaited_writers) then
    return null;
  end if;
  return ops.writers_in_words(array(select writer from ops.awaited_writers as writer));
end;
$$;
comment on function ops.awaited_in_words() is 'For whom the counting waits, as writers_in_words says it; null: for nobody, or the caller may not see it.';
