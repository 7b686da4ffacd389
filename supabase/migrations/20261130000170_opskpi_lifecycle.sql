-- Objectives can be removed, renamed and disabled, by hand and from bundles of files, and say since when they have all their events.
-- The tables of objectives, rules, channels and alerts are small.
-- squawk-ignore-file adding-foreign-key-constraint, ban-drop-constraint, constraint-missing-not-valid, require-concurrent-index-creation, require-concurrent-index-deletion

drop function ops.apply_definitions;
drop function ops.rule_definitions;
drop function ops.channel_definitions;
drop function ops.slo_definitions;
drop function ops.service_definitions;

alter table ops.slis add column counted_since timestamptz not null default '-infinity';
comment on column ops.slis.counted_since is
  'First instant from which on nothing is missing: retention had removed older events before they were counted. -infinity: nothing is missing.';

create or replace function ops.restore_sli()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  update ops.slis
  set filled_until = new.filled_until,
      counted_since = new.counted_since
  where slis.sli_id = new.sli_id;
  return case when not found then new end;
end;
$$;

create function ops.is_bundle_name(name text)
returns boolean
language sql
immutable
set search_path = ''
return char_length(is_bundle_name.name) <= 100 and is_bundle_name.name !~ '[[:cntrl:]]' and btrim(is_bundle_name.name) = is_bundle_name.name
  and is_bundle_name.name <> '';
comment on function ops.is_bundle_name(text) is 'Whether files may go by this name: 1 to 100 characters on one line, none of the outer ones blank; null of null.';

alter table ops.services add column bundle text;
alter table ops.services add constraint services_bundle_is_a_name check (ops.is_bundle_name(bundle));
comment on column ops.services.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';

alter table ops.slos add column is_enabled boolean not null default true;
alter table ops.slos add column previous_name text;
alter table ops.slos add column bundle text;
alter table ops.slos add constraint slos_bundle_is_a_name check (ops.is_bundle_name(bundle));
alter table ops.slos add constraint slos_previous_name_is_another check (previous_name <> slo_name);
comment on column ops.slos.is_enabled is
  'False: it promises nothing, so that it has no status and no alerts; its events are counted all the same.';
comment on column ops.slos.previous_name is 'What its file says that it was called before, which was heeded; null: nothing.';
comment on column ops.slos.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';

create or replace function ops.is_same_promise(slo ops.slos, other ops.slos)
returns boolean
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
immutable
set search_path = ''
as $$
begin
  return (
    slo.service, slo.objective, slo.event_type, slo.target, slo.threshold_ms, slo.rolling_window, slo.calendar_period, slo.time_zone,
    slo.budgeting_method, slo.time_slice, slo.slice_target, slo.expected_interval, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels,
    slo.is_enabled
  ) is not distinct from (
    other.service, other.objective, other.event_type, other.target, other.threshold_ms, other.rolling_window, other.calendar_period,
    other.time_zone, other.budgeting_method, other.time_slice, other.slice_target, other.expected_interval, other.at_most,
    other.total_labels, other.good_labels, other.bad_labels, other.is_enabled
  );
end;
$$;

create or replace function ops.date_slo_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if old.is_enabled and not new.is_enabled then
    -- A change that was planned never comes.
    new.valid_from := now();
    return new;
  end if;
  if ops.is_same_promise(new, old) then
    new.valid_from := old.valid_from;
  elsif not exists (select from ops.slo_versions as version where version.slo_name = old.slo_name) then
    -- The objective was never enabled, so nobody has seen a version of it.
    return new;
  elsif new.valid_from = old.valid_from then
    new.valid_from := greatest(now(), old.valid_from);
  end if;
  if new.valid_from < old.valid_from then
    raise exception 'the definition of % from % cannot hold from % already', old.slo_name, old.valid_from, new.valid_from
      using errcode = 'OP001', hint = 'Leave valid_from out, or pass an instant after the last change.';
  end if;
  return new;
end;
$$;

create or replace function ops.require_sli(slo ops.slos)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.slis;
begin
  counted.event_type := slo.event_type;
  counted.objective := slo.objective;
  counted.threshold_ms := slo.threshold_ms;
  counted.at_most := slo.at_most;
  counted.total_labels := slo.total_labels;
  counted.good_labels := slo.good_labels;
  counted.bad_labels := slo.bad_labels;
  counted.sli_id := ops.sli_key(
    slo.event_type, slo.objective, slo.threshold_ms, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels
  );
  -- An SLI has nothing to fill while nothing has been counted; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  counted.counted_since := '-infinity';
  counted.filled_until := case
    when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
    else timestamptz '-infinity'
  end;
  insert into ops.slis select counted.* on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  perform
  from ops.slis as sli
  where sli.sli_id = counted.sli_id
    and to_jsonb(sli) - array['filled_until', 'counted_since'] = to_jsonb(counted) - array['filled_until', 'counted_since'];
  if not found then
    raise exception 'the objective % has the key % of another way of counting', slo.slo_name, counted.sli_id
      using errcode = 'OP001', hint = 'Change its threshold or a label a little: the chance of this is 1 in 10^19.';
  end if;
  return counted.sli_id;
end;
$$;

