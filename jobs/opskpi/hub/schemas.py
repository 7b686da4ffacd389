"""What the hub's requests and answers look like: the models behind its OpenAPI document."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from opskpi.hub.problems import MEDIA_TYPE

Json = dict[str, Any]


def written_as(pattern: str, example: str) -> BeforeValidator:
    """Let only one way of writing a value pass, where pydantic reads several."""

    def check(text: object) -> object:
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            raise ValueError(f"must be written as {example}")
        return text

    return BeforeValidator(check)


Day = Annotated[date, written_as(r"\d{4}-\d{2}-\d{2}", "2026-01-31")]
Org = Annotated[UUID, written_as(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "a UUID with hyphens")]
# Postgres has no NUL in its texts.
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]


class MetricsQuery(BaseModel):
    """Which executions to count."""

    model_config = ConfigDict(extra="forbid")

    org_id: Org = Field(description="The organisation: the API key's own.")
    start_date: Day = Field(description="The first day, in the time zone of the settings (UTC unless changed).")
    end_date: Day | None = Field(None, description="The last day, included; today when it is left out.")
    team: Name | None = Field(None, description="Only agents of this team.")
    hook_type: Name | None = Field(None, description="Only hooks of this type, such as pre-commit.")


class Event(BaseModel):
    """A well-formed event."""

    event_type: str = Field(description="A kind of event that the database knows, such as hook_execution.")
    payload: Json = Field(
        description="What the kind of event says, by key; event_id and timestamp (ISO 8601) tell repetitions."
    )


class Refusal(BaseModel):
    """An event that was not stored."""

    index: int = Field(description="Its place in the batch, from 0.")
    field: str = Field(description="The field at fault; empty when it is the event as a whole.")
    reason: str


class Stored(BaseModel):
    """What became of a batch: accepted + duplicate + refused events are all of it."""

    accepted: int = Field(description="Events that were stored (count).")
    duplicate: int = Field(description="Events that were there already (count).")
    refused: list[Refusal]
    policy_version: int = Field(description="The version of the policy that stands; 0 while none was set.")


class Fault(BaseModel):
    """What is wrong with a request or a part of it, and where."""

    field: str
    reason: str


class Collected(BaseModel):
    """What became of the runs and jobs that a webhook tells of."""

    accepted: int = Field(default=0, description="Events that were stored (count).")
    duplicate: int = Field(default=0, description="Events that were there already (count).")
    still_running: int = Field(default=0, description="Runs and jobs that go on, and are no event yet (count).")
    refused: list[Fault] = Field(default_factory=list)

    def refuse(self, field: str, reason: str) -> None:
        """Take note of what could not be stored."""
        self.refused.append(Fault(field=field, reason=reason))


class Pattern(BaseModel):
    """A pattern and how many executions it blocked."""

    pattern: str
    count: int


class HookMetrics(BaseModel):
    """What the git hooks did from start_date to end_date, both included."""

    total_executions: int = Field(description="Count.")
    blocked_count: int
    allowed_count: int
    overridden_count: int
    override_rate: float | None = Field(description="Percent of the executions; null without executions.")
    avg_duration_ms: float | None = Field(description="In ms; null without executions.")
    most_blocked_patterns: list[Pattern] = Field(description="The ten that blocked most, in order.")


class Policy(BaseModel):
    """The hook policy that stands."""

    version: int = Field(description="Counts from 1; 0 while none was set and the default holds.")
    policy: Json
    updated_at: datetime | None = Field(description="When it was set; null for the default.")


class Health(BaseModel):
    """The process lives; or the database answers as well."""

    status: Literal["ok"]


class ProblemDetails(BaseModel):
    """What went wrong, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    hint: str | None = Field(None, description="What to do about it.")
    errors: list[Fault] | None = None


HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "description": "Seconds.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"required": True, "description": "Seconds.", "schema": {"type": "integer"}}},
}
MEANINGS = {
    400: "The body is not JSON in UTF-8, or the head is malformed or longer than 16 KiB.",
    401: "The API key is missing, malformed, unknown, revoked or expired.",
    403: "The API key lacks the scope, or belongs to another organisation.",
    406: "No format that is offered is acceptable.",
    408: "The body did not arrive in time.",
    412: "The policy is no longer the one that If-Match names.",
    413: "The body is too large.",
    415: "The body is no plain application/json.",
    422: "A value is refused, and why.",
    429: "The agent sent too many requests in a minute; nothing was stored.",
    431: "The request has more than 100 headers.",
    500: "A fault of the hub; its log says why.",
    503: "The database cannot answer now.",
}
ETAG: Json = {"ETag": {"required": True, "schema": {"type": "string"}}}


def problems(*statuses: int) -> dict[int | str, Json]:
    """The description of the problems that an operation may answer."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": MEANINGS.get(status, HTTPStatus(status).phrase),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": HEADERS[status]} if status in HEADERS else {}),
        }
        for status in statuses
    }


def body(schema: Mapping[str, Any], example: object, description: str) -> Json:
    """The description of a request body that the database reads, not the hub."""
    content = {"application/json": {"schema": dict(schema), "example": example}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def schemas(models: Sequence[type[BaseModel]]) -> Json:
    """The schemas of models that no route names, as components."""
    found: Json = {}
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found
