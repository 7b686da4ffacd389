-- The windows of objectives: the whole one of each, those of the burn rates, and what is counted in them.

create function ops.slo_windows(as_of timestamptz, slo_names text[] default null)
returns table (
  slo_name text,
  version integer,
  sli_id bigint,
  service text,
  objective text,
  target numeric,
  budgeting_method text,
  expected_interval interval,
  window_length interval,
  window_start timestamptz,
  window_end timestamptz
)
language sql
stable
set search_path = ''
begin atomic
  select
    held.slo_name,
    held.version,
    held.sli_id,
    held.service,
    held.objective,
    held.target,
    held.budgeting_method,
    held.expected_interval,
    ops.slo_window_length(held.rolling_window, held.calendar_period, held.time_zone, slo_windows.as_of),
    -- A window begins with the five minutes that hold its first instant.
    date_bin(
      '5 minutes',
      ops.slo_window_start(held.rolling_window, held.calendar_period, held.time_zone, slo_windows.as_of),
      timestamptz '1969-12-29 00:00+00'
    ),
    date_bin('5 minutes', slo_windows.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
  from ops.slo_versions as held
  where held.valid_from <= slo_windows.as_of
    and held.valid_until > slo_windows.as_of
    and (slo_windows.slo_names is null or held.slo_name = any (slo_windows.slo_names));
end;
comment on function ops.slo_windows(timestamptz, text[]) is
  'One row per objective with the version that held at as_of and its window, in whole five minutes up to the ones that hold as_of; slo_names null: all objectives.';

create function ops.burn_windows(as_of timestamptz)
returns table (window_name text, since timestamptz, until timestamptz)
language sql
immutable
set search_path = ''
begin atomic
  select
    burning.name,
    date_bin('5 minutes', burn_windows.as_of - burning.length, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', burn_windows.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
  from (
    values
      ('5m', interval '5 minutes'),
      ('30m', interval '30 minutes'),
      ('1h', interval '1 hour'),
      ('6h', interval '6 hours'),
      ('1d', interval '24 hours'),
      ('3d', interval '72 hours')
  ) as burning (name, length);
end;
comment on function ops.burn_windows(timestamptz) is 'The windows over which burn rates are shown, in whole five minutes up to the ones that hold as_of.';

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
