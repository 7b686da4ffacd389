"""The pages of the dashboard as one file that asks for nothing: the same sections, from one snapshot of one org."""

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from markupsafe import Markup
from psycopg.rows import scalar_row

from opskpi.dashboard import figures, formats, pages, pieces
from opskpi.dashboard.figures import Promise
from opskpi.dashboard.layout import FRESHNESS, PAGES
from opskpi.dashboard.pages import Data
from opskpi.dashboard.pieces import Rows
from opskpi.dashboard.view import View
from opskpi.postgres import connecting

Ask = Callable[[LiteralString, Mapping[str, object]], Rows]
NIL_ORG = UUID(int=0)
# Of these it is worth knowing where the budget went.
BURNING = ("breached", "at_risk")
TITLE = re.compile(r'<h2[^>]*>(?P<heading>.*?)</h2>|^<section[^>]* aria-label="(?P<label>[^"]*)"')
HEADING = re.compile(r"<(/?)h([23])\b")
TEXT = re.compile(r">[^<>]*\w[^<>]*<")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a report is made of: the answers to the pieces of each page, all as of one instant."""

    at: datetime
    by_page: Mapping[str, Data]
    burndowns: Mapping[Promise, Rows]

    @property
    def window(self) -> tuple[datetime, datetime]:
        """What is covered: whole periods, but for one that is not over."""
        span = self.by_page["overview"]["window"][0]
        start, end = figures.instant(span["window_start"]), figures.instant(span["window_end"])
        return start, min(end, self.at) if self.at > start else end


@dataclass(frozen=True, slots=True)
class Part:
    """A section as the report has it: where a link finds it, what it is called, its HTML."""

    id: str
    title: str
    html: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """A page as the report has it; `scope` says what its filters are."""

    id: str
    title: str
    scope: str
    sections: list[Part]


def read(connection: psycopg.Connection, view: View, org_id: UUID) -> Answers:
    """Ask for all pages in one snapshot that nothing else changes. Raises psycopg.Error.

    42501 for a role that RLS binds: it would see a part of the org, or another one, and show it as the whole.
    """
    connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
    try:
        with connecting.unfiltered(connection), connection.cursor(row_factory=scalar_row) as cursor:

            def ask(query: LiteralString, parameters: Mapping[str, object]) -> Rows:
                return pieces.read(str(cursor.execute(query, parameters).fetchone()))

            (now,) = cursor.execute("select now()").fetchall()
            by_page = _by_page(view, org_id, now, ask)
            return Answers(now, by_page, _read_burndowns(by_page["slo"]["status"], org_id, ask))
    finally:
        connection.isolation_level = connection.read_only = None


def render(view: View, answers: Answers, org_id: UUID) -> str:
    """The whole file, which opens from a disk: its style is in it, it has no script, and its links stay in it."""
    burndown_ids = {promise: f"slo-burndown-{number}" for number, promise in enumerate(answers.burndowns, 1)}
    ends = [formats.instant(end.replace(second=0, microsecond=0), view.zone) for end in answers.window]
    shared: dict[str, Any] = {
        "window_text": " to ".join(ends),
        "objective_link": lambda promise: f"#{burndown_ids[promise]}" if promise in burndown_ids else None,
    }
    contexts = {
        page: pages.context_of(replace(view, page=page), data) | shared for page, data in answers.by_page.items()
    }
    chapters = [
        Chapter(page, PAGES[page].title, _scope(view, page), list(_parts(page, contexts[page]))) for page in PAGES
    ]
    slo = next(chapter for chapter in chapters if chapter.id == "slo")
    slo.sections.extend(_burndowns(view, answers, burndown_ids, shared))
    style = (importlib.resources.files("opskpi.dashboard") / "static" / "opskpi.css").read_text("utf-8")
    return (
        pages.templates()
        .get_template("report.html")
        .render(
            contexts["overview"],
            chapters=chapters,
            freshness=pages.html_of(FRESHNESS.name, contexts["overview"], FRESHNESS.id),
            made_at=formats.instant(answers.at.replace(microsecond=0), view.zone),
            org="" if org_id == NIL_ORG else f"organisation {org_id}",
            style=style,
            style_sha256=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
        )
    )


def _by_page(view: View, org_id: UUID, now: datetime, ask: Ask) -> dict[str, Data]:
    """The answers of each page; what several pages show is asked for once."""
    known: dict[tuple[str, ...], Rows] = {}
    by_page: dict[str, Data] = {}
    for page in PAGES:
        wanted = pieces.of_view(replace(view, page=page, slo=""), org_id, now)
        # There are no filters to choose from.
        wanted = [piece for piece in wanted if piece.name != "choices"]
        for piece in wanted:
            if piece.key not in known:
                known[piece.key] = ask(piece.query, piece.parameters)
        by_page[page] = {piece.name: known[piece.key] for piece in wanted}
    return by_page


def _parts(page: str, context: dict[str, Any]) -> Iterable[Part]:
    for section in PAGES[page].shown(slo=""):
        # How fresh it is stands once at the top.
        if section is not FRESHNESS:
            yield from _part(section.name, context, f"{page}-{section.id}")


def _read_burndowns(status: Rows, org_id: UUID, ask: Ask) -> dict[Promise, Rows]:
    """The days of the objectives and groups that burn and are shown, in the order of their status."""
    shown = set(figures.worst_groups(status)[0])
    burning = {
        promise: row["slo_group"]
        for row in status
        if row["status"] in BURNING and (promise := figures.promise_of(row)) in shown
    }
    if not burning:
        return {}
    slo_groups = [json.dumps(group) for group in burning.values()]
    asked = {"org_id": org_id, "slos": [name for name, _ in burning], "slo_groups": slo_groups}
    days = figures.by_promise(ask(pieces.query_of(pieces.BURNDOWNS), asked))
    return {promise: days.get(promise, []) for promise in burning}


def _burndowns(view: View, answers: Answers, ids: Mapping[Promise, str], shared: dict[str, Any]) -> Iterable[Part]:
    window = answers.by_page["slo"]["window"]
    for promise, rows in answers.burndowns.items():
        of_one = replace(view, page="slo", slo=promise[0], group=promise[1])
        context = pages.context_of(of_one, {"window": window, "burndown": rows}) | shared
        yield from _part("burndown", context, ids[promise])


def _part(name: str, context: dict[str, Any], section_id: str) -> Iterable[Part]:
    """A section, unless there is nothing in it."""
    html = pages.html_of(name, context, section_id)
    if TEXT.search(html) is None:
        return
    found = TITLE.search(html)
    # It was escaped when it was put in.
    title = Markup((found["heading"] or found["label"]) if found else name)  # noqa: S704
    # On its page a section stands below the name of the page, here below a chapter; what users wrote holds no tag.
    yield Part(section_id, title, HEADING.sub(lambda tag: f"<{tag[1]}h{int(tag[2]) + 1}", html))


def _scope(view: View, page: str) -> str:
    """Which filters a page has; nothing where the report has none."""
    known = ("team", "hook_type", "workflow", "event_type")
    chosen = [f"{name.replace('_', ' ')} {value}" for name in PAGES[page].filters if (value := getattr(view, name))]
    if chosen:
        return f"KPIs and charts of {', '.join(chosen)} only."
    return "The filters of this report do not apply here." if any(getattr(view, name) for name in known) else ""
