-- Silences: alerts that a person mutes until an instant.

create table ops.alert_silences (
  alert_silence_id bigint generated always as identity,
  only_org_id uuid,
  matcher text not null,
  starts_at timestamptz not null default now(),
  until timestamptz not null,
  reason text not null,
  author text not null,
  created_at timestamptz not null default now(),
  constraint alert_silences_pkey primary key (alert_silence_id),
  constraint alert_silences_ends_after_it_begins check (starts_at < until and isfinite(until)),
  constraint alert_silences_has_a_reason check (char_length(btrim(reason)) between 1 and 1000),
  constraint alert_silences_has_an_author check (char_length(btrim(author)) between 1 and 200)
);
comment on table ops.alert_silences is 'One row a time in which matching alerts are logged and not sent.';
comment on column ops.alert_silences.alert_silence_id is 'Number of the silence.';
comment on column ops.alert_silences.only_org_id is 'Only alerts of this tenant; null: of all.';
comment on column ops.alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and labels of its groups (releases workflow=hotfix: every group with this label); * for everything.';
comment on column ops.alert_silences.starts_at is 'First instant.';
comment on column ops.alert_silences.until is 'First instant after it; what still fires then is sent.';
comment on column ops.alert_silences.reason is 'Why.';
comment on column ops.alert_silences.author is 'Who said so.';
comment on column ops.alert_silences.created_at is 'When it was added.';
alter table ops.alert_silences enable row level security;
create policy alert_silences_select_own_org on ops.alert_silences for select to authenticated
  using (only_org_id = (select ops.org_for('{read,admin}')));
create policy alert_silences_insert_own_org_as_admin on ops.alert_silences for insert to authenticated
  with check (only_org_id = (select ops.org_for('{admin}')));

create function ops.is_silenced(org_id uuid, rule_name text, subject text, service text, as_of timestamptz, slo_group jsonb)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.alert_silences as silence
  where (silence.only_org_id is null or silence.only_org_id = is_silenced.org_id)
    and silence.starts_at <= is_silenced.as_of
    and silence.until > is_silenced.as_of
    and (
      silence.matcher in ('*', is_silenced.rule_name, is_silenced.subject, is_silenced.service)
      or silence.matcher in (select is_silenced.subject || ' ' || ops.group_name(wider) from ops.wider_groups(is_silenced.slo_group) as wider)
    )
);
comment on function ops.is_silenced(uuid, text, text, text, timestamptz, jsonb) is 'Whether a silence covers an alert at an instant.';

create function ops.silence_alerts(matcher text, until timestamptz, reason text, author text, only_org_id uuid default null, starts_at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  silence_id bigint;
  groups_of text;
begin
  if (silence_alerts.starts_at < silence_alerts.until and isfinite(silence_alerts.until)) is not true then
    raise exception 'the silence is over before it begins: % to %', silence_alerts.starts_at, silence_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant in the future.';
  end if;
  if coalesce(btrim(silence_alerts.reason), '') = '' or coalesce(btrim(silence_alerts.author), '') = '' then
    raise exception 'a silence needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: others wonder why nobody told them.';
  end if;
  if silence_alerts.matcher <> '*' and not exists (
    select from ops.alert_rules as rule where silence_alerts.matcher in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.slos as slo where silence_alerts.matcher in (slo.slo_name, slo.service)
    union all
    select from ops.alerts as alert where silence_alerts.matcher in (alert.rule_name, alert.subject, alert.service)
    union all
    -- A group may be silenced before it first alerts.
    select
    from ops.slos as slo
    join ops.slo_versions as version
      on version.slo_name = slo.slo_name
    join ops.sli_groups as sli_group
      on sli_group.of_sli_id = version.sli_id
      and (silence_alerts.only_org_id is null or sli_group.org_id = silence_alerts.only_org_id)
    cross join lateral ops.wider_groups(sli_group.slo_group) as wider (slo_group)
    where starts_with(silence_alerts.matcher, slo.slo_name || ' ')
      and silence_alerts.matcher = slo.slo_name || ' ' || ops.group_name(wider.slo_group)
      and ops.may_contain(slo.group_by, ops.group_name(wider.slo_group))
  ) then
    select format('%s is grouped by %s. ', slo.slo_name, array_to_string(slo.group_by, ' and '))
    into groups_of
    from ops.slos as slo
    where starts_with(silence_alerts.matcher, slo.slo_name || ' ')
      and slo.group_by <> '{}'
    limit 1;
    raise exception 'no rule, objective, service or alert is called %', silence_alerts.matcher
      using errcode = 'OP001', hint = concat(groups_of, 'opskpi slo and opskpi alert list show the names; * silences everything.');
  end if;
  insert into ops.alert_silences (matcher, starts_at, until, reason, author, only_org_id)
  values (
    silence_alerts.matcher, silence_alerts.starts_at, silence_alerts.until, silence_alerts.reason, silence_alerts.author, silence_alerts.only_org_id
  )
  returning alert_silences.alert_silence_id into silence_id;
  return silence_id;
end;
$$;
comment on function ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz) is
  'Keeps alerts of a rule, objective (or of its groups with some labels) or other subject, or service from being sent for a time; returns the number of the silence.';
