-- One tenant, one key and one stranger can hurt nobody: bound logins, scopes on tables, anonymous sign-ins, a limit per key.

-- The settings are a handful of rows.
alter table ops.settings
  -- squawk-ignore ban-drop-constraint
  drop constraint settings_requests_per_minute_is_a_number,
  -- squawk-ignore constraint-missing-not-valid
  add constraint settings_requests_per_minute_is_a_number check (
    name not in ('requests_per_minute', 'requests_per_minute_per_key') or (value ~ '^[1-9][0-9]{0,5}$')
  ),
  -- squawk-ignore constraint-missing-not-valid
  add constraint settings_anonymous_sign_ins_is_known check (name <> 'anonymous_sign_ins' or value in ('refuse', 'allow'));

create or replace function ops.setting(name text)
returns text
-- plpgsql here and below, since it keeps the plan: a quarter of the time that SQL takes, and these are called everywhere.
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select settings.value from ops.settings where settings.name = setting.name);
end;
$$;

create or replace function ops.time_zone()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select settings.value from ops.settings where settings.name = 'time_zone'), 'UTC');
end;
$$;

create or replace function ops.refresh_interval()
returns interval
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select settings.value::interval from ops.settings where settings.name = 'refresh_interval'), interval '5 minutes');
end;
$$;

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

create or replace function ops.current_org_id()
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

create or replace function ops.caller_has_scope(scope text)
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

create or replace function ops.admit_batch(events json, anonymises boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  caller record;
begin
  if events is null or json_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "payload": {…}}, …].';
  end if;
  if current_setting('transaction_isolation') <> 'read committed'
    and exists (select from ops.retention_rules as rule where rule.kept = 'events' and rule.age is not null) then
    raise exception 'ingest_events needs read committed where events have an age, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'An older snapshot does not know which events are gone, and would count a repeated one again.';
  end if;
  select * into strict caller from ops.ingesting_caller();
  if not caller.is_bound then
    return '{}'::jsonb;
  end if;
  -- Whoever comes through an API is counted before anything is done for the call, and cannot ask for too much at once.
  if json_array_length(events) > 5000 then
    raise exception 'a batch of % events is too large', json_array_length(events)
      using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
  end if;
  if not ops.caller_has_scope('ingest') then
    raise exception 'storing events needs the scope ingest'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
  end if;
  if caller.org_id is null then
    return '{}'::jsonb;
  end if;
  perform ops.count_key_request(caller.org_id);
  perform ops.count_request(
    caller.org_id,
    case when anonymises then ops.anonymous_senders(caller.org_id, ops.senders(events)) else ops.senders(events) end
  );
  return jsonb_build_object('policy_version', ops.policy_version(caller.org_id));
end;
$$;

create or replace function ops.store_valid_events(document jsonb, unreadable jsonb, anonymises boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  unreadable_places bigint[] := array(select (fault.value -> 'index')::bigint from jsonb_array_elements(unreadable) as fault);
  answer jsonb;
begin
  with checked as materialized (
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_events(document) as event
    where not anonymises
    union all
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_anonymised(document) as event
    where anonymises
  ),
  stored as (
    insert into public.telemetry_events (
      event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id
    )
    select
      checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id, checked.agent_id
    from checked
    where checked.refusal is null
    on conflict do nothing
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
  return answer;
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
  skips_known boolean;
  anonymises boolean := exists (select from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled);
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  announced jsonb;
begin
  announced := ops.admit_batch(events, anonymises);
  begin
    document := events::jsonb;
  exception
    when data_exception or program_limit_exceeded then
      select readable.document, readable.reasons into document, unreadable from ops.readable_events(events) as readable;
  end;
  -- Nearly every batch is new and valid as a whole; looking for repeated events costs a tenth more, telling the refused ones apart as much again.
  foreach skips_known in array array[false, true] loop
    exit when unreadable <> '[]';
    begin
      if anonymises then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.cast_anonymised(document) as event
        on conflict do nothing;
      elsif skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          case when event.refusal is null then event.event_type else ops.leave_to_check() end,
          event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.check_events(document, may_raise => true) as event
        on conflict do nothing;
      else
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          case when event.refusal is null then event.event_type else ops.leave_to_check() end,
          event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.check_events(document, may_raise => true) as event;
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
  return ops.store_valid_events(document, unreadable, anonymises) || announced;
end;
$$;

create or replace function ops.cursor_id()
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select cursors.last_id from ops.cursors where cursors.name = 'telemetry_events'), 0);
end;
$$;
comment on column ops.request_counts.agent_id is 'The agent; for events that name none, the token, as ops.token_id says.';

