-- Anonymisation rules, and the places of an event that they may name. What is counted is never touched.

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
create policy anonymisation_rules_select_authenticated on ops.anonymisation_rules for select to authenticated using (true);

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
