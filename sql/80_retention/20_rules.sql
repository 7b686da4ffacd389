-- Retention rules: one per kind of data and event type.
-- Events are deleted a whole month at a time, so each is kept for at least its age and at most a month longer.

create table ops.retention_rules (
  kept text not null,
  event_type text not null default '',
  age interval,
  constraint retention_rules_pkey primary key (kept, event_type),
  constraint retention_rules_kept_check check (kept in ('events', 'hours', 'kpis', 'alerts')),
  constraint retention_rules_event_type_is_for_events check (kept = 'events' or event_type = ''),
  -- Rules on KPIs look back 30 days over the hours.
  constraint retention_rules_age_is_sensible check (
    age >= case kept when 'events' then interval '1 day' else interval '31 days' end and age <= interval '100 years'
  )
);
comment on table ops.retention_rules is 'One row a kind of data that does not live for ever. Without a row all of it does.';
comment on column ops.retention_rules.kept is
  'events: the raw rows; hours: the counts, histograms and KPIs of hours; kpis: those of days, weeks and months; alerts: those that are over, and messages that are settled.';
comment on column ops.retention_rules.event_type is 'For events: only this kind; empty: every kind without a rule of its own.';
comment on column ops.retention_rules.age is 'How old it gets; null: it is kept for ever, whatever the rule for every kind says.';
alter table ops.retention_rules enable row level security;
-- How many events there were is told to nobody but the owner: they are those of all tenants.
-- The name of a kind that nobody described may be a tenant's own.
create policy retention_rules_select_described on ops.retention_rules for select to authenticated
  using (event_type = '' or event_type in (select kind.event_type from ops.event_types as kind));

create table ops.removed_months (
  event_type text not null,
  month_start timestamptz not null,
  events bigint not null,
  removed_at timestamptz not null default now(),
  constraint removed_months_pkey primary key (event_type, month_start)
);
comment on table ops.removed_months is 'One row a kind of event and month of which events were removed; with the counts of that month it says how many are left, without reading them.';
comment on column ops.removed_months.event_type is 'The kind.';
comment on column ops.removed_months.month_start is 'First instant of the month, UTC.';
comment on column ops.removed_months.events is 'Events removed so far (count).';
comment on column ops.removed_months.removed_at is 'When the last of them were.';
alter table ops.removed_months enable row level security;

create function ops.kept_since(kept text, event_type text, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
return coalesce(
  (
    -- In UTC, whatever the session's zone: a month before the 31st is one instant for all.
    select (kept_since.as_of at time zone 'UTC' - rule.age) at time zone 'UTC'
    from ops.retention_rules as rule
    where rule.kept = kept_since.kept
      and rule.event_type in (kept_since.event_type, '')
    order by rule.event_type desc
    limit 1
  ),
  '-infinity'
);
comment on function ops.kept_since(text, text, timestamptz) is
  'What ended at or before this instant is older than its rule allows; -infinity where it is kept for ever. The event type is empty for what is not events.';

create function ops.set_retention(kept text, age interval, event_type text default '')
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  least_age constant interval := case set_retention.kept when 'events' then interval '1 day' else interval '31 days' end;
begin
  perform ops.require_rule_for(set_retention.kept, set_retention.event_type);
  if set_retention.age < least_age or set_retention.age > interval '100 years' then
    raise exception '% cannot be kept for %', set_retention.kept, set_retention.age
      using errcode = 'OP001', hint = format('Pass an age from %s to 100 years.', least_age);
  end if;
  insert into ops.retention_rules as rule (kept, event_type, age)
  values (set_retention.kept, set_retention.event_type, set_retention.age)
  on conflict on constraint retention_rules_pkey do update set age = excluded.age;
end;
$$;
comment on function ops.set_retention(text, interval, text) is
  'Says how old a kind of data, or one kind of event, may get; null: it is kept for ever. Nothing is removed before the next run.';

create function ops.unset_retention(kept text, event_type text default '')
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.require_rule_for(unset_retention.kept, unset_retention.event_type);
  delete from ops.retention_rules as rule
  where rule.kept = unset_retention.kept
    and rule.event_type = unset_retention.event_type;
  return found;
end;
$$;
comment on function ops.unset_retention(text, text) is 'Takes a rule back: one kind of event follows the rule for every kind again, all else is kept for ever. True when there was one.';

create function ops.require_rule_for(kept text, event_type text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if require_rule_for.kept is null or require_rule_for.kept not in ('events', 'hours', 'kpis', 'alerts') then
    raise exception 'nothing is kept under the name %', coalesce(require_rule_for.kept, 'null')
      using errcode = 'OP001', hint = 'Pass events, hours, kpis or alerts.';
  end if;
  if require_rule_for.event_type is null or (require_rule_for.event_type <> '' and require_rule_for.kept <> 'events') then
    raise exception 'only events are kept by their kind, not %', require_rule_for.kept
      using errcode = 'OP001', hint = 'Leave the event type out.';
  end if;
  if require_rule_for.event_type <> ''
    and not exists (select from ops.event_types as kind where kind.event_type = require_rule_for.event_type)
    and not exists (select from public.telemetry_events as event where event.event_type = require_rule_for.event_type)
    and not exists (select from ops.retention_rules as rule where rule.event_type = require_rule_for.event_type) then
    raise exception 'there is no kind of event %', require_rule_for.event_type
      using errcode = 'OP001',
        hint = format('Known are %s.', (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind));
  end if;
end;
$$;
comment on function ops.require_rule_for(text, text) is 'Refuses what no retention rule can be about; a kind of event is described, has occurred or has a rule.';

create function ops.keep_time_zone()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if new.value is distinct from old.value
    and (exists (select from ops.removed_events) or exists (select from ops.removed_periods)) then
    raise exception 'the time zone stays %: events were removed, and what they were counted into cannot be cut anew', old.value
      using errcode = 'OP001', hint = 'A time zone is for good once retention has removed something; choose it before.';
  end if;
  return new;
end;
$$;
comment on function ops.keep_time_zone() is 'Trigger: days of another zone would stand beside those that no rebuild can make again.';

create trigger settings_keep_time_zone
before update on ops.settings
for each row
when (old.name = 'time_zone')
execute function ops.keep_time_zone();

create function ops.is_removed_month(month date)
returns boolean
language sql
stable
set search_path = ''
return exists (select from ops.removed_events)
  and not exists (
    select
    from ops.event_types as kind
    where not exists (
      select
      from ops.removed_events as removed
      where removed.event_type = kind.event_type
        and removed.removed_until >= (date_trunc('month', is_removed_month.month::timestamp) + interval '1 month') at time zone 'UTC'
    )
  );
comment on function ops.is_removed_month(date) is 'Whether ingest_events refuses whatever is of this month (UTC), of each kind that is described.';
