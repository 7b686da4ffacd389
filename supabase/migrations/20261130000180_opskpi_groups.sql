-- Objectives may be grouped by labels: each value of these has its own counts, status, budget and alerts.
-- The tables of objectives are small; the digest of an SLI without groups stays as it is.
-- squawk-ignore-file adding-not-nullable-field, ban-drop-constraint, ban-drop-view, constraint-missing-not-valid, require-concurrent-index-creation, require-concurrent-index-deletion

alter type ops.sli_delta add attribute of_sli_id bigint, add attribute slo_group jsonb;
alter type ops.unit_delta add attribute of_sli_id bigint, add attribute slo_group jsonb;
alter type ops.unit_change add attribute of_sli_id bigint, add attribute slo_group jsonb;
alter type ops.slo_span add attribute slo_group jsonb;
alter type ops.counted_span add attribute slo_group jsonb;
alter type ops.slo_account add attribute of_sli_id bigint, add attribute group_by text[], add attribute slo_group jsonb;
alter type ops.alert_condition add attribute slo_group jsonb;
alter type ops.judged_slo add attribute slo_group jsonb;

alter table ops.slis add column group_by text[] not null default '{}';
alter table ops.slis drop constraint slis_sli_id_is_the_digest_of_the_definition;
drop function ops.sli_key(text, text, numeric, numeric, jsonb, jsonb, jsonb);
create function ops.sli_key(
  event_type text,
  objective text,
  threshold_ms numeric,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb,
  group_by text[] default '{}'
)
returns bigint
language sql
immutable
set search_path = ''
-- Parts that are not set are left out of the text, so that a part that is added later changes no key.
return (
  'x' || encode(
    substring(
      sha256(convert_to(
        jsonb_strip_nulls(jsonb_build_object(
          'event_type', event_type,
          'objective', objective,
          'threshold_ms', trim_scale(threshold_ms),
          'at_most', trim_scale(at_most),
          'total_labels', nullif(total_labels, '{}'),
          'good_labels', nullif(good_labels, '{}'),
          'bad_labels', bad_labels,
          'group_by', nullif(to_jsonb(group_by), '[]')
        ))::text,
        'UTF8'
      ))
      from 1 for 8
    ),
    'hex'
  )
)::bit(64)::bigint;
comment on function ops.sli_key(text, text, numeric, numeric, jsonb, jsonb, jsonb, text[]) is
  'The key of the SLI that counts so: the first 8 bytes of the SHA-256 of its definition, the same in every database.';
alter table ops.slis add constraint slis_sli_id_is_the_digest_of_the_definition check (
  sli_id = ops.sli_key(event_type, objective, threshold_ms, at_most, total_labels, good_labels, bad_labels, group_by)
);

drop function ops.newest_burners;
drop function ops.slo_burn_rates;
drop function ops.scrape;
drop function ops.slo_gauges;
drop function ops.summary_objectives;
drop view public.v_ops_error_budget_burndown;
drop view public.v_ops_slo_history;
drop view public.v_ops_slo_status;
drop function ops.simulate_conditions;
drop function ops.alert_ending;
drop function ops.group_news;
drop function ops.addressed_alerts;
drop function ops.is_silenced;
drop function ops.explain_slo;
drop function ops.slo_account;
drop function ops.slo_burndown;
drop function ops.slo_history;
drop function ops.daily_slos;
drop function ops.evaluate_slos;
drop function ops.fresh_slis;
drop function ops.measured_slos;
drop function ops.sum_slos;
drop function ops.count_units;
drop function ops.count_attempts;
drop function ops.fitting_slis;
drop function ops.exclude_from_slo;
comment on column ops.slis.group_by is
  'Keys of the labels by whose values its events are counted apart, in ops.sli_groups; {}: they are counted together, under the key of the SLI.';

alter table ops.slos add column group_by text[] not null default '{}';
alter table ops.slos add constraint slos_group_by_is_one_or_two_keys check (cardinality(group_by) <= 2 and array_position(group_by, null) is null);
comment on column ops.slos.group_by is
  'One or two keys of labels: each of their values is an objective by itself (a group), with its own status, budget and alerts; {}: all events together.';

create or replace function ops.canonical_slo(slo ops.slos)
returns ops.slos
language plpgsql
immutable
set search_path = ''
as $$
begin
  slo.total_labels := ops.canonical_labels(slo.total_labels);
  slo.good_labels := ops.canonical_labels(slo.good_labels, slo.total_labels);
  if slo.bad_labels is not null then
    slo.bad_labels := ops.canonical_labels(slo.bad_labels, slo.total_labels);
    -- Without labels the bad events are the rest beside the good ones.
    if slo.bad_labels = '{}' and slo.objective <> 'events' then
      slo.bad_labels := null;
    end if;
  end if;
  slo.group_by := array(select distinct key.name collate "C" from unnest(slo.group_by) as key (name) order by 1);
  return slo;
end;
$$;
comment on function ops.canonical_slo(ops.slos) is 'The objective with its labels and keys of groups in the form in which they are stored and compared.';

create function ops.require_groupable(slo ops.slos)
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  telling constant text := (
    select min(key.name)
    from unnest(slo.group_by) as key (name)
    where slo.good_labels ? key.name
      or slo.bad_labels ? key.name
      or (key.name = 'outcome' and slo.objective in ('availability', 'latency', 'error_rate'))
  );
begin
  if telling is not null then
    raise exception 'the objective %: all of a group by % would be good, or all of it bad', slo.slo_name, telling
      using errcode = 'OP001', hint = 'Group by a label that does not say what is good: a workflow, a team.';
  end if;
end;
$$;
comment on function ops.require_groupable(ops.slos) is 'Refuses groups by a label that says what is good.';

create or replace function ops.require_countable(slo ops.slos)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  kind ops.event_types;
  asker constant text := 'the objective ' || slo.slo_name;
  asked constant jsonb := slo.total_labels || slo.good_labels || coalesce(slo.bad_labels, '{}');
begin
  -- A constraint refuses these.
  if not (ops.are_labels_understood(slo.total_labels) and ops.are_labels_understood(asked)) then
    return;
  end if;
  select described.* into kind from ops.event_types as described where described.event_type = slo.event_type;
  perform ops.require_label_keys(
    asker,
    'type ' || slo.event_type,
    array(select key from jsonb_object_keys(asked) as key) || slo.group_by,
    coalesce(kind.label_keys, '{}') || 'team'::text
  );
  perform ops.require_groupable(slo);
  perform ops.require_label_values(asker, slo.event_type, slo.total_labels);
  perform ops.require_label_values(asker, slo.event_type, slo.good_labels);
  perform ops.require_label_values(asker, slo.event_type, coalesce(slo.bad_labels, '{}'));
  if exists (
    select
    from jsonb_each(slo.good_labels) as good
    where not ((slo.total_labels -> good.key) ?| array(select text.value from jsonb_array_elements_text(good.value) as text))
  ) then
    raise exception '%: no event is good, since the labels of good and of total exclude each other', asker
      using errcode = 'OP001', hint = 'Good is a part of total: write values that total has, too.';
  end if;
  -- Of a kind that nobody described nothing else is known.
  if kind.event_type is null and slo.objective <> 'measured' then
    return;
  end if;
  if slo.objective = 'measured' and kind.value_key is null then
    raise exception '%: events of type % have no value to measure', asker, slo.event_type
      using errcode = 'OP001',
        hint = format(
          'These have one: %s.',
          (
            select string_agg(format('%s (%s)', valued.event_type, valued.value_key), ', ' order by valued.event_type)
            from ops.event_types as valued
            where valued.value_key is not null
          )
        );
  end if;
  if slo.objective in ('availability', 'latency', 'error_rate') then
    perform ops.require_attempts(slo, kind);
  end if;
end;
$$;

create or replace function ops.keep_counted_labels()
returns trigger
language plpgsql
stable
set search_path = ''
as $$
declare
  asking record;
begin
  select slo.slo_name, key.name
  into asking
  from ops.slos as slo
  cross join lateral (
    select jsonb_object_keys(slo.total_labels || slo.good_labels || coalesce(slo.bad_labels, '{}'))
    union all
    select unnest(slo.group_by)
  ) as key (name)
  where slo.event_type = new.event_type
    and key.name <> 'team'
    and key.name = any (old.label_keys)
    and key.name <> all (new.label_keys)
  order by 1, 2
  limit 1;
  if asking.slo_name is not null then
    raise exception 'the objective % counts events of type % by the label %', asking.slo_name, new.event_type, asking.name
      using errcode = 'OP001', hint = 'Change or delete the objective first: it would have no data any more.';
  end if;
  return new;
end;
$$;

create or replace function ops.is_same_promise(slo ops.slos, other ops.slos)
returns boolean
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
immutable
set search_path = ''
as $$
begin
  return (
    slo.service, slo.objective, slo.event_type, slo.target, slo.threshold_ms, slo.rolling_window, slo.calendar_period, slo.time_zone,
    slo.budgeting_method, slo.time_slice, slo.slice_target, slo.expected_interval, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels,
    slo.is_enabled, slo.group_by
  ) is not distinct from (
    other.service, other.objective, other.event_type, other.target, other.threshold_ms, other.rolling_window, other.calendar_period,
    other.time_zone, other.budgeting_method, other.time_slice, other.slice_target, other.expected_interval, other.at_most,
    other.total_labels, other.good_labels, other.bad_labels, other.is_enabled, other.group_by
  );
end;
$$;

create or replace function ops.require_sli(slo ops.slos)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.slis;
begin
  counted.event_type := slo.event_type;
  counted.objective := slo.objective;
  counted.threshold_ms := slo.threshold_ms;
  counted.at_most := slo.at_most;
  counted.total_labels := slo.total_labels;
  counted.good_labels := slo.good_labels;
  counted.bad_labels := slo.bad_labels;
  counted.group_by := slo.group_by;
  counted.sli_id := ops.sli_key(
    slo.event_type, slo.objective, slo.threshold_ms, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels, slo.group_by
  );
  -- An SLI has nothing to fill while nothing has been counted; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  counted.counted_since := '-infinity';
  counted.filled_until := case
    when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
    else timestamptz '-infinity'
  end;
  insert into ops.slis select counted.* on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  perform
  from ops.slis as sli
  where sli.sli_id = counted.sli_id
    and to_jsonb(sli) - array['filled_until', 'counted_since'] = to_jsonb(counted) - array['filled_until', 'counted_since'];
  if not found then
    raise exception 'the objective % has the key % of another way of counting', slo.slo_name, counted.sli_id
      using errcode = 'OP001', hint = 'Change its threshold or a label a little: the chance of this is 1 in 10^19.';
  end if;
  return counted.sli_id;
end;
$$;

alter table ops.slo_exclusions add column slo_group jsonb not null default '{}';
alter table ops.slo_exclusions add constraint slo_exclusions_slo_group_is_an_object check (jsonb_typeof(slo_group) = 'object');
comment on column ops.slo_exclusions.slo_group is 'The group of the objective that it concerns; {}: all of them.';

create or replace view ops.excluded_times
with (security_invoker = true)
as
with joined as (
  select
    exclusion.org_id,
    exclusion.slo_name,
    exclusion.slo_group,
    range_agg(tstzrange(
      date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00'),
      date_bin('5 minutes', exclusion.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
    )) as stretches
  from ops.slo_exclusions as exclusion
  group by 1, 2, 3
)
select
  joined.org_id,
  joined.slo_name,
  lower(stretch) as since,
  upper(stretch) as until,
  joined.slo_group
from joined
left join joined as of_all
  on joined.slo_group <> '{}'
  and of_all.org_id = joined.org_id
  and of_all.slo_name = joined.slo_name
  and of_all.slo_group = '{}'
cross join unnest(joined.stretches - coalesce(of_all.stretches, '{}')) as stretch;
comment on view ops.excluded_times is
  'One row per uninterrupted time that an objective''s account leaves out: the five minutes that exclusions touch, each once however many exclusions overlap there. Of a group only what is not left out of all groups ({}) already.';

create function ops.exclude_from_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  reason text,
  author text,
  org_id uuid default '00000000-0000-0000-0000-000000000000'::uuid,
  slo_group jsonb default '{}'
)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  exclusion_id bigint;
begin
  if not exists (select from ops.slos where slos.slo_name = exclude_from_slo.slo_name) then
    raise exception 'there is no objective %', coalesce(exclude_from_slo.slo_name, '')
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  if (
    isfinite(exclude_from_slo.since) and isfinite(exclude_from_slo.until)
    and exclude_from_slo.since < exclude_from_slo.until
    and exclude_from_slo.since + interval '366 days' >= exclude_from_slo.until
  ) is not true then
    raise exception 'the time to leave out is empty or longer than a year: % to %', exclude_from_slo.since, exclude_from_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  if coalesce(btrim(exclude_from_slo.reason), '') = '' or coalesce(btrim(exclude_from_slo.author), '') = '' then
    raise exception 'an exclusion needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: budgets are read by others.';
  end if;
  perform ops.require_group(exclude_from_slo.slo_name, exclude_from_slo.slo_group);
  insert into ops.slo_exclusions (org_id, slo_name, since, until, reason, author, slo_group)
  values (
    exclude_from_slo.org_id, exclude_from_slo.slo_name, exclude_from_slo.since, exclude_from_slo.until,
    exclude_from_slo.reason, exclude_from_slo.author, exclude_from_slo.slo_group
  )
  returning slo_exclusions.slo_exclusion_id into exclusion_id;
  return exclusion_id;
end;
$$;
comment on function ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid, jsonb) is
  'Leaves a time out of an objective''s account for one org, or out of that of one of its groups; returns the number of the exclusion.';

create function ops.overflow_group()
returns jsonb
language sql
immutable
set search_path = ''
return jsonb '{"overflow": true}';
comment on function ops.overflow_group() is
  'The group of all that lies beyond the first groups of an SLI; labels are texts, so that none has this value. The word is OpenTelemetry''s for measurements beyond a cardinality limit.';

create function ops.most_groups()
returns integer
language sql
immutable
set search_path = ''
return 1000;
comment on function ops.most_groups() is 'How many groups an SLI has for an org at most, the overflow aside.';

create function ops.label_group(labels jsonb, group_by text[])
returns jsonb
language sql
immutable
set search_path = ''
return (
  select jsonb_object_agg(key.name, label_group.labels -> key.name)
  from unnest(label_group.group_by) as key (name)
);
comment on function ops.label_group(jsonb, text[]) is
  'The group of an event with these labels: their values by key, null where the event has none; null without keys.';

