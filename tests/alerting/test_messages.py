"""What people read when an alert fires: complete, readable, and harmless whatever users wrote."""

import json
from datetime import UTC, datetime
from email.headerregistry import Address
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskpi import texts
from opskpi.alerting import messages, wording
from opskpi.alerting.channels import email, slack
from opskpi.alerting.outcomes import Delivery
from support.receivers import slack_texts

BURN: dict[str, Any] = {
    "alert_id": 1,
    "rule": "burn_1h_5m",
    "kind": "burn_rate",
    "severity": "page",
    "subject": "checkout-availability",
    "service": "checkout",
    "description": "Customers cannot pay.",
    "since": "2026-11-21T10:00:00+00:00",
    "resolved_at": None,
    "slo_version": 2,
    "detail": {
        "long_window": "1 hour",
        "short_window": "5 minutes",
        "burn_rate_long": "20.5",
        "burn_rate_short": "31",
        "factor": "14.4",
        "sli": "0.9912",
        "target": "0.999",
        "good": 991,
        "total": 1000,
        "budget_left": "-7.8",
        "status": "breached",
        "bad_long": 9,
        "total_long": 12,
        "budget_taken": "0.0833",
    },
    "explain": "opskpi slo explain checkout-availability --since 2026-11-21T09:00Z --until 2026-11-21T10:00Z",
}
OVERRIDES: dict[str, Any] = {
    "kind": "kpi_threshold",
    "severity": "ticket",
    "subject": "hook_override_rate",
    "since": "2026-11-21T12:30:00+02:00",
    "detail": {"value": "23.4", "threshold": "20", "comparison": "gt", "unit": "percent", "lasting": "2 hours"},
}
SILENT: dict[str, Any] = {
    "kind": "silent_jobs",
    "severity": "notice",
    "subject": "refresh",
    "since": "2026-11-20T10:00:00+00:00",
    "detail": {"last_seen_at": "2026-11-19T10:00:00+00:00", "silent_for": "1 day"},
}
FIELDS = ["title", "kind", "status", "org_id", "group", "link", "firing", "resolved", "ended"]
SLACK_FORBIDDEN = ("<!channel>", "<@U1>", "<!", "<@")


def message(*firing: dict[str, Any], resolved: list[object] | None = None, **fields: object) -> dict[str, Any]:
    status = "firing" if firing else "resolved"
    return {
        "title": "checkout",
        "kind": "alerts",
        "status": status,
        "org_id": "00000000-0000-0000-0000-000000000000",
        "group": "checkout",
        "link": None,
        "firing": list(firing),
        "resolved": resolved or [],
        "ended": [],
    } | fields


def test_a_burn_rate_alert_says_what_how_bad_since_when_and_how_to_explain_it():
    assert messages.text(message(BURN, link="https://ops.example.com/alerts?group=checkout&page=1")) == (
        "[FIRING:1] checkout\n"
        "\n"
        "PAGE: checkout-availability burns its error budget at 20.5x\n"
        "  Customers cannot pay.\n"
        "  Since 2026-11-21 10:00 UTC\n"
        "  Burn rate: 20.5x over 1 hour and 31x over 5 minutes (alerts above 14.4x)\n"
        "  Bad: 9 of 12 in 1 hour, 8.33 % of the error budget\n"
        "  SLI: 99.12 % against a target of 99.9 % (991 good of 1,000)\n"
        "  Error budget left: -780 %, status: breached\n"
        "  Service: checkout, Rule: burn_1h_5m, SLO version: 2\n"
        "  Explain: opskpi slo explain checkout-availability --since 2026-11-21T09:00Z --until 2026-11-21T10:00Z\n"
        "\n"
        "https://ops.example.com/alerts?group=checkout&page=1\n"
    )


def test_a_kpi_alert_says_the_value_the_threshold_and_for_how_long():
    assert messages.text(message(OVERRIDES)).split("\n\n")[1] == (
        "TICKET: hook_override_rate is above 20 %\n"
        "  Since 2026-11-21 10:30 UTC\n"
        "  Value: 23.4 %, above 20 % for 2 hours\n"
    )


