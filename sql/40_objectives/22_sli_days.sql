-- The SLI counts of whole days, kept by triggers, so that a window of 30 days reads 30 rows.

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
create policy sli_days_select_own_org on ops.sli_days for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function ops.restore_sli_day()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from ops.sli_days as summed
  where summed.org_id = new.org_id
    and summed.sli_id = new.sli_id
    and summed.day_start = new.day_start;
  return new;
end;
$$;
comment on function ops.restore_sli_day() is
  'Trigger: a day that a restore inserts replaces the one that the trigger on the restored counts has made.';

create trigger sli_days_restore
before insert on ops.sli_days
for each row
when (pg_trigger_depth() = 0)
execute function ops.restore_sli_day();

create function ops.day_counts(since timestamptz, until timestamptz default 'infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    bucket.org_id,
    bucket.sli_id,
    date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
    sum(bucket.good)::bigint,
    sum(bucket.total)::bigint,
    null::bigint,
    null::jsonb
  from ops.sli_counts as bucket
  where bucket.bucket_start >= day_counts.since
    and bucket.bucket_start < day_counts.until
  group by 1, 2, 3;
end;
comment on function ops.day_counts(timestamptz, timestamptz) is
  'Good and total of each SLI and day (UTC), summed from the five minutes that begin in a range; bucket_start is the start of the day.';

create function ops.sum_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
  select summed.org_id, summed.sli_id, summed.bucket_start, summed.good, summed.total
  from ops.day_counts(sum_sli_days.since, sum_sli_days.until) as summed
  on conflict on constraint sli_days_pkey do update set
    good = excluded.good,
    total = excluded.total;
end;
comment on function ops.sum_sli_days(timestamptz, timestamptz) is
  'Sums whole days anew from their five minutes; since and until are first instants of days (UTC).';

create function ops.recount_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.sli_days as summed
  where summed.day_start >= date_bin('1 day', recount_sli_days.since, timestamptz '1969-12-29 00:00+00')
    and summed.day_start < recount_sli_days.until;
  select ops.sum_sli_days(
    date_bin('1 day', recount_sli_days.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('1 day', recount_sli_days.until + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00')
  );
end;
comment on function ops.recount_sli_days(timestamptz, timestamptz) is
  'Makes the days that a range touches the sums of their five minutes, whatever stood there; only rebuild calls it.';

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
  if tg_op = 'INSERT' and ops.is_restoring() then
    -- A restore may have brought the days already, so nothing is added to them.
    perform ops.sum_sli_days(
      min(date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00')),
      max(date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00')) + interval '1 day'
    )
    from new_counts as bucket
    having count(*) > 0;
    return null;
  end if;
  if tg_op in ('UPDATE', 'DELETE') then
    -- An upsert, as below: a join with the days would be planned for as few as there were when the session began.
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      -sum(bucket.good),
      -sum(bucket.total)
    from old_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
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