create function ops.group_key(sli_id bigint, slo_group jsonb)
returns bigint
language sql
immutable
set search_path = ''
return case
  when slo_group = '{}' then sli_id
  else ('x' || encode(substring(sha256(convert_to(sli_id || ':' || slo_group::text, 'UTF8')) from 1 for 8), 'hex'))::bit(64)::bigint
end;
comment on function ops.group_key(bigint, jsonb) is
  'The key under which a group of an SLI is counted: the first 8 bytes of the SHA-256 of both; {} is all of the SLI, under its own key.';

create function ops.group_name(slo_group jsonb)
returns text
language sql
immutable
set search_path = ''
return case
  when slo_group = ops.overflow_group() then 'overflow'
  else (
    select string_agg(
      label.key || '=' || coalesce(case when label.value = '' or label.value ~ '[\u0001-\u0020"\\]' then to_json(label.value)::text else label.value end, ''),
      ' '
      order by label.key collate "C"
    )
    from jsonb_each_text(group_name.slo_group) as label
  )
end;
comment on function ops.group_name(jsonb) is
  'A group in a line, by which no other is called: workflow=release, workflow="nightly build" (a value with blanks or quotes, and an empty one, as JSON), with nothing after the sign where events have no such label; overflow; null of {}.';

create table ops.sli_groups (
  org_id uuid not null,
  of_sli_id bigint not null,
  slo_group jsonb not null,
  sli_id bigint not null,
  constraint sli_groups_pkey primary key (org_id, of_sli_id, slo_group),
  constraint sli_groups_org_id_sli_id_key unique (org_id, sli_id),
  constraint sli_groups_sli_id_is_the_digest_of_the_group check (sli_id = ops.group_key(of_sli_id, slo_group))
);
comment on table ops.sli_groups is 'One row an org and group in which an SLI has counted something.';
comment on column ops.sli_groups.org_id is 'The tenant.';
comment on column ops.sli_groups.of_sli_id is 'The SLI.';
comment on column ops.sli_groups.slo_group is
  'The values of its labels by key: {"workflow": "release"}, null where events have no such label; {"overflow": true}: all beyond the first 1,000 groups.';
comment on column ops.sli_groups.sli_id is 'The key under which the group is counted, as sli_id of counts, days and units of work.';
alter table ops.sli_groups enable row level security;

create view ops.counted_slis
with (security_invoker = true)
as
select
  sli.sli_id as counted_as,
  sli.event_type,
  sli.objective,
  sli.total_labels,
  sli.good_labels,
  sli.bad_labels,
  sli.group_by
from ops.slis as sli
union
select sli_group.sli_id, sli.event_type, sli.objective, sli.total_labels, sli.good_labels, sli.bad_labels, sli.group_by
from ops.sli_groups as sli_group
join ops.slis as sli
  on sli.sli_id = sli_group.of_sli_id;
comment on view ops.counted_slis is 'One row a key under which something is counted (counted_as): an SLI, or a group of an SLI, with the definition of the SLI.';

create type ops.seen_group as (
  org_id uuid,
  of_sli_id bigint,
  slo_group jsonb
);
comment on type ops.seen_group is 'A group of an SLI that is new: events of an org are about to be counted in it.';

create function ops.placed_groups(seen ops.seen_group[])
returns table (org_id uuid, of_sli_id bigint, own_id bigint, counted_in jsonb, sli_id bigint)
language sql
stable
set search_path = ''
begin atomic
  select
    placed.org_id,
    placed.of_sli_id,
    ops.group_key(placed.of_sli_id, placed.slo_group),
    placed.counted_in,
    ops.group_key(placed.of_sli_id, placed.counted_in)
  from (
    select
      one.org_id,
      one.of_sli_id,
      one.slo_group,
      case
        when row_number() over (partition by one.org_id, one.of_sli_id order by one.place) + coalesce(before.groups, 0) <= ops.most_groups()
          then one.slo_group
        else ops.overflow_group()
      end as counted_in
    from unnest(placed_groups.seen) with ordinality as one (org_id, of_sli_id, slo_group, place)
    left join (
      select counted.org_id, counted.of_sli_id, count(*) filter (where counted.slo_group <> ops.overflow_group()) as groups
      from ops.sli_groups as counted
      group by 1, 2
    ) as before
      on before.org_id = one.org_id
      and before.of_sli_id = one.of_sli_id
  ) as placed;
end;
comment on function ops.placed_groups(ops.seen_group[]) is
  'In which group each of a list of new ones (every group once, in the order of their first events) is counted, and under which key: in itself (own_id), or beyond the first groups of its SLI in the overflow.';

create function ops.require_group(slo_name text, slo_group jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  keys constant text[] := (select slo.group_by from ops.slos as slo where slo.slo_name = require_group.slo_name);
begin
  if slo_group is null or jsonb_typeof(slo_group) <> 'object' then
    raise exception 'a group is an object of labels, not %', coalesce(slo_group::text, 'null')
      using errcode = 'OP001', hint = 'Pass {"workflow": "release"}, or {} for all of the objective.';
  end if;
  if slo_group not in ('{}', ops.overflow_group()) and array(select key from jsonb_object_keys(slo_group) as key order by key collate "C") <> keys
    or slo_group = ops.overflow_group() and keys = '{}'
  then
    raise exception 'the objective % has no group %', slo_name, ops.group_name(slo_group)
      using errcode = 'OP001',
        hint = case keys when '{}' then 'It has no groups.' else format('It is grouped by %s.', array_to_string(keys, ' and ')) end;
  end if;
end;
$$;
comment on function ops.require_group(text, jsonb) is 'Refuses what is no group of an objective as it stands; {} is all of it.';

create or replace view ops.sli_kinds
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
      from ops.slis as same_kind
      cross join lateral (
        select jsonb_object_keys(same_kind.total_labels || same_kind.good_labels || coalesce(same_kind.bad_labels, '{}'))
        union all
        select unnest(same_kind.group_by)
      ) as key (name)
      where same_kind.event_type = sli.event_type
    ) as keys
  from ops.slis as sli
  group by 1
) as asked
left join ops.event_types as kind
  on kind.event_type = asked.event_type;
comment on view ops.sli_kinds is
  'One row per kind of event that an SLI counts: the keys of labels that filters and groups ask for (null: none does), and the key of the value.';

