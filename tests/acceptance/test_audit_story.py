"""The story of an audit, as a new user would live it: provenance passes, an artifact is tampered with, and it shows everywhere."""

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from support.events import add_event, add_rule, add_slo, rows
from support.fixtures import Cli
from support.provenances import ARTIFACT, RUN_ID, SOURCE, Sigstore, statement_v1


def test_a_tampered_artifact_shows_in_the_view_the_kpi_the_slo_and_the_alerts(
    cli: Cli, database: psycopg.Connection, tmp_path: Path
) -> None:
    sigstore = Sigstore()
    root = sigstore.write_trust_root(tmp_path)
    (tmp_path / "app.sigstore.json").write_text(json.dumps(sigstore.bundle(statement_v1())))
    (tmp_path / "app.tar.gz").write_bytes(ARTIFACT)
    add_slo(database, "audits", event_type="audit_observer", target="0.5")
    add_rule(database, "audits_spent", "budget_exhausted", slo_name="audits")
    add_event(database, "slsa_provenance", datetime.now(UTC), run_id=RUN_ID, tag="v1.4.0", outcome="success")
    add_event(database, "provenance_validate", datetime.now(UTC), run_id=5, tag="v1.4.0", outcome="success")

    audit = ("audit", "app.sigstore.json", "--artifact", "app.tar.gz", "--source", SOURCE, "--tag", "v1.4.0")
    audit += ("--require-signature", "--trust-root", str(root))
    passed = cli(*audit)
    assert passed.returncode == 0, passed.stderr
    assert "verdict: pass\n" in passed.stdout
    assert "provenance run found, validation run found" in passed.stdout
    for byte in range(3):
        (tmp_path / "app.tar.gz").write_bytes(ARTIFACT + bytes([byte]))
        assert cli(*audit).returncode == 3

    assert cli("run").returncode == 0
    failed = "select count(*), bool_or(sha256_verified), min(tag) from v_ops_slsa_audit_failures"
    assert rows(database, failed) == [(3, False, "v1.4.0")]
    kpis = {
        row["metric_name"]: row["metric_value"] for row in json.loads(cli("kpi", "--period", "month", "--json").stdout)
    }
    assert {name: value for name, value in kpis.items() if name in EXPECTED} == EXPECTED
    (slo,) = [row for row in json.loads(cli("slo", "--json").stdout) if row["slo_name"] == "audits"]
    assert (slo["good"], slo["total"], slo["status"]) == (1, 4, "breached")
    firing = json.loads(cli("alert", "--json").stdout)
    assert "audits_spent" in {alert["rule_name"] for alert in firing}


# One of four audits passed; provenance and both runs were sound each time.
EXPECTED = {
    "provenance_validation_rate": 25,
    "audit_success_rate": 25,
    "sha256_verification_rate": 25,
    "predicate_type_verification_rate": 100,
    "supabase_sync_rate": 100,
}
