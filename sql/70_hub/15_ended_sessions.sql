-- Sessions of the dashboard that were ended before their cookie expires.

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
