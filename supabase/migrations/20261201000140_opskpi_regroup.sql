-- Exclusions and silences of a group hold for every group that contains it, also after a change of groupBy; what holds no more is listed, and so are
-- the groups that an org has counted. An SLO that gets more or fewer objectives, or names them otherwise, keeps their history.

create function ops.wider_groups(slo_group jsonb)
returns setof jsonb
language sql
immutable
set search_path = ''
begin atomic
  select jsonb '{}'
  union
  select jsonb_build_object(label.key, label.value)
  from jsonb_each(wider_groups.slo_group) as label
  union
  select wider_groups.slo_group;
end;
comment on function ops.wider_groups(jsonb) is
  'All groups that a group of at most two keys contains (@>): {}, that of each of its labels, and itself. What is said of one of these holds for the group.';

create function ops.may_contain(group_by text[], group_name text)
returns boolean
language sql
immutable
set search_path = ''
return case
  when group_name = 'overflow' then group_by <> '{}'
  else string_to_array(
    -- Blanks within quotes separate no labels.
    regexp_replace(regexp_replace(group_name, '"([^"\\]|\\.)*"', '', 'g'), '=[^ ]*', '', 'g'),
    ' '
  ) <@ group_by
end;
comment on function ops.may_contain(text[], text) is
  'Whether groups by these keys can contain the group of that name: they have its keys, or it is the overflow and there are groups.';

create or replace function ops.require_group(slo_name text, slo_group jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  keys constant text[] := (select slo.group_by from ops.slos as slo where slo.slo_name = require_group.slo_name);
begin
  if slo_group is null or jsonb_typeof(slo_group) <> 'object' then
    raise exception 'a group is an object of labels, not %', coalesce(slo_group::text, 'null')
      using errcode = 'OP001', hint = 'Pass {"workflow": "release"}, or {} for all of the objective.';
  end if;
  if slo_group = ops.overflow_group() and keys = '{}'
    or slo_group <> ops.overflow_group() and exists (
      select
      from jsonb_each(slo_group) as label
      where label.key <> all (keys)
        or jsonb_typeof(label.value) not in ('string', 'null')
    )
  then
    raise exception 'the objective % has no group %', slo_name, ops.group_name(slo_group)
      using errcode = 'OP001',
        hint = case keys when '{}' then 'It has no groups.' else format('It is grouped by %s.', array_to_string(keys, ' and ')) end;
  end if;
end;
$$;
comment on function ops.require_group(text, jsonb) is 'Refuses labels that no group of an objective as it stands can contain; {} is all of it, and one of two keys all groups with that value.';
comment on column ops.slo_exclusions.slo_group is
  'The labels of the groups that it concerns: every group that contains them (@>), so that it holds on where the objective is grouped by more keys; {}: all groups.';

create or replace view ops.excluded_times
with (security_invoker = true)
as
select
  exclusion.org_id,
  exclusion.slo_name,
  date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00') as since,
  date_bin('5 minutes', exclusion.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as until,
  exclusion.slo_group
from ops.slo_exclusions as exclusion;
comment on view ops.excluded_times is
  'One row per exclusion: the five minutes that it touches, left out of each group that contains (@>) its slo_group. Several may leave the same five minutes out of a group, so whoever subtracts counts joins them first.';
comment on function ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid, jsonb) is
  'Leaves a time out of an objective''s account for one org, or out of that of its groups that have the labels of slo_group; returns the number of the exclusion.';

create or replace function ops.changed_counts(spans ops.counted_span[], fresh ops.sli_delta[] default '{}')
returns setof ops.slo_count
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with asked as materialized (
    select span.place, span.org_id, span.slo_name, span.slo_group, span.sli_id, span.since, span.until
    from unnest(changed_counts.spans) as span
  ),
  fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(changed_counts.fresh) as delta
  ),
  -- By itself, so that its instants are rounded once for each exclusion and not for each span.
  excluded as materialized (
    select times.org_id, times.slo_name, times.slo_group, times.since, times.until from ops.excluded_times as times
  ),
  -- Exclusions overlap, and those of several groups may concern one: each five minutes are left out once.
  left_out as materialized (
    select joined.place, lower(stretch) as since, upper(stretch) as until
    from (
      select
        asked.place,
        range_agg(tstzrange(greatest(excluded.since, asked.since), least(excluded.until, asked.until))) as stretches
      from asked
      join excluded
        on excluded.org_id = asked.org_id
        and excluded.slo_name = asked.slo_name
        and excluded.until > asked.since
        and excluded.since < asked.until
        and excluded.slo_group <@ asked.slo_group
      group by 1
    ) as joined
    cross join lateral unnest(joined.stretches) as stretch
  )
  select asked.place, fresh.bucket_start, fresh.good, fresh.total, fresh.good, fresh.total
  from asked
  join fresh
    on fresh.org_id = asked.org_id
    and fresh.sli_id = asked.sli_id
    and fresh.bucket_start >= asked.since
    and fresh.bucket_start < asked.until
  union all
  select asked.place, bucket.bucket_start, -bucket.good, -bucket.total, 0, 0
  from asked
  join left_out
    on left_out.place = asked.place
  cross join lateral (
    select stored.bucket_start, stored.good, stored.total
    from ops.sli_counts as stored
    where stored.org_id = asked.org_id
      and stored.sli_id = asked.sli_id
      and stored.bucket_start >= left_out.since
      and stored.bucket_start < left_out.until
    union all
    select fresh.bucket_start, fresh.good, fresh.total
    from fresh
    where fresh.org_id = asked.org_id
      and fresh.sli_id = asked.sli_id
      and fresh.bucket_start >= left_out.since
      and fresh.bucket_start < left_out.until
  ) as bucket;
