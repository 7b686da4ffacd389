-- The weekly summary of an org, as facts, written to the outbox once per channel.

create table ops.summaries (
  org_id uuid not null,
  channel_name text not null,
  week text not null,
  written_at timestamptz not null,
  constraint summaries_pkey primary key (org_id, channel_name, week),
  constraint summaries_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name) on delete cascade,
  constraint summaries_week_is_an_iso_week check (week ~ '^[0-9]{4}-W[0-9]{2}$')
);
comment on table ops.summaries is
  'One row an org, channel and week whose summary was written to the outbox; it outlives the message, so that none is written twice.';
comment on column ops.summaries.org_id is 'The tenant.';
comment on column ops.summaries.channel_name is 'The channel.';
comment on column ops.summaries.week is 'The ISO week, such as 2026-W47.';
comment on column ops.summaries.written_at is 'When it was written, the last time if that was asked for again.';
alter table ops.summaries enable row level security;

create function ops.week_window(week text, as_of timestamptz)
returns table (week_name text, week_start timestamptz, week_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  zone constant text := ops.time_zone();
  monday timestamp;
begin
  monday := case
    when week is null then date_trunc('week', as_of at time zone zone) - interval '7 days'
    when week ~ '^(19[7-9][0-9]|2[01][0-9]{2})-W(0[1-9]|[1-4][0-9]|5[0-3])$' then to_date(week, 'IYYY-"W"IW')
  end;
  week_name := to_char(monday, 'IYYY-"W"IW');
  -- The 53rd of a year that has 52 would be another year's first.
  if week_name is null or week_name <> week then
    raise exception 'there is no ISO week %', coalesce(week, '')
      using errcode = 'OP001', hint = 'Write it as 2026-W47, or leave it out for the last one that is over.';
  end if;
  week_start := monday at time zone zone;
  week_end := (monday + interval '7 days') at time zone zone;
  if (week_end <= as_of) is not true then
    raise exception 'the week % is not over before %', week_name, week_end
      using errcode = 'OP001', hint = 'Leave it out for the last one that is over.';
  end if;
  return next;
end;
$$;
comment on function ops.week_window(text, timestamptz) is
  'The ISO week of that name, null for the last one that is over at as_of, with its first instant and the first after it, in the time zone of the settings.';

create function ops.summary_kpis(week_start timestamptz, week_end timestamptz, org_id uuid)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with compared as (
    select
      kpi.metric_name,
      kpi.description,
      kpi.unit,
      max(kpi.value) filter (where kpi.part = 'whole') as value,
      coalesce(max(kpi.sample_count) filter (where kpi.part = 'whole'), 0) as samples,
      max(kpi.value) filter (where kpi.part = 'previous') as previous,
      coalesce(max(kpi.sample_count) filter (where kpi.part = 'previous'), 0) as previous_samples
    from ops.kpi_window(
      period => 'week',
      since => summary_kpis.week_start,
      until => summary_kpis.week_end,
      as_of => summary_kpis.week_end,
      org_id => summary_kpis.org_id
    ) as kpi
    where kpi.part in ('whole', 'previous')
    group by kpi.metric_name, kpi.description, kpi.unit
  )
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'metric', compared.metric_name,
        'description', compared.description,
        'unit', compared.unit,
        'value', ops.readable(compared.value),
        'samples', compared.samples,
        'previous', ops.readable(compared.previous),
        'previous_samples', compared.previous_samples,
        'change', ops.readable(case compared.unit
          when 'percent' then compared.value - compared.previous
          else 100 * (compared.value - compared.previous) / nullif(compared.previous, 0)
        end),
        'change_unit', case compared.unit when 'percent' then 'points' else 'percent' end
      )
      order by compared.metric_name
    ),
    '[]'
  )
  from compared;
end;
comment on function ops.summary_kpis(timestamptz, timestamptz, uuid) is
  'The KPIs of an org over a week beside those of the week before; value is null for one that had samples before only, change where there is nothing to compare.';

