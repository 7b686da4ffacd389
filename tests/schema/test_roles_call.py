"""Who may call what: every role of the API against every function of `public` and `ops`."""

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from support.events import scalar
from support.fixtures import ActingAs
from support.tenants import (
    API_ROLES,
    DENIED,
    NIL_ORG,
    ORG_A,
    ORG_B,
    UPKEEP,
    WRITING_FUNCTIONS,
    answers_of_functions,
    bare_call_of,
    callable_by,
    code_of,
    functions,
    marks_in,
)


@pytest.mark.parametrize("role", ["anon", "authenticator"])
def test_anon_calls_nothing(owner: psycopg.Connection, acting_as: ActingAs, role: str) -> None:
    everything = functions(owner)
    with acting_as(owner, role, org=ORG_A):
        codes = {function.name: code_of(owner, bare_call_of(function)) for function in everything}
    assert set(codes.values()) == {DENIED}, codes


@pytest.mark.parametrize("org", [ORG_A, ORG_B, NIL_ORG])
def test_a_function_tells_a_user_of_the_own_org_and_no_other(
    owner: psycopg.Connection, acting_as: ActingAs, org: str
) -> None:
    told = answers_of_functions(owner, acting_as, "authenticated", {"app_metadata": {"org_id": org}})
    told_to_all = answers_of_functions(owner, acting_as, "service_role", {})
    of_tenants = {name for name, text in told_to_all.items() if {ORG_A, ORG_B} <= marks_in(text)}
    assert {
        "ops.count_events(ops.event_ids,timestamp with time zone,timestamp with time zone)",
        "ops.count_units(ops.event_ids,timestamp with time zone,timestamp with time zone,bigint[],boolean)",
        "ops.count_audit_changes()",
        "ops.evaluate_slos(timestamp with time zone,boolean,text[])",
    } <= of_tenants
    assert {name: marks for name, text in told.items() if (marks := marks_in(text)) - {org}} == {}
    if org != NIL_ORG:
        assert of_tenants <= {name for name, text in told.items() if marks_in(text)}


def test_a_function_tells_a_user_with_a_malformed_org_of_none(owner: psycopg.Connection, acting_as: ActingAs) -> None:
    told = answers_of_functions(owner, acting_as, "authenticated", {"app_metadata": {"org_id": "not-a-uuid"}})
    assert {name: marks for name, text in told.items() if (marks := marks_in(text))} == {}


@pytest.mark.parametrize(
    ("function", "deltas"),
    [
        (
            "select sum(sample_count) from ops.changed_ratios(%s::text::ops.rollup_delta[])",
            "select array_agg(row(rollup.org_id, series.event_type, series.labels, rollup.period,"
            " rollup.period_start, 0, 0, 0, null, null)::ops.rollup_delta)::text"
            " from ops.rollups as rollup join ops.series using (org_id, series_id) where rollup.org_id = %s",
        ),
        (
            "select sum(bin.counted) from ops.merged_histograms(%s::text::ops.histogram_delta[]) as merged"
            " cross join unnest(merged.counts) as bin (counted)",
            "select array_agg(row(org_id, event_type, labels, period, period_start, '{}', '{}')"
            "::ops.histogram_delta)::text from ops.histograms where org_id = %s",
        ),
        (
            # Units that are known change nothing; to one who cannot see them they are new.
            "select count(*) from ops.changed_units(%s::text::ops.unit_delta[])",
            "select array_agg(row(org_id, unit, first_attempt_at, false, sli_id, null, null)::ops.unit_delta)::text"
            " from ops.work_units where org_id = %s",
        ),
    ],
)
def test_a_user_learns_nothing_by_adding_nothing_to_the_numbers_of_another_org(
    owner: psycopg.Connection, acting_as: ActingAs, function: LiteralString, deltas: LiteralString
) -> None:
    nothing_for_b = scalar(owner, deltas, ORG_B)

    def sees(**claims: object) -> object:
        with acting_as(owner, "authenticated", **claims):
            return scalar(owner, function, nothing_for_b)

    assert sees(org=ORG_A) == sees(app_metadata={"org_id": "malformed"})
    assert sees(org=ORG_A) != sees(org=ORG_B)


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_calls_no_function_that_writes_but_the_listed_ones(owner: psycopg.Connection, role: str) -> None:
    writing = {function.name for function in callable_by(owner, role) if function.volatility == "v"}
    assert writing == WRITING_FUNCTIONS[role]


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_is_refused_every_function_that_is_not_granted(
    owner: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    granted = {function.name for function in callable_by(owner, role)}
    closed = [function for function in functions(owner) if function.name not in granted]
    with acting_as(owner, role, org=ORG_A):
        codes = {function.name: code_of(owner, bare_call_of(function)) for function in closed}
    assert set(codes.values()) == {DENIED}, codes


@pytest.mark.parametrize("role", API_ROLES)
@pytest.mark.parametrize("statement", UPKEEP)
def test_nobody_but_the_owner_does_the_upkeep(
    owner: psycopg.Connection, acting_as: ActingAs, role: str, statement: LiteralString
) -> None:
    with acting_as(owner, role, org=ORG_A):
        assert code_of(owner, sql.SQL(statement)) == DENIED


@pytest.mark.parametrize("statement", UPKEEP)
def test_the_owner_does_the_upkeep(owner: psycopg.Connection, statement: LiteralString) -> None:
    assert code_of(owner, sql.SQL(statement)) == ""
