-- Units of work: the tag, else the run, and whether one of its attempts succeeded.

create table ops.work_units (
  org_id uuid not null,
  unit text not null,
  first_attempt_at timestamptz not null,
  succeeded boolean not null,
  sli_id bigint not null,
  constraint work_units_pkey primary key (org_id, sli_id, unit)
);
comment on table ops.work_units is
  'One row an availability SLI and unit of work that was attempted: a tag, else a run, else a single event. Only attempts whose labels the SLI counts belong to its unit.';
comment on column ops.work_units.org_id is 'The tenant.';
comment on column ops.work_units.unit is 'tag:…, run:… or event:…; a tag of over 200 bytes by its SHA-256.';
comment on column ops.work_units.first_attempt_at is 'Its earliest attempt; the unit is counted there, whenever it succeeds.';
comment on column ops.work_units.succeeded is 'Any attempt succeeded.';
comment on column ops.work_units.sli_id is 'The SLI that counts it.';
alter table ops.work_units enable row level security;

-- Few units are lost, and those are what people ask for: the newest, in a window.
create index work_units_org_id_sli_id_first_attempt_at_idx
  on ops.work_units (org_id, sli_id, first_attempt_at desc)
  where not succeeded;

create policy work_units_select_own_org on ops.work_units for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create type ops.unit_delta as (
  org_id uuid,
  unit text,
  first_attempt_at timestamptz,
  succeeded boolean,
  sli_id bigint,
  of_sli_id bigint,
  slo_group jsonb
);
comment on type ops.unit_delta is 'What a set of attempts says about a unit of work of an SLI; of a new group also its SLI and the group, else null.';

create type ops.unit_change as (
  org_id uuid,
  unit text,
  old_first_attempt_at timestamptz,
  old_succeeded boolean,
  first_attempt_at timestamptz,
  succeeded boolean,
  sli_id bigint,
  of_sli_id bigint,
  slo_group jsonb
);
comment on type ops.unit_change is 'A unit of work as it is stored (null: it is not) and as it is with new attempts.';