create function ops.end_slo_versions(slo_name text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- A change that was planned never comes.
  delete from ops.slo_versions as version
  where version.slo_name = end_slo_versions.slo_name
    and version.valid_from > now();
  update ops.slo_versions as version
  set valid_until = now()
  where version.slo_name = end_slo_versions.slo_name
    and version.valid_until > now();
end;
comment on function ops.end_slo_versions(text) is 'Ends the definition of an objective now; what was before stays.';

create or replace function ops.record_slo_version()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  latest ops.slo_versions;
  begins_at timestamptz;
  counted_by bigint;
begin
  if tg_op = 'DELETE' then
    perform ops.end_slo_versions(old.slo_name);
    return null;
  end if;
  if not new.is_enabled then
    if tg_op = 'UPDATE' and old.is_enabled then
      perform ops.end_slo_versions(new.slo_name);
    end if;
    -- Its events are counted all the same, so that it may be enabled after retention has removed them.
    perform ops.require_sli(new);
    return null;
  end if;
  select * into latest
  from ops.slo_versions as version
  where version.slo_name = new.slo_name
  order by version.version desc
  limit 1;
  -- An objective that is inserted has an open version where a restore brought its versions first.
  if tg_op = 'INSERT' and latest.valid_until = 'infinity'
    or tg_op = 'UPDATE' and new.valid_from = old.valid_from and latest.valid_until = 'infinity' and ops.is_same_promise(new, old)
  then
    return null;
  end if;
  counted_by := ops.require_sli(new);

  begins_at := case when latest.valid_until < 'infinity' then greatest(new.valid_from, latest.valid_until) else new.valid_from end;
  if tg_op = 'UPDATE' and begins_at < latest.valid_from then
    raise exception 'the definition of % from % cannot hold from % already', new.slo_name, latest.valid_from, begins_at
      using errcode = 'OP001', hint = 'Leave valid_from out, or pass an instant after the last change.';
  end if;
  if latest.valid_from = begins_at then
    -- Changed twice in one transaction: nobody has seen the first.
    delete from ops.slo_versions as version where version.slo_name = new.slo_name and version.version = latest.version;
    latest.version := latest.version - 1;
  else
    update ops.slo_versions as version
    set valid_until = least(version.valid_until, begins_at)
    where version.slo_name = new.slo_name
      and version.version = latest.version;
  end if;
  insert into ops.slo_versions (
    slo_name, version, valid_from, sli_id, service, objective, target, rolling_window, calendar_period, time_zone,
    budgeting_method, time_slice, slice_target, expected_interval
  )
  values (
    new.slo_name, coalesce(latest.version, 0) + 1, begins_at, counted_by, new.service, new.objective, new.target, new.rolling_window,
    new.calendar_period, new.time_zone, new.budgeting_method, new.time_slice, new.slice_target, new.expected_interval
  );
  return null;
end;
$$;
comment on function ops.record_slo_version() is 'Trigger: a new or changed definition is a new version, and how it counts an SLI to be filled; one that is deleted or disabled ends its last version.';

create or replace function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  last_id bigint;
  stretch record;
  changes ops.unit_change[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  last_id := ops.cursor_id();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.add_slis(array(
      select delta from ops.count_attempts(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as delta
    ));
    changes := array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as attempted
      )) as changed
    );
    perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
    perform ops.write_units(changes);
    update ops.slis
    set filled_until = fill_slis.until,
        -- Events that retention removed before they were counted are missing for good.
        counted_since = greatest(
          slis.counted_since,
          (
            select removed.removed_until
            from ops.removed_events as removed
            where removed.event_type = slis.event_type
              and removed.removed_until > stretch.since
          )
        )
    where slis.sli_id = any (stretch.sli_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;

alter table ops.alert_channels add column bundle text;
alter table ops.alert_channels add constraint alert_channels_bundle_is_a_name check (ops.is_bundle_name(bundle));
comment on column ops.alert_channels.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';

alter table ops.alert_rules drop constraint alert_rules_slo_name_fkey;
alter table ops.alert_rules add constraint alert_rules_slo_name_fkey foreign key (slo_name) references ops.slos (slo_name) on update cascade on delete cascade;
alter table ops.alert_rules add column bundle text;
alter table ops.alert_rules add constraint alert_rules_bundle_is_a_name check (ops.is_bundle_name(bundle));
comment on column ops.alert_rules.is_enabled is 'False: it finds nothing, and the alerts that it raised end.';
comment on column ops.alert_rules.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';

alter table ops.alerts drop constraint alerts_resolved_has_its_instant;
alter table ops.alerts drop constraint alerts_state_check;
alter table ops.alerts add constraint alerts_state_check check (state in ('pending', 'firing', 'resolved', 'ended'));
alter table ops.alerts add constraint alerts_is_over_from_an_instant_on check ((state in ('resolved', 'ended')) = (resolved_at is not null));
comment on column ops.alerts.state is 'pending, firing, resolved (its condition was found not to hold) or ended (nothing asks any more).';
comment on column ops.alerts.resolved_at is 'When it was found to be over, resolved or ended.';
comment on column ops.alerts.detail is 'The figures of the last evaluation that could tell; of one that has ended, why, and who did that when.';

drop index ops.alerts_org_id_rule_name_subject_idx;

create unique index alerts_org_id_rule_name_subject_idx on ops.alerts (org_id, rule_name, subject) where state in ('pending', 'firing');
comment on type ops.alert_report is
  'done; busy: another evaluation runs; past: a later instant has been evaluated. found: conditions that hold; resolved: alerts that are over, the ended ones included; queued: messages written to the outbox.';

create or replace function ops.resolve_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  resolved bigint;
begin
  -- A condition that no longer holds is resolved. An alert about which no rule asks any more ends: nobody knows whether it is over.
  with moved as (
    update ops.alerts as alert
    set state = case when open_alert.is_found then 'resolved' else 'ended' end,
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          open_alert.detail,
          case
            when not open_alert.is_found then ops.alert_ending(alert.rule_name, alert.subject, alert.slo_version is not null)
          end,
          '{}'
        )
    from ops.open_alerts(conditions, kinds) as open_alert
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and (
        open_alert.holds is false
        or (
          not open_alert.is_found
          -- A KPI without a value has no finding either: that is silence, and alerts freeze.
          and not exists (
            select from ops.alert_rules as rule
            where rule.rule_name = open_alert.rule_name
              and rule.is_enabled
              and rule.kind = 'kpi_threshold'
              and rule.kind = open_alert.kind
              and rule.metric_name = open_alert.subject
          )
        )
      )
    returning alert.firing_since
  )
  select count(*) filter (where moved.firing_since is not null) into resolved from moved;
  -- A state that never fired is no alert.
  delete from ops.alerts as alert where alert.state in ('resolved', 'ended') and alert.firing_since is null and alert.resolved_at = as_of;
  return resolved;
