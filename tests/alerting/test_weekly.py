"""`opskpi report weekly`: what people read of their week, over each kind of channel, once."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from opskpi.alerting import messages, wording
from opskpi.alerting.channels import slack
from opskpi.alerting.delivery import deliver
from opskpi.errors import ExitCode
from support import forks
from support.events import NIL, Connection, add_channel, add_event, add_events, add_row, rows, scalar
from support.fixtures import Cli, Connect
from support.outboxes import MovedClock
from support.receivers import HttpTarget, slack_texts, smtp_server

ONE = UUID(int=1)
ORG = "6b1f0c9e-5a0d-4c53-8b1e-2f3a4c5d6e7f"
WEEK = "2026-W11"
IN_THE_WEEK = "2026-03-12T12:00:00Z"


def kpi_fact(
    metric: str, unit: str, value: str | None, samples: int, previous: str | None, change: str | None
) -> dict[str, Any]:
    """Return what a message says of a KPI; there were ten samples before if there were any."""
    return {
        **{"metric": metric, "description": "", "unit": unit, "value": value, "samples": samples, "previous": previous},
        **{"previous_samples": 10 if previous else 0, "change": change},
        "change_unit": "points" if unit == "percent" else "percent",
    }


EXECUTIONS = kpi_fact("hook_executions_total", "count", "1234", 1234, "10", "12240")
BLOCKED = kpi_fact("hook_block_rate", "percent", "2.5", 1234, "10", "-7.5")
OVERRIDDEN = kpi_fact("hook_override_rate", "percent", "0", 1234, "0", "0")
MESSAGE: dict[str, Any] = {
    "kind": "summary",
    "title": "summary of 2026-W11",
    "status": "summary",
    "org_id": str(NIL),
    "group": "summary 2026-W11",
    "link": "https://kpi.example.com/",
    "week": WEEK,
    "since": "2026-03-09T00:00:00+00:00",
    "until": "2026-03-16T00:00:00+00:00",
    "zone": "UTC",
    "kpis": [
        kpi_fact("artifact_avg_size_bytes", "bytes", None, 0, "31800000", None),
        kpi_fact("error_rate", "percent", "1.5", 1200, None, None),
        BLOCKED,
        EXECUTIONS,
        OVERRIDDEN,
        kpi_fact("provenance_avg_duration_ms", "ms", "81200", 1, "80000", "1.5"),
    ],
    "hooks": {"executions": EXECUTIONS, "block_rate": BLOCKED, "override_rate": OVERRIDDEN},
    "objectives": {
        "by_status": {"ok": 1, "breached": 1, "no_data": 1},
        "list": [
            {
                **{
                    "objective": "checkout",
                    "group": "workflow=release",
                    "service": "shop",
                    "status": "breached",
                    "target": "0.999",
                    "sli": "0.9912",
                },
                **{"good": 991, "total": 1000, "budget_left": "-7.8"},
            },
            {
                **{"objective": "search", "service": "shop", "status": "no_data", "target": "0.9", "sli": None},
                **{"good": 0, "total": 0, "budget_left": None},
            },
            {
                **{
                    "objective": "pay",
                    "service": "shop",
                    "status": "ok",
                    "target": "0.9",
                    "sli": "1",
                    "good": 5,
                    "total": 5,
                },
                **{"budget_left": "1"},
            },
        ],
    },
    "alerts": {
        "fired": 2,
        "by_severity": {"page": 1, "ticket": 1},
        "list": [
            {
                **{
                    "kind": "burn_rate",
                    "severity": "page",
                    "subject": "checkout",
                    "detail": {"burn_rate_long": "20.5"},
                },
                **{"since": "2026-03-09T10:00:00+00:00", "resolved_at": "2026-03-09T11:00:00+00:00"},
            },
            {
                **{"kind": "silent_input", "severity": "ticket", "subject": "search", "detail": {}},
                **{"since": "2026-03-10T10:00:00+00:00", "resolved_at": None},
            },
        ],
    },
    "firing": [],
    "resolved": [],
}
TEXT = """\
[SUMMARY] Week 2026-W11: 1 of 3 objectives breached; 2 alerts fired

2026-03-09 00:00 UTC to 2026-03-16 00:00 UTC, compared with the week before

Objectives: 1 breached, 1 no data, 1 ok
  BREACHED: checkout workflow=release: error budget left -780 %, SLI 99.12 % against a target of 99.9 %, 991 good of 1,000
  NO DATA: search
  OK: pay: error budget left 100 %, SLI 100 % against a target of 90 %, 5 good of 5

