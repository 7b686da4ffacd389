-- The events that SLIs count, with the labels that their filters ask for, and what makes one count and good.

create function ops.sli_verdict(
  objective text,
  outcome text,
  duration_ms numeric,
  value numeric,
  threshold_ms numeric,
  at_most numeric,
  fits_good boolean default true,
  fits_bad boolean default null
)
returns boolean
-- plpgsql, because it is called for each group of events and SLI: 1 µs each, as language sql 7 µs.
language plpgsql
immutable
set search_path = ''
as $$
declare
  is_reached constant boolean := case objective
    when 'latency' then case when outcome = 'success' then duration_ms < threshold_ms end
    when 'measured' then value <= at_most
    when 'events' then true
    else outcome = 'success'
  end;
begin
  return case
    when is_reached is null then null
    when fits_bad is null then is_reached and fits_good
    else not fits_bad or (is_reached and objective <> 'events')
  end;
end;
$$;
comment on function ops.sli_verdict(text, text, numeric, numeric, numeric, numeric, boolean, boolean) is
  'Whether an event with the labels of total is good: by its outcome, duration or value and the labels of good, or (fits_bad not null) unless it is bad by both; null: it is not counted, having no such outcome, duration or value.';

create view ops.counting_slis
with (security_invoker = true)
as
select
  sli.sli_id, sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels, sli.group_by
from ops.slis as sli
union all
select
  tried.sli_id, tried.event_type, tried.objective, tried.threshold_ms, tried.at_most, tried.total_labels, tried.good_labels, tried.bad_labels,
  tried.group_by
from jsonb_to_recordset(nullif(current_setting('ops.tried_slis', true), '')::jsonb) as tried (
  sli_id bigint,
  event_type text,
  objective text,
  threshold_ms numeric,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb,
  group_by text[]
)
where not exists (select from ops.slis as stored where stored.sli_id = tried.sli_id);
comment on view ops.counting_slis is
  'One row per SLI by which events can be counted: those that are stored and, while ops.trial_counts runs, those that it tries.';

create view ops.sli_kinds
with (security_invoker = true)
as
select
  asked.event_type,
  kind.value_key,
  case when kind.label_keys[1] <> 'team' and kind.label_keys[1] = any (asked.keys) then kind.label_keys[1] end as key_1,
  case when kind.label_keys[2] <> 'team' and kind.label_keys[2] = any (asked.keys) then kind.label_keys[2] end as key_2,
  case when kind.label_keys[3] <> 'team' and kind.label_keys[3] = any (asked.keys) then kind.label_keys[3] end as key_3,
  case when kind.label_keys[4] <> 'team' and kind.label_keys[4] = any (asked.keys) then kind.label_keys[4] end as key_4,
  'team' = any (asked.keys) as asks_team
from (
  select
    sli.event_type,
    array(
      select distinct key.name
      from ops.counting_slis as same_kind
      cross join lateral (
        select jsonb_object_keys(same_kind.total_labels || same_kind.good_labels || coalesce(same_kind.bad_labels, '{}'))
        union all
        select unnest(same_kind.group_by)
      ) as key (name)
      where same_kind.event_type = sli.event_type
    ) as keys
  from ops.counting_slis as sli
  group by 1
) as asked
left join ops.event_types as kind
  on kind.event_type = asked.event_type;
comment on view ops.sli_kinds is
  'One row per kind of event that an SLI counts: the keys of labels that filters and groups ask for (null: none does), and the key of the value.';

