"""The shapes in which people have what GitHub says: files of several tools, pages put together, forms."""

import json
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import payloads
from opskpi.github.rules import Rules
from support.rest_api import workflow_run

RUNS = [workflow_run(number) for number in (1, 2, 3)]
PAGES = [{"total_count": 3, "workflow_runs": RUNS[:2]}, {"total_count": 3, "workflow_runs": RUNS[2:]}]
WEBHOOK = {"action": "completed", "workflow_run": RUNS[0]}


def collected_runs(text: str) -> list[int]:
    found = payloads.read(text.encode(), Rules(), source="file")
    assert all(part.event for part in found), found
    return [part.event["run_id"] for part in found if part.event]


def indented(document: object) -> str:
    return json.dumps(document, indent=2)


@pytest.mark.parametrize("dumps", [json.dumps, indented])
@pytest.mark.parametrize("between", ["", "\n", "\r\n\r\n", " \t"])
def test_pages_one_after_the_other_are_read_whatever_stands_between_them(
    dumps: Callable[[object], str], between: str
) -> None:
    assert collected_runs(between.join(map(dumps, PAGES))) == [1, 2, 3]
    assert collected_runs(f"{between}{between.join(map(dumps, RUNS))}{between}") == [1, 2, 3]


@pytest.mark.parametrize("document", [PAGES, [RUNS[:2], RUNS[2:]], [[RUNS[0]], [[RUNS[1]], RUNS[2]]], [PAGES, []]])
def test_lists_of_lists_are_read_to_the_last(document: object) -> None:
    for dumps in (json.dumps, indented):
        assert collected_runs(dumps(document)) == [1, 2, 3]
    assert collected_runs("\ufeff" + json.dumps(document)) == [1, 2, 3]


def test_lists_one_after_the_other_are_read() -> None:
    assert collected_runs(json.dumps(RUNS[:2]) + json.dumps(RUNS[2:])) == [1, 2, 3]
    assert collected_runs(f"{json.dumps(RUNS[:2])}\n{json.dumps(RUNS[2:])}\n") == [1, 2, 3]


def test_what_is_wrong_is_named_by_the_place_where_it_stands() -> None:
    for text, place in (
        (indented(PAGES[0]) + indented({"ref": "refs/heads/main"}), "file: document 2"),
        (json.dumps([RUNS, ["text"]]), "file: element 2, element 1"),
    ):
        found = payloads.read(text.encode(), Rules(), source="file")
        assert [part.refusal.place for part in found if part.refusal] == [place]


def test_a_webhook_that_was_sent_as_a_form_is_the_payload_in_it() -> None:
    form = urlencode({"payload": json.dumps(WEBHOOK)})
    for text in (form, form + "\n", f"{form}&x=1", "\ufeff" + form):
        assert collected_runs(text) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "payload=",
        "payload=%FF",
        "payload=1&payload=2",
        "payload=%7B%7",
        "payload=%zz",
        "payload=%7B",
        "{} {",
        "[" * 5000,
    ],
)
def test_what_is_no_json_in_any_shape_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(OpsKpiError) as refused:
        payloads.read(text.encode(), Rules(), source="file")
    assert refused.value.exit_code is ExitCode.BAD_ARGUMENT


def test_lists_that_are_nested_too_deeply_to_be_runs_are_refused_by_their_place() -> None:
    deep = "[" * 500 + "]" * 500
    assert [part.event for part in payloads.read(deep.encode(), Rules(), source="file")] == [None]