end;

create function ops.counted_groups(slo_name text, org_id uuid)
returns jsonb[]
language sql
stable
set search_path = ''
begin atomic
  select array(
    select grouped.slo_group
    from (
      select known.sli_id
      from ops.slo_versions as known
      where known.slo_name = counted_groups.slo_name
      order by known.version desc
      limit 1
    ) as version
    cross join lateral ops.groups_of_slis(
      array[counted_groups.org_id],
      array[version.sli_id],
      array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where delta.org_id = counted_groups.org_id)
    ) as grouped
    where grouped.slo_group <> '{}'
    order by 1
  );
end;
comment on function ops.counted_groups(text, uuid) is
  'The groups of an objective in which an org has counted something, events behind the cursor included.';

create or replace function ops.account_counts(account ops.slo_account, only_org_id uuid default null)
returns table (org_id uuid, bucket_start timestamptz, slice_start timestamptz, good bigint, total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    bucket.org_id,
    bucket.bucket_start,
    coalesce(date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), account.since),
    bucket.good,
    bucket.total
  from ops.sli_counts as bucket
  where bucket.sli_id = account.sli_id
    and (account_counts.only_org_id is null or bucket.org_id = account_counts.only_org_id)
    and bucket.bucket_start >= account.since
    and bucket.bucket_start < account.until
    and not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = bucket.org_id
        and excluded.slo_name = account.slo_name
        and excluded.slo_group <@ account.slo_group
        and excluded.since <= bucket.bucket_start
        and excluded.until > bucket.bucket_start
    );
end;
$$;

