-- SLI counts: good and total per five minutes, kept by the exactly-once pass.

create table ops.sli_counts (
  org_id uuid not null,
  sli_id bigint not null,
  bucket_start timestamptz not null,
  good bigint not null,
  total bigint not null,
  constraint sli_counts_pkey primary key (org_id, sli_id, bucket_start),
  constraint sli_counts_good_is_part_of_total check (good between 0 and total)
)
with (fillfactor = 80);
comment on table ops.sli_counts is 'One row an SLI and five minutes: what was counted and what of it was good.';
comment on column ops.sli_counts.org_id is 'The tenant.';
comment on column ops.sli_counts.sli_id is 'The SLI.';
comment on column ops.sli_counts.bucket_start is 'First instant of the five minutes, UTC.';
comment on column ops.sli_counts.good is 'Good ones (count).';
comment on column ops.sli_counts.total is 'All that were counted (count).';
alter table ops.sli_counts enable row level security;
create policy sli_counts_select_own_org on ops.sli_counts for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create view ops.slo_counts
with (security_invoker = true)
as
select
  bucket.org_id,
  version.slo_name,
  version.version,
  bucket.bucket_start,
  bucket.good,
  bucket.total,
  coalesce(sli_group.slo_group, '{}') as slo_group
from ops.sli_counts as bucket
left join ops.sli_groups as sli_group
  on sli_group.org_id = bucket.org_id
  and sli_group.sli_id = bucket.sli_id
join ops.slo_versions as version
  on version.sli_id = coalesce(sli_group.of_sli_id, bucket.sli_id)
where version.valid_until = 'infinity';
comment on view ops.slo_counts is 'One row an org, objective as it stands now (each group of it) and five minutes in which something was counted.';

create type ops.sli_delta as (
  org_id uuid,
  sli_id bigint,
  bucket_start timestamptz,
  good bigint,
  total bigint,
  of_sli_id bigint,
  slo_group jsonb
);
comment on type ops.sli_delta is
  'What is to be added to one row of ops.sli_counts; negative where a unit of work moves. Of a new group also its SLI and the group, else null.';

create function ops.filled_slis()
returns table (filled_until timestamptz, sli_ids bigint[])
language sql
stable
set search_path = ''
begin atomic
  select sli.filled_until, array_agg(sli.sli_id)
  from ops.slis as sli
  where sli.filled_until > '-infinity'
  group by 1;
end;
comment on function ops.filled_slis() is 'The SLIs that are filled up to the same instant: one row, with infinity, but while a history is being filled.';

create function ops.sli_limits(sli_ids bigint[])
returns table (event_type text, thresholds_ms numeric[], negative_limits numeric[])
language sql
stable
set search_path = ''
begin atomic
  select
    sli.event_type,
    array_agg(distinct sli.threshold_ms order by sli.threshold_ms) filter (where sli.threshold_ms is not null),
    array_agg(distinct -sli.at_most order by -sli.at_most) filter (where sli.at_most is not null)
  from ops.counting_slis as sli
  where sli.sli_id = any (sli_limits.sli_ids)
    and sli.objective <> 'availability'
  group by 1;
end;
comment on function ops.sli_limits(bigint[]) is
  'The limits between which events of a kind are good for the same SLIs of a list: thresholds (ms), and the values of at_most, negative because those are inclusive; both ascending.';