end;
$$;

create or replace function ops.raise_alerts(conditions ops.alert_condition[], as_of timestamptz)
returns table (holding bigint, fired bigint)
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query
  with held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail
    )
    select
      finding.org_id, finding.rule_name, rule.kind, rule.severity, finding.subject, finding.service, finding.slo_version,
      case when rule.alert_after = interval '0' then 'firing' else 'pending' end,
      as_of, case when rule.alert_after = interval '0' then as_of end, as_of, rule.channels,
      rule.notify_resolved, rule.description, finding.detail
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    where finding.holds
    on conflict (org_id, rule_name, subject) where state in ('pending', 'firing') do update set
      kind = excluded.kind,
      detail = excluded.detail,
      slo_version = excluded.slo_version,
      severity = excluded.severity,
      channels = excluded.channels,
      notify_resolved = excluded.notify_resolved,
      description = excluded.description,
      evaluated_at = excluded.evaluated_at,
      is_frozen = false,
      state = case
        when alert.state = 'firing' or excluded.evaluated_at - alert.pending_since >= (
          select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
        ) then 'firing'
        else 'pending'
      end,
      firing_since = coalesce(
        alert.firing_since,
        case
          when excluded.evaluated_at - alert.pending_since >= (
            select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
          ) then excluded.evaluated_at
        end
      )
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on function ops.move_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Takes each alert of the given kinds (null: all) from state to state: inactive (no row), pending, firing, resolved or ended; only evaluate_alerts calls it.';

alter table ops.alert_groups drop constraint alert_groups_channel_name_fkey;
alter table ops.alert_groups add constraint alert_groups_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name) on delete cascade;

create or replace function ops.addressed_alerts(as_of timestamptz)
returns table (
  org_id uuid,
  channel_name text,
  repeat_interval interval,
  group_key text,
  alert_id bigint,
  state text,
  notify_resolved boolean,
  is_silenced boolean,
  is_inhibited boolean
)
language sql
stable
set search_path = ''
begin atomic
  select
    alert.org_id,
    channel.channel_name,
    channel.repeat_interval,
    case when alert.kind in ('silent_agents', 'silent_jobs') then alert.kind else coalesce(alert.service, alert.subject) end,
    alert.alert_id,
    alert.state,
    alert.notify_resolved,
    alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, addressed_alerts.as_of),
    alert.state = 'firing' and alert.severity = 'ticket' and exists (
      select
      from ops.alerts as page
      where page.org_id = alert.org_id
        and page.subject = alert.subject
        and page.state = 'firing'
        and page.severity = 'page'
    )
  from ops.alerts as alert
  join ops.alert_channels as channel
    on channel.is_enabled
    and (channel.only_org_id is null or channel.only_org_id = alert.org_id)
    and (
      alert.state <> 'firing'
      or (
        alert.severity = any (channel.severities)
        and (cardinality(alert.channels) = 0 or channel.channel_name = any (alert.channels))
      )
    )
  where alert.state = 'firing'
    -- Hashed: of 100,000 alerts that are over only those last said to fire are looked at.
    or (alert.org_id, channel.channel_name, alert.alert_id) in (
      select known.org_id, known.channel_name, last.alert_id
      from ops.alert_groups as known
      cross join lateral unnest(known.last_firing) as last (alert_id)
    );
end;

create or replace function ops.group_news(as_of timestamptz)
returns setof ops.alert_news
language sql
stable
set search_path = ''
begin atomic
  select
    addressed.org_id,
    addressed.channel_name,
    addressed.group_key,
    addressed.repeat_interval,
    -- Alerts that are over, and need not be said to be so, are forgotten.
    case when known.org_id is not null then array(
      select last.alert_id
      from unnest(known.last_firing) as last (alert_id)
      where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state <> 'firing' and not addressed.notify_resolved), '{}'))
    ) end,
    known.last_resolved,
    known.last_notified_at,
    coalesce(known.logged_silenced, '{}'),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id)
        filter (where addressed.state = 'firing' and not addressed.is_silenced and not addressed.is_inhibited),
      '{}'
    ),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state <> 'firing' and addressed.notify_resolved),
      '{}'
    ),
    coalesce(array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.is_silenced), '{}')
  from ops.addressed_alerts(group_news.as_of) as addressed
  left join ops.alert_groups as known
    on known.org_id = addressed.org_id
    and known.channel_name = addressed.channel_name
    and known.group_key = addressed.group_key
  group by addressed.org_id, addressed.channel_name, addressed.group_key, addressed.repeat_interval, known.org_id, known.channel_name, known.group_key;
end;

