"""What becomes of runs, jobs and artifacts as GitHub describes them; whatever comes, never a traceback."""

import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import own_job
from opskpi.github.events import artifact_event, job_event, run_event
from opskpi.github.fields import Malformed
from opskpi.github.payloads import Collected, read
from opskpi.github.rules import Rules
from opskpi.github.signatures import is_signed, require_signature
from support.rest_api import artifact, workflow_run

RULES = Rules(
    (
        ("audit_observer", ("phase3-audit-observer",)),
        ("provenance_validate", ("provenance-validate",)),
        ("slsa_provenance", ("slsa-provenance", "release *")),
    ),
    ("v[0-9]*.[0-9]*.[0-9]*",),
)
JOB = {
    "id": 7,
    "run_id": 42,
    "run_attempt": 2,
    "name": "linters",
    "workflow_name": "CodeQL",
    "status": "completed",
    "conclusion": "failure",
    "started_at": "2026-03-10T12:00:00Z",
    "completed_at": "2026-03-10T12:03:18Z",
    "html_url": "https://github.com/octo-org/shop/actions/runs/42/job/7",
}


def event_of(described: object, **options: Any) -> dict[str, Any]:
    event = run_event(described, RULES, **options)
    assert event is not None
    return event


def taken(document: object) -> list[Collected]:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read(raw, RULES, source="file")


def refused_parts(document: object) -> list[tuple[str, str]]:
    """Return place and field of each part that is no event."""
    return [(one.place, one.refusal.field) for one in taken(document) if one.refusal]


def test_a_run_is_one_event_with_all_that_kpis_ask_for() -> None:
    event = event_of(workflow_run(42, seconds=90))
    assert event.pop("event_id")
    assert event == {
        "event_type": "workflow_run",
        "event_timestamp": "2026-03-10T12:01:30+00:00",
        "run_id": 42,
        "payload": {
            "outcome": "success",
            "conclusion": "success",
            "workflow": "ci",
            "workflow_path": ".github/workflows/ci.yml",
            "run_attempt": 1,
            "repository": "octo-org/shop",
            "event": "push",
            "url": "https://github.com/octo-org/shop/actions/runs/42",
            "head_sha": "3484a3fb816e0859fd6e1cea078d76385ff50625",
            "duration_ms": 90_000,
        },
    }


@pytest.mark.parametrize(
    ("conclusion", "outcome"),
    [
        ("success", "success"),
        ("failure", "failure"),
        ("timed_out", "failure"),
        ("startup_failure", "failure"),
        ("cancelled", "cancelled"),
        ("skipped", "skipped"),
        ("neutral", "skipped"),
        ("action_required", "skipped"),
        ("stale", "skipped"),
        (None, "skipped"),
    ],
)
def test_each_conclusion_has_its_outcome(conclusion: str | None, outcome: str) -> None:
    payload = event_of(workflow_run(1) | {"conclusion": conclusion})["payload"]
    assert (payload["outcome"], payload["conclusion"]) == (outcome, conclusion or "unknown")


@pytest.mark.parametrize("status", ["queued", "in_progress", "waiting", "requested", "pending", "something new"])
def test_a_run_that_goes_on_is_no_event(status: str) -> None:
    assert run_event(workflow_run(1) | {"status": status, "conclusion": None}, RULES) is None


def test_the_same_attempt_is_the_same_event_and_another_is_another() -> None:
    first = event_of(workflow_run(1))["event_id"]
    assert (
        event_of(workflow_run(1, "failure", seconds=5, name="renamed", repository={"full_name": "new/name"}))[
            "event_id"
        ]
        == first
    )
    others = [
        workflow_run(2),
        workflow_run(1, attempt=2),
        workflow_run(1, html_url="https://ghe.example/a/b/actions/runs/1"),
        workflow_run(1, "action_required"),
    ]
    assert len({first, *(event_of(other)["event_id"] for other in others)}) == 5


def test_the_api_and_the_site_are_one_host() -> None:
    listed = workflow_run(1)
    by_api = listed | {"html_url": None, "url": "https://api.github.com/repos/octo-org/shop/actions/runs/1"}
    trimmed = {key: value for key, value in listed.items() if key != "html_url"}
    assert event_of(listed)["event_id"] == event_of(by_api)["event_id"] == event_of(trimmed)["event_id"]


