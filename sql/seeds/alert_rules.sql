-- Alert rules as they ship.

insert into ops.alert_rules (rule_name, kind, severity, budget_share, long_window, short_window, description)
values
  ('fast_burn', 'burn_rate', 'page', 0.02, '1 hour', '5 minutes', 'Fires when 2 % of the error budget goes within an hour.'),
  ('steady_burn', 'burn_rate', 'page', 0.05, '6 hours', '30 minutes', 'Fires when 5 % of the error budget goes within six hours.'),
  ('slow_burn', 'burn_rate', 'ticket', 0.1, '1 day', '2 hours', 'Fires when 10 % of the error budget goes within a day.'),
  ('trickle', 'burn_rate', 'ticket', 0.1, '3 days', '6 hours', 'Fires when 10 % of the error budget goes within three days.'),
  ('budget_exhausted', 'budget_exhausted', 'ticket', null, null, null, 'More is bad than the error budget allows.'),
  ('silent_input', 'silent_input', 'notice', null, null, null, 'Nothing arrives that the objective could be judged by; its alerts stay as they are.'),
  ('silent_jobs', 'silent_jobs', 'page', null, null, null, 'The jobs stood still: nothing was counted or evaluated.');
