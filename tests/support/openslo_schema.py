"""OpenSLO v1 as a JSON schema, in our words after its specification (https://github.com/OpenSLO/OpenSLO), and objects of it.

`examples` are words that we understand, so that what is drawn is often more than a name. The schema says nothing of
what we make of it: `COUNTED` is the part of it that must apply.
"""

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$", "examples": ["a-1", "b"]}
LINE: Schema = {"type": "string", "minLength": 1, "pattern": r"^[A-Za-z][A-Za-z0-9 .:#%&*!|>'-]{0,30}$"}
TEXT: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9 .:#\n-]{0,60}$"}
WORDS: Schema = {"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9 .:#-]{0,30}$"}
VALUE: Schema = {
    "type": "string",
    "pattern": r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}$",
    "examples": ["true", "1", "on", "team-a"],
}
KEY = r"^([a-z0-9]{1,5}\.[a-z]{2,3}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?$"
DURATION: Schema = {
    "type": "string",
    "pattern": r"^[1-9][0-9]{0,3}[mhdwMQY]$",
    "examples": ["30d", "1M", "1Y", "5m", "1h"],
}
COMPARISON: Schema = {"enum": ["lte", "gte", "lt", "gt"]}
SHARE: Schema = {"type": "number", "examples": [0, 0.5, 0.9, 0.95, 0.999, 0.9999999]}
ANYTHING: Schema = {"type": "object", "examples": [{}, {"query": "up"}, {"a": {"b": [1, None, "x"]}}]}


