"""The pages: sections of HTML made of what the pieces answered, each with an id by which it is exchanged."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from opskpi.dashboard import charts, figures, formats
from opskpi.dashboard.layout import PAGES
from opskpi.dashboard.pieces import EVENTS_EXPLAINED, Rows
from opskpi.dashboard.view import PERIODS, RANGE_NAMES, THEMES, View

Data = Mapping[str, Rows]
HOOK_KPIS = (
    "hook_executions_total",
    "hook_block_rate",
    "hook_override_rate",
    "hook_avg_duration_ms",
    "hook_p95_duration_ms",
)
RATE_KPIS = (
    "provenance_success_rate", "provenance_failure_rate", "provenance_validation_rate", "audit_success_rate",
    "sha256_verification_rate", "predicate_type_verification_rate", "supabase_sync_rate",
)  # fmt: skip
DURATION_KPIS = (
    "provenance_avg_duration_ms", "provenance_p95_duration_ms",
    "workflow_run_avg_duration_ms", "workflow_run_p95_duration_ms",
)  # fmt: skip
SIZE_KPIS = ("artifact_avg_size_bytes",)
API_KPIS = ("api_avg_response_ms", "api_p95_response_ms")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A section as HTML: its id, and the element with that id."""

    id: str
    html: str


@functools.cache
def templates() -> Environment:
    """The templates, which escape whatever is put into them."""
    environment = Environment(
        loader=PackageLoader("opskpi.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        formats=formats, charts=charts, zip=zip, version=metadata.version("opskpi"), COLOURS=charts.COLOURS,
        PAGES=PAGES, RANGES=RANGE_NAMES, PERIODS=PERIODS, THEMES=THEMES,
        events_explained=EVENTS_EXPLAINED,
    )  # fmt: skip
    return environment


def sections(view: View, data: Data) -> list[Rendered]:
    """The sections of a view, in order, from the answers to its pieces."""
    context = context_of(view, data)
    shown = PAGES[view.page].shown(view.slo)
    return [Rendered(section.id, html_of(section.name, context, section.id)) for section in shown]


def page(view: View, data: Data, *, shown: list[Rendered], reader: Mapping[str, Any]) -> str:
    """The whole page; `reader` says who is looking and holds the token of its forms."""
    choices: dict[str, list[str]] = {}
    for row in data["choices"]:
        choices.setdefault(row["filter"], []).append(row["choice"])
    template = templates().get_template("page.html")
    return template.render(context_of(view, data) | {"sections": shown, "choices": choices, "reader": reader})


def message(
    title: str, text: str, hint: str, *, view: View | None = None, reader: Mapping[str, Any] | None = None
) -> str:
    """A page that says what went wrong and what to do about it."""
    view = view or View()
    return templates().get_template("message.html").render(view=view, title=title, text=text, hint=hint, reader=reader)


def login(view: View, *, fault: str, where_to: str, takes_tokens: bool) -> str:
    """The page that asks for a key."""
    template = templates().get_template("login.html")
    return template.render(view=view, fault=fault, where_to=where_to, takes_tokens=takes_tokens, reader=None)


def html_of(name: str, context: Mapping[str, Any], section_id: str) -> str:
    """The HTML of a section, with that id, from what `context_of` gives."""
    return templates().get_template(f"sections/{name}.html").render(context, id=section_id)


def _promises(view: View, status: Rows) -> dict[str, Any]:
    """The objectives and groups that the tables show, and the one that is chosen; None where there is none such."""
    chosen = (view.slo, view.group)
    shown, others = figures.worst_groups(status, chosen)
    rows = figures.by_promise(status)
    return {
        "shown": shown,
        "unshown": rows.keys() - set(shown),
        "others": others,
        "status_rows": {promise: rows[promise][0] for promise in shown},
        "chosen": rows[chosen][0] if chosen in rows else None,
        "groups_of_chosen": [(f"{name} {group}", group) for name, group in shown if name == view.slo and group],
        "must_choose": chosen not in rows and any(name == view.slo for name, _ in rows),
    }


def context_of(view: View, data: Data) -> dict[str, Any]:
    """What the templates of a view's sections know."""
    window = figures.window_of(data["window"][0], view)
    context: dict[str, Any] = {"view": view, "data": data, "window": window, "window_text": window.text}
    context["objective_link"] = lambda promise: view.link("slo", slo=promise[0], group=promise[1])
    context["promise_of"] = figures.promise_of
    context["day"] = lambda text: formats.period_name(figures.instant(text), "day", window.zone)
    context["at"] = functools.partial(figures.at, zone=view.zone)
    if "kpis" in data:
        context["kpis"] = figures.kpis(data["kpis"], window)
        context["groups"] = {
            "hooks": HOOK_KPIS, "rates": RATE_KPIS, "durations": DURATION_KPIS, "sizes": SIZE_KPIS, "api": API_KPIS,
        }  # fmt: skip
        context["kpi_chart"] = functools.partial(figures.kpi_chart, window=window)
    if "activity" in data:
        context["activity"] = figures.activity(data["activity"], window)
    if "teams" in data:
        context["team_rows"], context["team_chart"] = figures.teams(data["teams"], window)
    context |= _promises(view, data.get("status", []))
    if "burn_rates" in data:
        rates = figures.by_promise(data["burn_rates"], context["shown"])
        context["burn_rows"] = {promise: rates[promise] for promise in rates if promise not in context["unshown"]}
    if "burndown" in data:
        context["burndown_chart"] = figures.burndown(data["burndown"], window)
    return context
