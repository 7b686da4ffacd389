-- KPI rows: written once per metric, period and labels; a rewrite is idempotent.

create table public.kpi_aggregations (
  -- Users were promised a bigserial.
  -- squawk-ignore prefer-identity
  id bigserial not null,
  metric_name text not null,
  metric_value numeric not null,
  aggregation_period text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  metadata jsonb default '{}',
  created_at timestamptz not null default now(),
  org_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid,
  labels jsonb not null generated always as (coalesce(metadata -> 'labels', '{}'::jsonb)) stored,
  complete boolean not null generated always as (coalesce(metadata -> 'complete' = 'true'::jsonb, false)) stored,
  constraint kpi_aggregations_pkey primary key (org_id, metric_name, aggregation_period, period_start, labels),
  constraint kpi_aggregations_aggregation_period_check check (aggregation_period in ('hour', 'day', 'week', 'month'))
)
-- Half a page is left free: with a fifth most rewritten rows went to another page and into every index.
with (fillfactor = 50);
comment on table public.kpi_aggregations is 'One row an org, KPI, period and breakdown; rewritten when events of that period arrive.';
comment on column public.kpi_aggregations.id is 'Number of the row.';
comment on column public.kpi_aggregations.metric_name is 'The KPI: a row of ops.kpi_definitions.';
comment on column public.kpi_aggregations.metric_value is 'Its value, in metadata.unit.';
comment on column public.kpi_aggregations.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.kpi_aggregations.period_start is 'First instant of the period.';
comment on column public.kpi_aggregations.period_end is 'First instant after the period.';
comment on column public.kpi_aggregations.metadata is
  'unit; numerator and denominator (null for percentiles and counts); sample_count; complete: the period was over when this was written; labels.';
comment on column public.kpi_aggregations.created_at is 'When the row was last written.';
comment on column public.kpi_aggregations.org_id is 'The tenant.';
comment on column public.kpi_aggregations.labels is 'metadata.labels: {} for the org as a whole, {"team": …} or another label for a breakdown.';
comment on column public.kpi_aggregations.complete is 'metadata.complete.';
alter table public.kpi_aggregations enable row level security;

create index idx_kpi_aggregations_metric_name on public.kpi_aggregations (metric_name);
create index idx_kpi_aggregations_period_start on public.kpi_aggregations (period_start desc);
-- Finds the few rows whose period has ended since; on a generated column, so that rewriting a row stays out of the indexes.
create index kpi_aggregations_period_end_idx on public.kpi_aggregations (period_end) where not complete;
-- Pages and reports read a row per KPI and day. Without it Postgres 15 to 17 read all rows of an org.
create index kpi_aggregations_org_id_period_start_metric_name_idx on public.kpi_aggregations (org_id, period_start, metric_name)
  where aggregation_period = 'day' and labels = '{}'::jsonb;

create policy kpi_aggregations_select_own_org on public.kpi_aggregations for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function ops.note_kpi_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- A refresh that runs would write rows of the old definition after this.
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  new.updated_at := greatest(
    clock_timestamp(),
    -- The clock may have been set back.
    (select max(kpi.created_at) from public.kpi_aggregations as kpi where kpi.metric_name = new.metric_name)
  );
  return new;
end;
$$;
comment on function ops.note_kpi_change() is
  'Trigger: notes when a KPI definition changed, after every row that was written by an earlier one; it waits for a refresh that runs.';

create trigger kpi_definitions_note_insert
before insert on ops.kpi_definitions
for each row execute function ops.note_kpi_change();

create trigger kpi_definitions_note_update
before update on ops.kpi_definitions
for each row when (old.* is distinct from new.*) execute function ops.note_kpi_change();

create type ops.kpi_value as (
  org_id uuid,
  metric_name text,
  labels jsonb,
  period text,
  period_start timestamptz,
  unit text,
  metric_value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
);
comment on type ops.kpi_value is 'A KPI of one period and breakdown; metric_value is null where there is nothing to divide by.';

create function ops.write_kpis(kpis ops.kpi_value[], as_of timestamptz)
returns table (period text, rows_written bigint)
language sql
volatile
set search_path = ''
begin atomic
  -- A KPI without a denominator has no row: the last audit of an hour may have moved to another.
  -- Looked up one by one: a join, planned before the table has statistics, compared all of its rows with all KPIs.
  delete from public.kpi_aggregations as stored
  where stored.ctid = any (array(
    select found.ctid
    from unnest(write_kpis.kpis) as kpi
    cross join lateral (
      select known.ctid
      from public.kpi_aggregations as known
      where known.org_id = kpi.org_id
        and known.metric_name = kpi.metric_name
        and known.aggregation_period = kpi.period
        and known.period_start = kpi.period_start
        and known.labels = kpi.labels
      offset 0
    ) as found
    where kpi.metric_value is null
  ));

  -- Materialized, so that the calendar is asked once a period and not once a row.
  with spans as materialized (
    select
      distinct_period.period,
      distinct_period.period_start,
      ops.period_end(distinct_period.period, distinct_period.period_start, ops.time_zone()) as period_end
    from (select distinct kpi.period, kpi.period_start from unnest(write_kpis.kpis) as kpi) as distinct_period
  ),
  written as (
    insert into public.kpi_aggregations as stored (
      metric_name, metric_value, aggregation_period, period_start, period_end, metadata, org_id
    )
    select
      kpi.metric_name,
      round(kpi.metric_value, 6),
      kpi.period,
      kpi.period_start,
      spans.period_end,
      jsonb_build_object(
        'unit', kpi.unit,
        'numerator', kpi.numerator,
        'denominator', kpi.denominator,
        'sample_count', kpi.sample_count,
        'complete', spans.period_end <= write_kpis.as_of,
        'labels', kpi.labels
      ),
      kpi.org_id
    from unnest(write_kpis.kpis) as kpi
    join spans
      on spans.period = kpi.period
      and spans.period_start = kpi.period_start
    where kpi.metric_value is not null
    on conflict on constraint kpi_aggregations_pkey do update set
      metric_value = excluded.metric_value,
      period_end = excluded.period_end,
      metadata = excluded.metadata,
      created_at = excluded.created_at
    returning stored.aggregation_period
  )
  select written.aggregation_period, count(*)
  from written
  group by 1;
end;
comment on function ops.write_kpis(ops.kpi_value[], timestamptz) is
  'Writes KPI rows over what is stored and returns how many rows of each period were written; a null value removes its row.';

create function ops.close_periods(as_of timestamptz)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with closed as (
    update public.kpi_aggregations
    set metadata = kpi_aggregations.metadata || '{"complete": true}'
    where not kpi_aggregations.complete
      and kpi_aggregations.period_end <= close_periods.as_of
      and jsonb_typeof(kpi_aggregations.metadata) = 'object'
    returning 1
  )
  select count(*) from closed;
end;
comment on function ops.close_periods(timestamptz) is 'Marks the KPI rows whose period was over at as_of as complete; returns how many.';
