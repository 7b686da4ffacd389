-- Pauses: a receiver that takes no more for now is given the time it asks for, by every sender.

create table ops.channel_pauses (
  channel_name text not null,
  until timestamptz not null,
  gap interval not null,
  refused integer not null,
  taken integer not null,
  -- Without a foreign key: it would lock the channel after its messages, and whoever removes a channel locks it before them.
  constraint channel_pauses_pkey primary key (channel_name)
);
comment on table ops.channel_pauses is 'One row a channel whose receiver has put a message off: when the channel takes the next one.';
comment on column ops.channel_pauses.channel_name is 'The channel.';
comment on column ops.channel_pauses.until is 'Nothing is sent before this instant.';
comment on column ops.channel_pauses.gap is 'Distance between the begins of two messages; 0: as fast as they are taken.';
comment on column ops.channel_pauses.refused is 'Messages put off in a row, the last one included (count); 0: the last one was taken.';
comment on column ops.channel_pauses.taken is 'Messages taken since one was last put off (count).';
alter table ops.channel_pauses enable row level security;

create function ops.pause_channel(channel_name text, retry_after interval, as_of timestamptz)
returns ops.channel_pauses
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
declare
  before ops.channel_pauses;
  wait interval;
begin
  insert into ops.channel_pauses as pause (channel_name, until, gap, refused, taken)
  values (pause_channel.channel_name, as_of, '0', 0, 0)
  on conflict on constraint channel_pauses_pkey do nothing;
  select pause.* into before
  from ops.channel_pauses as pause
  where pause.channel_name = pause_channel.channel_name
  for update;
  -- At least twice as long each time, since a receiver may name no time, or one too short for several clients.
  wait := greatest(retry_after, least(interval '1 second' * 2 ^ least(before.refused, 20), interval '1 minute'));
  update ops.channel_pauses as pause
  set until = greatest(pause.until, as_of + wait),
      -- One message between two refusals says that the receiver takes one in that time. Without the gap every second
      -- request would be refused, and Slack disables clients that go on so. A tenth more, since not all requests take
      -- equally long to arrive. A longer wait is a quota, not a pace.
      gap = case when before.taken = 1 and wait <= interval '5 seconds' then 1.1 * wait else before.gap end,
      refused = before.refused + 1,
      taken = 0
  where pause.channel_name = pause_channel.channel_name
  returning pause.* into before;
  return before;
end;
$$;
comment on function ops.pause_channel(text, interval, timestamptz) is
  'Notes that the receiver of a channel has put a message off, for retry_after at least; returns the pause. Only settle_delivery calls it.';

create function ops.resume_channel(channel_name text, as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.channel_pauses as pause
  set until = least(pause.until, resume_channel.as_of + pause.gap),
      refused = 0,
      taken = pause.taken + 1
  where pause.channel_name = resume_channel.channel_name;
end;
comment on function ops.resume_channel(text, timestamptz) is
  'Notes that the receiver of a channel has taken a message; nothing where it has put off none. Only settle_delivery calls it.';