def block(required: Schema, optional: Schema | None = None) -> Schema:
    """A block that has keys, and may have others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def of(items: Schema, least: int = 0, most: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def mapping(values: Schema) -> Schema:
    return {"type": "object", "propertyNames": {"pattern": KEY}, "additionalProperties": values, "maxProperties": 2}


METADATA = block(
    {"name": NAME},
    {"displayName": LINE, "labels": mapping({"anyOf": [VALUE, of(VALUE, 1)]}), "annotations": mapping(LINE)},
)
OURS = block(
    {"eventType": {"type": "string", "examples": ["release"]}, "count": {"enum": ["attempts", "succeeded", "units"]}},
    {
        "fasterThanMs": {"type": "number", "examples": [250]},
        "succeeded": {"type": "boolean"},
        "groupBy": {"anyOf": [VALUE, of(VALUE)]},
    },
)
SOURCE = {
    "anyOf": [
        block({"spec": OURS}, {"type": {"enum": ["opskpi"]}}),
        block({"spec": ANYTHING}, {"type": LINE, "metricSourceRef": NAME}),
    ]
}
METRIC = block({"metricSource": SOURCE})
COUNTER: Schema = {"counter": {"type": "boolean"}}
SLI_SPEC = {
    "anyOf": [
        block({"ratioMetric": block(COUNTER | {"good": METRIC, "total": METRIC})}, {"description": TEXT}),
        block({"ratioMetric": block(COUNTER | {"bad": METRIC, "total": METRIC})}, {"description": TEXT}),
        block({"ratioMetric": block(COUNTER | {"rawType": {"enum": ["success", "failure"]}, "raw": METRIC})}),
        block({"thresholdMetric": METRIC}, {"description": TEXT}),
    ]
}
SLI = block({"metadata": METADATA, "spec": SLI_SPEC})
WINDOW = {
    "anyOf": [
        block({"duration": DURATION, "isRolling": {"const": True}}),
        block(
            {
                "duration": DURATION,
                "calendar": block(
                    {
                        "startTime": {"type": "string", "examples": ["2026-01-01 00:00:00", "2022-01-01 12:00:00"]},
                        "timeZone": {"type": "string", "examples": ["UTC", "America/New_York", "Mars/Base"]},
                    }
                ),
            },
            {"isRolling": {"const": False}},
        ),
    ]
}
OBJECTIVE = block(
    {"target": SHARE},
    {
        "displayName": LINE,
        "op": COMPARISON,
        "value": {"type": "number", "examples": [1, 2.5]},
        "timeSliceTarget": SHARE,
        "timeSliceWindow": {"anyOf": [DURATION, {"type": "number", "examples": [1, 5, 1.5]}]},
        "indicatorRef": NAME,
        "compositeWeight": {"type": "number", "examples": [1]},
    },
)
CONDITION_SPEC = block(
    {
        "severity": {"type": "string", "examples": ["page", "ticket", "high"]},
        "condition": block(
            {
                "kind": {"const": "burnrate"},
                "op": COMPARISON,
                "threshold": {"type": "number", "examples": [2, 14.4]},
                "lookbackWindow": DURATION,
                "alertAfter": DURATION,
            }
        ),
    },
    {"description": TEXT},
)
CONDITION = block({"kind": {"const": "AlertCondition"}, "metadata": METADATA, "spec": CONDITION_SPEC})
TARGET_SPEC = block({"target": {"type": "string", "examples": ["slack", "email", "pager"]}}, {"description": TEXT})
TARGET = block({"kind": {"const": "AlertNotificationTarget"}, "metadata": METADATA, "spec": TARGET_SPEC})
POLICY_SPEC = block(
    {
        "alertWhenNoData": {"type": "boolean"},
        "alertWhenResolved": {"type": "boolean"},
        "alertWhenBreaching": {"type": "boolean"},
        "conditions": of({"anyOf": [block({"conditionRef": NAME}), CONDITION]}, 1, 1),
        "notificationTargets": of({"anyOf": [block({"targetRef": NAME}), TARGET]}, 1),
    },
    {"description": TEXT},
)
POLICY = block({"kind": {"const": "AlertPolicy"}, "metadata": METADATA, "spec": POLICY_SPEC})
PROMISE: Schema = {
    "service": NAME,
    "budgetingMethod": {"enum": ["Occurrences", "Timeslices", "RatioTimeslices"]},
    "objectives": of(OBJECTIVE, 1),
    "timeWindow": of(WINDOW, 1, 1),
}
PROMISED: Schema = {
    "description": TEXT,
    "alertPolicies": of({"anyOf": [NAME, block({"alertPolicyRef": NAME}), POLICY]}),
}
SLO_SPEC = {"anyOf": [block(PROMISE | {"indicator": SLI}, PROMISED), block(PROMISE | {"indicatorRef": NAME}, PROMISED)]}
SPECS: dict[str, Schema] = {
    "Service": block({}, {"description": TEXT}),
    "SLI": SLI_SPEC,
    "SLO": SLO_SPEC,
    "AlertPolicy": POLICY_SPEC,
    "AlertCondition": CONDITION_SPEC,
    "AlertNotificationTarget": TARGET_SPEC,
    "DataSource": block({"type": LINE, "connectionDetails": ANYTHING}),
}


def an_object(kind: str, spec: Schema) -> Schema:
    head: Schema = {"apiVersion": {"const": "openslo/v1"}, "kind": {"const": kind}, "metadata": METADATA}
    return block(head | {"spec": spec})


OBJECT: Schema = {"anyOf": [an_object(kind, spec) for kind, spec in SPECS.items()]}

_COUNTS = [
    ({"count": "attempts"}, {"count": "succeeded"}),
    ({"count": "succeeded"}, {"count": "succeeded", "fasterThanMs": 300_000}),
    ({"count": "units"}, {"count": "units", "succeeded": True}),
]


def _ratio(total: Schema, good: Schema) -> Schema:
    ours = [{"metricSource": {"type": "opskpi", "spec": {"eventType": "release"} | counts}} for counts in (good, total)]
    return {"const": {"ratioMetric": {"counter": True, "good": ours[0], "total": ours[1]}}}


_SPANS: Schema = {"type": "string", "pattern": r"^([1-9][0-9]{0,2}d|[1-9][0-9]?w|[1-9][0-9]?h)$"}
_NAMED = block({"name": NAME}, {"displayName": LINE})
COUNTED: Schema = an_object(
    "SLO",
    block(
        {
            "service": NAME,
            "budgetingMethod": {"const": "Occurrences"},
            "indicator": block({"metadata": _NAMED, "spec": {"anyOf": [_ratio(*counts) for counts in _COUNTS]}}),
            "timeWindow": of(block({"duration": _SPANS, "isRolling": {"const": True}}), 1, 1),
            # Each has a name of its own, since some have none and others the same one.
            "objectives": of(block({"target": {"type": "number", "examples": [0.5, 0.9, 0.999]}}), 1),
        },
        {"description": WORDS},
    ),
)


def drawn(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the schema accepts."""
    if "anyOf" in schema:
        return st.one_of([drawn(part) for part in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    examples = [st.sampled_from(schema["examples"])] if "examples" in schema else []
    return st.one_of(*examples, *_free(schema))


def _free(schema: Schema) -> list[st.SearchStrategy[Any]]:
    """Objects that are drawn beside the examples; nothing where these are enough."""
    match schema["type"]:
        case "boolean":
            return [st.booleans()]
        case "string" if "pattern" in schema:
            return [st.from_regex(schema["pattern"], fullmatch=True)]
        case "array":
            return [st.lists(drawn(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"])]
        case "object" if "properties" in schema:
            parts = {key: drawn(part) for key, part in schema["properties"].items()}
            needed = set(schema["required"])
            optional = {key: part for key, part in parts.items() if key not in needed}
            return [st.fixed_dictionaries({key: parts[key] for key in schema["required"]}, optional=optional)]
        case "object" if "additionalProperties" in schema:
            keys = st.from_regex(schema["propertyNames"]["pattern"], fullmatch=True)
            return [st.dictionaries(keys, drawn(schema["additionalProperties"]), max_size=schema["maxProperties"])]
        case _:
            return []
