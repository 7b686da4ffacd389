-- Who is asking: the caller's org and scopes, from the claims of the token.

create function ops.current_org_id()
returns uuid
language sql
stable
set search_path = ''
return (
  with claims as (
    -- After a transaction PostgREST leaves '' behind, not null.
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,org_id}' as org_id
  )
  select case
    when claims.org_id is null then '00000000-0000-0000-0000-000000000000'::uuid
    when claims.org_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then claims.org_id::uuid
  end
  from claims
);
comment on function ops.current_org_id() is
  'The caller''s org from app_metadata.org_id of the JWT; the nil org without that claim; null, which sees nothing, when the claim is no UUID.';

create function ops.ingesting_caller(out is_bound boolean, out org_id uuid)
language sql
stable
set search_path = ''
return (
  row_security_active('public.telemetry_events'),
  case when row_security_active('public.telemetry_events') then ops.current_org_id() end
);
comment on function ops.ingesting_caller() is 'Whether RLS binds the caller to one org, and to which.';

create function ops.caller_org(wanted_org_id uuid default null)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  caller record;
begin
  select * into strict caller from ops.ingesting_caller();
  if caller.is_bound and wanted_org_id is not null and wanted_org_id is distinct from caller.org_id then
    raise exception 'another organisation than your token''s'
      using errcode = 'PT403', hint = 'Leave org_id out, or use a key of that organisation.';
  end if;
  return case
    when caller.is_bound then caller.org_id
    else coalesce(wanted_org_id, '00000000-0000-0000-0000-000000000000'::uuid)
  end;
end;
$$;
comment on function ops.caller_org(uuid) is
  'The org that a call is about: for a caller whom RLS binds the own (null, which has nothing, when the token names no valid one), and PT403 for any other; else the wanted one, or the nil org.';

create function ops.caller_has_scope(scope text)
returns boolean
language sql
stable
set search_path = ''
return (
  with claims as (
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb #> '{app_metadata,scopes}' as scopes
  )
  select case
    when claims.scopes is null then scope in ('ingest', 'read')
    else jsonb_typeof(claims.scopes) = 'array' and claims.scopes ? scope
  end
  from claims
);
comment on function ops.caller_has_scope(text) is
  'Whether app_metadata.scopes of the JWT lists the scope; a token without scopes may ingest and read, and is no admin.';