create function ops.count_units(
  ids ops.event_ids,
  since timestamptz default '-infinity',
  until timestamptz default 'infinity',
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_nestloop = off
set enable_mergejoin = off
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if ids.late is null
      and not exists (select from public.telemetry_events as event where event.id > ids.after_id and event.id <= ids.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select unit.*
      from ops.count_units(ids, since, least(count_units.until, stretch.filled_until), stretch.sli_ids) as unit;
    end loop;
    return;
  end if;
  return query
  with grouped as materialized (
    select
      event.org_id,
      array[event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team] as labels,
      event.unit,
      min(event.event_timestamp) as first_attempt_at,
      bool_or(event.outcome = 'success') as succeeded,
      min(event.id) as first_id
    from ops.sli_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < count_units.until
      and event.outcome is not null
      and event.event_type in (
        select sli.event_type from ops.counting_slis as sli where sli.sli_id = any (sli_ids) and sli.objective = 'availability'
      )
    group by event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, event.unit
  ),
  -- As in ops.count_attempts.
  combinations as materialized (
    select row_number() over () as place, seen.labels
    from (select distinct grouped.labels from grouped) as seen
  ),
  fitting as materialized (
    select (found.sli).sli_id, found.place, found.slo_group, found.counted_as
    from ops.fitting_slis((select array_agg(seen.labels order by seen.place) from combinations as seen), sli_ids) as found
    where (found.sli).objective = 'availability'
  ),
  attempted as materialized (
    select
      grouped.org_id,
      grouped.unit,
      fitting.counted_as,
      min(grouped.first_attempt_at) as first_attempt_at,
      bool_or(grouped.succeeded) as succeeded,
      min(grouped.first_id) as first_id
    from grouped
    join combinations
      on combinations.labels = grouped.labels
    join fitting
      on fitting.place = combinations.place
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from attempted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.first_attempt_at) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select attempted.org_id, attempted.unit, attempted.first_attempt_at, attempted.succeeded, attempted.counted_as, null::bigint, null::jsonb
  from attempted
  left join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  where placed.own_id is null
  union all
  select
    attempted.org_id, attempted.unit, min(attempted.first_attempt_at), bool_or(attempted.succeeded), placed.sli_id, placed.of_sli_id, placed.counted_in
  from attempted
  join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  group by attempted.org_id, attempted.unit, placed.sli_id, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_units(ops.event_ids, timestamptz, timestamptz, bigint[], boolean) is
  'The units of work that the given events attempt, by availability SLI: of each SLI what lies before filled_until, or of sli_ids all; groups as in ops.count_attempts.';

create function ops.changed_units(units ops.unit_delta[])
returns setof ops.unit_change
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.unit,
    stored.first_attempt_at,
    stored.succeeded,
    least(stored.first_attempt_at, unit.first_attempt_at),
    coalesce(stored.succeeded, false) or unit.succeeded,
    unit.sli_id,
    unit.of_sli_id,
    unit.slo_group
  from unnest(changed_units.units) as unit
  -- Units are looked up one by one: a join may read all units that ever were, and the cost must follow the new ones.
  left join lateral (
    select work_unit.first_attempt_at, work_unit.succeeded
    from ops.work_units as work_unit
    where work_unit.org_id = unit.org_id
      and work_unit.sli_id = unit.sli_id
      and work_unit.unit = unit.unit
    limit 1
  ) as stored on true
  -- Most attempts at a unit that is known change nothing: a later check of a good release, a retry that failed again.
  where stored.first_attempt_at is null
    or unit.first_attempt_at < stored.first_attempt_at
    or (unit.succeeded and not stored.succeeded);
end;
comment on function ops.changed_units(ops.unit_delta[]) is 'The units of work that new attempts add or change, before and after; nothing is written.';

create function ops.unit_slis(changes ops.unit_change[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with moved as (
    select change.org_id, change.sli_id, change.first_attempt_at, change.succeeded::integer as good, 1 as total, change.of_sli_id, change.slo_group
    from unnest(unit_slis.changes) as change
    union all
    select change.org_id, change.sli_id, change.old_first_attempt_at, -change.old_succeeded::integer, -1, change.of_sli_id, change.slo_group
    from unnest(unit_slis.changes) as change
    where change.old_first_attempt_at is not null
  )
  select
    moved.org_id,
    moved.sli_id,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint,
    moved.of_sli_id,
    moved.slo_group
  from moved
  group by 1, 2, 3, moved.of_sli_id, moved.slo_group
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;
comment on function ops.unit_slis(ops.unit_change[]) is
  'What changed units of work change in the counts of the availability SLIs, five minutes by five minutes.';

create function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_groups (org_id, of_sli_id, slo_group, sli_id)
  select distinct change.org_id, change.of_sli_id, change.slo_group, change.sli_id
  from unnest(write_units.changes) as change
  where change.of_sli_id is not null
  on conflict on constraint sli_groups_pkey do nothing;

  -- In the order of their index, and without looking for conflicts that cannot be: a quarter less time for many new units.
  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is null
  order by change.org_id, change.sli_id, change.unit;

  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is not null
  on conflict on constraint work_units_pkey do update set
    first_attempt_at = excluded.first_attempt_at,
    succeeded = excluded.succeeded;
end;
comment on function ops.write_units(ops.unit_change[]) is
  'Writes changed units of work, and the groups that are new; only refresh, rebuild and fill_slis call it, under the lock under which the changes were found.';

create function ops.unit_counts(since timestamptz default '-infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*),
    null::bigint,
    null::jsonb
  from ops.work_units as unit
  where unit.first_attempt_at >= unit_counts.since
  group by 1, 2, 3;
end;
comment on function ops.unit_counts(timestamptz) is
  'Good and total of the availability SLIs by their units of work, per five minutes from since on.';

create function ops.recount_units()
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.sli_id not in (select sli.counted_as from ops.counted_slis as sli where sli.objective <> 'availability');

  insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)
  select counted.org_id, counted.sli_id, counted.bucket_start, counted.good, counted.total
  from ops.unit_counts() as counted;
end;
comment on function ops.recount_units() is 'Counts the availability SLIs anew from the units of work; only rebuild and an erasure call it.';
