"""Bundles of files: what they made and no longer name, what they call by another name, and what is not theirs."""

import itertools
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import Connection, add_channel, add_rule, add_slo, refused, rows, scalar
from support.fixtures import Connect

pytestmark = pytest.mark.database

SLO: dict[str, Any] = {
    "service": "shop",
    "objective": "error_rate",
    "description": "",
    "event_type": "workflow_run",
    "target": "0.99",
    "rolling_window": "30 days",
    "budgeting_method": "occurrences",
    "indicator_name": "deploys",
    "labels": {},
    "annotations": {},
}
RULE: dict[str, Any] = {
    "kind": "burn_rate",
    "severity": "page",
    "factor": "14.4",
    "long_window": "1 hour",
    "alert_after": "0",
    "channels": [],
    "notify_resolved": True,
    "description": "",
    "labels": {},
    "annotations": {},
}
CHANNEL = {"channel_name": "on-call", "kind": "webhook", "secret_env": "HOOK", "settings": {}, "severities": ["page"]}
CHANNEL |= {"repeat_interval": "4 hours", "description": "", "labels": {}, "annotations": {}}
SERVICE = {"service_name": "shop", "description": "", "labels": {}, "annotations": {}}
EVERYTHING = {
    "services": [SERVICE],
    "slos": [SLO | {"slo_name": "a"}],
    "rules": [RULE | {"rule_name": "a/burn", "slo_name": "a", "channels": ["on-call"]}],
    "channels": [CHANNEL],
}
STANDING = "select kind, name, bundle from (select 'service' as kind, service_name as name, bundle from ops.services union all select 'slo', slo_name, bundle from ops.slos where service = 'shop' union all select 'rule', rule_name, bundle from ops.alert_rules where bundle is not null or slo_name is not null union all select 'channel', channel_name, bundle from ops.alert_channels) as standing order by 1, 2"


def promise(name: str, previous_name: str | None = None, **columns: object) -> dict[str, Any]:
    return SLO | {"slo_name": name, "previous_name": previous_name} | columns


def apply_files(
    connection: Connection,
    definitions: dict[str, Any],
    bundle: str = "default",
    *,
    prune: bool = False,
    adopt: bool = False,
) -> list[tuple[str, str, str]]:
    query = "select change, kind, name from ops.apply_definitions(%s, %s, adopt => %s, prune => %s, author => 'anna')"
    return rows(connection, query, Jsonb(definitions), bundle, adopt, prune)