create function ops.count_attempts(
  ids ops.event_ids,
  since timestamptz,
  until timestamptz,
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the groups for a few; it would then loop over all pairs of them and the SLIs.
set enable_nestloop = off
set enable_mergejoin = off
-- And their groups for ten times as many as there are; it would sort them by texts, on disk.
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
      select delta.*
      from ops.count_attempts(ids, since, least(count_attempts.until, stretch.filled_until), stretch.sli_ids) as delta;
    end loop;
    return;
  end if;
  return query
  with limits as materialized (
    select found.* from ops.sli_limits(sli_ids) as found
  ),
  -- Events of the same outcome between the same limits (a class) are good for the same SLIs.
  grouped as materialized (
    select
      event.org_id,
      array[event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team] as labels,
      date_bin('5 minutes', event.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
      event.event_type,
      (
        case event.outcome when 'success' then 1 when 'failure' then 2 else 0 end * 1000000::bigint
        + coalesce(width_bucket(event.duration_ms, limits.thresholds_ms) + 1, 0)
      ) * 1000000 + coalesce(width_bucket(-event.value, limits.negative_limits) + 1, 0) as class,
      count(*)::integer as events,
      min(event.id) as first_id
    from ops.sli_events as event
    join limits
      on limits.event_type = event.event_type
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < count_attempts.until
    group by
      event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, 3, class
  ),
  -- Joined by number: comparing labels takes longer than all the rest of a join.
  combinations as materialized (
    select row_number() over () as place, seen.labels
    from (select distinct grouped.labels from grouped) as seen
  ),
  -- Columns and not the whole row, which would be taken apart for each group again.
  fitting as materialized (
    select
      found.place,
      found.fits_good,
      found.fits_bad,
      found.slo_group,
      found.counted_as,
      (found.sli).sli_id as sli_id,
      (found.sli).event_type as event_type,
      (found.sli).objective as objective,
      (found.sli).threshold_ms as threshold_ms,
      (found.sli).at_most as at_most,
      -- The ways in which labels fit an SLI, by number.
      dense_rank() over (order by (found.sli).sli_id, found.fits_good, found.fits_bad) as fit
    from ops.fitting_slis((select array_agg(seen.labels order by seen.place) from combinations as seen), sli_ids) as found
    where (found.sli).objective <> 'availability'
  ),
  -- Judged once a class and way: an SLI has a few of these, and ten times as many groups of events.
  verdicts as materialized (
    select way.fit, class.class, judged.is_good
    from (
      select distinct fitting.fit, fitting.event_type, fitting.objective, fitting.threshold_ms, fitting.at_most, fitting.fits_good, fitting.fits_bad
      from fitting
    ) as way
    join (
      -- A value at the lower limit stands for all; below the first limit lies what is smaller by one.
      select
        seen.event_type,
        seen.class,
        (array['success', 'failure'])[seen.outcome_place] as outcome,
        coalesce(limits.thresholds_ms[seen.threshold_place - 1], limits.thresholds_ms[seen.threshold_place] - 1) as duration_ms,
        -coalesce(limits.negative_limits[seen.limit_place - 1], limits.negative_limits[seen.limit_place] - 1) as value
      from (
        select distinct
          grouped.event_type,
          grouped.class,
          (grouped.class / 1000000000000)::integer as outcome_place,
          (grouped.class / 1000000 % 1000000)::integer as threshold_place,
          (grouped.class % 1000000)::integer as limit_place
        from grouped
      ) as seen
      join limits
        on limits.event_type = seen.event_type
    ) as class
      on class.event_type = way.event_type
    cross join lateral (
      select
        ops.sli_verdict(
          way.objective, class.outcome, class.duration_ms, class.value, way.threshold_ms, way.at_most, way.fits_good, way.fits_bad
        ) as is_good
      offset 0
    ) as judged
    where judged.is_good is not null
  ),
  counted as materialized (
    select
      grouped.org_id,
      fitting.counted_as,
      grouped.bucket_start,
      coalesce(sum(grouped.events) filter (where verdicts.is_good), 0) as good,
      sum(grouped.events) as total,
      min(grouped.first_id) as first_id
    from grouped
    join combinations
      on combinations.labels = grouped.labels
    join fitting
      on fitting.place = combinations.place
    join verdicts
      on verdicts.fit = fitting.fit
      and verdicts.class = grouped.class
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from counted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.bucket_start) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select counted.org_id, counted.counted_as, counted.bucket_start, counted.good, counted.total, null::bigint, null::jsonb
  from counted
  left join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  where placed.own_id is null
  union all
  select counted.org_id, placed.sli_id, counted.bucket_start, sum(counted.good)::bigint, sum(counted.total)::bigint, placed.of_sli_id, placed.counted_in
  from counted
  join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  group by counted.org_id, placed.sli_id, counted.bucket_start, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_attempts(ops.event_ids, timestamptz, timestamptz, bigint[], boolean) is
  'Good and total of the SLIs that count events, availability aside, over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all. Which groups are the first is decided by id, or by time where a history is filled in stretches of time, so that the length of passes and stretches changes nothing.';

create function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_groups (org_id, of_sli_id, slo_group, sli_id)
  select distinct delta.org_id, delta.of_sli_id, delta.slo_group, delta.sli_id
  from unnest(add_slis.deltas) as delta
  where delta.of_sli_id is not null
  on conflict on constraint sli_groups_pkey do nothing;

  insert into ops.sli_counts as stored (org_id, sli_id, bucket_start, good, total)
  select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good between 0 and delta.total
  on conflict on constraint sli_counts_pkey do update set
    good = stored.good + excluded.good,
    total = stored.total + excluded.total;

  -- A late success or a unit that moves changes a row that is there; as an insert it would fail the check first.
  update ops.sli_counts as stored
  set good = stored.good + delta.good,
      total = stored.total + delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good not between 0 and delta.total
    and stored.org_id = delta.org_id
    and stored.sli_id = delta.sli_id
    and stored.bucket_start = delta.bucket_start;

  delete from ops.sli_counts as stored
  where stored.ctid = any (array(
    select found.ctid
    from unnest(add_slis.deltas) as delta
    cross join lateral (
      select known.ctid
      from ops.sli_counts as known
      where known.org_id = delta.org_id
        and known.sli_id = delta.sli_id
        and known.bucket_start = delta.bucket_start
        and known.total = 0
      offset 0
    ) as found
    where delta.total < 0
  ));
end;
comment on function ops.add_slis(ops.sli_delta[]) is 'Adds a delta to the SLI counts, and to the groups those that are new; only refresh and rebuild call it, once a delta.';
