"""What Prisma Client Python's methods are called with -> requests in Prisma's JSON protocol.

The stock client writes GraphQL text, which the query compiler does not read, and which corrupts strings: its builder
indents the finished text, and `textwrap.indent` takes U+0085, U+2028 and U+2029 inside a string for line ends. So the
arguments are translated here, by the position they stand in: a model may well have a field named ``data`` or ``order``.

Sources. The JSON protocol is that of ``@prisma/json-protocol`` 7.10.0: ``{modelName, action, query: {arguments,
selection}}``, selections as ``{field: true | {arguments, selection}}``. Method names and argument aliases are those of
``_builder.py`` and ``_constants.py`` of Prisma Client Python 0.15.0. What may stand where is Prisma's client reference.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast, get_args

from pydantic import BaseModel

from autogpt_server.data.engine.errors import QueryError, UnknownRelationError
from autogpt_server.data.engine.parameters import Parameters, ParameterValue, literal
from autogpt_server.data.engine.schema import DataModel, Field, Model

ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "create": "createOne",
        "delete": "deleteOne",
        "update": "updateOne",
        "upsert": "upsertOne",
        "create_many": "createMany",
        "delete_many": "deleteMany",
        "update_many": "updateMany",
        "count": "aggregate",
        "group_by": "groupBy",
        "find_many": "findMany",
        "find_first": "findFirst",
        "find_first_or_raise": "findFirstOrThrow",
        "find_unique": "findUnique",
        "find_unique_or_raise": "findUniqueOrThrow",
    }
)

_FILTER_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "startswith": "startsWith",
        "endswith": "endsWith",
        "not_in": "notIn",
        "has_every": "hasEvery",
        "has_some": "hasSome",
        "is_empty": "isEmpty",
    }
)
_RELATION_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "is_not": "isNot",
        "connect_or_create": "connectOrCreate",
        "create_many": "createMany",
        "update_many": "updateMany",
        "delete_many": "deleteMany",
    }
)
_LOGIC: Final = frozenset(("AND", "OR", "NOT"))
_COUNT_FIELD: Final = Field("_count", "Int", is_list=False, is_required=True)
_AVERAGE_TYPE: Final[Mapping[str, str]] = MappingProxyType({"Int": "Float", "BigInt": "Float"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its shape as JSON text (the key under which its plan is cached), and the values left out of it."""

    text: str
    values: Mapping[str, ParameterValue]


class RequestBuilder:
    """Translates method calls for one schema."""

    def __init__(self, datamodel: DataModel) -> None:
        self._datamodel = datamodel

    def build(
        self,
        method: str,
        arguments: Mapping[str, Any],
        model: type[BaseModel],
        root_selection: list[str] | None = None,
    ) -> Request:
        """The request of ``method`` (as "find_unique") on ``model`` with the client method's own ``arguments``.

        ``root_selection`` replaces the model's scalar fields, as ``["count"]`` or ``["_sum { cost }"]``.

        Raises:
            QueryError: a value does not fit its field.
        """
        name = model_name(model)
        parameters = Parameters(self._datamodel, share_equal=method == "upsert")
        writer = _Arguments(self._datamodel, parameters)
        include = arguments.get("include")
        request = {
            "modelName": name,
            "action": ACTIONS[method],
            "query": {
                "arguments": writer.arguments(self._datamodel.models[name], method, arguments),
                "selection": _roots(root_selection) if root_selection is not None else writer.selection(model, include),
            },
        }
        return Request(json.dumps(request, ensure_ascii=False), parameters.values)

    def rows(self, arguments: Mapping[str, Any], model: type[BaseModel]) -> Iterator[Request]:
        """The requests of a ``create_many``, one for each row: rows of one shape then share one plan.

        One request for all rows would be another shape for each number of rows, and take 2 ms to compile for each row.
        """
        name = model_name(model)
        fields = self._datamodel.models[name]
        texts: dict[tuple[object, ...], str] = {}
        given: Any = arguments["data"]
        rows: list[Mapping[str, Any]] = [given] if isinstance(given, Mapping) else given
        for row in rows:
            parameters = Parameters(self._datamodel)
            data = _Arguments(self._datamodel, parameters).create(fields, row)
            # A row of scalars only has its shape in its columns and in which of them got a value.
            shape = tuple((key, None if _is_placeholder(item) else repr(item)) for key, item in data.items())
            text = texts.get(shape)
            if text is None:
                query: dict[str, object] = {"arguments": {"data": [data]}, "selection": {"count": True}}
                text = json.dumps({"modelName": name, "action": "createMany", "query": query}, ensure_ascii=False)
                texts[shape] = text
            yield Request(text, parameters.values)


def model_name(model: type[BaseModel]) -> str:
    """The Prisma model that a generated (or partial) pydantic model stands for."""
    return cast(Any, model).__prisma_model__


