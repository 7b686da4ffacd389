"""OpenSLO files as files: plain YAML, standard input, and heads, names and texts that are refused where they are wrong."""

import io
import sys
from itertools import pairwise

import pytest

from opskpi import openslo
from opskpi.errors import OpsKpiError
from support.openslo_texts import OVERRIDES, POLICY, SLO, TARGET, check_refusal, joined, replaced_once

SERVICE = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: one}\n"
# Ten values, a hundred, a thousand and so on.
LAUGHS = (
    "a: &a ["
    + "x," * 10
    + "]\n"
    + "".join(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghij"))
)
DEEP = "a: &a [x]\n" + "".join(f"{name}: &{name} [*{before}]\n" for before, name in pairwise("abcdefghijklmnopqrstuvw"))

# One row: a template, what is replaced in it, by what, and how each message begins after the name of the file.
# fmt: off
TEXTS = [
    ("SLO", "openslo/v1", "openslo/v1alpha", "1: apiVersion: openslo/v1alpha is not read; write the object as openslo/v1, whose keys may differ"),
    ("SLO", "openslo/v1", "v1", "1: apiVersion: v1 is not read; only openslo/v1 is"),
    ("SLO", "kind: SLO", "kind: Slo", "2: kind: Slo is not one of Service, SLO, SLI, AlertPolicy, AlertCondition, AlertNotificationTarget"),
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
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected: 1h}", "5: metadata.annotations.opskpi.dev/expected: SLO has no such annotation; known are expected-every, previous-name, enabled, min-failures"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected-every: 1M}", "5: metadata.annotations.opskpi.dev/expected-every: 1M has no fixed length; say it in days, such as 30d"),
    ("SLO", "name: release_speed", 'name: release_speed\n  annotations: {opskpi.dev/min-failures: "0"}', "5: metadata.annotations.opskpi.dev/min-failures: 0 is not a whole number from 1 to 999999"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/min-failures: 2}", '5: metadata.annotations.opskpi.dev/min-failures: 2 is no text for every reader of YAML; quote it: "2"'),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {example.com/rank: 2}", '5: metadata.annotations.example.com/rank: 2 is no text for every reader of YAML; quote it: "2"'),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {team: [a, [b]]}", "5: metadata.labels.team[1]: a list is no text"),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {team: []}", "5: metadata.labels.team: the list is empty; leave the key out or write an item"),
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
        ("- a\n", "slo.yaml:1: [0]: a is no block of keys"),
        ("- - a\n", "slo.yaml:1: [0]: a list is no block of keys"),
        ("- ~\n", "slo.yaml:1: the file holds no OpenSLO object"),
        ("a: [1\nb: 2\n", "slo.yaml:2: this cannot be read as YAML: expected ',' or ']', but got ':'"),
        ("a: b\nc: \x00\n", "slo.yaml:2: this has control characters"),
        (
            '{\n\t"a": 1\n}',
            "slo.yaml:2: this cannot be read as YAML: a tab stands where only spaces may; indent with spaces",
        ),
        ("a:\n  - *a\n", "slo.yaml:2: this cannot be read as YAML: found undefined alias 'a'"),
        ("a: &a [*a]\n", "slo.yaml:1: this cannot be read as YAML: the alias *a stands inside its own anchor"),
        ("a: &a {<<: *a}\n", "slo.yaml:1: this cannot be read as YAML: the alias *a stands inside its own anchor"),
        (
            "a: 1\n<<: [b]\n",
            "slo.yaml:2: this cannot be read as YAML: << takes a block of keys, or a list of such blocks",
        ),
        (
            LAUGHS,
            "slo.yaml:5: this cannot be read as YAML: aliases repeat more than 100,000 values; write fewer of them",
        ),
        (
            DEEP,
            "slo.yaml:19: this cannot be read as YAML: with this alias it is nested deeper than 20 levels",
        ),
        (
            "a: !!python/object:os.x {}\n",
            "slo.yaml:1: this cannot be read as YAML: tags are not read; write the value without !",
        ),
        ("[" * 500_000, "slo.yaml:1: this cannot be read as YAML: this is nested deeper than 20 levels"),
        ("a" * (1 << 20) + "a", "slo.yaml: the file is larger than 1 MiB; split it into several files"),
        (SLO.encode("utf-16"), "slo.yaml:1: this is not UTF-8; save the file as UTF-8"),
    ],
    ids=range(18),
)
def test_a_file_that_is_no_plain_yaml_is_refused(faults, text, fault):
    assert fault in faults(text)


