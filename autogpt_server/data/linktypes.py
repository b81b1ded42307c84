"""Whether what leaves an output pin can enter an input pin, judged from their JSON schemas when a graph is saved. Pure.

The verdict follows the conversions of `autogpt_server.data.convert`: `FITS` when every value does, `IMPOSSIBLE` when none can, else `DOUBTFUL`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, cast

from autogpt_server.data.pins import Part, PartKind

Schema = Mapping[str, Any]
ANYTHING: Schema = {}
_MAX_DEPTH = 20


class LinkVerdict(StrEnum):
    """What can become of values on a link."""

    FITS = "fits"
    DOUBTFUL = "doubtful"
    IMPOSSIBLE = "impossible"


def link_verdict(source: Schema, sink: Schema, definitions: Schema = ANYTHING, *, depth: int = 0) -> LinkVerdict:
    """Judge a link. Schemas are JSON schemas of the two pins (after their dynamic parts); `definitions` resolves their `$ref`s."""
    if depth > _MAX_DEPTH:
        return LinkVerdict.DOUBTFUL
    sinks = list(_branches(sink, definitions))
    verdicts = [_best(branch, sinks, definitions, depth) for branch in _branches(source, definitions)]
    if all(verdict is LinkVerdict.FITS for verdict in verdicts):
        return LinkVerdict.FITS
    if all(verdict is LinkVerdict.IMPOSSIBLE for verdict in verdicts):
        return LinkVerdict.IMPOSSIBLE
    return LinkVerdict.DOUBTFUL


def part_schema(schema: Schema, parts: tuple[Part, ...], definitions: Schema = ANYTHING) -> Schema | None:
    """The schema of a part of a value; None where the value can have no such part; `ANYTHING` where it is not known."""
    for part in parts:
        found: list[Schema] = []
        for branch in _branches(schema, definitions):
            kind = branch.get("type")
            if kind is None:
                found.append(ANYTHING)
            elif part.kind is PartKind.INDEX and kind == "array":
                found.append(branch.get("items", ANYTHING))
            elif part.kind is not PartKind.INDEX and kind == "object":
                extra = branch.get("additionalProperties", True)
                known = branch.get("properties", {}).get(part.key)
                if known is not None:
                    found.append(known)
                elif extra is not False:
                    found.append(cast("Schema", extra) if isinstance(extra, Mapping) else ANYTHING)
        if not found:
            return None
        schema = found[0] if len(found) == 1 else {"anyOf": found}
    return schema


def _branches(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The schema's alternatives, each of one JSON type or of none (anything)."""
    for _ in range(_MAX_DEPTH):
        if "$ref" not in schema:
            break
        schema = definitions.get(str(schema["$ref"]).rsplit("/", 1)[-1], ANYTHING)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        for alternative in alternatives:
            yield from _branches(alternative, definitions)
        return
    kind = schema.get("type")
    if isinstance(kind, list):
        for name in cast("list[str]", kind):
            yield {**schema, "type": name}
    elif kind is None and ("enum" in schema or "const" in schema):
        for kind_name in {_kind_of(value) for value in schema.get("enum", [schema.get("const")])}:
            yield {**schema, "type": kind_name}
    else:
        yield schema


def _best(source: Schema, sinks: list[Schema], definitions: Schema, depth: int) -> LinkVerdict:
    verdicts = {_pair(source, sink, definitions, depth) for sink in sinks}
    for verdict in (LinkVerdict.FITS, LinkVerdict.DOUBTFUL):
        if verdict in verdicts:
            return verdict
    return LinkVerdict.IMPOSSIBLE


def _pair(source: Schema, sink: Schema, definitions: Schema, depth: int) -> LinkVerdict:
    given, wanted = source.get("type"), sink.get("type")
    if wanted is None or given is None:
        return LinkVerdict.FITS if wanted is None else LinkVerdict.DOUBTFUL
    if given == wanted or (given == "integer" and wanted == "number"):
        return _same_kind(source, sink, definitions, depth)
    if given in ("integer", "number") and wanted == "string":
        return LinkVerdict.DOUBTFUL if _is_narrow(sink) else LinkVerdict.FITS
    if given == "number" and wanted == "integer":
        return LinkVerdict.DOUBTFUL
    if wanted == "array":
        wrapped = link_verdict(source, sink.get("items", ANYTHING), definitions, depth=depth + 1)
        if wrapped is LinkVerdict.FITS and _is_narrow(sink):
            wrapped = LinkVerdict.DOUBTFUL
        if given == "string":  # may also be the JSON of a list
            return LinkVerdict.FITS if wrapped is LinkVerdict.FITS else LinkVerdict.DOUBTFUL
        return LinkVerdict.IMPOSSIBLE if given == "null" else wrapped
    if given == "string":  # may be the text of a number or the JSON of a value
        return LinkVerdict.DOUBTFUL
    return LinkVerdict.IMPOSSIBLE


def _same_kind(source: Schema, sink: Schema, definitions: Schema, depth: int) -> LinkVerdict:
    if source.get("type") == "array":
        items = link_verdict(source.get("items", ANYTHING), sink.get("items", ANYTHING), definitions, depth=depth + 1)
        whole = _narrowed(source, sink)
        return LinkVerdict.FITS if items is whole is LinkVerdict.FITS else LinkVerdict.DOUBTFUL  # an empty list fits
    if source.get("type") == "object":
        return _objects(source, sink, definitions, depth)
    return _narrowed(source, sink)


def _objects(source: Schema, sink: Schema, definitions: Schema, depth: int) -> LinkVerdict:
    """Objects of one class fit; of others, only what may hold anything, or entries that all fit."""
    fields = source.get("properties")
    if fields and fields.keys() == sink.get("properties", {}).keys() and source.get("title") == sink.get("title"):
        return LinkVerdict.FITS
    wanted, given = sink.get("additionalProperties", True), source.get("additionalProperties", True)
    if sink.get("properties") or source.get("properties") or wanted is False or given is False:
        is_open = wanted is True and not sink.get("properties")
        return LinkVerdict.FITS if is_open and not sink.get("required") else LinkVerdict.DOUBTFUL
    if wanted is True:
        return _narrowed(source, sink)
    entries = link_verdict(ANYTHING if given is True else given, wanted, definitions, depth=depth + 1)
    return LinkVerdict.DOUBTFUL if entries is LinkVerdict.IMPOSSIBLE else entries  # an empty object fits


def _narrowed(source: Schema, sink: Schema) -> LinkVerdict:
    """Values of one type, where the sink may take only some of them."""
    limits = {key: sink[key] for key in _LIMITS if key in sink}
    if all(source.get(key) == value for key, value in limits.items()):
        return LinkVerdict.FITS
    given = _choices(source)
    if given is None or set(limits) - {"enum", "const"}:
        return LinkVerdict.DOUBTFUL
    wanted = _choices(sink) or []
    taken = [choice in wanted for choice in given]
    if all(taken):
        return LinkVerdict.FITS
    return LinkVerdict.DOUBTFUL if any(taken) else LinkVerdict.IMPOSSIBLE


def _choices(schema: Schema) -> list[Any] | None:
    """The only values of a schema, if it lists them."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_narrow(schema: Schema) -> bool:
    """Whether the schema takes only some values of its type."""
    return any(key in schema for key in _LIMITS)


_LIMITS = (
    *("enum", "const", "pattern", "format", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minItems", "maxItems", "uniqueItems", "prefixItems", "minProperties", "maxProperties"),
)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, name in _TYPE_NAMES.items():
        if isinstance(value, kind):
            return name
    return "null"


_TYPE_NAMES: Mapping[type, str] = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
