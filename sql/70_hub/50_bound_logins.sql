-- Logins that are bound to one org, such as Grafana's. Policies that ask ops.org_for hold them back, since that goes by
-- session_user, which no SQL of the session changes; a table whose policies ask somebody else gets a restrictive one.

create function ops.tenant_columns()
returns table (relation regclass, column_name text)
language sql
stable
set search_path = ''
begin atomic
  select class.oid::regclass, attribute.attname::text
  from pg_catalog.pg_class as class
  join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = class.oid
  where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
    and class.relkind in ('r', 'p')
    -- Partitions are read through their parent, whose policies hold.
    and not class.relispartition
    -- Who is bound to which org is looked up by the policies themselves.
    and class.oid <> 'ops.bound_logins'::regclass
    and attribute.attnum > 0
    and not attribute.attisdropped
    and attribute.atttypid = 'uuid'::regtype
    and attribute.attname ~ '(^|_)(org|organisation|organization|tenant)(_id)?$'
  order by 1, 2;
end;
comment on function ops.tenant_columns() is
  'The columns of tables in public and ops whose value is a tenant: UUIDs named org_id, only_org_id, tenant and the like.';

create function ops.unguarded_columns()
returns table (relation regclass, column_name text, policy_name name)
language sql
stable
set search_path = ''
begin atomic
  select tenant.relation, tenant.column_name, guard.policy_name
  from ops.tenant_columns() as tenant
  join pg_catalog.pg_class as class
    on class.oid = tenant.relation
  cross join lateral (
    -- A name is cut to its length, as create policy does.
    select (class.relname || '_' || tenant.column_name || '_bound')::name as policy_name
  ) as guard
  where not exists (
    select
    from pg_catalog.pg_policy as policy
    where policy.polrelid = tenant.relation
      and policy.polname = guard.policy_name
  )
  -- A policy more costs each statement on the table a few per cent, so where all of them ask org_for there is none.
  and exists (
    select
    from pg_catalog.pg_policy as policy
    where policy.polrelid = tenant.relation
      and policy.polpermissive
      and not exists (
        select
        from pg_catalog.pg_depend as asked
        where asked.classid = 'pg_catalog.pg_policy'::regclass
          and asked.objid = policy.oid
          and asked.refclassid = 'pg_catalog.pg_proc'::regclass
          and asked.refobjid = 'ops.org_for(text[])'::regprocedure
      )
  );
end;
comment on function ops.unguarded_columns() is
  'The columns that name a tenant of tables with a policy that does not ask ops.org_for, and without the one that holds bound logins back; and what that is to be called.';

create function ops.guard_tenants()
returns integer
language plpgsql
volatile
set search_path = ''
-- A policy waits for the readers of its table; others must not queue behind that for long.
set lock_timeout = '3s'
as $$
declare
  found record;
  changed integer := 0;
begin
  if not exists (select from ops.bound_logins) then
    for found in
      select policy.polrelid::regclass as relation, policy.polname
      from pg_catalog.pg_policy as policy
      join ops.tenant_columns() as tenant
        on tenant.relation = policy.polrelid
      join pg_catalog.pg_class as class
        on class.oid = policy.polrelid
      where policy.polname = (class.relname || '_' || tenant.column_name || '_bound')::name
    loop
      execute format('drop policy %I on %s', found.polname, found.relation);
      changed := changed + 1;
    end loop;
    return changed;
  end if;
  for found in
    select unguarded.relation, unguarded.column_name, unguarded.policy_name
    from ops.unguarded_columns() as unguarded
    join pg_catalog.pg_class as class
      on class.oid = unguarded.relation
    where pg_has_role(class.relowner, 'usage')
  loop
    execute format(
      'create policy %I on %s as restrictive to authenticated'
      ' using ((select ops.bound_org_id()) is null or %I = (select ops.bound_org_id())) with check ((select ops.bound_org_id()) is null)',
      found.policy_name, found.relation, found.column_name
    );
    changed := changed + 1;
  end loop;
  return changed;