@pytest.mark.parametrize(
    ("changes", "duration"),
    [
        ({"updated_at": "2026-03-10T11:59:00Z"}, 0),
        ({"run_started_at": None}, 60_000),
        ({"run_started_at": None, "run_attempt": 2}, None),
        ({"updated_at": "2026-03-10T14:01:00+02:00"}, 60_000),
        ({"updated_at": "2026-03-10T12:00:00.250Z"}, 250),
        ({"updated_at": "2026-06-10T12:00:00Z"}, None),
    ],
    ids=repr,
)
def test_a_duration_is_from_begin_to_end_and_never_negative_or_beyond_belief(
    changes: dict[str, object], duration: int | None
) -> None:
    assert event_of(workflow_run(1) | changes)["payload"].get("duration_ms") == duration


def test_a_time_that_moved_by_months_is_not_the_end() -> None:
    assert (
        event_of(workflow_run(1, updated_at="2026-06-10T12:00:00Z"))["event_timestamp"] == "2026-03-10T12:00:00+00:00"
    )


@pytest.mark.parametrize(
    ("name", "path", "event_type"),
    [
        ("slsa-provenance", None, "slsa_provenance"),
        ("SLSA", ".github/workflows/slsa-provenance.yml", "slsa_provenance"),
        ("SLSA", ".github/workflows/slsa-provenance.yaml@refs/heads/main", "slsa_provenance"),
        ("release nightly", None, "slsa_provenance"),
        ("provenance-validate", None, "provenance_validate"),
        ("phase3-audit-observer", None, "audit_observer"),
        ("not-slsa-provenance", ".github/workflows/ci.yml", "workflow_run"),
    ],
)
def test_workflows_that_settings_name_are_events_of_their_own_kind(
    name: str, path: str | None, event_type: str
) -> None:
    event = event_of(workflow_run(1, name=name, path=path))
    assert (event["event_type"], event["payload"]["workflow"]) == (event_type, name)


def test_an_exact_name_wins_over_a_pattern_and_brackets_may_be_meant() -> None:
    rules = Rules((("all", ("*",)), ("one", ("[ci] build",))))
    assert [rules.event_type([name]) for name in ("[ci] build", "c build")] == ["one", "all"]


@pytest.mark.parametrize(
    ("event", "branch", "tag"),
    [
        ("release", "v1", "v1"),
        ("push", "v1.2.3", "v1.2.3"),
        ("workflow_dispatch", "v1.2.3-rc.1", "v1.2.3-rc.1"),
        ("push", "refs/tags/nightly", "nightly"),
        ("push", "main", None),
        ("push", "v1", None),
        ("push", "v9.9.9", None),
        ("pull_request", "v1.2.3", None),
        ("push", None, None),
        ("schedule", "v1.2.3", None),
    ],
)
def test_a_tag_is_that_of_a_release_or_a_push_of_what_tags_are_called(
    event: str, branch: str | None, tag: str | None
) -> None:
    described = workflow_run(
        1, event=event, head_branch=branch, repository={"full_name": "a/b", "default_branch": "v9.9.9"}
    )
    assert event_of(described).get("tag") == tag


def test_a_job_is_no_run_and_has_no_outcome_that_error_rates_count() -> None:
    event = job_event(JOB, around={"repository": {"full_name": "octo-org/shop"}})
    assert event is not None
    assert (event["event_type"], event["run_id"], event["event_timestamp"]) == (
        "workflow_job",
        42,
        "2026-03-10T12:03:18+00:00",
    )
    assert event["payload"] == {
        "conclusion": "failure",
        "workflow": "CodeQL",
        "job": "linters",
        "run_attempt": 2,
        "repository": "octo-org/shop",
        "url": JOB["html_url"],
        "duration_ms": 198_000,
    }
    assert job_event(JOB | {"status": "in_progress"}) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [("app.intoto.jsonl", "provenance"), ("SBOM-spdx", "sbom"), ("bom.cyclonedx.json", "sbom"), ("coverage", "other")],
)
def test_an_artifact_has_a_size_and_a_kind(name: str, kind: str) -> None:
    event = artifact_event(artifact(5, 1234, name), run_id=42)
    assert (event["run_id"], event["payload"]["size_bytes"], event["payload"]["kind"]) == (42, 1234, kind)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": None}, "id"),
        ({"id": True}, "id"),
        ({"id": "1"}, "id"),
        ({"id": 0}, "id"),
        ({"id": 10**18}, "id"),
        ({"run_attempt": 1.5}, "run_attempt"),
        ({"status": None}, "status"),
        ({"conclusion": "something new"}, "conclusion"),
        ({"updated_at": None}, "updated_at"),
        ({"updated_at": "2026-03-10T12:00:00"}, "updated_at"),
        ({"updated_at": 5}, "updated_at"),
        ({"updated_at": "0001-01-01T00:00:00+14:00"}, "updated_at"),
        ({"run_started_at": "soon"}, "run_started_at"),
        ({"name": None, "path": None}, "name"),
        ({"name": 5}, "name"),
    ],
    ids=repr,
)
def test_a_malformed_run_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(Malformed) as fault:
        run_event(workflow_run(1) | changes, RULES)
    assert (fault.value.field, bool(fault.value.reason)) == (field, True)


