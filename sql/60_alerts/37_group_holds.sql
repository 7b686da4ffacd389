-- Exclusions and silences of groups beside the keys by which objectives are grouped.

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
