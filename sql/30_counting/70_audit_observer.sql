-- The audit observer: an audit and its event in one transaction, and the runs that nobody audited yet.

create function ops.observe_audit(audit jsonb, event jsonb)
returns table (audit_id bigint, audit_timestamp timestamptz, events_stored integer, provenance_synced boolean, validation_synced boolean, validation_run_id bigint)
language plpgsql
volatile
set search_path = ''
as $$
declare
  given constant public.slsa_audit_metrics := jsonb_populate_record(null::public.slsa_audit_metrics, audit);
  owner_id constant uuid := coalesce(given.org_id, '00000000-0000-0000-0000-000000000000'::uuid);
  verdict constant text := event ->> 'outcome';
  known public.slsa_audit_metrics;
  is_repeated boolean;
  answer jsonb;
begin
  -- Two observers of one audit would each find no row and store an event.
  perform pg_advisory_xact_lock(hashtextextended(format('ops.observe_audit %s', given.audit_run_id), 0));
  select stored.* into known
  from public.slsa_audit_metrics as stored
  where stored.audit_run_id = given.audit_run_id
    and stored.org_id = owner_id;
  is_repeated := coalesce(known.metadata ->> 'outcome' = verdict, false);
  observe_audit.audit_timestamp := coalesce(case when is_repeated then known.audit_timestamp end, given.audit_timestamp, now());
  observe_audit.validation_run_id := coalesce(
    given.validation_run_id,
    (
      select found.run_id
      from public.telemetry_events as found
      where found.org_id = owner_id
        and found.event_type = 'provenance_validate'
        and found.tag = given.tag
        and found.run_id is not null
      order by found.event_timestamp desc
      limit 1
    ),
    -- What was found once stays found when retention has removed it.
    case when known.tag = given.tag then known.validation_run_id end
  );
  -- By the index on event_type: releases are few among the events, too few to pay for an index at each insert.
  select
    coalesce(bool_or(found.event_type = 'slsa_provenance' and found.run_id = given.provenance_run_id), false),
    coalesce(bool_or(found.event_type = 'provenance_validate' and found.run_id = observe_audit.validation_run_id), false)
  into observe_audit.provenance_synced, observe_audit.validation_synced
  from public.telemetry_events as found
  where found.org_id = owner_id
    and found.event_type in ('slsa_provenance', 'provenance_validate')
    and found.run_id in (given.provenance_run_id, observe_audit.validation_run_id);
  observe_audit.provenance_synced := observe_audit.provenance_synced
    or coalesce(known.supabase_provenance_synced and known.provenance_run_id = given.provenance_run_id, false);
  observe_audit.validation_synced := observe_audit.validation_synced
    or coalesce(known.supabase_validation_synced and known.validation_run_id = observe_audit.validation_run_id, false);
  observe_audit.audit_id := public.record_audit(
    observe_audit.audit
    || jsonb_build_object(
      'org_id', owner_id,
      'audit_timestamp', observe_audit.audit_timestamp,
      'validation_run_id', observe_audit.validation_run_id,
      'supabase_provenance_synced', observe_audit.provenance_synced,
      'supabase_validation_synced', observe_audit.validation_synced,
      'metadata', coalesce(given.metadata, '{}') || jsonb_build_object('outcome', verdict)
    )
  );
  observe_audit.events_stored := 0;
  -- Its event was stored with it, and has been removed since.
  if is_repeated and exists (
    select
    from ops.removed_events as removed
    where removed.event_type = 'audit_observer'
      and removed.removed_until > observe_audit.audit_timestamp
  ) then
    return next;
    return;
  end if;
  answer := public.ingest_events(
    json_build_array(
      json_build_object(
        'event_type', 'audit_observer',
        'event_id', encode(substr(sha256(convert_to(format('%s %s %s', owner_id, given.audit_run_id, verdict), 'UTF8')), 1, 16), 'hex')::uuid,
        'event_timestamp', observe_audit.audit_timestamp,
        'run_id', given.audit_run_id,
        'tag', given.tag,
        'org_id', owner_id,
        'payload', event
      )
    )
  );
  if answer -> 'refused' <> '[]' then
    raise exception 'the event of the audit is refused: % %', answer #>> '{refused,0,field}', answer #>> '{refused,0,reason}'
      using errcode = 'OP001', hint = 'It becomes an event of type audit_observer; see ops.event_types.';
  end if;
  observe_audit.events_stored := (answer ->> 'accepted')::integer;
  return next;
end;
$$;
comment on function ops.observe_audit(jsonb, jsonb) is
  'Stores an audit as record_audit does, and its audit_observer event (its metadata, with outcome), in one transaction. Whether the runs are in the events is looked up; a validation run that is not named is the newest of the same tag. What was found once stays found. Repeated with the same outcome, an audit keeps its time and stores no second event; with another it gets both anew. Returns the id and what was found.';

create function ops.unaudited_provenance_runs(max_runs integer, only_org_id uuid default null)
returns table (org_id uuid, run_id bigint, tag text, outcome text, event_timestamp timestamptz, metadata jsonb)
language sql
stable
set search_path = ''
begin atomic
  with attempts as (
    select distinct on (event.org_id, event.run_id)
      event.org_id,
      event.run_id,
      event.tag,
      event.outcome,
      event.event_timestamp,
      event.metadata
    from public.telemetry_events as event
    where event.event_type = 'slsa_provenance'
      and event.run_id is not null
      and event.org_id = coalesce(unaudited_provenance_runs.only_org_id, event.org_id)
    order by event.org_id, event.run_id, event.event_timestamp desc, event.id desc
  )
  select
    attempt.org_id,
    attempt.run_id,
    attempt.tag,
    attempt.outcome,
    attempt.event_timestamp,
    attempt.metadata
  from attempts as attempt
  cross join lateral (
    select
      bool_or(
        audit.validation_status <> 'unknown'
        -- As texts: a cast of what others wrote there could fail, and hold up every run.
        and case
          when audit.metadata ->> 'attempt_at' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z$'
            then audit.metadata ->> 'attempt_at' collate "C"
              >= to_char(attempt.event_timestamp at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
          else audit.updated_at >= attempt.event_timestamp
        end
      ) as is_audited,
      max(audit.updated_at) as looked_for_at
    from public.slsa_audit_metrics as audit
    where audit.org_id = attempt.org_id
      and audit.provenance_run_id = attempt.run_id
      -- A file that merely names a run was not checked to be of it.
      and coalesce(audit.metadata ->> 'run_asked', 'true') = 'true'
  ) as audits
  where audits.is_audited is not true
  -- What was looked for and not found is tried again, but holds up nothing that is new.
  order by audits.looked_for_at nulls first, attempt.event_timestamp desc
  limit unaudited_provenance_runs.max_runs;
end;
comment on function ops.unaudited_provenance_runs(integer, uuid) is
  'The newest attempt of each provenance run, of all orgs or one, that no audit of that run has judged (metadata.attempt_at, else updated_at, says which attempts it could know; with metadata.run_asked false it is of no run): first those never looked for, newest first, then those whose provenance was not found. Runs without a number are left out: no audit could name them.';
