-- Conditions: one row per rule and subject as of an instant, whether it holds or not.

create table ops.alert_evaluations (
  is_only boolean not null default true,
  evaluated_at timestamptz not null,
  constraint alert_evaluations_pkey primary key (is_only),
  constraint alert_evaluations_is_one_row check (is_only)
);
comment on table ops.alert_evaluations is 'One row: up to when the rules have been evaluated.';
comment on column ops.alert_evaluations.is_only is 'Always true.';
comment on column ops.alert_evaluations.evaluated_at is 'The instant of the last evaluation; an earlier one is refused, so that alerts go forwards only.';
alter table ops.alert_evaluations enable row level security;
create policy alert_evaluations_select_authenticated on ops.alert_evaluations for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create type ops.alert_condition as (
  org_id uuid,
  rule_name text,
  subject text,
  service text,
  slo_version integer,
  holds boolean,
  detail jsonb,
  slo_group jsonb,
  starts boolean
);
comment on type ops.alert_condition is
  'What a rule finds about a subject, or about a group of an objective (else {}). holds: whether it goes on, as an alert that is open stays open; null where the rule cannot tell, and an alert then stays as it is. starts: whether it is enough to begin an alert; null: where it holds.';

create function ops.readable(value numeric)
returns text
language sql
immutable
set search_path = ''
return trim_scale(round(value, 6))::text;
comment on function ops.readable(numeric) is 'A figure for a message: six decimals at most.';

create function ops.counts_are_stale(as_of timestamptz)
returns boolean
language sql
stable
set search_path = ''
return (select counted.freshness <> 'fresh' from ops.counting_freshness(counts_are_stale.as_of) as counted);
comment on function ops.counts_are_stale(timestamptz) is
  'Whether events may have happened before an instant that are not counted, because no refresh has run or all have waited for too long.';
