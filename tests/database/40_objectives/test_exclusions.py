"""Times that exclusions of groups leave out, whatever the objective was grouped by when they were made."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.events import NIL, Connection, add_events, add_row, add_slo, refresh, refused, rows, scalar

pytestmark = pytest.mark.database

FIVE_MINUTES, SLICE = timedelta(minutes=5), timedelta(minutes=15)
LABELS = {"environment": ("prod", "", None), "workflow": ("release", "a=b c", None)}
KEYS = ((), ("environment",), ("workflow",), ("environment", "workflow"))
Group = dict[str, str | None]
Event = tuple[int, Group, bool]
Step = tuple[str, Any]


def floor(at: datetime, step: timedelta = FIVE_MINUTES) -> datetime:
    return at - (at - datetime(1969, 12, 29, tzinfo=at.tzinfo)) % step


def group_of(labels: Group, keys: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    return tuple((key, labels[key]) for key in keys)


@pytest.fixture
def shipping(database: Connection) -> Connection:
    """A database that knows deploys of workflows to environments."""
    add_row(
        database,
        "event_types",
        event_type="deploy",
        description="A deploy.",
        label_keys=["outcome", "environment", "workflow"],
        fields=Jsonb({"outcome": {"type": "text"}}),
    )
    return database


# Minutes before the evaluation, so that exclusions overlap each other, five minutes, slices and the edge of the window.
minutes = st.integers(0, 170)
labels = st.fixed_dictionaries({key: st.sampled_from(values) for key, values in LABELS.items()})
steps = st.one_of(
    st.tuples(st.just("events"), st.lists(st.tuples(minutes, labels, st.booleans()), min_size=1, max_size=12)),
    st.tuples(st.just("exclude"), st.tuples(minutes, st.integers(1, 60), labels, st.integers(0, 3))),
    st.tuples(st.just("group"), st.sampled_from(KEYS)),
    st.tuples(st.just("refresh"), st.none()),
)


class Told:
    """What was said of an objective, and what must be counted of it, computed from that alone."""

    def __init__(self, as_of: datetime, org: UUID) -> None:
        self.as_of = as_of
        self.org = org
        self.name = f"slo-{org.hex}"
        self.keys: Sequence[str] = ("workflow",)
        self.events: list[Event] = []
        self.exclusions: list[tuple[datetime, datetime, Group]] = []

    def at(self, minute: int) -> datetime:
        return self.as_of - timedelta(minutes=minute, seconds=7)

    def counts(self, since: datetime, until: datetime, step: timedelta | None, *, apart: Any = None) -> dict[Any, Any]:
        """By group, and what `apart` makes of an instant: good and total with exclusions, and without."""
        found: defaultdict[Any, defaultdict[datetime, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0] * 4))
        for minute, said, is_good in self.events:
            at = floor(self.at(minute))
            if not since <= at < until:
                continue
            group = group_of(said, self.keys)
            left_out = any(
                floor(begin) <= at < floor(end - timedelta(microseconds=1)) + FIVE_MINUTES
                and name.items() <= set(group)
                for begin, end, name in self.exclusions
            )
            key = group if apart is None else (group, apart(at))
            counted = found[key][floor(at, step or FIVE_MINUTES)]
            for place, adds in enumerate((is_good and not left_out, not left_out, is_good, True)):
                counted[place] += adds
        return {key: self._summed(list(parts.values()), step) for key, parts in found.items()}

    @staticmethod
    def _summed(parts: list[list[int]], step: timedelta | None) -> tuple[int, ...]:
        if step is None:
            return tuple(sum(column) for column in zip(*parts, strict=True))
        good, total, raw_good, raw_total = zip(*parts, strict=True)
        return (
            sum(2 * part >= whole > 0 for part, whole in zip(good, total, strict=True)),
            sum(whole > 0 for whole in total),
            sum(2 * part >= whole for part, whole in zip(raw_good, raw_total, strict=True)),
            len(parts),
        )


def take(database: Connection, told: Told, step: Step) -> None:
    what, value = step
    if what == "events":
        for minute, said, is_good in value:
            told.events.append((minute, said, is_good))
            present = {key: text for key, text in said.items() if text is not None}
            add_events(
                database,
                1,
                "deploy",
                told.at(minute),
                org_id=told.org,
                outcome="success" if is_good else "failure",
                **present,
            )
    elif what == "exclude":
        begin, length, said, chosen = value
        named = {key: said[key] for number, key in enumerate(told.keys) if chosen & 1 << number}
        since, until = told.at(begin), told.at(begin - length)
        told.exclusions.append((since, until, named))
        database.execute(
            "select ops.exclude_from_slo(%s, %s, %s, 'maintenance', 'me', %s, %s)",
            [told.name, since, until, told.org, Jsonb(named)],
        )
    elif what == "group":
        told.keys = value
        later = "update ops.slos set group_by = %s, valid_from = greatest(valid_from + interval '1 minute', %s) where slo_name = %s"
        database.execute(later, [list(value), told.as_of - timedelta(days=40), told.name])
    else:
        refresh(database)


def found_by_group(database: Connection, query: Any, *parameters: object) -> dict[Any, Any]:
    return {
        tuple(sorted(group.items())): tuple(rest)
        for group, *rest in rows(database, query, *parameters)
        if any(number for number in rest)
    }


@pytest.mark.parametrize("step", [None, SLICE])
def test_what_is_excluded_of_some_groups_is_left_out_once_of_each_that_contains_them(
    shipping: Connection, step: timedelta | None
) -> None:
    as_of = scalar(shipping, "select now() + interval '1 minute'")

    @settings(max_examples=12, deadline=None)
    @given(st.lists(steps, min_size=2, max_size=12), st.booleans())
    def check(taken: list[Step], is_fresh: bool) -> None:
        # An org and objective of its own for each, since what is counted stays.
        told = Told(as_of, uuid4())
        slices = ("15 minutes", "0.5") if step else None
        add_slo(shipping, told.name, window="2 hours", group_by=["workflow"], slices=slices)
        for each in taken:
            take(shipping, told, each)
        if not is_fresh:
            refresh(shipping)
        shipping.execute("select ops.fill_slis('infinity')")
        shipping.execute("update ops.job_runs set finished_at = %s", [as_of])
        compare(shipping, told, step, is_fresh=is_fresh)
        shipping.execute("delete from ops.slos where slo_name = %s", [told.name])

    check()


def compare(database: Connection, told: Told, step: timedelta | None, *, is_fresh: bool) -> None:
    since, until = floor(told.as_of - timedelta(hours=2)), floor(told.as_of) + FIVE_MINUTES
    expected = told.counts(since, until, step)
    standing = (
        "select slo_group, good, total, good_unadjusted, total_unadjusted from ops.evaluate_slos(%s, true, array[%s])"
        " where org_id = %s"
    )
    assert found_by_group(database, standing, told.as_of, told.name, told.org) == expected
    if is_fresh:
        return
    if step is None:
        compare_losses(database, told, expected, since, until)
    at = floor(told.as_of)
    hour = told.counts(at - timedelta(hours=1), at, step)
    tried = (
        "select counted.total - counted.lost, counted.total from ops.slos as slo"
        " cross join lateral ops.trial_history(slo, %s, %s, %s, %s, '1 hour', '{}') as history"
        " cross join lateral ops.trial_sums(slo, history, %s, %s, '{1 hour}') as counted"
        " where slo.slo_name = %s and counted.length = '1 hour'"
    )
    instants = [at, at + FIVE_MINUTES]
    for group in expected:
        counted = rows(database, tried, told.org, Jsonb(dict(group)), *instants, *instants, told.name)
        assert counted == [hour.get(group, (0, 0))[:2]]
    days = told.counts(until - timedelta(days=2), until, step, apart=lambda at: f"{at:%Y-%m-%d}")
    shown = (
        "select slo_group, to_char(day_start at time zone 'UTC', 'YYYY-MM-DD'), good, total, good_unadjusted,"
        " total_unadjusted from ops.slo_history() where slo_name = %s and org_id = %s"
    )
    history = {
        (tuple(sorted(group.items())), day): tuple(counts)
        for group, day, *counts in rows(database, shown, told.name, told.org)
    }
    assert history == days


def compare_losses(
    database: Connection, told: Told, expected: dict[Any, Any], since: datetime, until: datetime
) -> None:
    lost = {group: (total - good,) for group, (good, total, *_) in expected.items() if total > good}
    explained = "select slo_group, count(*) from ops.explain_slo(%s, %s, %s, %s) group by 1"
    assert found_by_group(database, explained, told.name, since, until, told.org) == lost
    burners = "select %s::jsonb, count(*) from ops.newest_burners(%s, %s, %s, 1000, %s, %s)"
    for group in expected:
        named = Jsonb(dict(group))
        newest = found_by_group(database, burners, named, told.name, since, until, told.org, named)
        assert newest == ({group: lost[group]} if group in lost else {})


def test_an_exclusion_of_a_value_holds_where_another_key_is_added(shipping: Connection) -> None:
    add_slo(shipping, "mine", group_by=["workflow"])
    for environment in ("prod", "test"):
        for workflow in ("release", "nightly"):
            add_events(
                shipping,
                5,
                "deploy",
                "2026-03-10T12:00Z",
                outcome="failure",
                workflow=workflow,
                environment=environment,
            )
    refresh(shipping)
    exclude = "select ops.exclude_from_slo('mine', '2026-03-10Z', '2026-03-11Z', 'why', 'me', slo_group => %s)"
    shipping.execute(exclude, ['{"workflow": "release"}'])
    standing = "select slo_group, total from ops.evaluate_slos(now(), true, '{mine}') where org_id = %s and total > 0"
    shipping.execute("update ops.slos set rolling_window = '9 years'")
    for keys, shown in (
        ("{workflow}", [({"workflow": "nightly"}, 10)]),
        ("{environment,workflow}", [({"environment": each, "workflow": "nightly"}, 5) for each in ("prod", "test")]),
        ("{environment}", [({"environment": "prod"}, 10), ({"environment": "test"}, 10)]),
        ("{}", [({}, 20)]),
    ):
        shipping.execute("update ops.slos set group_by = %s where slo_name = 'mine'", [keys])
        refresh(shipping)
        found = rows(shipping, standing, NIL)
        assert sorted(found, key=str) == shown


def test_one_value_of_two_keys_is_excluded_of_every_group_that_has_it(shipping: Connection) -> None:
    add_slo(shipping, "mine", group_by=["environment", "workflow"])
    for environment in ("prod", None):
        add_events(shipping, 5, "deploy", "2026-03-10T12:00Z", outcome="failure", workflow="a", environment=environment)
    refresh(shipping)
    shipping.execute(
        "select ops.exclude_from_slo('mine', '2026-03-10Z', '2026-03-11Z', 'why', 'me', slo_group => %s)",
        ['{"environment": null}'],
    )
    explained = "select slo_group, count(*) from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z') group by 1"
    assert rows(shipping, explained) == [({"environment": "prod", "workflow": "a"}, 5)]


@pytest.mark.parametrize("group", ['{"workflow": 5}', '{"workflow": {"a": "b"}}', '{"workflow": "a", "team": "b"}'])
def test_what_no_group_can_contain_is_not_excluded(shipping: Connection, group: str) -> None:
    add_slo(shipping, "mine", group_by=["workflow"])
    with refused():
        rows(
            shipping,
            "select ops.exclude_from_slo('mine', '2026-03-10Z', '2026-03-11Z', 'why', 'me', slo_group => %s)",
            group,
        )


def test_a_group_is_wider_than_another_where_that_has_all_of_its_labels(database: Connection) -> None:
    texts = st.none() | st.sampled_from(["a", "", "a=b c=d", 'say "x=1"', "\\"])
    named = st.dictionaries(st.sampled_from(["environment", "team", "workflow"]), texts, max_size=2)

    @settings(max_examples=60, deadline=None)
    @given(named | st.just({"overflow": True}), named, st.lists(st.sampled_from(["environment", "workflow"])))
    def check(group: dict[str, Any], other: dict[str, Any], keys: list[str]) -> None:
        wider = [found for (found,) in rows(database, "select ops.wider_groups(%s)", Jsonb(group))]
        subsets = [{}, *({key: value} for key, value in group.items()), *([group] if len(group) == 2 else [])]
        assert {frozenset(each.items()) for each in wider} == {frozenset(each.items()) for each in subsets}
        assert len(wider) == len(subsets)
        may = scalar(database, "select ops.may_contain(%s, ops.group_name(%s))", keys, Jsonb(other))
        assert may == (other.keys() <= set(keys) if other else None)

    check()
    assert rows(database, "select ops.may_contain('{}', 'overflow'), ops.may_contain('{team}', 'overflow')") == [
        (False, True)
    ]
