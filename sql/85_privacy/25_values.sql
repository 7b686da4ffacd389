-- The anonymised form of a value: removed, generalised or replaced by a pseudonym.

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
