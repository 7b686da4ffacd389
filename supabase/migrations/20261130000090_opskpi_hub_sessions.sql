-- Sessions of the dashboard end for every hub of a database, and a replica finds API keys without noting their use.

create or replace function ops.find_api_key(key_id text)
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

create table ops.ended_sessions (
  session_sha256 bytea not null,
  ended_at timestamptz not null default now(),
  expires_at timestamptz not null,
  constraint ended_sessions_pkey primary key (session_sha256),
  constraint ended_sessions_session_sha256_is_a_digest check (octet_length(session_sha256) = 32),
  constraint ended_sessions_expires_after_its_end check (expires_at > ended_at)
);
comment on table ops.ended_sessions is 'One row a session that somebody logged out of, as long as its cookie would still be taken.';
comment on column ops.ended_sessions.session_sha256 is 'SHA-256 of the session''s id, which the cookie holds.';
comment on column ops.ended_sessions.ended_at is 'When it was ended.';
comment on column ops.ended_sessions.expires_at is 'From when on the cookie is refused without this row.';
alter table ops.ended_sessions enable row level security;

create function ops.end_session(session_sha256 bytea, cookie_lasts interval)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.ended_sessions as expired
  where expired.expires_at <= now();
  insert into ops.ended_sessions (session_sha256, expires_at)
  values (end_session.session_sha256, now() + end_session.cookie_lasts)
  on conflict on constraint ended_sessions_pkey do nothing;
end;
comment on function ops.end_session(bytea, interval) is
  'Ends a session of the dashboard for every hub of this database; forgets those whose cookie has expired by now.';

create function ops.session_has_ended(session_sha256 bytea)
returns boolean
language sql
stable
set search_path = ''
begin atomic
  select exists (
    select from ops.ended_sessions as ended
    where ended.session_sha256 = session_has_ended.session_sha256
  );
end;
comment on function ops.session_has_ended(bytea) is 'Whether somebody logged out of a session.';

revoke execute on function
  ops.session_has_ended,
  ops.end_session
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.ended_sessions from anon, authenticated, service_role;
  revoke execute on function
    ops.session_has_ended,
    ops.end_session
  from anon, authenticated, service_role;
end;
$$;
