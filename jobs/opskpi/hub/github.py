"""GitHub's webhooks as the hub takes them: signed, where others have an API key, and for one org."""

import asyncio
import json
import os
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Request, Response

from opskpi.errors import OpsKpiError
from opskpi.github import forms, payloads
from opskpi.github.rules import SETTINGS, Rules, rules_of
from opskpi.github.signatures import is_signed
from opskpi.hub.bodies import decoded, read, require_kind
from opskpi.hub.database import Caller, Database
from opskpi.hub.deadlines import ANSWER_S
from opskpi.hub.problems import Problem
from opskpi.hub.schemas import Collected, body
from opskpi.hub.schemas import problems as described

PAYLOAD_BYTES = 4 * 1024 * 1024
READ_RULES = "select coalesce(json_object_agg(name, value), '{}')::text from ops.settings where name like any (%s)"
COLLECT = "select answer::text from ops.collect_events(events => %s::jsonb) as answer"
SIGNATURE = "x-hub-signature-256"
EVENT = "x-github-event"
EVENTS_TAKEN = ("workflow_run", "workflow_job")


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whose events the webhooks are, and the name of the environment variable with their secret."""

    org_id: UUID
    secret_env: str


router = APIRouter()
FORM_SCHEMA = {"type": "object", "required": [forms.FIELD], "properties": {forms.FIELD: {"type": "string"}}}
BODY = body(
    {"type": "object"}, {"action": "completed", "workflow_run": {}}, "A webhook's payload, as JSON or as a form."
)
BODY["requestBody"]["content"][forms.MEDIA_TYPE] = {"schema": FORM_SCHEMA}


@router.post(
    "/api/v1/github",
    summary="Take a webhook of GitHub",
    response_model=Collected,
    responses=described(400, 401, 404, 408, 413, 415, 422, 429, 500, 503),
    openapi_extra=BODY,
)
async def post_github(request: Request) -> Response:
    """Store what a workflow_run or workflow_job webhook tells. It is signed (X-Hub-Signature-256), and needs no key.

    Other events are taken note of by a 200 without an effect. The hub answers 404 unless it was started for webhooks.
    """
    webhook: Webhook | None = request.app.state.webhook
    if webhook is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "this hub takes no webhooks",
            hint="Start it with `opskpi serve --github-secret-env NAME`.",
        )
    kind = require_kind(request, forms.MEDIA_TYPE)
    raw = await read(request, PAYLOAD_BYTES)
    if not is_signed(raw, request.headers.get(SIGNATURE), os.environ.get(webhook.secret_env, "")):
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "the payload is not signed with the secret of this hub",
            hint="Give the webhook in GitHub the same secret; the signature is over the body as it is sent.",
            headers={"WWW-Authenticate": "Signature"},
        )
    if request.headers.get(EVENT, EVENTS_TAKEN[0]) not in EVENTS_TAKEN:
        return _answer(Collected())
    text = _json_of(decoded(raw, kind), kind)
    async with asyncio.timeout(ANSWER_S):
        collected = await _collect(request.app.state.database, webhook, text)
    if collected.accepted:
        request.app.state.live.stored(webhook.org_id)
    return _answer(collected)


async def _collect(database: Database, webhook: Webhook, text: str) -> Collected:
    caller = _caller(webhook, text)
    patterns = [pattern.replace("_", r"\_") for pattern in SETTINGS]
    rules: Rules = rules_of(json.loads(await database.ask_as(caller, READ_RULES, [patterns])))
    try:
        found = payloads.read_text(text, rules, source="the body")
    except OpsKpiError as error:
        hint = f"A form has the content type {forms.MEDIA_TYPE}." if text.startswith(f"{forms.FIELD}=") else ""
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not valid JSON", hint=hint) from error
    answer = Collected(still_running=sum(part.event is None and part.refusal is None for part in found))
    for part in found:
        if part.refusal:
            answer.refuse(part.refusal.field, part.refusal.reason)
    events = [part.event for part in found if part.event]
    if events:
        told = json.loads(await database.ask_as(caller, COLLECT, [json.dumps(events)]))
        answer.accepted, answer.duplicate = told["accepted"], told["duplicate"]
        for verdict in told["refused"]:
            answer.refuse(verdict["field"], verdict["reason"])
    return answer


def _json_of(text: str, kind: str) -> str:
    """The JSON of a body of a media type. Raises Problem, 400, for a form that does not hold one payload."""
    if kind != forms.MEDIA_TYPE:
        return text
    try:
        return forms.payload_of(text)
    except ValueError as fault:
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"the form {fault}",
            hint=f"A webhook of content type {forms.MEDIA_TYPE} sends {forms.FIELD}=… with JSON, percent-encoded.",
        ) from None


def _caller(webhook: Webhook, text: str) -> Caller:
    """The org, by way of the repository: the limit of requests is by sender, and a busy org has many of them."""
    try:
        name = json.loads(text)["repository"]["full_name"]
    except (ValueError, TypeError, KeyError, RecursionError):
        name = ""
    return Caller(f"github:{name if isinstance(name, str) else ''}", webhook.org_id, ("ingest",))


def _answer(collected: Collected) -> Response:
    return Response(collected.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})
