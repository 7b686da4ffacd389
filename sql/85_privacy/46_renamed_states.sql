-- What was counted under a label, pattern or unit of work that names an erased agent: it moves to the new name, and adds up there.

create function ops.rename_rollups(owner_id uuid, mention text, erased text)
returns ops.rollup_delta[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  named constant bigint[] := array(
    select series.series_id from ops.series where series.org_id = owner_id and series.labels::text ~* mention
  );
  renamed constant ops.rollup_delta[] := array(
    select row(
      rollup.org_id, series.event_type, ops.without_mention(series.labels, mention, erased), rollup.period, rollup.period_start,
      sum(rollup.event_count), sum(rollup.value_count), sum(rollup.value_sum), min(rollup.value_min), max(rollup.value_max)
    )::ops.rollup_delta
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
    where series.org_id = owner_id
      and series.series_id = any (named)
    group by rollup.org_id, series.event_type, ops.without_mention(series.labels, mention, erased), rollup.period, rollup.period_start
  );
begin
  delete from ops.rollups as rollup where rollup.org_id = owner_id and rollup.series_id = any (named);
  delete from ops.series where series.org_id = owner_id and series.series_id = any (named);
  perform ops.add_rollups(renamed);
  return renamed;
end;
$$;
comment on function ops.rename_rollups(uuid, text, text) is
  'Moves the rollups of series whose labels name an erased agent to the labels without it; returns what was moved. Only rename_states calls it.';

create function ops.rename_histograms(owner_id uuid, mention text, erased text)
returns ops.histograms[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  moved constant ops.histogram_delta[] := array(
    select row(
      binned.org_id, binned.event_type, binned.labels, binned.period, binned.period_start, array_agg(binned.bin), array_agg(binned.value_count)
    )::ops.histogram_delta
    from (
      select
        stored.org_id, stored.event_type, ops.without_mention(stored.labels, mention, erased) as labels, stored.period, stored.period_start,
        place.bin, sum(stored.counts[place.bin])::bigint as value_count
      from ops.histograms as stored
      cross join lateral generate_subscripts(stored.counts, 1) as place (bin)
      where stored.org_id = owner_id
        and stored.labels::text ~* mention
        and stored.counts[place.bin] is not null
      group by 1, 2, 3, 4, 5, 6
    ) as binned
    group by binned.org_id, binned.event_type, binned.labels, binned.period, binned.period_start
  );
  merged ops.histograms[];
begin
  delete from ops.histograms as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  merged := array(select histogram from ops.merged_histograms(moved) as histogram);
  perform ops.write_histograms(merged);
  return merged;
end;
$$;
comment on function ops.rename_histograms(uuid, text, text) is
  'Moves histograms whose labels name an erased agent to the labels without it; returns them as they are then. Only rename_states calls it.';

create type ops.unit_rename as (org_id uuid, event_type text, old_unit text, new_unit text);
comment on type ops.unit_rename is 'A unit of work and its new name.';

create function ops.rename_units(units ops.unit_rename[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  stored constant ops.unit_delta[] := array(
    select row(unit.org_id, renamed.new_unit, unit.first_attempt_at, unit.succeeded, unit.sli_id, null, null)::ops.unit_delta
    from ops.work_units as unit
    join ops.counted_slis as sli
      on sli.counted_as = unit.sli_id
    join unnest(units) as renamed
      on renamed.org_id = unit.org_id
      and renamed.event_type = sli.event_type
      and renamed.old_unit = unit.unit
  );
  moved constant ops.unit_delta[] := array(
    select row(unit.org_id, unit.unit, min(unit.first_attempt_at), bool_or(unit.succeeded), unit.sli_id, null, null)::ops.unit_delta
    from unnest(stored) as unit
    group by unit.org_id, unit.sli_id, unit.unit
  );
  changes ops.unit_change[];
begin
  delete from ops.work_units as unit
  using unnest(units) as renamed
  join ops.counted_slis as sli
    on sli.event_type = renamed.event_type
  where renamed.org_id = unit.org_id
    and sli.counted_as = unit.sli_id
    and renamed.old_unit = unit.unit;
  changes := array(select changed from ops.changed_units(moved) as changed);
  perform ops.write_units(changes);
  -- Two units that have become one are counted as one.
  if (select count(*) from unnest(changes) as change where change.old_first_attempt_at is null) < cardinality(stored) then
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rename_units(ops.unit_rename[]) is
  'Gives units of work other names; those that have the same name then are one. Only an erasure calls it.';

create function ops.rename_groups(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  counts ops.sli_delta[];
  stored ops.unit_delta[];
begin
  with renamed as materialized (
    select
      sli_group.org_id, sli_group.sli_id as old_id, sli_group.of_sli_id, ops.without_mention(sli_group.slo_group, mention, erased) as slo_group,
      ops.group_key(sli_group.of_sli_id, ops.without_mention(sli_group.slo_group, mention, erased)) as sli_id
    from ops.sli_groups as sli_group
    where sli_group.org_id = owner_id
      and sli_group.slo_group::text ~* mention
  ),
  moved_counts as (
    delete from ops.sli_counts as bucket
    using renamed
    where bucket.org_id = renamed.org_id
      and bucket.sli_id = renamed.old_id
    returning renamed.org_id, renamed.sli_id, bucket.bucket_start, bucket.good, bucket.total, renamed.of_sli_id, renamed.slo_group
  ),
  moved_units as (
    delete from ops.work_units as unit
    using renamed
    where unit.org_id = renamed.org_id
      and unit.sli_id = renamed.old_id
    returning renamed.org_id, unit.unit, unit.first_attempt_at, unit.succeeded, renamed.sli_id, renamed.of_sli_id, renamed.slo_group
  )
  select
    array(
      select row(moved.org_id, moved.sli_id, moved.bucket_start, sum(moved.good), sum(moved.total), moved.of_sli_id, moved.slo_group)::ops.sli_delta
      from moved_counts as moved
      group by moved.org_id, moved.sli_id, moved.bucket_start, moved.of_sli_id, moved.slo_group
    ),
    array(
      select row(
        moved.org_id, moved.unit, min(moved.first_attempt_at), bool_or(moved.succeeded), moved.sli_id, moved.of_sli_id, moved.slo_group
      )::ops.unit_delta
      from moved_units as moved
      group by moved.org_id, moved.unit, moved.sli_id, moved.of_sli_id, moved.slo_group
    )
  into counts, stored;
  perform ops.add_slis(counts);
  delete from ops.sli_groups as sli_group where sli_group.org_id = owner_id and sli_group.slo_group::text ~* mention;
  if cardinality(stored) > 0 then
    perform ops.write_units(array(select changed from ops.changed_units(stored) as changed));
    -- A unit that two groups had is one in theirs.
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rename_groups(uuid, text, text) is
  'Moves what was counted in groups whose labels name an erased agent to the group without it; only rename_states calls it.';

create function ops.rename_states(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups constant ops.rollup_delta[] := ops.rename_rollups(owner_id, mention, erased);
  histograms constant ops.histograms[] := ops.rename_histograms(owner_id, mention, erased);
  patterns constant ops.pattern_delta[] := array(
    select row(
      stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, sum(stored.blocked_count), regexp_replace(stored.team, mention, erased, 'gi')
    )::ops.pattern_delta
    from ops.blocked_patterns as stored
    where stored.org_id = owner_id
      and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention
    group by stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, regexp_replace(stored.team, mention, erased, 'gi')
  );
begin
  delete from ops.blocked_patterns as stored
  where stored.org_id = owner_id
    and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention;
  perform ops.add_patterns(patterns);
  perform ops.rename_units(array(
    select distinct row(unit.org_id, sli.event_type, unit.unit, regexp_replace(unit.unit, mention, erased, 'gi'))::ops.unit_rename
    from ops.work_units as unit
    join ops.counted_slis as sli
      on sli.counted_as = unit.sli_id
    where unit.org_id = owner_id
      and unit.unit ~* mention
  ));
  perform ops.rename_groups(owner_id, mention, erased);
  delete from public.kpi_aggregations as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  perform ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(
        array(
          -- A delta of nothing to each gives the KPIs of what stands there.
          select row(moved.org_id, moved.event_type, moved.labels, moved.period, moved.period_start, 0, 0, 0, null, null)::ops.rollup_delta
          from unnest(rollups) as moved
        ),
        from_rollups => true
      ) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    now()
  );
end;
$$;
comment on function ops.rename_states(uuid, text, text) is
  'Moves all that was counted under a name of an erased agent to the name without it, KPIs included; only forget_agent calls it.';