create function ops.fitting_slis(seen ops.sli_labels[], sli_ids bigint[])
returns table (sli ops.slis, labels ops.sli_labels, fits_good boolean, fits_bad boolean, slo_group jsonb, counted_as bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    counting,
    combination.labels,
    ops.labels_fit(combination.named, counting.good_labels),
    case when counting.bad_labels is not null then ops.labels_fit(combination.named, counting.bad_labels) end,
    own.slo_group,
    coalesce(ops.group_key(counting.sli_id, own.slo_group), counting.sli_id)
  from (
    select
      one as labels,
      one.event_type,
      jsonb_strip_nulls(jsonb_object(
        array[coalesce(kind.key_1, '1'), coalesce(kind.key_2, '2'), coalesce(kind.key_3, '3'), coalesce(kind.key_4, '4'), 'team'],
        array[one.label_1, one.label_2, one.label_3, one.label_4, one.team]
      )) as named
    from unnest(seen) as one
    join ops.sli_kinds as kind
      on kind.event_type = one.event_type
    offset 0
  ) as combination
  join ops.slis as counting
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
comment on function ops.fitting_slis(ops.sli_labels[], bigint[]) is
  'Which of the SLIs count events of each combination of labels, and whether these are labels of good and (null: the SLI does not say) of bad events; slo_group is the group of these labels, null where the SLI has none, and counted_as the key of the group, else of the SLI.';

create or replace view ops.slo_counts
with (security_invoker = true)
as
select
  bucket.org_id,
  version.slo_name,
  version.version,
  bucket.bucket_start,
  bucket.good,
  bucket.total,
  coalesce(sli_group.slo_group, '{}') as slo_group
from ops.sli_counts as bucket
left join ops.sli_groups as sli_group
  on sli_group.org_id = bucket.org_id
  and sli_group.sli_id = bucket.sli_id
join ops.slo_versions as version
  on version.sli_id = coalesce(sli_group.of_sli_id, bucket.sli_id)
where version.valid_until = 'infinity';
comment on view ops.slo_counts is 'One row an org, objective as it stands now (each group of it) and five minutes in which something was counted.';
comment on type ops.sli_delta is
  'What is to be added to one row of ops.sli_counts; negative where a unit of work moves. Of a new group also its SLI and the group, else null.';

create function ops.count_attempts(
  after_id bigint,
  until_id bigint,
  since timestamptz,
  until timestamptz,
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- The planner takes the groups for a few; it would then loop over all pairs of them and the SLIs.
set enable_nestloop = off
set enable_mergejoin = off
-- And their groups for ten times as many as there are; it would sort them by texts, on disk.
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if not exists (select from public.telemetry_events as event where event.id > after_id and event.id <= count_attempts.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select delta.*
      from ops.count_attempts(after_id, until_id, since, least(count_attempts.until, stretch.filled_until), stretch.sli_ids) as delta;
    end loop;
    return;
  end if;
  return query
  with limits as materialized (
    select found.* from ops.sli_limits(sli_ids) as found
  ),
  -- Events of the same outcome between the same limits (a class) are good for the same SLIs: the smallest of them stands for all.
  grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      date_bin('5 minutes', event.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
      event.event_type,
      (
        case event.outcome when 'success' then 1 when 'failure' then 2 else 0 end * 1000000::bigint
        + coalesce(width_bucket(event.duration_ms, limits.thresholds_ms) + 1, 0)
      ) * 1000000 + coalesce(width_bucket(-event.value, limits.negative_limits) + 1, 0) as class,
      min(event.outcome) as outcome,
      min(event.duration_ms) as duration_ms,
      min(event.value) as value,
      count(*) as events,
      min(event.id) as first_id
    from ops.sli_events as event
    join limits
      on limits.event_type = event.event_type
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < count_attempts.until
    group by
      event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, 3, class
  ),
  -- Columns and not the whole row, which would be taken apart for each group again.
  fitting as materialized (
    select
      found.labels,
      found.fits_good,
      found.fits_bad,
      found.slo_group,
      found.counted_as,
      (found.sli).sli_id as sli_id,
      (found.sli).event_type as event_type,
      (found.sli).objective as objective,
      (found.sli).threshold_ms as threshold_ms,
      (found.sli).at_most as at_most,
      -- The ways in which labels fit an SLI, by number.
      dense_rank() over (order by (found.sli).sli_id, found.fits_good, found.fits_bad) as fit
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective <> 'availability'
  ),
  -- Judged once a class and way: an SLI has a few of these, and ten times as many groups of events.
  verdicts as materialized (
    select way.fit, class.class, judged.is_good
    from (
      select distinct fitting.fit, fitting.event_type, fitting.objective, fitting.threshold_ms, fitting.at_most, fitting.fits_good, fitting.fits_bad
      from fitting
    ) as way
    join (
      select
        grouped.event_type,
        grouped.class,
        min(grouped.outcome) as outcome,
        min(grouped.duration_ms) as duration_ms,
        min(grouped.value) as value
      from grouped
      group by 1, 2
    ) as class
      on class.event_type = way.event_type
    cross join lateral (
      select
        ops.sli_verdict(
          way.objective, class.outcome, class.duration_ms, class.value, way.threshold_ms, way.at_most, way.fits_good, way.fits_bad
        ) as is_good
      offset 0
    ) as judged
    where judged.is_good is not null
  ),
  counted as materialized (
    select
      grouped.org_id,
      fitting.counted_as,
      grouped.bucket_start,
      coalesce(sum(grouped.events) filter (where verdicts.is_good), 0)::bigint as good,
      sum(grouped.events)::bigint as total,
      min(grouped.first_id) as first_id
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    join verdicts
      on verdicts.fit = fitting.fit
      and verdicts.class = grouped.class
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from counted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.bucket_start) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select counted.org_id, counted.counted_as, counted.bucket_start, counted.good, counted.total, null::bigint, null::jsonb
  from counted
  left join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  where placed.own_id is null
  union all
  select counted.org_id, placed.sli_id, counted.bucket_start, sum(counted.good)::bigint, sum(counted.total)::bigint, placed.of_sli_id, placed.counted_in
  from counted
  join placed
    on placed.org_id = counted.org_id
    and placed.own_id = counted.counted_as
  group by counted.org_id, placed.sli_id, counted.bucket_start, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[], boolean) is
  'Good and total of the SLIs that count events, availability aside, over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all. Which groups are the first is decided by id, or by time where a history is filled in stretches of time, so that the length of passes and stretches changes nothing.';

create or replace function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_groups (org_id, of_sli_id, slo_group, sli_id)
  select distinct delta.org_id, delta.of_sli_id, delta.slo_group, delta.sli_id
  from unnest(add_slis.deltas) as delta
  where delta.of_sli_id is not null
  on conflict on constraint sli_groups_pkey do nothing;

  insert into ops.sli_counts as stored (org_id, sli_id, bucket_start, good, total)
  select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good between 0 and delta.total
  on conflict on constraint sli_counts_pkey do update set
    good = stored.good + excluded.good,
    total = stored.total + excluded.total;

  -- A late success or a unit that moves changes a row that is there; as an insert it would fail the check first.
  update ops.sli_counts as stored
  set good = stored.good + delta.good,
      total = stored.total + delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good not between 0 and delta.total
    and stored.org_id = delta.org_id
    and stored.sli_id = delta.sli_id
    and stored.bucket_start = delta.bucket_start;

  delete from ops.sli_counts as stored
  where stored.ctid = any (array(
    select found.ctid
    from unnest(add_slis.deltas) as delta
    cross join lateral (
      select known.ctid
      from ops.sli_counts as known
      where known.org_id = delta.org_id
        and known.sli_id = delta.sli_id
        and known.bucket_start = delta.bucket_start
        and known.total = 0
      offset 0
    ) as found
    where delta.total < 0
  ));
end;
comment on function ops.add_slis(ops.sli_delta[]) is 'Adds a delta to the SLI counts, and to the groups those that are new; only refresh and rebuild call it, once a delta.';

create or replace function ops.day_counts(since timestamptz, until timestamptz default 'infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    bucket.org_id,
    bucket.sli_id,
    date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
    sum(bucket.good)::bigint,
    sum(bucket.total)::bigint,
    null::bigint,
    null::jsonb
  from ops.sli_counts as bucket
  where bucket.bucket_start >= day_counts.since
    and bucket.bucket_start < day_counts.until
  group by 1, 2, 3;
end;

create or replace function ops.sum_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
  select summed.org_id, summed.sli_id, summed.bucket_start, summed.good, summed.total
  from ops.day_counts(sum_sli_days.since, sum_sli_days.until) as summed
  on conflict on constraint sli_days_pkey do update set
    good = excluded.good,
    total = excluded.total;
end;
comment on type ops.unit_delta is 'What a set of attempts says about a unit of work of an SLI; of a new group also its SLI and the group, else null.';

create function ops.count_units(
  after_id bigint,
  until_id bigint,
  since timestamptz default '-infinity',
  until timestamptz default 'infinity',
  sli_ids bigint[] default null,
  in_order_of_time boolean default false
)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_nestloop = off
set enable_mergejoin = off
set enable_sort = off
set work_mem = '64MB'
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if not exists (select from public.telemetry_events as event where event.id > after_id and event.id <= count_units.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select unit.*
      from ops.count_units(after_id, until_id, since, least(count_units.until, stretch.filled_until), stretch.sli_ids) as unit;
    end loop;
    return;
  end if;
  return query
  with grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      event.unit,
      min(event.event_timestamp) as first_attempt_at,
      bool_or(event.outcome = 'success') as succeeded,
      min(event.id) as first_id
    from ops.sli_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < count_units.until
      and event.outcome is not null
      and event.event_type in (
        select sli.event_type from ops.slis as sli where sli.sli_id = any (sli_ids) and sli.objective = 'availability'
      )
    group by event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, event.unit
  ),
  fitting as materialized (
    select (found.sli).sli_id, found.labels, found.slo_group, found.counted_as
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective = 'availability'
  ),
  attempted as materialized (
    select
      grouped.org_id,
      grouped.unit,
      fitting.counted_as,
      min(grouped.first_attempt_at) as first_attempt_at,
      bool_or(grouped.succeeded) as succeeded,
      min(grouped.first_id) as first_id
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    group by 1, 2, 3
  ),
  placed as materialized (
    select found.*
    from ops.placed_groups(array(
      select row(seen.org_id, own.sli_id, own.slo_group)::ops.seen_group
      from attempted as seen
      join (select distinct fitting.counted_as, fitting.sli_id, fitting.slo_group from fitting where fitting.slo_group is not null) as own
        on own.counted_as = seen.counted_as
      left join ops.sli_groups as known
        on known.org_id = seen.org_id
        and known.sli_id = seen.counted_as
      where known.sli_id is null
      group by seen.org_id, own.sli_id, own.slo_group
      order by case when in_order_of_time then min(seen.first_attempt_at) end, min(seen.first_id), own.slo_group
    )) as found
    where exists (select from fitting where fitting.slo_group is not null)
  )
  select attempted.org_id, attempted.unit, attempted.first_attempt_at, attempted.succeeded, attempted.counted_as, null::bigint, null::jsonb
  from attempted
  left join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  where placed.own_id is null
  union all
  select
    attempted.org_id, attempted.unit, min(attempted.first_attempt_at), bool_or(attempted.succeeded), placed.sli_id, placed.of_sli_id, placed.counted_in
  from attempted
  join placed
    on placed.org_id = attempted.org_id
    and placed.own_id = attempted.counted_as
  group by attempted.org_id, attempted.unit, placed.sli_id, placed.of_sli_id, placed.counted_in;
end;
$$;
comment on function ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[], boolean) is
  'The units of work that the given events attempt, by availability SLI: of each SLI what lies before filled_until, or of sli_ids all; groups as in ops.count_attempts.';

create or replace function ops.changed_units(units ops.unit_delta[])
returns setof ops.unit_change
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.unit,
    stored.first_attempt_at,
    stored.succeeded,
    least(stored.first_attempt_at, unit.first_attempt_at),
    coalesce(stored.succeeded, false) or unit.succeeded,
    unit.sli_id,
    unit.of_sli_id,
    unit.slo_group
  from unnest(changed_units.units) as unit
  -- Units are looked up one by one: a join may read all units that ever were, and the cost must follow the new ones.
  left join lateral (
    select work_unit.first_attempt_at, work_unit.succeeded
    from ops.work_units as work_unit
    where work_unit.org_id = unit.org_id
      and work_unit.sli_id = unit.sli_id
      and work_unit.unit = unit.unit
    limit 1
  ) as stored on true
  -- Most attempts at a unit that is known change nothing: a later check of a good release, a retry that failed again.
  where stored.first_attempt_at is null
    or unit.first_attempt_at < stored.first_attempt_at
    or (unit.succeeded and not stored.succeeded);
end;

create or replace function ops.unit_slis(changes ops.unit_change[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with moved as (
    select change.org_id, change.sli_id, change.first_attempt_at, change.succeeded::integer as good, 1 as total, change.of_sli_id, change.slo_group
    from unnest(unit_slis.changes) as change
    union all
    select change.org_id, change.sli_id, change.old_first_attempt_at, -change.old_succeeded::integer, -1, change.of_sli_id, change.slo_group
    from unnest(unit_slis.changes) as change
    where change.old_first_attempt_at is not null
  )
  select
    moved.org_id,
    moved.sli_id,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint,
    moved.of_sli_id,
    moved.slo_group
  from moved
  group by 1, 2, 3, moved.of_sli_id, moved.slo_group
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;

create or replace function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_groups (org_id, of_sli_id, slo_group, sli_id)
  select distinct change.org_id, change.of_sli_id, change.slo_group, change.sli_id
  from unnest(write_units.changes) as change
  where change.of_sli_id is not null
  on conflict on constraint sli_groups_pkey do nothing;

  -- In the order of their index, and without looking for conflicts that cannot be: a quarter less time for many new units.
  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is null
  order by change.org_id, change.sli_id, change.unit;

  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is not null
  on conflict on constraint work_units_pkey do update set
    first_attempt_at = excluded.first_attempt_at,
    succeeded = excluded.succeeded;
end;
comment on function ops.write_units(ops.unit_change[]) is
  'Writes changed units of work, and the groups that are new; only refresh, rebuild and fill_slis call it, under the lock under which the changes were found.';

create or replace function ops.unit_counts(since timestamptz default '-infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*),
    null::bigint,
    null::jsonb
  from ops.work_units as unit
  where unit.first_attempt_at >= unit_counts.since
  group by 1, 2, 3;
end;

create or replace function ops.recount_units()
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.sli_id not in (select sli.counted_as from ops.counted_slis as sli where sli.objective <> 'availability');

  insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)
  select counted.org_id, counted.sli_id, counted.bucket_start, counted.good, counted.total
  from ops.unit_counts() as counted;
end;

create or replace function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  last_id bigint;
  stretch record;
  changes ops.unit_change[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  last_id := ops.cursor_id();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.add_slis(array(
      select delta from ops.count_attempts(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids, true) as delta
    ));
    changes := array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids, true) as attempted
      )) as changed
    );
    perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
    perform ops.write_units(changes);
    update ops.slis
    set filled_until = fill_slis.until,
        -- Events that retention removed before they were counted are missing for good.
        counted_since = greatest(
          slis.counted_since,
          (
            select removed.removed_until
            from ops.removed_events as removed
            where removed.event_type = slis.event_type
              and removed.removed_until > stretch.since
          )
        )
    where slis.sli_id = any (stretch.sli_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;

create function ops.groups_of_slis(org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
returns table (org_id uuid, of_sli_id bigint, slo_group jsonb, sli_id bigint)
language sql
stable
set search_path = ''
begin atomic
  with grouped as materialized (
    select stored.org_id, stored.of_sli_id, stored.slo_group, stored.sli_id
    from ops.sli_groups as stored
    where stored.org_id = any (groups_of_slis.org_ids)
      and stored.of_sli_id = any (groups_of_slis.sli_ids)
    union
    select delta.org_id, delta.of_sli_id, delta.slo_group, delta.sli_id
    from unnest(groups_of_slis.fresh) as delta
    where delta.org_id = any (groups_of_slis.org_ids)
      and delta.of_sli_id = any (groups_of_slis.sli_ids)
  )
  select grouped.org_id, grouped.of_sli_id, grouped.slo_group, grouped.sli_id
  from grouped
  union all
  select org.id, sli.id, '{}', sli.id
  from unnest(groups_of_slis.org_ids) as org (id)
  cross join unnest(groups_of_slis.sli_ids) as sli (id)
  where not exists (select from grouped where grouped.org_id = org.id and grouped.of_sli_id = sli.id);
end;
comment on function ops.groups_of_slis(uuid[], bigint[], ops.sli_delta[]) is
  'One row per org, SLI of the lists and group in which it has counted something, fresh counts included, with the key of its counts; {} is the group of an SLI that has no groups, or nothing in any.';
comment on type ops.slo_span is
  'A time over which to sum what a version of an objective counts, or a group of it ({}: all): the five minutes that begin in it.';

create or replace function ops.counted_spans(spans ops.slo_span[])
returns setof ops.counted_span
language sql
stable
set search_path = ''
begin atomic
  select
    span.place,
    span.org_id,
    span.slo_name,
    span.version,
    span.since,
    span.until,
    ops.group_key(version.sli_id, span.slo_group),
    version.time_slice,
    version.slice_target,
    -- -infinity and infinity are days of their own.
    date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00'),
    date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00'),
    span.slo_group
  from unnest(counted_spans.spans) with ordinality as span (org_id, slo_name, version, since, until, slo_group, place)
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version;
end;

create or replace function ops.changed_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}')
returns setof ops.slo_count
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with asked as materialized (
    select span.place, span.org_id, span.slo_name, span.slo_group, span.sli_id, span.since, span.until
    from unnest(changed_counts.spans) as span
  ),
  fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(changed_counts.fresh) as delta
  )
  select asked.place, fresh.bucket_start, fresh.good, fresh.total, fresh.good, fresh.total
  from asked
  join fresh
    on fresh.org_id = asked.org_id
    and fresh.sli_id = asked.sli_id
    and fresh.bucket_start >= asked.since
    and fresh.bucket_start < asked.until
  union all
  select asked.place, bucket.bucket_start, -bucket.good, -bucket.total, 0, 0
  from asked
  join ops.excluded_times as excluded
    on excluded.org_id = asked.org_id
    and excluded.slo_name = asked.slo_name
    and excluded.slo_group in ('{}', asked.slo_group)
    and excluded.until > asked.since
    and excluded.since < asked.until
  cross join lateral (
    select stored.bucket_start, stored.good, stored.total
    from ops.sli_counts as stored
    where stored.org_id = asked.org_id
      and stored.sli_id = asked.sli_id
      and stored.bucket_start >= greatest(excluded.since, asked.since)
      and stored.bucket_start < least(excluded.until, asked.until)
    union all
    select fresh.bucket_start, fresh.good, fresh.total
    from fresh
    where fresh.org_id = asked.org_id
      and fresh.sli_id = asked.sli_id
      and fresh.bucket_start >= greatest(excluded.since, asked.since)
      and fresh.bucket_start < least(excluded.until, asked.until)
  ) as bucket;
end;

create or replace function ops.slice_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}', zone text default null)
returns setof ops.slo_count
language sql
stable
set search_path = ''
set jit = off
begin atomic
  -- One change per slice, so that its maximum below is its sum: sums of bigint are what costs here.
  with changes as (
    select
      change.place,
      date_bin(span.time_slice, change.starts_at, timestamptz '1969-12-29 00:00+00') as starts_at,
      sum(change.good)::bigint as good,
      sum(change.total)::bigint as total,
      sum(change.good_unadjusted)::bigint as good_unadjusted,
      sum(change.total_unadjusted)::bigint as total_unadjusted
    from ops.changed_counts(slice_counts.spans, slice_counts.fresh) as change
    join unnest(slice_counts.spans) as span
      on span.place = change.place
    where cardinality(slice_counts.fresh) > 0
      or exists (select from ops.slo_exclusions)
    group by 1, 2
  ),
  added as materialized (
    select changes.place, array_agg(row(changes.*)::ops.slo_count) as counts
    from changes
    group by 1
  )
  select span.place, judged.starts_at, judged.good, judged.total, judged.good_unadjusted, judged.total_unadjusted
  from unnest(slice_counts.spans) as span
  left join added
    on added.place = span.place
  cross join lateral (
    with slices as (
      select
        date_bin(span.time_slice, counted.starts_at, timestamptz '1969-12-29 00:00+00') as starts_at,
        sum(counted.good) as good,
        sum(counted.total) as total,
        max(counted.good_left_out) as good_left_out,
        max(counted.total_left_out) as total_left_out
      from (
        select bucket.bucket_start as starts_at, bucket.good, bucket.total, null::bigint as good_left_out, null::bigint as total_left_out
        from ops.sli_counts as bucket
        where bucket.org_id = span.org_id
          and bucket.sli_id = span.sli_id
          and bucket.bucket_start >= span.since
          and bucket.bucket_start < span.until
        union all
        select change.starts_at, change.good, change.total, change.good_unadjusted - change.good, change.total_unadjusted - change.total
        from unnest(added.counts) as change
      ) as counted
      group by 1
    ),
    judged as (
      select slices.*, slices.total > 0 as counts, slices.total > 0 and slices.good >= span.slice_target * slices.total as is_good
      from slices
      where slices.total + coalesce(slices.total_left_out, 0) > 0
      -- A barrier: without it each slice is judged twice.
      offset 0
    )
    select
      case when slice_counts.zone is not null then date_trunc('day', judged.starts_at, slice_counts.zone) end as starts_at,
      count(*) filter (where judged.is_good) as good,
      count(*) filter (where judged.counts) as total,
      count(*) filter (
        where case
          when judged.total_left_out is null then judged.is_good
          else judged.good + judged.good_left_out >= span.slice_target * (judged.total + judged.total_left_out)
        end
      ) as good_unadjusted,
      count(*) as total_unadjusted
    from judged
    group by 1
    offset 0
  ) as judged;
end;