create function ops.summary_objectives(org_id uuid, as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with evaluated as materialized (
    select status.*
    from ops.evaluate_slos(summary_objectives.as_of, true, null) as status
    where status.org_id = summary_objectives.org_id
      -- Not the groups that are over, nor those that began later.
      and (status.slo_group = '{}' or status.total_unadjusted > 0)
  )
  select jsonb_build_object(
    'by_status', (
      select coalesce(jsonb_object_agg(counted.status, counted.objectives), '{}')
      from (select evaluated.status, count(*) as objectives from evaluated group by evaluated.status) as counted
    ),
    'stale', (select count(*) from evaluated where evaluated.freshness = 'stale'),
    'list', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'objective', evaluated.slo_name,
            'group', ops.group_name(evaluated.slo_group),
            'service', evaluated.service,
            'status', evaluated.status,
            'target', ops.readable(evaluated.target),
            'sli', ops.readable(evaluated.sli),
            'good', evaluated.good,
            'total', evaluated.total,
            'budget_left', ops.readable(evaluated.budget_left)
          )
          order by
            ops.status_rank(evaluated.status),
            evaluated.budget_left,
            evaluated.slo_name,
            evaluated.slo_group
        ),
        '[]'
      )
      from evaluated
    )
  );
end;
comment on function ops.summary_objectives(uuid, timestamptz) is
  'How the objectives of an org stand as of an instant, each over its own window: how many by status, and each, the worst first.';

