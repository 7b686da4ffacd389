-- Hook policies, versioned per org.

create table ops.policies (
  org_id uuid not null,
  version bigint not null,
  policy jsonb not null,
  created_at timestamptz not null default now(),
  created_by text,
  constraint policies_pkey primary key (org_id, version),
  constraint policies_version_is_positive check (version > 0),
  constraint policies_policy_is_an_object check (jsonb_typeof(policy) = 'object'),
  constraint policies_policy_is_small check (octet_length(policy::text) <= 65536)
);
comment on table ops.policies is 'One row a version of an org''s hook policy; the highest one stands.';
comment on column ops.policies.org_id is 'The tenant.';
comment on column ops.policies.version is 'Counts from 1; events name it as policy_version.';
comment on column ops.policies.policy is 'What the hooks are to do; telemetry.enabled false stops recording, the rest is for the hooks to read.';
comment on column ops.policies.created_at is 'When it was set.';
comment on column ops.policies.created_by is 'The subject of the token that set it: an API key or a user; null without a token.';
alter table ops.policies enable row level security;
create policy policies_select_own_org on ops.policies for select to authenticated
  using (org_id = (select ops.org_for('{ingest,read,admin}')));
create policy policies_insert_own_org_as_admin on ops.policies for insert to authenticated
  with check (org_id = (select ops.org_for('{admin}')));

create function ops.policy_version(org_id uuid)
returns bigint
language sql
stable
set search_path = ''
return coalesce((select max(policies.version) from ops.policies where policies.org_id = policy_version.org_id), 0);
comment on function ops.policy_version(uuid) is 'The version of an org''s policy; 0 while the default holds.';

create function public.current_policy(org_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
return (
  with standing as (
    select policies.version, policies.policy, policies.created_at
    from ops.policies
    where policies.org_id = ops.caller_org(current_policy.org_id)
    order by policies.version desc
    limit 1
  ),
  with_default as (
    select standing.version, standing.policy, standing.created_at, 1 as place from standing
    union all
    select 0, '{"telemetry": {"enabled": true}}', null, 2
    order by place
    limit 1
  )
  select jsonb_build_object(
    'version', with_default.version,
    'policy', with_default.policy,
    'updated_at', to_jsonb(with_default.created_at)
  )
  from with_default
);
comment on function public.current_policy(uuid) is
  'The hook policy: {"version", "policy", "updated_at"}; version 0, the default and null while none was set. A caller whom RLS binds sees the own org''s.';

create function public.set_policy(policy jsonb, expected_version bigint default null, org_id uuid default null)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  owner_id uuid := ops.caller_org(org_id);
  standing bigint;
begin
  if owner_id is null or (row_security_active('ops.policies') and not ops.caller_has_scope('admin')) then
    raise exception 'setting the policy needs the scope admin'
      using errcode = 'PT403', hint = 'Use a key or token of an organisation whose app_metadata.scopes lists admin.';
  end if;
  if policy is null or jsonb_typeof(policy) <> 'object' then
    raise exception 'a policy is a JSON object'
      using errcode = 'OP001', hint = 'Send {"telemetry": {"enabled": true}, …}.';
  end if;
  if octet_length(policy::text) > 65536 then
    raise exception 'the policy is larger than 64 KiB'
      using errcode = 'OP001', hint = 'Keep what hooks must know, and link the rest.';
  end if;
  -- Two at once get two versions, in order.
  perform pg_advisory_xact_lock(hashtextextended('ops.policies ' || owner_id, 0));
  standing := ops.policy_version(owner_id);
  if expected_version <> standing then
    raise exception 'the policy is at version %, not %', standing, expected_version
      using errcode = 'PT412', hint = 'Read it again, and set yours over that version.';
  end if;
  insert into ops.policies (org_id, version, policy, created_by)
  select
    owner_id,
    standing + 1,
    set_policy.policy,
    left(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', 200)
  -- The same once more is no new version.
  where not exists (
    select
    from ops.policies as same
    where same.org_id = owner_id
      and same.version = standing
      and same.policy = set_policy.policy
  );
  return public.current_policy(owner_id);
end;
$$;
comment on function public.set_policy(jsonb, bigint, uuid) is
  'Sets the hook policy as a new version and returns it as current_policy does; expected_version (null: any) guards against overwriting another''s. Needs the scope admin.';
