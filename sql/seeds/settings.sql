-- Settings as they ship; the cursor of the events, which has counted nothing yet.

insert into ops.settings (name, value, description)
values
  ('time_zone', 'UTC', 'Time zone in which days, weeks and months begin. After a change: opskpi rebuild over all time.'),
  ('refresh_interval', '5 minutes', 'How often the jobs are meant to run; the counts are stale after two of these without a run, or three that waited.'),
  ('job_runs_kept', '30 days', 'How long the journal of the jobs is kept.'),
  ('expected_interval', '7 days', 'How often each objective expects input unless it says otherwise; silent for twice as long is no_data (interval).'),
  ('min_failures', '3', 'How many bad ones it takes in the long window of a burn-rate rule while one alone exceeds the budget, unless the objective says otherwise (count).'),
  ('requests_per_minute', '100', 'Calls of ingest_events that one agent may make in a minute through an API (count).'),
  ('requests_per_minute_per_key', '300', 'Calls of ingest_events that one API key or user may make in a minute through an API, whatever agents the events name (count).'),
  ('anonymous_sign_ins', 'refuse', 'Whether callers whose claims say is_anonymous are signed-in people like others (allow) or have neither rows nor writes (refuse).'),
  ('workflows_slsa_provenance', 'slsa-provenance', 'Workflows whose runs are collected as slsa_provenance events: names or file names, * and ? allowed, separated by commas.'),
  ('workflows_provenance_validate', 'provenance-validate', 'Workflows whose runs are collected as provenance_validate events: names or file names, * and ? allowed, separated by commas.'),
  ('workflows_audit_observer', 'phase3-audit-observer', 'Workflows whose runs are collected as audit_observer events: names or file names, * and ? allowed, separated by commas.'),
  ('tag_patterns', 'v[0-9]*.[0-9]*.[0-9]*, [0-9]*.[0-9]*.[0-9]*', 'What tags are called, where GitHub does not say whether a push was of a branch or a tag; * and ? allowed, separated by commas.');

insert into ops.cursors (name) values ('telemetry_events');
