-- What becomes of events that were set aside: they are counted again once the cause is mended, or dropped.

create function ops.count_again(only_id bigint default null, as_of timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  aside ops.uncountable_events;
  counted bigint := 0;
begin
  perform ops.require_refreshable(1);
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  perform ops.fill_slis();
  for aside in
    select stored.* from ops.uncountable_events as stored where stored.id = coalesce(count_again.only_id, stored.id) order by stored.id
  loop
    begin
      delete from ops.uncountable_events as stored where stored.org_id = aside.org_id and stored.id = aside.id;
      counted := counted + (ops.count_range(row(aside.id - 1, aside.id, '{}', null)::ops.event_ids, as_of)).events;
    exception
      when others then
        if not ops.is_fault_of_events(sqlstate) then
          raise;
        end if;
        update ops.uncountable_events as stored
        set reason = left(format('%s (SQLSTATE %s)', sqlerrm, sqlstate), 1000),
            set_aside_at = clock_timestamp()
        where stored.org_id = aside.org_id
          and stored.id = aside.id;
    end;
  end loop;
  return counted;
end;
$$;
comment on function ops.count_again(bigint, timestamptz) is
  'Counts the events that were set aside (all, or the one of that id) in their own hours, days, weeks and months; returns how many. An event that fails again stays aside, with its new reason.';

create function ops.drop_uncountable(only_id bigint)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  dropped bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  delete from public.telemetry_events as event
  using ops.uncountable_events as aside
  where aside.id = drop_uncountable.only_id
    and event.org_id = aside.org_id
    and event.event_timestamp = aside.event_timestamp
    and event.event_id = aside.event_id;
  delete from ops.uncountable_events as aside where aside.id = drop_uncountable.only_id;
  get diagnostics dropped = row_count;
  return dropped;
end;
$$;
comment on function ops.drop_uncountable(bigint) is
  'Deletes the event of that id that was set aside, for good; returns how many that were (0: none of that id is set aside).';

create function ops.forget_uncountable()
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.uncountable_events as aside
  where not exists (
    select
    from public.telemetry_events as event
    where event.org_id = aside.org_id
      and event.event_timestamp = aside.event_timestamp
      and event.event_id = aside.event_id
  );
end;
comment on function ops.forget_uncountable() is 'Forgets the events set aside that retention or somebody else has deleted; maintain calls it.';
