-- Groups of an SLI: its events counted apart by the values of labels, each group under a key of its own.

create function ops.overflow_group()
returns jsonb
language sql
immutable
set search_path = ''
return jsonb '{"overflow": true}';
comment on function ops.overflow_group() is
  'The group of all that lies beyond the first groups of an SLI; labels are texts, so that none has this value. The word is OpenTelemetry''s for measurements beyond a cardinality limit.';

create function ops.most_groups()
returns integer
language sql
immutable
set search_path = ''
return 1000;
comment on function ops.most_groups() is 'How many groups an SLI has for an org at most, the overflow aside.';

create function ops.label_group(labels jsonb, group_by text[])
returns jsonb
language sql
immutable
set search_path = ''
return (
  select jsonb_object_agg(key.name, label_group.labels -> key.name)
  from unnest(label_group.group_by) as key (name)
);
comment on function ops.label_group(jsonb, text[]) is
  'The group of an event with these labels: their values by key, null where the event has none; null without keys.';

create function ops.group_key(sli_id bigint, slo_group jsonb)
returns bigint
language sql
immutable
set search_path = ''
return case
  when slo_group = '{}' then sli_id
  else ('x' || encode(substring(sha256(convert_to(sli_id || ':' || slo_group::text, 'UTF8')) from 1 for 8), 'hex'))::bit(64)::bigint
end;
comment on function ops.group_key(bigint, jsonb) is
  'The key under which a group of an SLI is counted: the first 8 bytes of the SHA-256 of both; {} is all of the SLI, under its own key.';

create function ops.group_name(slo_group jsonb)
returns text
language sql
immutable
set search_path = ''
return case
  when slo_group = ops.overflow_group() then 'overflow'
  else (
    select string_agg(
      label.key || '=' || coalesce(case when label.value = '' or label.value ~ '[\u0001-\u0020"\\]' then to_json(label.value)::text else label.value end, ''),
      ' '
      order by label.key collate "C"
    )
    from jsonb_each_text(group_name.slo_group) as label
  )
end;
comment on function ops.group_name(jsonb) is
  'A group in a line, by which no other is called: workflow=release, workflow="nightly build" (a value with blanks or quotes, and an empty one, as JSON), with nothing after the sign where events have no such label; overflow; null of {}.';

create function ops.wider_groups(slo_group jsonb)
returns setof jsonb
language sql
immutable
set search_path = ''
begin atomic
  select jsonb '{}'
  union
  select jsonb_build_object(label.key, label.value)
  from jsonb_each(wider_groups.slo_group) as label
  union
  select wider_groups.slo_group;
end;
comment on function ops.wider_groups(jsonb) is
  'All groups that a group of at most two keys contains (@>): {}, that of each of its labels, and itself. What is said of one of these holds for the group.';

create function ops.may_contain(group_by text[], group_name text)
returns boolean
language sql
immutable
set search_path = ''
return case
  when group_name = 'overflow' then group_by <> '{}'
  else string_to_array(
    -- Blanks within quotes separate no labels.
    regexp_replace(regexp_replace(group_name, '"([^"\\]|\\.)*"', '', 'g'), '=[^ ]*', '', 'g'),
    ' '
  ) <@ group_by
end;
comment on function ops.may_contain(text[], text) is
  'Whether groups by these keys can contain the group of that name: they have its keys, or it is the overflow and there are groups.';

create table ops.sli_groups (
  org_id uuid not null,
  of_sli_id bigint not null,
  slo_group jsonb not null,
  sli_id bigint not null,
  constraint sli_groups_pkey primary key (org_id, of_sli_id, slo_group),
  constraint sli_groups_org_id_sli_id_key unique (org_id, sli_id),
  constraint sli_groups_sli_id_is_the_digest_of_the_group check (sli_id = ops.group_key(of_sli_id, slo_group))
);
comment on table ops.sli_groups is 'One row an org and group in which an SLI has counted something.';
comment on column ops.sli_groups.org_id is 'The tenant.';
comment on column ops.sli_groups.of_sli_id is 'The SLI.';
comment on column ops.sli_groups.slo_group is
  'The values of its labels by key: {"workflow": "release"}, null where events have no such label; {"overflow": true}: all beyond the first 1,000 groups.';
