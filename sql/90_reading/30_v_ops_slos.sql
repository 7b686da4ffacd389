-- Objectives for analysts.

create view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted,
  version.counted_since,
  evaluated.slo_group,
  evaluated.freshness,
  evaluated.stale_since,
  evaluated.allowed,
  evaluated.versions,
  evaluated.budget_basis
from ops.evaluate_slos(now(), true, null) as evaluated
join (
  select known.slo_name, known.version, nullif(sli.counted_since, '-infinity') as counted_since
  from ops.slo_versions as known
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  -- A barrier: joined one after the other, the second is looked for row by row.
  offset 0
) as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.slo_group, evaluated.org_id;
comment on view public.v_ops_slo_status is
  'One row an org and objective (of one with groups: each group), as of now, events behind the cursor included; the worst first.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency, error_rate, events or measured.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge) or no_data, whether or not its counts are fresh.';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';
comment on column public.v_ops_slo_status.counted_since is
  'First instant with all its events: retention had removed older ones before the objective was made; null: none is missing.';
comment on column public.v_ops_slo_status.slo_group is
  'The group: {"workflow": "release"}, null where its events have no such label; {"overflow": true}: all beyond the first 1,000 groups; {} of an objective without groups.';
comment on column public.v_ops_slo_status.freshness is 'fresh, or stale: the jobs stopped, or they wait for a transaction.';
comment on column public.v_ops_slo_status.stale_since is 'When the jobs last counted; null: the counts are fresh, or there are none.';
comment on column public.v_ops_slo_status.allowed is 'How many of the whole window may be bad, which is its error budget (count); null without events.';
comment on column public.v_ops_slo_status.versions is 'The versions that judge the window, each the time in which it held.';
comment on column public.v_ops_slo_status.budget_basis is
  'counted: the budget is a share of what the window counts; expected: of what the calendar period will come to, as its total so far ÷ the elapsed share says; slices: of the time slices of the whole calendar period.';

create view public.v_ops_slo_history
with (security_invoker = true)
as
select
  history.org_id,
  history.slo_name,
  history.version,
  history.day_start,
  history.target,
  history.good,
  history.total,
  history.good::numeric / nullif(history.total, 0) as sli,
  history.good_unadjusted,
  history.total_unadjusted,
  history.slo_group
from ops.slo_history() as history;
comment on view public.v_ops_slo_history is
  'One row an org, objective and day on which something was counted, by the version that held then; a day of a change has a row for each version.';
comment on column public.v_ops_slo_history.org_id is 'The tenant.';
comment on column public.v_ops_slo_history.slo_name is 'The objective.';
comment on column public.v_ops_slo_history.version is 'The version that held.';
comment on column public.v_ops_slo_history.day_start is 'First instant of the day.';
comment on column public.v_ops_slo_history.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_history.good is 'Good ones (count of events, or of time slices).';
comment on column public.v_ops_slo_history.total is 'All that count (count of events, or of time slices).';
comment on column public.v_ops_slo_history.sli is 'The share measured (ratio); null when all is excluded.';
comment on column public.v_ops_slo_history.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_history.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_history.slo_group is 'The group: {"workflow": "release"}; {} of an objective without groups.';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left,
  burndown.slo_group
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied; a day of a change has a row for each version.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';
comment on column public.v_ops_error_budget_burndown.slo_group is 'The group: {"workflow": "release"}; {} of an objective without groups.';