create function ops.summary_alerts(org_id uuid, since timestamptz, until timestamptz, as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with fired as materialized (
    select alert.alert_id, alert.severity
    from ops.alerts as alert
    where alert.org_id = summary_alerts.org_id
      and alert.firing_since >= summary_alerts.since
      and alert.firing_since < summary_alerts.until
  )
  select jsonb_build_object(
    'fired', (select count(*) from fired),
    'by_severity', (
      select coalesce(jsonb_object_agg(counted.severity, counted.alerts), '{}')
      from (select fired.severity, count(*) as alerts from fired group by fired.severity) as counted
    ),
    -- As many as a message can show.
    'list', ops.alert_facts(
      array(
        select fired.alert_id
        from fired
        order by array_position(array['page', 'ticket', 'notice'], fired.severity), fired.alert_id desc
        limit 100
      ),
      summary_alerts.as_of
    )
  );
end;
comment on function ops.summary_alerts(uuid, timestamptz, timestamptz, timestamptz) is
  'The alerts of an org that began to fire in [since, until): how many, and what there is to say of a hundred of them, the most urgent first.';

create function ops.summary_message(org_id uuid, week text, as_of timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  spans record;
  kpis jsonb;
  alerts jsonb;
begin
  select * into strict spans from ops.week_window(summary_message.week, summary_message.as_of);
  kpis := ops.summary_kpis(spans.week_start, spans.week_end, summary_message.org_id);
  alerts := ops.summary_alerts(summary_message.org_id, spans.week_start, spans.week_end, summary_message.as_of);
  if not kpis @? '$[*] ? (@.samples > 0)' and (alerts ->> 'fired')::bigint = 0 then
    raise exception 'there is nothing to say of the week %: no event was counted in it and no alert fired', spans.week_name
      using errcode = 'OP002', hint = 'Check the org; opskpi doctor says whether events wait. Once there are some, ask again.';
  end if;
  return jsonb_build_object(
    'kind', 'summary',
    'title', format('summary of %s', spans.week_name),
    'status', 'summary',
    'org_id', summary_message.org_id,
    'group', format('summary %s', spans.week_name),
    'link', ops.setting('dashboard_url'),
    'week', spans.week_name,
    'since', spans.week_start,
    'until', spans.week_end,
    'zone', ops.time_zone(),
    'kpis', kpis,
    'hooks', jsonb_build_object(
      'executions', jsonb_path_query_first(kpis, '$[*] ? (@.metric == "hook_executions_total")'),
      'block_rate', jsonb_path_query_first(kpis, '$[*] ? (@.metric == "hook_block_rate")'),
      'override_rate', jsonb_path_query_first(kpis, '$[*] ? (@.metric == "hook_override_rate")')
    ),
    -- As they stood when the week ended, its last five minutes included and none of the next.
    'objectives', ops.summary_objectives(summary_message.org_id, spans.week_end - interval '1 microsecond'),
    'alerts', alerts,
    -- What any message has.
    'firing', '[]'::jsonb,
    'resolved', '[]'::jsonb
  );
end;
$$;
comment on function ops.summary_message(uuid, text, timestamptz) is
  'What there is to say of an org''s week, as facts: KPIs with samples and change, hooks, objectives with the budget left when it ended, alerts that fired. Refused for a week without any.';

create function ops.require_summary_channels(channel_names text[], org_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  asked record;
begin
  if coalesce(cardinality(channel_names), 0) = 0 then
    raise exception 'a summary goes to a channel, and none is named'
      using errcode = 'OP001', hint = 'opskpi alert list --channels shows them.';
  end if;
  for asked in
    select named.name, channel.channel_name, channel.is_enabled, channel.only_org_id
    from unnest(channel_names) as named (name)
    left join ops.alert_channels as channel
      on channel.channel_name = named.name
    order by named.name
  loop
    if asked.channel_name is null then
      raise exception 'there is no channel %', coalesce(asked.name, '')
        using errcode = 'OP001', hint = 'opskpi alert list --channels shows them; opskpi slo apply adds one.';
    end if;
    if not asked.is_enabled then
      raise exception 'the channel % is switched off', asked.name
        using errcode = 'OP001', hint = 'Set is_enabled in ops.alert_channels.';
    end if;
    if asked.only_org_id <> org_id then
      raise exception 'the channel % is for the org % only', asked.name, asked.only_org_id
        using errcode = 'OP001', hint = 'Name that org, or another channel: nobody hears of another''s week.';
    end if;
  end loop;
end;
$$;
comment on function ops.require_summary_channels(text[], uuid) is
  'Refuses channels that do not exist, are switched off, or are for another tenant only.';

create function ops.queue_summary(
  channel_names text[],
  org_id uuid default null,
  week text default null,
  again boolean default false,
  as_of timestamptz default now()
)
returns table (channel_name text, week_name text, delivery_id bigint, is_new boolean)
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(queue_summary.org_id);
  message jsonb;
begin
  perform ops.require_summary_channels(queue_summary.channel_names, owner_id);
  week_name := (select asked.week_name from ops.week_window(queue_summary.week, queue_summary.as_of) as asked);
  -- In one order, so that two calls for the same channels wait for each other and do not lock each other out.
  for channel_name in select distinct named.name from unnest(queue_summary.channel_names) as named (name) order by named.name loop
    insert into ops.summaries as written (org_id, channel_name, week, written_at)
    values (owner_id, queue_summary.channel_name, queue_summary.week_name, queue_summary.as_of)
    on conflict on constraint summaries_pkey do update set written_at = excluded.written_at
    where queue_summary.again;
    is_new := found;
    if is_new then
      message := coalesce(message, ops.summary_message(owner_id, queue_summary.week_name, queue_summary.as_of));
      insert into ops.alert_deliveries as delivery (
        org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
      )
      values (
        owner_id, queue_summary.channel_name, message ->> 'group', 'summary',
        array(select (fact ->> 'alert_id')::bigint from jsonb_array_elements(message #> '{alerts,list}') as fact),
        message, 'queued', queue_summary.as_of, queue_summary.as_of
      )
      returning delivery.delivery_id into delivery_id;
    else
      delivery_id := (
        select max(delivery.delivery_id)
        from ops.alert_deliveries as delivery
        where delivery.org_id = owner_id
          and delivery.channel_name = queue_summary.channel_name
          and delivery.group_key = format('summary %s', queue_summary.week_name)
          and delivery.status = 'summary'
      );
    end if;
    return next;
  end loop;
end;
$$;
comment on function ops.queue_summary(text[], uuid, text, boolean, timestamptz) is
  'Writes the summary of an org''s week (null: the last one that is over) to the outbox, once for each channel however often it is called, unless again is true. One row a channel: the message, null once retention removed it, and whether it is new.';
