"""What a page shows, as its URL says it: range, period, filters, time zone and theme. A view is a link."""

import unicodedata
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from opskpi import groups
from opskpi.errors import ExitCode, OpsKpiError

RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
RANGE_NAMES = {
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "custom": "From and to",
}
PERIODS = ("hour", "day", "week", "month")
# Up to this length a window is cut into periods of that kind unless the URL names another.
COARSEST = {"hour": timedelta(days=2), "day": timedelta(days=120), "week": timedelta(days=900)}
THEMES = ("auto", "light", "dark")
LONGEST_FILTER = 200
# Two keys with values of 100 characters, each of which may take six in JSON.
LONGEST_GROUP = 1500


@dataclass(frozen=True, slots=True)
class View:
    """A view of a page. Empty texts are filters that are not set; `period` empty: as suits the range.

    `group` is the name of a group of the objective `slo`.
    """

    page: str = "overview"
    range: str = "7d"
    since: datetime | None = None
    until: datetime | None = None
    period: str = ""
    team: str = ""
    hook_type: str = ""
    workflow: str = ""
    event_type: str = ""
    slo: str = ""
    group: str = ""
    zone: str = "UTC"
    theme: str = "auto"

    @property
    def clock(self) -> zoneinfo.ZoneInfo:
        """The zone on whose clocks instants are shown."""
        return zoneinfo.ZoneInfo(self.zone)

    def window(self, now: datetime) -> tuple[datetime, datetime]:
        """The half-open window as of an instant, before it is widened to whole periods."""
        if self.range == "custom" and self.since and self.until:
            return self.since, self.until
        return now - RANGES[self.range], now

    def effective_period(self) -> str:
        """The period by which the window is cut."""
        if self.period:
            return self.period
        since, until = self.window(datetime(2000, 1, 1, tzinfo=UTC))
        return next((period for period, longest in COARSEST.items() if until - since <= longest), "month")

    def labels(self, *names: str) -> dict[str, str]:
        """Those of the filters that are set, as labels of events; all of them unless some are named."""
        names = names or ("team", "hook_type", "workflow")
        return {name: value for name in names if (value := getattr(self, name))}

    def query(self, **changes: str) -> str:
        """The view as a URL's query, with some of it changed; what is as it would be anyway is left out.

        Another objective has other groups.
        """
        changed = replace(self, **({"group": ""} if "slo" in changes else {}) | changes)
        default = View()
        said = {
            field.name: _written(getattr(changed, field.name))
            for field in fields(View)
            if field.name != "page" and getattr(changed, field.name) != getattr(default, field.name)
        }
        return urlencode({("tz" if name == "zone" else name): text for name, text in said.items()})

    def link(self, page: str, **changes: str) -> str:
        """The URL, relative to the hub's root, of another page with the same filters."""
        query = self.query(**changes)
        path = "" if page == "overview" else page
        return f"/{path}?{query}" if query else f"/{path}"


def parse(page: str, said: Mapping[str, str]) -> View:
    """The view that a URL's query names. Raises OpsKpiError (64) with the parameter at fault and what it takes."""
    known = {"tz", *(field.name for field in fields(View))} - {"page", "zone"}
    if unknown := sorted(set(said) - known):
        raise _refused(unknown[0], "is no filter of this page", f"Filters are {', '.join(sorted(known))}.")
    # Names are as events have them, white space and all.
    chosen = {name: text for name, text in said.items() if text.strip()}
    for name, text in chosen.items():
        if name == "group":
            continue
        if len(text) > LONGEST_FILTER or any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
            raise _refused(name, "is too long or holds control characters", "Choose one of the list.")
    view = View(
        page=page,
        range=_one_of("range", chosen.get("range", "7d"), RANGE_NAMES),
        period=_one_of("period", chosen.get("period", ""), ("", *PERIODS)),
        zone=_zone(chosen.get("tz", "UTC")),
        theme=_one_of("theme", chosen.get("theme", "auto"), THEMES),
        team=chosen.get("team", ""),
        hook_type=chosen.get("hook_type", ""),
        workflow=chosen.get("workflow", ""),
        event_type=chosen.get("event_type", ""),
        slo=chosen.get("slo", ""),
        group=_group(chosen.get("group", ""), chosen.get("slo", "")),
    )
    if view.range != "custom":
        return view
    since, until = (_instant(name, chosen.get(name), view.zone) for name in ("since", "until"))
    if since >= until:
        raise _refused("until", "is not after since", "Choose an end after the beginning.")
    return replace(view, since=since, until=until)


def local(instant: datetime, zone: str) -> datetime:
    """The instant on the clocks of a zone."""
    return instant.astimezone(zoneinfo.ZoneInfo(zone))


def _one_of(name: str, text: str, choices: Mapping[str, str] | tuple[str, ...]) -> str:
    if text not in choices:
        raise _refused(name, "is none of the choices", f"Choose one of {', '.join(filter(None, choices))}.")
    return text


def _group(text: str, slo: str) -> str:
    """The group; the form says its objective before it, so that another one that is chosen there takes none along."""
    head, _, tail = text.partition(" ")
    if tail and "=" not in head:
        text = tail if head == slo else ""
    try:
        if len(text) <= LONGEST_GROUP and (not text or groups.from_name(text)):
            return text
    except OpsKpiError:
        pass
    raise _refused("group", "is no group", "Choose one of the table of objectives.")


def _zone(text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise _refused("tz", "is no time zone", "Write UTC or a name such as Europe/Berlin.") from None
    return text


def _instant(name: str, text: str | None, zone: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text or "")
        # What a form sends has no zone: it is of the clocks that the page shows.
        instant = instant if instant.tzinfo else instant.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refused(name, "is no instant", "Write it as 2026-01-31T12:00, or choose another range.") from None


def _refused(name: str, fault: str, hint: str) -> OpsKpiError:
    return OpsKpiError(f"{name} {fault}", hint, ExitCode.BAD_ARGUMENT)


def _written(value: object) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(value, datetime) else str(value)
