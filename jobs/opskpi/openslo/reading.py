"""From OpenSLO files to definitions, or to everything that is wrong with the files."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from opskpi.openslo import alerts, slos
from opskpi.openslo.alerts import Condition, Policy
from opskpi.openslo.channels import channel as channel_of
from opskpi.openslo.definitions import Definitions, Rule, Service, Slo
from opskpi.openslo.entities import PREFIX, Entities, Entity, document, inline
from opskpi.openslo.faults import Faults
from opskpi.openslo.indicators import indicator
from opskpi.openslo.loading import documents, text_documents
from opskpi.openslo.places import Place


def read(
    paths: Sequence[Path | str],
    *,
    known_channels: Collection[str] | None = (),
    on_note: Callable[[str], None] = lambda _: None,
) -> Definitions:
    """What the OpenSLO files define, `-` being standard input; references may go from file to file.

    `known_channels` are notification targets that need no definition, since they already stand in the database; None
    when it is not known which do. `on_note` is told of each object that is left out on purpose.
    Raises OpsKpiError (BAD_ARGUMENT) whose message has one line a fault, such as
    `slo.yaml:14: spec.timeWindow[0].duration: 30x is no duration; write 30d, 4w, 1M, 1Q or 5m`. A file with broken
    YAML shows the faults before the break, and no reference to what may stand behind it is called a fault.
    """
    faults = Faults()
    definitions = _definitions(documents(paths, faults), faults, known_channels)
    for note in faults.notes:
        on_note(note)
    return definitions


def read_text(source: str, text: str, *, known_channels: Collection[str] = ()) -> Definitions:
    """What a text defines; `source` is what messages call it. Raises as `read` does."""
    faults = Faults()
    return _definitions(text_documents(source, text.encode(), faults), faults, known_channels)


def _definitions(places: list[Place], faults: Faults, known_channels: Collection[str] | None) -> Definitions:
    entities = Entities(faults)
    for place in places:
        if entity := document(place):
            entities.add(entity)
    indicators = {entity.name: indicator(entity) for entity in entities.of("SLI")}
    conditions = {entity.name: alerts.condition(entity) for entity in entities.of("AlertCondition")}
    policies = {entity.name: alerts.policy(entity, entities, conditions) for entity in entities.of("AlertPolicy")}
    promised: list[Slo] = []
    owners: dict[str, Entity] = {}
    rules: list[Rule] = []
    renamed: dict[str, Entity] = {}
    for entity in entities.of("SLO"):
        if (spec := slos.spec_of(entity)) is None:
            continue
        promises = slos.slos(entity, spec, entities, indicators)
        for promise in promises:
            first = owners.setdefault(promise.slo_name, entity)
            if first.name != entity.name:
                other = f"{first.place.source}:{first.place.line}"
                entity.place.refuse(f"{promise.slo_name} is an objective of {other} too; rename one of them")
            if promise.previous_name and (earlier := renamed.setdefault(promise.previous_name, entity)) != entity:
                entity.own["previous-name"].refuse(
                    f"the SLO {earlier.name} was called so, too; one of them can have its history"
                )
        promised += promises
        for policy in _listed(spec.get("alertPolicies"), entities, conditions, policies):
            for promise in promises:
                rules.append(policy.rule(promise.slo_name))
                alerts.check_reach(promise, policy.condition)
    for entity in entities.of("AlertPolicy"):
        policy = policies[entity.name]
        if policy and not entities.is_used(entity):
            rules.append(policy.rule())
            if policy.condition.is_about_slos and not policy.every_slo and not faults.incomplete:
                entity.place.refuse(f"no SLO lists this policy; let one, or annotate {PREFIX}applies-to: every-slo")
    services = [_service(entity) for entity in entities.of("Service")]
    channels = [channel_of(entity) for entity in entities.of("AlertNotificationTarget")]
    entities.check_targets(known_channels)
    _check_all_are_used(entities, faults)
    faults.raise_if_any()
    return Definitions(
        tuple(services), tuple(promised), tuple(rules), tuple(channel for channel in channels if channel)
    )


def _service(entity: Entity) -> Service:
    block = entity.spec.block({"description"}) if entity.spec else None
    return Service(
        service_name=entity.name,
        display_name=entity.display_name,
        description=block.description() if block else "",
        labels=entity.labels,
        annotations=entity.annotations,
    )


def _listed(
    place: Place | None,
    entities: Entities,
    conditions: dict[str, Condition | None],
    policies: dict[str, Policy | None],
) -> list[Policy]:
    """The policies that an SLO lists by name or has inline, as far as they are sound."""
    found: dict[str, Policy] = {}
    for item in place.items() if place else []:
        policy = _policy(item, entities, conditions, policies)
        if policy is None:
            continue
        name = policy.entity.name
        if name in found:
            item.refuse(f"the policy {name} is listed twice")
        elif not policy.condition.is_about_slos:
            item.refuse(f"{policy.condition.what} is about no SLO; remove the policy {name} from this list")
        elif policy.every_slo:
            item.refuse(f"{name} applies to every SLO already ({PREFIX}applies-to); remove it from this list")
        else:
            found[name] = policy
    return list(found.values())


def _policy(
    item: Place,
    entities: Entities,
    conditions: dict[str, Condition | None],
    policies: dict[str, Policy | None],
) -> Policy | None:
    """The policy that an item of alertPolicies is: a name, a block with alertPolicyRef, or the policy itself."""
    if item.has("alertPolicyRef"):
        reference = item.block({"alertPolicyRef"}).need("alertPolicyRef")
    elif item.is_block:
        entity = inline("AlertPolicy", item)
        return alerts.policy(entity, entities, conditions) if entity else None
    else:
        reference = item
    found = entities.find("AlertPolicy", reference) if reference else None
    return policies.get(found.name) if found else None


def _check_all_are_used(entities: Entities, faults: Faults) -> None:
    """What nothing refers to would be dropped without a word."""
    for kind, user in (("SLI", "SLO"), ("AlertCondition", "AlertPolicy")):
        for entity in entities.of(kind):
            if not entities.is_used(entity) and not faults.incomplete:
                entity.place.refuse(f"no {user} refers to this {kind}, so nothing would be kept of it; remove it")