@pytest.mark.parametrize(
    "text",
    [
        joined(SERVICE, SERVICE.replace("one", "two")),
        "- apiVersion: openslo/v1\n  kind: Service\n  metadata: {name: one}\n-\n"
        "- apiVersion: openslo/v1\n  kind: Service\n  metadata:\n    name: two\n",
        '[{"apiVersion": "openslo/v1", "kind": "Service", "metadata": {"name": "one"}},'
        ' {"apiVersion": "openslo/v1", "kind": "Service", "metadata": {"name": "two"}}]',
        joined(f"- {SERVICE.replace(chr(10), chr(10) + '  ').rstrip()}\n", SERVICE.replace("one", "two")),
    ],
    ids=["documents", "list", "JSON", "both"],
)
def test_a_document_is_an_object_or_a_list_of_objects(reading, text):
    assert [service.service_name for service in reading(text).services] == ["one", "two"]


def test_a_fault_in_a_list_names_the_place_in_the_list(faults):
    assert faults(
        f"- {SERVICE.replace(chr(10), chr(10) + '  ').rstrip()}\n- kind: Service\n  metadata: {{name: two}}\n"
    ) == ["slo.yaml:4: [1].apiVersion: is missing"]


def test_an_alias_repeats_its_anchor_and_a_merge_key_gives_what_is_not_written_out(reading):
    text = """\
apiVersion: openslo/v1
kind: Service
metadata: &both {name: one, labels: &labels {team: a, tier: "1"}}
---
apiVersion: openslo/v1
kind: Service
metadata:
  <<: *both
  name: two
  labels: {<<: [{team: b, area: x}, *labels], area: z}
---
apiVersion: openslo/v1
kind: Service
metadata: &both {name: three, labels: *labels}
"""
    assert {service.service_name: service.labels for service in reading(text).services} == {
        "one": {"team": "a", "tier": "1"},
        "two": {"team": "b", "tier": "1", "area": "z"},
        "three": {"team": "a", "tier": "1"},
    }


def test_a_fault_behind_an_alias_points_to_where_the_value_is_written(faults):
    text = SLO.replace("  timeWindow:\n", "  timeWindow: &window\n").replace("30d", "30x")
    second = text.replace("&window\n    - duration: 30x\n      isRolling: true", "*window").replace("_speed", "_pace")
    fault = "slo.yaml:23: spec.timeWindow[0].duration: 30x is no duration; write 30d, 4w, 1M, 1Q or 5m"
    assert faults(joined(text, second, POLICY)) == [fault]


def test_a_label_may_have_several_values(reading):
    text = SERVICE.replace("{name: one}", "{name: one, labels: {team: [a, b], tier: x}}")
    assert reading(text).services[0].labels == {"team": ["a", "b"], "tier": "x"}
    assert reading(openslo.write(reading(text))) == reading(text)


def test_a_data_source_is_ignored_with_a_notice(tmp_path):
    (tmp_path / "slo.yaml").write_text(
        "apiVersion: openslo/v1\nkind: DataSource\nmetadata: {name: Any Thing}\nspec: {type: x, connectionDetails: {a: 1}}\n"
    )
    notes: list[str] = []
    assert openslo.read([tmp_path / "slo.yaml"], on_note=notes.append) == openslo.Definitions()
    assert notes == [
        f"{tmp_path}/slo.yaml:2: kind: the DataSource is ignored, because SLIs count events that are stored in the database"
    ]


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
