"""The meaning of an answer for the events that were sent."""

import pytest

from opskpi.hooks import answers, targets

PAGE = b"<html><h1>400 The plain HTTP request was sent to HTTPS port</h1></html>"
PROBLEM = b'{"title": "it is wrong"}'


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_refusal_that_is_not_in_the_words_of_a_hub_loses_no_event(status: int) -> None:
    assert isinstance(answers.of_batch(targets.Answered(status, None, None, PAGE), 1), answers.Paused)
    assert isinstance(answers.of_batch(targets.Answered(status, None, None, PROBLEM), 1), answers.Unacceptable)


def test_what_a_proxy_finds_too_large_is_sent_in_smaller_pieces() -> None:
    assert isinstance(answers.of_batch(targets.Answered(413, None, None, PAGE), 2), answers.Unacceptable)
