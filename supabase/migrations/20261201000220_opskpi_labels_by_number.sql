-- SLIs are joined with the labels of events by number: a pass with many filtered and grouped objectives takes a tenth less for counting them.
-- squawk-ignore-file ban-drop-type

drop function ops.fitting_slis;

drop type ops.sli_labels;

create function ops.fitting_slis(seen text[], sli_ids bigint[])
returns table (sli ops.counting_slis, place integer, fits_good boolean, fits_bad boolean, slo_group jsonb, counted_as bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    counting,
    combination.place,
    ops.labels_fit(combination.named, counting.good_labels),
    case when counting.bad_labels is not null then ops.labels_fit(combination.named, counting.bad_labels) end,
    own.slo_group,
    coalesce(ops.group_key(counting.sli_id, own.slo_group), counting.sli_id)
  from (
    select
      one.place,
      kind.event_type,
      jsonb_strip_nulls(jsonb_object(
        array[coalesce(kind.key_1, '1'), coalesce(kind.key_2, '2'), coalesce(kind.key_3, '3'), coalesce(kind.key_4, '4'), 'team'],
        array[seen[one.place][2], seen[one.place][3], seen[one.place][4], seen[one.place][5], seen[one.place][6]]
      )) as named
    from generate_subscripts(seen, 1) as one (place)
    join ops.sli_kinds as kind
      on kind.event_type = seen[one.place][1]
    offset 0
  ) as combination
  join ops.counting_slis as counting
    on counting.event_type = combination.event_type
    and counting.sli_id = any (sli_ids)
  -- A barrier: the group is found once.
  cross join lateral (
    select case when counting.group_by <> '{}' then ops.label_group(combination.named, counting.group_by) end as slo_group offset 0
  ) as own
  where counting.total_labels = '{}'
    or ops.labels_fit(combination.named, counting.total_labels);
end;
$$;
comment on function ops.fitting_slis(text[], bigint[]) is
  'Which of the SLIs count events of each combination of labels (by its place among those seen, each a kind of event, labels in the order of its keys in ops.sli_kinds, and the team; null where an event has none or no filter asks), and whether these are labels of good and (null: the SLI does not say) of bad events; slo_group is the group of these labels, null where the SLI has none, and counted_as the key of the group, else of the SLI.';

create or replace function ops.count_attempts(
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

create or replace function ops.count_units(
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

revoke execute on function ops.fitting_slis from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function ops.fitting_slis from anon, authenticated, service_role;
  grant execute on function ops.fitting_slis to authenticated, service_role;
end;
$$;
