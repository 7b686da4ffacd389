-- SLI counts beside the events that they were counted from, for `opskpi doctor`.

create function ops.expected_slis(since timestamptz)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select delta.* from ops.count_attempts(ops.counted_ids(), expected_slis.since, 'infinity') as delta
  union all
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*),
    null::bigint,
    null::jsonb
  from ops.count_units(ops.counted_ids(), expected_slis.since) as unit
  -- A unit that began before is counted there.
  where not exists (
    select
    from ops.work_units as earlier
    where earlier.org_id = unit.org_id
      and earlier.sli_id = unit.sli_id
      and earlier.unit = unit.unit
      and earlier.first_attempt_at < expected_slis.since
  )
  group by 1, 2, 3;
end;
$$;
comment on function ops.expected_slis(timestamptz) is 'What the SLI counts from since on must be by the events up to the cursor.';

create function ops.sli_differences(since timestamptz)
returns table (day_start timestamptz, good bigint, total bigint, counted_good bigint, counted_total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  first_day constant timestamptz := date_bin('1 day', since, timestamptz '1969-12-29 00:00+00');
begin
  return query
  with compared as materialized (
    select sli.counted_as as sli_id, removed.removed_until
    from ops.counted_slis as sli
    left join ops.removed_events as removed
      on removed.event_type = sli.event_type
    -- A team that an agent got later counts from then on, and in the past after a rebuild.
    where not (
      ((sli.total_labels || sli.good_labels || coalesce(sli.bad_labels, '{}')) ? 'team' or 'team' = any (sli.group_by))
      and exists (select from ops.agents as agent where agent.updated_at >= first_day)
    )
  ),
  expected as (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from ops.expected_slis(first_day) as delta
  ),
  differing as (
    select
      coalesce(expected.sli_id, stored.sli_id) as sli_id,
      date_bin('1 day', coalesce(expected.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00') as day_start,
      coalesce(expected.good, 0) as good,
      coalesce(expected.total, 0) as total,
      coalesce(stored.good, 0) as counted_good,
      coalesce(stored.total, 0) as counted_total
    from expected
    full join (select bucket.* from ops.sli_counts as bucket where bucket.bucket_start >= first_day) as stored
      on stored.org_id = expected.org_id
      and stored.sli_id = expected.sli_id
      and stored.bucket_start = expected.bucket_start
    where (expected.good, expected.total) is distinct from (stored.good, stored.total)
      -- A group that is not listed is seen by nobody, however well it is counted.
      or expected.sli_id not in (select sli.counted_as from ops.counted_slis as sli)
    union all
    select
      coalesce(unit.sli_id, stored.sli_id),
      date_bin('1 day', coalesce(unit.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00'),
      coalesce(unit.good, 0),
      coalesce(unit.total, 0),
      coalesce(stored.good, 0),
      coalesce(stored.total, 0)
    from ops.unit_counts(first_day) as unit
    full join (
      select bucket.*
      from ops.sli_counts as bucket
      join ops.counted_slis as sli
        on sli.counted_as = bucket.sli_id
        and sli.objective = 'availability'
      where bucket.bucket_start >= first_day
    ) as stored
      on stored.org_id = unit.org_id
      and stored.sli_id = unit.sli_id
      and stored.bucket_start = unit.bucket_start
    where (unit.good, unit.total) is distinct from (stored.good, stored.total)
    union all
    select
      coalesce(summed.sli_id, day.sli_id),
      coalesce(summed.bucket_start, day.day_start),
      coalesce(summed.good, 0),
      coalesce(summed.total, 0),
      coalesce(day.good, 0),
      coalesce(day.total, 0)
    from ops.day_counts(first_day) as summed
    full join (select stored_day.* from ops.sli_days as stored_day where stored_day.day_start >= first_day) as day
      on day.org_id = summed.org_id
      and day.sli_id = summed.sli_id
      and day.day_start = summed.bucket_start
    where (coalesce(summed.good, 0), coalesce(summed.total, 0)) <> (coalesce(day.good, 0), coalesce(day.total, 0))
  )
  select
    differing.day_start,
    sum(differing.good)::bigint,
    sum(differing.total)::bigint,
    sum(differing.counted_good)::bigint,
    sum(differing.counted_total)::bigint
  from differing
  left join compared
    on compared.sli_id = differing.sli_id
  where differing.day_start >= coalesce(compared.removed_until, '-infinity')
    and (compared.sli_id is not null or differing.sli_id not in (select sli.counted_as from ops.counted_slis as sli))
  group by 1;
end;
$$;
comment on function ops.sli_differences(timestamptz) is
  'The days (UTC) from since on in which five minutes of an SLI, its units of work or the sum of a day are not what the events up to the cursor come to: good and total of what differs, by the events and as counted. No row when all is well. Kinds of events that retention has removed from a day are left out there, and SLIs by team after a change of teams.';
