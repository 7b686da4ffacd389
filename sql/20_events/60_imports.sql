-- The progress of file imports, so that a killed import resumes.

create table ops.imports (
  source_key text not null,
  lines bigint not null,
  bytes bigint not null,
  accepted bigint not null,
  duplicate bigint not null,
  refused bigint not null,
  refused_bytes bigint not null,
  updated_at timestamptz not null default now(),
  constraint imports_pkey primary key (source_key)
);
comment on table ops.imports is 'One row a file whose import was begun and not finished: how far it is, so that a killed run resumes.';
comment on column ops.imports.source_key is 'SHA-256 over the file''s size, beginning and end.';
comment on column ops.imports.lines is 'Lines or array elements read (count).';
comment on column ops.imports.bytes is 'Bytes read, unpacked.';
comment on column ops.imports.accepted is 'Events stored (count).';
comment on column ops.imports.duplicate is 'Events that were there already (count).';
comment on column ops.imports.refused is 'Lines refused (count).';
comment on column ops.imports.refused_bytes is 'Bytes written to the file of refused lines.';
comment on column ops.imports.updated_at is 'When the last batch was stored.';
alter table ops.imports enable row level security;

create function ops.import_progress(source_key text)
returns table (lines bigint, bytes bigint, accepted bigint, duplicate bigint, refused bigint, refused_bytes bigint)
language sql
stable
set search_path = ''
begin atomic
  select import.lines, import.bytes, import.accepted, import.duplicate, import.refused, import.refused_bytes
  from ops.imports as import
  where import.source_key = import_progress.source_key;
end;
comment on function ops.import_progress(text) is 'How far the unfinished import of a file is; no row when there is none.';

create function ops.record_import_progress(
  source_key text,
  lines bigint,
  bytes bigint,
  accepted bigint,
  duplicate bigint,
  refused bigint,
  refused_bytes bigint
)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.imports as import (source_key, lines, bytes, accepted, duplicate, refused, refused_bytes)
  values (source_key, lines, bytes, accepted, duplicate, refused, refused_bytes)
  on conflict on constraint imports_pkey do update set
    lines = excluded.lines,
    bytes = excluded.bytes,
    accepted = excluded.accepted,
    duplicate = excluded.duplicate,
    refused = excluded.refused,
    refused_bytes = excluded.refused_bytes,
    updated_at = now();
end;
comment on function ops.record_import_progress(text, bigint, bigint, bigint, bigint, bigint, bigint) is
  'Notes how far an import is, in the transaction that stores the batch.';

create function ops.finish_import(source_key text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.imports as import where import.source_key = finish_import.source_key;
end;
comment on function ops.finish_import(text) is 'Forgets the progress of an import that is done.';
