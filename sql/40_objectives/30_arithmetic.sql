-- The arithmetic of error budgets, everything in numeric.
-- Sources: SRE Workbook chapter 5 (factors, burn rates, detection), OpenSLO (time slices).

create function ops.alert_factor(budget_share numeric, slo_window interval, alert_window interval)
returns numeric
language sql
immutable
set search_path = ''
return budget_share * extract(epoch from slo_window) / extract(epoch from alert_window);
comment on function ops.alert_factor(numeric, interval, interval) is
  'The burn rate at which alert_window burns budget_share of the budget of slo_window: 0.02 of 30 days in 1 hour is 14.4.';

create function ops.budget_share(factor numeric, slo_window interval, alert_window interval)
returns numeric
language sql
immutable
set search_path = ''
return factor * extract(epoch from alert_window) / extract(epoch from slo_window);
comment on function ops.budget_share(numeric, interval, interval) is
  'The share of the budget of slo_window that alert_window burns at a burn rate of factor: 14.4 over 1 hour of 30 days is 0.02.';

create function ops.highest_burn_rate(target numeric)
returns numeric
language sql
immutable
set search_path = ''
return 1 / (1 - target);
comment on function ops.highest_burn_rate(numeric) is 'The burn rate when everything fails; an alert factor above it can never fire.';