create function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  slo_group jsonb
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  -- A step without anything to do is not called: planning it takes longer than a small sum.
  with asked as materialized (
    select span.* from ops.counted_spans(sum_slos.spans) as span
  ),
  changed as materialized (
    select
      change.place,
      sum(change.good)::bigint as good,
      sum(change.total)::bigint as total,
      sum(change.good_unadjusted)::bigint as good_unadjusted,
      sum(change.total_unadjusted)::bigint as total_unadjusted
    from ops.changed_counts(
      array(select row(asked.*)::ops.counted_span from asked where asked.time_slice is null), sum_slos.fresh
    ) as change
    where exists (select from asked where asked.time_slice is null)
      and (cardinality(sum_slos.fresh) > 0 or exists (select from ops.slo_exclusions))
    group by 1
  ),
  sliced as materialized (
    select slices.place, slices.good, slices.total, slices.good_unadjusted, slices.total_unadjusted
    from ops.slice_counts(
      array(select row(asked.*)::ops.counted_span from asked where asked.time_slice is not null), sum_slos.fresh
    ) as slices
    where exists (select from asked where asked.time_slice is not null)
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    asked.since,
    asked.until,
    coalesce(sliced.good, coalesce(stored.good, 0) + coalesce(changed.good, 0)),
    coalesce(sliced.total, coalesce(stored.total, 0) + coalesce(changed.total, 0)),
    coalesce(sliced.good_unadjusted, coalesce(stored.good, 0) + coalesce(changed.good_unadjusted, 0)),
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(changed.total_unadjusted, 0)),
    asked.slo_group
  from asked
  -- A sum and nothing else: this is where the time goes.
  cross join lateral (
    select sum(part.good)::bigint as good, sum(part.total)::bigint as total
    from (
      select day.good, day.total
      from ops.sli_days as day
      where day.org_id = asked.org_id
        and day.sli_id = asked.sli_id
        and day.day_start >= asked.first_day
        and day.day_start < asked.end_day
        and asked.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = asked.org_id
        and bucket.sli_id = asked.sli_id
        and bucket.bucket_start >= asked.since
        and bucket.bucket_start < least(asked.until, asked.first_day)
        and asked.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = asked.org_id
        and bucket.sli_id = asked.sli_id
        and bucket.bucket_start >= greatest(asked.first_day, asked.end_day)
        and bucket.bucket_start < asked.until
        and asked.time_slice is null
    ) as part
    offset 0
  ) as stored
  left join changed
    on changed.place = asked.place
  left join sliced
    on sliced.place = asked.place;
end;
comment on function ops.sum_slos(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of each span, in events or in time slices as the version says, exclusions applied and (unadjusted) not; fresh is added to what is stored. One row a span.';

create function ops.measured_slos(windows ops.slo_span[], as_of timestamptz, fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  burn_5m numeric,
  burn_30m numeric,
  burn_1h numeric,
  burn_6h numeric,
  burn_1d numeric,
  burn_3d numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with spans as materialized (
    select span.org_id, span.slo_name, span.slo_group, span.version, version.target, named.window_name, named.since, named.until
    from unnest(measured_slos.windows) as span
    join ops.slo_versions as version
      on version.slo_name = span.slo_name
      and version.version = span.version
    cross join lateral (
      select 'all' as window_name, span.since, span.until
      union all
      select burning.window_name, burning.since, burning.until
      from ops.burn_windows(measured_slos.as_of) as burning
    ) as named
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(
        select distinct row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans
      ),
      measured_slos.fresh
    ) as summed
  )
  select
    spans.org_id,
    spans.slo_name,
    max(sums.good) filter (where spans.window_name = 'all'),
    max(sums.total) filter (where spans.window_name = 'all'),
    max(sums.good_unadjusted) filter (where spans.window_name = 'all'),
    max(sums.total_unadjusted) filter (where spans.window_name = 'all'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '5m'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '30m'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '1h'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '6h'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '1d'),
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '3d'),
    spans.slo_group
  from spans
  join sums
    on sums.org_id = spans.org_id
    and sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  group by 1, 2, spans.slo_group;
end;
comment on function ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]) is
  'One row per org and objective (or group of it) of the list: the counts of its whole window, exclusions applied and (unadjusted) not, and its burn rates as of an instant; fresh is added to what is stored.';

create function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted
    )) as changed
  )) as delta;
end;
comment on function ops.fresh_slis() is 'What the events behind the cursor add to the SLI counts, as the next refresh would.';

create or replace function ops.last_counts(as_of timestamptz, org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
returns table (org_id uuid, sli_id bigint, last_counted_at timestamptz)
language sql
stable
set search_path = ''
begin atomic
  with fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.total
    from unnest(last_counts.fresh) as delta
    where delta.bucket_start <= last_counts.as_of
  )
  select asked.org_id, asked.sli_id, newest.last_counted_at
  from unnest(last_counts.org_ids, last_counts.sli_ids) as asked (org_id, sli_id)
  cross join lateral (
    select max(counted.bucket_start) as last_counted_at
    from (
      (
        select bucket.bucket_start
        from ops.sli_counts as bucket
        where bucket.org_id = asked.org_id
          and bucket.sli_id = asked.sli_id
          and bucket.bucket_start <= last_counts.as_of
          and not exists (
            select
            from fresh
            where fresh.org_id = bucket.org_id
              and fresh.sli_id = bucket.sli_id
              and fresh.bucket_start = bucket.bucket_start
              and fresh.total = -bucket.total
          )
        order by bucket.bucket_start desc
        limit 1
      )
      union all
      select fresh.bucket_start
      from fresh
      where fresh.org_id = asked.org_id
        and fresh.sli_id = asked.sli_id
        and fresh.total > 0
    ) as counted
  ) as newest;
end;
comment on function ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]) is
  'The start of the last five minutes up to as_of in which each org counted something under the key at the same place of the lists, fresh counts included; null: never.';

create or replace function ops.orgs_with_objectives(fresh ops.sli_delta[] default '{}')
returns setof uuid
language sql
stable
set search_path = ''
begin atomic
  select series.org_id from ops.series
  union
  select delta.org_id from unnest(orgs_with_objectives.fresh) as delta
  union
  -- Before the first event there is the caller's org to show without data.
  select caller.org_id
  from (select ops.current_org_id() as org_id) as caller
  where caller.org_id is not null
    and not exists (select from ops.series);
end;

create function ops.evaluate_slos(as_of timestamptz, with_fresh boolean default true, slo_names text[] default null)
returns table (
  org_id uuid,
  slo_name text,
  service text,
  objective text,
  status text,
  target numeric,
  sli numeric,
  good bigint,
  total bigint,
  budget_left numeric,
  burn_rate_1h numeric,
  burn_rate_6h numeric,
  burn_rate_1d numeric,
  burn_rate_3d numeric,
  time_to_exhaustion interval,
  events_needed bigint,
  window_start timestamptz,
  evaluated_at timestamptz,
  version integer,
  budgeting_method text,
  window_length interval,
  last_counted_at timestamptz,
  good_unadjusted bigint,
  total_unadjusted bigint,
  budget_left_unadjusted numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where evaluate_slos.with_fresh) as deltas
  ),
  orgs as materialized (
    select array(select ops.orgs_with_objectives(fresh.deltas)) as ids from fresh
  ),
  promised as materialized (
    select
      held.*,
      2 * ops.in_hours(coalesce(held.expected_interval, (select ops.setting('expected_interval')::interval))) as silent_after
    from ops.slo_windows(evaluate_slos.as_of, evaluate_slos.slo_names) as held
  ),
  grouped as materialized (
    select found.*
    from fresh
    cross join orgs
    cross join lateral ops.groups_of_slis(orgs.ids, array(select distinct promised.sli_id from promised), fresh.deltas) as found
  ),
  measured as materialized (
    select found.*
    from fresh
    cross join lateral ops.measured_slos(
      array(
        select
          row(grouped.org_id, promised.slo_name, promised.version, promised.window_start, promised.window_end, grouped.slo_group)::ops.slo_span
        from grouped
        join promised
          on promised.sli_id = grouped.of_sli_id
      ),
      evaluate_slos.as_of,
      fresh.deltas
    ) as found
  ),
  newest as materialized (
    select found.*
    from fresh
    cross join (select array_agg(grouped.org_id) as org_ids, array_agg(grouped.sli_id) as sli_ids from grouped) as counted
    cross join lateral ops.last_counts(evaluate_slos.as_of, counted.org_ids, counted.sli_ids, fresh.deltas) as found
  ),
  jobs as materialized (
    select ops.last_refresh_at() as last_refresh_at, evaluate_slos.as_of - 2 * ops.refresh_interval() as stale_before
  )
  select
    measured.org_id,
    measured.slo_name,
    promised.service,
    promised.objective,
    ops.slo_status(
      measured.good,
      measured.total,
      promised.target,
      ops.is_burning(measured.burn_1h, measured.burn_5m, ops.alert_factor(0.02, promised.window_length, interval '1 hour'))
        or ops.is_burning(measured.burn_6h, measured.burn_30m, ops.alert_factor(0.05, promised.window_length, interval '6 hours')),
      -- From the start of its five minutes, so that two intervals are never exceeded.
      newest.last_counted_at < evaluate_slos.as_of - promised.silent_after,
      jobs.last_refresh_at,
      jobs.stale_before
    ),
    promised.target,
    measured.good::numeric / nullif(measured.total, 0),
    measured.good,
    measured.total,
    budget.remaining,
    measured.burn_1h,
    measured.burn_6h,
    measured.burn_1d,
    measured.burn_3d,
    ops.time_to_exhaustion(promised.window_length, measured.burn_1d, budget.remaining),
    greatest(ops.events_to_judge(promised.target) - measured.total, 0),
    promised.window_start,
    evaluate_slos.as_of,
    promised.version,
    promised.budgeting_method,
    promised.window_length,
    newest.last_counted_at,
    measured.good_unadjusted,
    measured.total_unadjusted,
    ops.budget_left(measured.good_unadjusted, measured.total_unadjusted, promised.target),
    measured.slo_group
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = ops.group_key(promised.sli_id, measured.slo_group)
  cross join lateral (
    select ops.budget_left(measured.good, measured.total, promised.target) as remaining offset 0
  ) as budget;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, or group of it, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data, stale), counts of its window, budget and burn rates; with_fresh adds the events behind the cursor; slo_names null: all.';

