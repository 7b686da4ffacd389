-- Personal data: rules that take it out of events, on the way in or later, and the erasure of one agent.

create function ops.hmac_pads(secret bytea)
returns bytea[]
language sql
immutable
set search_path = ''
return (
  with blocks as (
    -- RFC 2104: a key of more than a block of 64 bytes is hashed first, a shorter one filled up with zeros.
    select encode(keyed.secret || decode(repeat('00', 64 - octet_length(keyed.secret)), 'hex'), 'hex') as block
    from (
      select case when octet_length(hmac_pads.secret) > 64 then sha256(hmac_pads.secret) else hmac_pads.secret end as secret
    ) as keyed
    where keyed.secret is not null
  ),
  -- There is no exclusive or of bytea, but one of numbers of eight bytes.
  words as (
    select place.n, ('x' || substr(blocks.block, 16 * place.n + 1, 16))::bit(64)::bigint as word
    from blocks
    cross join generate_series(0, 7) as place (n)
  )
  select array[
    -- The bytes 36 and 5c, eight times each.
    string_agg(int8send(words.word # 3906369333256140342), ''::bytea order by words.n),
    string_agg(int8send(words.word # 6655295901103053916), ''::bytea order by words.n)
  ]
  from words
  having count(*) > 0
);
comment on function ops.hmac_pads(bytea) is
  'The inner and the outer pad of HMAC (RFC 2104) for a key: made once and used for many messages; null for null.';

create function ops.hmac_sha256(pads bytea[], message bytea)
returns bytea
language sql
immutable
set search_path = ''
return sha256(pads[2] || sha256(pads[1] || message));
comment on function ops.hmac_sha256(bytea[], bytea) is 'HMAC-SHA-256 of a message, by the pads of the key; null without them.';

create function ops.anonymisation_pads()
returns bytea[]
language plpgsql
stable
set search_path = ''
as $$
declare
  secret text := nullif(current_setting('opskpi.anonymisation_key', true), '');
begin
  if char_length(secret) < 16 then
    raise exception 'the anonymisation key has fewer than 16 characters'
      using errcode = case when nullif(current_setting('request.jwt.claims', true), '') is null then 'OP003' else 'PT503' end,
        hint = 'Set OPSKPI_ANONYMISATION_KEY to a long random text, such as openssl rand -hex 32 makes.';
  end if;
  return ops.hmac_pads(convert_to(secret, 'UTF8'));
end;
$$;
comment on function ops.anonymisation_pads() is
  'The pads of the key that the caller set for this transaction (opskpi.anonymisation_key); null without one.';

create function ops.required_pads(pads bytea[])
returns bytea[]
language plpgsql
stable
set search_path = ''
as $$
begin
  if pads is null then
    raise exception 'a rule makes pseudonyms, and there is no anonymisation key'
      -- Whoever sends through an API is to try again: the event must be neither stored as it is nor lost.
      using errcode = case when nullif(current_setting('request.jwt.claims', true), '') is null then 'OP003' else 'PT503' end,
        hint = 'Set OPSKPI_ANONYMISATION_KEY for the jobs and the hub, or switch off the rules whose action is hmac.';
  end if;
  return pads;
end;
$$;
comment on function ops.required_pads(bytea[]) is 'The pads; without any OP003, or for the callers of an API PT503, which senders try again.';

create function ops.sealed_uuid(digest bytea)
returns uuid
language sql
immutable
set search_path = ''
return (
  with heads as (
    select overlay(encode(substr(sealed_uuid.digest, 1, 8), 'hex') placing '8' from 13 for 1) as head
  )
  select (heads.head || '8' || left(encode(sha256('\x6f70736b7069'::bytea || decode(heads.head, 'hex')), 'hex'), 15))::uuid
  from heads
);
comment on function ops.sealed_uuid(bytea) is
  'A UUID (version 8) of 60 bits of a digest and 60 bits that follow from them, by which is_pseudonym knows it; null for null.';

create function ops.is_pseudonym(agent text)
returns boolean
language sql
immutable
set search_path = ''
return coalesce(
  case
    when agent ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then agent::uuid = ops.sealed_uuid(decode(left(replace(agent, '-', ''), 16), 'hex'))
  end,
  false
);
comment on function ops.is_pseudonym(text) is 'Whether a text is a UUID that sealed_uuid made; any other is one by chance once in 10^18.';

create function ops.agent_pseudonym(pads bytea[], org_id uuid, agent text)
returns uuid
language sql
stable
set search_path = ''
return case
  when ops.is_pseudonym(agent) then agent::uuid
  else ops.sealed_uuid(ops.hmac_sha256(pads, convert_to(org_id::text || ' ' || lower(agent), 'UTF8')))
end;
comment on function ops.agent_pseudonym(bytea[], uuid, text) is
  'The pseudonym of an agent of an org; that of a pseudonym is itself; null without the pads of a key.';

create function ops.erased_agent_id(org_id uuid, team text)
returns uuid
language sql
stable
set search_path = ''
return ops.sealed_uuid(sha256(convert_to(format('erased agent of %s %L', org_id, team), 'UTF8')));
comment on function ops.erased_agent_id(uuid, text) is
  'The agent that all erased agents of a team (null: of none) become, so that the labels of their events stay and none can be told from another.';

revoke execute on function
  ops.hmac_pads(bytea),
  ops.hmac_sha256(bytea[], bytea),
  ops.anonymisation_pads(),
  ops.required_pads(bytea[]),
  ops.sealed_uuid(bytea),
  ops.is_pseudonym(text),
  ops.agent_pseudonym(bytea[], uuid, text),
  ops.erased_agent_id(uuid, text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.hmac_pads(bytea),
    ops.hmac_sha256(bytea[], bytea),
    ops.anonymisation_pads(),
    ops.required_pads(bytea[]),
    ops.sealed_uuid(bytea),
    ops.is_pseudonym(text),
    ops.agent_pseudonym(bytea[], uuid, text),
    ops.erased_agent_id(uuid, text)
  from anon, authenticated, service_role;
  -- ingest_events works as its caller, and so do the rules that apply on the way in.
  grant execute on function
    ops.hmac_pads(bytea),
    ops.hmac_sha256(bytea[], bytea),
    ops.anonymisation_pads(),
    ops.required_pads(bytea[]),
    ops.sealed_uuid(bytea),
    ops.is_pseudonym(text),
    ops.agent_pseudonym(bytea[], uuid, text)
  to authenticated, service_role;
end;
$$;

alter table ops.agents
  add column is_pseudonym boolean not null generated always as (ops.is_pseudonym(agent_id::text)) stored;
comment on column ops.agents.is_pseudonym is 'It stands for an agent whose events were anonymised, or for all erased agents of its team.';

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  -- ops is no exposed schema: only the rules that ingest_events applies come here, as its caller.
  grant insert (org_id, agent_id, team) on ops.agents to authenticated, service_role;
  create policy agents_insert_own_org_pseudonyms on ops.agents for insert to authenticated
    with check (org_id = (select ops.current_org_id()) and is_pseudonym);
end;
$$;

create or replace function ops.assign_team(org_id uuid, agent_id uuid, team text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select
    from ops.agents as erased
    where erased.org_id = assign_team.org_id
      and erased.agent_id = assign_team.agent_id
      and erased.agent_id = ops.erased_agent_id(erased.org_id, erased.team)
      and erased.team is distinct from assign_team.team
  ) then
    raise exception 'agent % stands for all erased agents of its team', assign_team.agent_id
      using errcode = 'OP001', hint = 'It stays where it is: their events are counted there.';
  end if;
  insert into ops.agents as agent (org_id, agent_id, team)
  values (assign_team.org_id, assign_team.agent_id, assign_team.team)
  on conflict on constraint agents_pkey do update set
    team = excluded.team,
    updated_at = now()
  where agent.team is distinct from excluded.team;

  update ops.agents as pseudonym
  set team = assign_team.team,
      updated_at = now()
  where pseudonym.org_id = assign_team.org_id
    and pseudonym.agent_id = ops.agent_pseudonym(ops.anonymisation_pads(), assign_team.org_id, assign_team.agent_id::text)
    and pseudonym.team is distinct from assign_team.team;
end;
$$;
comment on function ops.assign_team(uuid, uuid, text) is
  'Puts an agent into a team (null: into none), from the next refresh on, and its pseudonym with it where the anonymisation key is set; opskpi rebuild applies it to the past.';

create or replace function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from public.telemetry_events as event
  where event.id > note_agents.after_id
    and event.id <= note_agents.until_id
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;
comment on function ops.note_agents(bigint, bigint) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

create function ops.anonymisation_pattern(path text, is_whole boolean)
returns text
language sql
immutable
set search_path = ''
return (
  select
    '^'
      || string_agg(
        case step.part[1]
          when '.**' then '(?:\."(?:[^"\\]|\\.)*"|\[\*\])*'
          when '[*]' then '\[\*\]'
          else '\."' || regexp_replace(btrim(substr(step.part[1], 2), '"'), '([][(){}.*+?^$|\\])', '\\\1', 'g') || '"'
        end,
        ''
        order by step.ordinality
      )
      || case when is_whole then '$' else '(?:\."(?:[^"\\]|\\.)*"|\[\*\])*$' end
  from regexp_matches(path, '\.\*\*|\[\*\]|\.[A-Za-z_][A-Za-z0-9_-]*|\."[^"\\]+"', 'g') with ordinality as step (part, ordinality)
);
comment on function ops.anonymisation_pattern(text, boolean) is
  'A rule''s path as a regular expression over places such as ."baseline_entry"."file" or ."files"[*]: of the place itself (is_whole), or of what is below it, too.';

create function ops.anonymisation_place(path text)
returns text
language sql
immutable
set search_path = ''
return (
  select string_agg(
    case when step.part[1] = '[*]' then '[*]' else '."' || btrim(substr(step.part[1], 2), '"') || '"' end,
    ''
    order by step.ordinality
  )
  from regexp_matches(path, '\[\*\]|\.[A-Za-z_][A-Za-z0-9_-]*|\."[^"\\]+"', 'g') with ordinality as step (part, ordinality)
);
comment on function ops.anonymisation_place(text) is 'The one place that a path without .** names, such as ."files"[*].';

create table ops.anonymisation_rules (
  rule_name text not null,
  event_type text not null default '',
  path text not null,
  matching text,
  action text not null,
  on_ingest boolean not null default false,
  is_enabled boolean not null default true,
  pattern text generated always as (ops.anonymisation_pattern(path, action = 'remove' and matching is null)) stored,
  constraint anonymisation_rules_pkey primary key (rule_name),
  constraint anonymisation_rules_rule_name_is_a_short_word check (rule_name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  constraint anonymisation_rules_path_is_understood check (
    char_length(path) <= 500
    and path ~ '^\$(\.\*\*|\[\*\]|\.[A-Za-z_][A-Za-z0-9_-]*|\."[^"\\[:cntrl:]]+")+$'
  ),
  constraint anonymisation_rules_matching_matches_something check (char_length(matching) <= 1000 and '' !~ matching),
  constraint anonymisation_rules_action_check check (action in ('remove', 'hmac', 'generalise')),
  -- The column agent_id goes with it, and the team must be found by what stands there.
  constraint anonymisation_rules_agent_ids_are_hashed_whole check (
    pattern not like '^\\."agent\_id"(%' and pattern <> '^\."agent_id"$' or (path = '$.agent_id' and action = 'hmac' and matching is null)
  )
);
comment on table ops.anonymisation_rules is
  'One row a rule that takes personal data out of the metadata of events. What labels, KPIs and SLOs are counted from stays, whatever a rule says; so do the keys of objects.';
comment on column ops.anonymisation_rules.rule_name is 'Its name; rules apply in the order of their names.';
comment on column ops.anonymisation_rules.event_type is 'Only this kind of event; empty: every kind.';
comment on column ops.anonymisation_rules.path is
  'Where: $.key, $."any key", [*] for the elements of an array, .** for any depth: $.baseline_entry.file, $.**.file, $.files[*]. $.** is everywhere, $.agent_id the agent (and the column).';
comment on column ops.anonymisation_rules.matching is 'A regular expression: only the parts of a text that match are replaced; null: the value as a whole.';
comment on column ops.anonymisation_rules.action is
  'remove (a key that the kind of event requires gets a neutral value); hmac (a pseudonym, the same for the same value of an org); generalise (*.ext for a file, [e-mail], a number to one digit, else *). The last two are done to all values below the place.';
comment on column ops.anonymisation_rules.on_ingest is 'Also applied by ingest_events before an event is stored.';
comment on column ops.anonymisation_rules.is_enabled is 'False: it is not applied.';
comment on column ops.anonymisation_rules.pattern is 'The path as a regular expression over places.';
alter table ops.anonymisation_rules enable row level security;

create table ops.anonymisations (
  anonymisation_id bigint generated always as identity,
  kind text not null,
  before timestamptz,
  only_org_id uuid,
  only_event_type text,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  looked_at bigint not null default 0,
  changed bigint not null default 0,
  counts jsonb not null default '{}',
  constraint anonymisations_pkey primary key (anonymisation_id),
  constraint anonymisations_kind_check check (kind in ('rules', 'erasure'))
);
comment on table ops.anonymisations is 'One row a run that anonymised stored events: what was done, never to whom or to what.';
comment on column ops.anonymisations.anonymisation_id is 'Number of the run.';
comment on column ops.anonymisations.kind is 'rules: applied to events before an instant; erasure: of one agent.';
comment on column ops.anonymisations.before is 'rules: only events before this instant.';
comment on column ops.anonymisations.only_org_id is 'The tenant; null: all.';
comment on column ops.anonymisations.only_event_type is 'Only this kind of event; null: every kind.';
comment on column ops.anonymisations.started_at is 'When it began.';
comment on column ops.anonymisations.finished_at is 'When it was done; null: it runs, or was killed and the next run finishes its work.';
comment on column ops.anonymisations.looked_at is 'Events looked at (count).';
comment on column ops.anonymisations.changed is 'Events changed (count).';
comment on column ops.anonymisations.counts is 'Values changed by rule (count); for an erasure also rows of other tables.';
alter table ops.anonymisations enable row level security;

create type ops.anonymisable as (
  place bigint,
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid
);
comment on type ops.anonymisable is 'An event that rules are applied to; place tells it from the others.';

create type ops.pseudonym as (
  org_id uuid,
  event_type text,
  agent text,
  agent_id uuid,
  pseudonym uuid,
  rule_name text
);
comment on type ops.pseudonym is 'What an agent (its id as text, and as a UUID if it is one) is called instead, in events of a kind (empty: of every kind), and the rule that says so.';

create type ops.anonymisation_report as (
  state text,
  last_id bigint,
  looked_at bigint,
  changed bigint,
  counts jsonb
);
comment on type ops.anonymisation_report is
  'more: call again after last_id; done; busy: a refresh, a rebuild or another job has the lock, nothing was done. Events looked at and changed (count); counts as in ops.anonymisations.';

create function ops.counted_places(event_type text)
returns text[]
language sql
stable
set search_path = ''
return (
  with keys as (
    select unnest(array['outcome', 'duration_ms', 'org_id', 'policy_version']) as key
    union
    select label.key
    from ops.event_types as kind
    cross join unnest(kind.label_keys) as label (key)
    where kind.event_type = counted_places.event_type
      and label.key <> 'team'
    union
    select kind.value_key
    from ops.event_types as kind
    where kind.event_type = counted_places.event_type
      and kind.value_key is not null
    union
    -- One of a few words, and none of these is neutral.
    select field.key
    from ops.event_types as kind
    cross join jsonb_each(kind.fields) as field
    where kind.event_type = counted_places.event_type
      and field.value ? 'one_of'
    union
    select unnest(array['hook_type', 'result'])
    where counted_places.event_type = 'hook_execution'
  )
  select array_agg('.' || to_jsonb(keys.key)::text)
    || case
      when counted_places.event_type = 'hook_execution' then array[
        '."findings_summary"."pattern"',
        '."findings_summary"."patterns"',
        -- The lax path by which patterns are counted looks into an array as well.
        '."findings_summary"[*]."patterns"'
      ]
      else '{}'
    end
  from keys
);
comment on function ops.counted_places(text) is
  'The places in the metadata of a kind of event that no rule may change, since labels, values, patterns, KPIs or SLOs are counted from them.';

create function ops.generalised(raw text)
returns text
language sql
immutable
set search_path = ''
return case
  when raw ~ '^[^[:space:]@]+@[^[:space:]@]+$' then '[e-mail]'
  -- Known endings only: that of anna.smith would be a name.
  else '*' || lower(coalesce(substring(raw from
    '(?i)(\.(?:bash|bat|c|cc|cfg|cjs|clj|conf|cpp|cs|css|csv|dart|env|erl|ex|exs|fs|go|gradle|graphql|h|hpp|hs|htm|html|ini|ipynb|java|jl|js|json|jsonl|jsx|kt|kts|less|lock|log|lua|m|md|mjs|mm|php|pl|properties|proto|ps1|py|pyi|r|rb|rs|rst|scala|scss|sh|sql|svelte|swift|tf|tfvars|toml|ts|tsx|txt|vue|xml|yaml|yml|zig|zsh))$'
  ), ''))
end;
comment on function ops.generalised(text) is '[e-mail] for an address, *.ext for a file whose ending is a common one, else *.';

create function ops.generalised_number(value numeric)
returns numeric
language sql
immutable
set search_path = ''
return case
  when abs(value) < 0.000001 then 0
  when abs(value) >= 1000000000000000 then sign(value) * 1000000000000000
  else trim_scale(round(value, -floor(log(abs(value)))::integer))
end;
comment on function ops.generalised_number(numeric) is 'A number to one significant digit; 10^15 at most, and 0 for less than a millionth.';

create function ops.is_anonymised(raw text)
returns boolean
language sql
immutable
set search_path = ''
return raw = '' or raw ~ '^(?:\[(?:removed|e-mail|\*(?:\.[a-z0-9]+)?)\]|\*(?:\.[a-z0-9]+)?|hmac:[0-9a-f]{32})$';
comment on function ops.is_anonymised(text) is 'Whether a text is what a rule leaves behind, so that no rule changes it again.';

create function ops.hashed(raw text, org_id uuid, pads bytea[])
returns text
language sql
stable
set search_path = ''
return 'hmac:' || left(encode(ops.hmac_sha256(ops.required_pads(pads), convert_to(org_id::text || ' ' || raw, 'UTF8')), 'hex'), 32);
comment on function ops.hashed(text, uuid, bytea[]) is 'hmac: and 32 hexadecimal digits, the same for the same text of an org; refused without the pads of a key.';

create function ops.anonymised_parts(raw text, matching text, action text, org_id uuid, pads bytea[])
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  mark constant text := '(?:\[(?:removed|e-mail|\*(?:\.[a-z0-9]+)?)\]|hmac:[0-9a-f]{32})';
  rest text := raw;
  done text;
  stretch text;
  found text;
  began integer;
  is_changed boolean;
begin
  -- Until nothing matches between the marks, so that a second time changes nothing: what is cut out lets ^, $ and \m match elsewhere.
  loop
    done := '';
    is_changed := false;
    while rest <> '' loop
      began := regexp_instr(rest, mark);
      stretch := case when began = 0 then rest else left(rest, began - 1) end;
      rest := substr(rest, char_length(stretch) + 1);
      loop
        began := regexp_instr(stretch, matching);
        found := substr(stretch, began, regexp_instr(stretch, matching, 1, 1, 1) - began);
        exit when began = 0 or found = '';
        done := done || left(stretch, began - 1) || case action
          when 'remove' then '[removed]'
          when 'hmac' then ops.hashed(found, org_id, pads)
          else '[' || btrim(ops.generalised(found), '[]') || ']'
        end;
        stretch := substr(stretch, began + char_length(found));
        is_changed := true;
      end loop;
      found := coalesce(substring(rest from '^' || mark), '');
      done := done || stretch || found;
      rest := substr(rest, char_length(found) + 1);
    end loop;
    exit when not is_changed;
    rest := done;
  end loop;
  return done;
end;
$$;
comment on function ops.anonymised_parts(text, text, text, uuid, bytea[]) is
  'A text with what matches replaced by [removed], hmac:…, [e-mail], [*.ext] or [*]; these marks are never looked into.';

create function ops.neutral_value(field jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return case
  when (field -> 'required')::boolean then case field ->> 'type'
    when 'uuid' then '"00000000-0000-0000-0000-000000000000"'
    when 'number' then '0'
    when 'boolean' then 'false'
    when 'array' then '[]'
    when 'object' then coalesce(
      (select jsonb_object_agg(wanted.key, '[removed]') from jsonb_array_elements_text(field -> 'keys') as wanted (key)),
      '{}'
    )
    else '"[removed]"'
  end
end;
comment on function ops.neutral_value(jsonb) is
  'What stands in the place of a removed value that a kind of event requires, so that ingest_events takes the event again; null: the key may go.';

create function ops.anonymised_value(
  value jsonb,
  field jsonb,
  rules ops.anonymisation_rules[],
  org_id uuid,
  pads bytea[],
  is_erasure boolean,
  out result jsonb,
  out changed_by text[]
)
language plpgsql
stable
set search_path = ''
as $$
declare
  rule ops.anonymisation_rules;
  action text;
  raw text;
  at_first jsonb;
  earlier jsonb;
begin
  result := value;
  changed_by := '{}';
  -- Until all have nothing left to do: what one rule cuts out of a text may let another match.
  loop
    at_first := result;
    foreach rule in array rules loop
      earlier := result;
      raw := result #>> '{}';
      -- A pseudonym of the erased would still tell them from others.
      action := case when is_erasure and rule.action = 'hmac' then 'remove' else rule.action end;
      if action <> 'remove' and (
        -- What a kind of event wants as a number, a truth value or a UUID cannot be a text instead.
        (action = 'hmac' and jsonb_typeof(result) <> 'string' and field ->> 'type' in ('number', 'boolean'))
        or (action = 'generalise' and field ->> 'type' = 'uuid')
      ) then
        action := 'remove';
      end if;
      result := case
        when jsonb_typeof(result) = 'null' then result
        when rule.matching is not null and jsonb_typeof(result) in ('number', 'boolean') then result
        when rule.matching is not null and jsonb_typeof(result) = 'string' then to_jsonb(ops.anonymised_parts(
          -- A mark is not looked into, and is itself what an erasure is about.
          case when action <> rule.action then regexp_replace(raw, 'hmac:[0-9a-f]{32}', '[removed]', 'g') else raw end,
          rule.matching, action, org_id, pads
        ))
        when action = 'remove' then ops.neutral_value(field)
        -- Nested deeper than ingest_events takes it, and so not looked into.
        when jsonb_typeof(result) in ('object', 'array') then '"[removed]"'
        when action = 'hmac' and field ->> 'type' = 'uuid' then
          case
            when raw = '00000000-0000-0000-0000-000000000000' or ops.is_pseudonym(raw) then result
            else to_jsonb(ops.agent_pseudonym(ops.required_pads(pads), org_id, raw))
          end
        when action = 'hmac' and ops.is_anonymised(raw) then result
        when action = 'hmac' then to_jsonb(ops.hashed(raw, org_id, pads))
        when jsonb_typeof(result) = 'number' then to_jsonb(ops.generalised_number(result::numeric))
        when jsonb_typeof(result) = 'boolean' or ops.is_anonymised(raw) then result
        else to_jsonb(ops.generalised(raw))
      end;
      if rule.matching is not null and field ->> 'type' = 'uuid' and result is distinct from earlier then
        result := ops.neutral_value(field);
      end if;
      if result is distinct from earlier then
        changed_by := changed_by || rule.rule_name;
      end if;
      -- What was taken away, or stands there instead of it, is no matter for another rule.
      if result is null or (action = 'remove' and rule.matching is null) then
        return;
      end if;
    end loop;
    exit when result is not distinct from at_first;
  end loop;
end;
$$;
comment on function ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean) is
  'A value after the rules, in their order, and the names of those that changed it; null: it goes. field is what ops.event_types asks of it.';

create function ops.with_edits(document jsonb, edits jsonb[])
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
  edit jsonb;
  place text[];
begin
  foreach edit in array coalesce(edits, '{}') loop
    place := array(select step.key from jsonb_array_elements_text(edit -> 'path') as step (key));
    document := case
      when cardinality(place) = 0 then edit -> 'value'
      when edit -> 'value' = 'null' then document #- place
      else jsonb_set(document, place, edit -> 'value', false)
    end;
  end loop;
  return document;
end;
$$;
comment on function ops.with_edits(jsonb, jsonb[]) is 'A document with values replaced, or taken away where the new one is null, in the order given.';

create function ops.pseudonyms(events ops.anonymisable[], rules ops.anonymisation_rules[])
returns setof ops.pseudonym
language plpgsql
stable
set search_path = ''
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
  found ops.pseudonym;
begin
  for found in
    -- Each once, since there are many events for each agent and kind of event.
    with ruled as materialized (
      select kind.event_type, rule.rule_name
      from (select distinct event.event_type from unnest(events) as event offset 0) as kind
      cross join lateral (
        select applicable.rule_name
        from unnest(rules) as applicable
        where applicable.path = '$.agent_id'
          and applicable.event_type in ('', kind.event_type)
        order by applicable.rule_name collate "C"
        limit 1
      ) as rule
      where not '."agent_id"' = any (ops.counted_places(kind.event_type))
    ),
    named as materialized (
      select distinct event.org_id, event.event_type, lower(told.agent) as agent
      from unnest(events) as event
      cross join lateral (
        values
          (event.agent_id::text),
          (case when jsonb_typeof(event.metadata) = 'object' then event.metadata ->> 'agent_id' end)
      ) as told (agent)
      where told.agent <> ''
    )
    select
      named.org_id,
      named.event_type,
      named.agent,
      case when named.agent ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then named.agent::uuid end,
      ops.agent_pseudonym(pads, named.org_id, named.agent),
      ruled.rule_name
    from named
    join ruled
      on ruled.event_type = named.event_type
    where not ops.is_pseudonym(named.agent)
  loop
    if found.pseudonym is null then
      perform ops.required_pads(pads);
    end if;
    return next found;
  end loop;
end;
$$;
comment on function ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]) is
  'The agents of events that the rules give a pseudonym, and have none yet; refused without a key when there are any.';

create function ops.add_pseudonyms(pseudonyms ops.pseudonym[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents (org_id, agent_id, team)
  select pair.org_id, pair.pseudonym, max(agent.team)
  from unnest(add_pseudonyms.pseudonyms) as pair
  left join ops.agents as agent
    on agent.org_id = pair.org_id
    and agent.agent_id = pair.agent_id
  where not exists (
    select
    from ops.agents as known
    where known.org_id = pair.org_id
      and known.agent_id = pair.pseudonym
  )
  group by 1, 2
  -- In one order, so that two batches of the same agents wait for each other and never both.
  order by 1, 2
  on conflict on constraint agents_pkey do nothing;
end;
comment on function ops.add_pseudonyms(ops.pseudonym[]) is 'Puts new pseudonyms into the teams of their agents, so that the labels of events stay what they were.';

create function ops.anonymised_events(
  events ops.anonymisable[],
  rules ops.anonymisation_rules[],
  pseudonyms ops.pseudonym[],
  is_erasure boolean default false
)
returns table (
  place bigint,
  org_id uuid,
  event_timestamp timestamptz,
  event_id uuid,
  agent_id uuid,
  metadata jsonb,
  changed_by text[]
)
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
begin
  return query
  with recursive nodes as (
    select event.place, event.event_type, event.org_id, '{}'::text[] as path, '' as shape, '{}'::bigint[] as ordinals, event.metadata as value
    from unnest(events) as event
    where event.metadata is not null
      -- Agents need no look into the rest.
      and exists (select from unnest(rules) as rule where rule.path <> '$.agent_id')
    union all
    select node.place, node.event_type, node.org_id, node.path || below.key, node.shape || below.step, node.ordinals || below.ordinality, below.value
    from nodes as node
    cross join lateral (
      select member.key, '.' || to_jsonb(member.key)::text as step, member.ordinality, member.value
      from jsonb_each(case when jsonb_typeof(node.value) = 'object' then node.value end) with ordinality as member
      union all
      select (element.ordinality - 1)::text, '[*]', element.ordinality, element.value
      from jsonb_array_elements(case when jsonb_typeof(node.value) = 'array' then node.value end) with ordinality as element
    ) as below
    where cardinality(node.path) < 64
  ),
  -- Rules are looked up once a place and kind of event, of which there are few, and not once a value.
  shapes as (
    select distinct
      node.event_type,
      node.shape,
      jsonb_typeof(node.value) in ('object', 'array') as is_container,
      cardinality(node.path) = 64 as is_deepest
    from nodes as node
  ),
  kinds as materialized (
    select
      named.event_type,
      -- The agent has a pseudonym or nothing; what is left of one that is erased goes with the rest.
      ops.counted_places(named.event_type) || case when is_erasure then '{}'::text[] else array['."agent_id"'] end as kept,
      kind.fields
    from (select distinct event.event_type from unnest(events) as event offset 0) as named
    left join ops.event_types as kind
      on kind.event_type = named.event_type
  ),
  hits as materialized (
    select
      shape.event_type,
      shape.shape,
      shape.is_container,
      case when shape.shape = '' then '{"type": "object", "required": true}'::jsonb else asked.field end as field,
      array_agg(rule order by rule.rule_name collate "C") as rules
    from shapes as shape
    join kinds
      on kinds.event_type = shape.event_type
    join unnest(rules) as rule
      on rule.event_type in ('', shape.event_type)
      and rule.path <> '$.agent_id'
      and shape.shape ~ rule.pattern
      and (not shape.is_container or shape.is_deepest or (rule.action = 'remove' and rule.matching is null))
    left join lateral (
      select field.value as field
      from jsonb_each(kinds.fields) as field
      where '.' || to_jsonb(field.key)::text = shape.shape
      union all
      select '{"type": "text", "required": true}'
      from jsonb_each(kinds.fields) as field
      cross join jsonb_array_elements_text(field.value -> 'keys') as wanted (key)
      where '.' || to_jsonb(field.key)::text || '.' || to_jsonb(wanted.key)::text = shape.shape
      limit 1
    ) as asked on true
    where not exists (
      select
      from unnest(kinds.kept) as kept (shape)
      where shape.shape = kept.shape
        or starts_with(shape.shape, kept.shape || '.')
        or starts_with(shape.shape, kept.shape || '[')
        or (shape.is_container and (starts_with(kept.shape, shape.shape || '.') or starts_with(kept.shape, shape.shape || '[')))
    )
    group by 1, 2, 3, 4
  ),
  edits as (
    select node.place, node.path, node.ordinals, changed.result, changed.changed_by
    from nodes as node
    join hits
      on hits.event_type = node.event_type
      and hits.shape = node.shape
      and hits.is_container = (jsonb_typeof(node.value) in ('object', 'array'))
    cross join lateral ops.anonymised_value(node.value, hits.field, hits.rules, node.org_id, pads, is_erasure) as changed
    where cardinality(changed.changed_by) > 0
  ),
  edited as (
    select
      edit.place,
      -- From the end and the inside, so that a place means the same when its turn comes.
      array_agg(jsonb_build_object('path', edit.path, 'value', edit.result) order by edit.ordinals desc) as edits,
      string_agg(array_to_string(edit.changed_by, ','), ',') as changed_by
    from edits as edit
    group by 1
  )
  select
    event.place,
    event.org_id,
    event.event_timestamp,
    event.event_id,
    coalesce(own.pseudonym, event.agent_id),
    case
      when told.pseudonym is not null
        then jsonb_set(ops.with_edits(event.metadata, edited.edits), '{agent_id}', to_jsonb(told.pseudonym))
      else ops.with_edits(event.metadata, edited.edits)
    end,
    string_to_array(concat_ws(',', edited.changed_by, coalesce(own.rule_name, told.rule_name)), ',')
  from unnest(events) as event
  left join edited
    on edited.place = event.place
  left join unnest(pseudonyms) as own
    on own.org_id = event.org_id
    and own.agent_id = event.agent_id
    and own.event_type in ('', event.event_type)
  left join unnest(pseudonyms) as told
    on told.org_id = event.org_id
    and told.agent = lower(case when jsonb_typeof(event.metadata) = 'object' then event.metadata ->> 'agent_id' end)
    and told.event_type in ('', event.event_type)
  where edited.place is not null
    or own.pseudonym is not null
    or told.pseudonym is not null;
end;
$$;
comment on function ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean) is
  'Those of the events that the rules or the pseudonyms change, as they are then, with the rule of each value that changed. A second time it has no row. In an erasure what would be hashed is removed.';

create function ops.anonymise_incoming(events ops.anonymisable[])
returns setof ops.anonymisable
language plpgsql
volatile
set search_path = ''
as $$
declare
  rules ops.anonymisation_rules[] := array(
    select rule from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled
  );
  pseudonyms ops.pseudonym[] := array(select pair from ops.pseudonyms(events, rules) as pair);
begin
  perform ops.add_pseudonyms(pseudonyms);
  return query
  select
    event.place,
    event.event_type,
    event.event_timestamp,
    event.run_id,
    event.tag,
    case when anonymised.place is null then event.metadata else anonymised.metadata end,
    event.event_id,
    event.org_id,
    case when anonymised.place is null then event.agent_id else anonymised.agent_id end
  from unnest(events) as event
  left join ops.anonymised_events(events, rules, pseudonyms) as anonymised
    on anonymised.place = event.place;
end;
$$;
comment on function ops.anonymise_incoming(ops.anonymisable[]) is
  'The events after the rules that apply on the way in; only ingest_events comes here. The same event has the same key again, so that it is a duplicate.';

create function ops.cast_anonymised(documents jsonb)
returns setof ops.anonymisable
language sql
volatile
set search_path = ''
begin atomic
  select anonymised.*
  from ops.anonymise_incoming(array(
    select row(
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from ops.cast_events(cast_anonymised.documents) as event
  )) as anonymised;
end;
comment on function ops.cast_anonymised(jsonb) is 'What cast_events gives, after the rules that apply on the way in.';

create function ops.check_anonymised(documents jsonb)
returns table (
  place bigint,
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid,
  refusal text[]
)
language sql
volatile
set search_path = ''
begin atomic
  with checked as materialized (
    select event.* from ops.check_events(check_anonymised.documents) as event
  )
  select
    anonymised.place, anonymised.event_type, anonymised.event_timestamp, anonymised.run_id, anonymised.tag, anonymised.metadata,
    anonymised.event_id, anonymised.org_id, anonymised.agent_id, null
  from ops.anonymise_incoming(array(
    select row(
      checked.place, checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id,
      checked.agent_id
    )::ops.anonymisable
    from checked
    where checked.refusal is null
  )) as anonymised
  union all
  select
    checked.place, checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id,
    checked.agent_id, checked.refusal
  from checked
  where checked.refusal is not null;
end;
comment on function ops.check_anonymised(jsonb) is 'What check_events gives, what is not refused after the rules that apply on the way in.';

create function ops.anonymous_senders(org_id uuid, agent_ids uuid[])
returns uuid[]
language sql
stable
set search_path = ''
return (
  select array_agg(distinct coalesce(
    case
      when exists (
        select from ops.anonymisation_rules as rule where rule.path = '$.agent_id' and rule.on_ingest and rule.is_enabled
      ) then ops.agent_pseudonym(ops.anonymisation_pads(), anonymous_senders.org_id, agent.agent_id::text)
    end,
    agent.agent_id
  ))
  from unnest(anonymous_senders.agent_ids) as agent (agent_id)
);
comment on function ops.anonymous_senders(uuid, uuid[]) is
  'The senders of a batch as their requests are counted: by pseudonym, where agents get one on the way in.';

create function ops.begin_anonymisation(
  kind text,
  before timestamptz default null,
  only_org_id uuid default null,
  only_event_type text default null
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.anonymisations as run (kind, before, only_org_id, only_event_type)
  values (kind, before, only_org_id, only_event_type)
  returning run.anonymisation_id;
end;
comment on function ops.begin_anonymisation(text, timestamptz, uuid, text) is 'Notes that a run begins; returns its number, which its batches are called with.';

create function ops.added_counts(counts jsonb, more jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  select coalesce(jsonb_object_agg(summed.name, summed.changed), '{}')
  from (
    select part.key as name, sum(part.value::numeric) as changed
    from (
      select listed.key, listed.value from jsonb_each(added_counts.counts) as listed
      union all
      select listed.key, listed.value from jsonb_each(added_counts.more) as listed
    ) as part
    group by 1
  ) as summed
);
comment on function ops.added_counts(jsonb, jsonb) is 'Two objects of numbers, added key by key.';

create function ops.note_anonymisation(anonymisation_id bigint, report ops.anonymisation_report)
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.anonymisations as run
  set looked_at = run.looked_at + note_anonymisation.report.looked_at,
      changed = run.changed + note_anonymisation.report.changed,
      counts = ops.added_counts(run.counts, note_anonymisation.report.counts),
      finished_at = case when note_anonymisation.report.state = 'done' then clock_timestamp() end
  where run.anonymisation_id = note_anonymisation.anonymisation_id;
end;
comment on function ops.note_anonymisation(bigint, ops.anonymisation_report) is 'Adds a batch to the log of its run, in the transaction of the batch.';

create function ops.write_anonymised(
  events ops.anonymisable[],
  rules ops.anonymisation_rules[],
  pseudonyms ops.pseudonym[],
  is_erasure boolean,
  dry_run boolean,
  out changed bigint,
  out counts jsonb
)
language plpgsql
volatile
set search_path = ''
-- A plan for the partitions between the two instants, and no others.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  since timestamptz := (select min(event.event_timestamp) from unnest(events) as event);
  until timestamptz := (select max(event.event_timestamp) from unnest(events) as event);
begin
  with anonymised as materialized (
    select event.* from ops.anonymised_events(events, rules, pseudonyms, is_erasure) as event
  ),
  written as (
    update public.telemetry_events as stored
    set agent_id = anonymised.agent_id,
        metadata = anonymised.metadata
    from anonymised
    where not dry_run
      and stored.org_id = anonymised.org_id
      and stored.event_timestamp = anonymised.event_timestamp
      and stored.event_id = anonymised.event_id
      and stored.event_timestamp >= since
      and stored.event_timestamp <= until
  ),
  counted as (
    select rule.rule_name, count(*) as changed
    from anonymised
    cross join unnest(anonymised.changed_by) as rule (rule_name)
    group by 1
  )
  select
    (select count(*) from anonymised),
    coalesce((select jsonb_object_agg(counted.rule_name, counted.changed) from counted), '{}')
  into changed, counts;
end;
$$;
comment on function ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean) is
  'Writes over stored events what the rules and pseudonyms make of them: id, event_id and time stay, so that none is counted again. Returns events changed and values by rule.';

create function ops.anonymise_events(
  before timestamptz,
  only_org_id uuid default null,
  only_event_type text default null,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  anonymisation_id bigint default null
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled);
  pseudonyms ops.pseudonym[];
  events ops.anonymisable[];
begin
  if (before between timestamptz '1970-01-01 00:00+00' and timestamptz '2200-01-01 00:00+00' and max_events >= 1) is not true then
    raise exception 'what to anonymise is not said: before %, max_events %', before, max_events
      using errcode = 'OP001', hint = 'Pass an instant between 1970 and 2200, and a batch of 1 or more.';
  end if;
  if only_event_type is not null and after_id = 0 then
    perform ops.require_rule_for('events', only_event_type);
  end if;
  -- Nothing is counted, rebuilt or deleted meanwhile, so that what is counted now is what was read.
  if not dry_run and not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    return report;
  end if;
  report.last_id := ops.last_to_anonymise(after_id, ops.cursor_id(), before, max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  events := array(
    select row(
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, ops.cursor_id())
      and event.event_timestamp < before
      and (only_org_id is null or event.org_id = only_org_id)
      and (only_event_type is null or event.event_type = only_event_type)
  );
  pseudonyms := array(select pair from ops.pseudonyms(events, rules) as pair);
  if not dry_run then
    perform ops.add_pseudonyms(pseudonyms);
    perform ops.follow_teams(pseudonyms);
  end if;
  report.looked_at := cardinality(events);
  select written.changed, written.counts
  into report.changed, report.counts
  from ops.write_anonymised(events, rules, pseudonyms, false, dry_run) as written;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint) is
  'Applies the rules to one batch of counted events before an instant, in the order of their ids; call it again after last_id until it is done. With dry_run it only counts. Applied twice it changes nothing, so a run that was killed is finished by the next.';

create function ops.last_to_anonymise(after_id bigint, until_id bigint, before timestamptz, max_events integer)
returns bigint
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (
    select event.id
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp < before
    order by event.id
    offset max_events - 1
    limit 1
  );
end;
$$;
comment on function ops.last_to_anonymise(bigint, bigint, timestamptz, integer) is 'The id that ends a batch of so many events; null when fewer are left.';

create function ops.follow_teams(pseudonyms ops.pseudonym[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.agents as pseudonym
  set team = agent.team,
      updated_at = now()
  from unnest(follow_teams.pseudonyms) as pair
  join ops.agents as agent
    on agent.org_id = pair.org_id
    and agent.agent_id = pair.agent_id
  where pseudonym.org_id = pair.org_id
    and pseudonym.agent_id = pair.pseudonym
    and pseudonym.team is distinct from agent.team;
end;
comment on function ops.follow_teams(ops.pseudonym[]) is 'Puts pseudonyms into the teams that their agents are in now: one may have moved while no key was set.';

create function ops.erase_agent(
  org_id uuid,
  agent_id uuid,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  without_key boolean default false,
  anonymisation_id bigint default null
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  pseudonyms ops.pseudonym[] := array(select pair from ops.erased_pseudonyms(erase_agent.org_id, erase_agent.agent_id, without_key) as pair);
  mention text := (select string_agg(pair.agent, '|') from unnest(pseudonyms) as pair);
  -- Wherever else it is written, in values and in keys.
  traces ops.anonymisation_rules[] := array[
    row('erased-agent', '', '$.**', mention, 'remove', false, true, ops.anonymisation_pattern('$.**', false)),
    row('erased-agent', '', '$.**', null, 'remove', false, true, '(?i)^.*"[^"]*(?:' || mention || ')[^"]*"$')
  ]::ops.anonymisation_rules[];
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled) || traces;
  own ops.anonymisable[];
  others ops.anonymisable[];
  written record;
  written_to_others record;
begin
  if max_events is null or max_events < 1 then
    raise exception 'a batch of % events would never end', max_events
      using errcode = 'OP001', hint = 'Pass max_events of 1 or more.';
  end if;
  if not dry_run and not (
    pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) and pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))
  ) then
    report.state := 'busy';
    return report;
  end if;
  -- Those that are not counted yet, too: nothing is counted meanwhile, and then they count for the same team.
  report.last_id := ops.last_to_anonymise(after_id, 9223372036854775807, 'infinity', max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  select
    array_agg(named.event) filter (where named.is_own),
    array_agg(named.event) filter (where not named.is_own)
  into own, others
  from (
    select
      row(
        row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id,
        event.agent_id
      )::ops.anonymisable as event,
      coalesce(event.agent_id::text ~ mention, false) or coalesce(event.metadata ->> 'agent_id' ~* mention, false) as is_own
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, 9223372036854775807)
      and event.org_id = erase_agent.org_id
      and (event.agent_id::text ~ mention or event.metadata::text ~* mention)
  ) as named;
  if not dry_run and own is not null then
    perform ops.add_pseudonyms(pseudonyms);
  end if;
  select * into written from ops.write_anonymised(coalesce(own, '{}'), rules, pseudonyms, true, dry_run);
  select * into written_to_others from ops.write_anonymised(coalesce(others, '{}'), traces, '{}', true, dry_run);
  report.looked_at := coalesce(cardinality(own), 0) + coalesce(cardinality(others), 0);
  report.changed := written.changed + written_to_others.changed;
  report.counts := ops.added_counts(written.counts, written_to_others.counts);
  if report.state = 'done' then
    report.counts := ops.added_counts(report.counts, ops.forget_agent(pseudonyms, dry_run));
  end if;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint) is
  'Turns one batch of the events of an agent, and of its pseudonym, into those of the erased agent of its team and applies all rules to them; call it again after last_id until it is done, when the agent is taken out of every other table. Events that were not committed by then are for another run.';

create function ops.erased_pseudonyms(org_id uuid, agent_id uuid, without_key boolean)
returns setof ops.pseudonym
language plpgsql
stable
set search_path = ''
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
begin
  if erased_pseudonyms.org_id is null or erased_pseudonyms.agent_id is null then
    raise exception 'an agent is erased by its org and its id'
      using errcode = 'OP001', hint = 'Pass both.';
  end if;
  if exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = erased_pseudonyms.agent_id
      and agent.agent_id = ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'that is what the erased agents of a team are called'
      using errcode = 'OP001', hint = 'Nobody can be told from another by it; there is nothing to erase.';
  end if;
  if pads is null and not without_key and not ops.is_pseudonym(erased_pseudonyms.agent_id::text) and exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.is_pseudonym
      and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'the organisation has pseudonyms, and which of them is this agent''s cannot be said without the anonymisation key'
      using errcode = 'OP003', hint = 'Set OPSKPI_ANONYMISATION_KEY; if the key is gone for good, pass --without-key.';
  end if;
  if exists (
    select
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
    where series.org_id = erased_pseudonyms.org_id
      and series.labels::text ~* concat_ws('|', erased_pseudonyms.agent_id, ops.agent_pseudonym(pads, erased_pseudonyms.org_id, erased_pseudonyms.agent_id::text))
  ) then
    raise exception 'the agent is a label, so what was counted names it'
      using errcode = 'OP001', hint = 'Take that key out of label_keys in ops.event_types, run opskpi rebuild over all time, and erase it then.';
  end if;
  return query
  with names as (
    select name.agent_id, agent.agent_id is not null as is_known, agent.team
    from (
      select erased_pseudonyms.agent_id
      union
      select ops.agent_pseudonym(pads, erased_pseudonyms.org_id, erased_pseudonyms.agent_id::text)
    ) as name
    left join ops.agents as agent
      on agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = name.agent_id
    where name.agent_id is not null
  )
  select
    erased_pseudonyms.org_id,
    '',
    names.agent_id::text,
    names.agent_id,
    ops.erased_agent_id(
      erased_pseudonyms.org_id,
      -- With rules on the way in only the pseudonym may have a row, and without any only the agent.
      case when names.is_known then names.team else (select max(known.team) from names as known) end
    ),
    'erased-agent'
  from names
  order by names.agent_id <> erased_pseudonyms.agent_id;
end;
$$;
comment on function ops.erased_pseudonyms(uuid, uuid, boolean) is
  'What an agent, and its pseudonym where the key is set, are called when they are erased; refused where that would be half of it.';

create function ops.forget_agent(pseudonyms ops.pseudonym[], dry_run boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  mention constant text := (select string_agg(pair.agent, '|') from unnest(pseudonyms) as pair);
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  counts jsonb;
begin
  select jsonb_object_agg(found.name, found.rows)
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
    union all
    select 'ops.alerts', count(*)
    from ops.alerts as alert
    where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.service, alert.description, alert.detail) ~* mention
    union all
    select 'ops.alert_deliveries', count(*)
    from ops.alert_deliveries as delivery
    where delivery.org_id = owner_id and concat_ws(' ', delivery.group_key, delivery.message, delivery.last_error) ~* mention
    union all
    select 'ops.alert_silences', count(*)
    from ops.alert_silences as silence
    where coalesce(silence.only_org_id, owner_id) = owner_id and concat_ws(' ', silence.matcher, silence.reason) ~* mention
    union all
    select 'ops.job_runs', count(*)
    from ops.job_runs as run
    where run.message ~* mention
    union all
    select 'ops.series', count(*)
    from ops.series
    where series.org_id = owner_id and series.labels::text ~* mention
  ) as found
  where found.rows > 0;
  if dry_run or counts is null then
    return coalesce(counts, '{}');
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and alert.subject ~* mention;
  update ops.alerts as alert
  set state = case when alert.subject ~* mention then 'resolved' else alert.state end,
      -- Nothing asks about it any more.
      resolved_at = case when alert.subject ~* mention then coalesce(alert.resolved_at, greatest(alert.evaluated_at, now())) else alert.resolved_at end,
      subject = regexp_replace(alert.subject, mention, erased, 'gi'),
      service = regexp_replace(alert.service, mention, erased, 'gi'),
      description = regexp_replace(alert.description, mention, erased, 'gi'),
      detail = regexp_replace(alert.detail::text, mention, erased, 'gi')::jsonb
  where alert.org_id = owner_id and concat_ws(' ', alert.subject, alert.service, alert.description, alert.detail) ~* mention;
  update ops.alert_deliveries as delivery
  set message = regexp_replace(delivery.message::text, mention, erased, 'gi')::jsonb,
      group_key = regexp_replace(delivery.group_key, mention, erased, 'gi'),
      last_error = regexp_replace(delivery.last_error, mention, erased, 'gi')
  where delivery.org_id = owner_id and concat_ws(' ', delivery.group_key, delivery.message, delivery.last_error) ~* mention;
  update ops.alert_silences as silence
  set matcher = regexp_replace(silence.matcher, mention, erased, 'gi'),
      reason = regexp_replace(silence.reason, mention, erased, 'gi')
  where coalesce(silence.only_org_id, owner_id) = owner_id and concat_ws(' ', silence.matcher, silence.reason) ~* mention;
  update ops.job_runs as run set message = regexp_replace(run.message, mention, erased, 'gi') where run.message ~* mention;
  -- Of labels that were rebuilt away; erased_pseudonyms has refused all others.
  delete from ops.series where series.org_id = owner_id and series.labels::text ~* mention;
  return counts;
end;
$$;
comment on function ops.forget_agent(ops.pseudonym[], boolean) is
  'Takes an agent and its pseudonym out of every table but the events; returns the rows by table. Its open alerts are over. Only erase_agent calls it.';

create function ops.set_anonymisation_rule(
  rule_name text,
  path text,
  action text,
  event_type text default '',
  matching text default null,
  on_ingest boolean default false,
  is_enabled boolean default true
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  counting text;
begin
  if coalesce(set_anonymisation_rule.event_type, '') <> '' then
    perform ops.require_rule_for('events', set_anonymisation_rule.event_type);
  end if;
  begin
    insert into ops.anonymisation_rules as rule (rule_name, event_type, path, matching, action, on_ingest, is_enabled)
    values (
      set_anonymisation_rule.rule_name, coalesce(set_anonymisation_rule.event_type, ''), set_anonymisation_rule.path, set_anonymisation_rule.matching,
      set_anonymisation_rule.action, set_anonymisation_rule.on_ingest, set_anonymisation_rule.is_enabled
    )
    on conflict on constraint anonymisation_rules_pkey do update set
      event_type = excluded.event_type,
      path = excluded.path,
      matching = excluded.matching,
      action = excluded.action,
      on_ingest = excluded.on_ingest,
      is_enabled = excluded.is_enabled;
  exception
    when check_violation or not_null_violation or invalid_regular_expression then
      raise exception 'the rule cannot be: %', sqlerrm
        using errcode = 'OP001',
          hint = 'A name is a short word; a path is $.key, $."any key", [*] and .**, such as $.**.file or $.files[*]; matching is a regular expression that does not match nothing; $.agent_id is hashed as a whole.';
  end;
  if position('.**' in path) = 0 and path <> '$.agent_id' then
    select kind.event_type
    into counting
    from ops.event_types as kind
    cross join lateral unnest(ops.counted_places(kind.event_type)) as kept (place)
    cross join (select ops.anonymisation_place(set_anonymisation_rule.path) as place) as named
    where coalesce(set_anonymisation_rule.event_type, '') in ('', kind.event_type)
      and (
        named.place = kept.place
        or starts_with(named.place, kept.place || '.')
        or starts_with(named.place, kept.place || '[')
        or starts_with(kept.place, named.place || '.')
        or starts_with(kept.place, named.place || '[')
      )
    order by kind.event_type
    limit 1;
    if counting is not null then
      raise exception 'what % names is counted in events of type %', path, counting
        using errcode = 'OP001', hint = 'Labels, values and what SLOs count stay as they are. Name a place below or beside it, or another event type.';
    end if;
  end if;
end;
$$;
comment on function ops.set_anonymisation_rule(text, text, text, text, text, boolean, boolean) is
  'Adds a rule or changes it whole. Refuses one whose path, without .**, names what counts or holds it; a rule with .** leaves such places out.';

create function ops.remove_anonymisation_rule(rule_name text)
returns boolean
language sql
volatile
set search_path = ''
begin atomic
  with removed as (
    delete from ops.anonymisation_rules as rule
    where rule.rule_name = remove_anonymisation_rule.rule_name
    returning 1
  )
  select exists (select from removed);
end;
comment on function ops.remove_anonymisation_rule(text) is 'Takes a rule away; false: there is none of that name.';

revoke execute on function
  ops.anonymisation_pattern(text, boolean),
  ops.anonymisation_place(text),
  ops.counted_places(text),
  ops.generalised(text),
  ops.generalised_number(numeric),
  ops.is_anonymised(text),
  ops.hashed(text, uuid, bytea[]),
  ops.anonymised_parts(text, text, text, uuid, bytea[]),
  ops.neutral_value(jsonb),
  ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean),
  ops.with_edits(jsonb, jsonb[]),
  ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
  ops.add_pseudonyms(ops.pseudonym[]),
  ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
  ops.anonymise_incoming(ops.anonymisable[]),
  ops.cast_anonymised(jsonb),
  ops.check_anonymised(jsonb),
  ops.anonymous_senders(uuid, uuid[]),
  ops.begin_anonymisation(text, timestamptz, uuid, text),
  ops.added_counts(jsonb, jsonb),
  ops.note_anonymisation(bigint, ops.anonymisation_report),
  ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean),
  ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint),
  ops.last_to_anonymise(bigint, bigint, timestamptz, integer),
  ops.follow_teams(ops.pseudonym[]),
  ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint),
  ops.erased_pseudonyms(uuid, uuid, boolean),
  ops.forget_agent(ops.pseudonym[], boolean),
  ops.set_anonymisation_rule(text, text, text, text, text, boolean, boolean),
  ops.remove_anonymisation_rule(text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.anonymisation_rules, ops.anonymisations from anon, authenticated, service_role;
  -- What is taken out is no secret, and ingest_events reads it as its caller.
  grant select on ops.anonymisation_rules to authenticated, service_role;
  grant select on ops.anonymisations to service_role;
  create policy anonymisation_rules_select_authenticated on ops.anonymisation_rules for select to authenticated using (true);
  revoke execute on function
    ops.anonymisation_pattern(text, boolean),
    ops.anonymisation_place(text),
    ops.counted_places(text),
    ops.generalised(text),
    ops.generalised_number(numeric),
    ops.is_anonymised(text),
    ops.hashed(text, uuid, bytea[]),
    ops.anonymised_parts(text, text, text, uuid, bytea[]),
    ops.neutral_value(jsonb),
    ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean),
    ops.with_edits(jsonb, jsonb[]),
    ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
    ops.add_pseudonyms(ops.pseudonym[]),
    ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
    ops.anonymise_incoming(ops.anonymisable[]),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb),
    ops.anonymous_senders(uuid, uuid[]),
    ops.begin_anonymisation(text, timestamptz, uuid, text),
    ops.added_counts(jsonb, jsonb),
    ops.note_anonymisation(bigint, ops.anonymisation_report),
    ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean),
    ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint),
    ops.last_to_anonymise(bigint, bigint, timestamptz, integer),
    ops.follow_teams(ops.pseudonym[]),
    ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint),
    ops.erased_pseudonyms(uuid, uuid, boolean),
    ops.forget_agent(ops.pseudonym[], boolean),
    ops.set_anonymisation_rule(text, text, text, text, text, boolean, boolean),
    ops.remove_anonymisation_rule(text)
  from anon, authenticated, service_role;
  grant execute on function
    ops.counted_places(text),
    ops.generalised(text),
    ops.generalised_number(numeric),
    ops.is_anonymised(text),
    ops.hashed(text, uuid, bytea[]),
    ops.anonymised_parts(text, text, text, uuid, bytea[]),
    ops.neutral_value(jsonb),
    ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean),
    ops.with_edits(jsonb, jsonb[]),
    ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
    ops.add_pseudonyms(ops.pseudonym[]),
    ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
    ops.anonymise_incoming(ops.anonymisable[]),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb),
    ops.anonymous_senders(uuid, uuid[])
  to authenticated, service_role;
