"""What OpenSLO files and the tables of SLOs and alerts have in common: services, SLOs, alert rules and channels."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from decimal import Decimal
from typing import Any

from opskpi.errors import ExitCode, OpsKpiError

Labels = Mapping[str, str | list[str]]

SEVERITIES = ("page", "ticket", "notice")
FIVE_MINUTES = timedelta(minutes=5)

# Values that a label may have, by its key.
Filter = dict[str, tuple[str, ...]]

_INTERVALS = frozenset(
    [
        "rolling_window",
        "time_slice",
        "expected_interval",
        "long_window",
        "short_window",
        "lasting",
        "alert_after",
        "silent_for",
        "repeat_interval",
    ]
)
_FILTERS = frozenset(["total_labels", "good_labels", "bad_labels"])
_NUMBERS = frozenset(["target", "threshold_ms", "at_most", "slice_target", "budget_share", "factor", "threshold"])
_LENGTHS = {"week": 10080, "day": 1440, "hour": 60, "min": 1, "minute": 1}
_PART = re.compile(r"([+-]?\d{1,9}) (week|day|hour|minute|min)s?(?: |$)")
_CLOCK = re.compile(r"([+-]?)(\d{1,9}):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?")


@dataclass(frozen=True, slots=True)
class Service:
    """A service that is described; SLOs may name services that are not."""

    service_name: str
    display_name: str | None = None
    description: str = ""
    labels: Labels = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slo:
    """A promise: of what is counted in the window, the share `target` (0 to 1, exclusive) is good.

    `objective` is error_rate, latency, availability, events or measured; `total_labels` say which events it counts,
    and `good_labels` or `bad_labels` which of them are good besides, each key with its sorted values. `group_by` has
    the sorted keys of labels each of whose values is an objective by itself. A `rolling` window has a `rolling_window`,
    a `calendar` one a `calendar_period` (day, week, month, quarter, year) in an IANA `time_zone`. Budgeting by
    `timeslices` has a `time_slice`, which is good when the share `slice_target` of it is good. `threshold_ms` belongs
    to latency alone, in milliseconds, `at_most` to measured alone, in the unit of the type. `expected_interval` is how
    often events are expected. `is_enabled` None leaves that as it stands, and a new one is enabled. `previous_name`
    is what it was called before, `of_several` the SLO that calls several objectives after itself. `min_failures` is
    how many bad events it takes to alert on a burn rate while one alone exceeds the budget; None is as the setting
    says. `annotations` holds, beside what the file says for others, the titles and the description of its SLI and
    objective under `opskpi.dev/`.
    """

    slo_name: str
    service: str
    objective: str
    event_type: str
    target: Decimal
    indicator_name: str
    description: str = ""
    threshold_ms: Decimal | None = None
    at_most: Decimal | None = None
    total_labels: Filter = field(default_factory=dict)
    good_labels: Filter = field(default_factory=dict)
    bad_labels: Filter | None = None
    group_by: tuple[str, ...] = ()
    window_kind: str = "rolling"
    rolling_window: timedelta | None = None
    calendar_period: str | None = None
    time_zone: str | None = None
    budgeting_method: str = "occurrences"
    time_slice: timedelta | None = None
    slice_target: Decimal | None = None
    expected_interval: timedelta | None = None
    is_enabled: bool | None = None
    previous_name: str | None = None
    min_failures: int | None = None
    display_name: str | None = None
    labels: Labels = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    # Nothing that is stored: an export writes each objective as an SLO of its own.
    of_several: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """When to alert.

    A rule of one SLO is called `<slo_name>/<policy>`; one without an SLO holds for every SLO or for none. `kind` is
    burn_rate, budget_exhausted, kpi_threshold, silent_agents, silent_input or silent_jobs, and decides which of the
    other fields are set. A burn_rate rule has a `budget_share` or a `factor`, never both. No `channels` means every
    channel that takes the `severity`. Without `silent_for`, silence is twice what is expected of jobs or SLOs.
    `annotations` also holds what the file calls the condition, under `opskpi.dev/`.
    """

    rule_name: str
    kind: str
    severity: str
    slo_name: str | None = None
    metric_name: str | None = None
    event_type: str | None = None
    budget_share: Decimal | None = None
    factor: Decimal | None = None
    long_window: timedelta | None = None
    short_window: timedelta | None = None
    comparison: str | None = None
    threshold: Decimal | None = None
    lasting: timedelta | None = None
    alert_after: timedelta = timedelta()
    silent_for: timedelta | None = None
    channels: tuple[str, ...] = ()
    notify_resolved: bool = True
    description: str = ""
    display_name: str | None = None
    labels: Labels = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Channel:
    """Where messages go: `secret_env` names the environment variable that holds the address or the password.

    `kind` is one of `alerting.channels.registry.KINDS`, `settings` holds what that kind takes, by key; `severities` are
    those it takes, in the order page, ticket, notice.
    """

    channel_name: str
    kind: str
    secret_env: str
    settings: dict[str, Any] = field(default_factory=dict)
    severities: tuple[str, ...] = SEVERITIES
    repeat_interval: timedelta = timedelta(hours=4)
    description: str = ""
    display_name: str | None = None
    labels: Labels = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that files or tables define, each kind sorted by name whatever order it was given in."""

    services: tuple[Service, ...] = ()
    slos: tuple[Slo, ...] = ()
    rules: tuple[Rule, ...] = ()
    channels: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", tuple(sorted(self.services, key=lambda service: service.service_name)))
        object.__setattr__(self, "slos", tuple(sorted(self.slos, key=lambda slo: slo.slo_name)))
        object.__setattr__(self, "rules", tuple(sorted(self.rules, key=lambda rule: rule.rule_name)))
        object.__setattr__(self, "channels", tuple(sorted(self.channels, key=lambda channel: channel.channel_name)))