create view ops.sli_events
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  case when event.outcome in ('success', 'failure') then event.outcome end as outcome,
  event.duration_ms,
  case
    when kind.value_key = 'duration_ms' then event.duration_ms
    when jsonb_typeof(event.metadata -> kind.value_key) <> 'number' then null
    when (event.metadata -> kind.value_key)::numeric between 0 and 1000000000000000
      then (event.metadata -> kind.value_key)::numeric
  end as value,
  case
    when octet_length(event.tag) > 200 then 'sha256:' || encode(sha256(convert_to(event.tag, 'UTF8')), 'hex')
    else coalesce('tag:' || nullif(btrim(event.tag), ''), 'run:' || event.run_id, 'event:' || event.event_id)
  end as unit,
  event.event_id,
  event.run_id,
  event.tag,
  left(event.metadata ->> kind.key_1, 100) as label_1,
  left(event.metadata ->> kind.key_2, 100) as label_2,
  left(event.metadata ->> kind.key_3, 100) as label_3,
  left(event.metadata ->> kind.key_4, 100) as label_4,
  agent.team,
  kind.key_1,
  kind.key_2,
  kind.key_3,
  kind.key_4
from ops.countable_events as event
join (
  select sli_kind.event_type, sli_kind.value_key, sli_kind.key_1, sli_kind.key_2, sli_kind.key_3, sli_kind.key_4, sli_kind.asks_team
  from ops.sli_kinds as sli_kind
  -- A barrier, so that the keys are found once a kind and not once an event.
  offset 0
) as kind
  on kind.event_type = event.event_type
left join ops.agents as agent
  on kind.asks_team
  and agent.org_id = event.org_id
  and agent.agent_id = event.agent_id;
comment on view ops.sli_events is
  'One row an event of a kind that an SLI counts, with its value and the labels that filters ask for: those of its series, and the team that its agent has now. Nothing that a plain insert may hold makes it fail.';

create function ops.fitting_slis(seen text[], sli_ids bigint[])
returns table (sli ops.counting_slis, place integer, fits_good boolean, fits_bad boolean, slo_group jsonb, counted_as bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    counting,
    combination.place,
    ops.labels_fit(combination.named, counting.good_labels),
    case when counting.bad_labels is not null then ops.labels_fit(combination.named, counting.bad_labels) end,
    own.slo_group,
    coalesce(ops.group_key(counting.sli_id, own.slo_group), counting.sli_id)
  from (
    select
      one.place,
      kind.event_type,
      jsonb_strip_nulls(jsonb_object(
        array[coalesce(kind.key_1, '1'), coalesce(kind.key_2, '2'), coalesce(kind.key_3, '3'), coalesce(kind.key_4, '4'), 'team'],
        array[seen[one.place][2], seen[one.place][3], seen[one.place][4], seen[one.place][5], seen[one.place][6]]
      )) as named
    from generate_subscripts(seen, 1) as one (place)
    join ops.sli_kinds as kind
      on kind.event_type = seen[one.place][1]
    offset 0
  ) as combination
  join ops.counting_slis as counting
    on counting.event_type = combination.event_type
    and counting.sli_id = any (sli_ids)
  -- A barrier: the group is found once.
  cross join lateral (
    select case when counting.group_by <> '{}' then ops.label_group(combination.named, counting.group_by) end as slo_group offset 0
  ) as own
  where counting.total_labels = '{}'
    or ops.labels_fit(combination.named, counting.total_labels);
end;
$$;
comment on function ops.fitting_slis(text[], bigint[]) is
  'Which of the SLIs count events of each combination of labels (by its place among those seen, each a kind of event, labels in the order of its keys in ops.sli_kinds, and the team; null where an event has none or no filter asks), and whether these are labels of good and (null: the SLI does not say) of bad events; slo_group is the group of these labels, null where the SLI has none, and counted_as the key of the group, else of the SLI.';

create function ops.named_labels(event ops.sli_events)
returns jsonb
language sql
immutable
set search_path = ''
return jsonb_strip_nulls(jsonb_object(
  array[coalesce((event).key_1, '1'), coalesce((event).key_2, '2'), coalesce((event).key_3, '3'), coalesce((event).key_4, '4'), 'team'],
  array[(event).label_1, (event).label_2, (event).label_3, (event).label_4, (event).team]
));
comment on function ops.named_labels(ops.sli_events) is 'The labels of an event that filters ask for, as values by key.';
