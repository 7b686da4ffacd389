"""`opskpi audit` on the command line: what it prints, what it keeps, and how it ends."""

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from uuid import UUID

import click
import psycopg
import pytest

from opskpi.commands.main import cli as commands
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.orgs import NIL_ORG
from opskpi.provenance import recording
from support import forks
from support.events import add_audit, add_event, rows, scalar
from support.fixtures import Cli
from support.patience import PATIENCE_S
from support.provenances import ARTIFACT, COMMIT, RUN_ID, SHA256, SOURCE, Sigstore, envelope, statement_v1

NOWHERE = ("--dsn", "postgresql://somebody:secret@127.0.0.1:1/nowhere")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Write a provenance and the artifact it is about, and return their names."""
    (tmp_path / "app.intoto.jsonl").write_text(json.dumps(envelope(statement_v1())))
    (tmp_path / "app.tar.gz").write_bytes(ARTIFACT)
    return "app.intoto.jsonl", "app.tar.gz"


def test_an_audit_that_passes_is_recorded_once(cli: Cli, database: psycopg.Connection, files: tuple[str, str]) -> None:
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success")
    arguments = ("audit", files[0], "--artifact", files[1], "--tag", "v1.4.0", "--source", SOURCE, "--commit", COMMIT)
    answer = cli(*arguments)
    assert answer.returncode == 0, answer.stderr
    printed = answer.stdout.splitlines()
    assert printed[0] == "app.intoto.jsonl"
    assert "  pass        tag: v1.4.0" in printed
    assert f"pass        artifact digest: app.tar.gz is {SHA256}" in printed
    assert "verdict: pass, not verified: signature" in printed
    assert printed[-1].endswith("; provenance run found, validation run not found")
    again = json.loads(cli(*arguments, "--json").stdout)
    assert (again["verdict"], again["recorded"]["events_stored"]) == ("pass", 0)
    assert 10**17 <= again["audit_run_id"] < 10**18
    assert rows(
        database, "select audit_run_id, validation_status, supabase_provenance_synced from slsa_audit_metrics"
    ) == [(again["audit_run_id"], "success", True)]
    assert scalar(database, "select count(*) from telemetry_events where event_type = 'audit_observer'") == 1


def test_a_tampered_artifact_fails_and_another_audit_of_the_run_mends_it(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "app.tar.gz").write_bytes(ARTIFACT + b"and a back door")
    arguments = ("audit", files[0], "--artifact", files[1], "--audit-run-id", "42", "--validation-run-id", "43")
    answer = cli(*arguments)
    assert answer.returncode == 3
    assert "FAIL        artifact digest: expected " in answer.stdout
    assert f"found {SHA256}" in answer.stdout
    assert "the audit failed: artifact digest" in answer.stderr
    failures = "select audit_run_id, validation_run_id, validation_status from v_ops_slsa_audit_failures"
    assert rows(database, failures) == [(42, 43, "failure")]
    (tmp_path / "app.tar.gz").write_bytes(ARTIFACT)
    assert cli(*arguments).returncode == 0
    assert rows(database, failures) == []


@pytest.mark.parametrize("content", ['{"payload": 1, "payload": 1}', '{"a":' * 100_000])
def test_what_is_no_json_ends_with_64_and_is_recorded_as_a_failure(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path, content: str
) -> None:
    (tmp_path / files[0]).write_bytes(content.encode(errors="surrogateescape"))
    answer = cli("audit", files[0], "--artifact", files[1])
    assert answer.returncode == 64
    assert "verdict: unreadable" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert rows(database, "select provenance_status, validation_status from v_ops_slsa_audit_failures") == [
        ("failure", "skipped")
    ]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (statement_v1(), (), "a format is not understood"),
        ({"attestations": []}, (), "a format is not understood"),
        (envelope(statement_v1()), ("--sha512", "ab" * 64), "the artifact cannot be compared with the subjects"),
    ],
)
def test_what_is_not_understood_ends_with_64_and_no_row_says_that_it_failed(
    cli: Cli,
    database: psycopg.Connection,
    files: tuple[str, str],
    tmp_path: Path,
    content: object,
    options: tuple[str, ...],
    said: str,
) -> None:
    (tmp_path / files[0]).write_text(json.dumps(content))
    answer = cli("audit", files[0], *(options or ("--artifact", files[1])))
    assert (answer.returncode, said in answer.stderr) == (64, True)
    assert scalar(database, "select count(*) from slsa_audit_metrics") == 0


def test_a_run_whose_provenance_is_not_understood_is_named_and_no_row_says_that_it_failed(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / files[0]).write_text(json.dumps(statement_v1()))
    add_event(database, run_id=RUN_ID, outcome="success", sha256=SHA256, provenance_path=files[0])
    answer = cli("audit", "--latest")
    assert (answer.returncode, "its format is not understood: payloadType is missing" in answer.stdout) == (3, True)
    assert rows(database, "select provenance_status, validation_status from slsa_audit_metrics") == [
        ("success", "unknown")
    ]


@pytest.mark.parametrize("digest", ["hex", "HEX", "npm"])
def test_a_package_of_npm_is_audited_by_its_integrity(
    cli: Cli, files: tuple[str, str], tmp_path: Path, digest: str
) -> None:
    stored = hashlib.sha512(ARTIFACT).digest()
    subject = [{"name": "pkg:npm/app@1.4.0", "digest": {"sha512": stored.hex()}}]
    (tmp_path / files[0]).write_text(
        json.dumps({"attestations": [{"bundle": envelope(statement_v1(subject=subject))}]})
    )
    said = {"hex": stored.hex(), "HEX": stored.hex().upper(), "npm": f"sha512-{base64.b64encode(stored).decode()}"}
    assert cli("audit", files[0], "--sha512", said[digest], "--no-record").returncode == 0
    assert cli("audit", files[0], "--artifact", files[1], "--no-record").returncode == 0
    other = cli("audit", files[0], "--sha512", "00" * 64, "--no-record")
    assert (other.returncode, "the audit failed: artifact digest" in other.stderr) == (3, True)


def test_without_a_database_the_checks_are_printed_first(cli: Cli, files: tuple[str, str], tmp_path: Path) -> None:
    for form in ((), ("--json",)):
        answer = cli("audit", files[0], "--artifact", files[1], *form, *NOWHERE)
        assert answer.returncode == 75
        assert "artifact digest" in answer.stdout
        assert "no connection to database nowhere" in answer.stderr
        assert "secret" not in answer.stderr
    assert json.loads(answer.stdout)["recorded"] is None
    assert cli("audit", files[0], "--artifact", files[1], "--no-record", *NOWHERE).returncode == 0
    (tmp_path / files[1]).write_bytes(b"another")
    failed = cli("audit", files[0], "--artifact", files[1], *NOWHERE)
    assert failed.returncode == 3
    assert "the audit is not recorded: no connection" in failed.stderr


def test_a_signature_is_verified_where_it_is_required(cli: Cli, files: tuple[str, str], tmp_path: Path) -> None:
    sigstore = Sigstore()
    root = sigstore.write_trust_root(tmp_path)
    bundle = json.dumps(sigstore.bundle(statement_v1()))
    required = ("audit", "-", "--artifact", files[1], "--no-record", "--require-signature")
    assert cli(*required, "--trust-root", str(root), stdin=bundle).returncode == 0
    assert cli(*required, stdin=bundle).returncode == 3
    assert cli(*required, "--trust-root", files[1], stdin=bundle).returncode == 78


def test_markdown_shows_the_texts_of_strangers_literally(cli: Cli, files: tuple[str, str], tmp_path: Path) -> None:
    evil = "](https://evil.example) <img src=x> @everyone #1 | `x` **b** &amp; \u202e\n# owned"
    statement = json.loads(
        json.dumps(statement_v1()).replace("refs/tags/v1.4.0", f"refs/tags/{json.dumps(evil)[1:-1]}")
    )
    (tmp_path / files[0]).write_text(json.dumps(envelope(statement)))
    answer = cli("audit", files[0], "--artifact", files[1], "--tag", "v1", "--markdown", "--no-record")
    assert answer.returncode == 3
    lines = answer.stdout.splitlines()
    assert lines[0] == "### \u274c Provenance audit: fail"
    assert all(line.startswith("|") for line in lines[2:])
    assert not {"<img", "@everyone", "https://evil", "](", "# owned", "**b**", "&amp;", "\u202e"} & {
        word
        for word in ("<img", "@everyone", "https://evil", "](", "# owned", "**b**", "&amp;", "\u202e")
        if word in answer.stdout
    }
    assert all(line.count(" | ") == 4 for line in lines[2:])


def test_the_newest_runs_are_audited_and_those_that_do_not_pass_are_named(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path
) -> None:
    assert cli("audit", "--latest").stdout == "no provenance run waits for an audit\n"
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256, provenance_path=files[0])
    add_event(database, at="2026-03-09T12:00Z", run_id=7, outcome="success")
    add_event(database, at="2026-03-08T12:00Z", run_id=8, outcome="failure")
    rehearsed = cli("audit", "--latest", "--dir", str(tmp_path), "--json", "--no-record")
    assert [(run["provenance_run_id"], run["verdict"]) for run in json.loads(rehearsed.stdout)] == [
        (RUN_ID, "pass"),
        (7, "unknown"),
        (8, "unknown"),
    ]
    answer = cli("audit", "--latest", "--dir", str(tmp_path))
    assert answer.returncode == 3
    assert f"run {RUN_ID} (v1.4.0): pass" in answer.stdout
    assert "run 7: unknown: no provenance of 7 in " in answer.stdout
    assert "1 of 3 runs did not pass: 7" in answer.stderr
    assert rows(
        database,
        "select provenance_run_id, provenance_status, validation_status from slsa_audit_metrics order by audit_timestamp",
    ) == [(RUN_ID, "success", "success"), (7, "success", "unknown"), (8, "failure", "skipped")]
    again = cli("audit", "--latest", "--dir", str(tmp_path), "--markdown")
    assert again.returncode == 3
    assert again.stdout.startswith("run 7\n\n### Provenance audit: unknown")


def test_a_run_of_another_tag_than_asked_does_not_pass(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str]
) -> None:
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256, provenance_path=files[0])
    for option, value in (("--tag", "v99"), ("--versioned-tag", "v14"), ("--versioned-tag", "v1.5")):
        answer = cli("audit", "--latest", option, value)
        assert answer.returncode == 3, answer.stdout
        assert f"unknown: the run is of tag v1.4.0, not {value}" in answer.stdout
    assert rows(database, "select tag, validation_status from slsa_audit_metrics") == [("v1.4.0", "unknown")]
    assert cli("audit", "--latest", "--versioned-tag", "v1.4").returncode == 0


def test_an_audit_that_cannot_be_recorded_holds_up_no_other_run_and_no_verdict(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path
) -> None:
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256, provenance_path=files[0])
    add_event(database, at="2026-03-09T12:00Z", run_id=7, outcome="failure")
    taken = recording.derived_run_id("run", NIL_ORG, RUN_ID)
    add_audit(database, taken, org_id="00000000-0000-0000-0000-000000000007")
    passed = cli("audit", "--latest")
    assert passed.returncode == 64
    assert f"the audit of run {RUN_ID} is not recorded: audit run " in passed.stderr
    assert "1 of 2 audits are not recorded" in passed.stderr
    assert rows(database, "select validation_status from slsa_audit_metrics where provenance_run_id = 7") == [
        ("skipped",)
    ]
    (tmp_path / files[0]).write_text(json.dumps(envelope(statement_v1("v9"))))
    failed = cli("audit", "--latest")
    assert failed.returncode == 3
    assert f"1 of 1 runs did not pass: {RUN_ID}" in failed.stderr


@pytest.mark.parametrize("form", [(), ("--markdown",), ("--json",)], ids=str)
def test_a_verdict_matters_more_than_that_it_cannot_be_printed(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path, form: tuple[str, ...]
) -> None:
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256, provenance_path=files[0])
    (tmp_path / files[1]).write_bytes(b"another")
    environment = os.environ | {"OPSKPI_DSN": database.info.dsn}

    def ended(*arguments: str) -> int:
        with Path("/dev/full").open("wb") as full:
            command = ("audit", *arguments, *form)
            process = forks.Process(command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.DEVNULL)
            return process.wait(PATIENCE_S)

    assert ended(files[0], "--artifact", files[1]) == 3
    assert scalar(database, "select count(*) from slsa_audit_metrics where validation_status = 'failure'") == 1
    assert ended(files[0], "--sha256", SHA256, "--no-record") == 75
    assert ended("--latest", "--tag", "v99", "--no-record") == 3
    ascii_only = cli("audit", files[0], "--artifact", files[1], *form, env={"PYTHONIOENCODING": "ascii"})
    assert ascii_only.returncode == 3


def test_a_pipe_as_a_file_is_refused_at_once(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    answer = cli("audit", "pipe", "--sha256", SHA256, *NOWHERE)
    assert answer.returncode == 64
    assert "cannot read pipe: it is no regular file" in answer.stderr


def test_each_org_has_a_folder_of_its_own_unless_one_org_is_named(
    cli: Cli, database: psycopg.Connection, files: tuple[str, str], tmp_path: Path
) -> None:
    org_id = UUID("00000000-0000-0000-0000-000000000007")
    add_event(database, run_id=RUN_ID, org_id=org_id, outcome="success", sha256=SHA256, provenance_path=files[0])
    shared = cli("audit", "--latest", "--no-record")
    assert shared.returncode == 3
    assert f"there is no file {files[0]} in {org_id}" in shared.stdout
    assert cli("audit", "--latest", "--no-record", "--org", str(org_id)).returncode == 0
    (tmp_path / str(org_id)).mkdir()
    (tmp_path / files[0]).rename(tmp_path / str(org_id) / files[0])
    assert cli("audit", "--latest").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("app.intoto.jsonl",),
        ("no-such-file", "--sha256", SHA256),
        ("app.intoto.jsonl", "--artifact", "no-such-file"),
        ("app.intoto.jsonl", "--artifact", "."),
        (".", "--artifact", "app.tar.gz"),
        ("app.intoto.jsonl", "--sha256", "abc"),
        ("app.intoto.jsonl", "--sha512", SHA256),
        ("app.intoto.jsonl", "--sha512", "sha512-AAAA"),
        ("app.intoto.jsonl", "--sha512", "sha512-?"),
        ("app.intoto.jsonl", "--sha256", SHA256, "--tag", "v1", "--versioned-tag", "v1"),
        ("app.intoto.jsonl", "--sha256", SHA256, "--versioned-tag", "latest"),
        ("app.intoto.jsonl", "--sha256", SHA256, "--tag", " "),
        ("app.intoto.jsonl", "--sha256", SHA256, "--commit", "v1"),
        *(
            ("app.intoto.jsonl", "--sha256", SHA256, option, value)
            for option, values in {
                "--builder": ("", " ", "@v1", "https://b/x@", "https://b/x@ "),
                "--predicate-type": ("", " "),
                "--source": ("https://", "git+https://", "/", "//", "@refs/tags/v1", ".git", "https://@v1"),
                "--signer": ("ID@", "@v1", "@"),
                "--issuer": ("", " "),
                "--commit": ("",),
            }.items()
            for value in values
        ),
        ("app.intoto.jsonl", "--sha256", SHA256, "--run-id", "0"),
        ("app.intoto.jsonl", "--sha256", SHA256, "--org", "me"),
        ("app.intoto.jsonl", "--sha256", SHA256, "--json", "--markdown"),
        ("--latest", "app.intoto.jsonl"),
        ("--latest", "--sha256", SHA256),
        ("--latest", "--dir", "no-such-folder"),
        ("--latest", "--limit", "0"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_one_message_before_anything_is_recorded(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OpsKpiError, click.UsageError)) as caught:
        commands.main(["audit", *arguments, *NOWHERE], standalone_mode=False)
    if isinstance(caught.value, OpsKpiError):
        assert caught.value.exit_code is ExitCode.BAD_ARGUMENT
        assert caught.value.hint