def as_json(definitions: Definitions) -> dict[str, list[dict[str, Any]]]:
    """The definitions as rows of columns, for one jsonb argument.

    Intervals are text as Postgres reads it ("30 days", "90 minutes", "0"), numbers are text without an exponent or
    closing zeros, and what is not set is None.
    """
    return {
        kind.name: [
            {column.name: _json_value(getattr(row, column.name)) for column in fields(row)}
            for row in getattr(definitions, kind.name)
        ]
        for kind in fields(definitions)
    }


def from_json(rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Definitions:
    """The definitions that rows of the same keys as those of `as_json` describe.

    Intervals may be timedelta or any text that Postgres writes for them ("30 days", "01:00:00", "1 day 02:00:00"),
    numbers may be Decimal, int or text, and a single address of a mail channel is a list of one. Raises OpsKpiError
    for an interval of months or years, whose length is not fixed, and TypeError for a float, which is not what was
    stored, or for unknown or missing columns.
    """
    return Definitions(
        services=tuple(_row(Service, row) for row in rows.get("services", ())),
        slos=tuple(_row(Slo, row) for row in rows.get("slos", ())),
        rules=tuple(_row(Rule, row) for row in rows.get("rules", ())),
        channels=tuple(_row(Channel, row) for row in rows.get("channels", ())),
    )


def number_text(number: Decimal) -> str:
    """The number in plain digits, without closing zeros: 0.9990 is 0.999."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval_text(length: timedelta) -> str:
    """The length in the largest unit that divides it, as Postgres reads it: "30 days", "90 minutes", "0"."""
    if not length:
        return "0"
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if not length % unit:
            count = length // unit
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    minutes, rest = divmod(length, timedelta(minutes=1))
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest.total_seconds():09.6f}"


def parsed_interval(text: str) -> timedelta:
    """The length that a text of Postgres's stands for. Raises OpsKpiError where months or years make it vary."""
    if text in {"0", ""}:
        return timedelta()
    rest, length = text, timedelta()
    while part := _PART.match(rest):
        length += int(part[1]) * timedelta(minutes=_LENGTHS[part[2]])
        rest = rest[part.end() :]
    if clock := _CLOCK.fullmatch(rest):
        sign, hours, minutes, seconds, fraction = clock.groups()
        time = timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds or 0))
        time += timedelta(microseconds=int((fraction or "0").ljust(6, "0")))
        return length - time if sign == "-" else length + time
    if rest:
        raise OpsKpiError(
            f"the interval {text!r} has no fixed length or cannot be read",
            "Store it in days, hours and minutes.",
            ExitCode.BAD_ARGUMENT,
        )
    return length


def _json_value(value: object) -> object:
    if isinstance(value, timedelta):
        return interval_text(value)
    if isinstance(value, Decimal):
        return number_text(value)
    return list(value) if isinstance(value, tuple) else value


def _row(kind: type[Any], row: Mapping[str, Any]) -> Any:
    return kind(**{column: _value(column, value) for column, value in row.items()})


def _value(column: str, value: Any) -> Any:
    if value is None:
        return None
    if column in _INTERVALS:
        return value if isinstance(value, timedelta) else parsed_interval(value)
    if column in _NUMBERS:
        if isinstance(value, float):
            raise TypeError(f"{column} is a float; pass the number as text or Decimal")
        return Decimal(value)
    return _listed(column, value)


def _listed(column: str, value: Any) -> Any:
    """The value with its lists as the columns have them."""
    if column in _FILTERS:
        return {key: tuple(texts) for key, texts in value.items()}
    if column == "settings" and isinstance(value.get("to"), str):
        return {**value, "to": [value["to"]]}
    if column == "severities":
        return tuple(severity for severity in SEVERITIES if severity in value)
    return tuple(value) if column in {"channels", "group_by"} else value
