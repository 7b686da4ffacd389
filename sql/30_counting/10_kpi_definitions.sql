-- KPI definitions: one row a KPI. Histograms are kept for the percentiles that are asked for here.

create table ops.kpi_definitions (
  metric_name text not null,
  description text not null,
  unit text not null,
  measure text not null,
  event_type text,
  numerator jsonb not null default '{}',
  denominator jsonb not null default '{}',
  percentile numeric,
  breakdowns text[] not null default '{}',
  breakdown_periods text[] not null default '{day,week,month}',
  updated_at timestamptz not null default now(),
  constraint kpi_definitions_pkey primary key (metric_name),
  constraint kpi_definitions_measure_check check (measure in ('ratio', 'average', 'percentile', 'count')),
  constraint kpi_definitions_unit_check check (unit in ('percent', 'ms', 'bytes', 'count')),
  constraint kpi_definitions_ratio_is_in_percent check ((measure = 'ratio') = (unit = 'percent')),
  constraint kpi_definitions_filters_are_objects check (
    jsonb_typeof(numerator) = 'object' and jsonb_typeof(denominator) = 'object'
  ),
  constraint kpi_definitions_percentile_is_of_one_event_type check (
    case
      when measure = 'percentile' then
        event_type is not null and percentile is not null and percentile > 0 and percentile < 1 and numerator = '{}' and denominator = '{}'
      else percentile is null
    end
  ),
  constraint kpi_definitions_breakdowns_are_labels check (
    coalesce(array_ndims(breakdowns), 1) = 1 and array_position(breakdowns, null) is null
  ),
  constraint kpi_definitions_breakdown_periods_check check (breakdown_periods <@ array['hour', 'day', 'week', 'month'])
);
comment on table ops.kpi_definitions is 'One row a KPI; a new one is a row here and opskpi rebuild for its history.';
comment on column ops.kpi_definitions.metric_name is 'Its name, with the unit at the end where it is not percent.';
comment on column ops.kpi_definitions.description is 'What it says, in a sentence.';
comment on column ops.kpi_definitions.unit is 'percent, ms, bytes or count.';
comment on column ops.kpi_definitions.measure is
  'ratio: 100 × events of the numerator ÷ events of the denominator; average: sum ÷ count of the values; percentile; count: events of the numerator.';
comment on column ops.kpi_definitions.event_type is 'The kind of event; null: every kind whose labels fit the filters.';
comment on column ops.kpi_definitions.numerator is 'Labels an event of the numerator has: {"outcome": ["success"]}; {} is every event.';
comment on column ops.kpi_definitions.denominator is 'Labels an event of the denominator has; the numerator must be part of it.';
comment on column ops.kpi_definitions.percentile is 'The share of values at or below the result, as in percentile_disc; null for other measures.';
comment on column ops.kpi_definitions.breakdowns is 'Labels by which the KPI is also kept, one at a time.';
comment on column ops.kpi_definitions.breakdown_periods is 'Periods for which the breakdowns are kept.';
comment on column ops.kpi_definitions.updated_at is 'When the definition last changed. KPI rows written later are of this definition; the others are counted anew when they change.';
alter table ops.kpi_definitions enable row level security;
create policy kpi_definitions_select_authenticated on ops.kpi_definitions for select to authenticated using ((select ops.caller_may('{read}')) is not null);