def apply_slos(connection: Connection, *slos: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    """Apply objectives alone, and return what becomes of each."""
    return [(change, name) for change, _, name in apply_files(connection, {"slos": slos}, **options)]


def kept_targets(connection: Connection) -> dict[str, list[str]]:
    """The targets of the versions of each own objective, by which their histories are told apart."""
    query = "select slo_name, array_agg(target::real::text order by version) from ops.slo_versions where service = 'shop' group by 1"
    return dict(rows(connection, query))


def test_what_an_apply_made_and_the_files_no_longer_name_is_removed(database: Connection) -> None:
    apply_files(database, EVERYTHING)
    assert rows(database, STANDING) == [
        ("channel", "on-call", "default"),
        ("rule", "a/burn", "default"),
        ("service", "shop", "default"),
        ("slo", "a", "default"),
    ]
    assert apply_files(database, {"slos": [promise("b")]}) == [("created", "slo", "b")]
    assert len(rows(database, STANDING)) == 5
    assert apply_files(database, {"slos": [promise("b")]}, prune=True) == [
        ("removed", "service", "shop"),
        ("unchanged", "slo", "b"),
        ("removed", "slo", "a"),
        ("removed", "channel", "on-call"),
        ("removed", "rule", "a/burn"),
    ]
    assert rows(database, STANDING) == [("slo", "b", "default")]
    assert rows(database, "select slo_name, change, author from ops.slo_changes") == [("a", "removed", "anna")]


def test_neither_what_another_bundle_nor_what_a_plain_insert_made_nor_what_ships_is_pruned(
    database: Connection,
) -> None:
    database.execute("delete from ops.alert_rules")
    add_slo(database, "mine")
    add_rule(database, "mine/own", "budget_exhausted", slo_name="mine")
    add_channel(database)
    apply_files(database, EVERYTHING, "team-b")
    before = rows(database, STANDING), scalar(database, "select count(*) from ops.slos")
    apply_files(database, {"slos": [promise("b")]}, prune=True)
    apply_files(database, {"slos": []}, prune=True)
    assert (rows(database, STANDING), scalar(database, "select count(*) from ops.slos")) == before


def test_what_stood_before_is_changed_and_pruned_only_when_it_was_adopted(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run")
    assert apply_slos(database, promise("mine")) == [("changed", "mine")]
    apply_slos(database, prune=True)
    assert rows(database, STANDING) == [("slo", "mine", None)]
    assert apply_slos(database, promise("mine"), adopt=True) == [("changed", "mine")]
    assert apply_slos(database, promise("mine")) == [("unchanged", "mine")]
    assert apply_slos(database, prune=True) == [("removed", "mine")]


def test_another_bundle_may_name_what_stands_and_not_change_it_unless_it_adopts_it(database: Connection) -> None:
    apply_files(database, EVERYTHING, "team-a")
    assert {change for change, _, _ in apply_files(database, EVERYTHING, "team-b")} == {"unchanged"}
    for changed in (
        {"slos": [promise("a", target="0.9")], "rules": EVERYTHING["rules"]},
        {"slos": [promise("a")]},
        {"services": [SERVICE | {"description": "new"}]},
        {"channels": [CHANNEL | {"secret_env": "OTHER"}]},
        {"slos": [promise("b", "a")]},
    ):
        with refused() as caught:
            apply_files(database, changed, "team-b")
        assert "team-a" in str(caught.value)
    assert {bundle for _, _, bundle in rows(database, STANDING)} == {"team-a"}
    apply_files(database, EVERYTHING | {"slos": [promise("a", target="0.98")]}, "team-b", adopt=True)
    assert {bundle for _, _, bundle in rows(database, STANDING)} == {"team-b"}
    assert apply_files(database, {}, "team-a", prune=True) == []


def test_a_channel_that_a_rule_of_others_sends_to_is_not_pruned(database: Connection) -> None:
    apply_files(database, {"channels": [CHANNEL]}, "channels")
    apply_files(database, EVERYTHING, "shop")
    before = rows(database, STANDING)
    with refused() as caught:
        apply_files(database, {}, "channels", prune=True)
    assert "on-call" in str(caught.value)
    assert "a/burn" in str(caught.value)
    assert rows(database, STANDING) == before


@pytest.mark.parametrize("name", ["", " ", " a", "a\nb", "x" * 101])
def test_a_bundle_needs_a_name(database: Connection, name: str) -> None:
    with refused():
        apply_files(database, EVERYTHING, name)


def test_a_previous_name_is_heeded_once_and_the_history_goes_along(database: Connection) -> None:
    apply_files(database, EVERYTHING)
    renamed = EVERYTHING | {
        "slos": [promise("b", "a", target="0.95")],
        "rules": [RULE | {"rule_name": "b/burn", "slo_name": "b", "channels": ["on-call"]}],
    }
    assert apply_files(database, renamed) == [
        ("renamed", "slo", "b"),
        ("unchanged", "service", "shop"),
        ("changed", "slo", "b"),
        ("unchanged", "channel", "on-call"),
        ("unchanged", "rule", "b/burn"),
    ]
    assert kept_targets(database) == {"b": ["0.99", "0.95"]}
    assert {change for change, _, _ in apply_files(database, renamed, prune=True)} == {"unchanged"}


def test_the_old_name_may_be_taken_by_a_new_objective_at_once_or_later(database: Connection) -> None:
    apply_slos(database, promise("a"))
    both = promise("a", target="0.5"), promise("b", "a")
    assert apply_slos(database, *both) == [("renamed", "b"), ("created", "a"), ("changed", "b")]
    assert kept_targets(database) == {"a": ["0.5"], "b": ["0.99"]}
    assert apply_slos(database, *both) == [("unchanged", "a"), ("unchanged", "b")]


def test_in_a_new_database_a_previous_name_means_nothing_now_or_later(database: Connection) -> None:
    both = promise("a"), promise("b", "a")
    assert apply_slos(database, *both) == [("created", "a"), ("created", "b")]
    assert apply_slos(database, *both) == [("unchanged", "a"), ("unchanged", "b")]


def test_two_objectives_swap_their_names_once(database: Connection) -> None:
    apply_slos(database, promise("a", target="0.9"), promise("b", target="0.8"))
    swapped = promise("a", "b", target="0.8"), promise("b", "a", target="0.9")
    assert apply_slos(database, *swapped)[:2] == [("renamed", "b"), ("renamed", "a")]
    assert kept_targets(database) == {"a": ["0.8"], "b": ["0.9"]}
    assert apply_slos(database, *swapped) == [("unchanged", "a"), ("unchanged", "b")]


def test_names_are_handed_on_along_a_chain(database: Connection) -> None:
    apply_slos(database, promise("a", target="0.9"), promise("b", target="0.8"))
    chain = promise("b", "a", target="0.9"), promise("c", "b", target="0.8")
    apply_slos(database, *chain)
    assert kept_targets(database) == {"b": ["0.9"], "c": ["0.8"]}
    assert apply_slos(database, *chain) == [("unchanged", "b"), ("unchanged", "c")]


def test_two_objectives_that_both_stand_cannot_become_one(database: Connection) -> None:
    apply_slos(database, promise("a"), promise("b"))
    with refused() as caught:
        apply_slos(database, promise("b", "a"))
    assert "both stand" in str(caught.value)


def test_a_name_that_once_had_a_history_is_not_taken_by_another(database: Connection) -> None:
    apply_slos(database, promise("a"), promise("b"))
    apply_slos(database, promise("a"), prune=True)
    with refused() as caught:
        apply_slos(database, promise("b", "a"))
    assert "a history of its own" in str(caught.value)


@pytest.mark.parametrize("fresh", ["", "a", "bd"])
def test_any_permutation_of_names_moves_each_history_once(database: Connection, fresh: str) -> None:
    """An objective that would take one of the `fresh` names takes another, so that a new objective may have it."""
    targeted = {name: f"0.{place}" for place, name in enumerate("abcd", 1)}
    for order in itertools.permutations("abcd"):
        with database.transaction(force_rollback=True):
            apply_slos(database, *(promise(name, target=target) for name, target in targeted.items()))
            names = {old: f"{new}2" if new in fresh else new for old, new in zip("abcd", order, strict=True)}
            moved = [promise(new, old if new != old else None, target=targeted[old]) for old, new in names.items()]
            taken = [promise(name, target="0.7") for name in fresh]
            apply_slos(database, *moved, *taken)
            assert {change for change, _ in apply_slos(database, *moved, *taken)} == {"unchanged"}
            expected = {new: [targeted[old]] for old, new in names.items()} | {key: ["0.7"] for key in fresh}
            assert kept_targets(database) == expected


@pytest.mark.own_database
@pytest.mark.parametrize("second", ["apply", "delete"])
def test_two_at_once_are_one_after_the_other(database: Connection, connect: Connect, second: str) -> None:
    apply_slos(database, promise("a"), promise("b"))
    with connect(autocommit=False) as pruning, connect(autocommit=False) as other:
        apply_slos(pruning, promise("b"), prune=True)
        other.execute("set local lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            if second == "apply":
                apply_slos(other, promise("a"), promise("b"))
            else:
                other.execute("select ops.delete_slos(array['a'])")
        other.rollback()
        pruning.commit()
        if second == "apply":
            assert apply_slos(other, promise("a"), promise("b")) == [("created", "a"), ("unchanged", "b")]
        else:
            with refused():
                other.execute("select ops.delete_slos(array['a'])")
        other.rollback()


def test_files_that_do_not_say_it_leave_an_objective_disabled_and_those_that_do_decide(database: Connection) -> None:
    apply_slos(database, promise("a"))
    database.execute("select ops.enable_slos(array['a'], false)")
    assert apply_slos(database, promise("a")) == [("unchanged", "a")]
    assert apply_slos(database, promise("a", is_enabled=True)) == [("changed", "a")]
    assert apply_slos(database, promise("a", is_enabled=False)) == [("changed", "a")]
    assert scalar(database, "select is_enabled from ops.slos where slo_name = 'a'") is False