alter table ops.alert_deliveries drop constraint alert_deliveries_status_check;
alter table ops.alert_deliveries add constraint alert_deliveries_status_check check (status in ('firing', 'resolved', 'ended', 'test', 'summary'));
alter table ops.alert_deliveries drop constraint alert_deliveries_channel_name_fkey;
comment on column ops.alert_deliveries.channel_name is 'The channel; it may be gone by now.';
comment on column ops.alert_deliveries.status is 'firing, resolved (nothing of the group fires any more), ended (nor is asked about), test, or summary of a week.';
comment on column ops.alert_deliveries.state is
  'queued; sending (leased); delivered; dead (refused, or tried too often); silenced (logged only); superseded (dead, and a later one was sent, or the channel was removed).';

create or replace function ops.queue_delivery(
  org_id uuid,
  channel_name text,
  group_key text,
  state text,
  firing bigint[],
  resolved bigint[],
  as_of timestamptz
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with over as (
    select
      coalesce(array_agg(alert.alert_id) filter (where alert.state = 'ended'), '{}') as ended,
      coalesce(array_agg(alert.alert_id) filter (where alert.state <> 'ended'), '{}') as resolved
    from ops.alerts as alert
    where alert.alert_id = any (queue_delivery.resolved)
  ),
  judged as (
    select
      over.*,
      case
        when cardinality(queue_delivery.firing) > 0 then 'firing'
        when cardinality(over.ended) > 0 and cardinality(over.resolved) = 0 then 'ended'
        else 'resolved'
      end as status
    from over
  )
  insert into ops.alert_deliveries as delivery (
    org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
  )
  select
    queue_delivery.org_id,
    queue_delivery.channel_name,
    queue_delivery.group_key,
    judged.status,
    queue_delivery.firing || queue_delivery.resolved,
    jsonb_build_object(
      'kind', 'alerts',
      'title', concat(
        queue_delivery.group_key, ': ', case when judged.status = 'firing' then cardinality(queue_delivery.firing) || ' ' end, judged.status
      ),
      'status', judged.status,
      'org_id', queue_delivery.org_id,
      'group', queue_delivery.group_key,
      'link', ops.setting('dashboard_url'),
      'firing', ops.alert_facts(queue_delivery.firing, queue_delivery.as_of),
      'resolved', ops.alert_facts(judged.resolved, queue_delivery.as_of),
      'ended', ops.alert_facts(judged.ended, queue_delivery.as_of)
    ),
    queue_delivery.state,
    queue_delivery.as_of,
    queue_delivery.as_of
  from judged
  returning delivery.delivery_id;
end;
comment on function ops.queue_delivery(uuid, text, text, text, bigint[], bigint[], timestamptz) is
  'Writes one message about alerts that fire and alerts that are over, resolved or ended; returns its number.';

create function ops.forget_channel()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_level = 'STATEMENT' then
    -- An evaluation that knows the channel would write messages that nobody sends. Before any row is locked, since the
    -- evaluation asks for the row, too.
    perform pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0));
    return null;
  end if;
  update ops.alert_deliveries as delivery
  set state = 'superseded',
      leased_until = null,
      settled_at = now(),
      last_error = 'the channel was removed'
  where delivery.channel_name = old.channel_name
    and delivery.state in ('queued', 'sending', 'dead');
  return null;
end;
$$;
comment on function ops.forget_channel() is 'Trigger: a channel is removed beside no evaluation; what waits for it waits no longer, and what was sent stays on record.';

create trigger alert_channels_wait
before delete on ops.alert_channels
for each statement execute function ops.forget_channel();

create trigger alert_channels_forget
after delete on ops.alert_channels
for each row execute function ops.forget_channel();
comment on type ops.definition_change is 'What becomes of a definition: created, changed or renamed (differences has each field as [before, after]), unchanged or removed.';

create function ops.owning_bundle(stored jsonb, bundle text, adopt boolean)
returns text
language sql
immutable
set search_path = ''
return case when stored is null or adopt then bundle else stored ->> 'bundle' end;
comment on function ops.owning_bundle(jsonb, text, boolean) is
  'The bundle of a definition that files of a bundle make: theirs if it is new or adopted, else the one it had (null: none).';

create function ops.service_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'service',
    wanted.service_name,
    to_jsonb(wanted) || jsonb_build_object(
      'bundle', ops.owning_bundle(to_jsonb(known), service_definitions.bundle, service_definitions.adopt)
    ),
    to_jsonb(known)
  from jsonb_populate_recordset(null::ops.services, service_definitions.definitions -> 'services') as wanted
  left join ops.services as known
    on known.service_name = wanted.service_name
  order by wanted.service_name;
end;
$$;
comment on function ops.service_definitions(jsonb, text, boolean) is 'The services that files define, beside those that are stored.';

create function ops.slo_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'slo',
    wanted.slo_name,
    to_jsonb(ops.canonical_slo(wanted)) - 'valid_from' || jsonb_build_object(
      -- Files that do not say it leave it as it is.
      'is_enabled', coalesce(wanted.is_enabled, known.is_enabled, true),
      'bundle', ops.owning_bundle(to_jsonb(known), slo_definitions.bundle, slo_definitions.adopt)
    ),
    -- The defaults stand in the files that an export writes.
    to_jsonb(known) || jsonb_build_object(
      'indicator_name', coalesce(known.indicator_name, known.slo_name),
      'time_zone', case when known.calendar_period is not null then coalesce(known.time_zone, ops.time_zone()) end
    )
  from jsonb_populate_recordset(null::ops.slos, slo_definitions.definitions -> 'slos') as wanted
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  order by wanted.slo_name;
end;
$$;
comment on function ops.slo_definitions(jsonb, text, boolean) is 'The objectives that files define, beside those that are stored.';

