"""The pages of the dashboard in one table: their sections in order, and the pieces and filters of each.

To add a section, name it here with the pieces that it shows and write `templates/sections/NAME.html`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: `pieces` names what it reads of `pieces.SOURCES`; `of_one_slo` hides it until one is chosen."""

    name: str
    pieces: tuple[str, ...]
    of_one_slo: bool = False

    @property
    def id(self) -> str:
        """The id of its element on the page."""
        return self.name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its title, the filters that apply to its counts, and its sections in order."""

    title: str
    filters: tuple[str, ...]
    sections: tuple[Section, ...]

    def shown(self, slo: str) -> list[Section]:
        """The sections, those of one objective only when `slo` names one."""
        return [section for section in self.sections if slo or not section.of_one_slo]


# The window is the page's own, the choices are those of its filters.
EVERYWHERE = ("window", "choices")
FRESHNESS = Section("freshness", ("freshness",))
OBJECTIVES = Section("slos", ("status",))
OPEN_ALERTS = Section("open_alerts", ("alerts",))

PAGES: Mapping[str, Page] = {
    "overview": Page(
        "Overview",
        ("team", "hook_type", "workflow", "event_type"),
        (
            FRESHNESS,
            Section("tiles", ("kpis",)),
            OBJECTIVES,
            OPEN_ALERTS,
            Section("activity", ("activity",)),
        ),
    ),
    "hooks": Page(
        "Hooks",
        ("team", "hook_type"),
        (
            FRESHNESS,
            Section("hook_tiles", ("kpis",)),
            Section("hook_charts", ("kpis",)),
            Section("patterns", ("patterns",)),
            Section("teams", ("teams",)),
            Section("policies", ("policies",)),
        ),
    ),
    "supply-chain": Page(
        "Supply chain",
        ("workflow",),
        (
            FRESHNESS,
            Section("chain_tiles", ("kpis",)),
            Section("chain_charts", ("kpis",)),
            Section("failures", ("audit_failures",)),
        ),
    ),
    "slo": Page(
        "SLO",
        (),
        (
            FRESHNESS,
            OBJECTIVES,
            Section("burn_rates", ("burn_rates",)),
            Section("burndown", ("burndown",), of_one_slo=True),
            Section("exclusions", ("status", "exclusions"), of_one_slo=True),
            Section("explain", ("explain",), of_one_slo=True),
        ),
    ),
    "alerts": Page(
        "Alerts",
        (),
        (
            FRESHNESS,
            OPEN_ALERTS,
            Section("history", ("alerts",)),
            Section("silences", ("silences",)),
            Section("deliveries", ("deliveries",)),
        ),
    ),
}


def pieces_of(sections: Iterable[Section]) -> list[str]:
    """The pieces that a page of these sections asks for, each once."""
    return list(dict.fromkeys([*EVERYWHERE, *(piece for section in sections for piece in section.pieces)]))
