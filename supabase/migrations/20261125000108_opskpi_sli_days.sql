-- Windows are summed from days: the sums of the five minutes, kept by triggers.

create table ops.sli_days (
  org_id uuid not null,
  sli_id bigint not null,
  day_start timestamptz not null,
  good bigint not null,
  total bigint not null,
  constraint sli_days_pkey primary key (org_id, sli_id, day_start)
)
with (fillfactor = 80);
comment on table ops.sli_days is
  'One row an SLI and day: the sum of its five minutes, kept by triggers. A window of 30 days is then 30 rows and its edges, not 8,640.';
comment on column ops.sli_days.org_id is 'The tenant.';
comment on column ops.sli_days.sli_id is 'The SLI.';
comment on column ops.sli_days.day_start is 'First instant of the day, UTC.';
comment on column ops.sli_days.good is 'Good ones (count).';
comment on column ops.sli_days.total is 'All that were counted (count).';
alter table ops.sli_days enable row level security;

create function ops.add_sli_days()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from ops.sli_days where true;
    return null;
  end if;
  if tg_op in ('UPDATE', 'DELETE') then
    update ops.sli_days as stored
    set good = stored.good - gone.good,
        total = stored.total - gone.total
    from (
      select
        bucket.org_id,
        bucket.sli_id,
        date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00') as day_start,
        sum(bucket.good) as good,
        sum(bucket.total) as total
      from old_counts as bucket
      group by 1, 2, 3
    ) as gone
    where stored.org_id = gone.org_id
      and stored.sli_id = gone.sli_id
      and stored.day_start = gone.day_start;
  end if;
  if tg_op in ('INSERT', 'UPDATE') then
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      sum(bucket.good),
      sum(bucket.total)
    from new_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
  end if;
  return null;
end;
$$;
comment on function ops.add_sli_days() is 'Trigger: adds what a statement changed in the SLI counts to their days, whoever wrote it.';

create trigger sli_counts_add_days_of_new
after insert on ops.sli_counts
referencing new table as new_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_add_days_of_changed
after update on ops.sli_counts
referencing old table as old_counts new table as new_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_add_days_of_removed
after delete on ops.sli_counts
referencing old table as old_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_forget_days
after truncate on ops.sli_counts
for each statement execute function ops.add_sli_days();

