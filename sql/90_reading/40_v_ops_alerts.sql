-- Alerts, messages and silences for analysts.

create view public.v_ops_alerts
with (security_invoker = true)
as
select
  alert.org_id,
  alert.alert_id,
  alert.rule_name,
  alert.kind,
  alert.severity,
  alert.subject,
  alert.service,
  alert.slo_version,
  alert.state,
  alert.is_frozen,
  alert.pending_since,
  alert.firing_since,
  alert.resolved_at,
  alert.evaluated_at,
  alert.description,
  alert.detail,
  alert.slo_group
from ops.alerts as alert
order by alert.alert_id desc;
comment on view public.v_ops_alerts is 'One row an alert, newest first.';
comment on column public.v_ops_alerts.org_id is 'The tenant; the nil org for what concerns the jobs.';
comment on column public.v_ops_alerts.alert_id is 'Number of the alert.';
comment on column public.v_ops_alerts.rule_name is 'The rule that found it.';
comment on column public.v_ops_alerts.kind is 'burn_rate, budget_exhausted, kpi_threshold, silent_input, silent_agents or silent_jobs.';
comment on column public.v_ops_alerts.severity is 'page, ticket or notice.';
comment on column public.v_ops_alerts.subject is 'The objective, KPI, event type, agent or job.';
comment on column public.v_ops_alerts.service is 'The service of the objective; else null.';
comment on column public.v_ops_alerts.slo_version is 'The version of the objective by which it was found; else null.';
comment on column public.v_ops_alerts.state is 'pending, firing, resolved (its condition was found not to hold) or ended (nothing asks any more).';
comment on column public.v_ops_alerts.is_frozen is 'The last evaluation could not tell, so the state stays.';
comment on column public.v_ops_alerts.pending_since is 'When the condition was first found to hold.';
comment on column public.v_ops_alerts.firing_since is 'When it fired; null: not yet.';
comment on column public.v_ops_alerts.resolved_at is 'When it was found to be over, resolved or ended; null: it is not.';
comment on column public.v_ops_alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column public.v_ops_alerts.description is 'What it means and what to do.';
comment on column public.v_ops_alerts.detail is 'The figures: burn rates and factor, SLI, target, budget left; the KPI and its limit; when last heard of; why it ended, and who did that when.';
comment on column public.v_ops_alerts.slo_group is 'The group of the objective that it is about; else {}.';

create view public.v_ops_alert_deliveries
with (security_invoker = true)
as
select
  delivery.org_id,
  delivery.delivery_id,
  delivery.channel_name,
  delivery.group_key,
  delivery.status,
  delivery.state,
  delivery.alert_ids,
  delivery.attempts,
  delivery.created_at,
  delivery.next_attempt_at,
  delivery.settled_at,
  delivery.last_error
from ops.alert_deliveries as delivery
order by delivery.delivery_id desc;
comment on view public.v_ops_alert_deliveries is 'One row a message for a channel, newest first.';
comment on column public.v_ops_alert_deliveries.org_id is 'The tenant.';
comment on column public.v_ops_alert_deliveries.delivery_id is 'Number of the delivery.';
comment on column public.v_ops_alert_deliveries.channel_name is 'The channel.';
comment on column public.v_ops_alert_deliveries.group_key is 'The service of the objectives, the KPI, the kind of silence, or the week of a summary.';
comment on column public.v_ops_alert_deliveries.status is 'firing, resolved, ended, test or summary.';
comment on column public.v_ops_alert_deliveries.state is 'queued, sending, delivered, dead, silenced (logged only) or superseded.';
comment on column public.v_ops_alert_deliveries.alert_ids is 'The alerts it speaks of.';
comment on column public.v_ops_alert_deliveries.attempts is 'Attempts begun (count); one that the receiver only put off is taken back.';
comment on column public.v_ops_alert_deliveries.created_at is 'The instant of the evaluation or call that wrote it.';
comment on column public.v_ops_alert_deliveries.next_attempt_at is 'Not before this instant.';
comment on column public.v_ops_alert_deliveries.settled_at is 'When the last attempt ended.';
comment on column public.v_ops_alert_deliveries.last_error is 'Why the last attempt failed; null when it did not.';

create view public.v_ops_alert_silences
with (security_invoker = true)
as
select
  silence.only_org_id as org_id,
  silence.alert_silence_id,
  silence.matcher,
  silence.starts_at,
  silence.until,
  silence.reason,
  silence.author,
  silence.created_at
from ops.alert_silences as silence
order by silence.alert_silence_id desc;
comment on view public.v_ops_alert_silences is 'One row a time in which matching alerts are logged and not sent, newest first.';
comment on column public.v_ops_alert_silences.org_id is 'The tenant whose alerts it covers; null: all of them, which only the owner sees.';
comment on column public.v_ops_alert_silences.alert_silence_id is 'Number of the silence.';
comment on column public.v_ops_alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and labels of its groups; * for everything.';
comment on column public.v_ops_alert_silences.starts_at is 'First instant.';
comment on column public.v_ops_alert_silences.until is 'First instant after it.';
comment on column public.v_ops_alert_silences.reason is 'Why.';
comment on column public.v_ops_alert_silences.author is 'Who said so.';
comment on column public.v_ops_alert_silences.created_at is 'When it was added.';