create function ops.channel_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'channel',
    wanted.channel_name,
    to_jsonb(wanted) - array['max_attempts', 'only_org_id', 'is_enabled'] || jsonb_build_object(
      'bundle', ops.owning_bundle(to_jsonb(known), channel_definitions.bundle, channel_definitions.adopt)
    ),
    to_jsonb(known)
  from jsonb_populate_recordset(null::ops.alert_channels, channel_definitions.definitions -> 'channels') as wanted
  left join ops.alert_channels as known
    on known.channel_name = wanted.channel_name
  order by wanted.channel_name;
end;
$$;
comment on function ops.channel_definitions(jsonb, text, boolean) is 'The channels that files define, beside those that are stored.';

create function ops.rule_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with wanted as materialized (
    select rule.rule_name, to_jsonb(rule) - 'is_enabled' as definition
    from jsonb_populate_recordset(null::ops.alert_rules, rule_definitions.definitions -> 'rules') as rule
  )
  select 'rule', found.rule_name, found.definition, found.stored
  from (
    select
      wanted.rule_name,
      wanted.definition || jsonb_build_object(
        'bundle', ops.owning_bundle(to_jsonb(known), rule_definitions.bundle, rule_definitions.adopt)
      ) as definition,
      to_jsonb(known) as stored
    from wanted
    left join ops.alert_rules as known
      on known.rule_name = wanted.rule_name
    union all
    -- A rule of an objective that the files define and no longer give it.
    select known.rule_name, null, to_jsonb(known)
    from ops.alert_rules as known
    where known.slo_name in (
        select slo.slo_name from jsonb_populate_recordset(null::ops.slos, rule_definitions.definitions -> 'slos') as slo
      )
      and known.rule_name not in (select wanted.rule_name from wanted)
  ) as found
  order by found.definition is null, found.rule_name;
end;
$$;
comment on function ops.rule_definitions(jsonb, text, boolean) is
  'The rules that files define, beside those that are stored; then the stored rules of these objectives that the files no longer have.';

