"""What leaves the machine: the keys that a kind of event has, without e-mail addresses, secrets and absolute paths."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from opskpi.hooks import events, plain_json
from opskpi.hooks.scrubbing import scrub
from support.hook_world import EXECUTION, ORG

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SECRETS = [
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0_abcdefghij",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-123456789012-abcdefghij",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI2K7MDENGbPxRfiCYEXAMPLEKEY9",
    JWT,
    "sk-proj-abcdefghijklmnop1234",
    "sb_secret_abcdefghijklmnop",
    "Bearer abcdef123456",
    "d41d8cd98f00b204e9800998ecf8427e",
    "password=hunter22",
    "API_KEY: 's3cr3t-value'",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
]
PATHS = [
    "/home/ann/code/secret-project/a.py",
    "/etc/passwd",
    "~/code/a.py",
    "~ann/code",
    "/Users/Ann Lee/code/a.py",
    "C:\\Users\\ann\\a.py",
    "c:/Users/ann/a.py",
    "\\\\server\\share\\ann",
    "file:///home/ann/a.py",
]
STAY = [
    "src/opskpi/hooks/scrubbing.py",
    "src/very/long/path/with/many/folders/inside/of/it/and/a/file_name.py",
    "src/main/java/com/example/AbstractSingletonProxyFactoryBean.java",
    "./tests/test_a.py",
    "../other/file.txt",
    "detect-private-key-and-aws-credentials-hook",
    "a finding that is a false positive, see ticket 12 and/or 13",
    "2026-01-05T10:00:00Z",
    "no-commit-to-branch",
    "trailing-whitespace: 3 of 4 at 12:30",
    "Überprüfung der Datei",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "found {} in it", '"{}"', "key={}, next", "({})"])
def test_a_secret_does_not_stay_in_text(secret: str, around: str) -> None:
    cleaned = scrub(around.format(secret), 500)
    for word in secret.replace(":", " ").replace("=", " ").split()[1:] or [secret]:
        assert word.strip("'") not in cleaned or word in {"RSA", "PRIVATE"}
    assert "[secret]" in cleaned


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("around", ["{}", "found in {} today", '"{}"', "path={}", "({})", "cc -I {}"])
def test_an_absolute_path_does_not_stay_in_text(path: str, around: str) -> None:
    cleaned = scrub(around.format(path), 500)
    assert "[path]" in cleaned
    assert not {"ann", "Ann", "Lee", "passwd", "share"} & set(cleaned.replace("/", " ").replace("\\", " ").split())


@pytest.mark.parametrize("text", STAY)
def test_relative_paths_and_plain_words_stay_as_they_are(text: str) -> None:
    assert scrub(text, 500) == text


def test_credentials_in_an_address_do_not_stay() -> None:
    cleaned = scrub("push to https://ann:hunter22@git.example.com/x.git and git@github.com:org/x.git", 500)
    assert not {"ann", "hunter22", "git@github.com"} & set(cleaned.replace(":", " ").replace("@", " ").split())
    assert "@" not in cleaned


@settings(max_examples=40)
@given(st.text(), st.emails(), st.text())
def test_no_e_mail_address_stays(before: str, address: str, after: str) -> None:
    cleaned = scrub(f"{before} {address} {after}", 10_000)
    assert address not in cleaned


@given(st.text(max_size=200), st.text("0123456789abcdef", min_size=32, max_size=128), st.text(max_size=200))
def test_no_long_hexadecimal_number_stays_that_is_not_as_long_as_a_digest(before: str, digits: str, after: str) -> None:
    assume(len(digits) not in {40, 64, 96, 128})
    assert digits not in scrub(f"{before} {digits} {after}", 10_000)


@given(st.text(max_size=100), st.sampled_from(SECRETS[:5]), st.text(max_size=100))
def test_no_known_token_stays_whatever_is_around_it(before: str, token: str, after: str) -> None:
    assert token not in scrub(f"{before} {token} {after}", 10_000)


@given(st.text("abcdefgh/ .", max_size=30), st.from_regex(r"/home/[a-z]{1,8}(/[a-z]{1,8}){1,3}", fullmatch=True))
def test_no_path_below_a_home_stays(before: str, path: str) -> None:
    assert path not in scrub(f"{before} {path}", 10_000)


@given(st.text())
def test_cleaning_twice_is_cleaning_once_and_the_result_is_one_short_line(text: str) -> None:
    once = scrub(text, 100)
    assert scrub(once, 100) == once
    assert len(once) <= 100
    assert once.isprintable()
    once.encode("utf-8")


def test_random_keys_do_not_stay() -> None:
    source = random.Random(7)  # noqa: S311
    for _ in range(300):
        key = base64.urlsafe_b64encode(source.randbytes(36)).decode("ascii")
        assert key not in scrub(f"key is {key} here", 500), key


@pytest.mark.parametrize(
    "text", ["@" * 8192, "a" * 100_000, "/" * 8192, "~/" * 4096, "a@" * 4096, " /a" * 3000, "\\" * 8192]
)
def test_no_text_takes_long_to_clean(text: str) -> None:
    assert len(scrub(text, 100)) <= 100


def test_every_text_of_an_event_is_cleaned_and_bounded() -> None:
    dirty = "ann@example.com " + "x" * 1000
    metrics: dict[str, object] = EXECUTION | {
        "hook_type": dirty,
        "override_reason": dirty,
        "user_actions": [dirty] * 50,
        "findings_summary": {
            "total": 1,
            "pattern": dirty,
            "patterns": [dirty] * 50,
            "by_severity": {dirty: 1},
            "diff": "x",
        },
        "diff": "secret code",
        "cwd": "/home/ann",
    }
    cleaned = events.cleaned("hook_execution", metrics)
    text = json.dumps(cleaned)
    assert "ann@" not in text
    assert "diff" not in text
    assert "cwd" not in text
    assert len(text) < 6000


def test_a_relative_file_stays_in_a_baseline_entry_and_an_absolute_one_does_not() -> None:
    entry = {"file": "src/a.py", "line": 7, "pattern": "AWS", "reason": "a test key", "date": "2026-01-05"}
    common: dict[str, object] = {"hook_type": "pre-commit", "source": "manual", "reviewed": False}
    assert events.cleaned("hook_baseline", common | {"baseline_entry": entry})["baseline_entry"] == entry
    absolute = events.cleaned("hook_baseline", common | {"baseline_entry": entry | {"file": "/home/ann/src/a.py"}})
    assert absolute["baseline_entry"] == entry | {"file": "[path]"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_as_json_is_read_as_the_same_by_any_reader(value: Any) -> None:
    written = plain_json.dumps(value)
    assert "\n" not in written
    assert written.isascii()
    assert json.loads(written) == plain_json.loads(written) == value


@given(st.text('{}[]",:0123456789truefalsn \\ue-', max_size=40))
def test_the_quick_reader_takes_what_the_usual_one_takes(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            plain_json.loads(text)
    else:
        assert plain_json.loads(text) == expected


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from(["hook_type", "result", "duration_ms", "findings_summary", "user_actions"]), VALUES)
)
def test_whatever_a_report_says_an_event_is_well_formed_or_refused(reported: dict[str, Any]) -> None:
    try:
        event = events.build(
            "hook_execution", EXECUTION | reported, {"agent_id": ORG, "org_id": ORG}, events.now_stamp()
        )
    except events.Malformed:
        return
    assert events.restored(json.loads(events.line(event))) == event
    assert len(events.line(event)) < 40_000