class _Arguments:
    """Writes the arguments of one request; `Parameters` keeps their values."""

    def __init__(self, datamodel: DataModel, parameters: Parameters) -> None:
        self._datamodel = datamodel
        self._parameters = parameters

    def arguments(self, model: Model, method: str, given: Mapping[str, Any]) -> dict[str, object]:
        """Arguments of a method, or of an included relation. None means that the argument was not given."""
        written: dict[str, object] = {}
        for key, value in given.items():
            if value is None or key == "include":
                continue
            match key:
                case "where" | "cursor" | "having":
                    written[key] = self.where(model, value)
                case "data":
                    write = self.create if method.startswith("create") else self.update
                    written[key] = _each(value, lambda item, write=write: write(model, item))
                case "create":
                    written[key] = self.create(model, value)
                case "update":
                    written[key] = self.update(model, value)
                case "order" | "order_by" | "orderBy":
                    written["orderBy"] = literal(value)
                case "skip_duplicates":
                    written["skipDuplicates"] = value
                case "take" | "skip":
                    if not isinstance(value, int) or isinstance(value, bool):  # the compiler would cut 1.5 to 1
                        raise QueryError("P2019", f"Input error. `{key}` takes an int, not {value!r}")
                    written[key] = int(value)
                case _:  # distinct, by: part of the shape, as take and skip are
                    written[key] = literal(value)
        return written

    def where(self, model: Model, given: Any) -> object:
        """A filter, or a unique key, of ``model``."""
        if not isinstance(given, Mapping):
            return literal(given)
        written: dict[str, object] = {}
        for key, value in cast("Mapping[str, Any]", given).items():
            field = model.fields.get(key)
            if field is not None:
                target = self._datamodel.models.get(field.type)
                if target is None:
                    written[key] = self._filter(field, value)
                else:
                    written[key] = self._relation_filter(target, value)
            elif key in _LOGIC or isinstance(value, Mapping):
                # Besides AND, OR and NOT this is a compound key: {"id_version": {"id": ..., "version": ...}}.
                written[key] = _each(value, lambda item: self.where(model, item))
            else:
                written[key] = literal(value)
        return written

    def _filter(self, field: Field, value: Any) -> object:
        """A value of ``field``, or operators on it."""
        if not isinstance(value, Mapping):
            return self._parameters.scalar(field, value)
        written: dict[str, object] = {}
        for alias, operand in cast("Mapping[str, Any]", value).items():
            operator = _FILTER_ALIASES.get(alias, alias)
            match operator:
                case "in" | "notIn" | "hasEvery" | "hasSome":
                    written[operator] = self._parameters.scalars(field, operand)
                case "not" | "_min" | "_max" | "_sum":
                    written[operator] = self._filter(field, operand)
                case "_count":
                    written[operator] = self._filter(_COUNT_FIELD, operand)
                case "_avg":
                    kind = _AVERAGE_TYPE.get(field.type, field.type)
                    written[operator] = self._filter(Field(field.name, kind, field.is_list, field.is_required), operand)
                case "mode" | "isEmpty":
                    written[operator] = literal(operand)
                case "contains" | "startsWith" | "endsWith" if isinstance(operand, str) and "\0" in operand:
                    # LIKE ends its pattern there, and would find too much.
                    raise QueryError("P2019", f"Input error. `{alias}` on `{field.name}`: SQLite cannot search for NUL")
                case _:
                    written[operator] = self._parameters.scalar(field, operand)
        return written

    def _relation_filter(self, target: Model, value: Any) -> object:
        if not isinstance(value, Mapping):
            return literal(value)
        operators = {"is", "is_not", "isNot", "some", "none", "every"}
        relation = cast("Mapping[str, Any]", value)
        if not relation.keys() <= operators:
            return self.where(target, relation)  # {"author": {"name": ...}} is short for {"author": {"is": ...}}
        return {_RELATION_ALIASES.get(key, key): self.where(target, item) for key, item in relation.items()}

    def create(self, model: Model, given: Any) -> Any:
        """The data of a new record."""
        return self._data(model, given, self._parameters.scalar)

    def update(self, model: Model, given: Any) -> Any:
        """Changes to a record: values, or operations like ``{"increment": 1}``."""
        return self._data(model, given, self._change)

    def _change(self, field: Field, value: Any) -> object:
        if field.type == "Json" or not isinstance(value, Mapping):
            return self._parameters.scalar(field, cast(object, value))
        operations = cast("Mapping[str, Any]", value)
        return {operation: self._parameters.scalar(field, operand) for operation, operand in operations.items()}

    def _data(self, model: Model, given: Any, scalar: Callable[[Field, Any], object]) -> object:
        if not isinstance(given, Mapping):
            return literal(given)
        written: dict[str, object] = {}
        for key, value in cast("Mapping[str, Any]", given).items():
            field = model.fields.get(key)
            if field is None:
                written[key] = literal(value)
            elif (target := self._datamodel.models.get(field.type)) is not None:
                written[key] = self._relation_write(target, value, is_list=field.is_list)
            else:
                written[key] = scalar(field, value)
        return written

    def _relation_write(self, target: Model, given: Any, *, is_list: bool) -> object:
        """What to do with related records: create, connect, update, ..."""
        if not isinstance(given, Mapping):
            return literal(given)
        written: dict[str, object] = {}
        for alias, value in cast("Mapping[str, Any]", given).items():
            operation = _RELATION_ALIASES.get(alias, alias)
            written[operation] = _each(value, lambda item, op=operation: self._nested(target, op, item, is_list))
        return written

    def _nested(self, target: Model, operation: str, given: Any, is_list: bool) -> object:
        match operation:
            case "create":
                return self.create(target, given)
            case "connect" | "set" | "disconnect" | "delete" | "deleteMany":
                return self.where(target, given)
            case "update" if not is_list and not _is_where_and_data(target, given):
                return self.update(target, given)
            case "connectOrCreate" | "update" | "updateMany" | "upsert" if isinstance(given, Mapping):
                parts: dict[str, Callable[[Model, Any], object]] = {
                    "where": self.where,
                    "data": self.update,
                    "create": self.create,
                    "update": self.update,
                }
                nested = cast("Mapping[str, Any]", given)
                return {key: parts.get(key, _literal_part)(target, value) for key, value in nested.items()}
            case "createMany" if isinstance(given, Mapping):
                nested = cast("Mapping[str, Any]", given)
                return {
                    "skipDuplicates" if key == "skip_duplicates" else key: _each(
                        value, lambda item: self.create(target, item)
                    )
                    for key, value in nested.items()
                }
            case _:
                return literal(given)

    def selection(self, model: type[BaseModel], include: Mapping[str, Any] | None) -> dict[str, object]:
        """All scalar fields of ``model``, and the relations to include with it."""
        selected: dict[str, object] = dict.fromkeys(self._scalars(model), True)
        for key, value in (include or {}).items():
            if value is False:
                continue
            related = _related_model(model, key)
            target = self._datamodel.models[model_name(related)]
            if value is True:
                selected[key] = {"arguments": {}, "selection": self.selection(related, None)}
            elif isinstance(value, Mapping):
                nested = cast("Mapping[str, Any]", value)
                selected[key] = {
                    "arguments": self.arguments(target, "find_many", nested),
                    "selection": self.selection(related, nested.get("include")),
                }
            else:
                raise TypeError(f"include[{key!r}] must be a bool or a dict of arguments, not {type(value).__name__}")
        return selected

    def _scalars(self, model: type[BaseModel]) -> list[str]:
        fields = self._datamodel.models[model_name(model)].fields
        models = self._datamodel.models
        return [name for name in _field_names(model) if name in fields and fields[name].type not in models]


