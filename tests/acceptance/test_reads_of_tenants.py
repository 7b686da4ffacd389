"""What a tenant reads is planned as if row level security hid no statistics: no loop over many rows that were taken for one."""

from collections.abc import Iterator

import psycopg
import pytest

from support.events import scalar
from support.fixtures import ActingAs
from support.many_teams import Sizes, add_org, add_waiting, fill, reads
from support.plans import blind_loops, explain_everything
from support.postgres import Database, Server, janitor
from support.tenants import NIL_ORG, ORG_A

pytestmark = pytest.mark.database

SIZES = Sizes(
    teams=1200,
    workflows=60,
    objectives=14,
    by_team=1,
    by_workflow=2,
    events=15_000,
    waiting=1_500,
    days=3,
    audits=1_200,
    alerts=1_200,
)
OTHERS = Sizes(
    teams=9, workflows=3, objectives=0, by_team=0, by_workflow=0, events=500, waiting=0, days=3, audits=20, alerts=9
)


@pytest.fixture(scope="module")
def crowded(server: Server, template: Database) -> Iterator[psycopg.Connection]:
    """Create a database in which one of two orgs has many teams."""
    name = "crowded"
    with (
        janitor(server, name, template=template.name),
        psycopg.connect(server.dsn(name), autocommit=True) as connection,
    ):
        until = scalar(connection, "select now()")
        fill(connection, until, SIZES)
        add_org(connection, ORG_A, until, OTHERS, first=1_000_000)
        add_waiting(connection, until, SIZES)
        yield connection


def test_no_read_of_a_tenant_loops_over_many_rows_that_were_taken_for_one(
    crowded: psycopg.Connection, acting_as: ActingAs
) -> None:
    asked = reads(crowded, scalar(crowded, "select now()"), SIZES)
    names = {read.name for read in asked}
    assert {"v_ops_slo_status", "v_ops_kpi_latest", "ops.hook_days", "hook_metrics(uuid,date,date,text,text)"} <= names
    blind: set[str] = set()
    plans = explain_everything(crowded)
    for read in asked:
        plans.clear()
        with acting_as(crowded, "authenticated", org=NIL_ORG):
            crowded.execute(read.query)
        blind |= {f"{read.name}: {loop}" for plan in plans for loop in blind_loops(plan)}
    assert sorted(blind) == []


def test_a_tenant_reads_what_the_owner_reads_of_that_org(crowded: psycopg.Connection, acting_as: ActingAs) -> None:
    teams = "select * from ops.team_compliance('day', now() - interval '2 days', now(), now(), %s, %s) as answer"
    for filters in ("{}", '{"team": "team-1"}', '{"hook_type": "pre-push"}'):
        with acting_as(crowded, "authenticated", org=NIL_ORG):
            seen = crowded.execute(teams, [filters, None]).fetchall()
        assert seen == crowded.execute(teams, [filters, NIL_ORG]).fetchall() != []
