-- Faster loading, hub and daily view: the hub's key is required in the transaction of its call, plain inserts draw their event_id in
-- half the time, and the views count fresh events only where there are some. A migration is one transaction, so the index is not built concurrently.
-- squawk-ignore-file require-concurrent-index-creation

-- Pages and reports read a row per KPI and day. Without it Postgres 15 to 17 read all rows of an org.
create index kpi_aggregations_org_id_period_start_metric_name_idx on public.kpi_aggregations (org_id, period_start, metric_name)
  where aggregation_period = 'day' and labels = '{}'::jsonb;

create function ops.has_fresh_counts()
returns boolean
language plpgsql
stable
set search_path = ''
-- Planning takes longer than the look into the index of each partition.
set plan_cache_mode = force_generic_plan
as $$
begin
  -- Not exists: for that the planner reads all events in search of a first one.
  return (select max(event.id) from public.telemetry_events as event where event.id > ops.cursor_id()) is not null
    or ops.late_ids() is not null
    or exists (select from ops.audit_changes);
end;
$$;
comment on function ops.has_fresh_counts() is
  'Whether there are events or changed audits that no refresh has counted yet, of those that the caller may see.';

create or replace function ops.fresh_kpis()
returns setof ops.kpi_value
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  events ops.event_delta[];
begin
  -- Most reads find all counted: to plan the counting of nothing took ten times as long as the rest of a view.
  if not ops.has_fresh_counts() then
    return;
  end if;
  events := array(
    select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    union all
    select event from ops.count_audit_changes() as event
  );
  if cardinality(events) = 0 then
    return;
  end if;
  return query
  select kpi.*
  from ops.changed_ratios(array(select delta from ops.rollup_deltas(events) as delta)) as kpi
  union all
  select kpi.*
  from ops.changed_percentiles(array(
    select merged from ops.merged_histograms(array(select delta from ops.histogram_deltas(events) as delta)) as merged
  )) as kpi;
end;
$$;

create function ops.require_api_key(key_id text, org_id uuid, key_sha256 bytea, scopes text[])
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if not exists (
    select
    from ops.api_keys as api_key
    where api_key.key_id = require_api_key.key_id
      and api_key.org_id = require_api_key.org_id
      and api_key.key_sha256 = require_api_key.key_sha256
      and api_key.scopes = require_api_key.scopes
      and api_key.revoked_at is null
      and coalesce(api_key.expires_at, 'infinity') > now()
  ) then
    raise exception 'the API key was revoked, has expired or is another now'
      using errcode = 'PT401', hint = 'Look the key up again.';
  end if;
end;
$$;
comment on function ops.require_api_key(text, uuid, bytea, text[]) is
  'Fails, and the transaction with it, unless the key is live and still what find_api_key told of it. Called in the transaction of a call, before the caller''s role is taken.';

revoke execute on function
  ops.has_fresh_counts,
  ops.require_api_key
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.has_fresh_counts,
    ops.require_api_key
  from anon, authenticated, service_role;
  grant execute on function ops.has_fresh_counts to authenticated, service_role;
end;
$$;

do $$
declare
  login text;
begin
  -- Logins of hubs that may look keys up need not be granted the next step by hand.
  for login in
    select pg_get_userbyid(granted.grantee)
    from pg_proc as found
    cross join aclexplode(found.proacl) as granted
    where found.oid = 'ops.find_api_key(text)'::regprocedure
      and granted.privilege_type = 'EXECUTE'
      and granted.grantee not in (0, found.proowner)
  loop
    execute format('grant execute on function ops.require_api_key(text, uuid, bytea, text[]) to %I', login);
  end loop;
end;
$$;

-- Plain inserts draw their event_id in half the time; stored rows stay as they are.
alter table public.telemetry_events alter column event_id set default encode(
  int8send(
    (((random() * 140737488355328)::bigint # (date_part('epoch', now()) * 100000)::bigint) << 16) | 32768 | (random() * 4095)::bigint
  ) || float8send(-1 - random()),
  'hex'
)::uuid;
