"""Whatever OpenSLO v1 accepts is applied, or refused with the place and a sentence: never a traceback, never a riddle."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from opskpi import openslo
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.openslo.reading import read_text
from support.openslo_schema import COUNTED, OBJECT, SPECS, an_object, drawn

FAULT = re.compile(r"slo\.yaml:(?P<line>[0-9]+): (?P<place>[^ ]+): (?P<sentence>[^ ]+ .+)")
RIDDLES = re.compile(r"unknown|unsupported|Traceback|\bNone\b|Error\b|object at 0x|cannot be read as YAML|invalid")

Objects = list[dict[str, Any]]


def written_forms(objects: Objects) -> list[str]:
    """The objects as people write them: documents, a list, JSON."""
    return [
        yaml.safe_dump_all(objects, allow_unicode=True, sort_keys=False),
        yaml.safe_dump(objects, allow_unicode=True, default_flow_style=None),
        json.dumps(objects, ensure_ascii=False),
    ]


def faults_of(text: str) -> list[str]:
    """The faults of a text, in the order of their lines; none where it applies."""
    try:
        read_text("slo.yaml", text, known_channels=["a-1", "b"])
    except OpsKpiError as error:
        assert error.exit_code is ExitCode.BAD_ARGUMENT
        return error.message.splitlines()
    return []


@pytest.mark.parametrize("kind", SPECS)
def test_what_openslo_accepts_is_applied_or_refused_with_place_and_reason(kind):
    schema = an_object(kind, SPECS[kind])
    validator = jsonschema.Draft202012Validator(schema)

    @settings(max_examples=20, deadline=None)
    @given(st.lists(drawn(schema), min_size=1, max_size=2))
    def check(objects: Objects) -> None:
        for one in objects:
            validator.validate(one)
        for text in written_forms(objects):
            for fault in faults_of(text):
                found = FAULT.fullmatch(fault)
                assert found, fault
                assert int(found["line"]) <= len(text.splitlines())
                assert not RIDDLES.search(found["sentence"]), fault

    check()


@settings(max_examples=25, deadline=None)
@given(st.lists(drawn(OBJECT), min_size=1, max_size=4))
def test_what_is_wrong_does_not_depend_on_how_the_objects_are_written(objects):
    def sentences(text: str) -> set[str]:
        return {
            re.sub(r"slo\.yaml:[0-9]+: (\[[0-9]+\]\.?)?:? ?| at slo\.yaml:[0-9]+|slo\.yaml:[0-9]+", "", line)
            for line in faults_of(text)
        }

    documents, listed, as_json = map(sentences, written_forms(objects))
    assert listed == documents
    # JSON quotes what YAML writes plain, such as "on".
    assert {line for line in as_json if "no text for every reader" not in line} == {
        line for line in documents if "no text for every reader" not in line
    }


@settings(max_examples=25, deadline=None)
@given(drawn(COUNTED))
def test_a_ratio_of_stored_events_applies_whatever_optional_keys_are_there(slo):
    jsonschema.validate(slo, OBJECT)
    jsonschema.validate(slo, COUNTED)
    for text in written_forms([slo]):
        found = read_text("slo.yaml", text)
        assert len(found.slos) == len(slo["spec"]["objectives"])
        assert read_text("again", openslo.write(found)) == found
