"""Groups of objectives as people write and read them: `workflow=release`, as the database writes them too."""

import psycopg
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from opskpi import groups
from opskpi.errors import ExitCode, OpsKpiError

values = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
some_groups = st.just(groups.OVERFLOW) | st.dictionaries(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,6}", fullmatch=True),
    values | st.sampled_from([" ", '"a"', "a b=c"]),
    max_size=2,
)


def test_a_group_is_called_the_same_here_and_in_the_database(database: psycopg.Connection) -> None:
    @settings(max_examples=100, deadline=None)
    @given(some_groups)
    def check(group: groups.Group) -> None:
        (name,) = database.execute("select coalesce(ops.group_name(%s), '')", [Jsonb(group)]).fetchall()[0]
        assert groups.name_of(group) == name

    check()


@given(some_groups)
def test_no_two_groups_have_one_name_because_a_name_gives_its_group(group):
    assert groups.from_name(groups.name_of(group)) == group


@given(some_groups)
def test_a_group_that_a_table_shows_is_given_as_it_stands_there(group):
    assume(group)
    assert groups.shown(group).isprintable()
    assert groups.from_words([groups.shown(group)]) == group
    assert groups.with_group_as_stored(f"runs {groups.shown(group)}") == f"runs {groups.name_of(group)}"


@pytest.mark.parametrize(
    "matcher", ["*", "runs", "a service of ours", "runs workflow=a b", "runs workflow=a workflow=b", "runs "]
)
def test_what_names_no_group_is_silenced_as_it_is_written(matcher):
    assert groups.with_group_as_stored(matcher) == matcher


def test_labels_of_a_silence_stand_in_any_order():
    assert groups.with_group_as_stored('runs workflow="s1" team=') == "runs team= workflow=s1"


@pytest.mark.parametrize(
    ("words", "group"),
    [
        ([], None),
        (["workflow=release"], {"workflow": "release"}),
        (["workflow="], {"workflow": None}),
        (['workflow=""'], {"workflow": ""}),
        (["workflow=nightly build", "team=a=b"], {"workflow": "nightly build", "team": "a=b"}),
        (['workflow="nightly build"'], {"workflow": "nightly build"}),
        (["team= workflow=s1"], {"team": None, "workflow": "s1"}),
        (["workflow=s1 team="], {"team": None, "workflow": "s1"}),
        (['workflow="a b" team=""', "x=1"], {"team": "", "workflow": "a b", "x": "1"}),
        (["workflow= "], {"workflow": " "}),
        (["workflow=a  b=c"], {"workflow": "a  b=c"}),
        (["overflow"], {"overflow": True}),
    ],
)
def test_words_name_a_group_a_label_each(words, group):
    assert groups.from_words(words) == group


@pytest.mark.parametrize(
    "words",
    [["release"], ["=release"], ["workflow=a", "workflow=b"], ["overflow", "workflow=a"], ["workflow=a workflow=b"]],
)
def test_words_that_name_no_group_are_refused(words):
    with pytest.raises(OpsKpiError) as refusal:
        groups.from_words(words)
    assert (refusal.value.exit_code, bool(refusal.value.hint)) == (ExitCode.BAD_ARGUMENT, True)


@pytest.mark.parametrize("name", ["release", "workflow=a b", "workflow=a  team=b", "workflow=a team=b", 'a="', "a=b "])
def test_a_name_that_was_never_written_is_refused(name):
    with pytest.raises(OpsKpiError):
        groups.from_name(name)