end;
$$;

create or replace function public.ingest_events(events json)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  caller record;
  skips_known boolean;
  anonymises boolean := exists (select from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled);
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  unreadable_places bigint[];
  answer jsonb;
  announced jsonb := '{}'::jsonb;
begin
  if events is null or json_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "payload": {…}}, …].';
  end if;
  if current_setting('transaction_isolation') <> 'read committed'
    and exists (select from ops.retention_rules as rule where rule.kept = 'events' and rule.age is not null) then
    raise exception 'ingest_events needs read committed where events have an age, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'An older snapshot does not know which events are gone, and would count a repeated one again.';
  end if;
  select * into strict caller from ops.ingesting_caller();
  if caller.is_bound then
    -- Whoever comes through an API is counted before anything is done for the call, and cannot ask for too much at once.
    if json_array_length(events) > 5000 then
      raise exception 'a batch of % events is too large', json_array_length(events)
        using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
    end if;
    if not ops.caller_has_scope('ingest') then
      raise exception 'storing events needs the scope ingest'
        using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
    end if;
    if caller.org_id is not null then
      perform ops.count_request(
        caller.org_id,
        case when anonymises then ops.anonymous_senders(caller.org_id, ops.senders(events)) else ops.senders(events) end
      );
      announced := jsonb_build_object('policy_version', ops.policy_version(caller.org_id));
    end if;
  end if;
  begin
    document := events::jsonb;
  exception
    when data_exception or program_limit_exceeded then
      select readable.document, readable.reasons into document, unreadable from ops.readable_events(events) as readable;
  end;
  -- Nearly every batch is new and valid as a whole. Looking for repeated events costs a tenth more, finding out what is wrong ten times as much.
  foreach skips_known in array array[false, true] loop
    exit when unreadable <> '[]';
    begin
      if anonymises then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.cast_anonymised(document) as event
        on conflict on constraint telemetry_events_pkey do nothing;
      elsif skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document)
        on conflict on constraint telemetry_events_pkey do nothing;
      else
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select * from ops.cast_events(document);
      end if;
      get diagnostics accepted = row_count;
      return jsonb_build_object('accepted', accepted, 'duplicate', jsonb_array_length(document) - accepted, 'refused', '[]'::jsonb)
        || announced;
    exception
      when unique_violation then
        continue;
      when data_exception or program_limit_exceeded then
        exit;
    end;
  end loop;
  unreadable_places := array(select (fault.value -> 'index')::bigint from jsonb_array_elements(unreadable) as fault);
  with checked as materialized (
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_events(document) as event
    where not anonymises
    union all
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_anonymised(document) as event
    where anonymises
  ),
  stored as (
    insert into public.telemetry_events (
      event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id
    )
    select
      checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id, checked.agent_id
    from checked
    where checked.refusal is null
    on conflict on constraint telemetry_events_pkey do nothing
    returning 1
  ),
  counted as (
    select
      (select count(*) from stored) as accepted,
      count(*) filter (where checked.refusal is null) as valid,
      jsonb_agg(
        jsonb_build_object('index', checked.place, 'field', checked.refusal[1], 'reason', checked.refusal[2])
        order by checked.place
      ) filter (where checked.refusal is not null and checked.place <> all (unreadable_places)) as refused
    from checked
  )
  select jsonb_build_object(
    'accepted', counted.accepted,
    'duplicate', counted.valid - counted.accepted,
    'refused', unreadable || coalesce(counted.refused, '[]')
  )
  into answer
  from counted;
  return answer || announced;
