"""OpenSLO files as files: plain YAML, standard input, and heads, names and texts that are refused where they are wrong."""

import io
import sys

import pytest

from opskpi import openslo
from opskpi.errors import OpsKpiError
from support.openslo_texts import OVERRIDES, POLICY, SLO, TARGET, check_refusal, joined, replaced_once

# One row: a template, what is replaced in it, by what, and how each message begins after the name of the file.
# fmt: off
TEXTS = [
    ("SLO", "openslo/v1", "openslo/v1alpha", "1: apiVersion: openslo/v1alpha is not read; only openslo/v1 is"),
    ("SLO", "kind: SLO", "kind: Slo", "2: kind: Slo is not one of Service, SLO, SLI, AlertPolicy, AlertCondition, AlertNotificationTarget"),
    ("SLO", "kind: SLO", "kind: DataSource", "2: kind: there are no DataSources: SLIs count stored events; use metricSource.type opskpi"),
    ("SLO", "apiVersion: openslo/v1\n", "", "1: apiVersion: is missing"),
    ("SLO", "metadata:\n  name: release_speed\n", "", "1: metadata: is missing"),
    ("SLO", "name: release_speed", "displayName: Speed", "4: metadata.name: is missing"),
    ("SLO", "release_speed", "Release-Speed", "4: metadata.name: Release-Speed is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "-speed", "4: metadata.name: -speed is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "s" * 64, "4: metadata.name: sssssssssssssssssssssssssssssssssssss... is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "on", '4: metadata.name: on is no text for every reader of YAML; quote it: "on"'),
    ("SLO", "release_speed", "1:30", '4: metadata.name: 1:30 is no text for every reader of YAML; quote it: "1:30"'),
    ("SLO", "service: release", "service: yes", '7: spec.service: yes is no text for every reader of YAML; quote it: "yes"'),
    ("SLO", "service: release", "service:", "7: spec.service: nothing is written here; leave the key out or give it a text"),
    ("SLO", "service: release", "service: [release]", "7: spec.service: a list is no text"),
    ("SLO", "service: release", "service: Zürich", "7: spec.service: Zürich is no name"),
    ("SLO", "service: release", 'service: "a\\e[31m"', "7: spec.service: it has control characters"),
    ("SLO", "kind: SLO", 'kind: "a\\e[31m"', "2: kind: a\\x1b[31m is not one of"),
    ("SLO", "  service: release\n", "", "6: spec.service: is missing"),
    ("SLO", "  service: release", "  service: release\n  service: other", "8: spec.service: this key was already given in line 7"),
    ("SLO", "  service: release", "  services: release\n  service: release", "7: spec.services: there is no such key"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected: 1h}", "5: metadata.annotations.opskpi.dev/expected: SLO has no such annotation; known are expected-every, previous-name, enabled"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected-every: 1M}", "5: metadata.annotations.opskpi.dev/expected-every: 1M has no fixed length; say it in days, such as 30d"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {example.com/rank: 2}", '5: metadata.annotations.example.com/rank: 2 is no text for every reader of YAML; quote it: "2"'),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {team: [a, b]}", "5: metadata.labels.team: a list is no text"),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {on: a}", '5: metadata.labels.on: this key is no text for every reader of YAML; quote it: "on"'),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {a b: a}", "5: metadata.labels.a b: this is no key: write letters, digits, . _ and -, at most 63, after an optional prefix and /"),
    ("SLO", "description: Nine of ten releases take less than five minutes.", 'description: "a\\u0007"', "6: spec.description: it has control characters"),
]
# fmt: on


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in TEXTS])
def test_a_file_with_a_wrong_head_name_or_text_is_refused_where_it_is_wrong(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


def test_all_faults_of_all_files_come_together_in_the_order_of_the_files(faults):
    broken = replaced_once(replaced_once(SLO, "30d", "30x"), "0.9", "9")
    assert faults(joined(broken, POLICY), replaced_once(OVERRIDES, "2h", "2x"), b"\n\xff", "") == [
        "slo.yaml:23: spec.timeWindow[0].duration: 30x is no duration; write 30d, 4w, 1M, 1Q or 5m",
        "slo.yaml:27: spec.objectives[0].target: 9 is not between 0 and 1, which leaves no budget or no promise",
        "b.yaml:17: spec.conditions[0].spec.condition.lookbackWindow: 2x is no duration; write 30d, 4w, 1M, 1Q or 5m",
        "c.yaml:2: this is not UTF-8; save the file as UTF-8",
        "d.yaml:1: the file holds no OpenSLO object",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "slo.yaml:1: the file holds no OpenSLO object"),
        ("# nothing\n---\n---\n", "slo.yaml:1: the file holds no OpenSLO object"),
        ("- a\n", "slo.yaml:1: a list is no block of keys"),
        ("a: [1\nb: 2\n", "slo.yaml:2: this cannot be read as YAML: expected ',' or ']', but got ':'"),
        ("a: b\nc: \x00\n", "slo.yaml:2: this has control characters"),
        (
            "a: &a b\nc: *a\n",
            "slo.yaml:1: this cannot be read as YAML: anchors and aliases are not read; write the value out",
        ),
        (
            "a:\n  - *a\n",
            "slo.yaml:2: this cannot be read as YAML: anchors and aliases are not read; write the value out",
        ),
        (
            "a: !!python/object:os.x {}\n",
            "slo.yaml:1: this cannot be read as YAML: tags are not read; write the value without !",
        ),
        ("[" * 500_000, "slo.yaml:1: this cannot be read as YAML: this is nested deeper than 20 levels"),
        ("a" * (1 << 20) + "a", "slo.yaml: the file is larger than 1 MiB; split it into several files"),
        (SLO.encode("utf-16"), "slo.yaml:1: this is not UTF-8; save the file as UTF-8"),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_plain_yaml_is_refused(faults, text, fault):
    assert fault in faults(text)


def test_a_merge_key_is_not_half_understood(faults):
    assert faults(replaced_once(SLO, "  service:", "  <<: {}\n  service:"))[0].startswith("slo.yaml:7: spec.<<: ")


def test_a_file_that_is_not_there_is_a_fault_beside_the_others(tmp_path):
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(OpsKpiError) as refused:
        openslo.read([tmp_path / "missing.yaml", tmp_path, tmp_path / "empty.yaml"])
    assert refused.value.message.splitlines() == [
        f"{tmp_path}/missing.yaml: cannot be read: No such file or directory",
        f"{tmp_path}: cannot be read: Is a directory",
        f"{tmp_path}/empty.yaml:1: the file holds no OpenSLO object",
    ]


def test_a_dash_is_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TARGET.encode())))
    assert [channel.channel_name for channel in openslo.read(["-"]).channels] == ["on-call"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"kind: SLO")))
    with pytest.raises(OpsKpiError, match=r"standard input:1: apiVersion: is missing"):
        openslo.read(["-"])