create or replace function ops.account_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text,
  slice_start timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as (
    select lost.*, date_bin('5 minutes', lost.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as lost
  ),
  -- An agent that has changed its team may show more losses than were counted; a rebuild makes them the same.
  stored as materialized (
    select placed.*
    from (
      select found.*, row_number() over (partition by found.org_id, found.bucket_start order by found.counted_at, found.event_id) as place
      from found
    ) as placed
    where placed.place <= (
      select bucket.total - bucket.good
      from ops.sli_counts as bucket
      where bucket.org_id = placed.org_id
        and bucket.sli_id = account.sli_id
        and bucket.bucket_start = placed.bucket_start
    )
  ),
  -- Events that retention removed were counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from ops.account_counts(account, account_losses.only_org_id) as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  )
  select
    bad.*,
    coalesce(date_bin(account.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'), account.since) as slice_start
  from (
    select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
    from stored
    where not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = stored.org_id
        and excluded.slo_name = account.slo_name
        and excluded.slo_group <@ account.slo_group
        and excluded.since <= stored.bucket_start
        and excluded.until > stored.bucket_start
    )
    union all
    select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
    from removed
    cross join generate_series(1, removed.missing)
  ) as bad;
end;
$$;
comment on column ops.alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and labels of its groups (releases workflow=hotfix: every group with this label); * for everything.';

create or replace function ops.is_silenced(org_id uuid, rule_name text, subject text, service text, as_of timestamptz, slo_group jsonb)
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

create or replace function ops.silence_alerts(matcher text, until timestamptz, reason text, author text, only_org_id uuid default null, starts_at timestamptz default now())
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

create function ops.group_holds(as_of timestamptz default now())
returns table (
  kind text,
  number bigint,
  org_id uuid,
  slo_name text,
  group_name text,
  since timestamptz,
  until timestamptz,
  group_by text[],
  holds boolean
)
language sql
stable
set search_path = ''
begin atomic
  with standing as materialized (
    select slo.slo_name, slo.group_by, slo.rolling_window, slo.calendar_period, slo.time_zone
    from ops.slos as slo
    union all
    -- A removed objective has its exclusions and silences again when it is made again.
    (
      select distinct on (version.slo_name)
        version.slo_name, sli.group_by, version.rolling_window, version.calendar_period, version.time_zone
      from ops.slo_versions as version
      join ops.slis as sli
        on sli.sli_id = version.sli_id
      where version.slo_name not in (select slo.slo_name from ops.slos as slo)
      order by version.slo_name, version.version desc
    )
  ),
  said as (
    select
      'exclusion' as kind, exclusion.slo_exclusion_id as number, exclusion.org_id, standing.slo_name,
      ops.group_name(exclusion.slo_group) as group_name, exclusion.since, exclusion.until, standing.group_by
    from ops.slo_exclusions as exclusion
    join standing
      on standing.slo_name = exclusion.slo_name
    where exclusion.slo_group <> '{}'
      and exclusion.until > ops.slo_window_start(standing.rolling_window, standing.calendar_period, standing.time_zone, group_holds.as_of)
    union all
    select
      'silence', silence.alert_silence_id, silence.only_org_id, standing.slo_name,
      substr(silence.matcher, char_length(standing.slo_name) + 2), silence.starts_at, silence.until, standing.group_by
    from ops.alert_silences as silence
    join standing
      on starts_with(silence.matcher, standing.slo_name || ' ')
    where silence.until > group_holds.as_of
  )
  select said.*, ops.may_contain(said.group_by, said.group_name)
  from said
  order by said.slo_name, said.kind, said.number;
end;
comment on function ops.group_holds(timestamptz) is
  'One row per exclusion of groups that reaches into the window of its objective (or lies ahead) and per silence of groups that is not over: the objective, the keys by which that is grouped, and whether groups by these can contain the one that it names. What does not hold leaves out or silences nothing. org_id of a silence null: of every org.';

create or replace function ops.trial_history(
  slo ops.slos, org_id uuid, slo_group jsonb, since timestamptz, until timestamptz, longest interval, fresh ops.sli_delta[]
)
returns ops.trial_history
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  history ops.trial_history;
  counted_as constant bigint := ops.group_key((ops.sli_of(slo)).sli_id, slo_group);
  left_out constant tstzmultirange := coalesce(
    (
      select range_agg(tstzrange(excluded.since, excluded.until))
      from ops.excluded_times as excluded
      where excluded.org_id = trial_history.org_id
        and excluded.slo_name = slo.slo_name
        and excluded.slo_group <@ trial_history.slo_group
    ),
    '{}'
  );
  steps constant integer := extract(epoch from coalesce(slo.time_slice, interval '5 minutes'))::integer / 300;
  good_before bigint[];
  total_before bigint[];
  good_slices bigint[] := array[0::bigint];
  total_slices bigint[] := array[0::bigint];
  good bigint;
  total bigint;
begin
  history.steps := steps;
  history.slice_target := slo.slice_target;
  history.starts_at := date_bin(
    make_interval(mins => 5 * steps),
    least(ops.slo_window_start(slo.rolling_window, slo.calendar_period, slo.time_zone, since), since - ops.in_hours(longest)),
    timestamptz '1969-12-29 00:00+00'
  );
  select counted.* into good_before, total_before, history.is_seen
  from ops.trial_steps(org_id, counted_as, left_out, history.starts_at, until, fresh) as counted;
  if slo.time_slice is not null then
    for place in 1 .. (cardinality(total_before) - 1) / steps loop
      total := total_before[place * steps + 1] - total_before[(place - 1) * steps + 1];
      good := good_before[place * steps + 1] - good_before[(place - 1) * steps + 1];
      total_slices[place + 1] := total_slices[place] + (total > 0)::integer;
      good_slices[place + 1] := good_slices[place] + (total > 0 and good >= slo.slice_target * total)::integer;
    end loop;
  end if;
  history.good_before := good_before;
  history.total_before := total_before;
  history.good_slices := good_slices;
  history.total_slices := total_slices;
  history.seen_at := (
    select newest.last_counted_at
    from ops.last_counts(history.starts_at - interval '1 microsecond', array[trial_history.org_id], array[counted_as], fresh) as newest
  );
  return history;
end;
$$;

create function ops.heirs_of_slos(definitions jsonb, bundle text, adopt boolean)
returns table (old_name text, new_name text, promises_same boolean)
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with defined as materialized (
    select
      said ->> 'slo_name' as slo_name,
      coalesce(said ->> 'of_several', said ->> 'slo_name') as of_slo,
      ops.canonical_slo(jsonb_populate_record(null::ops.slos, said)) as promise
    from jsonb_array_elements(definitions -> 'slos') as said
  )
  select
    standing.slo_name,
    defined.slo_name,
    ops.is_same_promise(
      jsonb_populate_record(defined.promise, jsonb_build_object(
        'is_enabled', coalesce((defined.promise).is_enabled, standing.is_enabled),
        'time_zone', nullif((defined.promise).time_zone, case when standing.time_zone is null then ops.time_zone() end)
      )),
      standing
    )
  from ops.slos as standing
  join defined
    on standing.slo_name = defined.of_slo
    or starts_with(standing.slo_name, defined.of_slo || '.')
  where (standing.bundle = heirs_of_slos.bundle or adopt)
    and standing.slo_name not in (select other.slo_name from defined as other)
    and not exists (
      select from ops.slos as known where known.slo_name in (defined.slo_name, (defined.promise).previous_name)
    )
    -- Two histories cannot be one.
    and not exists (select from ops.slo_versions as version where version.slo_name = defined.slo_name);
end;
$$;
comment on function ops.heirs_of_slos(jsonb, text, boolean) is
  'One row per objective of the bundle that its SLO calls otherwise now or defines no more, and new objective of that SLO: an SLO calls its only objective as itself, and each of several after itself (of_several). promises_same: the new one may go on with the history.';

create function ops.continued_slos(definitions jsonb, bundle text, adopt boolean)
returns table (old_name text, new_name text)
language sql
stable
set search_path = ''
begin atomic
  with heirs as materialized (
    select heir.* from ops.heirs_of_slos(continued_slos.definitions, continued_slos.bundle, continued_slos.adopt) as heir
  ),
  -- Each goes on once, and as one.
  continued as (
    select heirs.old_name, heirs.new_name
    from heirs
    where heirs.promises_same
      and heirs.new_name = (select min(other.new_name) from heirs as other where other.promises_same and other.old_name = heirs.old_name)
      and heirs.old_name = (select min(other.old_name) from heirs as other where other.promises_same and other.new_name = heirs.new_name)
  )
  select heirs.old_name, max(continued.new_name)
  from heirs
  left join continued
    on continued.old_name = heirs.old_name
  where continued.old_name is not null
    -- A new one that goes on with another history takes none from this.
    or heirs.new_name not in (select taken.new_name from continued as taken)
  group by 1;
end;
comment on function ops.continued_slos(jsonb, text, boolean) is
  'One row per objective of the bundle that its SLO calls otherwise now or defines no more while it gets new ones: the new one that goes on with its history, since it promises the same; null where none does.';

create or replace function ops.rename_defined(definitions jsonb, bundle text, adopt boolean)
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

  renamed := nullif(
    (
      select coalesce(jsonb_object_agg(continued.old_name, continued.new_name), '{}')
      from ops.continued_slos(definitions, bundle, adopt) as continued
      where continued.new_name is not null
    ) || coalesce(renamed, '{}'),
    '{}'
  );

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
  'Renames the objectives whose definitions name a previous name that stands and that was not heeded yet, and those that go on under another name of their SLO; returns {"old": "new"}, or null. Refused where the new name is taken, or another bundle made the objective.';
comment on column public.v_ops_alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; an objective and labels of its groups; * for everything.';

create or replace function ops.newest_losses(account ops.slo_account, org_id uuid, max_events integer)
returns table (bucket_start timestamptz, share numeric, newer numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with excluded as materialized (
    select times.since, times.until
    from ops.excluded_times as times
    where times.org_id = newest_losses.org_id
      and times.slo_name = account.slo_name
      and times.slo_group <@ account.slo_group
  )
  select newest.bucket_start, newest.share, sum(newest.bad) over (order by newest.bucket_start desc) - newest.bad
  from (
    select bucket.bucket_start, bucket.total - bucket.good as bad, coalesce(slice.share, 1) as share
    from ops.sli_counts as bucket
    -- A slice is one loss, which its events share.
    left join lateral (
      select case when sum(part.good) < account.slice_target * sum(part.total) then 1 / (sum(part.total) - sum(part.good)) end as share
      from ops.sli_counts as part
      where part.org_id = newest_losses.org_id
        and part.sli_id = account.sli_id
        and part.bucket_start >= greatest(account.since, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'))
        and part.bucket_start
          < least(account.until, date_bin(account.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00') + account.time_slice)
        and not exists (select from excluded where excluded.since <= part.bucket_start and excluded.until > part.bucket_start)
    ) as slice
      on account.time_slice is not null
    where bucket.org_id = newest_losses.org_id
      and bucket.sli_id = account.sli_id
      and bucket.bucket_start >= account.since
      and bucket.bucket_start < account.until
      and bucket.total > bucket.good
      and (account.time_slice is null or slice.share is not null)
      and not exists (select from excluded where excluded.since <= bucket.bucket_start and excluded.until > bucket.bucket_start)
    order by bucket.bucket_start desc
    limit newest_losses.max_events
  ) as newest;
end;
$$;

revoke execute on function
  ops.wider_groups,
  ops.heirs_of_slos,
  ops.continued_slos,
  ops.counted_groups,
  ops.may_contain,
  ops.group_holds
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.wider_groups,
    ops.heirs_of_slos,
    ops.continued_slos,
    ops.counted_groups,
    ops.may_contain,
    ops.group_holds
  from anon, authenticated, service_role;
  grant execute on function
    ops.wider_groups,
    ops.may_contain
  to authenticated, service_role;
end;
$$;
