-- The history of new SLIs, counted from the events that are there.

create function ops.fill_stretch(sli_ids bigint[], since timestamptz, until timestamptz, counted_ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  changes ops.unit_change[];
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(counted_ids, since, fill_stretch.until, fill_stretch.sli_ids, true) as delta
  ));
  changes := array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(counted_ids, since, fill_stretch.until, fill_stretch.sli_ids, true) as attempted
    )) as changed
  );
  perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
  perform ops.write_units(changes);
  update ops.slis
  set filled_until = fill_stretch.until,
      -- Events that retention removed before they were counted are missing for good.
      counted_since = greatest(
        slis.counted_since,
        (
          select removed.removed_until
          from ops.removed_events as removed
          where removed.event_type = slis.event_type
            and removed.removed_until > since
        )
      )
  where slis.sli_id = any (fill_stretch.sli_ids);
end;
$$;
comment on function ops.fill_stretch(bigint[], timestamptz, timestamptz, ops.event_ids) is
  'Counts those of some events that are in a range for some SLIs that lack just these; only fill_slis calls it.';

create function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  counted_ids ops.event_ids;
  stretch record;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  counted_ids := ops.counted_ids();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.fill_stretch(stretch.sli_ids, stretch.since, fill_slis.until, counted_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;
comment on function ops.fill_slis(timestamptz) is
  'Gives new SLIs their history up to an instant from the events before the cursor; called stretch by stretch it gives what one call gives. Returns up to where all are filled.';
