-- Hours, days, weeks and months: where one begins and ends in a time zone.

create function ops.period_start(period text, instant timestamptz, zone text)
returns timestamptz
language sql
stable
set search_path = ''
return case
  -- date_bin is twice as fast as date_trunc with a zone; 1969-12-29 was a Monday.
  when zone = 'UTC' and period = 'hour' then date_bin('1 hour', instant, timestamptz '1969-12-29 00:00+00')
  when zone = 'UTC' and period = 'day' then date_bin('1 day', instant, timestamptz '1969-12-29 00:00+00')
  when zone = 'UTC' and period = 'week' then date_bin('7 days', instant, timestamptz '1969-12-29 00:00+00')
  else date_trunc(period, instant, zone)
end;
comment on function ops.period_start(text, timestamptz, text) is
  'The start of the hour, day, ISO week or month that holds the instant, in the time zone.';

create function ops.period_end(period text, period_start timestamptz, zone text)
returns timestamptz
language sql
stable
set search_path = ''
return case period
  when 'hour' then period_start + interval '1 hour'
  -- From the local date, since a day whose midnight the clocks skip begins at one o'clock.
  else (date_trunc(period, period_start at time zone zone) + ('1 ' || period)::interval) at time zone zone
end;
comment on function ops.period_end(text, timestamptz, text) is
  'The first instant after a period that starts at period_start: a day of 23 or 25 hours ends where the next begins.';
