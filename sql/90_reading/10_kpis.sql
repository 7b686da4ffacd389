-- KPIs as they are now: stored rows, and what the events behind the cursor add.

create view ops.kpis
with (security_invoker = true)
as
with fresh as materialized (
  select fresh_kpi.*
  from ops.fresh_kpis() as fresh_kpi
)
select
  stored.org_id,
  stored.metric_name,
  stored.labels,
  stored.aggregation_period,
  stored.period_start,
  stored.period_end,
  stored.metadata ->> 'unit' as unit,
  stored.metric_value,
  (stored.metadata ->> 'numerator')::numeric as numerator,
  (stored.metadata ->> 'denominator')::numeric as denominator,
  (stored.metadata ->> 'sample_count')::bigint as sample_count
from public.kpi_aggregations as stored
-- "not in" is hashed whatever the planner expects. "not exists" became a loop over all fresh rows for each stored one where a
-- reader asks for labels, of which row level security hides the statistics: 43 s for 1,200 teams.
where (stored.org_id, stored.metric_name, stored.aggregation_period, stored.period_start, stored.labels) not in (
  select fresh.org_id, fresh.metric_name, fresh.period, fresh.period_start, fresh.labels
  from fresh
)
union all
select
  fresh.org_id,
  fresh.metric_name,
  fresh.labels,
  fresh.period,
  fresh.period_start,
  ops.period_end(fresh.period, fresh.period_start, ops.time_zone()),
  fresh.unit,
  round(fresh.metric_value, 6),
  fresh.numerator,
  fresh.denominator,
  fresh.sample_count
from fresh
where fresh.metric_value is not null;
comment on view ops.kpis is
  'One row an org, KPI, period and breakdown, as the next refresh would leave them: stored rows, and in their place what events behind the cursor make of them.';
comment on column ops.kpis.org_id is 'The tenant.';
comment on column ops.kpis.metric_name is 'The KPI: a row of ops.kpi_definitions.';
comment on column ops.kpis.labels is '{} for the org as a whole, {"team": …} or another label for a breakdown.';
comment on column ops.kpis.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column ops.kpis.period_start is 'First instant of the period.';
comment on column ops.kpis.period_end is 'First instant after the period.';
comment on column ops.kpis.unit is 'Unit of the value: percent, ms, bytes or count.';
comment on column ops.kpis.metric_value is 'The value, in the unit.';
comment on column ops.kpis.numerator is 'What the value was divided from, in the unit of the count or value; null for percentiles and counts.';
comment on column ops.kpis.denominator is 'What it was divided by (count); null for percentiles and counts.';
comment on column ops.kpis.sample_count is 'Events or values behind the number (count).';
