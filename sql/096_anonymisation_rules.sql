-- Personal data: the rules that take it out of events, and what they make of a value. What counts is never touched.

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

revoke execute on function
  ops.anonymisation_pattern(text, boolean),
  ops.anonymisation_place(text),
  ops.counted_places(text),
  ops.set_anonymisation_rule(text, text, text, text, text, boolean, boolean),
  ops.remove_anonymisation_rule(text),
  ops.generalised(text),
  ops.generalised_number(numeric),
  ops.is_anonymised(text),
  ops.hashed(text, uuid, bytea[]),
  ops.anonymised_parts(text, text, text, uuid, bytea[]),
  ops.neutral_value(jsonb),
  ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean),
  ops.with_edits(jsonb, jsonb[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.anonymisation_rules from anon, authenticated, service_role;
  -- What is taken out is no secret, and ingest_events reads it as its caller.
  grant select on ops.anonymisation_rules to authenticated, service_role;
  create policy anonymisation_rules_select_authenticated on ops.anonymisation_rules for select to authenticated using (true);
  revoke execute on function
    ops.anonymisation_pattern(text, boolean),
    ops.anonymisation_place(text),
    ops.counted_places(text),
    ops.set_anonymisation_rule(text, text, text, text, text, boolean, boolean),
    ops.remove_anonymisation_rule(text),
    ops.generalised(text),
    ops.generalised_number(numeric),
    ops.is_anonymised(text),
    ops.hashed(text, uuid, bytea[]),
    ops.anonymised_parts(text, text, text, uuid, bytea[]),
    ops.neutral_value(jsonb),
    ops.anonymised_value(jsonb, jsonb, ops.anonymisation_rules[], uuid, bytea[], boolean),
    ops.with_edits(jsonb, jsonb[])
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
    ops.with_edits(jsonb, jsonb[])
  to authenticated, service_role;
end;
$$;
