"""The OpenAPI document as a page to read: one file without scripts, so that nothing is loaded from elsewhere."""

from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark }
code, pre { font: 14px/1.4 ui-monospace, monospace; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
section { border-top: 1px solid #8888; margin-top: 2rem }
"""
# The page needs its own style and nothing else.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def render(document: Json) -> str:
    """The page for an OpenAPI document."""
    info = document["info"]
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    shapes = "".join(_shape(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}"
        f' The same for machines: <a href="openapi.json">openapi.json</a>.</p>{operations}'
        f"<section><h2>Shapes</h2>{shapes}</section></html>"
    )


def _operation(method: str, path: str, operation: Json) -> str:
    request = operation.get("requestBody")
    body = f"<p>Body: {escape(request['description'])}</p>" if request else ""
    for content in (request or {}).get("content", {}).values():
        body += f"<pre>{escape(str(content['example']))}</pre>" if isinstance(content.get("example"), str) else ""
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', operation['summary']))}</p>{body}"
        + _table("Parameter", [_parameter(parameter) for parameter in operation.get("parameters", [])])
        + _table("Answer", [_answer(status, said) for status, said in operation["responses"].items()])
        + "</section>"
    )


def _parameter(parameter: Json) -> tuple[str, str]:
    need = "required" if parameter.get("required") else "optional"
    return parameter["name"], f"{parameter['in']}, {need}. {parameter.get('description', '')}"


def _answer(status: str, said: Json) -> tuple[str, str]:
    shapes = [
        content["schema"].get("$ref", "").rpartition("/")[2] for content in said.get("content", {}).values() if content
    ]
    return status, f"{said['description']} {' '.join(shapes)}"


def _shape(name: str, schema: Json) -> str:
    fields = [(field, f"{_type(said)}. {said.get('description', '')}") for field, said in schema["properties"].items()]
    return f"<h3>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>{_table('Field', fields)}"


def _type(schema: Json) -> str:
    choices = schema.get("anyOf") or [schema]
    return " or ".join(said.get("type") or said.get("$ref", "").rpartition("/")[2] for said in choices)


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<tr><td><code>{escape(name)}</code><td>{escape(text)}" for name, text in rows)
    return f"<table><tr><th>{escape(title)}<th>{cells}</table>"
