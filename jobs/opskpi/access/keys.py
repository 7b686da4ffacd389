"""API keys of the hub: `opskpi_<key id>_<secret>`. The database keeps the SHA-256 of the secret only."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

SECRET = re.compile(r"(opskpi_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
KEY = re.compile(r"opskpi_(?P<key_id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
KEY_ID_BYTES = 6
SECRET_BYTES = 32
SCOPES = ("ingest", "read", "admin")
NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as a caller presents it; its secret is in no repr."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret: 32 random bytes need neither salt nor stretching."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    @property
    def mark(self) -> str:
        """By what a session recognises the key without holding what would prove it."""
        return mark_of(self.digest)

    @property
    def text(self) -> str:
        """The whole key, for its owner's eyes."""
        return f"opskpi_{self.key_id}_{self.secret}"

    def matches(self, digest: bytes | None) -> bool:
        """Whether it is the key with that digest, found out in the same time for every digest, None included."""
        return hmac.compare_digest(self.digest, digest or NO_DIGEST) and digest is not None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row of `ops.api_keys`: whose key it is and what it may do, without what it is recognised by."""

    key_id: str
    org_id: UUID
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def mark_of(digest: bytes) -> str:
    """The mark of the key with that digest."""
    return hashlib.sha256(b"opskpi session " + digest).hexdigest()


def parse(text: str) -> ApiKey | None:
    """The key that a text is; None when it has not the form of one."""
    found = KEY.fullmatch(text)
    return ApiKey(found["key_id"], found["secret"]) if found else None


def without_secrets(text: str) -> str:
    """The text with what is secret in its API keys replaced: a key may end up in a URL, and from there in a log."""
    return SECRET.sub(r"\1…", text)


def draw() -> ApiKey:
    """A new key from the system's randomness."""
    return ApiKey(secrets.token_hex(KEY_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES))


def create(
    connection: psycopg.Connection, name: str, org_id: UUID, scopes: Sequence[str], expires_at: datetime | None
) -> ApiKey:
    """Store a new key of an org and return it; nobody can ever read its secret again."""
    key = draw()
    connection.execute(
        "select from ops.create_api_key(org_id => %s, name => %s, key_id => %s, key_sha256 => %s, scopes => %s,"
        " expires_at => %s)",
        [org_id, name, key.key_id, key.digest, list(dict.fromkeys(scopes)), expires_at],
    )
    return key


def stored(connection: psycopg.Connection, *, everything: bool) -> list[StoredKey]:
    """The keys, newest first; those that are revoked or expired only when `everything` is asked for."""
    with connection.cursor(row_factory=class_row(StoredKey)) as cursor:
        return cursor.execute(
            "select key_id, org_id, name, scopes, created_at, expires_at, revoked_at, last_used_at from ops.api_keys"
            " where %s or (revoked_at is null and coalesce(expires_at, 'infinity') > now())"
            " order by created_at desc, key_id",
            [everything],
        ).fetchall()


def revoke(connection: psycopg.Connection, key_id: str) -> bool:
    """End a key with the next request; False when there is none of that id that was not revoked before."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(cursor.execute("select ops.revoke_api_key(key_id => %s)", [key_id]).fetchone())