def test_texts_that_postgres_cannot_hold_are_made_fit() -> None:
    event = event_of(workflow_run(1, name="a\0b\ud800c", head_sha="x" * 10_000))
    assert event["payload"]["workflow"] == "a\ufffdb\ufffdc"
    assert len(event["payload"]["head_sha"]) == 300


def test_one_payload_a_list_json_lines_and_a_rest_answer_are_read_alike() -> None:
    payload = {"action": "completed", "workflow_run": workflow_run(1), "repository": {"full_name": "octo-org/shop"}}
    lines = b"\n".join([json.dumps(payload).encode()] * 2) + b"\n\n"
    forms = [payload, [payload, payload], lines, {"total_count": 1, "workflow_runs": [workflow_run(1)]}, workflow_run(1), b"\xef\xbb\xbf" + json.dumps(payload).encode()]  # fmt: skip
    ids = [[one.event["event_id"] for one in taken(form) if one.event] for form in forms]
    assert [len(found) for found in ids] == [1, 2, 2, 1, 1, 1]
    assert len({event_id for found in ids for event_id in found}) == 1


def test_the_workflow_of_a_payload_may_stand_beside_the_run() -> None:
    [one] = taken(
        {"action": "completed", "workflow_run": workflow_run(1, name=""), "workflow": {"name": "slsa-provenance"}}
    )
    assert one.event is not None
    assert one.event["event_type"] == "slsa_provenance"


@pytest.mark.parametrize(
    ("action", "status", "is_event"),
    [("completed", None, True), ("completed", "completed", True), ("requested", "queued", False), ("requested", None, False), ("in_progress", "in_progress", False)],
)  # fmt: skip
def test_only_completed_is_an_event(action: str, status: str | None, is_event: bool) -> None:
    [one] = taken({"action": action, "workflow_run": workflow_run(1) | {"status": status}})
    assert (one.event is not None, one.refusal) == (is_event, None)


def test_artifacts_beside_a_run_are_its_artifacts() -> None:
    [_, made] = taken(workflow_run(42, artifacts=[artifact(1, 10)]))
    assert made.event is not None
    assert (made.event["event_type"], made.event["run_id"]) == ("artifact", 42)
    assert made.event["payload"]["repository"] == "octo-org/shop"
    listed = {"total_count": 1, "artifacts": [artifact(1, 10) | {"workflow_run": {"id": 42}}]}
    assert [one.event and one.event["run_id"] for one in taken(listed)] == [42]


def test_what_is_at_fault_has_its_place() -> None:
    listed = {"workflow_runs": [workflow_run(1), {"id": 2}, 5]}
    assert refused_parts(listed) == [("file, workflow_runs[1]", "status"), ("file, workflow_runs[2]", "")]
    assert refused_parts([{"ref": "refs/heads/main"}, "text"]) == [("file: element 1", ""), ("file: element 2", "")]
    assert refused_parts(json.dumps(workflow_run(1)).encode() + b'\n{"cut": \n') == [("file: line 2", "")]
    assert refused_parts({"action": "completed", "workflow_job": JOB | {"id": -1}}) == [("file, workflow_job", "id")]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"nonsense", "is not JSON"),
        (b'{"action": "comp', "is not JSON"),
        (b"\xff\xfe{\x00", "is not UTF-8 at byte 1"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
    ids=["empty", "blank", "words", "cut", "UTF-16", "NaN", "deep", "long number"],
)
def test_what_is_no_json_at_all_is_one_sentence(raw: bytes, words: str) -> None:
    with pytest.raises(OpsKpiError) as failure:
        taken(raw)
    assert failure.value.exit_code == ExitCode.BAD_ARGUMENT
    assert words in failure.value.message


