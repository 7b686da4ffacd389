-- The windows of objectives: the whole one of each, those of the burn rates, and what is counted in them.

create function ops.slo_window(rolling_window interval, calendar_period text, time_zone text, time_slice interval, as_of timestamptz)
returns table (
  window_length interval,
  window_start timestamptz,
  window_end timestamptz,
  elapsed interval,
  whole_slices numeric,
  budget_basis text
)
language sql
stable
set search_path = ''
begin atomic
  select
    lasting.window_length,
    lasting.window_start,
    lasting.window_end,
    case when basis.name = 'expected' then greatest(slo_window.as_of - lasting.window_start, interval '5 minutes') else lasting.window_length end,
    case when basis.name = 'slices' then extract(epoch from lasting.window_length) / extract(epoch from slo_window.time_slice) end,
    basis.name
  from (
    select
      ops.slo_window_length(slo_window.rolling_window, slo_window.calendar_period, slo_window.time_zone, slo_window.as_of) as window_length,
      -- A window begins with the five minutes that hold its first instant.
      date_bin(
        '5 minutes',
        ops.slo_window_start(slo_window.rolling_window, slo_window.calendar_period, slo_window.time_zone, slo_window.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as window_start,
      date_bin('5 minutes', slo_window.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as window_end
    -- A barrier: each is used several times.
    offset 0
  ) as lasting
  cross join lateral (
    select case
      when slo_window.calendar_period is null then 'counted'
      when slo_window.time_slice is not null then 'slices'
      when lasting.window_start + lasting.window_length > lasting.window_end then 'expected'
      else 'counted'
    end as name
  ) as basis;
end;
comment on function ops.slo_window(interval, text, text, interval, timestamptz) is
  'The window of an objective as of an instant, in whole five minutes up to the ones that hold it. budget_basis: the budget is that of what is counted (counted), of what a calendar period will come to at the pace since it began, which is elapsed ago (expected), or of its whole_slices (slices).';

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
  window_end timestamptz,
  elapsed interval,
  whole_slices numeric,
  budget_basis text
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
    lasting.window_length,
    lasting.window_start,
    lasting.window_end,
    lasting.elapsed,
    lasting.whole_slices,
    lasting.budget_basis
  from ops.slo_versions as held
  cross join lateral ops.slo_window(
    held.rolling_window, held.calendar_period, held.time_zone, held.time_slice, slo_windows.as_of
  ) as lasting
  where held.valid_from <= slo_windows.as_of
    and held.valid_until > slo_windows.as_of
    and (slo_windows.slo_names is null or held.slo_name = any (slo_windows.slo_names));
end;
comment on function ops.slo_windows(timestamptz, text[]) is
  'One row per objective with the version that held at as_of and its window as ops.slo_window gives it; slo_names null: all objectives.';

create function ops.slo_parts(windows ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  window_version integer,
  window_since timestamptz,
  window_until timestamptz,
  version integer,
  since timestamptz,
  until timestamptz,
  target numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  with asked as materialized (
    select span.org_id, span.slo_name, span.slo_group, span.version, span.since, span.until from unnest(slo_parts.windows) as span
  ),
  -- A version judges until it ends; the time before it that no version held, from the end of the one before.
  judging as materialized (
    select
      held.slo_name,
      held.version as held_version,
      earlier.version,
      earlier.target,
      coalesce(lag(earlier.valid_until) over (partition by held.slo_name, held.version order by earlier.version), '-infinity') as since,
      case when earlier.version = held.version then 'infinity' else earlier.valid_until end as until
    from (select distinct asked.slo_name, asked.version from asked) as held
    join ops.slo_versions as known
      on known.slo_name = held.slo_name
      and known.version = held.version
    join ops.slo_versions as earlier
      on earlier.slo_name = held.slo_name
      and earlier.version <= held.version
      -- Events and slices, or slices of two lengths, do not add up, nor do groups by other labels: a version that counts others
      -- judges all of its window.
      and earlier.time_slice is not distinct from known.time_slice
    join ops.slis as known_sli
      on known_sli.sli_id = known.sli_id
    join ops.slis as earlier_sli
      on earlier_sli.sli_id = earlier.sli_id
      and earlier_sli.group_by = known_sli.group_by
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    asked.since,
    asked.until,
    judging.version,
    greatest(asked.since, judging.since),
    least(asked.until, judging.until),
    judging.target,
    asked.slo_group
  from asked
  join judging
    on judging.slo_name = asked.slo_name
    and judging.held_version = asked.version
  where greatest(asked.since, judging.since) < least(asked.until, judging.until);
end;
comment on function ops.slo_parts(ops.slo_span[]) is
  'Windows of versions, cut where a version took over from another: each part with the version that judges it, and its target.';

create function ops.sum_windows(windows ops.slo_span[], fresh ops.sli_delta[] default '{}')
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
  allowed numeric,
  allowed_unadjusted numeric,
  versions integer[],
  slo_group jsonb
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with parts as materialized (
    select part.* from ops.slo_parts(sum_windows.windows) as part
  ),
  -- By itself, so that the planner takes it for many rows and hashes it.
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(select distinct row(parts.org_id, parts.slo_name, parts.version, parts.since, parts.until, parts.slo_group)::ops.slo_span from parts),
      sum_windows.fresh
    ) as summed
  )
  select
    parts.org_id,
    parts.slo_name,
    parts.window_version,
    parts.window_since,
    parts.window_until,
    sum(sums.good)::bigint,
    sum(sums.total)::bigint,
    sum(sums.good_unadjusted)::bigint,
    sum(sums.total_unadjusted)::bigint,
    sum(ops.allowed_losses(sums.total, parts.target)),
    sum(ops.allowed_losses(sums.total_unadjusted, parts.target)),
    array_agg(parts.version order by parts.version),
    parts.slo_group
  from parts
  join sums
    on sums.org_id = parts.org_id
    and sums.slo_name = parts.slo_name
    and sums.slo_group = parts.slo_group
    and sums.version = parts.version
    and sums.since = parts.since
    and sums.until = parts.until
  group by parts.org_id, parts.slo_name, parts.window_version, parts.window_since, parts.window_until, parts.slo_group;
end;
comment on function ops.sum_windows(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of windows of versions as sum_slos gives them, each part of a window by the version that held then; allowed: how many of the total may be bad; versions: those that judge a part. One row a window.';

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
  slo_group jsonb,
  allowed numeric,
  allowed_unadjusted numeric,
  lost_1h bigint,
  lost_6h bigint,
  versions integer[]
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with spans as materialized (
    select span.org_id, span.slo_name, span.slo_group, span.version, named.window_name, named.since, named.until
    from unnest(measured_slos.windows) as span
    cross join lateral (
      select 'all' as window_name, span.since, span.until
      union all
      select burning.window_name, burning.since, burning.until
      from ops.burn_windows(measured_slos.as_of) as burning
    ) as named
  ),
  sums as materialized (
    select summed.*
    from ops.sum_windows(
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
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '5m'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '30m'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '1h'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '6h'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '1d'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '3d'),
    spans.slo_group,
    max(sums.allowed) filter (where spans.window_name = 'all'),
    max(sums.allowed_unadjusted) filter (where spans.window_name = 'all'),
    max(sums.total - sums.good) filter (where spans.window_name = '1h'),
    max(sums.total - sums.good) filter (where spans.window_name = '6h'),
    max(sums.versions) filter (where spans.window_name = 'all')
  from spans
  join sums
    on sums.org_id = spans.org_id
    and sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  group by 1, 2, spans.slo_group;
end;
comment on function ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]) is
  'One row per org and objective (or group of it) of the list: the counts of its whole window, exclusions applied and (unadjusted) not, and its burn rates as of an instant; allowed: how many of what is counted may be bad; versions: those that judge the window; fresh is added to what is stored.';
