-- The private schema, and the settings that everything else reads.

create schema ops;
comment on schema ops is 'What opskpi keeps for itself; never exposed to an API. Analysts read public.v_ops_*.';

create table ops.settings (
  name text not null,
  value text not null,
  description text not null,
  constraint settings_pkey primary key (name),
  constraint settings_time_zone_is_known check (
    case when name = 'time_zone' then (timestamptz '2000-01-01 00:00+00' at time zone value) is not null else true end
  ),
  constraint settings_intervals_are_sensible check (
    case
      when name in ('refresh_interval', 'job_runs_kept', 'expected_interval') then value::interval > interval '0' and value::interval <= interval '10 years'
      else true
    end
  ),
  constraint settings_requests_per_minute_is_a_number check (
    name not in ('requests_per_minute', 'requests_per_minute_per_key') or (value ~ '^[1-9][0-9]{0,5}$')
  ),
  constraint settings_min_failures_is_a_number check (name <> 'min_failures' or (value ~ '^[1-9][0-9]{0,5}$')),
  constraint settings_anonymous_sign_ins_is_known check (name <> 'anonymous_sign_ins' or value in ('refuse', 'allow'))
);
comment on table ops.settings is 'One row a setting. Change a value with update; a new time_zone also needs opskpi rebuild over all time.';
comment on column ops.settings.name is 'What the setting is called.';
comment on column ops.settings.value is 'Its value as text.';
comment on column ops.settings.description is 'What it means, with its unit.';
alter table ops.settings enable row level security;
-- How the installation is set up is what every call asks, whoever makes it, and tells of no tenant. So it is with the kinds of
-- events and the rules for them.
create policy settings_select_authenticated on ops.settings for select to authenticated using (true);

create function ops.setting(name text)
returns text
-- plpgsql here and below, since it keeps the plan: a quarter of the time that SQL takes, and these are called everywhere.
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select settings.value from ops.settings where settings.name = setting.name);
end;
$$;
comment on function ops.setting(text) is 'The value of a setting; null when there is none of that name.';

create function ops.time_zone()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select settings.value from ops.settings where settings.name = 'time_zone'), 'UTC');
end;
$$;
comment on function ops.time_zone() is 'The time zone in which days, weeks and months begin.';

create function ops.refresh_interval()
returns interval
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select settings.value::interval from ops.settings where settings.name = 'refresh_interval'), interval '5 minutes');
end;
$$;
comment on function ops.refresh_interval() is 'How often the jobs are meant to run.';