create table ops.key_requests (
  org_id uuid not null,
  token_id uuid not null,
  requested_at timestamptz not null,
  request_id bigint generated always as identity,
  constraint key_requests_pkey primary key (org_id, token_id, requested_at, request_id)
);
comment on table ops.key_requests is
  'One row a request of the last minutes, by key. Rows of their own, since those of one key come from many machines and must not wait for each other.';
comment on column ops.key_requests.org_id is 'The tenant.';
comment on column ops.key_requests.token_id is 'The key or user, as ops.token_id says.';
comment on column ops.key_requests.requested_at is 'When it came.';
comment on column ops.key_requests.request_id is 'Tells requests of one instant apart.';
alter table ops.key_requests enable row level security;

create function ops.token_id()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
begin
  return encode(
    substr(
      sha256(convert_to(
        case
          -- Whoever may sign in without a name may do so again for each request.
          when coalesce(claims ->> 'is_anonymous', 'false') <> 'false' then 'anonymous sign-ins'
          else coalesce(claims ->> 'sub', '')
        end,
        'UTF8'
      )),
      1, 16
    ),
    'hex'
  )::uuid;
end;
$$;
comment on function ops.token_id() is
  'A UUID made of the subject of the token: the API key (the hub names it there) or the user, whatever session; all anonymous sign-ins are one.';

create function ops.refuse_request(per_minute integer, sender text, seconds_to_wait integer)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  raise sqlstate 'PGRST' using
    message = jsonb_build_object(
      'code', 'OP429',
      'message', format('more than %s requests a minute from one %s', per_minute, sender),
      'details', format('retry after %s seconds', seconds_to_wait),
      'hint', 'Send events in batches of up to 50, and wait as Retry-After says.'
    )::text,
    detail = jsonb_build_object('status', 429, 'headers', jsonb_build_object('Retry-After', seconds_to_wait::text))::text;
end;
$$;
comment on function ops.refuse_request(integer, text, integer) is
  'Raises PGRST, which PostgREST and the hub answer with status 429 and Retry-After; sender is agent or key.';

