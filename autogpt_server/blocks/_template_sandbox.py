"""Jinja's sandbox with limits: a template cannot reach Python, and cannot take more than its share of time and memory.

The sandbox of Jinja stops attributes and calls that lead out of the template; it does not stop a template that is merely enormous. So every
way to repeat work (a loop, a call) looks at the clock, and every way to make something big out of something small (`*`, `~`, a width) looks
at the size of what it would make.
"""

import json
import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, cast

import jinja2
import jinja2.filters
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from autogpt_server.blocks._template import FIELDS, TemplateError

MAX_OUTPUT_CHARS = 4 * 1024 * 1024
"""The longest text, and the largest list, a template may make on its way."""

MAX_RENDER_S = 2.0
MAX_INT_BITS = 4096


class Program:
    """A compiled template. Holds no state of a rendering; safe to share between threads."""

    def __init__(self, source: str, *, escape_html: bool) -> None:
        environment = _Environment(autoescape=escape_html, finalize=_shown, keep_trailing_newline=True)
        try:
            tree = environment.parse(source)
            _guard(tree)
            code = environment.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"The template is not valid, line {error.lineno}: {str(error.message).rstrip('.')}."
            ) from error
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise TemplateError("The template is nested too deeply.") from error
        self._template = jinja2.Template.from_code(environment, code, environment.globals)

    def run(self, values: Mapping[str, Any]) -> str:
        """The text; `TemplateError` where the template fails or exceeds a limit."""
        clock = _Clock()
        filled = cast("list[Any]", values[FIELDS])
        names = {key: value for key, value in values.items() if key != FIELDS}
        chunks: list[str] = []
        size = 0
        try:
            for chunk in self._template.generate({**names, "__fields__": filled, _CLOCK: clock}):
                size += len(chunk)
                if size > MAX_OUTPUT_CHARS:
                    raise _too_big()
                clock.check()
                chunks.append(chunk)
        except TemplateError:
            raise
        except SecurityError as error:
            raise TemplateError(f"The template does what a template may not do: {str(error).rstrip('.')}.") from error
        except RecursionError:
            raise TemplateError("The template calls itself too deeply.") from None
        except MemoryError:
            raise _too_big() from None
        # Whatever a template's own expressions raise (a TypeError of `1 + "a"`, a KeyError of a filter) is the template's failure.
        except Exception as error:
            raise TemplateError(f"The template failed: {str(error).rstrip('.')} ({type(error).__name__}).") from error
        return "".join(chunks)


_CLOCK = " clock"


class _Clock:
    """How long one rendering has been running."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_RENDER_S

    def check(self) -> None:
        if time.monotonic() > self._deadline:
            raise TemplateError(f"The template took longer than {MAX_RENDER_S:g} s.")


def _too_big() -> TemplateError:
    return TemplateError(
        f"The template makes more than {MAX_OUTPUT_CHARS:,} characters or list items; make it smaller."
    )


def _check_size(size: float) -> None:
    if size > MAX_OUTPUT_CHARS:
        raise _too_big()


def _shown(value: Any) -> Any:
    """How a value is printed: null as nothing, objects and everything that holds items as JSON."""
    if value is None:
        return ""
    if isinstance(value, str | int | float | jinja2.Undefined):
        return value
    if isinstance(value, list | tuple | dict):
        _check_size(_weight(value, {}))
        return _as_json(value)
    if isinstance(value, Iterator | range | KeysView | ValuesView | ItemsView):
        return _as_json(list(cast("Iterable[Any]", value)))
    # Its text would hold an address in memory: another one each time.
    raise TemplateError(f"The template prints a {type(value).__name__}, which is no value; was it meant to be called?")


def _as_json(value: Any) -> str:
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        size += len(part)
        _check_size(size)
        parts.append(part)
    return "".join(parts)


def _weight(value: Any, known: dict[int, float]) -> float:
    """About how long `value` would be as text, counting what it holds twice twice, without walking through it twice."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 8
    container = cast("list[Any] | tuple[Any, ...] | dict[str, Any]", value)
    if (weight := known.get(id(container))) is None:
        items: Iterable[Any] = container.values() if isinstance(container, dict) else container
        weight = 2 + sum(_weight(item, known) for item in items)
        known[id(container)] = weight
    return weight


# -- what the syntax tree gets ------------------------------------------------