create function ops.daily_slos(spans ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  -- Asked once; asked for each of 15,000 slices it took 0.2 s.
  with zone as materialized (
    select ops.time_zone() as name
  ),
  asked as materialized (
    select span.*, span::ops.counted_span as span, zone.name as zone
    from ops.counted_spans(daily_slos.spans) as span
    cross join zone
  ),
  counted as (
    select asked.place, day.day_start as starts_at, day.good, day.total, day.good as good_unadjusted, day.total as total_unadjusted
    from asked
    join ops.sli_days as day
      on day.org_id = asked.org_id
      and day.sli_id = asked.sli_id
      and day.day_start >= asked.first_day
      and day.day_start < asked.end_day
    where asked.time_slice is null
      and asked.zone = 'UTC'
    union all
    select asked.place, bucket.bucket_start, bucket.good, bucket.total, bucket.good, bucket.total
    from asked
    -- The rest beside whole days: the edges, or all of it.
    cross join lateral (
      select asked.since, least(asked.until, asked.first_day) where asked.zone = 'UTC'
      union all
      select greatest(asked.first_day, asked.end_day), asked.until where asked.zone = 'UTC'
      union all
      select asked.since, asked.until where asked.zone <> 'UTC'
    ) as edge (since, until)
    -- A barrier: without it all five minutes of the SLI are read, 105,000 a year, and most are then left out.
    cross join lateral (
      select counts.bucket_start, counts.good, counts.total
      from ops.sli_counts as counts
      where counts.org_id = asked.org_id
        and counts.sli_id = asked.sli_id
        and counts.bucket_start >= edge.since
        and counts.bucket_start < edge.until
      offset 0
    ) as bucket
    where asked.time_slice is null
    union all
    select change.*
    from ops.changed_counts(array(select asked.span from asked where asked.time_slice is null)) as change
    union all
    select slices.*
    from ops.slice_counts(array(select asked.span from asked where asked.time_slice is not null), '{}', (select zone.name from zone)) as slices
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    date_trunc('day', counted.starts_at, asked.zone),
    sum(counted.good)::bigint,
    sum(counted.total)::bigint,
    sum(counted.good_unadjusted)::bigint,
    sum(counted.total_unadjusted)::bigint,
    asked.slo_group
  from counted
  join asked
    on asked.place = counted.place
  group by 1, 2, 3, 4, asked.slo_group
  having sum(counted.total_unadjusted) > 0;
end;
comment on function ops.daily_slos(ops.slo_span[]) is
  'Good and total of each span by day, in events or time slices as the version says, exclusions applied and (unadjusted) not; days without events have no row.';

create function ops.slo_history()
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  target numeric,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    version.target,
    daily.good,
    daily.total,
    daily.good_unadjusted,
    daily.total_unadjusted,
    daily.slo_group
  from ops.daily_slos(array(
    select row(grouped.org_id, version.slo_name, version.version, version.valid_from, version.valid_until, grouped.slo_group)::ops.slo_span
    from ops.groups_of_slis(
      array(select distinct series.org_id from ops.series),
      array(select distinct counting.sli_id from ops.slo_versions as counting)
    ) as grouped
    join ops.slo_versions as version
      on version.sli_id = grouped.of_sli_id
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version;
end;
comment on function ops.slo_history() is 'Good and total of each objective, or group of it, by day, each day by the version that held then.';

create function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  with spans as (
    select grouped.org_id, held.slo_name, held.version, held.window_start as since, held.window_end as until, grouped.slo_group
    from ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as held
    join ops.groups_of_slis(
      array(
        select distinct series.org_id
        from ops.series
        where slo_burndown.only_org_id is null
          or series.org_id = slo_burndown.only_org_id
      ),
      array(select distinct counting.sli_id from ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as counting)
    ) as grouped
      on grouped.of_sli_id = held.sli_id
  )
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    daily.good,
    daily.total,
    (daily.total - daily.good) / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    1 - sum(daily.total - daily.good) over so_far / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    daily.slo_group
  from ops.daily_slos(array(
    select row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version
  window
    whole as (partition by daily.org_id, daily.slo_name, daily.slo_group),
    so_far as (partition by daily.org_id, daily.slo_name, daily.slo_group order by daily.day_start);
end;
comment on function ops.slo_burndown(timestamptz, text[], uuid) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now. slo_names null: all objectives; only_org_id null: all orgs.';
comment on type ops.slo_account is
  'A version of an objective, or a group of it ({}: all), how it counts, under which key (sli_id), and a range in whole five minutes over which its budget is explained.';

create function ops.slo_account(slo_name text, since timestamptz, until timestamptz, slo_group jsonb default '{}')
returns ops.slo_account
language plpgsql
stable
set search_path = ''
as $$
declare
  account ops.slo_account;
begin
  select
    known.slo_name, known.version, known.target, known.time_slice, known.slice_target,
    ops.group_key(sli.sli_id, slo_account.slo_group), sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    date_bin('5 minutes', slo_account.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', slo_account.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
    sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels, sli.sli_id, sli.group_by, slo_account.slo_group
  into account
  from ops.slo_versions as known
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  where known.slo_name = slo_account.slo_name
    and known.valid_from < slo_account.until
  order by known.version desc
  limit 1;
  if account.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(slo_account.slo_name, ''), slo_account.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  return account;
end;
$$;
comment on function ops.slo_account(text, timestamptz, timestamptz, jsonb) is
  'The version of an objective that held at the end of a range, with how it counts and the five minutes that the range touches; refused where there was none.';

create or replace function ops.account_counts(account ops.slo_account, only_org_id uuid default null)
returns table (org_id uuid, bucket_start timestamptz, slice_start timestamptz, good bigint, total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    bucket.org_id,
    bucket.bucket_start,
    coalesce(date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), account.since),
    bucket.good,
    bucket.total
  from ops.sli_counts as bucket
  where bucket.sli_id = account.sli_id
    and (account_counts.only_org_id is null or bucket.org_id = account_counts.only_org_id)
    and bucket.bucket_start >= account.since
    and bucket.bucket_start < account.until
    and not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = bucket.org_id
        and excluded.slo_name = account.slo_name
        and excluded.slo_group in ('{}', account.slo_group)
        and excluded.since <= bucket.bucket_start
        and excluded.until > bucket.bucket_start
    );
end;
$$;

create function ops.is_of_group(account ops.slo_account, event ops.sli_events)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  own_group constant jsonb := ops.label_group(ops.named_labels(event), account.group_by);
begin
  if account.slo_group <> ops.overflow_group() then
    return own_group = account.slo_group;
  end if;
  return not exists (
    select
    from ops.sli_groups as counted
    where counted.org_id = event.org_id
      and counted.of_sli_id = account.of_sli_id
      and counted.slo_group = own_group
  );
end;
$$;
comment on function ops.is_of_group(ops.slo_account, ops.sli_events) is 'Whether an event is counted in the group of an account.';

create or replace function ops.is_admitted(account ops.slo_account, event ops.sli_events)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when ops.sli_verdict(account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most) is null
      then false
    when account.total_labels <> '{}' and not ops.labels_fit(ops.named_labels(event), account.total_labels) then false
    when account.group_by <> '{}' then ops.is_of_group(account, event)
    else true
  end;
end;
$$;

create or replace function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
begin
  if account.objective <> 'availability' then
    return query
    select judged.org_id, judged.event_timestamp, judged.event_timestamp, judged.event_id, judged.run_id, judged.tag, judged.reason
    from (
      select event.*, ops.lost_because(account, event) as reason
      from ops.sli_events as event
      where event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and event.event_timestamp >= account.since
        and event.event_timestamp < account.until
        and (stored_losses.only_org_id is null or event.org_id = stored_losses.only_org_id)
        -- Most events are good by themselves: only where labels can make them bad is each of these judged.
        and (
          account.good_labels <> '{}'
          or account.bad_labels is not null
          or case account.objective
            when 'latency' then event.duration_ms >= account.threshold_ms
            when 'measured' then event.value > account.at_most
            else event.outcome = 'failure'
          end
        )
        and ops.is_admitted(account, event)
      -- A barrier: each is judged once.
      offset 0
    ) as judged
    where judged.reason is not null;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.sli_id = account.sli_id
      and not unit.succeeded
      and unit.first_attempt_at >= account.since
      and unit.first_attempt_at < account.until
      and (stored_losses.only_org_id is null or unit.org_id = stored_losses.only_org_id)
  )
  select distinct on (lost_units.org_id, lost_units.unit)
    lost_units.org_id,
    lost_units.first_attempt_at,
    attempt.event_timestamp,
    attempt.event_id,
    attempt.run_id,
    attempt.tag,
    ops.loss_reason(account.objective, null, null)
  from lost_units
  join ops.sli_events as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and attempt.event_timestamp < account.filled_until
    and attempt.outcome is not null
    and (account.total_labels = '{}' and account.group_by = '{}' or ops.is_admitted(account, attempt))
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;

create or replace function ops.account_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text,
  slice_start timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as (
    select lost.*, date_bin('5 minutes', lost.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as lost
  ),
  -- An agent that has changed its team may show more losses than were counted; a rebuild makes them the same.
  stored as materialized (
    select placed.*
    from (
      select found.*, row_number() over (partition by found.org_id, found.bucket_start order by found.counted_at, found.event_id) as place
      from found
    ) as placed
    where placed.place <= (
      select bucket.total - bucket.good
      from ops.sli_counts as bucket
      where bucket.org_id = placed.org_id
        and bucket.sli_id = account.sli_id
        and bucket.bucket_start = placed.bucket_start
    )
  ),
  -- Events that retention removed were counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from ops.account_counts(account, account_losses.only_org_id) as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  )
  select
    bad.*,
    coalesce(date_bin(account.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'), account.since) as slice_start
  from (
    select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
    from stored
    where not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = stored.org_id
        and excluded.slo_name = account.slo_name
        and excluded.slo_group in ('{}', account.slo_group)
        and excluded.since <= stored.bucket_start
        and excluded.until > stored.bucket_start
    )
    union all
    select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
    from removed
    cross join generate_series(1, removed.missing)
  ) as bad;
end;
$$;

create function ops.explain_account(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric,
  slo_group jsonb
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with slices as materialized (
    select bucket.org_id, bucket.slice_start, sum(bucket.good) as good, sum(bucket.total) as total
    from ops.account_counts(account, explain_account.only_org_id) as bucket
    group by 1, 2
  ),
  budgets as (
    -- In time slices a slice is what counts, else an event is.
    select
      slices.org_id,
      ops.allowed_losses(
        case when account.time_slice is null then sum(slices.total) else count(*) filter (where slices.total > 0) end,
        account.target
      ) as allowed
    from slices
    group by 1
  ),
  placed as materialized (
    select lost.* from ops.account_losses(account, explain_account.only_org_id) as lost
  ),
  numbered as (
    select
      placed.*,
      row_number() over (partition by placed.org_id order by placed.counted_at, placed.event_id) as place,
      row_number() over (partition by placed.org_id, placed.slice_start order by placed.counted_at, placed.event_id) as place_in_slice,
      count(*) over (partition by placed.org_id, placed.slice_start) as bad_in_slice,
      dense_rank() over (partition by placed.org_id order by placed.slice_start) as slice_number
    from placed
    join slices
      on slices.org_id = placed.org_id
      and slices.slice_start = placed.slice_start
    where account.time_slice is null
      or slices.good < account.slice_target * slices.total
  ),
  weighed as (
    -- What had been lost after each event; the cost is the difference to the one before, so that costs add up exactly.
    select
      numbered.*,
      case
        when account.time_slice is null then numbered.place
        when numbered.place_in_slice = numbered.bad_in_slice then numbered.slice_number
        else numbered.slice_number - 1 + numbered.place_in_slice::numeric / numbered.bad_in_slice
      end as lost_so_far
    from numbered
  ),
  burnt as (
    select weighed.*, weighed.lost_so_far / budgets.allowed as consumed_so_far
    from weighed
    join budgets
      on budgets.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    account.version,
    burnt.event_timestamp,
    burnt.event_id,
    account.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0),
    account.slo_group
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_account(ops.slo_account, uuid) is
  'The counted events that burned the budget of an account, each with its share of it; the costs of an org add up to exactly its burn rate.';

create function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null,
  only_group jsonb default null
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
  cost numeric,
  slo_group jsonb
)
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_variable
declare
  account ops.slo_account;
  known jsonb[];
  explained jsonb;
begin
  if since is null or until is null or since >= until then
    raise exception 'the range to explain is empty: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  account := ops.slo_account(slo_name, since, until);
  known := case
    when account.group_by = '{}' then array[jsonb '{}']
    else array(
      select distinct counted.slo_group
      from ops.sli_groups as counted
      where counted.of_sli_id = account.of_sli_id
        and (only_org_id is null or counted.org_id = only_org_id)
      order by 1
    )
  end;
  if only_group <> all (known) then
    raise exception 'the objective % has counted nothing in a group %', slo_name, coalesce(ops.group_name(only_group), only_group::text)
      using errcode = 'OP001',
        hint = case account.group_by
          when '{}' then 'It has no groups.'
          else format('It is grouped by %s; opskpi slo lists the groups.', array_to_string(account.group_by, ' and '))
        end;
  end if;
  foreach explained in array case when only_group is null then known else array[only_group] end loop
    account := ops.slo_account(slo_name, since, until, explained);
    return query select found.* from ops.explain_account(account, only_org_id) as found;
  end loop;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid, jsonb) is
  'The counted events that burned the budget in the five-minute steps of a range, by the version that held at its end, group by group (only_group null: all groups); cost is a share of the budget of that range, and the costs of an org and group add up to exactly its burn rate there. One that is no longer stored has no event_id, and the start of its five minutes as its time.';

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
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until
    and stored.sli_id not in (select sli.counted_as from ops.counted_slis as sli where sli.objective = 'availability');
  perform ops.add_slis(array(select delta from ops.count_attempts(0, last_id, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (
        select removed.removed_until
        from ops.removed_events as removed
        join ops.counted_slis as sli
          on sli.event_type = removed.event_type
        where sli.counted_as = unit.sli_id
      ),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(0, last_id) as attempted)) as changed
    ));
    perform ops.recount_units();
    -- Their counts have changed at any time.
    bucket_since := '-infinity';
    bucket_until := 'infinity';
  end if;
  perform ops.recount_sli_days(bucket_since, bucket_until);
end;
$$;
comment on type ops.alert_condition is 'What a rule finds about a subject, or about a group of an objective (else {}); holds is null where it cannot tell, and an alert then stays as it is.';

create or replace function ops.judge_slos(as_of timestamptz, slo_names text[] default null)
returns setof ops.judged_slo
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    status.org_id,
    status.slo_name,
    status.service,
    status.version,
    status.target,
    status.good,
    status.total,
    status.events_needed,
    status.window_start,
    status.window_length,
    status.last_counted_at,
    2 * ops.in_hours(coalesce(version.expected_interval, ops.setting('expected_interval')::interval)),
    -- Half a history shows too much failure, or too long a silence.
    sli.filled_until = 'infinity' and status.status <> 'stale',
    sli.filled_until = 'infinity' and status.status not in ('no_data', 'stale', 'insufficient'),
    jsonb_strip_nulls(jsonb_build_object(
      'status', status.status,
      'sli', ops.readable(status.sli),
      'target', ops.readable(status.target),
      'good', status.good,
      'total', status.total,
      'budget_left', ops.readable(status.budget_left),
      'last_seen_at', status.last_counted_at
    )),
    status.slo_group
  from ops.evaluate_slos(as_of, false, slo_names) as status
  join ops.slo_versions as version
    on version.slo_name = status.slo_name
    and version.version = status.version
  join ops.slis as sli
    on sli.sli_id = version.sli_id
  -- A group without anything in the window is over: nobody waits for a branch that was merged.
  where status.slo_group = '{}'
    or status.total_unadjusted > 0;
end;
$$;
comment on function ops.judge_slos(timestamptz, text[]) is
  'Each objective of each org as of an instant, from the counts alone, and each group that has something in its window; slo_names null: all objectives.';

create or replace function ops.burn_rate_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with ruled as materialized (
    select
      slo.*,
      rule.rule_name,
      rule.long_window,
      rule.short_window,
      rule.long_since,
      rule.short_since,
      coalesce(rule.factor, ops.alert_factor(rule.budget_share, slo.window_length, rule.long_window)) as factor
    from unnest(judged) as slo
    join ops.rules_of_slos('burn_rate', judged, as_of) as rule
      on rule.slo_name = slo.slo_name
  ),
  -- By itself, so that the planner takes it for many rows and hashes it; joined to the versions it was taken for five, and looped over.
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.slo_group, summed.version, summed.since, summed.good, summed.total
    from ops.sum_slos(array(
      select distinct
        row(
          ruled.org_id, ruled.slo_name, ruled.version, windows.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
          ruled.slo_group
        )::ops.slo_span
      from ruled
      cross join lateral (values (ruled.long_since), (ruled.short_since)) as windows (since)
      where windows.since is not null
    )) as summed
  )
  select
    ruled.org_id,
    ruled.rule_name,
    ruled.slo_name,
    ruled.service,
    ruled.version,
    -- An overspent budget is certain although events are too few to say how fast it burns.
    case when ruled.is_judged and ruled.events_needed = 0 then ops.is_burning(burning.long_rate, burning.short_rate, ruled.factor) end,
    ruled.detail || jsonb_strip_nulls(jsonb_build_object(
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(burning.long_rate),
      'burn_rate_short', ops.readable(burning.short_rate),
      'factor', ops.readable(ruled.factor),
      'explain_since', ruled.long_since
    )),
    ruled.slo_group
  from ruled
  left join sums as long_sum
    on long_sum.org_id = ruled.org_id
    and long_sum.slo_name = ruled.slo_name
    and long_sum.slo_group = ruled.slo_group
    and long_sum.version = ruled.version
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.slo_group = ruled.slo_group
    and short_sum.version = ruled.version
    and short_sum.since = ruled.short_since
  cross join lateral (
    select
      ops.burn_rate(long_sum.good, long_sum.total, ruled.target) as long_rate,
      ops.burn_rate(short_sum.good, short_sum.total, ruled.target) as short_rate
    -- A barrier: each rate is compared and shown.
    offset 0
  ) as burning
  -- A rule for every objective leaves out those whose budget is too large for it.
  where ruled.factor < ops.highest_burn_rate(ruled.target);
end;
$$;

create or replace function ops.budget_exhausted_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    case when slo.is_judged then ops.is_overspent(slo.good, slo.total, slo.target) end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start),
    slo.slo_group
  from unnest(judged) as slo
  join ops.rules_of_slos('budget_exhausted', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;

create or replace function ops.silent_slo_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    -- An empty window is not silence yet: a new day has no events at first.
    case
      when slo.is_seen then coalesce(
        slo.last_counted_at < as_of - coalesce(ops.in_hours(rule.silent_for), slo.silent_after),
        false
      )
    end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start),
    slo.slo_group
  from unnest(judged) as slo
  join ops.rules_of_slos('silent_input', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;
comment on function ops.objective_conditions(timestamptz, text[]) is
  'What the rules on objectives find as of an instant, from the counts alone; one row an org, rule and objective, or group of it.';

create or replace function ops.kpi_threshold_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  with hours as (
    select
      rule.rule_name,
      rule.metric_name,
      rule.comparison,
      rule.threshold,
      rule.lasting,
      definition.unit,
      ops.period_start('hour', kpi_threshold_conditions.as_of, ops.time_zone()) - ops.in_hours(rule.lasting) as since,
      ops.period_start('hour', kpi_threshold_conditions.as_of, ops.time_zone()) as until
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
      when (select ops.counts_are_stale(kpi_threshold_conditions.as_of)) then null
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
    ),
    jsonb '{}'
  from hours
  join public.kpi_aggregations as kpi
    on kpi.metric_name = hours.metric_name
    and kpi.aggregation_period = 'hour'
    and kpi.labels = '{}'
    and kpi.period_start >= hours.since
    and kpi.period_start < hours.until
  group by kpi.org_id, hours.rule_name, hours.metric_name, hours.comparison, hours.threshold, hours.lasting, hours.unit;
end;

create or replace function ops.silent_type_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    seen.org_id,
    rule.rule_name,
    rule.event_type,
    null::text,
    null::integer,
    case
      when not (select ops.counts_are_stale(silent_type_conditions.as_of))
        then seen.last_seen_at < silent_type_conditions.as_of - ops.in_hours(rule.silent_for)
    end,
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text),
    jsonb '{}'
  from ops.alert_rules as rule
  join ops.event_types_seen(silent_type_conditions.as_of) as seen
    on seen.event_type = rule.event_type
  where rule.is_enabled
    and rule.kind = 'silent_input';
end;

create or replace function ops.silent_agent_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    agent.org_id,
    rule.rule_name,
    agent.agent_id::text,
    agent.team,
    null::integer,
    case
      when not (select ops.counts_are_stale(silent_agent_conditions.as_of))
        then agent.last_event_at < silent_agent_conditions.as_of - ops.in_hours(rule.silent_for)
    end,
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text),
    jsonb '{}'
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= silent_agent_conditions.as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;

create or replace function ops.other_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
set jit = off
begin atomic
  select condition.* from ops.kpi_threshold_conditions(other_conditions.as_of) as condition
  union all
  select condition.* from ops.silent_type_conditions(other_conditions.as_of) as condition
  union all
  select condition.* from ops.silent_agent_conditions(other_conditions.as_of) as condition;
end;

create or replace function ops.job_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    '00000000-0000-0000-0000-000000000000'::uuid,
    rule.rule_name,
    job.name,
    null::text,
    null::integer,
    coalesce(job.last_run_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 2 * ops.refresh_interval())), false),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    ),
    jsonb '{}'
  from ops.alert_rules as rule
  cross join (
    select 'refresh' as name, max(run.finished_at) as last_run_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
    union all
    select 'alerts', max(evaluation.evaluated_at)
    from ops.alert_evaluations as evaluation
  ) as job
  where rule.is_enabled
    and rule.kind = 'silent_jobs';