def test_a_silent_job_is_named_with_the_time_it_was_last_seen():
    assert messages.text(message(SILENT)).split("\n\n")[1] == (
        "NOTICE: the job refresh does not run\n"
        "  Since 2026-11-20 10:00 UTC\n"
        "  Silent for more than 1 day, last seen at 2026-11-19 10:00 UTC\n"
    )


def test_a_resolved_alert_says_when_and_after_how_long():
    over = SILENT | {"resolved_at": "2026-11-21T11:12:00+00:00"}
    assert messages.text(message(resolved=[over])) == (
        "[RESOLVED] checkout\n"
        "\n"
        "RESOLVED NOTICE: the job refresh does not run\n"
        "  Resolved at 2026-11-21 11:12 UTC after 1 day 1 hour, fired at 2026-11-20 10:00 UTC\n"
        "  Silent for more than 1 day, last seen at 2026-11-19 10:00 UTC\n"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("burn_rate", "checkout-availability no longer burns its error budget too fast"),
        ("budget_exhausted", "checkout-availability is within its error budget again"),
    ],
)
def test_a_resolved_alert_does_not_say_that_it_goes_on(kind: str, words: str):
    over = BURN | {"kind": kind, "resolved_at": "2026-11-21T11:12:00+00:00"}
    said = message(resolved=[over])
    assert messages.title(said) == f"[RESOLVED] {words}"
    assert f"RESOLVED PAGE: {words}\n" in messages.text(said)


def test_pages_come_first():
    firing, _ = messages.sections(message(SILENT, OVERRIDES, BURN))
    assert [section.badge for section in firing] == ["PAGE", "TICKET", "NOTICE"]


def test_a_test_message_says_that_it_is_a_test():
    tried = messages.test_message("ops")
    assert sorted(tried) == sorted(FIELDS)
    assert messages.title(tried) == "[TEST] a test of the channel ops"
    assert "This is a test." in messages.text(tried)
    assert "This is a test." in slack_texts(slack.payload(tried))[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (wording.factor("20.512"), "20.5x"),
        (wording.factor("1234.5"), "1,234x"),
        (wording.factor("0.01234"), "0.0123x"),
        (wording.factor(0), "0x"),
        (wording.percent("-7.8"), "-780 %"),
        (wording.percent("0.4"), "40 %"),
        (wording.percent("-0.00042"), "-0.042 %"),
        (wording.percent("1"), "100 %"),
        (wording.exact_percent("0.99899999999"), "99.89999 %"),
        (wording.duration("1 day 02:00:00"), "1 day 2 hours"),
        (wording.duration("00:05:00"), "5 minutes"),
        (wording.duration("1 hour"), "1 hour"),
        (wording.duration("3 days"), "3 days"),
        (wording.quantity("812.25", "milliseconds"), "812.2 ms"),
        (wording.instant("2026-11-21T10:00:00Z"), "2026-11-21 10:00 UTC"),
        (wording.instant("yesterday"), "yesterday"),
        (wording.decimal("NaN"), None),
        (wording.decimal("1e999999999"), None),
        (texts.line("a\r\nb\u2028c\x00\x1bd\u202ee"), "a b cde"),
    ],
)
def test_numbers_durations_and_instants_are_readable(given, said):
    assert given == said


def test_a_user_cannot_mention_anyone_or_break_out_of_markup_in_slack():
    evil = "<!channel> <@U1> `code` & <https://evil.example|click>"
    spoiled = dict.fromkeys(("rule", "severity", "subject", "service", "description", "since", "explain"), evil)
    detail = dict.fromkeys(BURN["detail"], evil)
    for kind in ("burn_rate", "kpi_threshold", "silent_jobs", evil):
        payload = slack.payload(
            message(
                spoiled | {"kind": kind, "detail": detail}, title=evil, link="https://ops.example.com/?q=<!channel>|x`y"
            )
        )
        texts: list[str] = [str(payload["text"]), *slack_texts(payload)]
        assert all(forbidden not in text for forbidden in SLACK_FORBIDDEN for text in texts)
        assert texts[-1] == "<https://ops.example.com/?q=%3C!channel%3E%7Cx%60y|Open>"
        # All that is left are our own code spans, one around each command.
        assert all(text.count("`") in {0, 2} for text in texts)
        assert json.dumps(payload).count('"verbatim": true') == len(slack_texts(payload))


