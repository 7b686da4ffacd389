-- Restores: a dump of the data alone arrives table by table, while triggers fire.

create function ops.is_restoring()
returns boolean
language sql
stable
set search_path = ''
return current_setting('check_function_bodies')::boolean is false;
comment on function ops.is_restoring() is
  'Whether the session restores a dump, which begins with set check_function_bodies = false: its rows belong together and arrive in any order.';
