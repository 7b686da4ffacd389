-- The journal of objectives: removed, disabled, enabled, renamed, by whom and when.

create table ops.slo_changes (
  slo_change_id bigint generated always as identity,
  slo_name text not null,
  change text not null,
  changed_at timestamptz not null default now(),
  author text not null,
  previous_name text,
  constraint slo_changes_pkey primary key (slo_change_id),
  constraint slo_changes_change_check check (change in ('removed', 'disabled', 'enabled', 'renamed')),
  constraint slo_changes_only_renamed_has_a_previous_name check ((change = 'renamed') = (previous_name is not null))
);
comment on table ops.slo_changes is
  'One row each time that an objective was removed, disabled, enabled or renamed, written by a trigger on ops.slos. Migrations bring back no objective that shipped and was removed or renamed.';
comment on column ops.slo_changes.slo_change_id is 'Number of the change.';
comment on column ops.slo_changes.slo_name is 'The objective, by the name that it has now.';
comment on column ops.slo_changes.change is 'removed, disabled, enabled or renamed.';
comment on column ops.slo_changes.changed_at is 'When.';
comment on column ops.slo_changes.author is 'Who did it: the user whom a command names, else the role of the database.';
comment on column ops.slo_changes.previous_name is 'For renamed: what it was called before; else null.';
alter table ops.slo_changes enable row level security;

create index slo_changes_slo_name_idx on ops.slo_changes (slo_name);

create function ops.change_author()
returns text
language sql
stable
set search_path = ''
return coalesce(nullif(btrim(current_setting('ops.author', true)), ''), current_user);
comment on function ops.change_author() is 'Who changes definitions in this transaction, as ops.begin_changes said; else the role of the database.';

create function ops.begin_changes(author text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Changes go one after the other: two that start from the same rows would each miss the other's.
  perform pg_advisory_xact_lock(hashtextextended('ops.apply_definitions', 0));
  perform set_config('ops.author', left(coalesce(begin_changes.author, ''), 200), true);
end;
$$;
comment on function ops.begin_changes(text) is
  'Waits until no other transaction changes definitions, and says who does in this one; null: the role of the database.';

create function ops.carry_silences(old_name text, new_name text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select from ops.slos as slo where slo.service = old_name
    union all
    select from ops.alert_rules as rule where old_name in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.alerts as alert where alert.slo_version is null and alert.subject = old_name
  ) then
    -- The silence is meant for something else of this name, too, and stays for that.
    insert into ops.alert_silences (only_org_id, matcher, starts_at, until, reason, author, created_at)
    select silence.only_org_id, new_name, silence.starts_at, silence.until, silence.reason, silence.author, silence.created_at
    from ops.alert_silences as silence
    where silence.matcher = old_name;
  else
    update ops.alert_silences as silence set matcher = new_name where silence.matcher = old_name;
  end if;
  update ops.alert_silences as silence
  set matcher = new_name || substr(silence.matcher, char_length(old_name) + 1)
  where starts_with(silence.matcher, old_name || '/')
    -- Of one of its groups.
    or starts_with(silence.matcher, old_name || ' ');
end;
$$;
comment on function ops.carry_silences(text, text) is 'Makes the silences of an objective, of its rules and of its groups hold for its new name.';

create function ops.carry_slo_name(old_name text, new_name text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  tail_at constant integer := char_length(old_name) + 1;
begin
  if exists (select from ops.slo_versions as version where version.slo_name = new_name) then
    raise exception 'the objective % cannot become %, which has a history of its own', old_name, new_name
      using errcode = 'OP001', hint = 'Two histories cannot be one: choose a name that no objective ever had.';
  end if;
  update ops.slo_versions as version set slo_name = new_name where version.slo_name = old_name;
  update ops.slo_exclusions as exclusion set slo_name = new_name where exclusion.slo_name = old_name;
  update ops.slo_changes as known set slo_name = new_name where known.slo_name = old_name;
  -- Their objective follows by the foreign key.
  update ops.alert_rules as rule
  set rule_name = new_name || substr(rule.rule_name, tail_at)
  where rule.slo_name = new_name
    and starts_with(rule.rule_name, old_name || '/');
  update ops.alerts as alert
  set subject = new_name,
      rule_name = case
        when starts_with(alert.rule_name, old_name || '/') then new_name || substr(alert.rule_name, tail_at)
        else alert.rule_name
      end
  where alert.subject = old_name
    and alert.slo_version is not null;
  perform ops.carry_silences(old_name, new_name);
end;
$$;
comment on function ops.carry_slo_name(text, text) is
  'Takes all that names an objective along to its new name: versions, exclusions, rules, alerts and silences; messages stay as they were said. Only the trigger on ops.slos calls it.';

create function ops.follow_slo()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  happened text;
begin
  if tg_op = 'UPDATE' and new.slo_name = old.slo_name and new.is_enabled = old.is_enabled then
    return null;
  end if;
  if tg_op <> 'UPDATE' or new.slo_name <> old.slo_name or old.is_enabled then
    -- An evaluation that has judged the objective already would raise an alert of what is gone by now.
    perform pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0));
  end if;
  if tg_op = 'DELETE' then
    insert into ops.slo_changes (slo_name, change, author) values (old.slo_name, 'removed', ops.change_author());
    return null;
  end if;
  if new.slo_name <> old.slo_name then
    perform ops.carry_slo_name(old.slo_name, new.slo_name);
    insert into ops.slo_changes (slo_name, change, author, previous_name)
    values (new.slo_name, 'renamed', ops.change_author(), old.slo_name);
  end if;
  if new.is_enabled <> old.is_enabled then
    happened := case when new.is_enabled then 'enabled' else 'disabled' end;
    insert into ops.slo_changes (slo_name, change, author) values (new.slo_name, happened, ops.change_author());
  end if;
  return null;
