"""What the engine must know of a Prisma schema: its models' fields and enums, and the text the query compiler takes.

The schema language is line based (Prisma Schema Language: one field or attribute per line, blocks in braces on lines
of their own), so a few patterns read all that is needed here. Everything else in the schema is the compiler's business.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Literal

ScalarType = Literal["String", "Int", "BigInt", "Float", "Decimal", "Boolean", "DateTime", "Json", "Bytes"]
SCALAR_TYPES: frozenset[str] = frozenset(
    ("String", "Int", "BigInt", "Float", "Decimal", "Boolean", "DateTime", "Json", "Bytes")
)

_BLOCK = re.compile(r"^\s*(?P<kind>model|view|enum|type|datasource|generator)\s+(?P<name>\w+)\s*\{\s*$")
_FIELD = re.compile(r"^\s*(?P<name>[A-Za-z]\w*)\s+(?P<type>[A-Za-z]\w*)(?P<arity>\[\]|\?)?(?:\s|$)")
_ENUM_VALUE = re.compile(r"^\s*(?P<name>[A-Za-z]\w*)(?:\s|$)")
_MAP = re.compile(r"@map\(\s*(?:name\s*:\s*)?\"(?P<name>(?:[^\"\\]|\\.)*)\"")
_CONNECTION_SETTING = re.compile(r"^\s*(url|directUrl|shadowDatabaseUrl)\s*=")


class SchemaError(Exception):
    """A Prisma schema this engine cannot serve."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a model: a scalar, an enum, or a relation to another model."""

    name: str
    type: str
    is_list: bool
    is_required: bool


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum: what the client says for each value, and what the database holds."""

    name: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model or a view: its fields by name."""

    name: str
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class DataModel:
    """A parsed schema.

    ``compiler_text`` is the schema without its generators and connection strings: the query compiler of
    ``@prisma/client`` 7 takes the connection from its caller and refuses a ``url`` in the datasource.
    """

    provider: str
    models: Mapping[str, Model]
    enums: Mapping[str, Enum]
    compiler_text: str

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the schema as the compiler sees it."""
        return sha256(self.compiler_text.encode()).hexdigest()[:32]


def read_datamodel(path: Path) -> DataModel:
    """Parse the schema file at ``path``.

    Raises:
        SchemaError: its datasource is not SQLite.
    """
    return parse_datamodel(path.read_text(encoding="utf-8"))


def parse_datamodel(text: str) -> DataModel:
    """Parse a Prisma schema; see `read_datamodel`."""
    models: dict[str, Model] = {}
    enums: dict[str, Enum] = {}
    provider = ""
    kept: list[str] = []
    for kind, name, lines in _blocks(text):
        body = lines[1:-1]
        match kind:
            case "model" | "view" | "type":
                models[name] = Model(name, MappingProxyType({field.name: field for field in _fields(body)}))
            case "enum":
                enums[name] = Enum(name, MappingProxyType(dict(_enum_values(body))))
            case "datasource":
                provider = next((m[1] for line in body if (m := re.match(r'^\s*provider\s*=\s*"(\w+)"', line))), "")
                lines = [line for line in lines if not _CONNECTION_SETTING.match(line)]  # noqa: PLW2901
            case _:  # a generator
                continue
        kept.extend(lines)
    if provider != "sqlite":
        raise SchemaError(f"this engine serves SQLite; the schema's datasource says {provider or 'nothing'!r}")
    return DataModel(provider, MappingProxyType(models), MappingProxyType(enums), "\n".join(kept) + "\n")


def _blocks(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Each top-level block as (kind, name, its lines including the braces)."""
    kind = name = ""
    lines: list[str] = []
    for line in text.splitlines():
        bare = _without_comment(line)
        if not lines:
            if match := _BLOCK.match(bare):
                kind, name, lines = match["kind"], match["name"], [bare]
        else:
            lines.append(bare)
            if bare.strip() == "}":
                yield kind, name, lines
                lines = []


def _without_comment(line: str) -> str:
    """``line`` without its ``//`` comment; two slashes inside a string are no comment."""
    in_string = False
    for index, char in enumerate(line):
        if char == '"' and (index == 0 or line[index - 1] != "\\"):
            in_string = not in_string
        elif char == "/" and not in_string and line[index + 1 : index + 2] == "/":
            return line[:index].rstrip()
    return line


def _fields(lines: list[str]) -> Iterator[Field]:
    for line in lines:
        if match := _FIELD.match(line):
            yield Field(match["name"], match["type"], match["arity"] == "[]", match["arity"] is None)


def _enum_values(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if match := _ENUM_VALUE.match(line):
            mapped = _MAP.search(line)
            yield match["name"], mapped["name"] if mapped else match["name"]
