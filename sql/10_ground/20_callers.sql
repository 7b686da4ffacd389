-- Who is asking: the caller's org and scopes, from the login or from the claims of the token.

create table ops.bound_logins (
  login text not null,
  only_org_id uuid not null,
  bound_at timestamptz not null default now(),
  constraint bound_logins_pkey primary key (login)
);
comment on table ops.bound_logins is
  'One row a login that reads one org and nothing else, whatever role and claims it takes: Grafana''s, whose viewers may send any SQL. Written by ops.bind_login.';
comment on column ops.bound_logins.login is 'The role that logs in, which no SQL of its session changes.';
comment on column ops.bound_logins.only_org_id is 'The tenant that it reads.';
comment on column ops.bound_logins.bound_at is 'When it was bound.';
alter table ops.bound_logins enable row level security;
create policy bound_logins_select_own on ops.bound_logins for select to authenticated using (login = session_user);

create function ops.bound_org_id()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select bound.only_org_id from ops.bound_logins as bound where bound.login = session_user);
end;
$$;
comment on function ops.bound_org_id() is 'The org that the login of this session is bound to, whatever role it took since; null when to none.';

create function ops.caller_may(scopes text[])
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  -- After a transaction PostgREST leaves '' behind, not null.
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  claimed constant jsonb := coalesce(claims #> '{app_metadata,scopes}', '["ingest", "read"]');
begin
  if coalesce(claims ->> 'is_anonymous', 'false') <> 'false' and ops.setting('anonymous_sign_ins') is distinct from 'allow' then
    return null;
  end if;
  return nullif(jsonb_typeof(claimed) = 'array' and claimed ?| caller_may.scopes, false);
end;
$$;
comment on function ops.caller_may(text[]) is
  'True when app_metadata.scopes of the JWT lists one of the scopes; a token without scopes may ingest and read, an anonymous sign-in nothing, unless the setting anonymous_sign_ins says allow. Null when not: policies ask "is not null", which the planner expects to hold, and "is true" not.';

create function ops.org_for(scopes text[])
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  bound constant uuid := ops.bound_org_id();
  claimed text;
begin
  -- The claims and the role of a bound login's session are its own invention; its login is not. It only reads.
  if bound is not null then
    return case when 'read' = any (org_for.scopes) then bound end;
  end if;
  if ops.caller_may(org_for.scopes) is null then
    return null;
  end if;
  claimed := nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,org_id}';
  return case
    when claimed is null then '00000000-0000-0000-0000-000000000000'::uuid
    -- A tenth of the time that one regular expression takes.
    when claimed like '________-____-____-____-____________' and claimed not like '%-%-%-%-%-%' and claimed !~ '[^0-9a-fA-F-]' then claimed::uuid
  end;
end;
$$;
comment on function ops.org_for(text[]) is
  'The org whose rows the caller may touch for what one of the scopes allows: that of a bound login (read alone); else app_metadata.org_id of the JWT, or the nil org without that claim. Null, which sees and writes nothing, without such a scope and when the claim is no UUID. Policies call it once a statement.';

create function ops.current_org_id()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return ops.org_for('{ingest,read,admin}');
end;
$$;
comment on function ops.current_org_id() is 'The caller''s org, as org_for says, for whatever scope.';

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
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when ops.bound_org_id() is not null then caller_has_scope.scope = 'read'
    else ops.caller_may(array[caller_has_scope.scope]) is not null
  end;
end;
$$;
comment on function ops.caller_has_scope(text) is 'Whether the caller has the scope: as caller_may says, and read alone for a bound login.';