def test_slack_escapes_what_a_user_wrote_and_nothing_twice():
    payload = slack.payload(message(SILENT | {"subject": "a<b & c>d"}))
    assert slack_texts(payload)[1].startswith("*NOTICE:* the job a&lt;b &amp; c&gt;d does not run\n")


def test_a_link_that_is_no_web_address_is_left_out():
    for address in ("javascript:alert(1)", "https://", "//x", "https://[", 7, None):
        assert messages.link({"link": address}) is None


@pytest.mark.parametrize("size", [1, 500, 5000])
def test_sixty_alerts_stay_within_what_slack_takes_and_the_rest_is_counted(size):
    alerts = [BURN | {"subject": f"slo-{number}", "description": "&" * size} for number in range(60)]
    payload = slack.payload(message(*alerts, link="https://ops.example.com/"))
    texts = slack_texts(payload)
    assert len(texts) <= 50
    assert all(0 < len(text) <= 3000 for text in texts)
    assert sum(map(len, texts)) < 12000
    shown = len(texts) - 3
    assert shown > 1
    assert texts[-2:] == [f"and {60 - shown} more", "<https://ops.example.com/|Open>"]


def test_a_few_alerts_are_all_shown_in_slack():
    texts = slack_texts(slack.payload(message(BURN, OVERRIDES, SILENT)))
    assert len(texts) == 4
    assert not texts[-1].startswith("and ")


def test_a_mail_shows_sixty_alerts_and_counts_those_beyond_a_hundred():
    assert "more" not in messages.text(message(*[OVERRIDES] * 60))
    assert "\n\nand 20 more\n" in messages.text(message(*[OVERRIDES] * 120))


def test_the_body_of_a_webhook_is_the_message_with_the_id_of_the_delivery():
    sent = message(BURN, title="Zahlung & <Kasse> ü")
    assert json.loads(messages.webhook_body(sent, 7)) == sent | {"delivery_id": 7}


def test_a_subject_says_what_is_wrong_and_how_much_more():
    assert messages.title(message(SILENT, BURN)) == (
        "[FIRING:2] checkout-availability burns its error budget at 20.5x, and 1 more"
    )
    assert messages.title(message(resolved=[SILENT])) == "[RESOLVED] the job refresh does not run"


def test_a_refresh_that_runs_and_only_waits_is_not_said_to_stand_still():
    waits = SILENT | {"detail": {"waiting_since": "2026-11-21T10:00:00+00:00"}}
    assert messages.title(message(waits)) == "[FIRING:1] the job refresh waits"


@pytest.mark.parametrize("text", ["a\r\nBcc: x@example.com", "a\u0085Bcc: x@example.com", "a\u2028Bcc: x@example.com"])
def test_a_title_is_one_line_whatever_its_parts_hold(text):
    spoiled = message(BURN | {"kind": None, "subject": text}, group=text)
    assert messages.title(spoiled) == messages.banner(spoiled) == "[FIRING:1] a Bcc: x@example.com"


def test_a_message_without_anything_still_reads():
    assert messages.title({}) == "a message without content"
    assert messages.title({"title": "checkout", "status": "resolved"}) == "[RESOLVED] checkout"
    assert messages.banner({"firing": [BURN]}) == "[FIRING:1] a message without content"
    assert slack_texts(slack.payload({}))[0] == "*a message without content*"


def test_an_alert_whose_rule_was_removed_says_so():
    over = SILENT | {"resolved_at": "2026-11-21T11:12:00+00:00", "detail": {"rule_is_gone": True, "last_seen_at": None}}
    assert messages.text(message(resolved=[over])).endswith("  Never seen\n  The rule is gone or switched off\n")


