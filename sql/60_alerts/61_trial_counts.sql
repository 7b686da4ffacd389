-- The counts that SLIs which are tried lack: nothing is written.

create function ops.trial_counts(slis ops.slis[])
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  counted_ids constant ops.event_ids := ops.counted_ids();
  stretch record;
begin
  for stretch in
    select coalesce(known.filled_until, '-infinity') as since, array_agg(distinct tried.sli_id) as sli_ids
    from unnest(slis) as tried
    left join ops.slis as known
      on known.sli_id = tried.sli_id
    where known.filled_until is distinct from 'infinity'
    group by 1
  loop
    -- For ops.counting_slis: views have no parameters. It ends with the transaction, whatever happens here.
    perform set_config('ops.tried_slis', to_jsonb(slis)::text, true);
    return query
    select delta.* from ops.count_attempts(counted_ids, stretch.since, 'infinity', stretch.sli_ids, true) as delta
    union all
    select delta.*
    from ops.unit_slis(array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(counted_ids, stretch.since, 'infinity', stretch.sli_ids, true) as attempted
      )) as changed
    )) as delta;
    perform set_config('ops.tried_slis', '', true);
  end loop;
end;
$$;
comment on function ops.trial_counts(ops.slis[]) is
  'What some SLIs, stored or not, lack of their history, from the events before the cursor: what fill_slis would add to the SLI counts. Nothing where all are stored and filled.';
