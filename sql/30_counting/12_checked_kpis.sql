-- KPI definitions that would never have a row are refused.

create function ops.check_kpi_definition()
returns trigger
language plpgsql
stable
set search_path = ''
as $$
declare
  asker constant text := 'the KPI ' || new.metric_name;
  keys text[];
begin
  if ops.is_restoring() or (
    tg_op = 'UPDATE' and (new.event_type, new.measure, new.numerator, new.denominator, new.breakdowns)
      is not distinct from (old.event_type, old.measure, old.numerator, old.denominator, old.breakdowns)
  ) then
    return new;
  end if;
  -- A constraint refuses what is not even an object.
  if jsonb_typeof(new.numerator) <> 'object' or jsonb_typeof(new.denominator) <> 'object' then
    return new;
  end if;
  if not (ops.are_labels_understood(new.numerator) and ops.are_labels_understood(new.denominator)) then
    raise exception 'the filter of the KPI % has a value that is not a list of texts', new.metric_name
      using errcode = 'OP001', hint = 'Write a list for each label: {"outcome": ["success"]}.';
  end if;
  keys := array(select key from jsonb_object_keys(new.numerator || new.denominator) as key union select unnest(new.breakdowns));
  if new.event_type is null then
    perform ops.require_label_keys(
      asker,
      'any type',
      keys,
      array(select unnest(kind.label_keys) from ops.event_types as kind) || ops.label_keys('slsa_audit_metrics')
    );
    return new;
  end if;
  if ops.label_keys(new.event_type) is null and new.event_type not in (select series.event_type from ops.series) then
    raise exception 'the KPI % is about events of type %, which is neither described nor has ever arrived', new.metric_name, new.event_type
      using errcode = 'OP001',
        hint = format('Known are %s.', (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind));
  end if;
  perform ops.require_label_keys(asker, 'type ' || new.event_type, keys, ops.label_keys(new.event_type));
  perform ops.require_label_values(asker, new.event_type, new.numerator);
  perform ops.require_label_values(asker, new.event_type, new.denominator);
  if new.measure in ('average', 'percentile')
    and not exists (select from ops.event_types as kind where kind.event_type = new.event_type and kind.value_key is not null) then
    raise exception 'events of type % have no value, so the KPI % has none', new.event_type, new.metric_name
      using errcode = 'OP001', hint = 'Count them, or give the kind a value_key in ops.event_types.';
  end if;
  return new;
end;
$$;
comment on function ops.check_kpi_definition() is
  'Trigger: refuses a KPI over a kind of event, a label or a value that nobody has heard of, which would never have a row.';

create trigger kpi_definitions_check
before insert or update on ops.kpi_definitions
for each row execute function ops.check_kpi_definition();