def _guard(tree: nodes.Template) -> None:
    """Put a check on every loop, concatenation and literal container."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(cast("nodes.Expr", loop.iter), "_ticking")
    _guard_expressions(tree)


def _guard_expressions(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _guard_expressions(value)
            setattr(node, name, _guarded(value))
        elif isinstance(value, list):
            children = cast("list[Any]", value)
            for index, child in enumerate(children):
                if isinstance(child, nodes.Node):
                    _guard_expressions(child)
                    children[index] = _guarded(child)


def _guarded(node: nodes.Node) -> nodes.Node:
    if not isinstance(node, nodes.Expr):
        return node
    if isinstance(node, nodes.Concat):
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filtered(node, "_weighed")
    return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@jinja2.pass_context
def _ticking(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    clock = cast("_Clock", context.resolve(_CLOCK))
    for item in items:
        clock.check()
        yield item


@jinja2.pass_context
def _concatenated(context: Context, items: list[Any]) -> str:
    texts = [_text(item) for item in items]
    _check_size(sum(map(len, texts)))
    if context.eval_ctx.autoescape:
        return Markup("").join(texts)
    return "".join(texts)


def _weighed(value: Any) -> Any:
    _check_size(_weight(value, {}))
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(_shown(value))


# -- the environment -----------------------------------------------------------


_UNAVAILABLE = frozenset({"format", "format_map", "translate", "maketrans"})
"""Methods of text that could make a lot from little; the `format` filter and `%` do the same within limits."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox: no files, no randomness, no Python beyond the values."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        filters = cast("dict[str, Callable[..., Any]]", self.filters)
        functions = cast("dict[str, Any]", self.globals)
        for name in ("random", "pprint", "filesizeformat", "xmlattr"):
            del filters[name]
        del functions["lipsum"]
        functions["range"] = _bounded_range
        filters.update({"_ticking": _ticking, "_concatenated": _concatenated, "_weighed": _weighed})
        filters.update({"string": _text, "tojson": _as_json, "format": _format_filter})
        filters.update({"join": _join_filter, "replace": _replace_filter})
        for name in ("center", "indent", "batch", "slice", "round", "truncate", "wordwrap"):
            filters[name] = _sized(filters[name])

    def getattr(self, obj: Any, attribute: str) -> Any:
        # In JSON, `order.items` is what the order holds under "items", not a method of dictionaries.
        if isinstance(obj, dict) and attribute in obj:
            return cast("dict[str, Any]", obj)[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _UNAVAILABLE) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        return None

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "*":
            for thing, count in ((left, right), (right, left)):
                if isinstance(thing, sized) and isinstance(count, int):
                    _check_size(len(cast("Any", thing)) * max(count, 0))
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _check_size(_weight(left, {}) + _weight(right, {}))
        if operator in {"*", "**", "+"} and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_INT_BITS:
                raise TemplateError("The template computes with numbers that are too large.")
        if operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        cast("_Clock", context.resolve(_CLOCK)).check()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_text_method(owner, getattr(function, "__name__", ""), args)
        return super().call(context, function, *args, **kwargs)


def _check_text_method(text: str, method: str, args: tuple[Any, ...]) -> None:
    if method in {"center", "ljust", "rjust", "zfill", "expandtabs"} and args:
        _check_size(len(text) * int(args[0]) if method == "expandtabs" else int(args[0]))
    elif method == "replace" and len(args) >= 2:
        _check_size(len(text) + text.count(args[0]) * len(args[1]))
    elif method == "join" and args:
        _check_size(sum(len(str(item)) + len(text) for item in args[0]))


def _check_format(text: str, values: Any) -> None:
    """For `%`: widths stand in the text, or among the values where the text says `*`."""
    widths = re.findall(r"\d+", f"{text} {values if '*' in text else ''}")
    if any(int(digits[:9]) > 1000 for digits in widths):
        raise TemplateError("The template formats to a width above 1,000.")
    _check_size(len(text) + text.count("%") * (1000 + _weight(values, {})))


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > 100_000:
        raise TemplateError(f"The template's range has {len(numbers):,} numbers; at most 100,000 are allowed.")
    return numbers


def _sized(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with numbers in its arguments that cannot make it enormous."""

    def filtered(*args: Any, **kwargs: Any) -> Any:
        text = next((argument for argument in args if isinstance(argument, str)), "")
        lines = 1 + text.count("\n")
        for argument in (*args[1:], *kwargs.values()):
            if isinstance(argument, int | float):
                _check_size(abs(argument) * max(lines, 40))
            elif isinstance(argument, str) and argument is not text:
                _check_size(len(text) * len(argument))
        return function(*args, **kwargs)

    if hasattr(function, "jinja_pass_arg"):
        filtered.jinja_pass_arg = function.jinja_pass_arg  # pyright: ignore[reportFunctionMemberAccess]
    return filtered


def _format_filter(text: str, *args: Any, **kwargs: Any) -> str:
    _check_format(text, kwargs or args)
    return text % (kwargs or args)


@jinja2.pass_eval_context
def _join_filter(
    eval_ctx: nodes.EvalContext, items: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    listed = list(items)
    _check_size(len(listed) * len(d) + _weight(listed, {}))
    return jinja2.filters.sync_do_join(eval_ctx, [item if attribute else _shown(item) for item in listed], d, attribute)


@jinja2.pass_eval_context
def _replace_filter(eval_ctx: nodes.EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
    _check_size(len(str(text)) + str(text).count(str(old)) * len(str(new)))
    return jinja2.filters.do_replace(eval_ctx, text, old, new, count)