# A machine that does other work as well is no fault of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEYS = [
    *workflow_run(1),
    *JOB,
    "workflow_run",
    "workflow_job",
    "workflow_runs",
    "artifacts",
    "jobs",
    "action",
    "workflow",
    "size_in_bytes",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.sampled_from(["completed", "success", "2026-03-10T12:00:00Z", "https://[", "http://a:b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=8),
    max_leaves=30,
)  # fmt: skip


@UNHURRIED
@given(VALUES)
def test_any_json_is_taken_apart_into_events_and_refusals(document: object) -> None:
    for one in taken(document):
        assert one.event is None or one.event["event_id"]


@UNHURRIED
@given(
    st.dictionaries(st.sampled_from(sorted(workflow_run(1))), VALUES, max_size=4),
    st.sampled_from(["workflow_run", "workflow_job"]),
)
def test_any_field_of_a_payload_may_be_anything(changes: dict[str, object], key: str) -> None:
    described = (workflow_run(1) if key == "workflow_run" else JOB) | changes
    assert len(taken({"action": "completed", key: described})) >= 1


@UNHURRIED
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        taken(raw)
    except OpsKpiError as refusal:
        assert refusal.exit_code == ExitCode.BAD_ARGUMENT


def test_a_signature_is_that_of_the_documentation() -> None:
    # The example of https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_signed(b"Hello, World!", signature, "It's a Secret to Everybody")


@pytest.mark.parametrize("signature", [None, "", "sha256=", "sha1=757107", "t\u00f6richt", "sha256=\ud800"])
def test_a_signature_that_is_none_does_not_fit(signature: str | None) -> None:
    assert not is_signed(b"Hello, World!", signature, "It's a Secret to Everybody")


@UNHURRIED
@given(st.binary(max_size=50), st.text(min_size=1, max_size=20).filter(str.isascii), st.integers(0, 70))
def test_a_signature_fits_the_very_bytes_and_the_very_secret(body: bytes, secret: str, place: int) -> None:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert is_signed(body, signature, secret)
    assert not is_signed(body + b" ", signature, secret)
    assert not is_signed(body, signature, secret + "x")
    damaged = signature[:place] + ("1" if signature[place] == "0" else "0") + signature[place + 1 :]
    assert not is_signed(body, damaged, secret)


def test_a_secret_of_any_bytes_is_a_secret() -> None:
    signature = "sha256=" + hmac.new(b"\xff\xfe", b"body", hashlib.sha256).hexdigest()
    assert is_signed(b"body", signature, "\udcff\udcfe")
    assert not is_signed(b"other", signature, "\udcff\udcfe")


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(expected: bytes, given: bytes) -> bool:
        compared.append((expected, given))
        return False

    monkeypatch.setattr("opskpi.github.signatures.hmac.compare_digest", compare)
    assert not is_signed(b"body", "sha256=00", "secret")
    assert [given for _, given in compared] == [b"sha256=00"]


@pytest.mark.parametrize(
    ("signature", "environ", "code"),
    [
        ("sha256=00", {}, ExitCode.CONFIGURATION),
        (None, {"HOOK_SECRET": "s3cret"}, ExitCode.BAD_ARGUMENT),
        ("sha256=00", {"HOOK_SECRET": "s3cret"}, ExitCode.FAILED),
    ],
)
def test_a_body_that_is_not_signed_is_refused_without_the_secret(
    signature: str | None, environ: dict[str, str], code: ExitCode
) -> None:
    with pytest.raises(OpsKpiError) as failure:
        require_signature(b"{}", signature, "HOOK_SECRET", environ)
    assert failure.value.exit_code == code
    right = hmac.new(b"s3cret", b"{}", hashlib.sha256).hexdigest()
    assert not any(text in failure.value.message + failure.value.hint for text in ("s3cret", right))


def test_the_own_job_is_one_event_with_the_tag_that_github_names() -> None:
    environ = {"GITHUB_RUN_ID": "42", "GITHUB_JOB": "build", "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v1"}
    began = own_job.datetime(2026, 3, 10, 12, tzinfo=own_job.UTC)

    def ended(minutes: int, **more: str) -> dict[str, Any]:
        after = began + timedelta(minutes=minutes)
        return own_job.event_of_own_job(
            environ | more, "success", event_type="slsa_provenance", started_at=began, ended_at=after
        )

    assert (ended(5)["tag"], ended(5)["payload"]["duration_ms"], ended(5)["payload"]["outcome"]) == (
        "v1",
        300_000,
        "success",
    )
    assert ended(5)["event_id"] == ended(6)["event_id"]
    assert ended(5)["event_id"] != ended(5, RUNNER_NAME="another of the matrix")["event_id"]
    assert "tag" not in ended(5, GITHUB_REF_TYPE="branch")


@pytest.mark.parametrize("run_id", ["", "x", "0", "-1", "9" * 30, "\u0663"])
def test_outside_of_github_actions_there_is_no_own_job(run_id: str) -> None:
    with pytest.raises(OpsKpiError) as failure:
        own_job.event_of_own_job({"GITHUB_RUN_ID": run_id}, "success")
    assert failure.value.exit_code == ExitCode.BAD_ARGUMENT
