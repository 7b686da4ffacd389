-- How a name becomes a pseudonym: HMAC-SHA-256 from core functions, and UUIDs that show that they are pseudonyms.

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
