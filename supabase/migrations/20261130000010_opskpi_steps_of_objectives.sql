-- The functions of objectives in named steps: spans, sums, windows and status, and what explains a budget; each answers as before.
create view ops.excluded_times
with (security_invoker = true)
as
select
  joined.org_id,
  joined.slo_name,
  lower(stretch) as since,
  upper(stretch) as until
from (
  select
    exclusion.org_id,
    exclusion.slo_name,
    range_agg(tstzrange(
      date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00'),
      date_bin('5 minutes', exclusion.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
    )) as stretches
  from ops.slo_exclusions as exclusion
  group by 1, 2
) as joined
cross join unnest(joined.stretches) as stretch;
comment on view ops.excluded_times is
  'One row per uninterrupted time that an objective''s account leaves out: the five minutes that exclusions touch, each once however many exclusions overlap there.';

create function ops.allowed_losses(total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return total * (1 - target);
comment on function ops.allowed_losses(numeric, numeric) is
  'How many of a total may be bad: the budget, in events or time slices. The cost of a loss is its share of it.';

create function ops.loss_reason(objective text, duration_ms numeric, threshold_ms numeric)
returns text
language sql
immutable
set search_path = ''
return case objective
  when 'latency' then format('took %s ms, the limit is %s ms', duration_ms, threshold_ms)
  when 'availability' then 'never succeeded'
  else 'failed'
end;
comment on function ops.loss_reason(text, numeric, numeric) is 'Why an event or unit of work burned the budget of an objective, in words.';

create type ops.counted_span as (
  place bigint,
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  sli_id bigint,
  time_slice interval,
  slice_target numeric,
  first_day timestamptz,
  end_day timestamptz
);
comment on type ops.counted_span is
  'A span with its place in the list, how its version counts, and the whole days (UTC) in it, from first_day to before end_day.';

create function ops.counted_spans(spans ops.slo_span[])
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
    version.sli_id,
    version.time_slice,
    version.slice_target,
    -- -infinity and infinity are days of their own.
    date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00'),
    date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00')
  from unnest(counted_spans.spans) with ordinality as span (org_id, slo_name, version, since, until, place)
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version;
end;
comment on function ops.counted_spans(ops.slo_span[]) is 'Each span of a list with how its version counts; a span of an unknown version is left out.';

create type ops.slo_count as (
  place bigint,
  starts_at timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
);
comment on type ops.slo_count is
  'Good and total of the span of that place, exclusions applied and (unadjusted) not; starts_at null: of the whole span.';

create function ops.changed_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}')
returns setof ops.slo_count
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with asked as materialized (
    select span.place, span.org_id, span.slo_name, span.sli_id, span.since, span.until
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
comment on function ops.changed_counts(ops.counted_span[], ops.sli_delta[]) is
  'What is to be added to the stored counts of each span, per five minutes: the fresh counts, and what exclusions leave out of both as negative counts.';

create function ops.slice_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}', zone text default null)
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
comment on function ops.slice_counts(ops.counted_span[], ops.sli_delta[], text) is
  'Time slices that each span counts and how many of them are good: of the whole span, or by day of a time zone if one is given.';

create or replace function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
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
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(changed.total_unadjusted, 0))
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
  burn_3d numeric
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with spans as materialized (
    select span.org_id, span.slo_name, span.version, version.target, named.window_name, named.since, named.until
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
        select distinct row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans
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
    max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.window_name = '3d')
  from spans
  join sums
    on sums.org_id = spans.org_id
    and sums.slo_name = spans.slo_name
    and sums.since = spans.since
  group by 1, 2;
end;
comment on function ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]) is
  'One row per org and objective of the list: the counts of its whole window, exclusions applied and (unadjusted) not, and its burn rates as of an instant; fresh is added to what is stored.';

