"""What an answer of the hub or of Supabase means for the events that were sent."""

import json
from dataclasses import dataclass
from datetime import timedelta

from opskpi.hooks.targets import NotReady, Reply, Unreachable
from opskpi.outbound.reasons import may_pass, phrase

LONGEST_REASON = 300
# In the words of a hub or a database they say that an event is wrong. Every other refusal is about the request or who
# makes it, and may come from a proxy or a wrong port, where no event may be lost.
_OF_AN_EVENT = {400, 409, 422}
_TOO_LARGE = 413
_OTHER_ORG = "the key belongs to another organisation than the events: opskpi hook install --org UUID"


@dataclass(frozen=True, slots=True)
class Taken:
    """The batch is settled: counts, and by position in it the field and the reason of each refused event."""

    accepted: int
    duplicate: int
    refused: dict[int, tuple[str, str]]
    policy_version: int | None


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is known to have arrived; try again, `after` at the earliest where the other side said so."""

    reason: str
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """No repetition helps until someone changes something."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unacceptable:
    """The batch as a whole was refused: something in it is wrong."""

    reason: str


def of_batch(reply: Reply, count: int) -> Taken | Later | Paused | Unacceptable:
    """What became of a batch of `count` events."""
    if isinstance(reply, Unreachable):
        return Later(reply.reason)
    if isinstance(reply, NotReady):
        return Paused(reply.reason)
    if 200 <= reply.status < 300:
        taken = _taken(reply.body, count) or Later(f"answered {reply.status}, but not as the hub does")
        return Paused(_OTHER_ORG) if isinstance(taken, Taken) and _is_of_other_org(taken, count) else taken
    reason = in_words(reply.status, reply.body)
    if reply.status < 400:
        return Paused(f"{reason}; redirects are not followed")
    if may_pass(reply.status):
        return Later(reason, reply.after)
    is_about_an_event = reply.status in _OF_AN_EVENT and _object(reply.body)
    return Unacceptable(reason) if is_about_an_event or reply.status == _TOO_LARGE else Paused(reason)


def in_words(status: int, body: bytes) -> str:
    """A status with the sentence of the problem details (RFC 9457) that came with it."""
    answer = f"answered {phrase(status)}"
    problem = _object(body)
    detail = problem.get("detail") or problem.get("title")
    return f"{answer}: {_line(detail)}" if isinstance(detail, str) and detail.strip() else answer


def _taken(body: bytes, count: int) -> Taken | None:
    answer = _object(body)
    refused = answer.get("refused")
    if not isinstance(refused, list):
        return None
    reasons: dict[int, tuple[str, str]] = {}
    for refusal in refused:
        index = _count(refusal.get("index")) if isinstance(refusal, dict) else None
        if index is None or index >= count:
            return None
        reasons[index] = (_line(refusal.get("field") or ""), _line(refusal.get("reason") or "no reason given"))
    accepted, duplicate = _count(answer.get("accepted")), _count(answer.get("duplicate"))
    if accepted is None or duplicate is None or accepted + duplicate + len(reasons) != count:
        return None
    return Taken(accepted, duplicate, reasons, _count(answer.get("policy_version")))


def _is_of_other_org(taken: Taken, count: int) -> bool:
    """Whether the org is what is wrong with every event: that is a setting, and no fault of the events."""
    return 0 < count == len(taken.refused) and all(field == "org_id" for field, _ in taken.refused.values())


def _object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _line(text: object) -> str:
    return "".join(character if character.isprintable() else " " for character in str(text))[:LONGEST_REASON].strip()