end;

alter table ops.alerts add column slo_group jsonb not null default '{}';
comment on column ops.alerts.slo_group is 'The group of the objective that it is about; else {}.';

create unique index alerts_org_id_rule_name_subject_slo_group_idx on ops.alerts (org_id, rule_name, subject, slo_group) where state in ('pending', 'firing');

create or replace function ops.open_alerts(conditions ops.alert_condition[], kinds text[])
returns table (
  org_id uuid,
  alert_id bigint,
  rule_name text,
  kind text,
  subject text,
  is_found boolean,
  holds boolean,
  detail jsonb
)
language sql
stable
set search_path = ''
-- Statistics know nothing of alerts that have just begun, so that thousands of them were looped over every condition.
set enable_nestloop = off
begin atomic
  select
    alert.org_id,
    alert.alert_id,
    alert.rule_name,
    alert.kind,
    alert.subject,
    finding.rule_name is not null,
    finding.holds,
    finding.detail
  from ops.alerts as alert
  left join unnest(open_alerts.conditions) as finding
    on finding.org_id = alert.org_id
    and finding.rule_name = alert.rule_name
    and finding.subject = alert.subject
    and finding.slo_group = alert.slo_group
  where alert.state in ('pending', 'firing')
    and (open_alerts.kinds is null or alert.kind = any (open_alerts.kinds));
end;

create or replace function ops.resolve_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  resolved bigint;
begin
  -- A condition that no longer holds is resolved. An alert about which no rule asks any more ends: nobody knows whether it is over.
  with moved as (
    update ops.alerts as alert
    set state = case when open_alert.is_found then 'resolved' else 'ended' end,
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          open_alert.detail,
          case
            when not open_alert.is_found then ops.alert_ending(alert.rule_name, alert.subject, alert.slo_version is not null, alert.slo_group)
          end,
          '{}'
        )
    from ops.open_alerts(conditions, kinds) as open_alert
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and (
        open_alert.holds is false
        or (
          not open_alert.is_found
          -- A KPI without a value has no finding either: that is silence, and alerts freeze.
          and not exists (
            select from ops.alert_rules as rule
            where rule.rule_name = open_alert.rule_name
              and rule.is_enabled
              and rule.kind = 'kpi_threshold'
              and rule.kind = open_alert.kind
              and rule.metric_name = open_alert.subject
          )
        )
      )
    returning alert.firing_since
  )
  select count(*) filter (where moved.firing_since is not null) into resolved from moved;
  -- A state that never fired is no alert.
  delete from ops.alerts as alert where alert.state in ('resolved', 'ended') and alert.firing_since is null and alert.resolved_at = as_of;
  return resolved;
end;
$$;

create or replace function ops.raise_alerts(conditions ops.alert_condition[], as_of timestamptz)
returns table (holding bigint, fired bigint)
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query
  with held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail, slo_group
    )
    select
      finding.org_id, finding.rule_name, rule.kind, rule.severity, finding.subject, finding.service, finding.slo_version,
      case when rule.alert_after = interval '0' then 'firing' else 'pending' end,
      as_of, case when rule.alert_after = interval '0' then as_of end, as_of, rule.channels,
      rule.notify_resolved, rule.description, finding.detail, finding.slo_group
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    where finding.holds
    on conflict (org_id, rule_name, subject, slo_group) where state in ('pending', 'firing') do update set
      kind = excluded.kind,
      detail = excluded.detail,
      slo_version = excluded.slo_version,
      severity = excluded.severity,
      channels = excluded.channels,
      notify_resolved = excluded.notify_resolved,
      description = excluded.description,
      evaluated_at = excluded.evaluated_at,
      is_frozen = false,
      state = case
        when alert.state = 'firing' or excluded.evaluated_at - alert.pending_since >= (
          select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
        ) then 'firing'
        else 'pending'
      end,
      firing_since = coalesce(
        alert.firing_since,
        case
          when excluded.evaluated_at - alert.pending_since >= (
            select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
          ) then excluded.evaluated_at
        end
      )
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on column ops.alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and a group of it (releases workflow=hotfix); * for everything.';

create function ops.is_silenced(org_id uuid, rule_name text, subject text, service text, as_of timestamptz, slo_group jsonb)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.alert_silences as silence
  where (silence.only_org_id is null or silence.only_org_id = is_silenced.org_id)
    and silence.starts_at <= is_silenced.as_of
    and silence.until > is_silenced.as_of
    and silence.matcher in ('*', is_silenced.rule_name, is_silenced.subject, is_silenced.service, is_silenced.subject || ' ' || ops.group_name(is_silenced.slo_group))
);
comment on function ops.is_silenced(uuid, text, text, text, timestamptz, jsonb) is 'Whether a silence covers an alert at an instant.';

create or replace function ops.silence_alerts(matcher text, until timestamptz, reason text, author text, only_org_id uuid default null, starts_at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  silence_id bigint;
begin
  if (silence_alerts.starts_at < silence_alerts.until and isfinite(silence_alerts.until)) is not true then
    raise exception 'the silence is over before it begins: % to %', silence_alerts.starts_at, silence_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant in the future.';
  end if;
  if coalesce(btrim(silence_alerts.reason), '') = '' or coalesce(btrim(silence_alerts.author), '') = '' then
    raise exception 'a silence needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: others wonder why nobody told them.';
  end if;
  if silence_alerts.matcher <> '*' and not exists (
    select from ops.alert_rules as rule where silence_alerts.matcher in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.slos as slo where silence_alerts.matcher in (slo.slo_name, slo.service)
    union all
    select from ops.alerts as alert where silence_alerts.matcher in (alert.rule_name, alert.subject, alert.service)
    union all
    -- A group may be silenced before it first alerts.
    select
    from ops.slo_versions as version
    join ops.sli_groups as sli_group
      on sli_group.of_sli_id = version.sli_id
      and (silence_alerts.only_org_id is null or sli_group.org_id = silence_alerts.only_org_id)
    where starts_with(silence_alerts.matcher, version.slo_name || ' ')
      and silence_alerts.matcher = version.slo_name || ' ' || ops.group_name(sli_group.slo_group)
  ) then
    raise exception 'no rule, objective, service or alert is called %', silence_alerts.matcher
      using errcode = 'OP001', hint = 'opskpi alert list shows the alerts; * silences everything.';
  end if;
  insert into ops.alert_silences (matcher, starts_at, until, reason, author, only_org_id)
  values (
    silence_alerts.matcher, silence_alerts.starts_at, silence_alerts.until, silence_alerts.reason, silence_alerts.author, silence_alerts.only_org_id
  )
  returning alert_silences.alert_silence_id into silence_id;
  return silence_id;
end;
$$;
comment on function ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz) is
  'Keeps alerts of a rule, objective (or group of it) or other subject, or service from being sent for a time; returns the number of the silence.';

create or replace function ops.alert_facts(alert_ids bigint[], as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
return (
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'alert_id', alert.alert_id,
      'rule', alert.rule_name,
      'kind', alert.kind,
      'severity', alert.severity,
      'subject', alert.subject,
      'slo_group', nullif(alert.slo_group, '{}'),
      'group', ops.group_name(alert.slo_group),
      'service', alert.service,
      'description', nullif(alert.description, ''),
      'since', alert.firing_since,
      'resolved_at', alert.resolved_at,
      'slo_version', alert.slo_version,
      'detail', alert.detail - 'explain_since',
      'explain', case
        when alert.kind in ('burn_rate', 'budget_exhausted') then format(
          'opskpi slo explain %s%s --since %s --until %s%s',
          alert.subject,
          (
            -- Quoted for a shell, since values come from whoever sends events.
            select string_agg(
              ' --group ' || case
                when label.word ~ '^[A-Za-z0-9_.=/:@+-]+$' then label.word
                else '''' || replace(label.word, '''', '''\''''') || ''''
              end,
              ''
              order by label.word collate "C"
            )
            from (
              select case
                when alert.slo_group = ops.overflow_group() then 'overflow'
                else ops.group_name(jsonb_build_object(value.key, value.value))
              end
              from jsonb_each(alert.slo_group) as value
            ) as label (word)
          ),
          to_char((alert.detail ->> 'explain_since')::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          to_char(alert_facts.as_of at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          case when alert.org_id <> '00000000-0000-0000-0000-000000000000' then format(' --org %s', alert.org_id) else '' end
        )
      end
    )
    order by array_position(array['page', 'ticket', 'notice'], alert.severity), alert.subject, alert.slo_group, alert.rule_name
  ), '[]')
  from ops.alerts as alert
  where alert.alert_id = any (alert_facts.alert_ids)
);

create function ops.addressed_alerts(as_of timestamptz)
returns table (
  org_id uuid,
  channel_name text,
  repeat_interval interval,
  group_key text,
  alert_id bigint,
  state text,
  notify_resolved boolean,
  is_silenced boolean,
  is_inhibited boolean
)
language sql
stable
set search_path = ''
begin atomic
  select
    alert.org_id,
    channel.channel_name,
    channel.repeat_interval,
    case when alert.kind in ('silent_agents', 'silent_jobs') then alert.kind else coalesce(alert.service, alert.subject) end,
    alert.alert_id,
    alert.state,
    alert.notify_resolved,
    alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, addressed_alerts.as_of, alert.slo_group),
    alert.state = 'firing' and alert.severity = 'ticket' and exists (
      select
      from ops.alerts as page
      where page.org_id = alert.org_id
        and page.subject = alert.subject
        and page.slo_group = alert.slo_group
        and page.state = 'firing'
        and page.severity = 'page'
    )
  from ops.alerts as alert
  join ops.alert_channels as channel
    on channel.is_enabled
    and (channel.only_org_id is null or channel.only_org_id = alert.org_id)
    and (
      alert.state <> 'firing'
      or (
        alert.severity = any (channel.severities)
        and (cardinality(alert.channels) = 0 or channel.channel_name = any (alert.channels))
      )
    )
  where alert.state = 'firing'
    -- Hashed: of 100,000 alerts that are over only those last said to fire are looked at.
    or (alert.org_id, channel.channel_name, alert.alert_id) in (
      select known.org_id, known.channel_name, last.alert_id
      from ops.alert_groups as known
      cross join lateral unnest(known.last_firing) as last (alert_id)
    );
end;
comment on function ops.addressed_alerts(timestamptz) is
  'One row per channel and alert that fires, or that was last said to fire and is over: silenced by a person, or inhibited by a page of the same subject.';

create function ops.group_news(as_of timestamptz)
returns setof ops.alert_news
language sql
stable
set search_path = ''
begin atomic
  select
    addressed.org_id,
    addressed.channel_name,
    addressed.group_key,
    addressed.repeat_interval,
    -- Alerts that are over, and need not be said to be so, are forgotten.
    case when known.org_id is not null then array(
      select last.alert_id
      from unnest(known.last_firing) as last (alert_id)
      where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state <> 'firing' and not addressed.notify_resolved), '{}'))
    ) end,
    known.last_resolved,
    known.last_notified_at,
    coalesce(known.logged_silenced, '{}'),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id)
        filter (where addressed.state = 'firing' and not addressed.is_silenced and not addressed.is_inhibited),
      '{}'
    ),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state <> 'firing' and addressed.notify_resolved),
      '{}'
    ),
    coalesce(array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.is_silenced), '{}')
  from ops.addressed_alerts(group_news.as_of) as addressed
  left join ops.alert_groups as known
    on known.org_id = addressed.org_id
    and known.channel_name = addressed.channel_name
    and known.group_key = addressed.group_key
  group by addressed.org_id, addressed.channel_name, addressed.group_key, addressed.repeat_interval, known.org_id, known.channel_name, known.group_key;