create function ops.last_counts(as_of timestamptz, org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
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
  select org.id, sli.id, newest.last_counted_at
  from unnest(last_counts.org_ids) as org (id)
  cross join unnest(last_counts.sli_ids) as sli (id)
  cross join lateral (
    select max(counted.bucket_start) as last_counted_at
    from (
      (
        select bucket.bucket_start
        from ops.sli_counts as bucket
        where bucket.org_id = org.id
          and bucket.sli_id = sli.id
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
      where fresh.org_id = org.id
        and fresh.sli_id = sli.id
        and fresh.total > 0
    ) as counted
  ) as newest;
end;
comment on function ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]) is
  'The start of the last five minutes up to as_of in which each SLI counted something for each org, fresh counts included; null: never.';

create function ops.slo_status(
  good numeric,
  total numeric,
  target numeric,
  is_burning boolean,
  is_silent boolean,
  last_refresh_at timestamptz,
  stale_before timestamptz
)
returns text
language sql
immutable
set search_path = ''
return case
  when last_refresh_at is null and total = 0 then 'no_data'
  when last_refresh_at is null or last_refresh_at < stale_before then 'stale'
  when total = 0 or is_silent then 'no_data'
  when ops.is_overspent(good, total, target) then 'breached'
  when total < ops.events_to_judge(target) then 'insufficient'
  when ops.budget_left(good, total, target) < 0.25 or is_burning then 'at_risk'
  else 'ok'
end;
comment on function ops.slo_status(numeric, numeric, numeric, boolean, boolean, timestamptz, timestamptz) is
  'The status of an objective in a word: ok, at_risk, breached, insufficient, no_data or stale. Stale is what was counted last before stale_before.';

create function ops.last_refresh_at()
returns timestamptz
language sql
stable
set search_path = ''
return (
  select max(run.finished_at)
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome in ('success', 'waiting')
);
comment on function ops.last_refresh_at() is 'When a refresh last counted all that it could; null: never.';

create function ops.orgs_with_objectives(fresh ops.sli_delta[] default '{}')
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
comment on function ops.orgs_with_objectives(ops.sli_delta[]) is
  'The orgs for which objectives are judged: those with counted or fresh events, or the caller''s alone while nothing is counted.';

