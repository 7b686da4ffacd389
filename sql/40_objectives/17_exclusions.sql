-- Times that the account of an objective, or of a group of it, leaves out.

create table ops.slo_exclusions (
  slo_exclusion_id bigint generated always as identity,
  org_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid,
  slo_name text not null,
  since timestamptz not null,
  until timestamptz not null,
  reason text not null,
  author text not null,
  created_at timestamptz not null default now(),
  slo_group jsonb not null default '{}',
  constraint slo_exclusions_pkey primary key (org_id, slo_exclusion_id),
  constraint slo_exclusions_ends_after_it_begins check (since < until and isfinite(since) and isfinite(until)),
  constraint slo_exclusions_lasts_a_year_at_most check (since >= until - interval '8784 hours'),
  constraint slo_exclusions_has_a_reason check (char_length(btrim(reason)) between 1 and 1000),
  constraint slo_exclusions_has_an_author check (char_length(btrim(author)) between 1 and 200),
  constraint slo_exclusions_slo_group_is_an_object check (jsonb_typeof(slo_group) = 'object')
);
comment on table ops.slo_exclusions is
  'One row a time that an objective''s account leaves out, such as maintenance; applied when reading, so it may be added afterwards.';
comment on column ops.slo_exclusions.slo_exclusion_id is 'Number of the exclusion.';
comment on column ops.slo_exclusions.org_id is 'The tenant.';
comment on column ops.slo_exclusions.slo_name is 'The objective.';
comment on column ops.slo_exclusions.since is 'First instant; the five minutes that hold it are left out whole.';
comment on column ops.slo_exclusions.until is 'First instant after it; the five minutes that it lies in are left out whole.';
comment on column ops.slo_exclusions.reason is 'Why.';
comment on column ops.slo_exclusions.author is 'Who said so.';
comment on column ops.slo_exclusions.created_at is 'When it was added.';
comment on column ops.slo_exclusions.slo_group is
  'The labels of the groups that it concerns: every group that contains them (@>), so that it holds on where the objective is grouped by more keys; {}: all groups.';
alter table ops.slo_exclusions enable row level security;
create policy slo_exclusions_select_own_org on ops.slo_exclusions for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create view ops.excluded_times
with (security_invoker = true)
as
select
  exclusion.org_id,
  exclusion.slo_name,
  date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00') as since,
  date_bin('5 minutes', exclusion.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as until,
  exclusion.slo_group
from ops.slo_exclusions as exclusion;
comment on view ops.excluded_times is
  'One row per exclusion: the five minutes that it touches, left out of each group that contains (@>) its slo_group. Several may leave the same five minutes out of a group, so whoever subtracts counts joins them first.';

create function ops.exclude_from_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  reason text,
  author text,
  org_id uuid default '00000000-0000-0000-0000-000000000000'::uuid,
  slo_group jsonb default '{}'
)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  exclusion_id bigint;
begin
  if not exists (select from ops.slos where slos.slo_name = exclude_from_slo.slo_name) then
    raise exception 'there is no objective %', coalesce(exclude_from_slo.slo_name, '')
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  if (
    isfinite(exclude_from_slo.since) and isfinite(exclude_from_slo.until)
    and exclude_from_slo.since < exclude_from_slo.until
    and exclude_from_slo.since + interval '366 days' >= exclude_from_slo.until
  ) is not true then
    raise exception 'the time to leave out is empty or longer than a year: % to %', exclude_from_slo.since, exclude_from_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  if coalesce(btrim(exclude_from_slo.reason), '') = '' or coalesce(btrim(exclude_from_slo.author), '') = '' then
    raise exception 'an exclusion needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: budgets are read by others.';
  end if;
  perform ops.require_group(exclude_from_slo.slo_name, exclude_from_slo.slo_group);
  insert into ops.slo_exclusions (org_id, slo_name, since, until, reason, author, slo_group)
  values (
    exclude_from_slo.org_id, exclude_from_slo.slo_name, exclude_from_slo.since, exclude_from_slo.until,
    exclude_from_slo.reason, exclude_from_slo.author, exclude_from_slo.slo_group
  )
  returning slo_exclusions.slo_exclusion_id into exclusion_id;
  return exclusion_id;
end;
$$;
comment on function ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid, jsonb) is
  'Leaves a time out of an objective''s account for one org, or out of that of its groups that have the labels of slo_group; returns the number of the exclusion.';
