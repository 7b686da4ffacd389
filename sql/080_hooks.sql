-- What git hooks and the hub need: API keys, policies, the limit of requests, and what the hooks did.

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

create table ops.policies (
  org_id uuid not null,
  version bigint not null,
  policy jsonb not null,
  created_at timestamptz not null default now(),
  created_by text,
  constraint policies_pkey primary key (org_id, version),
  constraint policies_version_is_positive check (version > 0),
  constraint policies_policy_is_an_object check (jsonb_typeof(policy) = 'object'),
  constraint policies_policy_is_small check (octet_length(policy::text) <= 65536)
);
comment on table ops.policies is 'One row a version of an org''s hook policy; the highest one stands.';
comment on column ops.policies.org_id is 'The tenant.';
comment on column ops.policies.version is 'Counts from 1; events name it as policy_version.';
comment on column ops.policies.policy is 'What the hooks are to do; telemetry.enabled false stops recording, the rest is for the hooks to read.';
comment on column ops.policies.created_at is 'When it was set.';
comment on column ops.policies.created_by is 'The subject of the token that set it: an API key or a user; null without a token.';
alter table ops.policies enable row level security;

create function ops.policy_version(org_id uuid)
returns bigint
language sql
stable
set search_path = ''
return coalesce((select max(policies.version) from ops.policies where policies.org_id = policy_version.org_id), 0);
comment on function ops.policy_version(uuid) is 'The version of an org''s policy; 0 while the default holds.';

