"""Notification targets as channels."""

import re
from collections.abc import Iterable
from typing import Any

from opskpi.alerting.channels import registry
from opskpi.alerting.channels.settings import Form, Setting
from opskpi.openslo.definitions import SEVERITIES, Channel
from opskpi.openslo.entities import PREFIX, Entity
from opskpi.openslo.places import YEAR, Place

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_ACCESS_KEY = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")
_MAIL = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+")


def channel(entity: Entity) -> Channel | None:
    """The channel, or None after adding what is wrong with it."""
    if entity.spec is None:
        return None
    before = entity.place.faults.count
    spec = entity.spec.block({"description", "target"})
    target = spec.need("target")
    # Neither is repeated in a message: an address in the wrong place may be a secret.
    kind = target.choice(registry.KINDS, hidden=True) if target else None
    description = spec.description()
    secret = entity.own.get("secret-env")
    if secret is None:
        entity.place.refuse(f"it needs the annotation {PREFIX}secret-env, the environment variable of its secret")
    if kind is None:
        return None
    wanted = registry.kind_of(kind).SETTINGS
    taken = {"secret-env", "severities", "repeat-interval", *(setting.name for setting in wanted)}
    entity.allow_only(taken, f"a target of kind {kind}")
    for setting in wanted:
        if setting.missing and setting.name not in entity.own:
            entity.place.refuse(setting.missing)
    repeat = entity.own.get("repeat-interval")
    columns: dict[str, Any] = {
        "secret_env": secret and _variable(secret),
        "settings": _settings(entity.own, wanted),
        "severities": _severities(entity.own.get("severities")),
        **({"repeat_interval": repeat.text() and repeat.span(most=YEAR)} if repeat else {}),
    }
    if entity.place.faults.count > before:
        return None
    return Channel(
        channel_name=entity.name,
        kind=kind,
        description=description,
        display_name=entity.display_name,
        labels=entity.labels,
        annotations=entity.annotations,
        **columns,
    )


def _settings(own: dict[str, Place], wanted: Iterable[Setting]) -> dict[str, Any]:
    return {setting.key: _setting(own[setting.name], setting.form) for setting in wanted if setting.name in own}


def _setting(place: Place, form: Form) -> Any:
    match form:
        case "addresses":
            return [_mail(place, address.strip()) for address in (place.text(4096) or "").split(",")]
        case "address":
            return _mail(place, (place.text() or "").strip())
        case "variable":
            return _variable(place)


def _mail(place: Place, address: str) -> str:
    if not _MAIL.fullmatch(address):
        place.refuse("this has no mail address where one belongs; write such as team@example.org, separated by commas")
    return address


def _variable(place: Place) -> str | None:
    name = place.written
    if not _VARIABLE.fullmatch(name) or _ACCESS_KEY.fullmatch(name):
        return place.refuse(
            "this must be the name of an environment variable, such as SLACK_WEBHOOK_URL, never the secret itself"
        )
    return name


def _severities(place: Place | None) -> tuple[str, ...]:
    if place is None:
        return SEVERITIES
    words = [word.strip() for word in (place.text() or "").split(",")]
    if not set(words) <= set(SEVERITIES) or len(set(words)) < len(words):
        place.refuse(f"{place.shown} is not made of {', '.join(SEVERITIES)}, each at most once, separated by commas")
    return tuple(severity for severity in SEVERITIES if severity in words)
