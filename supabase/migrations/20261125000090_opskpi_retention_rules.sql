-- Retention: how old each kind of data and of event may get, removing it step by step, and what follows from it everywhere else:
-- no removed event is counted again, no removed period comes back half, and no recount misses what is gone.

create table ops.removed_events (
  event_type text not null,
  removed_until timestamptz not null,
  constraint removed_events_pkey primary key (event_type)
);
comment on table ops.removed_events is
  'One row a kind of event of which retention has removed some. Of those from before removed_until not all are there, so a repeated one would not be recognised and a recount would miss some.';
comment on column ops.removed_events.event_type is 'The kind.';
comment on column ops.removed_events.removed_until is 'First instant from which on all its events are kept.';
alter table ops.removed_events enable row level security;

create table ops.removed_periods (
  period text not null,
  removed_until timestamptz not null,
  constraint removed_periods_pkey primary key (period),
  constraint removed_periods_period_check check (period in ('hour', 'day', 'week', 'month'))
);
comment on table ops.removed_periods is
  'One row a length of period of which retention has removed some. A late event of a removed one is left out of it, since it would stand there for all; the hours of audits alone are never removed.';
comment on column ops.removed_periods.period is 'hour, day, week or month.';
comment on column ops.removed_periods.removed_until is 'Periods that began before it are removed and are not made again.';
alter table ops.removed_periods enable row level security;