Git hooks
  Executions: 1,234 (count), +12,240 % from 10 (count)
  Blocked: 2.5 % of 1,234 samples, -7.5 points from 10 % of 10 samples
  Overridden: 0 % of 1,234 samples, unchanged from 0 % of 10 samples

KPIs
  Artifact average size: no sample, 31.8 MB of 10 samples in the week before
  Error rate: 1.5 % of 1,200 samples, none in the week before
  Provenance average duration: 1.35 min of 1 sample, +1.5 % from 1.33 min of 10 samples

2 alerts fired: 1 page, 1 ticket
  PAGE: checkout burns its error budget at 20.5x, resolved at 2026-03-09 11:00 UTC after 1 hour, fired at 2026-03-09 10:00 UTC
  TICKET: no events arrive for search, since 2026-03-10 10:00 UTC

https://kpi.example.com/
"""


# What people read


def test_a_mail_says_how_the_week_was():
    assert messages.text(MESSAGE) == TEXT
    assert messages.title(MESSAGE) == TEXT.partition("\n")[0]


def test_slack_shows_the_same_in_a_block_for_each_part():
    payload = slack.payload(MESSAGE)
    texts = slack_texts(payload)
    assert payload["text"] == messages.title(MESSAGE)
    parts = [part.replace("\n  ", "\n") for part in TEXT.removesuffix("\n").split("\n\n")]
    plain = [text.replace("*", "") for text in texts]
    assert plain == [*parts[:-1], "<https://kpi.example.com/|Open>"]
    assert [text.split("\n")[0] for text in texts[2:-1]] == [
        "*Objectives: 1 breached, 1 no data, 1 ok*",
        "*Git hooks*",
        "*KPIs*",
        "*2 alerts fired: 1 page, 1 ticket*",
    ]


@pytest.mark.parametrize(
    ("by_status", "fired", "org", "said"),
    [
        ({"breached": 2, "at_risk": 1, "ok": 6}, 1, NIL, "2 of 9 objectives breached, 1 at risk; 1 alert fired"),
        ({"at_risk": 1, "ok": 8}, 0, NIL, "1 of 9 objectives at risk; no alert fired"),
        ({"ok": 9}, 0, NIL, "none of 9 objectives breached or at risk; no alert fired"),
        ({"breached": 1}, 1000, NIL, "1 of 1 objective breached; 1,000 alerts fired"),
        ({}, 0, NIL, "no alert fired"),
        ({"ok": 1}, 0, ORG, f"none of 1 objective breached or at risk; no alert fired (org {ORG})"),
    ],
)
def test_a_title_says_the_worst_first(by_status, fired, org, said):
    told = MESSAGE | {"objectives": {"by_status": by_status}, "alerts": {"fired": fired}, "org_id": str(org)}
    assert messages.title(told) == f"[SUMMARY] Week 2026-W11: {said}"


def test_a_week_of_another_zone_names_it():
    assert "2026-03-16 00:00 UTC, a week of Europe/Berlin, compared" in messages.text(
        MESSAGE | {"zone": "Europe/Berlin"}
    )


def test_a_quiet_week_says_so_and_leaves_out_what_there_was_not():
    told = MESSAGE | {"kpis": [], "hooks": {"executions": None}, "objectives": {}, "alerts": {"fired": 0, "list": []}}
    assert messages.text(told).split("\n\n")[2:-1] == ["Objectives: none", "No alert fired"]


def test_a_hundred_of_many_are_shown_and_the_rest_is_counted():
    alerts = [{"kind": "silent_jobs", "severity": "notice", "subject": str(number)} for number in range(100)]
    text = messages.text(MESSAGE | {"alerts": {"fired": 250, "by_severity": {"notice": 250}, "list": alerts}})
    part = text.split("\n\n")[-2].split("\n")
    assert (part[0], len(part), part[-1]) == ("250 alerts fired: 250 notice", 102, "  and 150 more")
    objectives = {"list": [{"objective": f"slo-{number}", "status": "ok"} for number in range(130)]}
    assert "  OK: slo-99\n  and 30 more\n" in messages.text(MESSAGE | {"objectives": objectives})


@pytest.mark.parametrize("size", [1, 150])
def test_a_long_week_stays_within_what_slack_takes(size):
    many = range(500)
    told = MESSAGE | {
        "objectives": {"list": [{"objective": "&" * size, "status": "ok"} for _ in many]},
        "kpis": [kpi_fact("<" * size, "ms", "1", 1, "1", "0") for _ in many],
        "hooks": dict.fromkeys(MESSAGE["hooks"], kpi_fact("x", "y" * 20, "9" * 19, 10**9, "9" * 19, "1")),
        "alerts": {"fired": 900, "list": [{"kind": "silent_jobs", "severity": "page", "subject": "&" * size}] * 100},
    }
    texts = slack_texts(slack.payload(told))
    assert len(texts) == 7
    assert all(0 < len(text) <= 3000 for text in texts)
    assert sum(map(len, texts)) < 10_000
    assert [text.rpartition("\n")[2].startswith("and ") for text in texts] == [
        False,
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    counted = [
        len(text.split("\n")) - 2 + int(text.rpartition("and ")[2].split()[0])
        for text in (texts[2], texts[4], texts[5])
    ]
    assert counted == [500, 500, 900]


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        ("1.5", "points", "+1.5 points"),
        ("-20.04", "percent", "-20 %"),
        ("0", "points", "unchanged"),
        (None, "points", None),
        ("1", "sheep", None),
        ("NaN", "percent", None),
    ],
)
def test_a_change_has_its_sign_and_unit(value, unit, said):
    assert wording.change(value, unit) == said


def test_nobody_is_mentioned_and_no_markup_comes_of_what_users_wrote():
    evil = "<!channel> <@U1> `code` *bold* & <https://evil.example|click>\r\nBcc: x"
    spoiled = json.loads(
        json.dumps(MESSAGE).replace("checkout", json.dumps(evil)[1:-1]).replace("UTC", json.dumps(evil)[1:-1])
    )
    payload = slack.payload(spoiled)
    assert all(bad not in text for text in [str(payload["text"]), *slack_texts(payload)[:-1]] for bad in ("<", "`"))
    assert "\n" not in messages.title(spoiled)
    assert "\nBcc" not in messages.text(spoiled)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1e400", "-7.8", "<!here>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
facts = st.fixed_dictionaries(
    {}, optional=dict.fromkeys([*EXECUTIONS, *MESSAGE["objectives"]["list"][0], "since"], anything)
)
listed = st.lists(facts | anything, max_size=3) | anything
spoiled = st.fixed_dictionaries(
    {"kind": st.just("summary")},
    optional=dict.fromkeys(MESSAGE.keys() - {"kind"}, anything)
    | {"kpis": listed, "hooks": st.dictionaries(st.sampled_from([*MESSAGE["hooks"]]), facts | anything)}
    | {
        name: st.fixed_dictionaries({}, optional={"list": listed, "by_status": facts | anything, "fired": anything})
        for name in ("objectives", "alerts")
    },
)


@settings(deadline=None, max_examples=60)
@given(spoiled=spoiled)
def test_rendering_never_fails(spoiled):
    title, text, payload = messages.title(spoiled), messages.text(spoiled), slack.payload(spoiled)
    assert title.startswith("[SUMMARY] Week ")
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    messages.webhook_body(spoiled, 1)
    assert all(shown and "<!" not in shown for shown in slack_texts(payload))


# Over each kind of channel


@pytest.fixture
def week_of_hooks(database: Connection) -> Connection:
    """Have hooks that ran in the week, and a channel of each kind over HTTP."""
    for kind in ("webhook", "slack", "apprise"):
        add_channel(database, kind, kind=kind, secret_env=f"{kind.upper()}_URL")
    hook = {"hook_type": "pre-commit", "duration_ms": 40}
    add_events(database, 15, "hook_execution", IN_THE_WEEK, result="allowed", **hook)
    add_events(database, 5, "hook_execution", IN_THE_WEEK, result="blocked", **hook)
    return database


def urls(http: HttpTarget) -> dict[str, str]:
    """Return the environment in which the channels find their receiver."""
    apprise = http.url.replace("http://", "json://")
    return {"WEBHOOK_URL": http.url, "SLACK_URL": http.url, "APPRISE_URL": apprise, "NO_PROXY": "127.0.0.1"}


def outbox_attempts(connection: Connection) -> list[tuple[str, str, int]]:
    return rows(connection, "select channel_name, state, attempts from ops.alert_deliveries order by delivery_id")


def test_each_kind_of_channel_hears_of_the_week_and_hears_it_once(week_of_hooks, cli: Cli, http):
    to = [argument for kind in ("webhook", "slack", "apprise") for argument in ("--to", kind)]
    told = cli("report", "weekly", *to, "--week", WEEK, env=urls(http))
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [
        f"{kind}: the summary of {WEEK} is delivered" for kind in ("apprise", "slack", "webhook")
    ]
    bodies = {tuple(sorted(json.loads(body))): json.loads(body) for _, body in http.requests}
    [webhook] = [body for body in bodies.values() if "delivery_id" in body]
    assert webhook == scalar(
        week_of_hooks, "select message from ops.alert_deliveries where channel_name = 'webhook'"
    ) | {"delivery_id": webhook["delivery_id"]}
    assert webhook["hooks"]["block_rate"]["value"] == "25"
    [posted] = [body for body in bodies.values() if "blocks" in body]
    assert posted["text"].startswith(f"[SUMMARY] Week {WEEK}: ")
    assert "Blocked: 25 % of 20 samples" in json.dumps(posted)
    [notified] = [body for body in bodies.values() if "message" in body]
    assert (notified["title"], notified["type"]) == (posted["text"], "info")
    assert "Blocked: 25 % of 20 samples" in notified["message"]

    again = cli("report", "weekly", *to, "--week", WEEK, env=urls(http))
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == (
        f"apprise: the summary of {WEEK} was already written, message 1 is delivered; --again writes another"
    )
    assert len(http.requests) == 3


def test_a_mailbox_hears_of_the_week(week_of_hooks, cli: Cli):
    settings = Jsonb({"to": ["ops@example.com"], "from": "kpi@example.com"})
    add_channel(week_of_hooks, "mail", kind="email", secret_env="MAIL_URL", settings=settings)
    with smtp_server() as inbox:
        environ = {"MAIL_URL": f"smtp://127.0.0.1:{inbox.port}?starttls=no"}
        told = cli("report", "weekly", "--to", "mail", "--week", WEEK, env=environ)
    assert told.returncode == 0, told.stderr
    [mail] = inbox.mails
    message = scalar(week_of_hooks, "select message from ops.alert_deliveries")
    assert mail["Subject"] == messages.title(message)
    assert mail.get_content().replace("\r\n", "\n") == messages.text(message)


def test_the_last_week_that_is_over_is_told_unless_another_is_named(week_of_hooks, cli: Cli, http):
    today = datetime.now(UTC)
    last_week = today - timedelta(days=7)
    add_event(week_of_hooks, "audit_complete", last_week, outcome="success")
    told = cli("report", "weekly", "--to", "webhook", "--json", env=urls(http))
    [said] = json.loads(told.stdout)
    assert said == {
        "channel": "webhook",
        "week": f"{last_week:%G-W%V}",
        "message": 1,
        "is_new": True,
        "state": "delivered",
        "reason": None,
    }


def test_an_org_is_told_of_its_own_week(week_of_hooks, cli: Cli, http):
    add_event(week_of_hooks, "artifact", IN_THE_WEEK, org_id=ONE, size_bytes=5)
    assert cli("report", "weekly", "--to", "webhook", "--week", WEEK, "--org", str(ONE), env=urls(http)).returncode == 0
    [(_, body)] = http.requests
    assert {fact["metric"] for fact in json.loads(body)["kpis"]} == {"artifact_avg_size_bytes"}
    assert json.loads(body)["org_id"] == str(ONE)


def test_again_tells_it_again(week_of_hooks, cli: Cli, http):
    for again in ([], ["--again"], []):
        assert cli("report", "weekly", "--to", "webhook", "--week", WEEK, *again, env=urls(http)).returncode == 0
    assert len({headers["webhook-id"] for headers, _ in http.requests}) == 2


# What fails


def test_a_receiver_that_refuses_for_now_is_tried_again_by_the_jobs(week_of_hooks, cli: Cli, http):
    http.status = 503
    told = cli("report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http))
    assert (told.returncode, told.stdout) == (
        0,
        f"webhook: the summary of {WEEK} is queued: answered 503 Service Unavailable\n",
    )
    assert "message 1 is queued" in told.stderr
    again = cli("report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http))
    assert "was already written, message 1 is queued" in again.stdout
    http.status = 200
    later = datetime.now(UTC) + timedelta(hours=1)
    assert deliver(week_of_hooks, environ=urls(http), clock=MovedClock(later)).delivered == 1
    assert outbox_attempts(week_of_hooks) == [("webhook", "delivered", 2)]
    assert len({headers["webhook-id"] for headers, _ in http.requests}) == 1


def test_a_receiver_that_refuses_for_good_is_a_failure(week_of_hooks, cli: Cli, http):
    http.status = 400
    told = cli("report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http))
    assert told.returncode == ExitCode.FAILED
    assert "answered 400 Bad Request" in told.stdout
    assert "opskpi alert retry" in told.stderr
    http.status = 200
    assert cli("alert", "retry").returncode == 0
    assert cli("alert", "deliver", env=urls(http)).returncode == 0
    assert outbox_attempts(week_of_hooks) == [("webhook", "delivered", 1)]


def test_one_channel_that_fails_does_not_keep_the_others_from_it(week_of_hooks, cli: Cli, http):
    environ = urls(http) | {"SLACK_URL": ""}
    told = cli("report", "weekly", "--to", "slack", "--to", "webhook", "--week", WEEK, env=environ)
    assert told.returncode == 0
    assert outbox_attempts(week_of_hooks) == [("slack", "queued", 1), ("webhook", "delivered", 1)]
    assert "environment variable SLACK_URL is not set" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--to", "nobody"), ExitCode.BAD_ARGUMENT),
        (("--to", "webhook", "--to", "nobody"), ExitCode.BAD_ARGUMENT),
        (("--to", "off"), ExitCode.BAD_ARGUMENT),
        (("--to", "theirs"), ExitCode.BAD_ARGUMENT),
        (("--to", "webhook", "--week", "2026-W54"), ExitCode.BAD_ARGUMENT),
        (("--to", "webhook", "--week", ""), ExitCode.BAD_ARGUMENT),
        (("--to", "webhook", "--week", "2099-W01"), ExitCode.BAD_ARGUMENT),
        (("--to", "webhook", "--week", "2020-W01"), ExitCode.FAILED),
        ((), ExitCode.BAD_ARGUMENT),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_and_nobody_hears_of_it(week_of_hooks, cli: Cli, http, arguments, code):
    add_channel(week_of_hooks, "off", is_enabled=False)
    add_channel(week_of_hooks, "theirs", only_org_id=ONE)
    week = [] if "--week" in arguments else ["--week", WEEK]
    told = cli("report", "weekly", *arguments, *week, env=urls(http))
    assert (told.returncode, told.stdout) == (code, "")
    assert len(told.stderr.strip().splitlines()) >= 2
    assert "Traceback" not in told.stderr
    assert (outbox_attempts(week_of_hooks), http.requests) == ([], [])


def test_a_role_that_may_not_is_told_whose_work_it_is(week_of_hooks, cli: Cli, migrated_database):
    dsn = f"{migrated_database.dsn} options='-c role=service_role'"
    told = cli("report", "weekly", "--to", "webhook", "--week", WEEK, "--dsn", dsn)
    assert told.returncode == ExitCode.CONFIGURATION
    assert "Use the role that owns the tables" in told.stderr


# Jobs that die, and jobs that meet

DYING = """
import os, signal, sys
from opskpi.alerting import evaluation
evaluation.send = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from opskpi.commands.main import main
main()
"""


def test_a_job_that_is_killed_before_it_sends_leaves_it_to_the_next(week_of_hooks, cli: Cli, http, migrated_database):
    arguments = ["report", "weekly", "--to", "webhook", "--week", WEEK]
    died = forks.run(*arguments, "--dsn", migrated_database.dsn, code=DYING, env=os.environ | urls(http))
    assert died.returncode == -signal.SIGKILL
    assert (outbox_attempts(week_of_hooks), http.requests) == ([("webhook", "queued", 0)], [])
    told = cli(*arguments, env=urls(http))
    assert "was already written, message 1 is delivered" in told.stdout
    assert len(http.requests) == 1


def test_two_jobs_at_once_tell_it_once(week_of_hooks, connect: Connect, cli: Cli, http):
    with connect(autocommit=False) as other:
        other.execute("select * from ops.queue_summary('{webhook}', week => %s)", [WEEK])
        waiting = cli(
            "report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http) | {"PGOPTIONS": "-c lock_timeout=1"}
        )
        assert waiting.returncode == ExitCode.TRY_LATER
        other.commit()
    told = cli("report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http))
    assert "was already written, message 1 is delivered" in told.stdout
    assert len(http.requests) == 1


def test_what_else_waits_is_sent_along(week_of_hooks, cli: Cli, http):
    add_row(
        week_of_hooks,
        "alert_deliveries",
        **{"org_id": NIL, "channel_name": "webhook", "group_key": "shop", "status": "firing", "alert_ids": []},
        **{"message": Jsonb({"title": "shop"}), "state": "queued"},
        **{"created_at": IN_THE_WEEK, "next_attempt_at": IN_THE_WEEK},
    )
    assert cli("report", "weekly", "--to", "webhook", "--week", WEEK, env=urls(http)).returncode == 0
    assert [json.loads(body)["title"] for _, body in http.requests] == ["shop", f"summary of {WEEK}"]
