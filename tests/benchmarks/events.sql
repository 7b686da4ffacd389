-- Draws events for the benchmarks, as a busy organisation's would be: 5 orgs, 8 kinds, about 500 series.
insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, org_id, agent_id)
select
  kind.event_type,
  drawn.instant,
  case when kind.event_type <> 'hook_execution' then drawn.number end,
  case when kind.event_type in ('slsa_provenance', 'provenance_validate', 'audit_observer') then 'v' || drawn.number / 2 end,
  case kind.event_type
    when 'hook_execution' then jsonb_build_object(
      'hook_type', (array['pre-commit', 'pre-push', 'commit-msg'])[1 + drawn.dice % 3],
      'result', case when drawn.dice % 100 < 4 then 'blocked' when drawn.dice % 100 < 6 then 'overridden' else 'allowed' end,
      'findings_summary', jsonb_build_object('total', drawn.dice % 3, 'pattern', 'pattern-' || drawn.dice % 10),
      'duration_ms', drawn.duration_ms / 1000
    )
    when 'artifact' then jsonb_build_object('kind', 'kind-' || drawn.dice % 4, 'size_bytes', drawn.duration_ms * 1000)
    when 'api_request' then jsonb_build_object(
      'outcome', case when drawn.dice % 100 < 2 then 'failure' else 'success' end,
      'endpoint', '/v1/resource-' || drawn.dice % %(endpoints)s,
      'duration_ms', drawn.duration_ms / 500
    )
    else jsonb_build_object(
      'outcome', case when drawn.dice % 100 < 2 then 'failure' when drawn.dice % 100 < 4 then 'cancelled' else 'success' end,
      'workflow', 'workflow-' || drawn.dice % %(workflows)s,
      'duration_ms', drawn.duration_ms
    )
  end,
  ('00000000-0000-0000-0000-00000000000' || drawn.org)::uuid,
  null
from (
  select
    number,
    %(since)s::timestamptz + (%(until)s::timestamptz - %(since)s::timestamptz) * random() as instant,
    (random() * 1000000)::integer as dice,
    (random() * 4)::integer as org,
    (random() * 9)::integer as kind_number,
    round(exp(11 + random() * 2))::bigint as duration_ms
  from generate_series(1, %(count)s) as number
) as drawn
join (
  values
    (0, 'hook_execution'), (1, 'hook_execution'), (2, 'hook_execution'), (3, 'hook_execution'), (4, 'api_request'), (5, 'workflow_run'),
    (6, 'artifact'), (7, 'slsa_provenance'), (8, 'provenance_validate'), (9, 'audit_observer')
) as kind (kind_number, event_type)
  on kind.kind_number = drawn.kind_number;
