-- Objectives that are removed, disabled and enabled by hand.

create function ops.require_slos(slo_names text[])
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  select asked.name
  into unknown
  from unnest(slo_names) as asked (name)
  where not exists (select from ops.slos as slo where slo.slo_name = asked.name)
  limit 1;
  if found then
    raise exception 'there is no objective %', coalesce(unknown, '')
      using errcode = 'OP001', hint = 'opskpi slo list shows them; with --all those that were removed, too.';
  end if;
end;
$$;
comment on function ops.require_slos(text[]) is 'Refuses names that no objective has.';

create function ops.delete_slos(slo_names text[], author text default null)
returns table (slo_name text, rules text[], versions bigint, exclusions bigint, open_alerts bigint, bundle text)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
begin
  perform ops.begin_changes(author);
  perform ops.require_slos(slo_names);
  return query
  select
    slo.slo_name,
    array(select rule.rule_name from ops.alert_rules as rule where rule.slo_name = slo.slo_name order by 1),
    (select count(*) from ops.slo_versions as version where version.slo_name = slo.slo_name),
    (select count(*) from ops.slo_exclusions as exclusion where exclusion.slo_name = slo.slo_name),
    (
      select count(*)
      from ops.alerts as alert
      where alert.subject = slo.slo_name
        and alert.slo_version is not null
        and alert.state in ('pending', 'firing')
    ),
    slo.bundle
  from ops.slos as slo
  where slo.slo_name = any (delete_slos.slo_names)
  order by 1;
  delete from ops.slos as slo where slo.slo_name = any (delete_slos.slo_names);
end;
$$;
comment on function ops.delete_slos(text[], text) is
  'Removes objectives with their own rules. One row each: the rules that went with it, what stays (versions and exclusions, counts), the open alerts that the next evaluation ends, and the bundle whose files make it again as long as they name it.';

create function ops.enable_slos(slo_names text[], is_enabled boolean, author text default null)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.begin_changes(author);
  perform ops.require_slos(slo_names);
  return query
  select
    'slo',
    slo.slo_name,
    case when slo.is_enabled = enable_slos.is_enabled then 'unchanged' else 'changed' end,
    case
      when slo.is_enabled <> enable_slos.is_enabled
        then jsonb_build_object('is_enabled', jsonb_build_array(slo.is_enabled, enable_slos.is_enabled))
    end
  from ops.slos as slo
  where slo.slo_name = any (enable_slos.slo_names)
  order by 2;
  update ops.slos as slo
  set is_enabled = enable_slos.is_enabled
  where slo.slo_name = any (enable_slos.slo_names)
    and slo.is_enabled <> enable_slos.is_enabled;
end;
$$;
comment on function ops.enable_slos(text[], boolean, text) is
  'Enables or disables objectives; one row each: changed or unchanged. A disabled one has no status and no alerts, and its events are counted all the same.';