create or replace function ops.evaluate_slos(as_of timestamptz, with_fresh boolean default true, slo_names text[] default null)
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
  budget_left_unadjusted numeric
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
  measured as materialized (
    select found.*
    from fresh
    cross join lateral ops.measured_slos(
      array(
        select row(org.id, promised.slo_name, promised.version, promised.window_start, promised.window_end)::ops.slo_span
        from orgs
        cross join unnest(orgs.ids) as org (id)
        cross join promised
      ),
      evaluate_slos.as_of,
      fresh.deltas
    ) as found
  ),
  newest as materialized (
    select found.*
    from fresh
    cross join orgs
    cross join lateral ops.last_counts(
      evaluate_slos.as_of, orgs.ids, array(select distinct promised.sli_id from promised), fresh.deltas
    ) as found
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
    ops.budget_left(measured.good_unadjusted, measured.total_unadjusted, promised.target)
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = promised.sli_id
  cross join lateral (
    select ops.budget_left(measured.good, measured.total, promised.target) as remaining offset 0
  ) as budget;
end;

create or replace function ops.daily_slos(spans ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
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
    -- What is not within whole days: the edges, or all of it.
    cross join lateral (
      select asked.since, least(asked.until, asked.first_day) where asked.zone = 'UTC'
      union all
      select greatest(asked.first_day, asked.end_day), asked.until where asked.zone = 'UTC'
      union all
      select asked.since, asked.until where asked.zone <> 'UTC'
    ) as edge (since, until)
    join ops.sli_counts as bucket
      on bucket.org_id = asked.org_id
      and bucket.sli_id = asked.sli_id
      and bucket.bucket_start >= edge.since
      and bucket.bucket_start < edge.until
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
    sum(counted.total_unadjusted)::bigint
  from counted
  join asked
    on asked.place = counted.place
  group by 1, 2, 3, 4
  having sum(counted.total_unadjusted) > 0;
end;

create or replace function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric
)
language sql
stable
set search_path = ''
begin atomic
  with spans as (
    select counting.org_id, held.slo_name, held.version, held.window_start as since, held.window_end as until
    from (
      select distinct series.org_id
      from ops.series
      where slo_burndown.only_org_id is null
        or series.org_id = slo_burndown.only_org_id
    ) as counting
    cross join ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as held
  )
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    daily.good,
    daily.total,
    (daily.total - daily.good) / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    1 - sum(daily.total - daily.good) over so_far / nullif((1 - version.target) * sum(daily.total) over whole, 0)
  from ops.daily_slos(array(
    select row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version
  window
    whole as (partition by daily.org_id, daily.slo_name),
    so_far as (partition by daily.org_id, daily.slo_name order by daily.day_start);
end;

create type ops.slo_account as (
  slo_name text,
  version integer,
  target numeric,
  time_slice interval,
  slice_target numeric,
  sli_id bigint,
  event_type text,
  objective text,
  threshold_ms numeric,
  filled_until timestamptz,
  since timestamptz,
  until timestamptz
);
comment on type ops.slo_account is 'A version of an objective, how it counts, and a range in whole five minutes over which its budget is explained.';

create function ops.slo_account(slo_name text, since timestamptz, until timestamptz)
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
    sli.sli_id, sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    date_bin('5 minutes', slo_account.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', slo_account.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
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
comment on function ops.slo_account(text, timestamptz, timestamptz) is
  'The version of an objective that held at the end of a range, with how it counts and the five minutes that the range touches; refused where there was none.';

create function ops.account_counts(account ops.slo_account, only_org_id uuid default null)
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
        and excluded.since <= bucket.bucket_start
        and excluded.until > bucket.bucket_start
    );
end;
$$;
comment on function ops.account_counts(ops.slo_account, uuid) is
  'What an account counts per five minutes, exclusions left out, with the start of the time slice (without slices: of the range).';

create function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
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
    select
      attempt.org_id,
      attempt.event_timestamp,
      attempt.event_timestamp,
      attempt.event_id,
      attempt.run_id,
      attempt.tag,
      ops.loss_reason(account.objective, attempt.duration_ms, account.threshold_ms)
    from ops.attempts as attempt
    where attempt.event_type = account.event_type
      and attempt.id <= counted_until
      and attempt.event_timestamp < account.filled_until
      and attempt.event_timestamp >= account.since
      and attempt.event_timestamp < account.until
      and (stored_losses.only_org_id is null or attempt.org_id = stored_losses.only_org_id)
      and case account.objective
        when 'latency' then attempt.succeeded and attempt.duration_ms >= account.threshold_ms
        else not attempt.succeeded
      end;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.event_type = account.event_type
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
  join ops.attempts as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and attempt.event_timestamp < account.filled_until
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;
comment on function ops.stored_losses(ops.slo_account, uuid) is
  'The stored events that an account counts as bad, exclusions not applied; for availability the last attempt of each lost unit of work, counted at its first.';

create function ops.account_losses(account ops.slo_account, only_org_id uuid default null)
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
  with stored as materialized (
    select found.*, date_bin('5 minutes', found.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as found
  ),
  -- What retention removed was counted all the same, and the counts say how many that were.
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
comment on function ops.account_losses(ops.slo_account, uuid) is
  'One row per bad event of an account, exclusions left out, with its time slice: the stored ones, and those that retention removed, without an event_id and at the start of their five minutes.';

create or replace function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null
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
  cost numeric
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  account ops.slo_account;
begin
  if explain_slo.since is null or explain_slo.until is null or explain_slo.since >= explain_slo.until then
    raise exception 'the range to explain is empty: % to %', explain_slo.since, explain_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  account := ops.slo_account(explain_slo.slo_name, explain_slo.since, explain_slo.until);

  return query
  with slices as materialized (
    select bucket.org_id, bucket.slice_start, sum(bucket.good) as good, sum(bucket.total) as total
    from ops.account_counts(account, explain_slo.only_org_id) as bucket
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
    select lost.* from ops.account_losses(account, explain_slo.only_org_id) as lost
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
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0)
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;

create or replace function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric)
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
  with spans as materialized (
    select version.slo_name, version.version, version.target, burning.window_name, burning.since, burning.until
    from ops.slo_versions as version
    cross join ops.burn_windows(slo_burn_rates.as_of) as burning
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(select row(owner_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans),
      array(select row(fresh.*)::ops.sli_delta from ops.fresh_slis() as fresh where fresh.org_id = owner_id)
    ) as summed
  )
  select spans.slo_name, spans.window_name, sums.good, sums.total, ops.burn_rate(sums.good, sums.total, spans.target)
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.since = spans.since
  order by spans.slo_name, spans.since desc;
end;
$$;

create function ops.newest_losses(account ops.slo_account, org_id uuid, max_events integer)
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
comment on function ops.newest_losses(ops.slo_account, uuid, integer) is
  'The newest five minutes in which an org''s account lost something, each with what one bad event there is of a loss (1; in a time slice its share), and how many bad events are newer.';

create or replace function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null
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
  account constant ops.slo_account := ops.slo_account(newest_burners.slo_name, newest_burners.since, newest_burners.until);
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until)::ops.slo_span]
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
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms) as reason
      from (
        select stored.*
        from public.telemetry_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and case account.objective
          when 'latency' then event.outcome = 'success' and event.duration_ms >= account.threshold_ms
          else event.outcome = 'failure'
        end
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.event_type = account.event_type
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;

revoke execute on function
  ops.allowed_losses(numeric, numeric),
  ops.loss_reason(text, numeric, numeric),
  ops.counted_spans(ops.slo_span[]),
  ops.changed_counts(ops.counted_span[], ops.sli_delta[]),
  ops.slice_counts(ops.counted_span[], ops.sli_delta[], text),
  ops.slo_windows(timestamptz, text[]),
  ops.burn_windows(timestamptz),
  ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]),
  ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]),
  ops.slo_status(numeric, numeric, numeric, boolean, boolean, timestamptz, timestamptz),
  ops.last_refresh_at(),
  ops.orgs_with_objectives(ops.sli_delta[]),
  ops.slo_account(text, timestamptz, timestamptz),
  ops.account_counts(ops.slo_account, uuid),
  ops.stored_losses(ops.slo_account, uuid),
  ops.account_losses(ops.slo_account, uuid),
  ops.newest_losses(ops.slo_account, uuid, integer)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.excluded_times from anon, authenticated, service_role;
  grant select on ops.excluded_times to authenticated, service_role;
  revoke execute on function
    ops.allowed_losses(numeric, numeric),
    ops.loss_reason(text, numeric, numeric),
    ops.counted_spans(ops.slo_span[]),
    ops.changed_counts(ops.counted_span[], ops.sli_delta[]),
    ops.slice_counts(ops.counted_span[], ops.sli_delta[], text),
    ops.slo_windows(timestamptz, text[]),
    ops.burn_windows(timestamptz),
    ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]),
    ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]),
    ops.slo_status(numeric, numeric, numeric, boolean, boolean, timestamptz, timestamptz),
    ops.last_refresh_at(),
    ops.orgs_with_objectives(ops.sli_delta[]),
    ops.slo_account(text, timestamptz, timestamptz),
    ops.account_counts(ops.slo_account, uuid),
    ops.stored_losses(ops.slo_account, uuid),
    ops.account_losses(ops.slo_account, uuid),
    ops.newest_losses(ops.slo_account, uuid, integer)
  from anon, authenticated, service_role;
  grant execute on function
    ops.allowed_losses(numeric, numeric),
    ops.loss_reason(text, numeric, numeric),
    ops.counted_spans(ops.slo_span[]),
    ops.changed_counts(ops.counted_span[], ops.sli_delta[]),
    ops.slice_counts(ops.counted_span[], ops.sli_delta[], text),
    ops.slo_windows(timestamptz, text[]),
    ops.burn_windows(timestamptz),
    ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]),
    ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]),
    ops.slo_status(numeric, numeric, numeric, boolean, boolean, timestamptz, timestamptz),
    ops.last_refresh_at(),
    ops.orgs_with_objectives(ops.sli_delta[]),
    ops.slo_account(text, timestamptz, timestamptz),
    ops.account_counts(ops.slo_account, uuid),
    ops.stored_losses(ops.slo_account, uuid),
    ops.account_losses(ops.slo_account, uuid),
    ops.newest_losses(ops.slo_account, uuid, integer)
  to authenticated, service_role;
end;
$$;