end;
comment on function ops.group_news(timestamptz) is 'How each group of alerts stands for each channel, beside what was last said of it.';

create function ops.alert_ending(rule_name text, subject text, is_of_slo boolean, slo_group jsonb)
returns jsonb
language sql
stable
set search_path = ''
return coalesce(
  (
    select jsonb_build_object('ended_because', 'objective_' || known.change, 'ended_by', known.author, 'ended_at', known.changed_at)
    from ops.slo_changes as known
    where alert_ending.is_of_slo
      and known.slo_name = alert_ending.subject
      and known.change in ('removed', 'disabled')
      and not exists (select from ops.slos as slo where slo.slo_name = alert_ending.subject and slo.is_enabled)
    order by known.slo_change_id desc
    limit 1
  ),
  case
    when alert_ending.slo_group <> '{}' and exists (
      select
      from ops.alert_rules as rule
      join ops.slos as slo
        on slo.slo_name = alert_ending.subject
        and slo.group_by <> '{}'
      where rule.rule_name = alert_ending.rule_name
        and rule.is_enabled
    ) then jsonb '{"ended_because": "group_is_over"}'
    when exists (select from ops.alert_rules as rule where rule.rule_name = alert_ending.rule_name and rule.is_enabled)
      then jsonb '{"ended_because": "no_longer_asked"}'
    else jsonb '{"ended_because": "rule_is_gone", "rule_is_gone": true}'
  end
);
comment on function ops.alert_ending(text, text, boolean, jsonb) is
  'Why an alert ends about which no rule asks any more: objective_removed or objective_disabled (with who and when), group_is_over (nothing in its window any more), rule_is_gone, or no_longer_asked.';

create function ops.simulate_conditions(since timestamptz, until timestamptz, step interval, slo_names text[])
returns table (as_of timestamptz, org_id uuid, rule_name text, severity text, subject text, alert_after interval, holds boolean, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as materialized (
    select
      instant.as_of,
      condition.org_id,
      condition.rule_name,
      rule.severity,
      condition.subject,
      rule.alert_after,
      condition.holds,
      condition.slo_group,
      lag(condition.holds) over subject_over_time as held_before,
      lag(instant.as_of) over subject_over_time as found_before,
      lead(instant.as_of, 1, 'infinity') over subject_over_time as found_next
    from generate_series(simulate_conditions.since, simulate_conditions.until - interval '1 microsecond', simulate_conditions.step) as instant (as_of)
    cross join lateral ops.objective_conditions(instant.as_of, simulate_conditions.slo_names) as condition
    join ops.alert_rules as rule
      on rule.rule_name = condition.rule_name
    window subject_over_time as (partition by condition.org_id, condition.rule_name, condition.subject, condition.slo_group order by instant.as_of)
  )
  select found.as_of, found.org_id, found.rule_name, found.severity, found.subject, found.alert_after, found.holds, found.slo_group
  from found
  where found.found_before is null
    or found.found_before < found.as_of - simulate_conditions.step
    or found.holds is distinct from found.held_before
  union all
  select ended.as_of, found.org_id, found.rule_name, found.severity, found.subject, found.alert_after, false, found.slo_group
  from found
  cross join lateral (select found.as_of + simulate_conditions.step as as_of) as ended
  where found.found_next > ended.as_of
    and ended.as_of < simulate_conditions.until
  order by 1, 2, 3, 5, 8;
end;
$$;
comment on function ops.simulate_conditions(timestamptz, timestamptz, interval, text[]) is
  'What the rules on some objectives would have found at each step of a range: the first finding and each change; holds is null where they could not tell, and false where a group is over.';

create or replace function ops.rename_units(units ops.unit_rename[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  stored constant ops.unit_delta[] := array(
    select row(unit.org_id, renamed.new_unit, unit.first_attempt_at, unit.succeeded, unit.sli_id, null, null)::ops.unit_delta
    from ops.work_units as unit
    join ops.counted_slis as sli
      on sli.counted_as = unit.sli_id
    join unnest(units) as renamed
      on renamed.org_id = unit.org_id
      and renamed.event_type = sli.event_type
      and renamed.old_unit = unit.unit
  );
  moved constant ops.unit_delta[] := array(
    select row(unit.org_id, unit.unit, min(unit.first_attempt_at), bool_or(unit.succeeded), unit.sli_id, null, null)::ops.unit_delta
    from unnest(stored) as unit
    group by unit.org_id, unit.sli_id, unit.unit
  );
  changes ops.unit_change[];
begin
  delete from ops.work_units as unit
  using unnest(units) as renamed
  join ops.counted_slis as sli
    on sli.event_type = renamed.event_type
  where renamed.org_id = unit.org_id
    and sli.counted_as = unit.sli_id
    and renamed.old_unit = unit.unit;
  changes := array(select changed from ops.changed_units(moved) as changed);
  perform ops.write_units(changes);
  -- Two units that have become one are counted as one.
  if (select count(*) from unnest(changes) as change where change.old_first_attempt_at is null) < cardinality(stored) then
    perform ops.recount_units();
  end if;
end;
$$;

create function ops.rename_groups(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  counts ops.sli_delta[];
  stored ops.unit_delta[];
begin
  with renamed as materialized (
    select
      sli_group.org_id, sli_group.sli_id as old_id, sli_group.of_sli_id, ops.without_mention(sli_group.slo_group, mention, erased) as slo_group,
      ops.group_key(sli_group.of_sli_id, ops.without_mention(sli_group.slo_group, mention, erased)) as sli_id
    from ops.sli_groups as sli_group
    where sli_group.org_id = owner_id
      and sli_group.slo_group::text ~* mention
  ),
  moved_counts as (
    delete from ops.sli_counts as bucket
    using renamed
    where bucket.org_id = renamed.org_id
      and bucket.sli_id = renamed.old_id
    returning renamed.org_id, renamed.sli_id, bucket.bucket_start, bucket.good, bucket.total, renamed.of_sli_id, renamed.slo_group
  ),
  moved_units as (
    delete from ops.work_units as unit
    using renamed
    where unit.org_id = renamed.org_id
      and unit.sli_id = renamed.old_id
    returning renamed.org_id, unit.unit, unit.first_attempt_at, unit.succeeded, renamed.sli_id, renamed.of_sli_id, renamed.slo_group
  )
  select
    array(
      select row(moved.org_id, moved.sli_id, moved.bucket_start, sum(moved.good), sum(moved.total), moved.of_sli_id, moved.slo_group)::ops.sli_delta
      from moved_counts as moved
      group by moved.org_id, moved.sli_id, moved.bucket_start, moved.of_sli_id, moved.slo_group
    ),
    array(
      select row(
        moved.org_id, moved.unit, min(moved.first_attempt_at), bool_or(moved.succeeded), moved.sli_id, moved.of_sli_id, moved.slo_group
      )::ops.unit_delta
      from moved_units as moved
      group by moved.org_id, moved.unit, moved.sli_id, moved.of_sli_id, moved.slo_group
    )
  into counts, stored;
  perform ops.add_slis(counts);
  delete from ops.sli_groups as sli_group where sli_group.org_id = owner_id and sli_group.slo_group::text ~* mention;
  if cardinality(stored) > 0 then
    perform ops.write_units(array(select changed from ops.changed_units(stored) as changed));
    -- A unit that two groups had is one in theirs.
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rename_groups(uuid, text, text) is
  'Moves what was counted in groups whose labels name an erased agent to the group without it; only rename_states calls it.';

create or replace function ops.rename_states(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups constant ops.rollup_delta[] := ops.rename_rollups(owner_id, mention, erased);
  histograms constant ops.histograms[] := ops.rename_histograms(owner_id, mention, erased);
  patterns constant ops.pattern_delta[] := array(
    select row(
      stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, sum(stored.blocked_count), regexp_replace(stored.team, mention, erased, 'gi')
    )::ops.pattern_delta
    from ops.blocked_patterns as stored
    where stored.org_id = owner_id
      and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention
    group by stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, regexp_replace(stored.team, mention, erased, 'gi')
  );
begin
  delete from ops.blocked_patterns as stored
  where stored.org_id = owner_id
    and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention;
  perform ops.add_patterns(patterns);
  perform ops.rename_units(array(
    select distinct row(unit.org_id, sli.event_type, unit.unit, regexp_replace(unit.unit, mention, erased, 'gi'))::ops.unit_rename
    from ops.work_units as unit
    join ops.counted_slis as sli
      on sli.counted_as = unit.sli_id
    where unit.org_id = owner_id
      and unit.unit ~* mention
  ));
  perform ops.rename_groups(owner_id, mention, erased);
  delete from public.kpi_aggregations as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  perform ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(array(
        -- A delta of nothing to each gives the KPIs of what stands there.
        select row(moved.org_id, moved.event_type, moved.labels, moved.period, moved.period_start, 0, 0, 0, null, null)::ops.rollup_delta
        from unnest(rollups) as moved
      )) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    now()
  );
end;
$$;

create or replace function ops.forget_agent(pseudonyms ops.pseudonym[], mention text, dry_run boolean, out counts jsonb, out kept jsonb)
language plpgsql
volatile
set search_path = ''
as $$
declare
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  of_kind bigint;
begin
  select named.counts, named.kept into counts, kept from ops.count_mentions(owner_id, mention) as named;
  select ops.added_counts(counts, coalesce(jsonb_object_agg(found.name, found.rows), '{}'))
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
  ) as found
  where found.rows > 0;
  -- The kinds of counted events are few, so that only events of such a kind are read.
  select count(*) into of_kind
  from public.telemetry_events as event
  where event.org_id = owner_id
    and event.event_type in (select series.event_type from ops.series where series.org_id = owner_id and series.event_type ~* mention);
  if of_kind > 0 then
    kept := kept || jsonb_build_object('public.telemetry_events.event_type', of_kind);
  end if;
  if dry_run or counts = '{}' then
    return;
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and concat_ws(' ', alert.subject, alert.slo_group) ~* mention;
  update ops.alerts as alert
  set state = 'ended',
      resolved_at = greatest(alert.evaluated_at, now()),
      detail = alert.detail || '{"ended_because": "no_longer_asked"}'
  where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.slo_group) ~* mention and alert.state = 'firing';
  if counts ?| array['ops.series', 'ops.histograms', 'ops.blocked_patterns', 'ops.work_units', 'ops.sli_groups', 'public.kpi_aggregations'] then
    perform ops.rename_states(owner_id, mention, erased);
  end if;
  perform ops.replace_mentions(owner_id, mention, erased, counts);
end;
$$;

create view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted,
  nullif(sli.counted_since, '-infinity') as counted_since,
  evaluated.slo_group
from ops.evaluate_slos(now(), true, null) as evaluated
join ops.slo_versions as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
join ops.slis as sli
  on sli.sli_id = version.sli_id
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.slo_group, evaluated.org_id;
comment on view public.v_ops_slo_status is
  'One row an org and objective (of one with groups: each group), as of now, events behind the cursor included; the worst first.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency, error_rate, events or measured.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge), no_data or stale (the jobs stopped).';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';
comment on column public.v_ops_slo_status.counted_since is
  'First instant with all its events: retention had removed older ones before the objective was made; null: none is missing.';
comment on column public.v_ops_slo_status.slo_group is
  'The group: {"workflow": "release"}, null where its events have no such label; {"overflow": true}: all beyond the first 1,000 groups; {} of an objective without groups.';

create view public.v_ops_slo_history
with (security_invoker = true)
as
select
  history.org_id,
  history.slo_name,
  history.version,
  history.day_start,
  history.target,
  history.good,
  history.total,
  history.good::numeric / nullif(history.total, 0) as sli,
  history.good_unadjusted,
  history.total_unadjusted,
  history.slo_group
from ops.slo_history() as history;
comment on view public.v_ops_slo_history is
  'One row an org, objective and day on which something was counted, by the version that held then; a day of a change has a row for each version.';
comment on column public.v_ops_slo_history.org_id is 'The tenant.';
comment on column public.v_ops_slo_history.slo_name is 'The objective.';
comment on column public.v_ops_slo_history.version is 'The version that held.';
comment on column public.v_ops_slo_history.day_start is 'First instant of the day.';
comment on column public.v_ops_slo_history.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_history.good is 'Good ones (count of events, or of time slices).';
comment on column public.v_ops_slo_history.total is 'All that count (count of events, or of time slices).';
comment on column public.v_ops_slo_history.sli is 'The share measured (ratio); null when all is excluded.';
comment on column public.v_ops_slo_history.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_history.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_history.slo_group is 'The group: {"workflow": "release"}; {} of an objective without groups.';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left,
  burndown.slo_group
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';
comment on column public.v_ops_error_budget_burndown.slo_group is 'The group: {"workflow": "release"}; {} of an objective without groups.';

create or replace view public.v_ops_alerts
with (security_invoker = true)
as
select
  alert.org_id,
  alert.alert_id,
  alert.rule_name,
  alert.kind,
  alert.severity,
  alert.subject,
  alert.service,
  alert.slo_version,
  alert.state,
  alert.is_frozen,
  alert.pending_since,
  alert.firing_since,
  alert.resolved_at,
  alert.evaluated_at,
  alert.description,
  alert.detail,
  alert.slo_group
from ops.alerts as alert
order by alert.alert_id desc;
comment on column public.v_ops_alerts.slo_group is 'The group of the objective that it is about; else {}.';
comment on column public.v_ops_alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and a group of it; * for everything.';

create function ops.summary_objectives(org_id uuid, as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with evaluated as materialized (
    select status.*
    from ops.evaluate_slos(summary_objectives.as_of, true, null) as status
    where status.org_id = summary_objectives.org_id
  )
  select jsonb_build_object(
    'by_status', (
      select coalesce(jsonb_object_agg(counted.status, counted.objectives), '{}')
      from (select evaluated.status, count(*) as objectives from evaluated group by evaluated.status) as counted
    ),
    'list', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'objective', evaluated.slo_name,
            'group', ops.group_name(evaluated.slo_group),
            'service', evaluated.service,
            'status', evaluated.status,
            'target', ops.readable(evaluated.target),
            'sli', ops.readable(evaluated.sli),
            'good', evaluated.good,
            'total', evaluated.total,
            'budget_left', ops.readable(evaluated.budget_left)
          )
          order by
            ops.status_rank(evaluated.status),
            evaluated.budget_left,
            evaluated.slo_name,
            evaluated.slo_group
        ),
        '[]'
      )
      from evaluated
    )
  );
