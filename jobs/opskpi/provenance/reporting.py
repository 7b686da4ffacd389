"""A report as lines for a person, as Markdown for a pull request, and as an object for machines."""

import re
from dataclasses import asdict
from typing import Any

from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import Check, Status
from opskpi.provenance.envelopes import shown

_MARKS = {Status.PASS: "pass", Status.FAIL: "FAIL", Status.UNSUPPORTED: "unsupported", Status.NOT_ASKED: "not asked"}
_PLAIN = re.compile(r"[^A-Za-z0-9 ]")


def lines(report: Report) -> list[str]:
    """One line a check, under the name of its envelope, then the verdict; safe to print on a terminal."""
    found: list[str] = []
    for provenance in report.provenances:
        found.append(shown(provenance.place))
        found += [f"  {_line(check)}" for check in provenance.checks]
    found += [_line(check) for check in report.digests]
    return [*found, f"verdict: {_verdict(report)}"]


def markdown(report: Report) -> str:
    """A table of the checks, in which no text of a stranger is Markdown, HTML, a mention or a link."""
    mark = "\u2705" if report.verdict is Verdict.PASS else "\u274c"
    rows = [_row(provenance.place, check) for provenance in report.provenances for check in provenance.checks] + [
        _row(", ".join(artifact.name for artifact in report.artifacts), check) for check in report.digests
    ]
    return "\n".join(
        [
            f"### {mark} Provenance audit: {_verdict(report)}",
            "",
            "| about | check | result | expected | found |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def as_object(report: Report) -> dict[str, Any]:
    """The report as it is printed with --json."""
    return {
        "verdict": str(report.verdict),
        "provenance": [
            {
                "place": shown(provenance.place),
                "subjects": [asdict(subject) for subject in provenance.statement.subjects]
                if provenance.statement
                else [],
                "predicate_type": provenance.statement.predicate_type if provenance.statement else None,
                "claims": asdict(provenance.claims),
                "checks": [_plain(check) for check in provenance.checks],
            }
            for provenance in report.provenances
        ],
        "digests": [_plain(check) for check in report.digests],
    }


def escaped(text: str) -> str:
    """A text as Markdown shows it literally: every character that could mean something is an entity."""
    return _PLAIN.sub(lambda found: f"&#{ord(found[0])};", shown(text)) if text else ""


def _verdict(report: Report) -> str:
    """The verdict, with what a pass leaves unverified: nothing passes in silence."""
    unverified = dict.fromkeys(check.name for check in report.checks if check.status is Status.UNSUPPORTED)
    left = f", not verified: {', '.join(unverified)}" if report.verdict is Verdict.PASS and unverified else ""
    return f"{report.verdict}{left}"


def _line(check: Check) -> str:
    text = f"{_MARKS[check.status]:<11} {check.name}"
    if check.status is Status.FAIL:
        return f"{text}: expected {check.expected}, found {check.found}"
    return f"{text}: {check.found}" if check.found else text


def _row(about: str, check: Check) -> str:
    cells = (about, check.name, _MARKS[check.status], check.expected, check.found)
    return f"| {' | '.join(f'<code>{escaped(cell)}</code>' if cell else '' for cell in cells)} |"


def _plain(check: Check) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(check).items()}
