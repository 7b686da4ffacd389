"""Pseudonyms: an HMAC of the agent under a key that the database does not hold."""

import hashlib
import hmac

import psycopg
import pytest

from support.events import (
    NIL,
    refused,
    scalar,
)
from support.privacy import ANNA, KEY, ORG_A, pseudonym

pytestmark = pytest.mark.database


@pytest.mark.parametrize(
    ("key", "data", "digest"),
    [
        ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First".hex(), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        (
            "aa" * 131,
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.".hex(),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ],
)  # fmt: skip
def test_the_hash_is_hmac_sha_256_of_rfc_4231(database, key, data, digest):
    query = "select encode(ops.hmac_sha256(ops.hmac_pads(decode(%s, 'hex')), decode(%s, 'hex')), 'hex')"
    assert scalar(database, query, key, data) == digest


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_the_hash_is_that_of_pythons_hmac_for_keys_of_every_length(database, length):
    key = bytes(range(256))[:length]
    query = "select ops.hmac_sha256(ops.hmac_pads(%s), %s)"
    assert scalar(database, query, key, b"message") == hmac.new(key, b"message", hashlib.sha256).digest()


def test_a_pseudonym_is_known_as_one_and_is_its_own_pseudonym(database):
    query = "select ops.agent_pseudonym(ops.hmac_pads(%s), %s, %s)"
    made = scalar(database, query, KEY.encode(), NIL, str(ANNA))
    assert made == pseudonym(ANNA)
    assert (made.version, scalar(database, "select ops.is_pseudonym(%s)", str(made))) == (8, True)
    assert scalar(database, query, b"another key, as long", NIL, str(made).upper()) == made
    assert scalar(database, query, KEY.encode(), ORG_A, str(ANNA)) != made
    assert [scalar(database, "select ops.is_pseudonym(%s)", text) for text in (str(ANNA), "", "anna", None)] == [
        False
    ] * 4


def test_without_a_key_there_is_no_pseudonym(database):
    assert scalar(database, "select ops.agent_pseudonym(ops.anonymisation_pads(), %s, %s)", NIL, str(ANNA)) is None


@pytest.mark.parametrize(("claims", "code"), [("", "OP003"), ('{"role": "authenticated"}', "PT503")])
def test_a_short_key_is_refused_and_not_repeated(database, claims, code):
    with refused(code), database.transaction():
        database.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        database.execute("select set_config('opskpi.anonymisation_key', 'fifteen letters', true)")
        try:
            database.execute("select ops.anonymisation_pads()")
        except psycopg.Error as error:
            assert "fifteen letters" not in str(error)
            raise