end;
$$;
comment on function ops.guard_tenants() is
  'Gives each table that names a tenant, and whose own policies do not ask ops.org_for, the policy that holds bound logins back, or takes it away where no login is bound; opskpi migrate calls it, so new tables have theirs. Returns how many policies it made or dropped; a second call does nothing.';

create function ops.login_fault(login text)
returns text
language sql
stable
set search_path = ''
return (
  select case
    when role.oid is null then 'there is no such role'
    when not role.rolcanlogin then 'it is a role that cannot log in'
    when stronger.rolname is not null then 'it is or can become ' || stronger.rolname || ', which row level security does not bind'
  end
  from (values (login_fault.login)) as wanted (login)
  left join pg_catalog.pg_roles as role
    on role.rolname = wanted.login
  left join lateral (
    select held.rolname
    from pg_catalog.pg_roles as held
    where pg_has_role(role.oid, held.oid, 'member')
      and (
        held.rolsuper
        or held.rolbypassrls
        -- Such a role may make itself a member of others.
        or held.rolcreaterole
        or held.oid in (
          select class.relowner from pg_catalog.pg_class as class where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
        )
      )
    order by held.rolname <> wanted.login, held.rolname
    limit 1
  ) as stronger on true
);
comment on function ops.login_fault(text) is 'Why a login cannot be bound to an org; null when it can.';

create function ops.bind_login(login text, org_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  fault constant text := ops.login_fault(login);
  earlier record;
begin
  if bind_login.org_id is null or fault is not null then
    raise exception 'the login % cannot be bound: %', coalesce(bind_login.login, 'null'), coalesce(fault, 'no org is named')
      using errcode = 'OP001',
        hint = 'Make a role of its own: create role grafana_reader login password ''…''; then bind that to the UUID of an org (the nil UUID is for single-tenant use).';
  end if;
  insert into ops.bound_logins as bound (login, only_org_id)
  values (bind_login.login, bind_login.org_id)
  on conflict on constraint bound_logins_pkey do update set
    only_org_id = excluded.only_org_id,
    bound_at = now()
  where bound.only_org_id <> excluded.only_org_id;
  perform ops.guard_tenants();
  -- The policies that an earlier README made for one login and one org.
  for earlier in
    select policy.polname, policy.polrelid::regclass as relation
    from pg_catalog.pg_policy as policy
    where policy.polname in (bind_login.login || '_sees', bind_login.login || '_only')
  loop
    execute format('drop policy %I on %s', earlier.polname, earlier.relation);
  end loop;
  if not pg_has_role(bind_login.login, 'authenticated', 'member') then
    execute format('grant authenticated to %I', bind_login.login);
  end if;
end;
$$;
comment on function ops.bind_login(text, uuid) is
  'Lets a login read one org, and nothing else, whatever role it takes and whatever claims it sets; it writes nothing. Again with another org: the login reads that.';

create function ops.unbind_login(login text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Unbound, a member of authenticated would read whatever org it claims.
  if to_regrole(quote_ident(unbind_login.login)) is not null and pg_has_role(unbind_login.login, 'authenticated', 'member') then
    execute format('revoke authenticated from %I', unbind_login.login);
    if pg_has_role(unbind_login.login, 'authenticated', 'member') then
      raise exception 'the login % is still a member of authenticated, and would read any org', unbind_login.login
        using errcode = 'OP003', hint = 'Revoke authenticated from it as the role that granted it, or drop the role; then call this again.';
    end if;
  end if;
  delete from ops.bound_logins as bound where bound.login = unbind_login.login;
  if not found then
    return false;
  end if;
  perform ops.guard_tenants();
  return true;
end;
$$;
comment on function ops.unbind_login(text) is 'Takes a login its org, and with it all that it could read; false when it was bound to none.';