create or replace function ops.senders(events json)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  token_id constant uuid := ops.token_id();
begin
  return (
    with named as materialized (
      -- A batch names few agents, so whether that is a UUID is asked of few.
      select distinct coalesce(
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

create or replace function ops.count_request(org_id uuid, agent_ids uuid[], as_of timestamptz default clock_timestamp())
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
    perform ops.refuse_request(per_minute, 'agent', seconds_to_wait);
  end if;
end;
$$;

create function ops.count_key_request(org_id uuid, as_of timestamptz default clock_timestamp())
returns void
language plpgsql
volatile
set search_path = ''
-- Planning takes longer than the look into the index.
set plan_cache_mode = force_generic_plan
as $$
declare
  per_minute constant integer := coalesce(ops.setting('requests_per_minute_per_key')::integer, 300);
  own_id constant uuid := ops.token_id();
  -- As many requests ago as are allowed in a minute.
  earlier_at constant timestamptz := (
    select counted.requested_at
    from ops.key_requests as counted
    where counted.org_id = count_key_request.org_id
      and counted.token_id = own_id
      and counted.requested_at > as_of - interval '1 minute'
      and counted.requested_at <= as_of
    order by counted.requested_at desc
    offset per_minute - 1
    limit 1
  );
begin
  if earlier_at is not null then
    perform ops.refuse_request(per_minute, 'key', ceil(extract(epoch from earlier_at + interval '1 minute' - as_of))::integer);
  end if;
  insert into ops.key_requests (org_id, token_id, requested_at)
  values (count_key_request.org_id, own_id, as_of);
end;
$$;
comment on function ops.count_key_request(uuid, timestamptz) is
  'Counts a request against the key or token of the caller, whatever agents its events name; over the limit of the last minute it raises PGRST with status 429 and Retry-After. Requests that are under way at the same moment do not see each other, so a few more may pass.';

create or replace function ops.forget_requests(as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.request_counts as stored
  where stored.requested_at[cardinality(stored.requested_at)] < forget_requests.as_of - interval '1 hour';
  delete from ops.key_requests as stored
  where stored.requested_at < forget_requests.as_of - interval '2 minutes';
end;
comment on function ops.forget_requests(timestamptz) is
  'Removes the request counts of agents that have been quiet for an hour, and of keys what is older than any minute that counts; only maintain calls it.';

create function ops.tenant_columns()
returns table (relation regclass, column_name text)
language sql
stable
set search_path = ''
begin atomic
  select class.oid::regclass, attribute.attname::text
  from pg_catalog.pg_class as class
  join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = class.oid
  where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
    and class.relkind in ('r', 'p')
    -- Partitions are read through their parent, whose policies hold.
    and not class.relispartition
    -- Who is bound to which org is looked up by the policies themselves.
    and class.oid <> 'ops.bound_logins'::regclass
    and attribute.attnum > 0
    and not attribute.attisdropped
    and attribute.atttypid = 'uuid'::regtype
    and attribute.attname ~ '(^|_)(org|organisation|organization|tenant)(_id)?$'
  order by 1, 2;
end;
comment on function ops.tenant_columns() is
  'The columns of tables in public and ops whose value is a tenant: UUIDs named org_id, only_org_id, tenant and the like.';

create function ops.unguarded_columns()
returns table (relation regclass, column_name text, policy_name name)
language sql
stable
set search_path = ''
begin atomic
  select tenant.relation, tenant.column_name, guard.policy_name
  from ops.tenant_columns() as tenant
  join pg_catalog.pg_class as class
    on class.oid = tenant.relation
  cross join lateral (
    -- A name is cut to its length, as create policy does.
    select (class.relname || '_' || tenant.column_name || '_bound')::name as policy_name
  ) as guard
  where not exists (
    select
    from pg_catalog.pg_policy as policy
    where policy.polrelid = tenant.relation
      and policy.polname = guard.policy_name
  )
  -- A policy more costs each statement on the table a few per cent, so where all of them ask org_for there is none.
  and exists (
    select
    from pg_catalog.pg_policy as policy
    where policy.polrelid = tenant.relation
      and policy.polpermissive
      and not exists (
        select
        from pg_catalog.pg_depend as asked
        where asked.classid = 'pg_catalog.pg_policy'::regclass
          and asked.objid = policy.oid
          and asked.refclassid = 'pg_catalog.pg_proc'::regclass
          and asked.refobjid = 'ops.org_for(text[])'::regprocedure
      )
  );
end;
comment on function ops.unguarded_columns() is
  'The columns that name a tenant of tables with a policy that does not ask ops.org_for, and without the one that holds bound logins back; and what that is to be called.';

create function ops.guard_tenants()
returns integer
language plpgsql
volatile
set search_path = ''
-- A policy waits for the readers of its table; others must not queue behind that for long.
set lock_timeout = '3s'
as $$
declare
  found record;
  changed integer := 0;
begin
  if not exists (select from ops.bound_logins) then
    for found in
      select policy.polrelid::regclass as relation, policy.polname
      from pg_catalog.pg_policy as policy
      join ops.tenant_columns() as tenant
        on tenant.relation = policy.polrelid
      join pg_catalog.pg_class as class
        on class.oid = policy.polrelid
      where policy.polname = (class.relname || '_' || tenant.column_name || '_bound')::name
    loop
      execute format('drop policy %I on %s', found.polname, found.relation);
      changed := changed + 1;
    end loop;
    return changed;
  end if;
  for found in
    select unguarded.relation, unguarded.column_name, unguarded.policy_name
    from ops.unguarded_columns() as unguarded
    join pg_catalog.pg_class as class
      on class.oid = unguarded.relation
    where pg_has_role(class.relowner, 'usage')
  loop
    execute format(
      'create policy %I on %s as restrictive to authenticated'
      ' using ((select ops.bound_org_id()) is null or %I = (select ops.bound_org_id())) with check ((select ops.bound_org_id()) is null)',
      found.policy_name, found.relation, found.column_name
    );
    changed := changed + 1;
  end loop;
  return changed;
end;
$$;
comment on function ops.guard_tenants() is
  'Gives each table that names a tenant, and whose own policies do not ask ops.org_for, the policy that holds bound logins back, or takes it away where no login is bound; opskpi migrate calls it, so new tables have theirs. Returns how many policies it made or dropped; a second call does nothing.';

create function ops.login_fault(login text)
returns text
language sql
stable
set search_path = ''
return (
  select case
    when role.oid is null then 'there is no such role'
    when not role.rolcanlogin then 'it is a role that cannot log in'
    when stronger.rolname is not null then 'it is or can become ' || stronger.rolname || ', which row level security does not bind'
  end
  from (values (login_fault.login)) as wanted (login)
  left join pg_catalog.pg_roles as role
    on role.rolname = wanted.login
  left join lateral (
    select held.rolname
    from pg_catalog.pg_roles as held
    where pg_has_role(role.oid, held.oid, 'member')
      and (
        held.rolsuper
        or held.rolbypassrls
        -- Such a role may make itself a member of others.
        or held.rolcreaterole
        or held.oid in (
          select class.relowner from pg_catalog.pg_class as class where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
        )
      )
    order by held.rolname <> wanted.login, held.rolname
    limit 1
  ) as stronger on true
);
comment on function ops.login_fault(text) is 'Why a login cannot be bound to an org; null when it can.';

create function ops.bind_login(login text, org_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  fault constant text := ops.login_fault(login);
  earlier record;
begin
  if bind_login.org_id is null or fault is not null then
    raise exception 'the login % cannot be bound: %', coalesce(bind_login.login, 'null'), coalesce(fault, 'no org is named')
      using errcode = 'OP001',
        hint = 'Make a role of its own: create role grafana_reader login password ''…''; then bind that to the UUID of an org (the nil UUID is for single-tenant use).';
  end if;
  insert into ops.bound_logins as bound (login, only_org_id)
  values (bind_login.login, bind_login.org_id)
  on conflict on constraint bound_logins_pkey do update set
    only_org_id = excluded.only_org_id,
    bound_at = now()
  where bound.only_org_id <> excluded.only_org_id;
  perform ops.guard_tenants();
  -- The policies that an earlier README made for one login and one org.
  for earlier in
    select policy.polname, policy.polrelid::regclass as relation
    from pg_catalog.pg_policy as policy
    where policy.polname in (bind_login.login || '_sees', bind_login.login || '_only')
  loop
    execute format('drop policy %I on %s', earlier.polname, earlier.relation);
  end loop;
  if not pg_has_role(bind_login.login, 'authenticated', 'member') then
    execute format('grant authenticated to %I', bind_login.login);
  end if;
end;
$$;
comment on function ops.bind_login(text, uuid) is
  'Lets a login read one org, and nothing else, whatever role it takes and whatever claims it sets; it writes nothing. Again with another org: the login reads that.';

create function ops.unbind_login(login text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Unbound, a member of authenticated would read whatever org it claims.
  if to_regrole(quote_ident(unbind_login.login)) is not null and pg_has_role(unbind_login.login, 'authenticated', 'member') then
    execute format('revoke authenticated from %I', unbind_login.login);
    if pg_has_role(unbind_login.login, 'authenticated', 'member') then
      raise exception 'the login % is still a member of authenticated, and would read any org', unbind_login.login
        using errcode = 'OP003', hint = 'Revoke authenticated from it as the role that granted it, or drop the role; then call this again.';
    end if;
  end if;
  delete from ops.bound_logins as bound where bound.login = unbind_login.login;
  if not found then
    return false;
  end if;
  perform ops.guard_tenants();
  return true;
end;
$$;
comment on function ops.unbind_login(text) is 'Takes a login its org, and with it all that it could read; false when it was bound to none.';

create or replace function ops.change_marker(org_id uuid default null)
returns text
language sql
stable
set search_path = ''
return (
  -- A digest, and of instants instead of ids: how many events there are of all tenants can be told from neither.
  select encode(sha256(convert_to(concat_ws(
    ' ',
    (select cursors.moved_at from ops.cursors where cursors.name = 'telemetry_events'),
    (
      -- Their number, too: one that commits late may have begun earlier.
      select max(event.created_at) || '/' || count(*)
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
    ),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (
      select max(audit.updated_at) || '/' || count(*)
      from public.slsa_audit_metrics as audit
      where audit.org_id = caller.org_id
    )
  ), 'UTF8')), 'hex')
  from (select ops.caller_org(change_marker.org_id) as org_id offset 0) as caller
);

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', exists (select from public.slsa_audit_metrics),
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: no audit has been recorded yet' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false),
    coalesce('last refresh ' || to_char(max(run.finished_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false) then ''
        else '; run opskpi run from cron every ' || ops.refresh_interval() end
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome <> 'failure'
  union all
  select 'alerts', not watched.has_channel or coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), false),
    case when not watched.has_channel then 'no channel: nobody is told'
      else coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated; run opskpi run')
    end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select 'messages', count(*) = 0,
    case when count(*) = 0 then 'none is dead'
      else format('%s dead for %s: %s; mend it and run opskpi alert retry', count(*), min(delivery.channel_name), max(delivery.last_error)) end
  from ops.alert_deliveries as delivery
  where delivery.state = 'dead'
  union all
  select 'partitions', next_month.partition is not null,
    case when next_month.partition is not null then next_month.name || ' is there' else 'ops.' || next_month.name || ' is missing; run opskpi run' end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; run opskpi retention run', string_agg(overdue.name, ', ' order by overdue.month_start)
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from ops.expired_months(doctor.as_of - interval '2 days') as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; run opskpi run' end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference;
end;

revoke execute on function
  ops.bind_login,
  ops.bound_org_id,
  ops.caller_may,
  ops.count_key_request,
  ops.login_fault,
  ops.org_for,
  ops.tenant_columns,
  ops.unguarded_columns,
  ops.guard_tenants,
  ops.refuse_request,
  ops.token_id,
  ops.unbind_login
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  create policy bound_logins_select_own on ops.bound_logins for select to authenticated using (login = session_user);
  drop policy job_runs_select_authenticated on ops.job_runs;
  create policy job_runs_select_authenticated on ops.job_runs for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy agents_select_own_org on ops.agents;
  create policy agents_select_own_org on ops.agents for select to authenticated
    using (org_id = (select ops.org_for('{ingest,read}')));
  drop policy agents_insert_own_org_pseudonyms on ops.agents;
  create policy agents_insert_own_org_pseudonyms on ops.agents for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')) and is_pseudonym);
  drop policy telemetry_events_select_own_org on public.telemetry_events;
  create policy telemetry_events_select_own_org on public.telemetry_events for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy telemetry_events_insert_own_org on public.telemetry_events;
  create policy telemetry_events_insert_own_org on public.telemetry_events for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')));
  drop policy collected_events_select_own_org on ops.collected_events;
  create policy collected_events_select_own_org on ops.collected_events for select to authenticated
    using (org_id = (select ops.org_for('{ingest,read}')));
  drop policy collected_events_insert_own_org on ops.collected_events;
  create policy collected_events_insert_own_org on ops.collected_events for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')));
  drop policy collections_select_own_org on ops.collections;
  create policy collections_select_own_org on ops.collections for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy kpi_definitions_select_authenticated on ops.kpi_definitions;
  create policy kpi_definitions_select_authenticated on ops.kpi_definitions for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy series_select_own_org on ops.series;
  create policy series_select_own_org on ops.series for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy rollups_select_own_org on ops.rollups;
  create policy rollups_select_own_org on ops.rollups for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy removed_periods_select_authenticated on ops.removed_periods;
  create policy removed_periods_select_authenticated on ops.removed_periods for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy cursors_select_authenticated on ops.cursors;
  create policy cursors_select_authenticated on ops.cursors for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy histograms_select_own_org on ops.histograms;
  create policy histograms_select_own_org on ops.histograms for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy blocked_patterns_select_own_org on ops.blocked_patterns;
  create policy blocked_patterns_select_own_org on ops.blocked_patterns for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy kpi_aggregations_select_own_org on public.kpi_aggregations;
  create policy kpi_aggregations_select_own_org on public.kpi_aggregations for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy slsa_audit_metrics_select_own_org on public.slsa_audit_metrics;
  create policy slsa_audit_metrics_select_own_org on public.slsa_audit_metrics for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy audit_changes_select_own_org on ops.audit_changes;
  create policy audit_changes_select_own_org on ops.audit_changes for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy slis_select_authenticated on ops.slis;
  create policy slis_select_authenticated on ops.slis for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy services_select_authenticated on ops.services;
  create policy services_select_authenticated on ops.services for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy slos_select_authenticated on ops.slos;
  create policy slos_select_authenticated on ops.slos for select to authenticated using ((select ops.caller_may('{read,admin}')) is not null);
  drop policy slo_versions_select_authenticated on ops.slo_versions;
  create policy slo_versions_select_authenticated on ops.slo_versions for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy slo_exclusions_select_own_org on ops.slo_exclusions;
  create policy slo_exclusions_select_own_org on ops.slo_exclusions for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy sli_counts_select_own_org on ops.sli_counts;
  create policy sli_counts_select_own_org on ops.sli_counts for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy sli_days_select_own_org on ops.sli_days;
  create policy sli_days_select_own_org on ops.sli_days for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy work_units_select_own_org on ops.work_units;
  create policy work_units_select_own_org on ops.work_units for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy alert_rules_select_authenticated on ops.alert_rules;
  create policy alert_rules_select_authenticated on ops.alert_rules for select to authenticated using ((select ops.caller_may('{read,admin}')) is not null);
  drop policy alert_evaluations_select_authenticated on ops.alert_evaluations;
  create policy alert_evaluations_select_authenticated on ops.alert_evaluations for select to authenticated using ((select ops.caller_may('{read}')) is not null);
  drop policy alerts_select_own_org on ops.alerts;
  create policy alerts_select_own_org on ops.alerts for select to authenticated
    using (org_id = (select ops.org_for('{read,admin}')));
  drop policy alert_silences_select_own_org on ops.alert_silences;
  create policy alert_silences_select_own_org on ops.alert_silences for select to authenticated
    using (only_org_id = (select ops.org_for('{read,admin}')));
  drop policy alert_silences_insert_own_org_as_admin on ops.alert_silences;
  create policy alert_silences_insert_own_org_as_admin on ops.alert_silences for insert to authenticated
    with check (only_org_id = (select ops.org_for('{admin}')));
  drop policy alert_deliveries_select_own_org on ops.alert_deliveries;
  create policy alert_deliveries_select_own_org on ops.alert_deliveries for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  drop policy policies_select_own_org on ops.policies;
  create policy policies_select_own_org on ops.policies for select to authenticated
    using (org_id = (select ops.org_for('{ingest,read,admin}')));
  drop policy policies_insert_own_org_as_admin on ops.policies;
  create policy policies_insert_own_org_as_admin on ops.policies for insert to authenticated
    with check (org_id = (select ops.org_for('{admin}')));
  drop policy request_counts_select_own_org on ops.request_counts;
  -- ops is no exposed schema: only count_request, as part of a caller's ingest_events, comes here.
  create policy request_counts_select_own_org on ops.request_counts for select to authenticated
    using (org_id = (select ops.org_for('{ingest}')));
  drop policy request_counts_insert_own_org on ops.request_counts;
  create policy request_counts_insert_own_org on ops.request_counts for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')));
  drop policy request_counts_update_own_org on ops.request_counts;
  create policy request_counts_update_own_org on ops.request_counts for update to authenticated
    using (org_id = (select ops.org_for('{ingest}')))
    with check (org_id = (select ops.org_for('{ingest}')));
  -- ops is no exposed schema: only count_key_request, as part of a caller's ingest_events, comes here.
  create policy key_requests_select_own_org on ops.key_requests for select to authenticated
    using (org_id = (select ops.org_for('{ingest}')));
  create policy key_requests_insert_own_org on ops.key_requests for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')));
  -- How many events there were is told to nobody but the owner: they are those of all tenants.
  -- The name of a kind that nobody described may be a tenant's own.
  create policy retention_rules_select_described on ops.retention_rules for select to authenticated
    using (event_type = '' or event_type in (select kind.event_type from ops.event_types as kind));
  drop policy retention_rules_select_authenticated on ops.retention_rules;
  revoke execute on function
    ops.bind_login,
    ops.bound_org_id,
    ops.caller_may,
    ops.count_key_request,
    ops.login_fault,
    ops.org_for,
    ops.tenant_columns,
    ops.unguarded_columns,
    ops.guard_tenants,
    ops.refuse_request,
    ops.token_id,
    ops.unbind_login
  from anon, authenticated, service_role;
  revoke all on
    ops.bound_logins,
    ops.key_requests
  from anon, authenticated, service_role;
  revoke all on sequence ops.key_requests_request_id_seq from anon, authenticated, service_role;
  grant execute on function
    ops.bound_org_id,
    ops.caller_may,
    ops.org_for,
    ops.token_id
  to authenticated, service_role;
  revoke select on ops.cursors from authenticated;
  grant select (name) on ops.cursors to authenticated;
  grant select (last_id) on ops.cursors to authenticated;
  grant select (moved_at) on ops.cursors to authenticated;
  grant execute on function
    ops.count_key_request,
    ops.refuse_request
  to authenticated;
  grant select on
    ops.bound_logins,
    ops.key_requests
  to authenticated, service_role;
  grant insert (org_id) on ops.key_requests to authenticated;
  grant insert (token_id) on ops.key_requests to authenticated;
  grant insert (requested_at) on ops.key_requests to authenticated;
end;
$$;

insert into ops.settings (name, value, description)
values
  ('anonymous_sign_ins', 'refuse', 'Whether callers whose claims say is_anonymous are signed-in people like others (allow) or have neither rows nor writes (refuse).'),
  ('requests_per_minute_per_key', '300', 'Calls of ingest_events that one API key or user may make in a minute through an API, whatever agents the events name (count).')
on conflict do nothing;
