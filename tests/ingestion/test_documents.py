"""Cutting files into the raw text of their events."""

import gzip
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.ingestion import documents
from opskpi.ingestion.documents import open_document
from opskpi.ingestion.records import KEPT_OF_A_LONG_EVENT, LONGEST_EVENT

CHUNKS = [3, 4, 5, 7, 64, 1 << 18]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    return tmp_path / "events"


def texts(path: Path, *, lines: int = 0, offset: int = 0) -> list[bytes]:
    with open_document(str(path)) as document:
        return [record.text for record in document.records(lines=lines, offset=offset)]


def record_numbers(path: Path) -> list[int]:
    with open_document(str(path)) as document:
        return [record.number for record in document.records()]


def read_until_error(path: Path) -> tuple[list[int], OpsKpiError]:
    found = []
    with open_document(str(path)) as document:
        try:
            for record in document.records():
                found.append(record.number)
        except OpsKpiError as error:
            return found, error
    raise AssertionError(f"no error after {found}")


@pytest.mark.parametrize("chunk", CHUNKS)
def test_lines_keep_their_numbers_and_text_whatever_the_chunks(source_file, monkeypatch, chunk):
    monkeypatch.setattr(documents, "CHUNK", chunk)
    source_file.write_bytes(b'\n{"a": 1}\r\n   \n {"b":"\xff"} \n{"c":3}')
    assert texts(source_file) == [b'{"a": 1}', b' {"b":"\xff"} ', b'{"c":3}']
    assert record_numbers(source_file) == [2, 4, 5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    elements=st.lists(values),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    chunk=st.sampled_from(CHUNKS),
    zipped=st.booleans(),
)
def test_array_elements_are_cut_out_exactly_as_written(source_file, elements, indent, ascii_only, chunk, zipped):
    written = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    source_file.write_bytes(gzip.compress(written) if zipped else written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "CHUNK", chunk)
        cut = texts(source_file)
        assert [json.loads(text) for text in cut] == json.loads(written)
        assert all(text in written for text in cut)
        assert record_numbers(source_file) == list(range(1, len(elements) + 1))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        (b'\xef\xbb\xbf\n{"a":1}\r\n\n{"b":2}\nbroken\n{"c":3}', [2, 4, 5, 6]),
        (b'\xef\xbb\xbf [{"a":1} , [[[[[2]]]]],"x",\n3 ,{"c":[{"d":"]"}]}]\n', [1, 2, 3, 4, 5]),
    ],
)
def test_reading_goes_on_after_any_record(source_file, monkeypatch, written, numbers, zipped, chunk):
    monkeypatch.setattr(documents, "CHUNK", chunk)
    source_file.write_bytes(gzip.compress(written) if zipped else written)
    with open_document(str(source_file)) as document:
        records = list(document.records())
    assert [record.number for record in records] == numbers
    for place, record in enumerate(records, start=1):
        with open_document(str(source_file)) as document:
            rest = document.records(lines=record.number, offset=record.end)
            assert list(rest) == records[place:]


@pytest.mark.parametrize(
    ("written", "numbers_before", "byte"),
    [
        (b'[{"a":1},{"b":2}', [1, 2], 16),
        (b'[{"a":1},{"b":', [1], 9),
        (b'[{"a":1},', [1], 9),
        (b'[{"a":1}] {"b":2}', [1], 10),
        (b'[{"a":1} {"b":2}]', [1], 9),
        (b'[{"a":1},,{"b":2}]', [1], 9),
        (b'[{"a":1},]', [1], 9),
        (b"[,]", [], 1),
        (b"[", [], 1),
        (b'["a', [], 1),
    ],
)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_malformed_array_ends_with_an_error_after_its_good_elements(
    source_file, monkeypatch, written, numbers_before, byte, chunk
):
    monkeypatch.setattr(documents, "CHUNK", chunk)
    source_file.write_bytes(written)
    found, error = read_until_error(source_file)
    assert found == numbers_before
    assert str(error).endswith(f"at byte {byte}")
    assert error.exit_code is ExitCode.BAD_ARGUMENT


def test_a_broken_element_leaves_its_neighbours_alone(source_file):
    source_file.write_bytes(b'[{"a":nope}, 1 2, NaN, "x", {"b" 1}, {"c":[[[[[3]]]]]}]')
    assert texts(source_file) == [b'{"a":nope}', b"1 2", b"NaN", b'"x"', b'{"b" 1}', b'{"c":[[[[[3]]]]]}']