end;
$$;
comment on function ops.follow_slo() is
  'Trigger: notes who removed, disabled, enabled or renamed an objective, and takes all that names it along to a new name.';

-- Called before slos_record_version, which looks for the versions by the new name.
create trigger slos_follow
after update or delete on ops.slos
for each row execute function ops.follow_slo();

create function ops.alert_ending(rule_name text, subject text, is_of_slo boolean, slo_group jsonb)
returns jsonb
language sql
stable
set search_path = ''
return coalesce(
  (
    select jsonb_build_object('ended_because', 'objective_' || known.change, 'ended_by', known.author, 'ended_at', known.changed_at)
    from ops.slo_changes as known
    where alert_ending.is_of_slo
      and known.slo_name = alert_ending.subject
      and known.change in ('removed', 'disabled')
      and not exists (select from ops.slos as slo where slo.slo_name = alert_ending.subject and slo.is_enabled)
    order by known.slo_change_id desc
    limit 1
  ),
  case
    when alert_ending.slo_group <> '{}' and exists (
      select
      from ops.alert_rules as rule
      join ops.slos as slo
        on slo.slo_name = alert_ending.subject
        and slo.group_by <> '{}'
      where rule.rule_name = alert_ending.rule_name
        and rule.is_enabled
    ) then jsonb '{"ended_because": "group_is_over"}'
    when exists (select from ops.alert_rules as rule where rule.rule_name = alert_ending.rule_name and rule.is_enabled)
      then jsonb '{"ended_because": "no_longer_asked"}'
    else jsonb '{"ended_because": "rule_is_gone", "rule_is_gone": true}'
  end
);
comment on function ops.alert_ending(text, text, boolean, jsonb) is
  'Why an alert ends about which no rule asks any more: objective_removed or objective_disabled (with who and when), group_is_over (nothing in its window any more), rule_is_gone, or no_longer_asked.';

create function ops.slo_list()
returns table (
  slo_name text,
  service text,
  state text,
  since timestamptz,
  author text,
  bundle text,
  version integer,
  counted_since timestamptz
)
language sql
stable
set search_path = ''
begin atomic
  with newest as (
    select distinct on (version.slo_name) version.slo_name, version.service, version.version, version.valid_until, version.sli_id
    from ops.slo_versions as version
    order by version.slo_name, version.version desc
  ),
  changed as (
    select distinct on (known.slo_name) known.slo_name, known.change, known.changed_at, known.author
    from ops.slo_changes as known
    where known.change <> 'renamed'
    order by known.slo_name, known.slo_change_id desc
  )
  select
    slo_name,
    coalesce(slo.service, newest.service),
    case when slo.slo_name is null then 'removed' when slo.is_enabled then 'enabled' else 'disabled' end as state,
    case when slo.is_enabled is not true then coalesce(changed.changed_at, newest.valid_until) else changed.changed_at end,
    changed.author,
    slo.bundle,
    newest.version,
    nullif(sli.counted_since, '-infinity')
  from ops.slos as slo
  full join newest using (slo_name)
  left join changed using (slo_name)
  left join ops.slis as sli
    on sli.sli_id = newest.sli_id
  order by array_position(array['enabled', 'disabled', 'removed'], case when slo.slo_name is null then 'removed' when slo.is_enabled then 'enabled' else 'disabled' end), 1;
end;
comment on function ops.slo_list() is
  'One row per objective that stands or has a history: enabled, disabled or removed, since when and by whom (null: nobody changed that), the bundle of files that made it (null: none), its newest version (null: it was never enabled), and the first instant with all its events (null: nothing is missing).';