create or replace function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(sum_slos.fresh) as delta
  ),
  asked as (
    select span.org_id, span.slo_name, span.version, min(span.since) as since, max(span.until) as until
    from unnest(sum_slos.spans) as span
    group by 1, 2, 3
  ),
  -- Exclusions may overlap; what is left out is left out once.
  excluded as materialized (
    select distinct
      asked.org_id,
      asked.slo_name,
      asked.version,
      bucket.is_fresh,
      bucket.bucket_start,
      bucket.good,
      bucket.total
    from asked
    join ops.slo_exclusions as exclusion
      on exclusion.org_id = asked.org_id
      and exclusion.slo_name = asked.slo_name
      and exclusion.until > asked.since
      and exclusion.since < asked.until
    join ops.slo_versions as version
      on version.slo_name = asked.slo_name
      and version.version = asked.version
    cross join lateral (
      select false as is_fresh, stored.bucket_start, stored.good, stored.total
      from ops.sli_counts as stored
      where stored.org_id = exclusion.org_id
        and stored.sli_id = version.sli_id
        and stored.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and stored.bucket_start < least(exclusion.until, asked.until)
      union all
      select true, fresh.bucket_start, fresh.good, fresh.total
      from fresh
      where fresh.org_id = exclusion.org_id
        and fresh.sli_id = version.sli_id
        and fresh.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and fresh.bucket_start < least(exclusion.until, asked.until)
    ) as bucket
  ),
  extra as materialized (
    select fresh.org_id, version.slo_name, version.version, fresh.bucket_start, fresh.good, fresh.total, false as is_exclusion
    from fresh
    join ops.slo_versions as version
      on version.sli_id = fresh.sli_id
    union all
    select excluded.org_id, excluded.slo_name, excluded.version, excluded.bucket_start, -excluded.good, -excluded.total, true
    from excluded
  )
  select
    span.org_id,
    span.slo_name,
    span.version,
    span.since,
    span.until,
    coalesce(sliced.good, coalesce(stored.good, 0) + coalesce(added.good, 0)),
    coalesce(sliced.total, coalesce(stored.total, 0) + coalesce(added.total, 0)),
    coalesce(sliced.good_unadjusted, coalesce(stored.good, 0) + coalesce(added.good_unadjusted, 0)),
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(added.total_unadjusted, 0))
  from unnest(sum_slos.spans) as span
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version
  cross join lateral (
    -- Whole days from their sums; -infinity and infinity are days of their own.
    select
      case when isfinite(span.since) then date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00')
        else span.since end as since,
      case when isfinite(span.until) then date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00') else span.until end as until
    offset 0
  ) as days
  -- A sum and nothing else: this is where the time goes.
  cross join lateral (
    select sum(part.good)::bigint as good, sum(part.total)::bigint as total
    from (
      select day.good, day.total
      from ops.sli_days as day
      where day.org_id = span.org_id
        and day.sli_id = version.sli_id
        and day.day_start >= days.since
        and day.day_start < days.until
        and version.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = span.org_id
        and bucket.sli_id = version.sli_id
        and bucket.bucket_start >= span.since
        and bucket.bucket_start < least(span.until, days.since)
        and version.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = span.org_id
        and bucket.sli_id = version.sli_id
        and bucket.bucket_start >= greatest(days.since, days.until)
        and bucket.bucket_start < span.until
        and version.time_slice is null
    ) as part
    offset 0
  ) as stored
  cross join lateral (
    select
      sum(extra.good)::bigint as good,
      sum(extra.total)::bigint as total,
      sum(extra.good) filter (where not extra.is_exclusion)::bigint as good_unadjusted,
      sum(extra.total) filter (where not extra.is_exclusion)::bigint as total_unadjusted
    from extra
    where extra.org_id = span.org_id
      and extra.slo_name = span.slo_name
      and extra.version = span.version
      and extra.bucket_start >= span.since
      and extra.bucket_start < span.until
    offset 0
  ) as added
  left join lateral (
    with slices as (
      select
        sum(counted.good) as good,
        sum(counted.total) as total,
        sum(counted.good) filter (where not counted.is_exclusion) as good_unadjusted,
        sum(counted.total) filter (where not counted.is_exclusion) as total_unadjusted
      from (
        select bucket.bucket_start, bucket.good, bucket.total, false as is_exclusion
        from ops.sli_counts as bucket
        where bucket.org_id = span.org_id
          and bucket.sli_id = version.sli_id
          and bucket.bucket_start >= span.since
          and bucket.bucket_start < span.until
          -- Here and not only below, or the slices are counted for those who have none.
          and version.time_slice is not null
        union all
        select extra.bucket_start, extra.good, extra.total, extra.is_exclusion
        from extra
        where extra.org_id = span.org_id
          and extra.slo_name = span.slo_name
          and extra.version = span.version
          and extra.bucket_start >= span.since
          and extra.bucket_start < span.until
      ) as counted
      group by date_bin(version.time_slice, counted.bucket_start, timestamptz '1969-12-29 00:00+00')
    )
    select
      count(*) filter (where slices.total > 0 and slices.good >= version.slice_target * slices.total) as good,
      count(*) filter (where slices.total > 0) as total,
      count(*) filter (where slices.total_unadjusted > 0 and slices.good_unadjusted >= version.slice_target * slices.total_unadjusted)
        as good_unadjusted,
      count(*) filter (where slices.total_unadjusted > 0) as total_unadjusted
    from slices
  ) as sliced
    on version.time_slice is not null;
end;

insert into ops.sli_days (org_id, sli_id, day_start, good, total)
select
  bucket.org_id,
  bucket.sli_id,
  date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
  sum(bucket.good),
  sum(bucket.total)
from ops.sli_counts as bucket
group by 1, 2, 3;

revoke execute on function ops.add_sli_days() from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.sli_days from anon, authenticated, service_role;
  grant select on ops.sli_days to authenticated, service_role;
  create policy sli_days_select_own_org on ops.sli_days for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function ops.add_sli_days() from anon, authenticated, service_role;
end;
$$;
