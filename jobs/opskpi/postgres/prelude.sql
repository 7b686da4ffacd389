-- What Supabase has and a plain Postgres lacks: the roles of its API. Applied by `opskpi migrate` only, never on Supabase.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role', 'authenticator'] loop
    if to_regrole(wanted) is null then
      begin
        execute format('create role %I nologin noinherit', wanted);
        if wanted = 'service_role' then
          alter role service_role bypassrls;
        end if;
      exception
        -- Roles belong to the whole server: another database may be migrating at this moment.
        when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
  if not pg_has_role('authenticator', 'authenticated', 'member') then
    grant anon, authenticated, service_role to authenticator;
  end if;
end;
$$;