end;
comment on function ops.summary_objectives(uuid, timestamptz) is
  'How the objectives of an org stand as of an instant, each over its own window: how many by status, and each, the worst first.';

create function ops.slo_gauges(as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'slo', slo.slo_name,
        'group', ops.group_name(slo.slo_group),
        'service', slo.service,
        'objective', slo.objective,
        'status', slo.status,
        'target', slo.target,
        'sli', slo.sli,
        'budget_left', slo.budget_left,
        'events', jsonb_build_object('good', slo.good, 'total', slo.total),
        'burn_rates', jsonb_build_object(
          '1h', slo.burn_rate_1h,
          '6h', slo.burn_rate_6h,
          '1d', slo.burn_rate_1d,
          '3d', slo.burn_rate_3d
        )
      )
      order by slo.slo_name, slo.slo_group
    ),
    '[]'
  )
  from ops.evaluate_slos(slo_gauges.as_of, true, null) as slo
  where slo.org_id = (select ops.current_org_id());
end;
comment on function ops.slo_gauges(timestamptz) is
  'The objectives of the caller''s org as they stand at as_of, events behind the cursor included: a JSON array by name; null where there is nothing to measure.';

create function ops.scrape(as_of timestamptz default now())
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select jsonb_build_object(
    'kpis', coalesce(
      (
        select jsonb_agg(
          to_jsonb(gauge)
          order by gauge.metric_name, gauge.period, gauge.complete, gauge.breakdown, gauge.breakdown_value
        )
        from ops.kpi_gauges(scrape.as_of) as gauge
      ),
      '[]'
    ),
    'slos', ops.slo_gauges(scrape.as_of),
    'alerts', ops.alert_gauges(),
    'jobs', coalesce(
      (
        select jsonb_agg(
          jsonb_build_object(
            'job', health.job,
            'last_success_at', extract(epoch from health.last_success_at),
            'last_duration_s', health.last_duration_s,
            'last_failed', health.last_failed
          )
          order by health.job
        )
        from ops.job_health() as health
      ),
      '[]'
    ),
    'events_waiting', ops.events_waiting()
  );
end;
comment on function ops.scrape(timestamptz) is
  'All that GET /metrics tells of the caller''s org: kpis, slos, alerts, jobs (instants in seconds since 1970) and events_waiting.';

create function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(slo_burn_rates.org_id);
begin
  return query
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where delta.org_id = owner_id) as deltas
  ),
  spans as materialized (
    select version.slo_name, grouped.slo_group, version.version, version.target, burning.window_name, burning.since, burning.until
    from ops.slo_versions as version
    join (
      select found.*
      from fresh
      cross join lateral ops.groups_of_slis(
        array[owner_id], array(select distinct counting.sli_id from ops.slo_versions as counting), fresh.deltas
      ) as found
    ) as grouped
      on grouped.of_sli_id = version.sli_id
    cross join ops.burn_windows(slo_burn_rates.as_of) as burning
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(select row(owner_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans),
      (select fresh.deltas from fresh)
    ) as summed
  )
  select spans.slo_name, spans.window_name, sums.good, sums.total, ops.burn_rate(sums.good, sums.total, spans.target), spans.slo_group
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  order by spans.slo_name, spans.slo_group, spans.since desc;
end;
$$;
comment on function ops.slo_burn_rates(timestamptz, uuid) is
  'The burn rate of each objective (or group of it) of an org over the windows that alerts look at, exclusions applied, with the counts behind it; null where nothing was counted.';

create or replace function ops.newest_losses(account ops.slo_account, org_id uuid, max_events integer)
returns table (bucket_start timestamptz, share numeric, newer numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with excluded as materialized (
    select times.since, times.until
    from ops.excluded_times as times
    where times.org_id = newest_losses.org_id
      and times.slo_name = account.slo_name
      and times.slo_group in ('{}', account.slo_group)
  )
  select newest.bucket_start, newest.share, sum(newest.bad) over (order by newest.bucket_start desc) - newest.bad
  from (
    select bucket.bucket_start, bucket.total - bucket.good as bad, coalesce(slice.share, 1) as share
    from ops.sli_counts as bucket
    -- A slice is one loss, which its events share.
    left join lateral (
      select case when sum(part.good) < account.slice_target * sum(part.total) then 1 / (sum(part.total) - sum(part.good)) end as share
      from ops.sli_counts as part
      where part.org_id = newest_losses.org_id
        and part.sli_id = account.sli_id
        and part.bucket_start >= greatest(account.since, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'))
        and part.bucket_start
          < least(account.until, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00') + account.time_slice)
        and not exists (select from excluded where excluded.since <= part.bucket_start and excluded.until > part.bucket_start)
    ) as slice
      on account.time_slice is not null
    where bucket.org_id = newest_losses.org_id
      and bucket.sli_id = account.sli_id
      and bucket.bucket_start >= account.since
      and bucket.bucket_start < account.until
      and bucket.total > bucket.good
      and (account.time_slice is null or slice.share is not null)
      and not exists (select from excluded where excluded.since <= bucket.bucket_start and excluded.until > bucket.bucket_start)
    order by bucket.bucket_start desc
    limit newest_losses.max_events
  ) as newest;
end;
$$;

create function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null,
  slo_group jsonb default '{}'
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  account constant ops.slo_account := ops.slo_account(
    newest_burners.slo_name, newest_burners.since, newest_burners.until, newest_burners.slo_group
  );
  -- Without labels or a value the events say enough, and nobody has to find out where those stand for each five minutes.
  is_plain constant boolean := account.objective in ('error_rate', 'latency')
    and account.total_labels = '{}' and account.good_labels = '{}' and account.bad_labels is null and account.group_by = '{}';
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until, account.slo_group)::ops.slo_span]
    ) as summed
  ),
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select lost.* from ops.newest_losses(account, owner_id, newest_burners.max_events) as lost
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        ops.lost_because(account, row(event.*)::ops.sli_events) as reason
      from (
        select stored.*
        from ops.sli_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and not is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and ops.is_admitted(account, row(event.*)::ops.sli_events)
      union all
      select
        event.event_timestamp,
        event.run_id,
        event.tag,
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        offset 0
      ) as event
      where is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and event.outcome in ('success', 'failure')
        and not ops.sli_verdict(account.objective, event.outcome, event.duration_ms, null, account.threshold_ms, null)
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.sli_id = account.sli_id
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
      and found.reason is not null
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;
comment on function ops.newest_burners(text, timestamptz, timestamptz, integer, uuid, jsonb) is
  'The newest counted events (for availability: units of work, at their first attempt) of an org, in a group of an objective ({}: without groups), that burned the budget in a range, each with its share of the budget of that range, as explain_slo lists all of them; its cost grows neither with the range nor with how rare they are.';

create or replace function ops.expected_slis(since timestamptz)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select delta.* from ops.count_attempts(0, ops.cursor_id(), expected_slis.since, 'infinity') as delta
  union all
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*),
    null::bigint,
    null::jsonb
  from ops.count_units(0, ops.cursor_id(), expected_slis.since) as unit
  -- A unit that began before is counted there.
  where not exists (
    select
    from ops.work_units as earlier
    where earlier.org_id = unit.org_id
      and earlier.sli_id = unit.sli_id
      and earlier.unit = unit.unit
      and earlier.first_attempt_at < expected_slis.since
  )
  group by 1, 2, 3;
end;
$$;

create or replace function ops.sli_differences(since timestamptz)
returns table (day_start timestamptz, good bigint, total bigint, counted_good bigint, counted_total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  first_day constant timestamptz := date_bin('1 day', since, timestamptz '1969-12-29 00:00+00');
begin
  return query
  with compared as materialized (
    select sli.counted_as as sli_id, removed.removed_until
    from ops.counted_slis as sli
    left join ops.removed_events as removed
      on removed.event_type = sli.event_type
    -- A team that an agent got later counts from then on, and in the past after a rebuild.
    where not (
      ((sli.total_labels || sli.good_labels || coalesce(sli.bad_labels, '{}')) ? 'team' or 'team' = any (sli.group_by))
      and exists (select from ops.agents as agent where agent.updated_at >= first_day)
    )
  ),
  expected as (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from ops.expected_slis(first_day) as delta
  ),
  differing as (
    select
      coalesce(expected.sli_id, stored.sli_id) as sli_id,
      date_bin('1 day', coalesce(expected.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00') as day_start,
      coalesce(expected.good, 0) as good,
      coalesce(expected.total, 0) as total,
      coalesce(stored.good, 0) as counted_good,
      coalesce(stored.total, 0) as counted_total
    from expected
    full join (select bucket.* from ops.sli_counts as bucket where bucket.bucket_start >= first_day) as stored
      on stored.org_id = expected.org_id
      and stored.sli_id = expected.sli_id
      and stored.bucket_start = expected.bucket_start
    where (expected.good, expected.total) is distinct from (stored.good, stored.total)
      -- A group that is not listed is seen by nobody, however well it is counted.
      or expected.sli_id not in (select sli.counted_as from ops.counted_slis as sli)
    union all
    select
      coalesce(unit.sli_id, stored.sli_id),
      date_bin('1 day', coalesce(unit.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00'),
      coalesce(unit.good, 0),
      coalesce(unit.total, 0),
      coalesce(stored.good, 0),
      coalesce(stored.total, 0)
    from ops.unit_counts(first_day) as unit
    full join (
      select bucket.*
      from ops.sli_counts as bucket
      join ops.counted_slis as sli
        on sli.counted_as = bucket.sli_id
        and sli.objective = 'availability'
      where bucket.bucket_start >= first_day
    ) as stored
      on stored.org_id = unit.org_id
      and stored.sli_id = unit.sli_id
      and stored.bucket_start = unit.bucket_start
    where (unit.good, unit.total) is distinct from (stored.good, stored.total)
    union all
    select
      coalesce(summed.sli_id, day.sli_id),
      coalesce(summed.bucket_start, day.day_start),
      coalesce(summed.good, 0),
      coalesce(summed.total, 0),
      coalesce(day.good, 0),
      coalesce(day.total, 0)
    from ops.day_counts(first_day) as summed
    full join (select stored_day.* from ops.sli_days as stored_day where stored_day.day_start >= first_day) as day
      on day.org_id = summed.org_id
      and day.sli_id = summed.sli_id
      and day.day_start = summed.bucket_start
    where (coalesce(summed.good, 0), coalesce(summed.total, 0)) <> (coalesce(day.good, 0), coalesce(day.total, 0))
  )
  select
    differing.day_start,
    sum(differing.good)::bigint,
    sum(differing.total)::bigint,
    sum(differing.counted_good)::bigint,
    sum(differing.counted_total)::bigint
  from differing
  left join compared
    on compared.sli_id = differing.sli_id
  where differing.day_start >= coalesce(compared.removed_until, '-infinity')
    and (compared.sli_id is not null or differing.sli_id not in (select sli.counted_as from ops.counted_slis as sli))
  group by 1;
end;
$$;

drop index ops.alerts_org_id_rule_name_subject_idx;

revoke execute on function
  ops.overflow_group,
  ops.group_name,
  ops.is_silenced,
  ops.addressed_alerts,
  ops.alert_ending,
  ops.count_attempts,
  ops.count_units,
  ops.group_key,
  ops.daily_slos,
  ops.fresh_slis,
  ops.groups_of_slis,
  ops.sum_slos,
  ops.measured_slos,
  ops.evaluate_slos,
  ops.exclude_from_slo,
  ops.explain_account,
  ops.explain_slo,
  ops.sli_key,
  ops.fitting_slis,
  ops.is_of_group,
  ops.label_group,
  ops.most_groups,
  ops.newest_burners,
  ops.placed_groups,
  ops.rename_groups,
  ops.require_group,
  ops.require_groupable,
  ops.slo_gauges,
  ops.scrape,
  ops.simulate_conditions,
  ops.slo_account,
  ops.slo_burn_rates,
  ops.slo_burndown,
  ops.slo_history,
  ops.summary_objectives,
  ops.group_news
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  create policy sli_groups_select_own_org on ops.sli_groups for select to authenticated
    using (org_id = (select ops.org_for('{read}')));
  revoke execute on function
    ops.overflow_group,
    ops.group_name,
    ops.is_silenced,
    ops.addressed_alerts,
    ops.alert_ending,
    ops.count_attempts,
    ops.count_units,
    ops.group_key,
    ops.daily_slos,
    ops.fresh_slis,
    ops.groups_of_slis,
    ops.sum_slos,
    ops.measured_slos,
    ops.evaluate_slos,
    ops.exclude_from_slo,
    ops.explain_account,
    ops.explain_slo,
    ops.fitting_slis,
    ops.is_of_group,
    ops.label_group,
    ops.most_groups,
    ops.newest_burners,
    ops.placed_groups,
    ops.rename_groups,
    ops.require_group,
    ops.require_groupable,
    ops.slo_gauges,
    ops.scrape,
    ops.simulate_conditions,
    ops.slo_account,
    ops.slo_burn_rates,
    ops.slo_burndown,
    ops.slo_history,
    ops.summary_objectives,
    ops.group_news
  from anon, authenticated, service_role;
  revoke all on
    ops.sli_groups,
    ops.counted_slis,
    public.v_ops_error_budget_burndown,
    public.v_ops_slo_history,
    public.v_ops_slo_status
  from anon, authenticated, service_role;
  grant execute on function
    ops.overflow_group,
    ops.group_name,
    ops.count_attempts,
    ops.count_units,
    ops.group_key,
    ops.daily_slos,
    ops.fresh_slis,
    ops.groups_of_slis,
    ops.sum_slos,
    ops.measured_slos,
    ops.evaluate_slos,
    ops.explain_account,
    ops.explain_slo,
    ops.fitting_slis,
    ops.is_of_group,
    ops.label_group,
    ops.most_groups,
    ops.newest_burners,
    ops.placed_groups,
    ops.slo_gauges,
    ops.scrape,
    ops.slo_account,
    ops.slo_burn_rates,
    ops.slo_burndown,
    ops.slo_history
  to authenticated, service_role;
  grant select on
    ops.sli_groups,
    public.v_ops_error_budget_burndown,
    public.v_ops_slo_history,
    public.v_ops_slo_status
  to authenticated, service_role;
end;
$$;