create or replace function ops.cast_events(documents jsonb)
returns table (
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid
)
language sql
stable
set search_path = ''
begin atomic
  select
    case
      when kind.shape is not null
        and jsonb_path_match(event.body, kind.shape, '{}', true)
        and coalesce(jsonb_typeof(event.payload) = 'object', true)
        and pg_column_size(event.element) <= 65536
        and not jsonb_path_exists(event.element, 'strict $.**{33}')
        and event.envelope - array[
          'event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'org_id', 'agent_id', 'run_id', 'tag'
        ] = '{}'
        and (event.event_id is null or (event.event_id like '________-____-____-____-____________' and event.instant is not null))
        and (event.org_id is null or event.org_id like '________-____-____-____-____________')
        and (event.agent_id is null or event.agent_id like '________-____-____-____-____________')
        and (
          event.instant is null
          or (
            event.instant like '____-__-__T__:__%'
            and (event.instant like '%Z' or event.instant like '%+__:__' or event.instant like '%:__-__:__')
            and casted.event_timestamp between timestamptz '2000-01-01 00:00+00' and now() + interval '1 day'
            -- Nearly every event is newer than all that was ever removed; the others are looked up one by one.
            and (
              coalesce(casted.event_timestamp >= (select max(removed.removed_until) from ops.removed_events as removed), true)
              or not exists (
                select
                from ops.removed_events as removed
                where removed.event_type = event.event_type
                  and removed.removed_until > casted.event_timestamp
              )
            )
          )
        )
        and (caller.is_bound is false or coalesce(casted.org_id, caller.org_id) = caller.org_id)
        and coalesce(casted.run_id between 0 and 999999999999999999, true)
        and coalesce(char_length(event.tag) <= 1000, true)
        then event.event_type
      else ops.leave_to_check()
    end,
    coalesce(casted.event_timestamp, now()),
    casted.run_id,
    event.tag,
    event.body - array['timestamp', 'event_id', 'run_id', 'tag'],
    coalesce(event.event_id::uuid, gen_random_uuid()),
    coalesce(casted.org_id, caller.org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    event.agent_id::uuid
  from ops.read_events(cast_events.documents) as event
  cross join lateral (
    select event.instant::timestamptz as event_timestamp, event.org_id::uuid as org_id, event.run_id::bigint as run_id
    -- A barrier: a cast takes longer than the checks on its result.
    offset 0
  ) as casted
  cross join ops.ingesting_caller() as caller
  left join ops.event_types as kind
    on kind.event_type = event.event_type;
end;
comment on function ops.cast_events(jsonb) is
  'The elements as they would be stored if each is plainly valid; else, and for a malformed number, time or UUID, an error of class 22. Whatever it does not know is left to check_events, which knows all the forms and says what is wrong.';

create or replace function ops.check_events(documents jsonb)
returns table (
  place bigint,
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid,
  refusal text[]
)
language sql
stable
set search_path = ''
begin atomic
  with understood as (
    select
      merged.*,
      kind.event_type as known_type,
      kind.fields,
      removed.removed_until,
      case
        -- A cast that fails would take the whole batch along, so the 31st of April is found first.
        when merged.instant !~ '^(19|2[01])\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,12})?)?([Zz]|[+-](0\d|1[0-4])(:?[0-5]\d)?)$'
          then null
        when substr(merged.instant, 9, 2) > '28'
          and substr(merged.instant, 9, 2)
            > to_char(make_date(left(merged.instant, 4)::integer, substr(merged.instant, 6, 2)::integer, 1) + interval '1 month -1 day', 'DD')
          then null
        else merged.instant::timestamptz
      end as event_timestamp,
      case when merged.event_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.event_id::uuid end as event_uuid,
      case when merged.org_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.org_id::uuid end as org_uuid,
      case when merged.agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.agent_id::uuid end as agent_uuid,
      case when merged.run_id ~ '^\d{1,18}$' then merged.run_id::bigint end as run_number,
      -- A caller whom RLS binds to an org writes that org's events only.
      caller.org_id as caller_org_id,
      caller.is_bound
    from ops.read_events(check_events.documents) as merged
    cross join ops.ingesting_caller() as caller
    left join ops.event_types as kind
      on kind.event_type = merged.event_type
    left join ops.removed_events as removed
      on removed.event_type = merged.event_type
  ),
  judged as (
    select
      understood.*,
      case
        when jsonb_typeof(understood.element) <> 'object'
          then array['', 'an event is a JSON object, not ' || jsonb_typeof(understood.element)]
        when pg_column_size(understood.element) > 65536 then array['metadata', 'is larger than 64 KiB']
        when jsonb_path_exists(understood.element, 'strict $.**{33}') then array['metadata', 'is nested deeper than 32']
        when understood.event_type is null then array['event_type', 'is required']
        when understood.known_type is null
          then array['event_type', format('%s is no known event type; describe it in ops.event_types', left(to_jsonb(understood.event_type)::text, 100))]
        when understood.envelope - array[
          'event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'org_id', 'agent_id', 'run_id', 'tag'
        ] <> '{}'
          then array[
            '',
            'has a key that is none of event_type, payload, metadata, event_timestamp, event_id, org_id, agent_id, run_id, tag'
          ]
        when jsonb_typeof(understood.payload) <> 'object' then array['payload', 'must be an object, not ' || jsonb_typeof(understood.payload)]
        when understood.instant is null and understood.event_id is not null
          then array['timestamp', 'is required beside event_id: a repeated event is recognised by both']
        when understood.instant is not null and understood.event_timestamp is null
          then array['timestamp', 'must be an ISO 8601 time with a time zone, such as 2026-01-31T23:59:59Z']
        when understood.event_timestamp < timestamptz '2000-01-01 00:00+00' then array['timestamp', 'is before 2000']
        when understood.event_timestamp > now() + interval '1 day' then array['timestamp', 'is more than a day ahead']
        when understood.event_timestamp < understood.removed_until
          then array[
            'timestamp',
            format(
              'is before %s, and events of that time have been removed: a repeated one could not be recognised',
              to_char(understood.removed_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
            )
          ]
        when understood.event_id is not null and understood.event_uuid is null then array['event_id', 'must be a UUID']
        when understood.org_id is not null and understood.org_uuid is null then array['org_id', 'must be a UUID']
        when understood.is_bound and understood.caller_org_id is null then array['org_id', 'your token names no valid organisation']
        when understood.org_uuid <> understood.caller_org_id then array['org_id', 'is another organisation than your token''s']
        when understood.agent_id is not null and understood.agent_uuid is null then array['agent_id', 'must be a UUID']
        when understood.run_id is not null and understood.run_number is null then array['run_id', 'must be a whole number of at most 18 digits']
        when char_length(understood.tag) > 1000 then array['tag', 'is longer than 1,000 characters']
      end as refusal
    from understood
  )
  select
    judged.place,
    judged.event_type,
    coalesce(judged.event_timestamp, now()),
    judged.run_number,
    judged.tag,
    judged.body - array['timestamp', 'event_id', 'run_id', 'tag'],
    coalesce(judged.event_uuid, gen_random_uuid()),
    coalesce(judged.org_uuid, judged.caller_org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    judged.agent_uuid,
    coalesce(judged.refusal, refused_field.refusal)
  from judged
  left join lateral (
    select array[rule.key, verdict.reason] as refusal
    from jsonb_each(judged.fields) as rule
    cross join lateral (
      select
        judged.body -> rule.key as found,
        coalesce(jsonb_typeof(judged.body -> rule.key), 'null') as found_type,
        rule.value ->> 'type' as wanted_type
    ) as answer
    cross join lateral (
      select case
        when answer.found_type = 'null' then case when (rule.value -> 'required')::boolean then 'is required' end
        when answer.wanted_type = 'uuid' then
          case when answer.found #>> '{}' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then 'must be a UUID' end
        when answer.found_type <> case answer.wanted_type when 'text' then 'string' else answer.wanted_type end
          then format('must be of type %s, not %s', answer.wanted_type, answer.found_type)
        when answer.found_type = 'number' and answer.found < '0' then 'must be 0 or more'
        when answer.found_type = 'number' and answer.found > '1000000000000000' then 'must be at most 10^15'
        when rule.value ? 'one_of' and not rule.value -> 'one_of' @> answer.found
          then 'must be one of ' || (rule.value ->> 'one_of')
        when rule.value ? 'keys' and not answer.found ?& array(select jsonb_array_elements_text(rule.value -> 'keys'))
          then 'must have the keys ' || (rule.value ->> 'keys')
      end as reason
    ) as verdict
    where verdict.reason is not null
    limit 1
  ) as refused_field on judged.refusal is null;
end;
comment on function ops.check_events(jsonb) is
  'One row an element of the array, in order: the event as it would be stored, and refusal: null, or the field and the reason.';

create or replace function ops.collect_events(events jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled jsonb;
  places jsonb;
  removed_again bigint;
  answer jsonb;
begin
  if events is null or jsonb_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "event_id": …, "event_timestamp": …, "payload": {…}}, …].';
  end if;
  -- In one order, so that two collectors that read the same wait for each other instead of deadlocking.
  insert into ops.collected_events (org_id, event_id, event_timestamp)
  select checked.org_id, checked.event_id, min(checked.event_timestamp)
  from ops.check_events(events) as checked
  where checked.refusal is null
    and events -> checked.place::integer ->> 'event_id' is not null
  group by checked.org_id, checked.event_id
  order by checked.org_id, checked.event_id
  on conflict on constraint collected_events_pkey do nothing;
  -- A statement of its own: it sees what another collector committed while the one above waited.
  select
    jsonb_agg(
      case
        when known.event_id is null or checked.refusal is not null then element.value
        else element.value || jsonb_build_object('event_timestamp', known.event_timestamp)
      end
      order by element.ordinality
    ) filter (where removed.event_type is null),
    jsonb_agg(element.ordinality - 1 order by element.ordinality) filter (where removed.event_type is null),
    count(removed.event_type)
  into settled, places, removed_again
  from jsonb_array_elements(events) with ordinality as element
  left join ops.check_events(events) as checked
    on checked.place = element.ordinality - 1
    and element.value ->> 'event_id' is not null
  left join ops.collected_events as known
    on known.org_id = checked.org_id
    and known.event_id = checked.event_id
  -- Retention removed the event; that it was collected is still known.
  left join ops.removed_events as removed
    on removed.event_type = checked.event_type
    and removed.removed_until > known.event_timestamp;
  answer := public.ingest_events(coalesce(settled, '[]')::json);
  if removed_again = 0 then
    return answer;
  end if;
  return answer || jsonb_build_object(
    'duplicate', (answer -> 'duplicate')::bigint + removed_again,
    'refused', (
      select coalesce(jsonb_agg(fault.value || jsonb_build_object('index', places -> (fault.value -> 'index')::integer) order by fault.ordinality), '[]')
      from jsonb_array_elements(answer -> 'refused') with ordinality as fault
    )
  );
end;
$$;
comment on function ops.collect_events(jsonb) is
  'Stores events as ingest_events does and returns its answer, but recognises one that has an event_id by org and event_id alone: it keeps the time that it was first collected with.';

create or replace function ops.rollup_deltas(events ops.event_delta[])
returns setof ops.rollup_delta
language sql
stable
set search_path = ''
-- The planner takes the array for a few rows; Postgres 15 then loops over all pairs (133 s where hashing takes 1 s).
set enable_nestloop = off
begin atomic
  with hours as (
    select
      event.org_id,
      event.event_type,
      event.labels,
      event.hour_start,
      sum(event.event_count)::bigint as event_count,
      sum(event.value_count)::bigint as value_count,
      sum(event.value_sum) as value_sum,
      min(event.value_min) as value_min,
      max(event.value_max) as value_max
    from unnest(rollup_deltas.events) as event
    group by 1, 2, 3, 4
  ),
  -- Materialized, so that the calendar is asked once an hour and not once a row.
  spans as materialized (
    select span.hour_start, span.period, span.period_start
    from (
      select
        distinct_hour.hour_start,
        period.name as period,
        ops.period_start(period.name, distinct_hour.hour_start, ops.time_zone()) as period_start
      from (select distinct hours.hour_start from hours) as distinct_hour
      cross join unnest(array['day', 'week', 'month']) as period (name)
      offset 0
    ) as span
    left join ops.removed_periods as removed
      on removed.period = span.period
    where coalesce(span.period_start >= removed.removed_until, true)
  )
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    'hour',
    hours.hour_start,
    hours.event_count,
    hours.value_count,
    hours.value_sum,
    hours.value_min,
    hours.value_max
  from hours
  -- What a changed audit changes is found against its hour, so those stay.
  where hours.event_type = 'slsa_audit_metrics'
    or hours.hour_start >= coalesce(
      (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour'),
      '-infinity'
    )
  union all
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    spans.period,
    spans.period_start,
    sum(hours.event_count)::bigint,
    sum(hours.value_count)::bigint,
    sum(hours.value_sum),
    min(hours.value_min),
    max(hours.value_max)
  from hours
  join spans
    on spans.hour_start = hours.hour_start
  group by 1, 2, 3, 4, 5;
end;
comment on function ops.rollup_deltas(ops.event_delta[]) is 'What counted events add to the hours, days, weeks and months of their series, but for those that retention removed.';

create or replace function ops.histogram_deltas(events ops.event_delta[])
returns setof ops.histogram_delta
language sql
stable
set search_path = ''
-- The planner takes the array for a few rows; Postgres 15 then loops over all pairs (133 s where hashing takes 1 s).
set enable_nestloop = off
-- And sorts 50,000 rows by text and jsonb, which takes four times as long as hashing them.
set enable_sort = off
begin atomic
  with binned as (
    select event.org_id, event.event_type, event.labels, event.hour_start, event.bin, event.value_count
    from unnest(histogram_deltas.events) as event
    where event.bin is not null
  ),
  grouped as (
    -- Labels are folded into their groupings before the periods multiply the rows.
    select
      binned.org_id,
      binned.event_type,
      breakdown.name as breakdown,
      case when breakdown.name is null then '{}' else jsonb_build_object(breakdown.name, binned.labels -> breakdown.name) end as labels,
      binned.hour_start,
      binned.bin,
      sum(binned.value_count)::bigint as value_count
    from binned
    join (select distinct kept.event_type, kept.breakdown as name from ops.histogram_groups as kept) as breakdown
      on breakdown.event_type = binned.event_type
    where breakdown.name is null
      or binned.labels ? breakdown.name
    group by 1, 2, 3, 4, 5, 6
  ),
  -- Materialized, so that the calendar is asked once an hour and not once a row.
  spans as materialized (
    select span.hour_start, span.period, span.period_start
    from (
      select
        distinct_hour.hour_start,
        period.name as period,
        ops.period_start(period.name, distinct_hour.hour_start, ops.time_zone()) as period_start
      from (select distinct grouped.hour_start from grouped) as distinct_hour
      cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
      offset 0
    ) as span
    left join ops.removed_periods as removed
      on removed.period = span.period
    where coalesce(span.period_start >= removed.removed_until, true)
  ),
  spanned as (
    select
      grouped.org_id,
      grouped.event_type,
      grouped.labels,
      spans.period,
      spans.period_start,
      grouped.bin,
      sum(grouped.value_count)::bigint as value_count
    from grouped
    join spans
      on spans.hour_start = grouped.hour_start
    join ops.histogram_groups as kept
      on kept.event_type = grouped.event_type
      and kept.breakdown is not distinct from grouped.breakdown
      and kept.period = spans.period
    group by 1, 2, 3, 4, 5, 6
  )
  select
    spanned.org_id,
    spanned.event_type,
    spanned.labels,
    spanned.period,
    spanned.period_start,
    array_agg(spanned.bin),
    array_agg(spanned.value_count)
  from spanned
  group by 1, 2, 3, 4, 5;
end;
comment on function ops.histogram_deltas(ops.event_delta[]) is 'What counted events add to the histograms of the KPI groupings, but for periods that retention removed.';

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
  select span.org_id, span.hook_type, span.pattern, span.period, span.period_start, span.blocked_count, span.team
  from (
    select
      blocked.org_id,
      blocked.hook_type,
      blocked.pattern,
      period.name as period,
      ops.period_start(period.name, blocked.hour_start, ops.time_zone()) as period_start,
      sum(blocked.blocked_count)::bigint as blocked_count,
      blocked.team
    from blocked
    cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
    group by 1, 2, 3, 4, 5, 7
  ) as span
  left join ops.removed_periods as removed
    on removed.period = span.period
  where coalesce(span.period_start >= removed.removed_until, true);
end;
$$;
comment on function ops.count_patterns(bigint, bigint, timestamptz, timestamptz) is
  'How often each pattern blocked in the given events, per hour, day, week and month, but for those that retention removed. Patterns are findings_summary.pattern and .patterns.';

create or replace function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
-- Nothing tells the planner how many rows an array or a CTE has; taking them for one row, it loops over all pairs.
set enable_nestloop = off
-- And sorts 100,000 rows to group them.
set enable_sort = off
begin atomic
  -- Spans and groups go by number: hashing them as they are, text and jsonb, took most of the time.
  with span as materialized (
    select distinct_span.*, row_number() over () as span_id
    from (select distinct delta.org_id, delta.period, delta.period_start from unnest(changed_ratios.deltas) as delta) as distinct_span
    left join ops.removed_periods as removed
      on removed.period = distinct_span.period
    -- The hours of audits stay where the others are gone, and would stand for all.
    where coalesce(distinct_span.period_start >= removed.removed_until, true)
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(changed_ratios.deltas) as kpi_group
  ),
  added as materialized (
    select
      span.span_id,
      span.org_id,
      kpi_group.group_id,
      kpi_group.in_numerator,
      delta.event_count,
      delta.value_count,
      delta.value_sum
    from unnest(changed_ratios.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
  ),
  touched as materialized (
    select distinct added.span_id, added.org_id, added.group_id from added
  ),
  member as materialized (
    select series.org_id, series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join ops.series
      on series.event_type = kpi_group.event_type
      and series.labels = kpi_group.series_labels
  ),
  -- The barriers here and below keep the order of the joins, and store nothing.
  wanted as (
    select touched.span_id, touched.group_id, member.series_id, member.in_numerator
    from touched
    join member
      on member.org_id = touched.org_id
      and member.group_id = touched.group_id
    offset 0
  ),
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  found as (
    select span.span_id, rollup.*
    from span
    cross join lateral (
      select stored.series_id, stored.event_count, stored.value_count, stored.value_sum
      from ops.rollups as stored
      where stored.org_id = span.org_id
        and stored.period = span.period
        and stored.period_start = span.period_start
      offset 0
    ) as rollup
    offset 0
  ),
  summed as (
    select
      part.span_id,
      part.group_id,
      sum(part.event_count) as events,
      coalesce(sum(part.event_count) filter (where part.in_numerator), 0) as numerator_events,
      sum(part.value_count) as value_count,
      sum(part.value_sum) as value_sum
    from (
      select added.span_id, added.group_id, added.in_numerator, added.event_count, added.value_count, added.value_sum
      from added
      union all
      select wanted.span_id, wanted.group_id, wanted.in_numerator, found.event_count, found.value_count, found.value_sum
      from wanted
      join found
        on found.span_id = wanted.span_id
        and found.series_id = wanted.series_id
    ) as part
    group by 1, 2
  )
  select
    span.org_id,
    kpi.metric_name,
    kpi.group_labels,
    span.period,
    span.period_start,
    definition.unit,
    case definition.measure
      when 'ratio' then 100 * summed.numerator_events / nullif(summed.events, 0)
      when 'average' then summed.value_sum / nullif(summed.value_count, 0)
      else nullif(summed.events, 0)
    end,
    case definition.measure
      when 'ratio' then summed.numerator_events
      when 'average' then summed.value_sum
    end,
    case definition.measure
      when 'ratio' then summed.events
      when 'average' then summed.value_count
    end,
    case definition.measure when 'average' then summed.value_count else summed.events end::bigint
  from summed
  join span
    on span.span_id = summed.span_id
  join (select distinct kpi_group.group_id, kpi_group.metric_name, kpi_group.group_labels from kpi_group) as kpi
    on kpi.group_id = summed.group_id
  join ops.kpi_definitions as definition
    on definition.metric_name = kpi.metric_name;
end;
comment on function ops.changed_ratios(ops.rollup_delta[]) is
  'The ratios, averages and counts that a delta changes, computed from the rollups and that delta; one row a KPI, period and breakdown.';

create or replace function ops.observe_audit(audit jsonb, event jsonb)
returns table (audit_id bigint, audit_timestamp timestamptz, events_stored integer, provenance_synced boolean, validation_synced boolean, validation_run_id bigint)
language plpgsql
volatile
set search_path = ''
as $$
declare
  given constant public.slsa_audit_metrics := jsonb_populate_record(null::public.slsa_audit_metrics, audit);
  owner_id constant uuid := coalesce(given.org_id, '00000000-0000-0000-0000-000000000000'::uuid);
  verdict constant text := event ->> 'outcome';
  known public.slsa_audit_metrics;
  is_repeated boolean;
  answer jsonb;
begin
  -- Two observers of one audit would each find no row and store an event.
  perform pg_advisory_xact_lock(hashtextextended(format('ops.observe_audit %s', given.audit_run_id), 0));
  select stored.* into known
  from public.slsa_audit_metrics as stored
  where stored.audit_run_id = given.audit_run_id
    and stored.org_id = owner_id;
  is_repeated := coalesce(known.metadata ->> 'outcome' = verdict, false);
  observe_audit.audit_timestamp := coalesce(case when is_repeated then known.audit_timestamp end, given.audit_timestamp, now());
  observe_audit.validation_run_id := coalesce(
    given.validation_run_id,
    (
      select found.run_id
      from public.telemetry_events as found
      where found.org_id = owner_id
        and found.event_type = 'provenance_validate'
        and found.tag = given.tag
        and found.run_id is not null
      order by found.event_timestamp desc
      limit 1
    ),
    -- What was found once stays found when retention has removed it.
    case when known.tag = given.tag then known.validation_run_id end
  );
  -- By the index on event_type: releases are few among the events, too few to pay for an index at each insert.
  select
    coalesce(bool_or(found.event_type = 'slsa_provenance' and found.run_id = given.provenance_run_id), false),
    coalesce(bool_or(found.event_type = 'provenance_validate' and found.run_id = observe_audit.validation_run_id), false)
  into observe_audit.provenance_synced, observe_audit.validation_synced
  from public.telemetry_events as found
  where found.org_id = owner_id
    and found.event_type in ('slsa_provenance', 'provenance_validate')
    and found.run_id in (given.provenance_run_id, observe_audit.validation_run_id);
  observe_audit.provenance_synced := observe_audit.provenance_synced
    or coalesce(known.supabase_provenance_synced and known.provenance_run_id = given.provenance_run_id, false);
  observe_audit.validation_synced := observe_audit.validation_synced
    or coalesce(known.supabase_validation_synced and known.validation_run_id = observe_audit.validation_run_id, false);
  observe_audit.audit_id := public.record_audit(
    observe_audit.audit
    || jsonb_build_object(
      'org_id', owner_id,
      'audit_timestamp', observe_audit.audit_timestamp,
      'validation_run_id', observe_audit.validation_run_id,
      'supabase_provenance_synced', observe_audit.provenance_synced,
      'supabase_validation_synced', observe_audit.validation_synced,
      'metadata', coalesce(given.metadata, '{}') || jsonb_build_object('outcome', verdict)
    )
  );
  observe_audit.events_stored := 0;
  -- Its event was stored with it, and has been removed since.
  if is_repeated and exists (
    select
    from ops.removed_events as removed
    where removed.event_type = 'audit_observer'
      and removed.removed_until > observe_audit.audit_timestamp
  ) then
    return next;
    return;
  end if;
  answer := public.ingest_events(
    json_build_array(
      json_build_object(
        'event_type', 'audit_observer',
        'event_id', encode(substr(sha256(convert_to(format('%s %s %s', owner_id, given.audit_run_id, verdict), 'UTF8')), 1, 16), 'hex')::uuid,
        'event_timestamp', observe_audit.audit_timestamp,
        'run_id', given.audit_run_id,
        'tag', given.tag,
        'org_id', owner_id,
        'payload', event
      )
    )
  );
  if answer -> 'refused' <> '[]' then
    raise exception 'the event of the audit is refused: % %', answer #>> '{refused,0,field}', answer #>> '{refused,0,reason}'
      using errcode = 'OP001', hint = 'It becomes an event of type audit_observer; see ops.event_types.';
  end if;
  observe_audit.events_stored := (answer ->> 'accepted')::integer;
  return next;
end;
$$;
comment on function ops.observe_audit(jsonb, jsonb) is
  'Stores an audit as record_audit does, and its audit_observer event (its metadata, with outcome), in one transaction. Whether the runs are in the events is looked up; a validation run that is not named is the newest of the same tag. What was found once stays found. Repeated with the same outcome, an audit keeps its time and stores no second event; with another it gets both anew. Returns the id and what was found.';

create or replace function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null
)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  asked ops.slo_versions;
  sli ops.slis;
  from_bucket timestamptz;
  to_bucket timestamptz;
begin
  if explain_slo.since is null or explain_slo.until is null or explain_slo.since >= explain_slo.until then
    raise exception 'the range to explain is empty: % to %', explain_slo.since, explain_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  select known.* into asked
  from ops.slo_versions as known
  where known.slo_name = explain_slo.slo_name
    and known.valid_from < explain_slo.until
  order by known.version desc
  limit 1;
  if asked.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(explain_slo.slo_name, ''), explain_slo.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  select known.* into strict sli from ops.slis as known where known.sli_id = asked.sli_id;
  from_bucket := case
    when isfinite(explain_slo.since) then date_bin('5 minutes', explain_slo.since, timestamptz '1969-12-29 00:00+00')
    else explain_slo.since
  end;
  to_bucket := case
    when isfinite(explain_slo.until)
      then date_bin('5 minutes', explain_slo.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
    else explain_slo.until
  end;

  return query
  with buckets as materialized (
    select bucket.org_id, bucket.bucket_start, bucket.good, bucket.total
    from ops.sli_counts as bucket
    where bucket.sli_id = asked.sli_id
      and (explain_slo.only_org_id is null or bucket.org_id = explain_slo.only_org_id)
      and bucket.bucket_start >= from_bucket
      and bucket.bucket_start < to_bucket
      and not ops.is_excluded(bucket.org_id, asked.slo_name, bucket.bucket_start)
  ),
  counted as materialized (
    select
      bucket.org_id,
      coalesce(date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), from_bucket) as slice_start,
      sum(bucket.good) as good,
      sum(bucket.total) as total
    from buckets as bucket
    group by 1, 2
  ),
  accounts as (
    -- In time slices a slice is what counts, else an event is.
    select
      counted.org_id,
      case when asked.time_slice is null then sum(counted.total) else count(*) filter (where counted.total > 0) end as total
    from counted
    group by 1
  ),
  lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where sli.objective = 'availability'
      and unit.event_type = sli.event_type
      and not unit.succeeded
      and unit.first_attempt_at >= from_bucket
      and unit.first_attempt_at < to_bucket
      and (explain_slo.only_org_id is null or unit.org_id = explain_slo.only_org_id)
  ),
  bad as (
    select
      attempt.org_id,
      attempt.event_timestamp as counted_at,
      attempt.event_timestamp,
      attempt.event_id,
      attempt.run_id,
      attempt.tag,
      case sli.objective when 'latency' then format('took %s ms, the limit is %s ms', attempt.duration_ms, sli.threshold_ms) else 'failed' end
        as reason
    from ops.attempts as attempt
    where sli.objective <> 'availability'
      and attempt.event_type = sli.event_type
      and attempt.id <= ops.cursor_id()
      and attempt.event_timestamp < sli.filled_until
      and attempt.event_timestamp >= from_bucket
      and attempt.event_timestamp < to_bucket
      and (explain_slo.only_org_id is null or attempt.org_id = explain_slo.only_org_id)
      and case sli.objective
        when 'latency' then attempt.succeeded and attempt.duration_ms >= sli.threshold_ms
        else not attempt.succeeded
      end
    union all
    -- A unit of work costs once, however often it was tried; its last attempt stands for it.
    select last_tried.*
    from (
      select distinct on (lost_units.org_id, lost_units.unit)
        lost_units.org_id,
        lost_units.first_attempt_at,
        attempt.event_timestamp,
        attempt.event_id,
        attempt.run_id,
        attempt.tag,
        'never succeeded'
      from lost_units
      join ops.attempts as attempt
        on attempt.org_id = lost_units.org_id
        and attempt.unit = lost_units.unit
        and attempt.event_type = sli.event_type
        and attempt.event_timestamp >= from_bucket
        and attempt.id <= ops.cursor_id()
        and attempt.event_timestamp < sli.filled_until
      order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id
    ) as last_tried
  ),
  stored as materialized (
    select bad.*, date_bin('5 minutes', bad.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from bad
  ),
  -- What retention removed was counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from buckets as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  ),
  placed as (
    select
      bad.*,
      coalesce(
        date_bin(asked.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'),
        from_bucket
      ) as slice_start
    from (
      select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
      from stored
      union all
      select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
      from removed
      cross join generate_series(1, removed.missing)
    ) as bad
    where not ops.is_excluded(bad.org_id, asked.slo_name, date_bin('5 minutes', bad.counted_at, timestamptz '1969-12-29 00:00+00'))
  ),
  numbered as (
    select
      placed.*,
      row_number() over (partition by placed.org_id order by placed.counted_at, placed.event_id) as place,
      row_number() over (partition by placed.org_id, placed.slice_start order by placed.counted_at, placed.event_id) as place_in_slice,
      count(*) over (partition by placed.org_id, placed.slice_start) as bad_in_slice,
      dense_rank() over (partition by placed.org_id order by placed.slice_start) as slice_number
    from placed
    join counted
      on counted.org_id = placed.org_id
      and counted.slice_start = placed.slice_start
    where asked.time_slice is null
      or counted.good < asked.slice_target * counted.total
  ),
  weighed as (
    -- What had been lost after each event; the cost is the difference to the one before, so that costs add up exactly.
    select
      numbered.*,
      case
        when asked.time_slice is null then numbered.place
        when numbered.place_in_slice = numbered.bad_in_slice then numbered.slice_number
        else numbered.slice_number - 1 + numbered.place_in_slice::numeric / numbered.bad_in_slice
      end as lost_so_far
    from numbered
  ),
  burnt as (
    select weighed.*, weighed.lost_so_far / (accounts.total * (1 - asked.target)) as consumed_so_far
    from weighed
    join accounts
      on accounts.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    asked.version,
    burnt.event_timestamp,
    burnt.event_id,
    sli.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0)
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid) is
  'The counted events that burned the budget in the five-minute steps of a range, by the version that held at its end; cost is a share of the budget of that range, and the costs of an org add up to exactly its burn rate there. One that is no longer stored has no event_id, and the start of its five minutes as its time.';

create or replace view ops.hook_days
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

create function ops.rebuildable_from()
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select max(
    case
      when ops.period_start(period.name, removed.removed_until, ops.time_zone()) = removed.removed_until then removed.removed_until
      else ops.period_end(
        period.name,
        ops.period_start(period.name, removed.removed_until, ops.time_zone()),
        ops.time_zone()
      )
    end
  )
  from (select max(removed_event.removed_until) as removed_until from ops.removed_events as removed_event) as removed
  cross join unnest(array['hour', 'day', 'week', 'month']) as period (name)
  where removed.removed_until is not null;
end;
comment on function ops.rebuildable_from() is
  'The first instant whose hour, day, week and month all begin after the last event that retention removed; null when it removed none.';

create or replace function ops.rebuild(since timestamptz, until timestamptz, as_of timestamptz default now(), recount_units boolean default true)
returns bigint
language plpgsql
volatile
set search_path = ''
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  started_at timestamptz := clock_timestamp();
  last_id bigint;
  chunk_start timestamptz;
  chunk_end timestamptz;
  next_hour timestamptz;
  scan_end timestamptz;
  periods text[];
  span_starts timestamptz[];
  span_ends timestamptz[];
  events ops.event_delta[];
  counted bigint := 0;
begin
  if since is null or until is null or since >= until or since < timestamptz '1970-01-01 00:00+00' or until > timestamptz '2200-01-01 00:00+00' then
    raise exception 'the range to rebuild is empty or out of bounds: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until, between 1970 and 2200; the range is half-open.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  if since < ops.rebuildable_from() then
    raise exception 'events from before % have been removed, so what was counted of them cannot be counted again',
      (select max(removed.removed_until) from ops.removed_events as removed)
      using errcode = 'OP001',
        hint = format(
          'The first instant whose hour, day, week and month have all their events is %s.',
          to_char(ops.rebuildable_from() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        );
  end if;
  -- Audits change, so they must stand still between their last refresh and their recount.
  lock table public.slsa_audit_metrics in share mode;
  perform ops.refresh(interval '0', as_of => as_of);
  last_id := ops.cursor_id();

  perform ops.forget_span(since, until);
  select array_agg(span.period), array_agg(span.span_start), array_agg(span.span_end), min(span.span_start), max(span.span_end)
  into periods, span_starts, span_ends, chunk_start, scan_end
  from ops.rebuild_spans(since, until) as span;
  loop
    -- From event to event, so that years without one cost nothing.
    select ops.period_start('hour', min(upcoming.first_at), ops.time_zone())
    into next_hour
    from (
      select min(event.event_timestamp) as first_at
      from public.telemetry_events as event
      where event.event_timestamp >= chunk_start
        and event.event_timestamp < scan_end
      union all
      select min(audit.audit_timestamp)
      from ops.labelled_audits as audit
      where audit.audit_timestamp >= chunk_start
        and audit.audit_timestamp < scan_end
    ) as upcoming;
    exit when next_hour is null;
    chunk_start := greatest(chunk_start, next_hour);
    -- A month at a time, or a day where a month is more than the server should hold in memory.
    chunk_end := chunk_start + case
      when (
        select count(*) from (
          select
          from public.telemetry_events as event
          where event.event_timestamp >= chunk_start
            and event.event_timestamp < chunk_start + interval '720 hours'
          limit 200001
        ) as counted_event
      ) > 200000 then interval '24 hours'
      else interval '720 hours'
    end;
    events := array(
      select event from ops.count_events(0, last_id, chunk_start, chunk_end) as event
      union all
      select event from ops.count_audits_between(chunk_start, chunk_end) as event
    );
    counted := counted + coalesce((select sum(event.event_count) from unnest(events) as event), 0);
    perform ops.add_rollups(array(
      select delta
      from ops.rollup_deltas(events) as delta
      where delta.period_start >= span_starts[array_position(periods, delta.period)]
        and delta.period_start < span_ends[array_position(periods, delta.period)]
    ));
    perform ops.write_histograms(array(
      select merged
      from ops.merged_histograms(array(
        select delta
        from ops.histogram_deltas(events) as delta
        where delta.period_start >= span_starts[array_position(periods, delta.period)]
          and delta.period_start < span_ends[array_position(periods, delta.period)]
      )) as merged
    ));
    perform ops.add_patterns(array(
      select delta
      from ops.count_patterns(0, last_id, chunk_start, chunk_end) as delta
      where delta.period_start >= span_starts[array_position(periods, delta.period)]
        and delta.period_start < span_ends[array_position(periods, delta.period)]
    ));
    chunk_start := chunk_end;
  end loop;
  perform ops.rebuild_kpis(since, until, as_of);
  perform ops.rebuild_slis(since, until, last_id, recount_units);
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, message)
  values ('rebuild', started_at, clock_timestamp(), 'success', counted, format('%s to %s', since, until));
  return counted;
end;
$$;
comment on function ops.rebuild(timestamptz, timestamptz, timestamptz, boolean) is
  'Recomputes every hour, day, week and month that the half-open range touches from the events and audits; returns how many it read. The result equals what the increments give. recount_units false leaves availability to a later call.';

create or replace function ops.rebuild_slis(since timestamptz, until timestamptz, last_id bigint, recount_units boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  bucket_since timestamptz := date_bin('5 minutes', since, timestamptz '1969-12-29 00:00+00');
  bucket_until timestamptz := date_bin('5 minutes', until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  delete from ops.sli_counts as stored
  using ops.slis as sli
  where sli.sli_id = stored.sli_id
    and sli.objective <> 'availability'
    and stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until;
  perform ops.add_slis(array(select delta from ops.count_attempts(0, last_id, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (select removed.removed_until from ops.removed_events as removed where removed.event_type = unit.event_type),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(0, last_id) as attempted)) as changed
    ));
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rebuild_slis(timestamptz, timestamptz, bigint, boolean) is
  'Recounts the attempts of the range and all units of work whose events are all there from the events; only rebuild calls it.';

create or replace function ops.other_conditions(as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  -- What has not been counted may have happened all the same.
  is_stale constant boolean := coalesce(
    (
      select max(run.finished_at) < as_of - 2 * ops.refresh_interval()
      from ops.job_runs as run
      where run.job = 'refresh'
        and run.outcome in ('success', 'waiting')
    ),
    true
  );
begin
  return query
  with hours as (
    select
      rule.rule_name,
      rule.metric_name,
      rule.comparison,
      rule.threshold,
      rule.lasting,
      definition.unit,
      ops.period_start('hour', as_of, ops.time_zone()) - ops.in_hours(rule.lasting) as since,
      ops.period_start('hour', as_of, ops.time_zone()) as until
    from ops.alert_rules as rule
    join ops.kpi_definitions as definition
      on definition.metric_name = rule.metric_name
    where rule.is_enabled
      and rule.kind = 'kpi_threshold'
  )
  select
    kpi.org_id,
    hours.rule_name,
    hours.metric_name,
    null::text,
    null::integer,
    -- One hour within the limit ends it; an hour without a value says neither.
    case
      when is_stale then null
      when not bool_and(case hours.comparison
        when 'gt' then kpi.metric_value > hours.threshold
        when 'gte' then kpi.metric_value >= hours.threshold
        when 'lt' then kpi.metric_value < hours.threshold
        else kpi.metric_value <= hours.threshold
      end) then false
      when count(*) * interval '1 hour' = ops.in_hours(hours.lasting) then true
    end,
    jsonb_build_object(
      'value', ops.readable((array_agg(kpi.metric_value order by kpi.period_start desc))[1]),
      'threshold', ops.readable(hours.threshold),
      'comparison', hours.comparison,
      'unit', hours.unit,
      'lasting', hours.lasting::text
    )
  from hours
  join public.kpi_aggregations as kpi
    on kpi.metric_name = hours.metric_name
    and kpi.aggregation_period = 'hour'
    and kpi.labels = '{}'
    and kpi.period_start >= hours.since
    and kpi.period_start < hours.until
  group by kpi.org_id, hours.rule_name, hours.metric_name, hours.comparison, hours.threshold, hours.lasting, hours.unit;

  return query
  with seen as (
    -- Where retention has removed the hours, the month they lay in or else their horizon is the latest it can have been.
    select
      series.org_id,
      series.event_type,
      coalesce(
        max(newest.period_start) + interval '1 hour',
        least(
          ops.period_end('month', max(older.period_start), ops.time_zone()),
          (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour')
        )
      ) as last_seen_at
    from ops.series
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where rollup.org_id = series.org_id
        and rollup.period = 'hour'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as newest
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where newest.period_start is null
        and rollup.org_id = series.org_id
        and rollup.period = 'month'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as older
    where series.event_type in (select rule.event_type from ops.alert_rules as rule where rule.is_enabled)
    group by 1, 2
  )
  select
    seen.org_id,
    rule.rule_name,
    rule.event_type,
    null::text,
    null::integer,
    case when not is_stale then seen.last_seen_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join seen
    on seen.event_type = rule.event_type
  where rule.is_enabled
    and rule.kind = 'silent_input';

  return query
  select
    agent.org_id,
    rule.rule_name,
    agent.agent_id::text,
    agent.team,
    null::integer,
    case when not is_stale then agent.last_event_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;
$$;
comment on function ops.other_conditions(timestamptz) is
  'What the rules on KPIs, event types and agents find as of an instant; a KPI without a value in the time asked for has no row.';

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
      select distinct found.month
      from (
        select distinct date_trunc('month', event.event_timestamp at time zone 'UTC')::date as month, event.event_type
        from ops.telemetry_events_default as event
        where event.event_timestamp >= as_of - interval '20 years'
          and event.event_timestamp < as_of + interval '3 months'
      ) as found
      -- Retention takes what is too old from where it lies; else each late event would make a partition only to have it dropped.
      where (found.month + interval '1 month') at time zone 'UTC' > ops.kept_since('events', found.event_type, as_of)
      order by found.month desc
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
comment on function ops.maintain(timestamptz) is
  'Makes the partitions of this and the next three months and of at most twelve months that have events to keep in the default partition, and forgets old job runs; returns how many partitions were made.';

create or replace function ops.run()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report := ops.refresh();
  started_at constant timestamptz := clock_timestamp();
  step record;
  blocked text[] := '{}'::text[];
begin
  begin
    perform ops.evaluate_alerts();
  exception
    -- Counting must go on whatever keeps the alerts from theirs.
    when others then
      perform ops.record_job_failure('alerts', sqlerrm);
  end;
  -- Last, since a partition takes locks that are held to the end.
  begin
    perform ops.maintain();
  exception
    -- Counting must go on whatever keeps the upkeep from its work.
    when others then
      perform ops.record_job_failure('maintain', sqlerrm);
  end;
  begin
    for attempt in 1 .. 10 loop
      select * into step from ops.retain(started_at => started_at, skipped => blocked);
      -- Its locks are held to the end.
      exit when step.state not in ('freed', 'blocked') or (step.state = 'freed' and step.action = 'drop');
      if step.state = 'blocked' then
        blocked := blocked || step.name;
      end if;
    end loop;
  exception
    -- Counting must go on whatever keeps the old from being removed.
    when others then
      perform ops.record_job_failure('retention', sqlerrm);
  end;
  return report;
end;
$$;
comment on function ops.run() is 'Everything that is due, for schedulers that can only call SQL: one refresh, the alerts, upkeep, then at most ten steps of retention. Messages wait in the outbox for opskpi alert deliver.';

create table ops.retention_rules (
  kept text not null,
  event_type text not null default '',
  age interval,
  constraint retention_rules_pkey primary key (kept, event_type),
  constraint retention_rules_kept_check check (kept in ('events', 'hours', 'kpis', 'alerts')),
  constraint retention_rules_event_type_is_for_events check (kept = 'events' or event_type = ''),
  -- Rules on KPIs look back 30 days over the hours.
  constraint retention_rules_age_is_sensible check (
    age >= case kept when 'events' then interval '1 day' else interval '31 days' end and age <= interval '100 years'
  )
);
comment on table ops.retention_rules is 'One row a kind of data that does not live for ever. Without a row all of it does.';
comment on column ops.retention_rules.kept is
  'events: the raw rows; hours: the counts, histograms and KPIs of hours; kpis: those of days, weeks and months; alerts: those that are over, and messages that are settled.';
comment on column ops.retention_rules.event_type is 'For events: only this kind; empty: every kind without a rule of its own.';
comment on column ops.retention_rules.age is 'How old it gets; null: it is kept for ever, whatever the rule for every kind says.';
alter table ops.retention_rules enable row level security;

create table ops.removed_months (
  event_type text not null,
  month_start timestamptz not null,
  events bigint not null,
  removed_at timestamptz not null default now(),
  constraint removed_months_pkey primary key (event_type, month_start)
);
comment on table ops.removed_months is 'One row a kind of event and month of which events were removed; with the counts of that month it says how many are left, without reading them.';
comment on column ops.removed_months.event_type is 'The kind.';
comment on column ops.removed_months.month_start is 'First instant of the month, UTC.';
comment on column ops.removed_months.events is 'Events removed so far (count).';
comment on column ops.removed_months.removed_at is 'When the last of them were.';
alter table ops.removed_months enable row level security;

create function ops.kept_since(kept text, event_type text, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
return coalesce(
  (
    -- In UTC, whatever the session's zone: a month before the 31st is one instant for all.
    select (kept_since.as_of at time zone 'UTC' - rule.age) at time zone 'UTC'
    from ops.retention_rules as rule
    where rule.kept = kept_since.kept
      and rule.event_type in (kept_since.event_type, '')
    order by rule.event_type desc
    limit 1
  ),
  '-infinity'
);
comment on function ops.kept_since(text, text, timestamptz) is
  'What ended at or before this instant is older than its rule allows; -infinity where it is kept for ever. The event type is empty for what is not events.';

create function ops.set_retention(kept text, age interval, event_type text default '')
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  least_age constant interval := case set_retention.kept when 'events' then interval '1 day' else interval '31 days' end;
begin
  perform ops.require_rule_for(set_retention.kept, set_retention.event_type);
  if set_retention.age < least_age or set_retention.age > interval '100 years' then
    raise exception '% cannot be kept for %', set_retention.kept, set_retention.age
      using errcode = 'OP001', hint = format('Pass an age from %s to 100 years.', least_age);
  end if;
  insert into ops.retention_rules as rule (kept, event_type, age)
  values (set_retention.kept, set_retention.event_type, set_retention.age)
  on conflict on constraint retention_rules_pkey do update set age = excluded.age;
end;
$$;
comment on function ops.set_retention(text, interval, text) is
  'Says how old a kind of data, or one kind of event, may get; null: it is kept for ever. Nothing is removed before the next run.';

create function ops.unset_retention(kept text, event_type text default '')
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.require_rule_for(unset_retention.kept, unset_retention.event_type);
  delete from ops.retention_rules as rule
  where rule.kept = unset_retention.kept
    and rule.event_type = unset_retention.event_type;
  return found;
end;
$$;
comment on function ops.unset_retention(text, text) is 'Takes a rule back: one kind of event follows the rule for every kind again, all else is kept for ever. True when there was one.';

create function ops.require_rule_for(kept text, event_type text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if require_rule_for.kept is null or require_rule_for.kept not in ('events', 'hours', 'kpis', 'alerts') then
    raise exception 'nothing is kept under the name %', coalesce(require_rule_for.kept, 'null')
      using errcode = 'OP001', hint = 'Pass events, hours, kpis or alerts.';
  end if;
  if require_rule_for.event_type is null or (require_rule_for.event_type <> '' and require_rule_for.kept <> 'events') then
    raise exception 'only events are kept by their kind, not %', require_rule_for.kept
      using errcode = 'OP001', hint = 'Leave the event type out.';
  end if;
  if require_rule_for.event_type <> ''
    and not exists (select from ops.event_types as kind where kind.event_type = require_rule_for.event_type)
    and not exists (select from public.telemetry_events as event where event.event_type = require_rule_for.event_type)
    and not exists (select from ops.retention_rules as rule where rule.event_type = require_rule_for.event_type) then
    raise exception 'there is no kind of event %', require_rule_for.event_type
      using errcode = 'OP001',
        hint = format('Known are %s.', (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind));
  end if;
end;
$$;
comment on function ops.require_rule_for(text, text) is 'Refuses what no retention rule can be about; a kind of event is described, has occurred or has a rule.';

create function ops.keep_time_zone()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if new.value is distinct from old.value
    and (exists (select from ops.removed_events) or exists (select from ops.removed_periods)) then
    raise exception 'the time zone stays %: events were removed, and what they were counted into cannot be cut anew', old.value
      using errcode = 'OP001', hint = 'A time zone is for good once retention has removed something; choose it before.';
  end if;
  return new;
end;
$$;
comment on function ops.keep_time_zone() is 'Trigger: days of another zone would stand beside those that no rebuild can make again.';

create trigger settings_keep_time_zone
before update on ops.settings
for each row
when (old.name = 'time_zone')
execute function ops.keep_time_zone();

create function ops.is_removed_month(month date)
returns boolean
language sql
stable
set search_path = ''
return exists (select from ops.removed_events)
  and not exists (
    select
    from ops.event_types as kind
    where not exists (
      select
      from ops.removed_events as removed
      where removed.event_type = kind.event_type
        and removed.removed_until >= (date_trunc('month', is_removed_month.month::timestamp) + interval '1 month') at time zone 'UTC'
    )
  );
comment on function ops.is_removed_month(date) is 'Whether ingest_events refuses whatever is of this month (UTC), of each kind that is described.';

create function ops.event_months()
returns table (relation regclass, name text, is_default boolean, month_start timestamptz, month_end timestamptz)
language sql
stable
set search_path = ''
-- The bounds of a partition are read as text.
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
begin atomic
  with recursive bounds as (
    select
      inheritance.inhrelid::regclass as relation,
      class.relname::text as name,
      regexp_match(pg_get_expr(class.relpartbound, class.oid), '^FOR VALUES FROM \(''([0-9][^'']*)''\) TO \(''([0-9][^'']*)''\)$') as ends
    from pg_catalog.pg_inherits as inheritance
    join pg_catalog.pg_class as class
      on class.oid = inheritance.inhrelid
    where inheritance.inhparent = 'public.telemetry_events'::regclass
      and class.relkind = 'r'
  ),
  default_month as (
    select date_trunc('month', min(event.event_timestamp), 'UTC') as month_start
    from ops.telemetry_events_default as event
    union all
    select (
      select date_trunc('month', min(event.event_timestamp), 'UTC')
      from ops.telemetry_events_default as event
      where event.event_timestamp >= default_month.month_start + interval '1 month'
    )
    from default_month
    where default_month.month_start is not null
  )
  select bounds.relation, bounds.name, false, bounds.ends[1]::timestamptz, bounds.ends[2]::timestamptz
  from bounds
  -- What somebody else has attached is that somebody's to drop.
  where bounds.ends[1]::timestamptz = date_trunc('month', bounds.ends[1]::timestamptz, 'UTC')
    and bounds.ends[2]::timestamptz = bounds.ends[1]::timestamptz + interval '1 month'
  union all
  select
    'ops.telemetry_events_default'::regclass,
    'telemetry_events_default ' || to_char(default_month.month_start, 'YYYY-MM'),
    true,
    default_month.month_start,
    default_month.month_start + interval '1 month'
  from default_month
  where default_month.month_start is not null;
end;
comment on function ops.event_months() is 'One row a partition that is a month (UTC), and a month that has events in the default partition.';

create function ops.stored_types(relation regclass, since timestamptz, until timestamptz)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  found text[];
begin
  -- From kind to kind by the index, which takes as many steps as there are kinds; counting reads every event.
  execute format(
    'with recursive kind as (
       select min(event.event_type) as event_type from %1$s as event where event.event_timestamp >= $1 and event.event_timestamp < $2
       union all
       select (
         select min(event.event_type)
         from %1$s as event
         where event.event_type > kind.event_type and event.event_timestamp >= $1 and event.event_timestamp < $2
       )
       from kind
       where kind.event_type is not null
     )
     select array_agg(kind.event_type) from kind where kind.event_type is not null',
    relation
  )
  into found
  using since, until;
  return coalesce(found, '{}');
end;
$$;
comment on function ops.stored_types(regclass, timestamptz, timestamptz) is 'The kinds of events that a partition holds of a time, in order.';

create function ops.owns_events()
returns boolean
language sql
stable
set search_path = ''
return pg_has_role((select class.relowner from pg_catalog.pg_class as class where class.oid = 'public.telemetry_events'::regclass), 'usage');
comment on function ops.owns_events() is 'Whether the caller may make and drop partitions of the events.';

create function ops.has_uncounted_events(relation regclass, since timestamptz, until timestamptz)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  answer boolean;
begin
  execute format(
    'select exists (
       select from %s as event where event.id > $1 and event.event_timestamp >= $2 and event.event_timestamp < $3
     )',
    relation
  )
  into answer
  using ops.cursor_id(), since, until;
  return answer;
end;
$$;
comment on function ops.has_uncounted_events(regclass, timestamptz, timestamptz) is 'Whether a partition has events of a time that no refresh has counted.';

create function ops.expired_months(as_of timestamptz)
returns table (
  relation regclass,
  name text,
  is_default boolean,
  month_start timestamptz,
  month_end timestamptz,
  expired text[],
  is_whole boolean
)
language sql
stable
set search_path = ''
begin atomic
  with candidates as materialized (
    select month.*, ops.stored_types(month.relation, month.month_start, month.month_end) as event_types
    from ops.event_months() as month
    where month.month_end <= (
      select max(ops.kept_since('events', rule.event_type, expired_months.as_of))
      from ops.retention_rules as rule
      where rule.kept = 'events'
    )
  ),
  judged as (
    select
      candidates.*,
      array(
        select kind.event_type
        from unnest(candidates.event_types) as kind (event_type)
        where candidates.month_end <= ops.kept_since('events', kind.event_type, expired_months.as_of)
        order by kind.event_type
      ) as expired
    from candidates
  )
  select
    judged.relation,
    judged.name,
    judged.is_default,
    judged.month_start,
    judged.month_end,
    judged.expired,
    not judged.is_default and cardinality(judged.expired) = cardinality(judged.event_types)
  from judged
  where cardinality(judged.expired) > 0
    -- Nothing is left of a month whose kinds went one by one.
    or (not judged.is_default and cardinality(judged.event_types) = 0);
end;
comment on function ops.expired_months(timestamptz) is
  'One row a month that has events older than their rules allow, and of which kinds; is_whole: of all, so that its partition can be dropped.';

create function ops.events_left(event_types text[], month_start timestamptz, month_end timestamptz)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
declare
  zone constant text := ops.time_zone();
  counted_by text;
  counted numeric;
begin
  if cardinality(event_types) = 0 then
    return 0;
  end if;
  counted_by := case
    when ops.period_start('month', month_start, zone) = month_start and ops.period_end('month', month_start, zone) = month_end then 'month'
    when ops.period_start('hour', month_start, zone) = month_start and ops.period_start('hour', month_end, zone) = month_end then 'hour'
  end;
  if not exists (select from ops.removed_periods as removed where removed.period = counted_by and removed.removed_until > month_start) then
    select sum(rollup.event_count) - coalesce(
      (
        select sum(removed.events)
        from ops.removed_months as removed
        where removed.event_type = any (events_left.event_types)
          and removed.month_start = events_left.month_start
      ),
      0
    )
    into counted
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
      and rollup.period = counted_by
      and rollup.period_start >= events_left.month_start
      and rollup.period_start < events_left.month_end
    where series.event_type = any (events_left.event_types);
  end if;
  -- There are some, or their kinds would not have been found.
  return case when counted > 0 then counted end;
end;
$$;
comment on function ops.events_left(text[], timestamptz, timestamptz) is
  'How many events of some kinds a month still has, by what was counted of it less what was removed, without reading them: by its month, or in a time zone whose months are others by its hours. Null where neither says.';

create function ops.events_dropped(relation regclass, event_types text[], since timestamptz, until timestamptz)
returns bigint
language sql
stable
set search_path = ''
return coalesce(
  ops.events_left(event_types, since, until),
  (select nullif(class.reltuples, -1)::bigint from pg_catalog.pg_class as class where class.oid = relation)
);
comment on function ops.events_dropped(regclass, text[], timestamptz, timestamptz) is
  'How many events are dropped with a partition: exact by the counts, else the estimate of the last analyze, else null.';

create function ops.stored_months()
returns table (name text, month_start timestamptz, month_end timestamptz, event_types text[], events bigint, bytes bigint)
language sql
stable
set search_path = ''
begin atomic
  select
    month.name,
    month.month_start,
    month.month_end,
    stored.event_types,
    case
      when cardinality(stored.event_types) = 0 then 0
      when month.is_default then ops.events_left(stored.event_types, month.month_start, month.month_end)
      else ops.events_dropped(month.relation, stored.event_types, month.month_start, month.month_end)
    end,
    case when not month.is_default then pg_total_relation_size(month.relation) end
  from ops.event_months() as month
  cross join lateral (
    select ops.stored_types(month.relation, month.month_start, month.month_end) as event_types
    offset 0
  ) as stored
  order by month.month_start, month.name;
end;
comment on function ops.stored_months() is
  'One row a month of events: its kinds, how many events by the counts (null where only a scan could tell), and its size on disk.';

create function ops.expired_periods(as_of timestamptz)
returns table (kept text, period text, first_start timestamptz, horizon timestamptz)
language sql
stable
set search_path = ''
begin atomic
  with horizons as materialized (
    -- A period is removed whole, so it has to be over for as long.
    select
      length.kept,
      length.period,
      length.place,
      ops.period_start(length.period, aged.kept_since, ops.time_zone()) as horizon
    from (values ('hours', 'hour', 1), ('kpis', 'day', 2), ('kpis', 'week', 3), ('kpis', 'month', 4)) as length (kept, period, place)
    cross join lateral (select ops.kept_since(length.kept, '', expired_periods.as_of) as kept_since) as aged
    where aged.kept_since > '-infinity'
  ),
  orgs as materialized (
    select distinct series.org_id from ops.series
  ),
  -- The oldest row of each table, by one look-up an org.
  oldest as (
    select horizons.*, found.first_start
    from horizons
    cross join orgs
    cross join lateral (
      (
        select rollup.period_start
        from ops.rollups as rollup
        join ops.series
          on series.org_id = rollup.org_id
          and series.series_id = rollup.series_id
        where rollup.org_id = orgs.org_id
          and rollup.period = horizons.period
          and rollup.period_start < horizons.horizon
          and (horizons.period <> 'hour' or series.event_type <> 'slsa_audit_metrics')
        order by rollup.period_start
        limit 1
      )
      union all
      (
        select histogram.period_start
        from ops.histograms as histogram
        where histogram.org_id = orgs.org_id
          and histogram.period = horizons.period
          and histogram.period_start < horizons.horizon
        order by histogram.period_start
        limit 1
      )
      union all
      (
        select blocked.period_start
        from ops.blocked_patterns as blocked
        where blocked.org_id = orgs.org_id
          and blocked.period = horizons.period
          and blocked.period_start < horizons.horizon
        order by blocked.period_start
        limit 1
      )
      union all
      (
        select kpi.period_start
        from ops.kpi_definitions as definition
        cross join lateral (
          select stored.period_start
          from public.kpi_aggregations as stored
          where stored.org_id = orgs.org_id
            and stored.metric_name = definition.metric_name
            and stored.aggregation_period = horizons.period
            and stored.period_start < horizons.horizon
          order by stored.period_start
          limit 1
        ) as kpi
      )
    ) as found (first_start)
  )
  select oldest.kept, oldest.period, min(oldest.first_start), oldest.horizon
  from oldest
  group by oldest.kept, oldest.period, oldest.place, oldest.horizon
  order by oldest.place;
end;
comment on function ops.expired_periods(timestamptz) is
  'One row a length of period of which something is older than its rule allows: from the first on, up to the horizon. The hour counts of audits stay: what a changed audit changes is found against them.';

create function ops.count_periods(period text, since timestamptz, until timestamptz)
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select
    (
      select count(*)
      from ops.rollups as rollup
      join ops.series
        on series.org_id = rollup.org_id
        and series.series_id = rollup.series_id
      where rollup.period = count_periods.period
        and rollup.period_start >= count_periods.since
        and rollup.period_start < count_periods.until
        and (count_periods.period <> 'hour' or series.event_type <> 'slsa_audit_metrics')
    )
    + (
      select count(*)
      from ops.histograms as histogram
      where histogram.period = count_periods.period
        and histogram.period_start >= count_periods.since
        and histogram.period_start < count_periods.until
    )
    + (
      select count(*)
      from ops.blocked_patterns as blocked
      where blocked.period = count_periods.period
        and blocked.period_start >= count_periods.since
        and blocked.period_start < count_periods.until
    )
    + (
      select count(*)
      from public.kpi_aggregations as kpi
      where kpi.aggregation_period = count_periods.period
        and kpi.period_start >= count_periods.since
        and kpi.period_start < count_periods.until
    );
end;
comment on function ops.count_periods(text, timestamptz, timestamptz) is
  'Rows (count) that remove_periods would remove: counts, histograms, blocked patterns and KPIs of one length of period.';

create view ops.settled_deliveries
with (security_invoker = true)
as
select delivery.org_id, delivery.delivery_id, coalesce(delivery.settled_at, delivery.created_at) as settled_at
from ops.alert_deliveries as delivery
where delivery.state in ('delivered', 'silenced', 'superseded', 'dead')
  -- What was said of an alert is kept as long as the alert goes on.
  and not exists (
    select
    from ops.alerts as alert
    where alert.org_id = delivery.org_id
      and alert.alert_id = any (delivery.alert_ids)
      and alert.state <> 'resolved'
  );
comment on view ops.settled_deliveries is 'One row a message that is settled and whose alerts are all over.';

create view ops.settled_alerts
with (security_invoker = true)
as
select alert.org_id, alert.alert_id, alert.resolved_at
from ops.alerts as alert
where alert.state = 'resolved'
  -- A group that last said it fires has yet to say that it is over.
  and not exists (
    select
    from ops.alert_groups as known
    where known.org_id = alert.org_id
      and alert.alert_id = any (known.last_firing)
  );
comment on view ops.settled_alerts is 'One row an alert that is over and of which no group has anything left to say.';

create function ops.retention_plan(as_of timestamptz default now())
returns table (
  kept text,
  action text,
  name text,
  event_type text,
  since timestamptz,
  until timestamptz,
  removed bigint,
  bytes bigint,
  obstacle text
)
language plpgsql
stable
set search_path = ''
as $$
declare
  old_month record;
begin
  for old_month in select month.* from ops.expired_months(as_of) as month order by month.month_start, month.name loop
    obstacle := case
      when old_month.is_whole and not ops.owns_events() then 'only the owner of the events can drop a month of them'
      when ops.has_uncounted_events(old_month.relation, old_month.month_start, old_month.month_end) then 'it has events that are not counted yet'
    end;
    if old_month.is_whole then
      return query
      select
        'events', 'drop', old_month.name, null::text, old_month.month_start, old_month.month_end,
        ops.events_dropped(old_month.relation, old_month.expired, old_month.month_start, old_month.month_end),
        pg_total_relation_size(old_month.relation), obstacle;
    else
      return query
      select
        'events', 'delete', old_month.name, kind.event_type, old_month.month_start, old_month.month_end,
        ops.events_left(array[kind.event_type], old_month.month_start, old_month.month_end), null::bigint, obstacle
      from unnest(old_month.expired) as kind (event_type);
    end if;
  end loop;
  return query
  select
    expired.kept, 'delete', expired.period, null::text, expired.first_start, expired.horizon,
    ops.count_periods(expired.period, expired.first_start, expired.horizon), null::bigint, null::text
  from ops.expired_periods(as_of) as expired;
  return query
  select 'alerts', 'delete', settled.name, null::text, min(settled.settled_at), ops.kept_since('alerts', '', as_of), count(*), null::bigint, null::text
  from (
    select 'alert_deliveries' as name, delivery.settled_at from ops.settled_deliveries as delivery
    union all
    select 'alerts', alert.resolved_at from ops.settled_alerts as alert
  ) as settled
  where settled.settled_at < ops.kept_since('alerts', '', as_of)
  group by settled.name
  order by settled.name;
end;
$$;
comment on function ops.retention_plan(timestamptz) is
  'What the rules would remove as of an instant, oldest first, and what is in the way; nothing is changed. Of periods and alerts that is what is there now.';

revoke execute on function
  ops.kept_since(text, text, timestamptz),
  ops.set_retention(text, interval, text),
  ops.unset_retention(text, text),
  ops.require_rule_for(text, text),
  ops.keep_time_zone(),
  ops.is_removed_month(date),
  ops.event_months(),
  ops.stored_types(regclass, timestamptz, timestamptz),
  ops.owns_events(),
  ops.has_uncounted_events(regclass, timestamptz, timestamptz),
  ops.expired_months(timestamptz),
  ops.events_left(text[], timestamptz, timestamptz),
  ops.events_dropped(regclass, text[], timestamptz, timestamptz),
  ops.stored_months(),
  ops.expired_periods(timestamptz),
  ops.count_periods(text, timestamptz, timestamptz),
  ops.retention_plan(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.retention_rules, ops.removed_months, ops.settled_deliveries, ops.settled_alerts from anon, authenticated, service_role;
  grant select on ops.retention_rules to authenticated, service_role;
  -- How many events there were is told to nobody but the owner: they are those of all tenants.
  create policy retention_rules_select_authenticated on ops.retention_rules for select to authenticated using (true);
  revoke execute on function
    ops.kept_since(text, text, timestamptz),
    ops.set_retention(text, interval, text),
    ops.unset_retention(text, text),
    ops.require_rule_for(text, text),
    ops.keep_time_zone(),
    ops.is_removed_month(date),
    ops.event_months(),
    ops.stored_types(regclass, timestamptz, timestamptz),
    ops.owns_events(),
    ops.has_uncounted_events(regclass, timestamptz, timestamptz),
    ops.expired_months(timestamptz),
    ops.events_left(text[], timestamptz, timestamptz),
    ops.events_dropped(regclass, text[], timestamptz, timestamptz),
    ops.stored_months(),
    ops.expired_periods(timestamptz),
    ops.count_periods(text, timestamptz, timestamptz),
    ops.retention_plan(timestamptz)
  from anon, authenticated, service_role;
end;
$$;

create type ops.retention_step as (
  state text,
  kept text,
  action text,
  name text,
  event_type text,
  since timestamptz,
  until timestamptz,
  removed bigint,
  bytes bigint,
  message text
);
comment on type ops.retention_step is
  'freed: call again; blocked: call again with its name among skipped (events: all of them are in use); busy: a refresh or rebuild runs; done: nothing is due. action is drop (a partition) or delete (rows); removed counts events or rows, null where only a scan could tell; bytes went back to the disk.';

create function ops.note_removed_events(event_types text[], month_start timestamptz, month_end timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.removed_events as removed (event_type, removed_until)
  select kind.event_type, note_removed_events.month_end
  from unnest(note_removed_events.event_types) as kind (event_type)
  on conflict on constraint removed_events_pkey do update set
    removed_until = excluded.removed_until
  where removed.removed_until < excluded.removed_until;
end;
comment on function ops.note_removed_events(text[], timestamptz, timestamptz) is
  'Notes that events of some kinds are removed up to the end of a month; only retention calls it, before or with the removal.';

create function ops.drop_month(month ops.retention_step, relation regclass, as_of timestamptz)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
-- Whoever reads or writes the events waits behind this; it is tried again by the next run.
set lock_timeout = '1s'
as $$
declare
  event_types text[];
begin
  month.state := 'blocked';
  if not ops.owns_events() then
    month.message := 'only the owner of the events can drop a month of them';
    return month;
  end if;
  -- The parent first, as everyone does who reads or writes through it.
  lock table only public.telemetry_events in access exclusive mode;
  execute format('lock table %s in access exclusive mode', relation);
  -- From here on nobody is left who could add an event, and each statement sees all that were.
  if ops.has_uncounted_events(relation, month.since, month.until) then
    month.message := 'it has events that are not counted yet';
    return month;
  end if;
  event_types := ops.stored_types(relation, month.since, month.until);
  if exists (select from unnest(event_types) as kind (event_type) where month.until > ops.kept_since('events', kind.event_type, as_of)) then
    month.message := 'it has got events of a kind that is kept';
    return month;
  end if;
  month.removed := ops.events_dropped(relation, event_types, month.since, month.until);
  month.bytes := pg_total_relation_size(relation);
  perform ops.note_removed_events(event_types, month.since, month.until);
  insert into ops.removed_months as removed (event_type, month_start, events)
  select kind.event_type, month.since, coalesce(ops.events_left(array[kind.event_type], month.since, month.until), 0)
  from unnest(event_types) as kind (event_type)
  on conflict on constraint removed_months_pkey do update set
    events = removed.events + excluded.events,
    removed_at = excluded.removed_at;
  execute format('drop table %s', relation);
  month.state := 'freed';
  return month;
exception
  when lock_not_available or deadlock_detected then
    month.message := month.name || ' is in use';
    -- So is every other, and waiting for each would hold writers up each time.
    month.name := 'events';
    return month;
  when dependent_objects_still_exist then
    month.message := sqlerrm;
    return month;
end;
$$;
comment on function ops.drop_month(ops.retention_step, regclass, timestamptz) is
  'Drops the partition of a month if nothing in it is uncounted or to be kept; only retain calls it, under the lock of refresh.';

create function ops.delete_month(month ops.retention_step, relation regclass, max_rows integer)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
set lock_timeout = '1s'
as $$
begin
  month.state := 'blocked';
  if not exists (
    select from ops.removed_events as removed where removed.event_type = month.event_type and removed.removed_until >= month.until
  ) then
    -- An ingest_events that began before this is known would meet a deleted event and take its repeat for new; those
    -- are waited for, and later ones know.
    lock table only public.telemetry_events in share row exclusive mode;
    perform ops.note_removed_events(array[month.event_type], month.since, month.until);
  end if;
  execute format(
    'delete from %1$s as event
     where event.ctid = any (array(
       select expired.ctid
       from %1$s as expired
       where expired.event_type = $1
         and expired.event_timestamp >= $2
         and expired.event_timestamp < $3
         and expired.id <= $4
       limit $5
     ))',
    relation
  )
  using month.event_type, month.since, month.until, ops.cursor_id(), max_rows;
  get diagnostics month.removed = row_count;
  if month.removed = 0 then
    month.message := 'it has events that are not counted yet';
    return month;
  end if;
  insert into ops.removed_months as removed (event_type, month_start, events)
  values (month.event_type, month.since, month.removed)
  on conflict on constraint removed_months_pkey do update set
    events = removed.events + excluded.events,
    removed_at = excluded.removed_at;
  month.state := 'freed';
  return month;
exception
  when lock_not_available or deadlock_detected then
    month.message := month.name || ' is in use';
    month.name := 'events';
    return month;
end;
$$;
comment on function ops.delete_month(ops.retention_step, regclass, integer) is
  'Deletes counted events of one kind and month, max_rows at most; only retain calls it, under the lock of refresh.';

create function ops.remove_periods(expired ops.retention_step)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- A bounded stretch, whole in all four tables, so that what is left is as if there had never been more.
  stretch constant interval := case expired.name when 'hour' then interval '1 day' when 'day' then interval '32 days' when 'week' then interval '70 days' else interval '370 days' end;
  stretch_end constant timestamptz := least(expired.until, ops.period_start(expired.name, expired.since + stretch, ops.time_zone()));
begin
  expired.removed := ops.count_periods(expired.name, expired.since, stretch_end);
  delete from ops.rollups as rollup
  using ops.series
  where series.org_id = rollup.org_id
    and series.series_id = rollup.series_id
    and rollup.period = expired.name
    and rollup.period_start >= expired.since
    and rollup.period_start < stretch_end
    and (expired.name <> 'hour' or series.event_type <> 'slsa_audit_metrics');
  delete from ops.histograms as histogram
  where histogram.period = expired.name
    and histogram.period_start >= expired.since
    and histogram.period_start < stretch_end;
  delete from ops.blocked_patterns as blocked
  where blocked.period = expired.name
    and blocked.period_start >= expired.since
    and blocked.period_start < stretch_end;
  delete from public.kpi_aggregations as kpi
  where kpi.aggregation_period = expired.name
    and kpi.period_start >= expired.since
    and kpi.period_start < stretch_end;
  insert into ops.removed_periods as removed (period, removed_until)
  values (expired.name, stretch_end)
  on conflict on constraint removed_periods_pkey do update set
    removed_until = excluded.removed_until
  where removed.removed_until < excluded.removed_until;
  expired.state := 'freed';
  return expired;
end;
$$;
comment on function ops.remove_periods(ops.retention_step) is
  'Removes the oldest stretch of hours, days, weeks or months, with their KPIs; only retain calls it, under the lock of refresh.';

create function ops.remove_alerts(as_of timestamptz, max_rows integer)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
as $$
declare
  step ops.retention_step;
begin
  step.kept := 'alerts';
  step.action := 'delete';
  step.until := ops.kept_since('alerts', '', as_of);
  foreach step.name in array array['alert_deliveries', 'alerts'] loop
    if step.name = 'alert_deliveries' then
      with doomed as materialized (
        select settled.org_id, settled.delivery_id, settled.settled_at
        from ops.settled_deliveries as settled
        where settled.settled_at < step.until
        order by settled.delivery_id
        limit max_rows
      ),
      deleted as (
        delete from ops.alert_deliveries as delivery
        using doomed
        where delivery.org_id = doomed.org_id
          and delivery.delivery_id = doomed.delivery_id
        returning doomed.settled_at
      )
      select count(*), min(deleted.settled_at) into step.removed, step.since from deleted;
    else
      with doomed as materialized (
        select settled.org_id, settled.alert_id, settled.resolved_at
        from ops.settled_alerts as settled
        where settled.resolved_at < step.until
        order by settled.alert_id
        limit max_rows
      ),
      deleted as (
        delete from ops.alerts as alert
        using doomed
        where alert.org_id = doomed.org_id
          and alert.alert_id = doomed.alert_id
        returning doomed.resolved_at
      )
      select count(*), min(deleted.resolved_at) into step.removed, step.since from deleted;
    end if;
    if step.removed > 0 then
      step.state := 'freed';
      return step;
    end if;
  end loop;
  step := null;
  step.state := 'done';
  return step;
end;
$$;
comment on function ops.remove_alerts(timestamptz, integer) is
  'Removes messages that are settled and alerts that are over, max_rows at most; only retain calls it.';

create function ops.note_retention(step ops.retention_step, started_at timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  what constant text := concat_ws(' ', step.name, step.event_type, case step.action when 'drop' then 'dropped' else 'deleted' end);
  row_count bigint := coalesce(step.removed, 0);
begin
  -- One row a run and thing, however many steps that took.
  update ops.job_runs as run
  set events = case when step.kept = 'events' then run.events + row_count else 0 end,
      kpi_rows = case when step.kept = 'events' then 0 else run.kpi_rows + row_count end,
      message = format('%s: %s', what, case when step.kept = 'events' then run.events else run.kpi_rows end + row_count),
      finished_at = clock_timestamp()
  where run.job = 'retention'
    and run.started_at = note_retention.started_at
    and starts_with(run.message, what || ': ');
  if found then
    return;
  end if;
  insert into ops.job_runs (job, started_at, outcome, events, kpi_rows, message)
  values (
    'retention', started_at, 'success',
    case when step.kept = 'events' then row_count else 0 end,
    case when step.kept = 'events' then 0 else row_count end,
    format('%s: %s', what, coalesce(step.removed::text, 'unknown')) || coalesce(', ' || pg_size_pretty(step.bytes), '')
  );
end;
$$;
comment on function ops.note_retention(ops.retention_step, timestamptz) is 'Writes what a step freed into the journal of the jobs, in its transaction.';

create function ops.retain(
  as_of timestamptz default now(),
  started_at timestamptz default clock_timestamp(),
  skipped text[] default '{}',
  max_rows integer default 20000
)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  step ops.retention_step;
  month record;
  expired record;
begin
  if as_of is null or not isfinite(as_of) or skipped is null or coalesce(max_rows, 0) < 1 then
    raise exception 'retention is as of an instant and in steps of 1 row or more, not as of % in steps of %', as_of, max_rows
      using errcode = 'OP001', hint = 'Leave them out for now and 20,000.';
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'retention needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  step.state := 'done';
  if not exists (select from ops.retention_rules as rule where rule.age is not null) then
    return step;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    step.state := 'busy';
    step.message := 'a refresh or a rebuild is running';
    return step;
  end if;
  select found.* into month
  from ops.expired_months(as_of) as found
  where found.name <> all (skipped)
    and 'events' <> all (skipped)
  order by found.month_start, found.name
  limit 1;
  select found.* into expired from ops.expired_periods(as_of) as found where month.name is null limit 1;
  if month.name is not null then
    step.kept := 'events';
    step.name := month.name;
    step.since := month.month_start;
    step.until := month.month_end;
    step.action := case when month.is_whole then 'drop' else 'delete' end;
    step.event_type := case when not month.is_whole then month.expired[1] end;
    if month.is_whole then
      step := ops.drop_month(step, month.relation, as_of);
    else
      step := ops.delete_month(step, month.relation, max_rows);
    end if;
  elsif expired.period is not null then
    step.kept := expired.kept;
    step.action := 'delete';
    step.name := expired.period;
    step.since := expired.first_start;
    step.until := expired.horizon;
    step := ops.remove_periods(step);
  else
    step := ops.remove_alerts(as_of, max_rows);
  end if;
  if step.state = 'freed' then
    perform ops.note_retention(step, started_at);
  end if;
  return step;
end;
$$;
comment on function ops.retain(timestamptz, timestamptz, text[], integer) is
  'Removes one bounded piece of what is older than its rule allows: a partition, max_rows of other rows, or a stretch of periods. Call it, a transaction a call, until its state is neither freed nor blocked; skipped are the names of what was blocked, started_at holds the calls of a run together in the journal.';

revoke execute on function
  ops.note_removed_events(text[], timestamptz, timestamptz),
  ops.drop_month(ops.retention_step, regclass, timestamptz),
  ops.delete_month(ops.retention_step, regclass, integer),
  ops.remove_periods(ops.retention_step),
  ops.remove_alerts(timestamptz, integer),
  ops.note_retention(ops.retention_step, timestamptz),
  ops.retain(timestamptz, timestamptz, text[], integer)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.note_removed_events(text[], timestamptz, timestamptz),
    ops.drop_month(ops.retention_step, regclass, timestamptz),
    ops.delete_month(ops.retention_step, regclass, integer),
    ops.remove_periods(ops.retention_step),
    ops.remove_alerts(timestamptz, integer),
    ops.note_retention(ops.retention_step, timestamptz),
    ops.retain(timestamptz, timestamptz, text[], integer)
  from anon, authenticated, service_role;
end;
$$;

create function ops.compared_from(event_type text)
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select greatest(
    (select removed.removed_until from ops.removed_events as removed where removed.event_type = compared_from.event_type),
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );
end;
comment on function ops.compared_from(text) is 'From when on neither events of a kind nor days have been removed, so that one can be checked by the other.';

create or replace function ops.count_differences(since timestamptz)
returns table (day_start timestamptz, events bigint, counted bigint)
language sql
stable
set search_path = ''
begin atomic
  with stored as (
    select daily.day_start, sum(daily.events) as events
    from (
      select
        hourly.event_type,
        ops.period_start('day', hourly.hour_start, ops.time_zone()) as day_start,
        hourly.events
      from (
        select event.event_type, date_trunc('hour', event.event_timestamp, ops.time_zone()) as hour_start, count(*) as events
        from public.telemetry_events as event
        where event.event_timestamp >= ops.period_start('day', count_differences.since, ops.time_zone())
          and event.id <= ops.cursor_id()
        group by 1, 2
      ) as hourly
      offset 0
    ) as daily
    where daily.day_start >= ops.compared_from(daily.event_type)
    group by 1
  ),
  counted as (
    select rollup.period_start as day_start, sum(rollup.event_count) as events
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.period = 'day'
      and rollup.period_start >= ops.period_start('day', count_differences.since, ops.time_zone())
      and series.event_type <> 'slsa_audit_metrics'
      and rollup.period_start >= ops.compared_from(series.event_type)
    group by 1
  )
  select
    coalesce(stored.day_start, counted.day_start),
    coalesce(stored.events, 0)::bigint,
    coalesce(counted.events, 0)::bigint
  from stored
  full join counted
    on counted.day_start = stored.day_start
  where stored.events is distinct from counted.events;
end;
comment on function ops.count_differences(timestamptz) is
  'The days from since on whose rollups do not add up to the events up to the cursor; no row when all is well. Days that retention has touched are left out, kind by kind.';

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
comment on function ops.doctor(timestamptz) is 'One row a check: whether it passed, and what was found or what to do.';

comment on column ops.job_runs.job is 'refresh, alerts, maintain, retention or rebuild.';
comment on column ops.job_runs.events is 'Events it aggregated, or removed (count).';

comment on column public.v_ops_job_runs.job is 'refresh, alerts, maintain, retention or rebuild.';
comment on column public.v_ops_job_runs.events is 'Events it counted, or removed (count).';

revoke execute on function
  ops.rebuildable_from(),
  ops.compared_from(text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.removed_events, ops.removed_periods from anon, authenticated, service_role;
  grant select on ops.removed_events, ops.removed_periods to authenticated, service_role;
  -- The name of a kind that nobody described may be a tenant's own.
  create policy removed_events_select_described on ops.removed_events for select to authenticated
    using (event_type in (select kind.event_type from ops.event_types as kind));
  create policy removed_periods_select_authenticated on ops.removed_periods for select to authenticated using (true);
  revoke execute on function
    ops.rebuildable_from(),
    ops.compared_from(text)
  from anon, authenticated, service_role;
end;
$$;