create function ops.allowed_losses(total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return total * (1 - target);
comment on function ops.allowed_losses(numeric, numeric) is
  'How many of a total may be bad: the budget, in events or time slices. The cost of a loss is its share of it.';

create function ops.share_of_budget(lost numeric, allowed numeric)
returns numeric
language sql
immutable
set search_path = ''
return lost / nullif(allowed, 0);
comment on function ops.share_of_budget(numeric, numeric) is
  'How much of a budget is lost: 1 is all of it. Lost and allowed of one window give its burn rate. Null when nothing is allowed.';

create function ops.window_budget(
  allowed numeric,
  total numeric,
  target numeric,
  slo_window interval,
  elapsed interval,
  whole_slices numeric
)
returns numeric
language sql
immutable
set search_path = ''
-- Trimmed, so that a window that has elapsed has the very quotients of its burn rate, not others in their last digits.
return case
  when total > 0 then trim_scale(allowed + ops.allowed_losses(
    coalesce(whole_slices, total * extract(epoch from slo_window) / extract(epoch from elapsed)) - total, target
  ))
end;
comment on function ops.window_budget(numeric, numeric, numeric, interval, interval, numeric) is
  'How many of a whole window may be bad: what is allowed of its total so far, and target''s share of what is still to come. That is none where the window has elapsed; else as many again as fit the pace so far, or the rest of whole_slices. Null while nothing is counted.';

create function ops.burn_rate(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return ops.share_of_budget(total - good, ops.allowed_losses(total, target));
comment on function ops.burn_rate(numeric, numeric, numeric) is
  'Share of bad ÷ share allowed; over a whole SLO window it is the share of the budget consumed. Null when nothing was counted.';

create function ops.budget_left(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return 1 - ops.share_of_budget(total - good, ops.allowed_losses(total, target));
comment on function ops.budget_left(numeric, numeric, numeric) is
  'Share of the error budget that is left, negative when overspent; null when nothing was counted.';

create function ops.loss_reason(objective text, measured numeric, allowed numeric)
returns text
language sql
immutable
set search_path = ''
return case objective
  when 'latency' then format('took %s ms, the limit is %s ms', measured, allowed)
  when 'measured' then format('was %s, the limit is %s', measured, allowed)
  when 'events' then 'its labels are not those of a good one'
  when 'availability' then 'never succeeded'
  else 'failed'
end;
comment on function ops.loss_reason(text, numeric, numeric) is 'Why an event or unit of work burned the budget of an objective, in words.';

create function ops.time_to_exhaustion(slo_window interval, burn_rate numeric, budget_left numeric default 1)
returns interval
language sql
immutable
set search_path = ''
return case
  when burn_rate is null or burn_rate <= 0 then null
  when budget_left <= 0 then interval '0'
  else make_interval(secs => least(extract(epoch from slo_window) * budget_left / burn_rate, 3155760000000)::double precision)
end;
comment on function ops.time_to_exhaustion(interval, numeric, numeric) is
  'How long the budget that is left lasts at a burn rate; null when it is not burning, which is never.';

create function ops.budget_slices(target numeric, slo_window interval, slice interval)
returns numeric
language sql
immutable
set search_path = ''
return (1 - target) * extract(epoch from slo_window) / extract(epoch from slice);
comment on function ops.budget_slices(numeric, interval, interval) is 'How many time slices of the window may be bad.';

create function ops.detection_time(target numeric, factor numeric, alert_window interval, error_ratio numeric)
returns interval
language sql
immutable
set search_path = ''
return make_interval(
  secs => ((1 - target) * factor * extract(epoch from alert_window) / nullif(error_ratio, 0))::double precision
);
comment on function ops.detection_time(numeric, numeric, interval, numeric) is
  'How long a constant share of errors takes to fire an alert; longer than the window means never. Null without errors.';

create function ops.events_to_judge(target numeric)
returns bigint
language sql
immutable
set search_path = ''
return ceil(1 / (1 - target))::bigint;
comment on function ops.events_to_judge(numeric) is 'How many events it takes until a single failure fits into the budget: 1,000 at 99.9 %.';

create function ops.is_overspent(lost numeric, allowed numeric, target numeric)
returns boolean
language sql
immutable
set search_path = ''
return lost > greatest(allowed, ops.allowed_losses(ops.events_to_judge(target), target));
comment on function ops.is_overspent(numeric, numeric, numeric) is
  'Whether more is lost than the budget allows, even if all that is still needed to judge turns out good: 2 of 10 at 99.9 %, not 1 of 10.';

create function ops.in_hours(length interval)
returns interval
language sql
immutable
set search_path = ''
return make_interval(secs => extract(epoch from length)::double precision);
comment on function ops.in_hours(interval) is
  'The same length without days, since a day of the session''s time zone may have 23 or 25 hours.';

create function ops.slo_window_start(rolling_window interval, calendar_period text, time_zone text, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
return case
  when calendar_period is null then as_of - ops.in_hours(rolling_window)
  else date_trunc(calendar_period, as_of, coalesce(time_zone, ops.time_zone()))
end;
comment on function ops.slo_window_start(interval, text, text, timestamptz) is
  'First instant of the window that an objective looks at as of an instant: so far back, or the start of its calendar period.';

create function ops.slo_window_length(rolling_window interval, calendar_period text, time_zone text, as_of timestamptz)
returns interval
language sql
stable
set search_path = ''
return case
  when calendar_period is null then ops.in_hours(rolling_window)
  else make_interval(secs => (
    select extract(
      epoch from
      (local_period.starts_at + case calendar_period when 'quarter' then interval '3 months' else ('1 ' || calendar_period)::interval end)
        at time zone local_period.zone
      - local_period.starts_at at time zone local_period.zone
    )
    from (
      select
        date_trunc(calendar_period, as_of at time zone named.zone) as starts_at,
        named.zone
      from (select coalesce(time_zone, ops.time_zone()) as zone) as named
    ) as local_period
  )::double precision)
end;
comment on function ops.slo_window_length(interval, text, text, timestamptz) is
  'How long the whole window is, in hours: a calendar month has 672 to 745.';

create function ops.is_burning(long_burn numeric, short_burn numeric, factor numeric)
returns boolean
language sql
immutable
set search_path = ''
return long_burn > factor and coalesce(short_burn > factor, true);
comment on function ops.is_burning(numeric, numeric, numeric) is
  'Whether both windows burn faster than factor: the long one says that it matters, the short one that it goes on. A short window without events says nothing against it; a long one without gives null.';

create function ops.burns_share(
  long_burn numeric,
  short_burn numeric,
  factor numeric,
  lost numeric,
  allowed numeric,
  budget_share numeric
)
returns boolean
language sql
immutable
set search_path = ''
return ops.is_burning(long_burn, short_burn, factor) and lost >= budget_share * allowed;
comment on function ops.burns_share(numeric, numeric, numeric, numeric, numeric, numeric) is
  'Whether both windows burn faster than factor, and the long one really lost this share of what the whole SLO window allows: a failure of a quiet night burns fast and takes next to nothing.';

create function ops.begins_alert(
  long_burn numeric,
  short_burn numeric,
  short_total numeric,
  factor numeric,
  lost numeric,
  allowed numeric,
  budget_share numeric,
  events_needed bigint,
  min_failures integer
)
returns boolean
language sql
immutable
set search_path = ''
return coalesce(
  ops.burns_share(long_burn, short_burn, factor, lost, allowed, budget_share)
    and coalesce(short_total > 0, true)
    and (events_needed = 0 or lost >= min_failures),
  false
);
comment on function ops.begins_alert(numeric, numeric, numeric, numeric, numeric, numeric, numeric, bigint, integer) is
  'Whether what burns is enough to begin an alert: the share was really lost, the short window holds something (short_total null: there is none), and at least min_failures were lost where one alone exceeds the budget (events_needed above 0).';

create function ops.events_needed(target numeric, total bigint, whole_slices numeric)
returns bigint
language sql
immutable
set search_path = ''
return greatest(ops.events_to_judge(target) - coalesce(trunc(whole_slices)::bigint, total), 0);
comment on function ops.events_needed(numeric, bigint, numeric) is
  'How many more must be counted until a single failure fits into the budget. The pace of a young period may change, so that events to come count for its budget and not here; its slices are certain.';

create function ops.useless_because(factor numeric, slo_window interval, alert_window interval, target numeric)
returns text
language sql
immutable
set search_path = ''
return case
  when alert_window > slo_window then format(
    'its window of %s is longer than that of the objective, %s', justify_hours(alert_window), justify_hours(slo_window)
  )
  -- At exactly 1 it fires above the rate that spends the budget.
  when factor < 1 then format(
    'its factor is %s, and a burn rate below 1 leaves a part of the budget', trim_scale(round(factor, 4))
  )
  when factor >= ops.highest_burn_rate(target) then format(
    'it can never fire: its factor is %s, and at a target of %s nothing burns faster than %s',
    trim_scale(round(factor, 4)), trim_scale(target), trim_scale(round(ops.highest_burn_rate(target), 4))
  )
end;
comment on function ops.useless_because(numeric, interval, interval, numeric) is
  'Why a burn-rate rule can mean nothing for an objective, in words; null: it means something.';