create function public.current_policy(org_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
return (
  with standing as (
    select policies.version, policies.policy, policies.created_at
    from ops.policies
    where policies.org_id = ops.caller_org(current_policy.org_id)
    order by policies.version desc
    limit 1
  ),
  with_default as (
    select standing.version, standing.policy, standing.created_at, 1 as place from standing
    union all
    select 0, '{"telemetry": {"enabled": true}}', null, 2
    order by place
    limit 1
  )
  select jsonb_build_object(
    'version', with_default.version,
    'policy', with_default.policy,
    'updated_at', to_jsonb(with_default.created_at)
  )
  from with_default
);
comment on function public.current_policy(uuid) is
  'The hook policy: {"version", "policy", "updated_at"}; version 0, the default and null while none was set. A caller whom RLS binds sees the own org''s.';

create function public.set_policy(policy jsonb, expected_version bigint default null, org_id uuid default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  owner_id uuid := ops.caller_org(org_id);
  standing bigint;
begin
  if owner_id is null or (row_security_active('ops.policies') and not ops.caller_has_scope('admin')) then
    raise exception 'setting the policy needs the scope admin'
      using errcode = 'PT403', hint = 'Use a key or token of an organisation whose app_metadata.scopes lists admin.';
  end if;
  if policy is null or jsonb_typeof(policy) <> 'object' then
    raise exception 'a policy is a JSON object'
      using errcode = 'OP001', hint = 'Send {"telemetry": {"enabled": true}, …}.';
  end if;
  if octet_length(policy::text) > 65536 then
    raise exception 'the policy is larger than 64 KiB'
      using errcode = 'OP001', hint = 'Keep what hooks must know, and link the rest.';
  end if;
  -- Two at once get two versions, in order.
  perform pg_advisory_xact_lock(hashtextextended('ops.policies ' || owner_id, 0));
  standing := ops.policy_version(owner_id);
  if expected_version <> standing then
    raise exception 'the policy is at version %, not %', standing, expected_version
      using errcode = 'PT412', hint = 'Read it again, and set yours over that version.';
  end if;
  insert into ops.policies (org_id, version, policy, created_by)
  select
    owner_id,
    standing + 1,
    set_policy.policy,
    left(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', 200)
  -- The same once more is no new version.
  where not exists (
    select
    from ops.policies as same
    where same.org_id = owner_id
      and same.version = standing
      and same.policy = set_policy.policy
  );
  return public.current_policy(owner_id);
end;
$$;
comment on function public.set_policy(jsonb, bigint, uuid) is
  'Sets the hook policy as a new version and returns it as current_policy does; expected_version (null: any) guards against overwriting another''s. Needs the scope admin.';

create table ops.request_counts (
  org_id uuid not null,
  agent_id uuid not null,
  requested_at timestamptz[] not null,
  constraint request_counts_pkey primary key (org_id, agent_id)
)
with (fillfactor = 50);
comment on table ops.request_counts is 'One row an agent that sent events through an API: when, in the minute up to its last request.';
comment on column ops.request_counts.org_id is 'The tenant.';
comment on column ops.request_counts.agent_id is 'The agent; for events that name none, a UUID made of the token''s subject.';
comment on column ops.request_counts.requested_at is 'The instants of its requests, in order.';
alter table ops.request_counts enable row level security;

create function ops.senders(events json)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  subject text := coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '');
  token_id uuid := encode(substr(sha256(convert_to(subject, 'UTF8')), 1, 16), 'hex')::uuid;
begin
  return (
    with named as (
      select coalesce(
        element.value ->> 'agent_id',
        element.value #>> '{payload,agent_id}',
        element.value #>> '{metadata,agent_id}'
      ) as agent_id
      from json_array_elements(events) as element
      where json_typeof(element.value) = 'object'
    ),
    counted as (
      select distinct
        case
          when named.agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then named.agent_id::uuid
          else token_id
        end as agent_id
      from named
    )
    -- A batch without an event is a request as well.
    select coalesce(array_agg(counted.agent_id order by counted.agent_id), array[token_id])
    from counted
  );
exception
  -- What Postgres cannot read names nobody.
  when data_exception or program_limit_exceeded then
    return array[token_id];
end;
$$;
comment on function ops.senders(json) is 'The agents of a batch, in order; what names none, or cannot be read, is of the token, as a UUID made of its subject.';

create function ops.count_request(org_id uuid, agent_ids uuid[], as_of timestamptz default clock_timestamp())
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  per_minute integer := coalesce(ops.setting('requests_per_minute')::integer, 100);
  seconds_to_wait integer;
begin
  with counted as (
    insert into ops.request_counts as stored (org_id, agent_id, requested_at)
    -- In order, so that two batches of the same agents wait for each other and never both.
    select count_request.org_id, agent.agent_id, array[as_of]
    from unnest(agent_ids) as agent (agent_id)
    order by agent.agent_id
    on conflict on constraint request_counts_pkey do update set
      requested_at = (
        with clock as (
          select case
            -- One that waited for the lock counts from when it got it; instants further ahead are of a clock that was wrong.
            when stored.requested_at[cardinality(stored.requested_at)]
              between excluded.requested_at[1] and excluded.requested_at[1] + interval '1 minute'
              then stored.requested_at[cardinality(stored.requested_at)]
            else excluded.requested_at[1]
          end as latest
        ),
        kept as (
          select earlier.instant
          from clock
          cross join unnest(stored.requested_at) as earlier (instant)
          where earlier.instant > clock.latest - interval '1 minute'
            and earlier.instant <= clock.latest
          union all
          select clock.latest
          from clock
        )
        select array_agg(kept.instant order by kept.instant) from kept
      )
    returning stored.requested_at
  )
  select ceil(extract(epoch from max(
    counted.requested_at[cardinality(counted.requested_at) - per_minute] + interval '1 minute'
      - counted.requested_at[cardinality(counted.requested_at)]
  )))
  into seconds_to_wait
  from counted
  where cardinality(counted.requested_at) > per_minute;
  if seconds_to_wait is not null then
    raise sqlstate 'PGRST' using
      message = jsonb_build_object(
        'code', 'OP429',
        'message', format('more than %s requests a minute from one agent', per_minute),
        'details', format('retry after %s seconds', seconds_to_wait),
        'hint', 'Send events in batches of up to 50, and wait as Retry-After says.'
      )::text,
      detail = jsonb_build_object('status', 429, 'headers', jsonb_build_object('Retry-After', seconds_to_wait::text))::text;
  end if;
end;
$$;
comment on function ops.count_request(uuid, uuid[], timestamptz) is
  'Counts a request against its agents; over the limit of any minute it raises PGRST with status 429 and Retry-After, and, with the transaction, counts nothing.';

create function ops.forget_requests(as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.request_counts as stored
  where stored.requested_at[cardinality(stored.requested_at)] < forget_requests.as_of - interval '1 hour';
end;
comment on function ops.forget_requests(timestamptz) is 'Removes the request counts of agents that have been quiet for an hour; only maintain calls it.';

create view ops.hook_days
with (security_invoker = true)
as
select
  series.org_id,
  series.event_type,
  series.labels,
  rollup.period_start as day_start,
  rollup.event_count,
  rollup.value_count,
  rollup.value_sum
from ops.rollups as rollup
join ops.series
  on series.org_id = rollup.org_id
  and series.series_id = rollup.series_id
where rollup.period = 'day'
  and series.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
union all
select
  fresh.org_id,
  fresh.event_type,
  fresh.labels,
  ops.period_start('day', fresh.hour_start, ops.time_zone()),
  fresh.event_count,
  fresh.value_count,
  fresh.value_sum
from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as fresh
where fresh.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
  and ops.period_start('day', fresh.hour_start, ops.time_zone()) >= coalesce(
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );
comment on view ops.hook_days is
  'Parts that add up to what the hooks sent by org, kind, labels and day: the stored days, and the events behind the cursor beside them.';

create function public.hook_metrics(
  org_id uuid,
  start_date date,
  end_date date default null,
  team text default null,
  hook_type text default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  wanted_org_id uuid := ops.caller_org(org_id);
  zone text := ops.time_zone();
  last_date date := coalesce(end_date, greatest((now() at time zone zone)::date, start_date));
  since timestamptz;
  until timestamptz;
begin
  if row_security_active('ops.policies') and not ops.caller_has_scope('read') then
    raise exception 'reading metrics needs the scope read'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists read.';
  end if;
  if start_date is null or start_date > last_date then
    raise exception 'the range of days is empty: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass start_date on or before end_date; both days are included.';
  end if;
  if start_date < date '1970-01-01' or last_date > date '2200-01-01' then
    raise exception 'the range of days is out of bounds: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass days between 1970 and 2200.';
  end if;
  since := start_date::timestamp at time zone zone;
  until := (last_date + 1)::timestamp at time zone zone;
  return (
    with executed as (
      select
        coalesce(sum(part.event_count), 0) as total,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0) as blocked,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'allowed'), 0) as allowed,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0) as overridden,
        sum(part.value_sum) / nullif(sum(part.value_count), 0) as avg_duration_ms
      from ops.hook_days as part
      where part.org_id = wanted_org_id
        and part.event_type = 'hook_execution'
        and part.day_start >= since
        and part.day_start < until
        and (hook_metrics.team is null or part.labels ->> 'team' = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.labels ->> 'hook_type' = hook_metrics.hook_type)
    ),
    patterns as (
      select part.pattern, sum(part.blocked_count) as blocked
      from ops.blocked_pattern_parts as part
      where part.org_id = wanted_org_id
        and part.period = 'day'
        and part.period_start >= since
        and part.period_start < until
        and (hook_metrics.team is null or part.team = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.hook_type = hook_metrics.hook_type)
      group by 1
      order by 2 desc, 1
      limit 10
    )
    select jsonb_build_object(
      'total_executions', executed.total,
      'blocked_count', executed.blocked,
      'allowed_count', executed.allowed,
      'overridden_count', executed.overridden,
      'override_rate', trim_scale(round(100 * executed.overridden / nullif(executed.total, 0), 6)),
      'avg_duration_ms', trim_scale(round(executed.avg_duration_ms, 6)),
      'most_blocked_patterns', coalesce(
        (select jsonb_agg(jsonb_build_object('pattern', patterns.pattern, 'count', patterns.blocked) order by patterns.blocked desc, patterns.pattern) from patterns),
        '[]'
      )
    )
    from executed
  );
