"""`opskpi retention`: ages as people write them, and what a run says."""

import psycopg
import pytest

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.upkeep import retention
from opskpi.upkeep.retention import Removal, in_words, parsed_age
from support.events import AS_OF, Connection, rows
from support.fixtures import Cli, Connect


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90d", "90 days"),
        ("1 day", "1 days"),
        ("8w", "8 weeks"),
        ("13mo", "13 months"),
        ("2 years", "2 years"),
        ("forever", None),
    ],
)
def test_an_age_is_read_as_people_write_it(text, age):
    assert parsed_age(text) == age


@pytest.mark.parametrize("text", ["", "90", "3m", "-1d", "0d", "1.5y", "90d ", "d", "٣d", "90 days ago", "123456d"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(OpsKpiError) as caught:
        parsed_age(text)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (ExitCode.BAD_ARGUMENT, True)


def test_a_removal_is_one_line():
    dropped = Removal("events", "drop", "telemetry_events_2026_01", None, None, None, 1234567, 2_500_000, None)
    assert in_words(dropped) == "telemetry_events_2026_01: the whole month, 1,234,567 events, 2.5 MB"
    blocked = Removal("events", "drop", "telemetry_events_2026_01", None, None, None, None, None, "why")
    assert in_words(blocked) == "telemetry_events_2026_01: the whole month, an unknown number of events; not now: why"
    partly = Removal("events", "delete", "telemetry_events_2026_01", "x", None, None, 2, None, "why")
    assert in_words(partly) == "telemetry_events_2026_01: 2 events of type x; the rest not now: why"


@pytest.mark.database
def test_an_unknown_type_is_answered_with_the_known_ones(cli: Cli):
    answer = cli("retention", "set", "events", "90d", "--event-type", "hook_executions")
    assert answer.returncode == ExitCode.BAD_ARGUMENT
    assert "hook_execution, hook_override" in answer.stderr


@pytest.mark.database
def test_what_is_in_the_way_is_said_and_is_no_failure(past_months: Connection, cli: Cli, connect: Connect):
    cli("retention", "set", "events", "90d")
    reader = connect(autocommit=False)
    reader.execute("select count(*) from public.telemetry_events")
    answer = cli("retention", "run")
    assert (answer.returncode, answer.stdout) == (0, "later: telemetry_events_2026_01 is in use\n")


@pytest.mark.database
def test_a_failure_is_in_the_journal(past_months: Connection):
    past_months.execute("select ops.set_retention('events', '90 days')")
    past_months.execute(
        "create function public.fail() returns trigger language plpgsql as $$ begin raise 'no room'; end $$;"
        " create trigger fail before insert on ops.removed_events for each row execute function public.fail()"
    )
    with pytest.raises(OpsKpiError, match="no room"):
        retention.run(past_months, as_of=AS_OF)
    assert rows(past_months, "select outcome, message from ops.job_runs where job = 'retention'") == [
        ("failure", "no room")
    ]
    assert len(rows(past_months, "select from public.telemetry_events")) == 6
    with pytest.raises(psycopg.errors.RaiseException):
        past_months.execute("select ops.retain(%s)", [AS_OF])
