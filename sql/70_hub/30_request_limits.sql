-- Request limits per agent and minute.

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
-- ops is no exposed schema: only count_request, as part of a caller's ingest_events, comes here.
create policy request_counts_select_own_org on ops.request_counts for select to authenticated
  using (org_id = (select ops.current_org_id()));
create policy request_counts_insert_own_org on ops.request_counts for insert to authenticated
  with check (org_id = (select ops.current_org_id()));
create policy request_counts_update_own_org on ops.request_counts for update to authenticated
  using (org_id = (select ops.current_org_id()))
  with check (org_id = (select ops.current_org_id()));

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