end;
$$;
comment on function public.hook_metrics(uuid, date, date, text, text) is
  'What the git hooks of an org did from start_date to end_date (null: today), both days included, of one team or hook type if named, events behind the cursor included. override_rate in percent and avg_duration_ms are null without executions; the ten most blocked patterns.';

revoke execute on function
  ops.caller_org(uuid),
  ops.caller_has_scope(text),
  ops.create_api_key(uuid, text, text, bytea, text[], timestamptz),
  ops.revoke_api_key(text),
  ops.find_api_key(text),
  ops.policy_version(uuid),
  public.current_policy(uuid),
  public.set_policy(jsonb, bigint, uuid),
  ops.senders(json),
  ops.count_request(uuid, uuid[], timestamptz),
  ops.forget_requests(timestamptz),
  public.hook_metrics(uuid, date, date, text, text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.api_keys, ops.policies, ops.request_counts, ops.hook_days from anon, authenticated, service_role;
  grant select on ops.policies, ops.hook_days to authenticated, service_role;
  grant insert (org_id, version, policy, created_by) on ops.policies to authenticated, service_role;
  grant select, insert, update on ops.request_counts to authenticated;
  grant select on ops.request_counts to service_role;
  create policy policies_select_own_org on ops.policies for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy policies_insert_own_org_as_admin on ops.policies for insert to authenticated
    with check (org_id = (select ops.current_org_id()) and (select ops.caller_has_scope('admin')));
  -- ops is no exposed schema: only count_request, as part of a caller's ingest_events, comes here.
  create policy request_counts_select_own_org on ops.request_counts for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy request_counts_insert_own_org on ops.request_counts for insert to authenticated
    with check (org_id = (select ops.current_org_id()));
  create policy request_counts_update_own_org on ops.request_counts for update to authenticated
    using (org_id = (select ops.current_org_id()))
    with check (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.caller_org(uuid),
    ops.caller_has_scope(text),
    ops.create_api_key(uuid, text, text, bytea, text[], timestamptz),
    ops.revoke_api_key(text),
    ops.find_api_key(text),
    ops.policy_version(uuid),
    public.current_policy(uuid),
    public.set_policy(jsonb, bigint, uuid),
    ops.senders(json),
    ops.count_request(uuid, uuid[], timestamptz),
    ops.forget_requests(timestamptz),
    public.hook_metrics(uuid, date, date, text, text)
  from anon, authenticated, service_role;
  grant execute on function
    ops.caller_org(uuid),
    ops.caller_has_scope(text),
    ops.policy_version(uuid),
    public.current_policy(uuid),
    public.set_policy(jsonb, bigint, uuid),
    ops.senders(json),
    public.hook_metrics(uuid, date, date, text, text)
  to authenticated, service_role;
  grant execute on function ops.count_request(uuid, uuid[], timestamptz) to authenticated;
end;
$$;