def _is_where_and_data(target: Model, given: Any) -> bool:
    """Whether the update of a to-one relation is written ``{"where", "data"}`` instead of the changes alone."""
    return isinstance(given, Mapping) and "data" in given and "data" not in target.fields


def _is_placeholder(item: Any) -> bool:
    return isinstance(item, dict) and cast("dict[str, object]", item).get("$type") == "Param"


def _literal_part(_: Model, value: object) -> object:
    return literal(value)


def _each(value: Any, write: Callable[[Any], object]) -> object:
    """``write`` applied to ``value``, or to each item if it is a list."""
    if isinstance(value, list | tuple | set):
        return [write(item) for item in cast("list[Any]", value)]
    return write(value)


def _roots(root_selection: list[str]) -> dict[str, object]:
    """``["status", "_count { _all id }"]`` as a selection."""
    selected: dict[str, object] = {}
    for item in root_selection:
        name, _, nested = item.partition("{")
        fields = re.findall(r"\w+", nested)
        selected[name.strip()] = {"arguments": {}, "selection": dict.fromkeys(fields, True)} if nested else True
    return selected


@lru_cache(maxsize=512)
def _field_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Names of the fields of ``model``: those of the schema, or some of them in a partial type."""
    return tuple(model.model_fields)


@lru_cache(maxsize=512)
def _related_model(model: type[BaseModel], field: str) -> type[BaseModel]:
    """The model class that ``field`` of ``model`` holds, or holds a list of."""
    info = model.model_fields.get(field)
    related = None if info is None else _find_model(info.annotation)
    if related is None:
        raise UnknownRelationError(model.__name__, field)
    return related


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and hasattr(annotation, "__prisma_model__"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _find_model(part)) is not None), None)
