-- Hooks and the hub: API keys, policies, the limit of requests, what the hooks did; patterns are kept by team.

alter table ops.settings add constraint settings_requests_per_minute_is_a_number check (
  name <> 'requests_per_minute' or (value ~ '^[1-9][0-9]{0,5}$')
);

drop function ops.add_patterns(ops.pattern_delta[]);
alter type ops.pattern_delta add attribute team text;
alter table ops.blocked_patterns add column team text not null default '';
alter table ops.blocked_patterns drop constraint blocked_patterns_pkey;
alter table ops.blocked_patterns
  add constraint blocked_patterns_pkey primary key (org_id, period, period_start, hook_type, pattern, team);
comment on table ops.blocked_patterns is 'One row a finding pattern, hook type, team and period: how often it blocked.';
comment on column ops.blocked_patterns.team is 'The team of the agent; empty when it has none.';

create or replace view ops.labelled_events
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  event.metadata,
  case when kind.key_1 = 'team' then agent.team else left(event.metadata ->> kind.key_1, 100) end as label_1,
  case when kind.key_2 = 'team' then agent.team else left(event.metadata ->> kind.key_2, 100) end as label_2,
  case when kind.key_3 = 'team' then agent.team else left(event.metadata ->> kind.key_3, 100) end as label_3,
  case when kind.key_4 = 'team' then agent.team else left(event.metadata ->> kind.key_4, 100) end as label_4,
  case
    when zone.is_utc then date_bin('1 hour', event.event_timestamp, timestamptz '1969-12-29 00:00+00')
    else date_trunc('hour', event.event_timestamp, zone.name)
  end as hour_start,
  measured.value,
  case
    when measured.value is null or not kind.has_histogram then null
    when measured.value <= 0.001 then 0
    -- 1.0198 keeps the middle of a bin within 0.98 % of all that is in it.
    else ceil(ln(measured.value::double precision * 1000) / ln(1.0198::double precision))::integer
  end as bin,
  agent.team
from public.telemetry_events as event
cross join (
  select setting.name, setting.name = 'UTC' as is_utc
  from (select ops.time_zone() as name offset 0) as setting
) as zone
left join (
  select
    event_type.event_type,
    event_type.value_key,
    event_type.label_keys[1] as key_1,
    event_type.label_keys[2] as key_2,
    event_type.label_keys[3] as key_3,
    event_type.label_keys[4] as key_4,
    event_type.event_type in (select histogram_group.event_type from ops.histogram_groups as histogram_group) as has_histogram
  from ops.event_types as event_type
  -- A barrier, so that the keys are taken out of the array once a type and not once an event.
  offset 0
) as kind
  on kind.event_type = event.event_type
left join ops.agents as agent
  on agent.org_id = event.org_id
  and agent.agent_id = event.agent_id
cross join lateral (
  select case
    when kind.value_key = 'duration_ms' then event.duration_ms
    when jsonb_typeof(event.metadata -> kind.value_key) <> 'number' then null
    when (event.metadata -> kind.value_key)::numeric between 0 and 1000000000000000
      then (event.metadata -> kind.value_key)::numeric
  end as value
  -- A barrier: without it the expression is evaluated once for each of the figures made of it.
  offset 0
) as measured;

