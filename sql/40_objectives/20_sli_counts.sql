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
  bucket.total
from ops.slo_versions as version
join ops.sli_counts as bucket
  on bucket.sli_id = version.sli_id
where version.valid_until = 'infinity';
comment on view ops.slo_counts is 'One row an org, objective as it stands now and five minutes in which something was counted.';

create type ops.sli_delta as (
  org_id uuid,
  sli_id bigint,
  bucket_start timestamptz,
  good bigint,
  total bigint
);
comment on type ops.sli_delta is 'What is to be added to one row of ops.sli_counts; negative where a unit of work moves.';

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
  from ops.slis as sli
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
  sli_ids bigint[] default null
)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the groups for a few; it would then loop over all pairs of them and the SLIs.
set enable_nestloop = off
set enable_mergejoin = off
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
  -- Events between the same limits are good for the same SLIs: the smallest of them stands for all.
  grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      date_bin('5 minutes', event.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
      event.outcome,
      min(event.duration_ms) as duration_ms,
      min(event.value) as value,
      count(*) as events
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
      event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, 3, event.outcome,
      width_bucket(event.duration_ms, limits.thresholds_ms), width_bucket(-event.value, limits.negative_limits)
  ),
  -- Columns and not the whole row, which would be taken apart for each group again.
  fitting as materialized (
    select
      found.labels,
      found.fits_good,
      found.fits_bad,
      (found.sli).sli_id as sli_id,
      (found.sli).objective as objective,
      (found.sli).threshold_ms as threshold_ms,
      (found.sli).at_most as at_most
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective <> 'availability'
  )
  select
    judged.org_id,
    judged.sli_id,
    judged.bucket_start,
    coalesce(sum(judged.events) filter (where judged.is_good), 0)::bigint,
    sum(judged.events)::bigint
  from (
    select
      grouped.org_id,
      fitting.sli_id,
      grouped.bucket_start,
      grouped.events,
      ops.sli_verdict(
        fitting.objective, grouped.outcome, grouped.duration_ms, grouped.value, fitting.threshold_ms, fitting.at_most, fitting.fits_good, fitting.fits_bad
      ) as is_good
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    -- A barrier: each is judged once.
    offset 0
  ) as judged
  where judged.is_good is not null
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_attempts(ops.event_ids, timestamptz, timestamptz, bigint[]) is
  'Good and total of the SLIs that count events, availability aside, over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all.';

create function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
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
comment on function ops.add_slis(ops.sli_delta[]) is 'Adds a delta to the SLI counts; only refresh and rebuild call it, once a delta.';
