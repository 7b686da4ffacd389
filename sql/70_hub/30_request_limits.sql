-- Request limits per minute: of each agent, and of each key, whatever agents it names.

create table ops.request_counts (
  org_id uuid not null,
  agent_id uuid not null,
  requested_at timestamptz[] not null,
  constraint request_counts_pkey primary key (org_id, agent_id)
)
with (fillfactor = 50);
comment on table ops.request_counts is 'One row an agent that sent events through an API: when, in the minute up to its last request.';
comment on column ops.request_counts.org_id is 'The tenant.';
comment on column ops.request_counts.agent_id is 'The agent; for events that name none, the token, as ops.token_id says.';
comment on column ops.request_counts.requested_at is 'The instants of its requests, in order.';
alter table ops.request_counts enable row level security;
-- ops is no exposed schema: only count_request, as part of a caller's ingest_events, comes here.
create policy request_counts_select_own_org on ops.request_counts for select to authenticated
  using (org_id = (select ops.org_for('{ingest}')));
create policy request_counts_insert_own_org on ops.request_counts for insert to authenticated
  with check (org_id = (select ops.org_for('{ingest}')));
create policy request_counts_update_own_org on ops.request_counts for update to authenticated
  using (org_id = (select ops.org_for('{ingest}')))
  with check (org_id = (select ops.org_for('{ingest}')));

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
-- ops is no exposed schema: only count_key_request, as part of a caller's ingest_events, comes here.
create policy key_requests_select_own_org on ops.key_requests for select to authenticated
  using (org_id = (select ops.org_for('{ingest}')));
create policy key_requests_insert_own_org on ops.key_requests for insert to authenticated
  with check (org_id = (select ops.org_for('{ingest}')));

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

create function ops.senders(events json)
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
    perform ops.refuse_request(per_minute, 'agent', seconds_to_wait);
  end if;
end;
$$;
comment on function ops.count_request(uuid, uuid[], timestamptz) is
  'Counts a request against its agents; over the limit of any minute it raises PGRST with status 429 and Retry-After, and, with the transaction, counts nothing.';

create function ops.count_key_request(org_id uuid, as_of timestamptz default clock_timestamp(), weight integer default 1)
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
  -- As many requests ago as are allowed in a minute beside this one.
  earlier_at constant timestamptz := (
    select counted.requested_at
    from ops.key_requests as counted
    where counted.org_id = count_key_request.org_id
      and counted.token_id = own_id
      and counted.requested_at > as_of - interval '1 minute'
      and counted.requested_at <= as_of
    order by counted.requested_at desc
    offset greatest(per_minute - weight, 0)
    limit 1
  );
begin
  if earlier_at is not null then
    perform ops.refuse_request(per_minute, 'key', ceil(extract(epoch from earlier_at + interval '1 minute' - as_of))::integer);
  end if;
  insert into ops.key_requests (org_id, token_id, requested_at)
  select count_key_request.org_id, own_id, as_of
  from generate_series(1, weight);
end;
$$;
comment on function ops.count_key_request(uuid, timestamptz, integer) is
  'Counts a request against the key or token of the caller, whatever agents its events name, as often as its weight says; over the limit of the last minute it raises PGRST with status 429 and Retry-After. Requests that are under way at the same moment do not see each other, so a few more may pass.';

create function ops.forget_requests(as_of timestamptz)
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