create or replace function ops.count_patterns(after_id bigint, until_id bigint, since timestamptz, until timestamptz)
returns setof ops.pattern_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with blocked as (
    select
      event.org_id,
      coalesce(left(event.metadata ->> 'hook_type', 100), '') as hook_type,
      found.pattern,
      event.hour_start,
      coalesce(event.team, '') as team,
      count(*) as blocked_count
    from ops.labelled_events as event
    cross join lateral (
      select left(event.metadata #>> '{findings_summary,pattern}', 100) as pattern
      union
      select left(listed.pattern #>> '{}', 100)
      from jsonb_path_query(event.metadata, 'lax $.findings_summary.patterns[*]') as listed (pattern)
    ) as found
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < until
      and event.event_type = 'hook_execution'
      and event.metadata ->> 'result' = 'blocked'
      and found.pattern is not null
    group by 1, 2, 3, 4, 5
  )
  select
    blocked.org_id,
    blocked.hook_type,
    blocked.pattern,
    period.name,
    ops.period_start(period.name, blocked.hour_start, ops.time_zone()) as period_start,
    sum(blocked.blocked_count)::bigint,
    blocked.team
  from blocked
  cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
  group by 1, 2, 3, 4, 5, 7;
end;
$$;

create function ops.add_patterns(deltas ops.pattern_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.blocked_patterns as stored (org_id, period, period_start, hook_type, pattern, team, blocked_count)
  select delta.org_id, delta.period, delta.period_start, delta.hook_type, delta.pattern, delta.team, delta.blocked_count
  from unnest(add_patterns.deltas) as delta
  on conflict on constraint blocked_patterns_pkey do update set
    blocked_count = stored.blocked_count + excluded.blocked_count;
end;
comment on function ops.add_patterns(ops.pattern_delta[]) is 'Adds a delta to the blocked patterns; only refresh and rebuild call it, once a delta.';

revoke execute on function ops.add_patterns(ops.pattern_delta[]) from public;
create view ops.blocked_pattern_parts
with (security_invoker = true)
as
select stored.org_id, stored.period, stored.period_start, stored.hook_type, stored.pattern, stored.team, stored.blocked_count
from ops.blocked_patterns as stored
union all
select fresh.org_id, fresh.period, fresh.period_start, fresh.hook_type, fresh.pattern, fresh.team, fresh.blocked_count
from ops.count_patterns(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as fresh;
comment on view ops.blocked_pattern_parts is
  'Parts that add up to how often a pattern blocked: what is stored, and the events behind the cursor beside it.';


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
where fresh.event_type in ('hook_execution', 'hook_baseline', 'hook_override');
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

create or replace function ops.readable_events(events json)
returns table (document jsonb, reasons jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
  element record;
  -- Arrays, since a jsonb array is copied whole for each element that is added to it.
  documents jsonb[] := '{}'::jsonb[];
  faults jsonb[] := '{}'::jsonb[];
begin
  for element in
    select json_element.ordinality - 1 as place, json_element.value
    from json_array_elements(events) with ordinality as json_element
  loop
    begin
      documents := array_append(documents, element.value::jsonb);
    exception
      -- NUL bytes, half surrogates, numbers beyond numeric, nesting beyond the stack.
      when data_exception or program_limit_exceeded then
        documents := array_append(documents, 'null'::jsonb);
        faults := array_append(
          faults,
          jsonb_build_object('index', element.place, 'field', '', 'reason', 'cannot be stored as JSON: ' || sqlerrm)
        );
    end;
  end loop;
  document := to_jsonb(documents);
  reasons := to_jsonb(faults);
  return next;
end;
$$;

create or replace function public.ingest_events(events json)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  caller record;
  skips_known boolean;
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  unreadable_places bigint[];
  answer jsonb;
  announced jsonb := '{}'::jsonb;
begin
  if events is null or json_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "payload": {…}}, …].';
  end if;
  select * into strict caller from ops.ingesting_caller();
  if caller.is_bound then
    -- Whoever comes through an API is counted before anything is done for the call, and cannot ask for too much at once.
    if json_array_length(events) > 5000 then
      raise exception 'a batch of % events is too large', json_array_length(events)
        using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
    end if;
    if not ops.caller_has_scope('ingest') then
      raise exception 'storing events needs the scope ingest'
        using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
    end if;
    if caller.org_id is not null then
      perform ops.count_request(caller.org_id, ops.senders(events));
      announced := jsonb_build_object('policy_version', ops.policy_version(caller.org_id));
    end if;
  end if;
  begin
    document := events::jsonb;
  exception
    when data_exception or program_limit_exceeded then
      select readable.document, readable.reasons into document, unreadable from ops.readable_events(events) as readable;
  end;
  -- Nearly every batch is new and valid as a whole. Looking for repeated events costs a tenth more, finding out what is wrong ten times as much.
  foreach skips_known in array array[false, true] loop
    exit when unreadable <> '[]';
    begin
      if skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document)
        on conflict on constraint telemetry_events_pkey do nothing;
      else
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document);
      end if;
      get diagnostics accepted = row_count;
      return jsonb_build_object('accepted', accepted, 'duplicate', jsonb_array_length(document) - accepted, 'refused', '[]'::jsonb)
        || announced;
    exception
      when unique_violation then
        continue;
      when data_exception or program_limit_exceeded then
        exit;
    end;
  end loop;
  unreadable_places := array(select (fault.value -> 'index')::bigint from jsonb_array_elements(unreadable) as fault);
  with checked as materialized (
    select * from ops.check_events(document)
  ),
  stored as (
    insert into public.telemetry_events (
      event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id
    )
    select
      checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id, checked.agent_id
    from checked
    where checked.refusal is null
    on conflict on constraint telemetry_events_pkey do nothing
    returning 1
  ),
  counted as (
    select
      (select count(*) from stored) as accepted,
      count(*) filter (where checked.refusal is null) as valid,
      jsonb_agg(
        jsonb_build_object('index', checked.place, 'field', checked.refusal[1], 'reason', checked.refusal[2])
        order by checked.place
      ) filter (where checked.refusal is not null and checked.place <> all (unreadable_places)) as refused
    from checked
  )
  select jsonb_build_object(
    'accepted', counted.accepted,
    'duplicate', counted.valid - counted.accepted,
    'refused', unreadable || coalesce(counted.refused, '[]')
  )
  into answer
  from counted;
  return answer || announced;
end;
$$;

comment on function public.ingest_events(json) is
  'Stores a JSON array of events. Returns {"accepted": n, "duplicate": n, "refused": [{"index", "field", "reason"}]}; index counts from 0. Valid events are stored whatever the others are; a repeated event (org, event_id, time) counts as duplicate. A caller whom RLS binds is also told the "policy_version" of its hooks, and is held to the requests a minute of the settings.';

create or replace function ops.maintain(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
as $$
declare
  started_at timestamptz := clock_timestamp();
  made integer;
begin
  select count(*) filter (where ops.create_partition(wanted.month))
  into made
  from (
    select (date_trunc('month', as_of at time zone 'UTC') + make_interval(months => ahead))::date as month
    from generate_series(0, 3) as ahead
    union
    -- A year at a time and within sight: a partition for every month of two centuries would exhaust the server's locks.
    (
      select distinct date_trunc('month', event.event_timestamp at time zone 'UTC')::date as month
      from ops.telemetry_events_default as event
      where event.event_timestamp >= as_of - interval '20 years'
        and event.event_timestamp < as_of + interval '3 months'
      order by month desc
      limit 12
    )
    order by month
  ) as wanted;
  delete from ops.job_runs as run
  where run.started_at < as_of - coalesce(ops.setting('job_runs_kept'), '30 days')::interval;
  perform ops.forget_requests(as_of);
  if made > 0 then
    insert into ops.job_runs (job, started_at, outcome, message)
    values ('maintain', started_at, 'success', format('%s partitions made', made));
  end if;
  return made;
end;
$$;

create or replace view public.v_ops_blocked_patterns
with (security_invoker = true)
as
select
  part.period as aggregation_period,
  part.period_start,
  part.hook_type,
  part.pattern,
  sum(part.blocked_count)::bigint as blocked_count,
  part.org_id
from ops.blocked_pattern_parts as part
group by part.org_id, part.period, part.period_start, part.hook_type, part.pattern
order by part.period_start desc, blocked_count desc, part.pattern;

create or replace view public.v_ops_hook_teams
with (security_invoker = true)
as
select
  kpi.labels ->> 'team' as team,
  kpi.aggregation_period,
  kpi.period_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total')::bigint as executions,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as p95_duration_ms,
  100 - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_rate,
  kpi.org_id,
  -- Overridden less than in the period before is a gain in compliance, so the signs turn.
  lag(max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate')) over (
    partition by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period
    order by kpi.period_start
  ) - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_change
from ops.kpis as kpi
where kpi.aggregation_period in ('day', 'week', 'month')
  and kpi.labels ? 'team'
  and kpi.metric_name in ('hook_executions_total', 'hook_block_rate', 'hook_override_rate', 'hook_avg_duration_ms', 'hook_p95_duration_ms')
group by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period, kpi.period_start
order by kpi.period_start desc, kpi.aggregation_period, team;

comment on column public.v_ops_hook_teams.compliance_change is
  'compliance_rate less that of the team''s period before, of the same length (percentage points); null in its first.';

create view public.v_ops_hook_policies
with (security_invoker = true)
as
with versioned as (
  select
    part.org_id,
    case when part.labels ->> 'policy_version' ~ '^[0-9]{1,18}$' then (part.labels ->> 'policy_version')::bigint end as policy_version,
    part.event_type,
    part.labels ->> 'result' as result,
    part.day_start,
    part.event_count
  from ops.hook_days as part
),
counted as (
  select
    versioned.org_id,
    versioned.policy_version,
    min(versioned.day_start) as first_day_start,
    max(versioned.day_start) as last_day_start,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_execution'), 0)::bigint as executions,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'blocked'), 0)::bigint as blocked_count,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'overridden'), 0)::bigint as overridden_count,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_baseline'), 0)::bigint as baseline_count
  from versioned
  group by 1, 2
)
select
  counted.policy_version,
  policy.created_at as set_at,
  counted.first_day_start,
  counted.last_day_start,
  counted.executions,
  counted.blocked_count,
  counted.overridden_count,
  counted.baseline_count,
  round(100.0 * counted.blocked_count / nullif(counted.executions, 0), 6) as block_rate,
  round(100.0 * counted.overridden_count / nullif(counted.executions, 0), 6) as override_rate,
  round(100.0 * counted.baseline_count / nullif(counted.executions, 0), 6) as baseline_rate,
  counted.org_id