REMOVED = {"ended_because": "objective_removed", "ended_by": "anna", "ended_at": "2026-11-21T11:10:00+00:00"}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (REMOVED, "The objective was removed by anna at 2026-11-21 11:10 UTC"),
        (
            REMOVED | {"ended_because": "objective_disabled"},
            "The objective was disabled by anna at 2026-11-21 11:10 UTC",
        ),
        ({"ended_because": "rule_is_gone"}, "The rule is gone or switched off"),
        ({"ended_because": "no_longer_asked"}, "No rule asks about it any more"),
        (
            {"ended_because": "group_is_over"},
            "The group is over: nothing of it is in the window of the objective any more",
        ),
    ],
)
def test_an_alert_that_ended_says_why_and_never_that_it_is_resolved(reason: dict[str, str], words: str):
    over = BURN | {"resolved_at": "2026-11-21T11:12:00+00:00", "detail": BURN["detail"] | reason}
    said = message(ended=[over], status="ended")
    assert messages.title(said) == "[ENDED] checkout-availability burns its error budget at 20.5x"
    lines = messages.text(said).splitlines()
    assert lines[2] == "ENDED PAGE: checkout-availability burns its error budget at 20.5x"
    assert "  Ended at 2026-11-21 11:12 UTC after 1 hour 12 minutes, fired at 2026-11-21 10:00 UTC" in lines
    assert f"  {words}" in lines
    for text in (messages.title(said), messages.text(said), str(slack.payload(said))):
        assert "resolved" not in text.lower()
    assert not messages.is_resolved(said)


@pytest.mark.parametrize("kind", ["burn_rate", "budget_exhausted", "silent_input"])
def test_an_alert_of_a_group_names_it_wherever_the_objective_is_named(kind: str):
    alert = BURN | {
        "kind": kind,
        "group": "team=pay workflow=<!channel>",
        "slo_group": {"team": "pay", "workflow": "<!channel>"},
    }
    name = "checkout-availability team=pay workflow=<!channel>"
    said = message(alert)
    at = datetime(2026, 11, 21, tzinfo=UTC)
    sent = Delivery(1, 1, UUID(int=0), "on-call", "email", "SECRET", {}, "checkout", at, said)
    mail = email.compose(sent, Address("", "a", "example.org"), [Address("", "b", "example.org")])
    shown = [messages.title(said), messages.text(said), str(mail["Subject"]), mail.get_content()]
    assert [name in text for text in shown] == [True] * 4
    assert slack.escape(name) in str(slack.payload(said)["blocks"])
    assert json.loads(messages.webhook_body(said, 1))["firing"][0]["slo_group"] == alert["slo_group"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1e400", "-7.8", "<!here>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
details = st.fixed_dictionaries(
    {}, optional=dict.fromkeys([*BURN["detail"], *OVERRIDES["detail"], *SILENT["detail"]], anything)
)
kinds = st.sampled_from(
    ["burn_rate", "budget_exhausted", "kpi_threshold", "silent_input", "silent_agents", "silent_jobs"]
)
alerts = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(BURN, anything) | {"kind": kinds | anything, "detail": details | anything}
)
spoiled = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(FIELDS, anything)
    | dict.fromkeys(["firing", "resolved", "ended"], st.lists(alerts | anything)),
)


@settings(deadline=None, max_examples=40)
@given(spoiled=spoiled)
def test_rendering_never_fails_and_never_lets_control_characters_or_mentions_through(spoiled):
    title, text, payload = messages.title(spoiled), messages.text(spoiled), slack.payload(spoiled)
    assert title.isprintable() or not any(ord(character) < 32 for character in title)
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    text.encode()
    messages.webhook_body(spoiled, 1)
    assert all(
        forbidden not in shown for forbidden in SLACK_FORBIDDEN for shown in [payload["text"], *slack_texts(payload)]
    )
    assert all(shown for shown in slack_texts(payload))
