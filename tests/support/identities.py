"""Who may ask in the role authenticated, and what the scopes of each allow."""

from collections.abc import Mapping
from dataclasses import dataclass

from .tenants import NIL_ORG, ORG_A


@dataclass(frozen=True, slots=True)
class Identity:
    """Who may ask in the role authenticated: the claims, the org they stand for, and what for."""

    name: str
    claims: Mapping[str, object]
    org: str | None
    scopes: frozenset[str]


def _key(org: str, *scopes: str) -> Identity:
    claims = {"sub": "0123456789ab", "app_metadata": {"org_id": org, "scopes": list(scopes)}}
    name = f"a key with {' and '.join(scopes) or 'no scope'}"
    return Identity(name, claims, org, frozenset(scopes) & {"ingest", "read", "admin"})


SIGNED_IN = frozenset({"ingest", "read"})
# What can be told of B by any of these must be nothing, and of A what its scopes allow.
IDENTITIES = [
    Identity("a user of A", {"app_metadata": {"org_id": ORG_A}}, ORG_A, SIGNED_IN),
    Identity("a user of no org", {}, NIL_ORG, SIGNED_IN),
    Identity("a user who signed in with a name", {"is_anonymous": False}, NIL_ORG, SIGNED_IN),
    _key(ORG_A, "read"),
    _key(ORG_A, "ingest"),
    _key(ORG_A, "admin"),
    _key(ORG_A, "ingest", "read", "admin"),
    _key(ORG_A, "hook"),
    _key(ORG_A),
    Identity("scopes that are no list", {"app_metadata": {"org_id": ORG_A, "scopes": "read"}}, ORG_A, frozenset()),
    Identity("null for scopes", {"app_metadata": {"org_id": ORG_A, "scopes": None}}, ORG_A, frozenset()),
    Identity("an anonymous sign-in", {"is_anonymous": True}, None, frozenset()),
    Identity(
        "an anonymous sign-in with the claims of A",
        {"is_anonymous": True, "app_metadata": {"org_id": ORG_A, "scopes": ["ingest", "read", "admin"]}},
        None,
        frozenset(),
    ),
    Identity("anonymous in another spelling", {"is_anonymous": "true"}, None, frozenset()),
]
# The scopes of which one lets a table be read; of all others it is read.
READ_WITH = {
    "ops.agents": {"ingest", "read"},
    "ops.collected_events": {"ingest", "read"},
    "ops.workflows": {"ingest", "read"},
    "ops.request_counts": {"ingest"},
    "ops.key_requests": {"ingest"},
    "ops.policies": {"ingest", "read", "admin"},
    "ops.slos": {"read", "admin"},
    "ops.alert_rules": {"read", "admin"},
    "ops.alerts": {"read", "admin"},
    "ops.alert_silences": {"read", "admin"},
}
# How the installation is set up, which every call asks; nothing of any tenant.
READ_BY_ALL = {
    "ops.settings",
    "ops.event_types",
    "ops.anonymisation_rules",
    "ops.retention_rules",
    "ops.removed_events",
}
# The scope that a row in a table needs.
WRITTEN_WITH = {
    "telemetry_events": "ingest",
    "ops.agents": "ingest",
    "ops.collected_events": "ingest",
    "ops.workflows": "ingest",
    "ops.request_counts": "ingest",
    "ops.key_requests": "ingest",
    "ops.policies": "admin",
    "ops.alert_silences": "admin",
}
