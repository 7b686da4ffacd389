"""The reader of provenance: what it refuses, and that it says why."""

import base64
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskpi.provenance import auditing
from opskpi.provenance.auditing import Verdict
from opskpi.provenance.checks import Artifact, Expectation
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.strict_json import DEEPEST, MOST_DOCUMENTS, MalformedError, decoded, document, documents
from support.provenances import SHA256

REFUSED = {
    "nothing": (b" \n\t", "is empty"),
    "no JSON": (b"{'a': 1}", "not JSON"),
    "a cut text": (b'{"a": "b', "not JSON"),
    "a cut escape": (b'"\\', "not JSON"),
    "a control character in a text": (b'{"a": "\x01"}', "not JSON"),
    "a comma too many": (b'{"a": 1,}', "not JSON"),
    "a key twice": (b'{"a": 1, "a": 1}', "given twice"),
    "a key twice, once escaped": (b'{"a": 1, "\\u0061": 2}', "given twice"),
    "a key twice further in": (b'[[{"b": {"a": 1, "a": 2}}]]', "given twice"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON"),
    "infinity": (b"[-Infinity]", "-Infinity is no JSON"),
    "a number that becomes infinity": (b"[1e999]", "too large"),
    "a number of thousands of digits": (b"[" + b"1" * 5000 + b"]", "too many digits"),
    "half a surrogate pair": (b'{"a": ["\\ud800"]}', "surrogate"),
    "half a surrogate pair as a key": (b'{"\\udfff": 1}', "surrogate"),
    "Latin-1": (b'{"a": "\xe9"}', "not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "two values on a line": (b"{} {}", "goes on after"),
    "too many documents": (b"{}\n" * (MOST_DOCUMENTS + 1), "more than 1,000 documents"),
    "too many values": (b"[" + b"1," * 500_001 + b"1]", "more than 500,000 values"),
    "too many levels": (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "deeper than 64"),
    "a hundred thousand levels": (b'{"a":' * 100_000, "deeper than 64"),
    "a million brackets that never close": (b"[" * 400_000, "deeper than 64"),
    "quotes without end": (b'"' + b'\\"' * 1_000_000, "not JSON"),
}


@pytest.mark.parametrize(("stored", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_parsers_read_differently_is_refused_with_a_reason(stored: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        documents(stored)


def test_documents_come_with_the_line_they_start_on() -> None:
    assert documents(b'\xef\xbb\xbf\n{"a": 1}\n\n[\n2\n]\r\n"x"') == [(2, {"a": 1}), (4, [2]), (7, "x")]
    with pytest.raises(MalformedError, match="2 JSON values instead of one"):
        document(b"1\n2")


def test_brackets_in_texts_are_no_levels() -> None:
    assert document(json.dumps({"a": '["' * 1000}).encode()) == {"a": '["' * 1000}
    assert document(b"[" * DEEPEST + b"]" * DEEPEST)


@given(st.binary(max_size=200) | st.text('[]{},:"\\u01eE-ntf \n', max_size=60).map(str.encode))
def test_any_bytes_are_read_as_python_reads_them_or_refused(stored: bytes) -> None:
    try:
        found = document(stored)
    except MalformedError as error:
        assert str(error)
    else:
        assert found == json.loads(stored.decode("utf-8"))


@given(st.binary(max_size=40))
def test_base64_is_read_in_both_alphabets(stored: bytes) -> None:
    assert decoded(base64.b64encode(stored).decode(), "it") == stored
    assert decoded(base64.urlsafe_b64encode(stored).decode(), "it") == stored
    # As JSON Web Signatures have it, and some bundles with them.
    assert decoded(base64.b64encode(stored).decode().rstrip("="), "it") == stored


@pytest.mark.parametrize(
    "text", ["YQ=", "YQ===", "YR==", "Y Q=", "YQ==\n", "YQ==YQ==", "+-==", "Y", "é===", 7, None, ["YQ=="]]
)
def test_damaged_base64_is_refused(text: object) -> None:
    with pytest.raises(MalformedError, match=r"^it is "):
        decoded(text, "it")


def test_a_hundred_megabytes_are_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as opened:
        opened.write(b'{"payload": "')
        opened.truncate(100 << 20)
    signatures = Signatures()
    tracemalloc.start()
    try:
        report = auditing.audit([file], [Artifact("it", {"sha256": SHA256})], Expectation(), signatures)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.verdict is Verdict.UNREADABLE
    assert report.provenances[0].checks[0].found == "it is larger than 16 MiB"
    assert peak < 40 << 20
