-- Who calls: API keys, and the org and scopes of the caller.

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

create table ops.api_keys (
  key_id text not null,
  org_id uuid not null,
  name text not null,
  key_sha256 bytea not null,
  scopes text[] not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  constraint api_keys_pkey primary key (key_id),
  constraint api_keys_key_id_is_short check (key_id ~ '^[0-9a-f]{8,32}$'),
  constraint api_keys_name_is_short check (char_length(name) between 1 and 100),
  constraint api_keys_key_sha256_is_a_digest check (octet_length(key_sha256) = 32),
  constraint api_keys_scopes_are_known check (
    cardinality(scopes) > 0
    and array_position(scopes, null) is null
    and scopes <@ array['ingest', 'read', 'admin']
  ),
  constraint api_keys_expires_after_creation check (expires_at > created_at)
);
comment on table ops.api_keys is 'One row a key of the hub; of the secret only its SHA-256 is kept.';
comment on column ops.api_keys.key_id is 'The public part of the key, by which it is found.';
comment on column ops.api_keys.org_id is 'The tenant that the key speaks for.';
comment on column ops.api_keys.name is 'What its owner calls it.';
comment on column ops.api_keys.key_sha256 is 'SHA-256 of the secret.';
comment on column ops.api_keys.scopes is 'What it may do: ingest, read, admin.';
comment on column ops.api_keys.created_at is 'When it was made.';
comment on column ops.api_keys.expires_at is 'From when on it is refused; null: never.';
comment on column ops.api_keys.revoked_at is 'When it was revoked; null: it was not.';
comment on column ops.api_keys.last_used_at is 'When it was last looked up, to the minute; null: never.';
alter table ops.api_keys enable row level security;

create function ops.create_api_key(
  org_id uuid,
  name text,
  key_id text,
  key_sha256 bytea,
  scopes text[],
  expires_at timestamptz default null
)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.api_keys (org_id, name, key_id, key_sha256, scopes, expires_at)
  values (org_id, name, key_id, key_sha256, scopes, expires_at);
end;
comment on function ops.create_api_key(uuid, text, text, bytea, text[], timestamptz) is
  'Stores a key of the hub; the secret itself never reaches the database.';

create function ops.revoke_api_key(key_id text)
returns boolean
language sql
volatile
set search_path = ''
begin atomic
  with revoked as (
    update ops.api_keys
    set revoked_at = now()
    where api_keys.key_id = revoke_api_key.key_id
      and api_keys.revoked_at is null
    returning 1
  )
  select exists (select from revoked);
end;
comment on function ops.revoke_api_key(text) is 'Ends a key with the next request; false: there is none that was not revoked before.';

create function ops.find_api_key(key_id text)
returns table (org_id uuid, key_sha256 bytea, scopes text[])
language sql
volatile
set search_path = ''
begin atomic
  -- Once a minute, and by whoever gets the row first: no request waits for another to note the same.
  update ops.api_keys as used
  set last_used_at = now()
  where used.key_id in (
    select stale.key_id
    from ops.api_keys as stale
    where stale.key_id = find_api_key.key_id
      and coalesce(stale.last_used_at, '-infinity') < now() - interval '1 minute'
    for no key update skip locked
  );
  select api_key.org_id, api_key.key_sha256, api_key.scopes
  from ops.api_keys as api_key
  where api_key.key_id = find_api_key.key_id
    and api_key.revoked_at is null
    and coalesce(api_key.expires_at, 'infinity') > now();
end;
comment on function ops.find_api_key(text) is
  'Whom a key speaks for and the digest to compare its secret with; no row when it is unknown, revoked or expired. Called before the caller''s role is taken.';

revoke execute on function
  ops.caller_org(uuid),
  ops.caller_has_scope(text),
  ops.create_api_key(uuid, text, text, bytea, text[], timestamptz),
  ops.revoke_api_key(text),
  ops.find_api_key(text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.api_keys from anon, authenticated, service_role;
  revoke execute on function
    ops.caller_org(uuid),
    ops.caller_has_scope(text),
    ops.create_api_key(uuid, text, text, bytea, text[], timestamptz),
    ops.revoke_api_key(text),
    ops.find_api_key(text)
  from anon, authenticated, service_role;
  grant execute on function
    ops.caller_org(uuid),
    ops.caller_has_scope(text)
  to authenticated, service_role;
end;
$$;
