-- A call of the hub requires its key in its own transaction, so that the key need not be looked up in one before.

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

revoke execute on function ops.require_api_key from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function ops.require_api_key from anon, authenticated, service_role;
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