comment on column ops.sli_groups.sli_id is 'The key under which the group is counted, as sli_id of counts, days and units of work.';
alter table ops.sli_groups enable row level security;
create policy sli_groups_select_own_org on ops.sli_groups for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create view ops.counted_slis
with (security_invoker = true)
as
select
  sli.sli_id as counted_as,
  sli.event_type,
  sli.objective,
  sli.total_labels,
  sli.good_labels,
  sli.bad_labels,
  sli.group_by
from ops.slis as sli
union
select sli_group.sli_id, sli.event_type, sli.objective, sli.total_labels, sli.good_labels, sli.bad_labels, sli.group_by
from ops.sli_groups as sli_group
join ops.slis as sli
  on sli.sli_id = sli_group.of_sli_id;
comment on view ops.counted_slis is 'One row a key under which something is counted (counted_as): an SLI, or a group of an SLI, with the definition of the SLI.';

create type ops.seen_group as (
  org_id uuid,
  of_sli_id bigint,
  slo_group jsonb
);
comment on type ops.seen_group is 'A group of an SLI that is new: events of an org are about to be counted in it.';

create function ops.placed_groups(seen ops.seen_group[])
returns table (org_id uuid, of_sli_id bigint, own_id bigint, counted_in jsonb, sli_id bigint)
language sql
stable
set search_path = ''
begin atomic
  select
    placed.org_id,
    placed.of_sli_id,
    ops.group_key(placed.of_sli_id, placed.slo_group),
    placed.counted_in,
    ops.group_key(placed.of_sli_id, placed.counted_in)
  from (
    select
      one.org_id,
      one.of_sli_id,
      one.slo_group,
      case
        when row_number() over (partition by one.org_id, one.of_sli_id order by one.place) + coalesce(before.groups, 0) <= ops.most_groups()
          then one.slo_group
        else ops.overflow_group()
      end as counted_in
    from unnest(placed_groups.seen) with ordinality as one (org_id, of_sli_id, slo_group, place)
    left join (
      select counted.org_id, counted.of_sli_id, count(*) filter (where counted.slo_group <> ops.overflow_group()) as groups
      from ops.sli_groups as counted
      group by 1, 2
    ) as before
      on before.org_id = one.org_id
      and before.of_sli_id = one.of_sli_id
  ) as placed;
end;
comment on function ops.placed_groups(ops.seen_group[]) is
  'In which group each of a list of new ones (every group once, in the order of their first events) is counted, and under which key: in itself (own_id), or beyond the first groups of its SLI in the overflow.';

create function ops.require_group(slo_name text, slo_group jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  keys constant text[] := (select slo.group_by from ops.slos as slo where slo.slo_name = require_group.slo_name);
begin
  if slo_group is null or jsonb_typeof(slo_group) <> 'object' then
    raise exception 'a group is an object of labels, not %', coalesce(slo_group::text, 'null')
      using errcode = 'OP001', hint = 'Pass {"workflow": "release"}, or {} for all of the objective.';
  end if;
  if slo_group = ops.overflow_group() and keys = '{}'
    or slo_group <> ops.overflow_group() and exists (
      select
      from jsonb_each(slo_group) as label
      where label.key <> all (keys)
        or jsonb_typeof(label.value) not in ('string', 'null')
    )
  then
    raise exception 'the objective % has no group %', slo_name, ops.group_name(slo_group)
      using errcode = 'OP001',
        hint = case keys when '{}' then 'It has no groups.' else format('It is grouped by %s.', array_to_string(keys, ' and ')) end;
  end if;
end;
$$;
comment on function ops.require_group(text, jsonb) is 'Refuses labels that no group of an objective as it stands can contain; {} is all of it, and one of two keys all groups with that value.';
