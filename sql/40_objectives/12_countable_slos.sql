-- The limits of what objectives can count: labels, outcomes and values that events of a kind have. The rest is refused, with what is possible instead.

create function ops.canonical_slo(slo ops.slos)
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

create function ops.require_attempts(slo ops.slos, kind ops.event_types)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  outcomes constant jsonb := slo.total_labels -> 'outcome';
begin
  if not (kind.fields ? 'outcome' or 'outcome' = any (kind.label_keys)) then
    raise exception 'the objective %: events of type % have no outcome, so none of them is an attempt', slo.slo_name, slo.event_type
      using errcode = 'OP001',
        hint = format(
          'Count events by their labels (%s): count: events, with labels that the good ones have.',
          coalesce(nullif(array_to_string(kind.label_keys, ', '), ''), 'there are none')
        );
  end if;
  if slo.objective = 'latency' and not (kind.fields ? 'duration_ms' or kind.value_key is not distinct from 'duration_ms') then
    raise exception 'the objective %: events of type % have no duration_ms', slo.slo_name, slo.event_type
      using errcode = 'OP001',
        hint = case
          when kind.value_key is not null then format('Their value is %s: write count: measured with atMost.', kind.value_key)
          else 'Count attempts, units or events instead.'
        end;
  end if;
  if not outcomes ?| (case slo.objective when 'latency' then array['success'] else array['success', 'failure'] end) then
    raise exception 'the objective %: no attempt has the outcome %', slo.slo_name,
      (select string_agg(text.value, ' or ') from jsonb_array_elements_text(outcomes) as text)
      using errcode = 'OP001',
        hint = 'Attempts end in success or failure, and a latency is that of a success; count: events counts any outcome.';
  end if;
end;
$$;
comment on function ops.require_attempts(ops.slos, ops.event_types) is
  'Refuses an objective over attempts of a kind of event that has no outcomes or, for a latency, no durations.';

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

create function ops.require_countable(slo ops.slos)
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
comment on function ops.require_countable(ops.slos) is 'Refuses an objective that can never have data, with what is possible instead.';

create function ops.check_slo()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new := ops.canonical_slo(new);
  -- A restore brings the kinds of events in its own order, and an objective that stands may be renamed or described.
  if not ops.is_restoring() and (tg_op = 'INSERT' or not ops.is_same_promise(new, old)) then
    perform ops.require_countable(new);
  end if;
  return new;
end;
$$;
comment on function ops.check_slo() is
  'Trigger: labels take the form in which they are compared; a new promise that can never have data is refused.';

-- Before the date of the change is set, which compares the promises.
create trigger slos_check
before insert or update on ops.slos
for each row execute function ops.check_slo();

create function ops.keep_counted_labels()
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
comment on function ops.keep_counted_labels() is 'Trigger: a kind of event keeps the labels by which objectives count it.';

create trigger event_types_keep_counted_labels
before update of label_keys on ops.event_types
for each row execute function ops.keep_counted_labels();
