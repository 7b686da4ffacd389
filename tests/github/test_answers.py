"""Answers of GitHub, a proxy or a login to a token that is not right: a sentence, a way out, never the token."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.answers import Gone
from opskpi.github.api import ATTEMPTS, GitHub
from opskpi.github.listing import Repository
from support.rest_api import NOW, REPOSITORY, RUNS, TOKEN, Reply, Rest, workflow_run

PAGE = b"<!DOCTYPE html><html><title>Sign in to your account</title></html>"
SIGN_ON = {"X-GitHub-SSO": "required; url=https://github.com/orgs/octo-org/sso?authorization_request=A1B2C3"}


def listed(rest: Rest, **environ: str) -> list[object]:
    with GitHub(rest.url, environ, sleep=lambda _: None, now=lambda: NOW) as github:
        return [run for page in Repository(github, REPOSITORY).pages(NOW.replace(day=1), None) for run in page.runs]


def failure_of(rest: Rest, *replies: Reply, token: str = TOKEN) -> OpsKpiError:
    """Return the failure of listing runs, which says nothing of the token."""
    rest.runs = [workflow_run(1)]
    rest.reply(RUNS, *replies)
    with pytest.raises(OpsKpiError) as failure:
        listed(rest, **({"GITHUB_TOKEN": token} if token else {}))
    assert failure.value.hint
    assert len(token) < 10 or token not in failure.value.message + failure.value.hint
    return failure.value


@pytest.mark.parametrize("status", [200, 401, 403, 404, 407])
@pytest.mark.parametrize("body", [PAGE, b"\xef\xbb\xbf\n " + PAGE, b'<?xml version="1.0"?><Error/>'])
def test_a_web_page_in_the_place_of_json_is_a_proxy_or_a_login(rest: Rest, status: int, body: bytes) -> None:
    failure = failure_of(rest, Reply(status, body, {"Content-Type": "text/html; charset=utf-8"}))
    assert failure.exit_code == ExitCode.CONFIGURATION
    assert "a web page instead of JSON" in failure.message
    assert "--api-url" in failure.hint
    assert len(rest.asked) == 1


def test_a_text_in_the_place_of_json_is_named_by_its_type(rest: Rest) -> None:
    failure = failure_of(rest, Reply(200, b"blocked by policy", {"Content-Type": "text/plain"}))
    assert (failure.exit_code, "text/plain instead of JSON" in failure.message) == (ExitCode.CONFIGURATION, True)


def test_json_that_is_cut_short_is_tried_again_whatever_its_type_says(rest: Rest) -> None:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    failure = failure_of(rest, *[Reply(200, b'{"workflow_runs": [', kind)] * ATTEMPTS)
    assert (failure.exit_code, len(rest.asked)) == (ExitCode.TRY_LATER, ATTEMPTS)


@pytest.mark.parametrize(
    ("reply", "words", "way_out"),
    [
        (Reply(401, b'{"message": "Bad credentials"}'), "is wrong, was revoked or has expired", "GITHUB_TOKEN"),
        (Reply(403, b'{"message": "Resource protected by organization SAML enforcement."}', SIGN_ON), "authorised for single sign-on", "https://github.com/orgs/octo-org/sso, or"),
        (Reply(403, b"{}", {"X-GitHub-SSO": "required; url=http://["}), "authorised for single sign-on", "Configure SSO"),
        (Reply(200, b'{"total_count": 0, "workflow_runs": []}', {"X-GitHub-SSO": "partial-results; organizations=1,2"}), "holds back results", "Configure SSO"),
        (Reply(403, b'{"message": "Resource not accessible by personal access token"}', {"X-Accepted-GitHub-Permissions": "actions=read"}), "may not read this, which needs actions=read", "Actions: read"),
        (Reply(403, b'{"message": "Resource not accessible by integration"}'), "may not read this", "permissions: {actions: read}"),
        (Reply(200, b'{"total_count": 7, "workflow_runs": []}'), "counts 7 runs and lists none", "Actions: read"),
        (Reply(407, b""), "407 Proxy Authentication Required", "HTTPS_PROXY"),
    ],
    ids=["wrong", "SSO", "SSO nowhere", "SSO partial", "fine-grained", "workflow", "empty list", "proxy"],
)  # fmt: skip
def test_a_token_that_does_not_get_through_is_said_with_the_way_out(
    rest: Rest, reply: Reply, words: str, way_out: str
) -> None:
    failure = failure_of(rest, reply)
    assert failure.exit_code == ExitCode.CONFIGURATION
    assert words in failure.message
    assert way_out in failure.hint
    assert "A1B2C3" not in failure.hint


@pytest.mark.parametrize(("token", "words"), [(TOKEN, "the token in GITHUB_TOKEN may not see it"), ("", "a request without a token may not see it")])  # fmt: skip
def test_a_repository_that_is_not_there_may_be_one_that_the_token_does_not_see(
    rest: Rest, token: str, words: str
) -> None:
    failure = failure_of(rest, Reply(404, b'{"message": "Not Found"}'), token=token)
    assert isinstance(failure, Gone)
    assert words in failure.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message": "Not so fast", "documentation_url": "x"}', "with the message: Not so fast"),
        (b'{"error": "denied"}', "without a list of workflow_runs"),
        (b'"text"', "without a list of workflow_runs"),
        (b"null", "without a list of workflow_runs"),
    ],
)
def test_json_of_another_shape_is_said_with_its_message(rest: Rest, body: bytes, words: str) -> None:
    failure = failure_of(rest, Reply(200, body))
    assert (failure.exit_code, words in failure.message) == (ExitCode.FAILED, True)


def test_a_rate_limit_without_a_token_says_that_a_token_raises_it(rest: Rest) -> None:
    limit = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "4000000000"}
    assert "put a token, which has a higher one, into GITHUB_TOKEN" in failure_of(rest, Reply(403, b"{}", limit), token="").hint  # fmt: skip


@pytest.mark.parametrize("word", ["1", "e", "ci", "success", "workflow_runs", "run_started_at", "octo-org/shop"])
def test_a_word_that_stands_in_ordinary_answers_is_no_token_and_damages_none(rest: Rest, word: str) -> None:
    failure = failure_of(rest, token=word)
    assert failure.exit_code == ExitCode.CONFIGURATION
    assert failure.message.startswith("GITHUB_TOKEN holds what stands in ordinary answers")
    assert "GITHUB_TOKEN" in failure.hint


def test_an_answer_to_a_word_that_is_no_token_doubts_the_word(rest: Rest) -> None:
    assert "has not the form of a token" in failure_of(rest, Reply(401, b"{}"), token="changeme-please").hint


def test_a_token_that_stands_in_no_answer_is_used_whatever_it_looks_like(rest: Rest) -> None:
    rest.runs = [workflow_run(1)]
    assert len(listed(rest, GITHUB_TOKEN="unlikely")) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.none() | st.integers() | st.sampled_from(["ci", f"{TOKEN}x", TOKEN]) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)))  # fmt: skip
def test_an_echo_of_the_token_is_taken_out_and_all_else_stays(rest: Rest, described: object) -> None:
    rest.reply(RUNS, Reply(200, json.dumps({"total_count": 1, "workflow_runs": [described]}).encode()))
    [found] = listed(rest, GITHUB_TOKEN=TOKEN)
    assert found == json.loads(json.dumps(described).replace(TOKEN, "***"))