@pytest.mark.parametrize("written", [b"", b"\n\n", b"\xef\xbb\xbf", b"[]", b" [ ] "])
def test_an_empty_file_has_no_records(source_file, written):
    source_file.write_bytes(written)
    assert texts(source_file) == []


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_a_line_may_be_exactly_the_longest(source_file, ending):
    source_file.write_bytes(b"a" * LONGEST_EVENT + ending)
    assert texts(source_file) == [b"a" * LONGEST_EVENT]


@pytest.mark.parametrize("length", [LONGEST_EVENT + 1, 3 * LONGEST_EVENT])
def test_an_over_long_line_is_cut_and_the_next_one_is_whole(source_file, length):
    source_file.write_bytes(b"a" * length + b"\nb\n" + b"c" * length)
    with open_document(str(source_file)) as document:
        found = list(document.records())
    kept = KEPT_OF_A_LONG_EVENT
    assert [(record.number, record.text, record.cut) for record in found] == [
        (1, b"a" * kept, True),
        (2, b"b", False),
        (3, b"c" * kept, True),
    ]
    assert found[-1].end == source_file.stat().st_size


@pytest.mark.parametrize("quote", [b'"', b""])
def test_an_over_long_element_is_cut_and_the_next_one_is_whole(source_file, quote):
    long = quote + b"1" * (3 * LONGEST_EVENT) + quote
    source_file.write_bytes(b'[{"a":%b},{"b":2},%b,3]' % (long, long))
    with open_document(str(source_file)) as document:
        found = [(record.number, record.text[:3], record.cut) for record in document.records()]
    assert found == [(1, b'{"a', True), (2, b'{"b', False), (3, long[:3], True), (4, b"3", False)]


def test_gzip_members_and_padding_after_them_are_read(source_file):
    source_file.write_bytes(gzip.compress(b"1\n2") + gzip.compress(b"2\n3\n") + b"\0" * 700)
    assert texts(source_file) == [b"1", b"22", b"3"]


@pytest.mark.parametrize("damage", ["cut", "checksum", "garbage"])
def test_damaged_gzip_data_gives_its_whole_lines_and_then_an_error(source_file, damage):
    whole = gzip.compress(b"1\n2\n3")
    source_file.write_bytes({"cut": whole[:-9], "checksum": whole[:-8] + b"x" * 8, "garbage": whole + b"more"}[damage])
    found, error = read_until_error(source_file)
    assert found == ([] if damage == "checksum" else [1, 2])
    assert "gzip data" in str(error)
    assert error.exit_code is ExitCode.BAD_ARGUMENT


def test_a_file_named_gz_that_is_none_is_refused(tmp_path):
    (tmp_path / "events.gz").write_bytes(b'{"a":1}\n')
    with pytest.raises(OpsKpiError, match="is not gzip data"):
        texts(tmp_path / "events.gz")


def test_utf_16_is_refused_with_the_way_to_convert_it(source_file):
    source_file.write_bytes('{"a":1}'.encode("utf-16"))
    with pytest.raises(OpsKpiError, match="is UTF-16") as refused:
        texts(source_file)
    assert "iconv" in refused.value.hint


@pytest.mark.parametrize("source", [".", "missing", "file/below", "nul\0byte"])
def test_what_is_no_readable_file_is_a_bad_argument(tmp_path, source):
    (tmp_path / "file").touch()
    with pytest.raises(OpsKpiError) as refused, open_document(f"{tmp_path}/{source}"):
        pass
    assert refused.value.exit_code is ExitCode.BAD_ARGUMENT


def test_the_key_follows_the_content_and_not_the_path(tmp_path):
    keys = []
    for name, content in [("a", b"1\n"), ("b", b"1\n"), ("c", b"2\n"), ("d", b"1\n\n")]:
        (tmp_path / name).write_bytes(content)
        with open_document(str(tmp_path / name)) as document:
            keys.append(document.key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_pipe_is_read_without_a_key_or_a_size(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[b'{"a":1}\n{"b":2}\n'])
    writer.start()
    with open_document(str(pipe)) as document:
        assert [record.number for record in document.records()] == [1, 2]
        assert (document.key, document.total) == (None, None)
        assert document.refused_path == Path("pipe.refused.jsonl")
    writer.join()
