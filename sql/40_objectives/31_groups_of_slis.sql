-- The groups that SLIs have for orgs.

create function ops.groups_of_slis(org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
returns table (org_id uuid, of_sli_id bigint, slo_group jsonb, sli_id bigint)
language sql
stable
set search_path = ''
begin atomic
  with grouped as materialized (
    select stored.org_id, stored.of_sli_id, stored.slo_group, stored.sli_id
    from ops.sli_groups as stored
    where stored.org_id = any (groups_of_slis.org_ids)
      and stored.of_sli_id = any (groups_of_slis.sli_ids)
    union
    select delta.org_id, delta.of_sli_id, delta.slo_group, delta.sli_id
    from unnest(groups_of_slis.fresh) as delta
    where delta.org_id = any (groups_of_slis.org_ids)
      and delta.of_sli_id = any (groups_of_slis.sli_ids)
  )
  select grouped.org_id, grouped.of_sli_id, grouped.slo_group, grouped.sli_id
  from grouped
  union all
  select org.id, sli.id, '{}', sli.id
  from unnest(groups_of_slis.org_ids) as org (id)
  cross join unnest(groups_of_slis.sli_ids) as sli (id)
  where not exists (select from grouped where grouped.org_id = org.id and grouped.of_sli_id = sli.id);
end;
comment on function ops.groups_of_slis(uuid[], bigint[], ops.sli_delta[]) is
  'One row per org, SLI of the lists and group in which it has counted something, fresh counts included, with the key of its counts; {} is the group of an SLI that has no groups, or nothing in any.';
