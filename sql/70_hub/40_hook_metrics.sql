-- Metrics of git hooks.

create view ops.hook_days
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
from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as fresh
where fresh.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
  and fresh.bin is null
  and ops.period_start('day', fresh.hour_start, ops.time_zone()) >= coalesce(
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );
comment on view ops.hook_days is
  'Parts that add up to what the hooks sent by org, kind, labels and day: the stored days, and the events behind the cursor beside them.';

create function public.hook_metrics(
  org_id uuid,
  start_date date,
  end_date date default null,
  team text default null,
  hook_type text default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  wanted_org_id uuid := ops.caller_org(org_id);
  zone text := ops.time_zone();
  last_date date := coalesce(end_date, greatest((now() at time zone zone)::date, start_date));
  since timestamptz;
  until timestamptz;
begin
  if row_security_active('ops.policies') and not ops.caller_has_scope('read') then
    raise exception 'reading metrics needs the scope read'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists read.';
  end if;
  if start_date is null or start_date > last_date then
    raise exception 'the range of days is empty: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass start_date on or before end_date; both days are included.';
  end if;
  if start_date < date '1970-01-01' or last_date > date '2200-01-01' then
    raise exception 'the range of days is out of bounds: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass days between 1970 and 2200.';
  end if;
  since := start_date::timestamp at time zone zone;
  until := (last_date + 1)::timestamp at time zone zone;
  return (
    with executed as (
      select
        coalesce(sum(part.event_count), 0) as total,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0) as blocked,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'allowed'), 0) as allowed,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0) as overridden,
        sum(part.event_count) filter (where part.labels ->> 'result' in ('allowed', 'blocked', 'overridden')) as decisions,
        sum(part.value_sum) / nullif(sum(part.value_count), 0) as avg_duration_ms
      from ops.hook_days as part
      where part.org_id = wanted_org_id
        and part.event_type = 'hook_execution'
        and part.day_start >= since
        and part.day_start < until
        and (hook_metrics.team is null or part.labels ->> 'team' = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.labels ->> 'hook_type' = hook_metrics.hook_type)
    ),
    patterns as (
      select part.pattern, sum(part.blocked_count) as blocked
      from ops.blocked_pattern_parts as part
      where part.org_id = wanted_org_id
        and part.period = 'day'
        and part.period_start >= since
        and part.period_start < until
        and (hook_metrics.team is null or part.team = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.hook_type = hook_metrics.hook_type)
      group by 1
      order by 2 desc, 1
      limit 10
    )
    select jsonb_build_object(
      'total_executions', executed.total,
      'blocked_count', executed.blocked,
      'allowed_count', executed.allowed,
      'overridden_count', executed.overridden,
      'override_rate', trim_scale(round(100 * executed.overridden / nullif(executed.decisions, 0), 6)),
      'avg_duration_ms', trim_scale(round(executed.avg_duration_ms, 6)),
      'most_blocked_patterns', coalesce(
        (select jsonb_agg(jsonb_build_object('pattern', patterns.pattern, 'count', patterns.blocked) order by patterns.blocked desc, patterns.pattern) from patterns),
        '[]'
      )
    )
    from executed
  );
end;
$$;
comment on function public.hook_metrics(uuid, date, date, text, text) is
  'What the git hooks of an org did from start_date to end_date (null: today), both days included, of one team or hook type if named, events behind the cursor included. total_executions includes those that were interrupted or failed; override_rate (percent, of those that decided) and avg_duration_ms are null without any; the ten most blocked patterns.';
