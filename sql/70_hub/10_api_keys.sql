-- API keys, each bound to an org and scopes.

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
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- A replica knows the keys and notes no use of them.
  if not current_setting('transaction_read_only')::boolean then
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
  end if;
  return query
    select api_key.org_id, api_key.key_sha256, api_key.scopes
    from ops.api_keys as api_key
    where api_key.key_id = find_api_key.key_id
      and api_key.revoked_at is null
      and coalesce(api_key.expires_at, 'infinity') > now();
end;
$$;
comment on function ops.find_api_key(text) is
  'Whom a key speaks for and the digest to compare its secret with; no row when it is unknown, revoked or expired. Called before the caller''s role is taken; notes the use of the key unless the transaction is read-only.';

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
