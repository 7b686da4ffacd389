"""Events of GitHub on their way into the database, and the account of what became of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from opskpi.access import pseudonyms
from opskpi.github.events import Event
from opskpi.github.payloads import Collected, Refusal
from opskpi.orgs import NIL_ORG

BATCH = 500
REFUSALS_KEPT = 20


@dataclass(slots=True)
class Summary:
    """The result of a source: counts of events stored, known already and refused, and of runs still going or left to
    the next poll (`postponed`).

    `api_requests` counts the requests made to read it. `refusals` holds the first 20. `unlisted` says, a sentence
    each, which runs GitHub has and does not list; `notes`, what else somebody should know.
    """

    source: str
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    still_running: int = 0
    postponed: int = 0
    api_requests: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> None:
        """Count a refusal, and keep it while there is room."""
        self.refused += 1
        if len(self.refusals) < REFUSALS_KEPT:
            self.refusals.append(refusal)


def store(connection: psycopg.Connection, found: Sequence[Collected], summary: Summary, org_id: UUID = NIL_ORG) -> None:
    """Store the events of what was found, in batches of one transaction each, and count what became of each part.

    An open transaction is used as it is. Raises psycopg.Error; the batches before that one stay stored.
    """
    for start in range(0, len(found), BATCH):
        _store(connection, found[start : start + BATCH], summary, org_id)


def store_requests(connection: psycopg.Connection, requests: Sequence[Event], org_id: UUID = NIL_ORG) -> None:
    """Store the api_request events of requests that were made."""
    if requests:
        _call(connection, requests, org_id)


def workflows_of(found: Iterable[Collected]) -> list[Event]:
    """The workflows of events, each once, as `ops.note_workflows` takes them."""
    keys = ("repository", "workflow", "workflow_path", "workflow_id")
    payloads = [part.event["payload"] for part in found if part.event]
    told = [payload for payload in payloads if "workflow_path" in payload or "workflow_id" in payload]
    return [dict(zip(keys, values, strict=True)) for values in dict.fromkeys(tuple(map(one.get, keys)) for one in told)]


def note_workflows(connection: psycopg.Connection, workflows: Sequence[Event], org_id: UUID = NIL_ORG) -> None:
    """Note workflows together, so that those of one name are told apart from the first event on."""
    if workflows:
        wanted = None if org_id == NIL_ORG else org_id
        connection.execute("select ops.note_workflows(org_id => %s, workflows => %s)", [wanted, Jsonb(workflows)])


def knows_workflows(connection: psycopg.Connection, workflows: Sequence[Event], org_id: UUID = NIL_ORG) -> bool:
    """Whether all of the workflows were noted before."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        [is_known] = cursor.execute(
            "select ops.knows_workflows(org_id => %s, workflows => %s)", [org_id, Jsonb(workflows)]
        ).fetchall()
    return is_known


def known(connection: psycopg.Connection, events: Iterable[Event], org_id: UUID = NIL_ORG) -> set[str]:
    """The event_ids, among those of the events, that were collected before."""
    wanted = [event["event_id"] for event in events]
    if not wanted:
        return set()
    with connection.cursor(row_factory=scalar_row) as cursor:
        return set(
            cursor.execute(
                "select known::text from ops.known_events(org_id => %s, event_ids => %s::uuid[]) as known",
                [org_id, wanted],
            ).fetchall()
        )


def _store(connection: psycopg.Connection, found: Sequence[Collected], summary: Summary, org_id: UUID) -> None:
    sent: list[tuple[Collected, Event]] = []
    for part in found:
        if part.refusal:
            summary.refuse(part.refusal)
        elif part.event:
            sent.append((part, part.event))
        else:
            summary.still_running += 1
    if not sent:
        return
    answer = _call(connection, [event for _, event in sent], org_id)
    summary.accepted += answer["accepted"]
    summary.duplicate += answer["duplicate"]
    for verdict in answer["refused"]:
        part, _ = sent[verdict["index"]]
        summary.refuse(Refusal(part.place, verdict["field"] or "", verdict["reason"]))


def _call(connection: psycopg.Connection, events: Sequence[Event], org_id: UUID) -> Event:
    tenant = {} if org_id == NIL_ORG else {"org_id": str(org_id)}
    with connection.transaction(), connection.cursor(row_factory=scalar_row) as cursor:
        pseudonyms.pass_key(connection)
        (answer,) = cursor.execute(
            "select ops.collect_events(events => %s)", [Jsonb([event | tenant for event in events])]
        ).fetchall()
    return answer
