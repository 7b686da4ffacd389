"""What a message of the outbox says, as one line, as plain text and as the body of a webhook.

A message is the JSON that the database wrote: title, kind, status, org_id, group, link, and the alerts firing, resolved
and ended, or the facts of a week. Any part of it may be missing or of another type; rendering leaves it out and never
fails.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from opskpi import texts
from opskpi.alerting import summaries, wording
from opskpi.alerting.outcomes import Message
from opskpi.alerting.summaries import Part

SEVERITIES = ("page", "ticket", "notice")
NIL_ORG = "00000000-0000-0000-0000-000000000000"
MOST_ALERTS = 100


@dataclass(frozen=True, slots=True)
class Section:
    """What there is to say of one alert: what it is, how bad, and the command that explains it, all without markup."""

    badge: str
    heading: str
    facts: tuple[str, ...]
    command: str | None


def title(message: Message) -> str:
    """One line, for a subject or a notification: `[FIRING:2] checkout burns its error budget at 20.5x, and 1 more`."""
    firing, over = sections(message)
    alerts = firing or over
    more = f", and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    return _labelled(message, alerts[0].heading + more if alerts else None)


def banner(message: Message) -> str:
    """One line above the alerts themselves: `[FIRING:2] checkout`."""
    return _labelled(message, texts.line(message.get("group"), 150))


def text(message: Message) -> str:
    """Plain text of some lines an alert, those that page first, at most 100 alerts."""
    firing, over = sections(message)
    shown = [*firing, *over][:MOST_ALERTS]
    paragraphs = [banner(message), *_summary(message)]
    for section in shown:
        command = [f"Explain: {section.command}"] if section.command else []
        details = (f"  {fact}" for fact in (*section.facts, *command))
        paragraphs.append("\n".join((f"{section.badge}: {section.heading}", *details)))
    if not shown and message.get("kind") == "test":
        paragraphs.append("This is a test. The channel works; nothing is wrong.")
    if left_out := len(firing) + len(over) - len(shown):
        paragraphs.append(f"and {left_out} more")
    if address := link(message):
        paragraphs.append(address)
    return "\n\n".join(paragraphs) + "\n"


def webhook_body(message: Message, delivery_id: int) -> bytes:
    """The message as it stands in the outbox, with the id of the delivery: a JSON object in ASCII."""
    return json.dumps({**message, "delivery_id": delivery_id}, default=str, separators=(",", ":")).encode("ascii")


def test_message(channel_name: str) -> dict[str, object]:
    """The message by which a user tries a channel; it has the shape of any other and no alert in it."""
    return {
        "title": f"a test of the channel {channel_name}",
        "kind": "test",
        "status": "firing",
        "org_id": None,
        "group": "test",
        "link": None,
        "firing": [],
        "resolved": [],
        "ended": [],
    }


def sections(message: Message) -> tuple[list[Section], list[Section]]:
    """The alerts that fire and those that are over, in words: resolved, then ended; pages first in each."""
    firing = [_section(alert) for alert in _alerts(message.get("firing"))]
    resolved = [_section(alert, over="resolved") for alert in _alerts(message.get("resolved"))]
    ended = [_section(alert, over="ended") for alert in _alerts(message.get("ended"))]
    return firing, resolved + ended


def is_resolved(message: Message) -> bool:
    """Nothing fires any more, and something was found to be over; an alert that ended proves nothing."""
    return not _alerts(message.get("firing")) and bool(_alerts(message.get("resolved")))


def parts(message: Message) -> list[Part]:
    """The parts of the summary of a week; none for any other message."""
    if message.get("kind") != "summary":
        return []
    return summaries.parts(message, [_fired(alert) for alert in _alerts(summaries.alerts(message))])


def link(message: Message) -> str | None:
    """The http or https address of the message, with what could end it in a text percent-encoded."""
    address = texts.line(message.get("link"), 1000)
    try:
        parts = urlsplit(address or "")
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return None
    return quote(parts.geturl(), safe="/:?#[]@!$&'()*+,;=%-._~")


def _labelled(message: Message, line: str | None) -> str:
    given = texts.line(message.get("title"), 150)
    if message.get("kind") == "test":
        return f"[TEST] {given or 'a test'}"
    is_summary = message.get("kind") == "summary"
    tenant = texts.line(message.get("org_id"), 40)
    words = (summaries.title(message) if is_summary else line or given or "a message without content") + (
        f" (org {tenant})" if tenant and tenant != NIL_ORG else ""
    )
    if is_summary:
        return f"[SUMMARY] {words}"
    if firing := _alerts(message.get("firing")):
        return f"[FIRING:{len(firing)}] {words}"
    if is_resolved(message) or message.get("status") == "resolved":
        return f"[RESOLVED] {words}"
    return f"[ENDED] {words}" if _alerts(message.get("ended")) or message.get("status") == "ended" else words


def _summary(message: Message) -> list[str]:
    """The paragraphs of a summary."""
    paragraphs: list[str] = []
    for part in parts(message):
        lines = [f"  {line}" for line in part.lines[:MOST_ALERTS]]
        more = part.left_out + len(part.lines) - len(lines)
        paragraphs.append("\n".join((part.heading, *lines, *([f"  and {more} more"] if more else []))))
    return paragraphs


def _fired(alert: Mapping[str, object]) -> str:
    """An alert in one line, over or not."""
    section = _section(alert)
    ended = _detail(alert).get("ended_because") is not None
    since = _since(alert, over=("ended" if ended else "resolved") if alert.get("resolved_at") is not None else None)
    return f"{section.badge}: {section.heading}" + (f", {since[:1].lower()}{since[1:]}" if since else "")


def _alerts(value: object) -> list[Mapping[str, object]]:
    alerts = [alert for alert in value if isinstance(alert, Mapping)] if isinstance(value, list) else []
    return sorted(alerts, key=lambda alert: (*SEVERITIES, alert.get("severity")).index(alert.get("severity")))


def _detail(alert: Mapping[str, object]) -> Mapping[str, object]:
    found = alert.get("detail")
    return found if isinstance(found, Mapping) else {}


def _section(alert: Mapping[str, object], *, over: str | None = None) -> Section:
    detail = _detail(alert)
    service = texts.line(alert.get("service"), 100)
    version = wording.count(alert.get("slo_version"))
    rule = texts.line(alert.get("rule"), 100)
    facts = (
        texts.line(alert.get("description"), 500),
        _since(alert, over=over),
        _burn(detail),
        _taken(detail),
        _sli(detail),
        _budget(detail),
        _value(alert, detail),
        _silence(alert, detail),
        _waiting(detail),
        _ending(detail),
        _joined(service and f"Service: {service}", rule and f"Rule: {rule}", version and f"SLO version: {version}"),
    )
    severity = (texts.line(alert.get("severity"), 20) or "alert").upper()
    return Section(
        badge=f"{over.upper()} {severity}" if over else severity,
        heading=_mended(alert) or _heading(alert, detail) if over == "resolved" else _heading(alert, detail),
        facts=tuple(fact for fact in facts if fact),
        command=texts.line(alert.get("explain"), 500),
    )


def _mended(alert: Mapping[str, object]) -> str | None:
    """The opposite of the heading, where the figures of a resolved alert would contradict it."""
    subject = texts.line(alert.get("subject"), 150) or "an unnamed subject"
    known = {
        "burn_rate": f"{subject} no longer burns its error budget too fast",
        "budget_exhausted": f"{subject} is within its error budget again",
    }
    return known.get(str(alert.get("kind")))


def _heading(alert: Mapping[str, object], detail: Mapping[str, object]) -> str:
    subject = texts.line(alert.get("subject"), 150) or "an unnamed subject"
    # Of an objective with groups, each of which is alerted on by itself.
    if group := texts.line(alert.get("group"), 250):
        subject = f"{subject} {group}"
    rate = wording.factor(detail.get("burn_rate_long"))
    known = {
        "burn_rate": f"{subject} burns its error budget" + (f" at {rate}" if rate else ""),
        "budget_exhausted": f"{subject} has used up its error budget",
        "kpi_threshold": f"{subject} is {_limit(detail) or 'beyond its threshold'}",
        "silent_input": f"no events arrive for {subject}",
        "silent_agents": f"nothing arrives from the agent {subject}",
        "silent_jobs": f"the job {subject} {'waits' if detail.get('waiting_since') else 'does not run'}",
    }
    return known.get(str(alert.get("kind")), subject)


def _ending(detail: Mapping[str, object]) -> str | None:
    """Why an alert ended without anybody knowing whether it is over."""
    because = detail.get("ended_because")
    verb = {"objective_removed": "removed", "objective_disabled": "disabled"}.get(str(because))
    if verb:
        author, at = texts.line(detail.get("ended_by"), 200), wording.instant(detail.get("ended_at"))
        return f"The objective was {verb}" + (f" by {author}" if author else "") + (f" at {at}" if at else "")
    if because == "group_is_over":
        return "The group is over: nothing of it is in the window of the objective any more"
    if because == "rule_is_gone" or detail.get("rule_is_gone") is True:
        return "The rule is gone or switched off"
    return "No rule asks about it any more" if because == "no_longer_asked" else None


def _since(alert: Mapping[str, object], *, over: str | None) -> str | None:
    since, resolved_at = alert.get("since"), alert.get("resolved_at")
    if not over:
        return f"Since {wording.instant(since)}" if wording.instant(since) else None
    lapse = wording.lapse(since, resolved_at)
    return _joined(
        wording.instant(resolved_at)
        and f"{over.capitalize()} at {wording.instant(resolved_at)}" + (f" after {lapse}" if lapse else ""),
        wording.instant(since) and f"fired at {wording.instant(since)}",
    )


def _burn(detail: Mapping[str, object]) -> str | None:
    windows = [
        f"{rate} over {window}"
        for name in ("long", "short")
        if (rate := wording.factor(detail.get(f"burn_rate_{name}")))
        and (window := wording.duration(detail.get(f"{name}_window")))
    ]
    limit = wording.factor(detail.get("factor"))
    return f"Burn rate: {' and '.join(windows)}" + (f" (alerts above {limit})" if limit else "") if windows else None


def _taken(detail: Mapping[str, object]) -> str | None:
    """The share that the long window took of the budget of the whole SLO window."""
    bad, total = wording.count(detail.get("bad_long")), wording.count(detail.get("total_long"))
    window, share = wording.duration(detail.get("long_window")), wording.percent(detail.get("budget_taken"))
    if bad is None or total is None:
        return None
    return (
        f"Bad: {bad} of {total}"
        + (f" in {window}" if window else "")
        + (f", {share} of the error budget" if share else "")
    )


def _sli(detail: Mapping[str, object]) -> str | None:
    sli, target = wording.exact_percent(detail.get("sli")), wording.exact_percent(detail.get("target"))
    good, total = wording.count(detail.get("good")), wording.count(detail.get("total"))
    counts = f"{good} good of {total}" if good and total else None
    if sli is None:
        return f"SLI: none, {counts}" if counts else None
    return f"SLI: {sli}" + (f" against a target of {target}" if target else "") + (f" ({counts})" if counts else "")


def _budget(detail: Mapping[str, object]) -> str | None:
    left, status = wording.percent(detail.get("budget_left")), texts.line(detail.get("status"), 40)
    return _joined(left and f"Error budget left: {left}", status and f"status: {status}")


def _limit(detail: Mapping[str, object]) -> str | None:
    threshold = wording.quantity(detail.get("threshold"), detail.get("unit"))
    comparison = wording.COMPARISONS.get(str(detail.get("comparison")))
    return f"{comparison} {threshold}" if comparison and threshold else None


def _value(alert: Mapping[str, object], detail: Mapping[str, object]) -> str | None:
    value = wording.quantity(detail.get("value"), detail.get("unit"))
    if value is None or alert.get("kind") != "kpi_threshold":
        return None
    limit, lasting = _limit(detail), wording.duration(detail.get("lasting"))
    return f"Value: {value}" + (f", {limit}" if limit else "") + (f" for {lasting}" if lasting else "")


def _waiting(detail: Mapping[str, object]) -> str | None:
    """For which transactions the counting waits, and how to end them."""
    writers, since = texts.line(detail.get("waits_for"), 500), wording.instant(detail.get("waiting_since"))
    return f"Waits{f' since {since}' if since else ''} for {writers}" if writers else None


def _silence(alert: Mapping[str, object], detail: Mapping[str, object]) -> str | None:
    if not str(alert.get("kind")).startswith("silent_"):
        return None
    silent_for, last = wording.duration(detail.get("silent_for")), wording.instant(detail.get("last_seen_at"))
    seen = f"last seen at {last}" if last else "never seen"
    return f"Silent for more than {silent_for}, {seen}" if silent_for else seen.capitalize()


def _joined(*parts: str | None) -> str | None:
    return ", ".join(part for part in parts if part) or None
