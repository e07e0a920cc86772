"""Writes the fields of requests and answers into the reference of the HTTP API, from the models that check them."""

import re
from typing import Any

from pydantic import BaseModel

from sightline.serve import schemas

_PLACE = re.compile(r"<!-- (request|answer) (\w+) -->")
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "minLength": "at least {} character",
    "minItems": "at least {} entry",
    "maxProperties": "at most {} fields",
}


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Put the fields of each model into the places for them."""
    if page.file.src_uri != "reference/http.md":
        return markdown
    return _PLACE.sub(lambda match: fields(getattr(schemas, match[2]), answered=match[1] == "answer"), markdown)


def fields(model: type[BaseModel], *, answered: bool) -> str:
    """The fields of a model as a list in Markdown: each with its type, whether it is required, and what it means.

    Args:
        model: the model of a request, an answer, or an object in one.
        answered: whether it is of an answer, which leaves out what is null.
    """
    schema = model.model_json_schema()
    needed = schema.get("required", ())
    return "\n".join(_line(name, field, name in needed, answered) for name, field in schema["properties"].items())


def _line(name: str, field: dict[str, Any], required: bool, answered: bool) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    notes = [" or ".join(dict.fromkeys(map(_kind, kinds)))]
    if answered:
        notes += ["may be absent"] if len(kinds) < len(field.get("anyOf", kinds)) else []
    else:
        notes += [said.format(kind[bound]) for kind in kinds for bound, said in _BOUNDS.items() if bound in kind]
        notes += ["required"] if required else []
        notes += [f"default `{field['default']}`"] if field.get("default") not in (None, "") else []
    description = f" – {field['description']}" if "description" in field else ""
    return f"- `{name}` ({', '.join(notes)}){description}"


def _kind(schema: dict[str, Any]) -> str:
    """The type of a value, in words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "oneOf" in schema:
        return " or ".join(map(_kind, schema["oneOf"]))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("type", "anything"))