from counted
left join ops.policies as policy
  on policy.org_id = counted.org_id
  and policy.version = counted.policy_version
order by counted.org_id, counted.policy_version desc nulls last;
comment on view public.v_ops_hook_policies is
  'One row an org and version of its hook policy: what the hooks did under it, newest version first, events behind the cursor included.';
comment on column public.v_ops_hook_policies.policy_version is 'The version that the events name; 0: the default; null: they name none.';
comment on column public.v_ops_hook_policies.set_at is 'When that version was set; null for the default and for events that name none.';
comment on column public.v_ops_hook_policies.first_day_start is 'First instant of the first day with events under it.';
comment on column public.v_ops_hook_policies.last_day_start is 'First instant of the newest day with events under it.';
comment on column public.v_ops_hook_policies.executions is 'Hook executions (count).';
comment on column public.v_ops_hook_policies.blocked_count is 'Executions that blocked (count).';
comment on column public.v_ops_hook_policies.overridden_count is 'Executions that were overridden (count).';
comment on column public.v_ops_hook_policies.baseline_count is 'Findings accepted into the baseline (count).';
comment on column public.v_ops_hook_policies.block_rate is 'Executions that blocked, of all (percent).';
comment on column public.v_ops_hook_policies.override_rate is 'Executions that were overridden, of all (percent).';
comment on column public.v_ops_hook_policies.baseline_rate is 'Findings accepted into the baseline per 100 executions.';
comment on column public.v_ops_hook_policies.org_id is 'The tenant.';


do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function ops.add_patterns(ops.pattern_delta[]) from anon, authenticated, service_role;
  revoke all on ops.blocked_pattern_parts, public.v_ops_hook_policies from anon, authenticated, service_role;
  grant select on ops.blocked_pattern_parts, public.v_ops_hook_policies to authenticated, service_role;
end;
$$;

insert into ops.settings (name, value, description)
values ('requests_per_minute', '100', 'Calls of ingest_events that one agent may make in a minute through an API (count).')
on conflict on constraint settings_pkey do nothing;

-- A fourth label, so that what hooks do can be told apart by the policy they followed.
update ops.event_types
set label_keys = label_keys || '{policy_version}',
    fields = '{"policy_version": {"type": "number"}}' || fields
where event_type in ('hook_execution', 'hook_baseline', 'hook_override')
  and cardinality(label_keys) < 4
  and not 'policy_version' = any (label_keys);

-- What was counted without teams is counted again where there are teams; no event has been removed yet.
do $$
begin
  if exists (select from ops.agents where agents.team is not null) then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
    delete from ops.blocked_patterns where true;
    perform ops.add_patterns(array(
      select delta from ops.count_patterns(0, ops.cursor_id(), '-infinity', 'infinity') as delta
    ));
  end if;
end;
$$;
