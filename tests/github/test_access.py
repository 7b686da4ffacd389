"""The token as people put it into the environment, and what is said of one that cannot be right."""

import pytest

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.access import Token, token_of

SECRET = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"  # noqa: S105


@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n", "\t{} ", "\u00a0{}"])
def test_blanks_and_line_ends_around_a_token_are_passed_over(around: str) -> None:
    assert token_of({"GH_TOKEN": around.format(SECRET)}) == Token("GH_TOKEN", SECRET)


def test_the_first_variable_that_is_set_wins_and_without_one_there_is_no_token() -> None:
    assert token_of({"GITHUB_TOKEN": " ", "GH_TOKEN": SECRET}).variable == "GH_TOKEN"
    assert token_of({}) == Token("GITHUB_TOKEN", "")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("\ufeff{}", "byte order mark"),
        ("\udcef\udcbb\udcbf{}", "byte order mark"),
        ('"{}"', "quotation marks"),
        ("'{}'", "quotation marks"),
        ("\u201c{}\u201d", "quotation marks"),
        ('{}"', "quotation marks"),
        ("Bearer {}", "scheme of the header"),
        ("token {}", "scheme of the header"),
        ("GITHUB_TOKEN={}", "name of a variable"),
        ("export GH_TOKEN={}", "name of a variable"),
        ("***", "masked"),
        ("$GITHUB_TOKEN", "reference that nothing replaced"),
        ("${{{{ secrets.GITHUB_TOKEN }}}}", "reference that nothing replaced"),
        ("%GITHUB_TOKEN%", "reference that nothing replaced"),
        ("{}\n{}", "line break"),
        ("{} {}", "a space"),
        ("{}\u200b", "characters that no token has"),
        ("{}:x", "characters that no token has"),
    ],
)
def test_a_value_that_cannot_be_a_token_is_named_by_its_fault_and_not_repeated(value: str, words: str) -> None:
    with pytest.raises(OpsKpiError) as failure:
        token_of({"GITHUB_TOKEN": value.format(SECRET, SECRET)})
    said = f"{failure.value.message} {failure.value.hint}"
    assert (failure.value.exit_code, failure.value.message.startswith("GITHUB_TOKEN ")) == (
        ExitCode.CONFIGURATION,
        True,
    )
    assert words in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("value", "has_form"),
    [
        *((f"{prefix}abc", True) for prefix in ("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "v1.")),
        ("0123456789abcdef" * 2 + "01234567", True),
        ("eyJhbGciOiJIUzI1NiJ9.e30.abc", True),
        *((word, False) for word in ("x", "completed", "octo-org/octo-repo", "workflow_runs", "1234")),
    ],
)
def test_a_token_is_told_from_an_ordinary_word(value: str, has_form: bool) -> None:
    assert Token("GH_TOKEN", value).has_form == has_form
