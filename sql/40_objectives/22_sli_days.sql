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