end;
$$;
comment on function public.ingest_events(json) is
  'Stores a JSON array of events. Returns {"accepted": n, "duplicate": n, "refused": [{"index", "field", "reason"}]}; index counts from 0. Valid events are stored whatever the others are; a repeated event (org, event_id, time) counts as duplicate. A caller whom RLS binds is also told the "policy_version" of its hooks, and is held to the requests a minute of the settings.';

-- What hooks, CI and their users are known to write down; a rule that a user has changed stays as it is.
insert into ops.anonymisation_rules (rule_name, path, matching, action)
values
  ('agent-ids', '$.agent_id', null, 'hmac'),
  ('e-mail-addresses', '$.**', '[^[:space:]@<>()"'',;:]+@[^[:space:]@<>()"'',;:]+', 'generalise'),
  ('files', '$.**.file', null, 'generalise'),
  ('file-lists', '$.**.files', null, 'generalise'),
  ('file-names', '$.**.filename', null, 'generalise'),
  ('file-paths', '$.**.file_path', null, 'generalise'),
  ('paths', '$.**.path', null, 'generalise'),
  ('path-lists', '$.**.paths', null, 'generalise'),
  ('override-reasons', '$.**.override_reason', null, 'remove'),
  ('reasons', '$.**.reason', null, 'remove')
on conflict do nothing;