create or replace function ops.write_definitions(relation regclass, name_column text, defined ops.definition[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  removed constant text[] := array(select definition.name from unnest(defined) as definition where definition.wanted is null);
  written constant jsonb := (
    select jsonb_agg(definition.wanted)
    from unnest(defined) as definition
    where definition.wanted is not null
      and (definition.stored is null or ops.compare_definition(definition.stored, definition.wanted) is not null)
  );
  decided constant text[] := array(select name from jsonb_object_keys(written -> 0) as name);
begin
  if removed <> '{}' then
    execute format('delete from %s where %I = any ($1)', relation, name_column) using removed;
  end if;
  if written is not null then
    execute format(
      'insert into %1$s (%2$s) select %2$s from jsonb_populate_recordset(null::%1$s, $1) on conflict (%3$I) do update set %4$s',
      relation,
      (select string_agg(quote_ident(name), ', ') from unnest(decided) as name),
      name_column,
      (select string_agg(format('%1$I = excluded.%1$I', name), ', ') from unnest(decided) as name where name <> name_column)
    ) using written;
  end if;
end;
$$;

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
  where starts_with(silence.matcher, old_name || '/');
end;
$$;
comment on function ops.carry_silences(text, text) is 'Makes the silences of an objective and of its rules hold for its new name.';

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

create function ops.alert_ending(rule_name text, subject text, is_of_slo boolean)
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
    when exists (select from ops.alert_rules as rule where rule.rule_name = alert_ending.rule_name and rule.is_enabled)
      then jsonb '{"ended_because": "no_longer_asked"}'
    else jsonb '{"ended_because": "rule_is_gone", "rule_is_gone": true}'
  end
);
comment on function ops.alert_ending(text, text, boolean) is
  'Why an alert ends about which no rule asks any more: objective_removed or objective_disabled (with who and when), rule_is_gone, or no_longer_asked.';

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

create function ops.rename_slos(renamed jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- New names by old ones.
  waiting jsonb := coalesce(renamed, '{}');
  old_name text;
  new_name text;
begin
  while waiting <> '{}' loop
    select asked.key, asked.value
    into old_name, new_name
    from jsonb_each_text(waiting) as asked
    where not exists (select from ops.slos as slo where slo.slo_name = asked.value)
    order by asked.key
    limit 1;
    if not found then
      -- Each waits for the name of another: one steps aside.
      select asked.key, asked.value into old_name, new_name from jsonb_each_text(waiting) as asked order by asked.key limit 1;
      waiting := waiting || jsonb_build_object('(renaming) ' || old_name, new_name);
      new_name := '(renaming) ' || old_name;
    end if;
    waiting := waiting - old_name;
    update ops.slos as slo set slo_name = new_name, previous_name = null where slo.slo_name = old_name;
  end loop;
end;
$$;
comment on function ops.rename_slos(jsonb) is
  'Renames objectives, {"old": "new"}, in an order in which each new name is free; those that swap their names step aside for each other.';

create function ops.rename_defined(definitions jsonb, bundle text, adopt boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  renamed jsonb;
  refused record;
begin
  select jsonb_object_agg(standing.slo_name, wanted.slo_name)
  into renamed
  from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as wanted
  join ops.slos as standing
    on standing.slo_name = wanted.previous_name
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  -- A previous name is heeded once, whoever has it by now.
  where known.previous_name is distinct from wanted.previous_name;

  select asked.key as old_name, asked.value as new_name, standing.bundle, taken.slo_name is not null as is_taken
  into refused
  from jsonb_each_text(renamed) as asked
  join ops.slos as standing
    on standing.slo_name = asked.key
  left join ops.slos as taken
    on taken.slo_name = asked.value
    -- Else its name becomes free in the same move.
    and not renamed ? taken.slo_name
  where taken.slo_name is not null
    or (standing.bundle <> rename_defined.bundle and not adopt)
  order by asked.key
  limit 1;
  if refused.is_taken then
    raise exception 'the objective % cannot become %, since both stand', refused.old_name, refused.new_name
      using errcode = 'OP001',
        hint = 'Two histories cannot be one: delete one of the two, or leave the annotation opskpi.dev/previous-name out.';
  elsif refused.old_name is not null then
    raise exception 'the objective % belongs to the bundle %, and these files would rename it', refused.old_name, refused.bundle
      using errcode = 'OP001',
        hint = format('Apply the files with --bundle %s, or take what they define over with --adopt.', quote_ident(refused.bundle));
  end if;
  perform ops.rename_slos(renamed);
  return renamed;
end;
$$;
comment on function ops.rename_defined(jsonb, text, boolean) is
  'Renames the objectives whose definitions name a previous name that stands and that was not heeded yet; returns {"old": "new"}, or null. Refused where the new name is taken, or another bundle made the objective.';

create function ops.definition_names(defined ops.definition[])
returns text[]
language sql
immutable
set search_path = ''
return array(select definition.name from unnest(defined) as definition);
comment on function ops.definition_names(ops.definition[]) is 'The names of definitions.';

create function ops.orphaned_rules(slos ops.definition[], named text[])
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select 'rule', rule.rule_name, null::jsonb, to_jsonb(rule)
  from unnest(orphaned_rules.slos) as slo
  join ops.alert_rules as rule
    on rule.slo_name = slo.name
  where slo.wanted is null
    and rule.rule_name <> all (orphaned_rules.named)
  order by rule.rule_name;
end;
comment on function ops.orphaned_rules(ops.definition[], text[]) is
  'The rules of the objectives that are to be removed, as definitions that go with them; named: those that are dealt with already.';

create function ops.require_own(defined ops.definition[], bundle text)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  other record;
begin
  select definition.kind, definition.name, definition.stored ->> 'bundle' as bundle
  into other
  from unnest(defined) as definition
  where definition.stored ->> 'bundle' <> require_own.bundle
    -- An adopted one is wanted in this bundle.
    and definition.wanted ->> 'bundle' is distinct from require_own.bundle
    and (definition.wanted is null or ops.compare_definition(definition.stored, definition.wanted) is not null)
  limit 1;
  if other.name is not null then
    raise exception 'the % % belongs to the bundle %, and these files would change it',
      case other.kind when 'slo' then 'objective' else other.kind end, other.name, other.bundle
      using errcode = 'OP001',
        hint = format('Apply the files with --bundle %s, or take what they define over with --adopt.', quote_ident(other.bundle));
  end if;
end;
$$;
comment on function ops.require_own(ops.definition[], text) is
  'Refuses definitions that would change or remove what another bundle made, unless they adopt it.';

create function ops.with_unnamed(defined ops.definition[], kind text, relation regclass, name_column text, bundle text)
returns ops.definition[]
language plpgsql
stable
set search_path = ''
as $$
declare
  unnamed ops.definition[];
begin
  execute format(
    'select array_agg(row($1, stored.%1$I, null, to_jsonb(stored))::ops.definition order by stored.%1$I) from %2$s as stored'
    ' where stored.bundle = $2 and stored.%1$I <> all ($3)',
    name_column, relation
  )
  into unnamed
  using kind, bundle, ops.definition_names(defined);
  return defined || unnamed;
end;
$$;
comment on function ops.with_unnamed(ops.definition[], text, regclass, text, text) is
  'Definitions of one kind, and what their bundle made in its table and they no longer name, to be removed.';

create function ops.require_known_channels(removed ops.definition[])
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  asking record;
begin
  select rule.rule_name, definition.name as channel_name
  into asking
  from unnest(removed) as definition
  join ops.alert_rules as rule
    on definition.name = any (rule.channels)
  where definition.wanted is null
  order by 1
  limit 1;
  if asking.rule_name is not null then
    raise exception 'the channel % cannot be removed: the rule % sends to it', asking.channel_name, asking.rule_name
      using errcode = 'OP001', hint = 'Change or remove the rule first, or keep the channel in the files.';
  end if;
end;
$$;
comment on function ops.require_known_channels(ops.definition[]) is 'Refuses the removal of channels that rules still name.';

create function ops.apply_definitions(
  definitions jsonb,
  bundle text default 'default',
  adopt boolean default false,
  prune boolean default false,
  author text default null
)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
declare
  renamed jsonb;
  services ops.definition[];
  slos ops.definition[];
  channels ops.definition[];
  rules ops.definition[];
begin
  if ops.is_bundle_name(bundle) is not true then
    raise exception 'a bundle has a name of 1 to 100 characters on one line, not %', coalesce(quote_literal(bundle), 'none')
      using errcode = 'OP001', hint = 'Leave it out for the bundle default.';
  end if;
  perform ops.begin_changes(author);
  perform ops.check_definitions(definitions);
  renamed := ops.rename_defined(definitions, bundle, adopt);
  -- Compared as rows, not as the text that came, and all before the first is written.
  services := array(select service from ops.service_definitions(definitions, bundle, adopt) as service);
  slos := array(select slo from ops.slo_definitions(definitions, bundle, adopt) as slo);
  channels := array(select channel from ops.channel_definitions(definitions, bundle, adopt) as channel);
  rules := array(select rule from ops.rule_definitions(definitions, bundle, adopt) as rule);
  if prune then
    services := ops.with_unnamed(services, 'service', 'ops.services', 'service_name', bundle);
    slos := ops.with_unnamed(slos, 'slo', 'ops.slos', 'slo_name', bundle);
    channels := ops.with_unnamed(channels, 'channel', 'ops.alert_channels', 'channel_name', bundle);
    rules := ops.with_unnamed(rules, 'rule', 'ops.alert_rules', 'rule_name', bundle);
    rules := rules || array(select orphan from ops.orphaned_rules(slos, ops.definition_names(rules)) as orphan);
  end if;
  perform ops.require_own(services || slos || channels || rules, bundle);
  perform ops.write_definitions('ops.services', 'service_name', services);
  perform ops.write_definitions('ops.slos', 'slo_name', slos);
  perform ops.write_definitions('ops.alert_channels', 'channel_name', channels);
  perform ops.write_definitions('ops.alert_rules', 'rule_name', rules);
  perform ops.require_known_channels(channels);
  -- Now, so that a rule that can never fire is refused here and not when the transaction ends.
  set constraints ops.slos_check_factor, ops.alert_rules_check_factor immediate;
  return query
  select 'slo', renaming.value, 'renamed', jsonb_build_object('slo_name', jsonb_build_array(renaming.key, renaming.value))
  from jsonb_each_text(renamed) as renaming
  union all
  select * from ops.definition_changes(services || slos || channels || rules);
end;
$$;
comment on function ops.apply_definitions(jsonb, text, boolean, boolean, text) is
  'Makes services, objectives, channels and rules what the rows in {"services", "slos", "channels", "rules"} say, and removes rules of these objectives that are not among them. What is new belongs to the bundle; adopt: so does all that the rows name; else what another bundle made may be named, and not changed. prune: what the bundle made and the rows do not name is removed. One row a definition: renamed, created, changed (with each field as [before, after]), unchanged or removed.';

create function ops.require_slos(slo_names text[])
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  select asked.name
  into unknown
  from unnest(slo_names) as asked (name)
  where not exists (select from ops.slos as slo where slo.slo_name = asked.name)
  limit 1;
  if found then
    raise exception 'there is no objective %', coalesce(unknown, '')
      using errcode = 'OP001', hint = 'opskpi slo list shows them; with --all those that were removed, too.';
  end if;
end;
$$;
comment on function ops.require_slos(text[]) is 'Refuses names that no objective has.';

create function ops.delete_slos(slo_names text[], author text default null)
returns table (slo_name text, rules text[], versions bigint, exclusions bigint, open_alerts bigint, bundle text)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
begin
  perform ops.begin_changes(author);
  perform ops.require_slos(slo_names);
  return query
  select
    slo.slo_name,
    array(select rule.rule_name from ops.alert_rules as rule where rule.slo_name = slo.slo_name order by 1),
    (select count(*) from ops.slo_versions as version where version.slo_name = slo.slo_name),
    (select count(*) from ops.slo_exclusions as exclusion where exclusion.slo_name = slo.slo_name),
    (
      select count(*)
      from ops.alerts as alert
      where alert.subject = slo.slo_name
        and alert.slo_version is not null
        and alert.state in ('pending', 'firing')
    ),
    slo.bundle
  from ops.slos as slo
  where slo.slo_name = any (delete_slos.slo_names)
  order by 1;
  delete from ops.slos as slo where slo.slo_name = any (delete_slos.slo_names);
end;
$$;
comment on function ops.delete_slos(text[], text) is
  'Removes objectives with their own rules. One row each: the rules that went with it, what stays (versions and exclusions, counts), the open alerts that the next evaluation ends, and the bundle whose files make it again as long as they name it.';

create function ops.enable_slos(slo_names text[], is_enabled boolean, author text default null)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.begin_changes(author);
  perform ops.require_slos(slo_names);
  return query
  select
    'slo',
    slo.slo_name,
    case when slo.is_enabled = enable_slos.is_enabled then 'unchanged' else 'changed' end,
    case
      when slo.is_enabled <> enable_slos.is_enabled
        then jsonb_build_object('is_enabled', jsonb_build_array(slo.is_enabled, enable_slos.is_enabled))
    end
  from ops.slos as slo
  where slo.slo_name = any (enable_slos.slo_names)
  order by 2;
  update ops.slos as slo
  set is_enabled = enable_slos.is_enabled
  where slo.slo_name = any (enable_slos.slo_names)
    and slo.is_enabled <> enable_slos.is_enabled;
end;
$$;
comment on function ops.enable_slos(text[], boolean, text) is
  'Enables or disables objectives; one row each: changed or unchanged. A disabled one has no status and no alerts, and its events are counted all the same.';

create or replace view ops.settled_deliveries
with (security_invoker = true)
as
select delivery.org_id, delivery.delivery_id, coalesce(delivery.settled_at, delivery.created_at) as settled_at
from ops.alert_deliveries as delivery
where delivery.state in ('delivered', 'silenced', 'superseded', 'dead')
  -- Messages about an alert are kept as long as the alert goes on.
  and not exists (
    select
    from ops.alerts as alert
    where alert.org_id = delivery.org_id
      and alert.alert_id = any (delivery.alert_ids)
      and alert.state in ('pending', 'firing')
  );

create or replace view ops.settled_alerts
with (security_invoker = true)
as
select alert.org_id, alert.alert_id, alert.resolved_at
from ops.alerts as alert
where alert.state in ('resolved', 'ended')
  -- A group that last said it fires has yet to say that it is over.
  and not exists (
    select
    from ops.alert_groups as known
    where known.org_id = alert.org_id
      and alert.alert_id = any (known.last_firing)
  );
comment on function ops.added_counts(jsonb, jsonb) is 'Two objects of numbers, added key by key.';

create or replace function ops.forget_agent(pseudonyms ops.pseudonym[], mention text, dry_run boolean, out counts jsonb, out kept jsonb)
language plpgsql
volatile
set search_path = ''
as $$
declare
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  of_kind bigint;
begin
  select named.counts, named.kept into counts, kept from ops.count_mentions(owner_id, mention) as named;
  select ops.added_counts(counts, coalesce(jsonb_object_agg(found.name, found.rows), '{}'))
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
  ) as found
  where found.rows > 0;
  -- The kinds of counted events are few, so that only events of such a kind are read.
  select count(*) into of_kind
  from public.telemetry_events as event
  where event.org_id = owner_id
    and event.event_type in (select series.event_type from ops.series where series.org_id = owner_id and series.event_type ~* mention);
  if of_kind > 0 then
    kept := kept || jsonb_build_object('public.telemetry_events.event_type', of_kind);
  end if;
  if dry_run or counts = '{}' then
    return;
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and alert.subject ~* mention;
  update ops.alerts as alert
  set state = 'ended',
      resolved_at = greatest(alert.evaluated_at, now()),
      detail = alert.detail || '{"ended_because": "no_longer_asked"}'
  where alert.org_id = owner_id and alert.subject ~* mention and alert.state = 'firing';
  if counts ?| array['ops.series', 'ops.histograms', 'ops.blocked_patterns', 'ops.work_units', 'public.kpi_aggregations'] then
    perform ops.rename_states(owner_id, mention, erased);
  end if;
  perform ops.replace_mentions(owner_id, mention, erased, counts);
end;
$$;

create or replace view public.v_ops_slo_status
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
  nullif(sli.counted_since, '-infinity') as counted_since
from ops.evaluate_slos(now(), true, null) as evaluated
join ops.slo_versions as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
join ops.slis as sli
  on sli.sli_id = version.sli_id
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.org_id;
comment on column public.v_ops_slo_status.counted_since is
  'First instant with all its events: retention had removed older ones before the objective was made; null: none is missing.';
comment on column public.v_ops_alerts.state is 'pending, firing, resolved (its condition was found not to hold) or ended (nothing asks any more).';
comment on column public.v_ops_alerts.resolved_at is 'When it was found to be over, resolved or ended; null: it is not.';
comment on column public.v_ops_alerts.detail is 'The figures: burn rates and factor, SLI, target, budget left; the KPI and its limit; when last heard of; why it ended, and who did that when.';
comment on column public.v_ops_alert_deliveries.status is 'firing, resolved, ended, test or summary.';

-- The person who removed an objective before this upgrade was not recorded; none of these is brought back by a later migration.
insert into ops.slo_changes (slo_name, change, changed_at, author)
select gone.slo_name, 'removed', coalesce(max(version.valid_until), now()), 'not recorded'
from (
  select version.slo_name from ops.slo_versions as version
  union
  select shipped.slo_name
  from (
    values
      ('provenance_generation_availability'),
      ('provenance_generation_latency'),
      ('provenance_generation_error_rate'),
      ('provenance_validation_availability'),
      ('provenance_validation_latency'),
      ('provenance_validation_error_rate'),
      ('audit_observer_availability'),
      ('audit_observer_latency'),
      ('audit_observer_error_rate')
  ) as shipped (slo_name)
) as gone
left join ops.slo_versions as version
  on version.slo_name = gone.slo_name
where not exists (select from ops.slos as slo where slo.slo_name = gone.slo_name)
group by gone.slo_name;

-- An SLI that counted nothing of what retention removed had been made afterwards.
update ops.slis as sli
set counted_since = removed.removed_until
from ops.removed_events as removed
where removed.event_type = sli.event_type
  and not exists (
    select
    from ops.sli_counts as counted
    where counted.sli_id = sli.sli_id
      and counted.bucket_start < removed.removed_until
  );

revoke execute on function
  ops.is_bundle_name,
  ops.alert_ending,
  ops.apply_definitions,
  ops.begin_changes,
  ops.carry_silences,
  ops.carry_slo_name,
  ops.change_author,
  ops.channel_definitions,
  ops.definition_names,
  ops.delete_slos,
  ops.enable_slos,
  ops.end_slo_versions,
  ops.follow_slo,
  ops.forget_channel,
  ops.orphaned_rules,
  ops.owning_bundle,
  ops.rename_defined,
  ops.rename_slos,
  ops.require_known_channels,
  ops.require_own,
  ops.require_slos,
  ops.rule_definitions,
  ops.service_definitions,
  ops.slo_definitions,
  ops.slo_list,
  ops.with_unnamed
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.is_bundle_name,
    ops.alert_ending,
    ops.apply_definitions,
    ops.begin_changes,
    ops.carry_silences,
    ops.carry_slo_name,
    ops.change_author,
    ops.channel_definitions,
    ops.definition_names,
    ops.delete_slos,
    ops.enable_slos,
    ops.end_slo_versions,
    ops.follow_slo,
    ops.forget_channel,
    ops.orphaned_rules,
    ops.owning_bundle,
    ops.rename_defined,
    ops.rename_slos,
    ops.require_known_channels,
    ops.require_own,
    ops.require_slos,
    ops.rule_definitions,
    ops.service_definitions,
    ops.slo_definitions,
    ops.slo_list,
    ops.with_unnamed
  from anon, authenticated, service_role;
  revoke all on ops.slo_changes from anon, authenticated, service_role;
  revoke all on sequence ops.slo_changes_slo_change_id_seq from anon, authenticated, service_role;
  grant select on ops.slo_changes to service_role;
  grant execute on function ops.slo_list to service_role;
end;
$$;
