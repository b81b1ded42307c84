"""Templates that users write: `{{name}}` with all of Jinja's expressions and statements, and `{name}` as in Python's `str.format`.

Values are the only names; everything in braces that is not a placeholder stays as it is, so that JSON survives in a prompt. A template is code from
a stranger: it runs in Jinja's sandbox (https://jinja.palletsprojects.com/en/stable/sandbox/) within the limits of `_template_sandbox`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autogpt_server.blocks._text import as_text
from autogpt_server.data.block import BlockError

if TYPE_CHECKING:
    import regex

    from autogpt_server.blocks._template_sandbox import Program


class TemplateError(BlockError):
    """The template cannot be filled."""

    code = "template_failed"


def render(template: str, values: Mapping[str, Any], *, escape_html: bool = False) -> str:
    """`template` with its placeholders filled from `values` (JSON); `TemplateError` says which line is wrong.

    `{{ expression }}` and `{% statement %}` are Jinja's; a name without a value is empty. A key of `values` that is no identifier may
    stand in `{{ }}` as it is. `{name}`, `{name[0]}`, `{name[key]}` and `{name.key}` (with an optional format, as in `{price:.2f}`) stand
    for a value if `values` has the name. Text and numbers come out as they are, objects and lists as JSON, null as nothing.
    """
    if "{" not in template:
        return template
    # Only names that occur can matter; so the cache holds one program however often a loop adds keys.
    names = frozenset(name for name in values if name in template)
    program, fields = _compiled(template, names, escape_html)
    filled = [field.resolve(values) for field in fields]
    return program.run({**values, FIELDS: filled})


MAX_READ_S = 2.0
MAX_PLACEHOLDERS = 10_000
FIELDS = " fields"
"""Where a program finds the values of its `{name}` fields: no template can write a name with a space."""


class Field:
    """One `{name}` field: a path into the values, and how to format what is there."""

    def __init__(self, source: str, name: str, path: str, conversion: str, spec: str) -> None:
        self.source = source
        self.name = name
        self.steps = [step[1:].rstrip("]") for step in _STEP.findall(path)]
        self.as_json = conversion == "!r"
        self.spec = spec[1:]

    def resolve(self, values: Mapping[str, Any]) -> Any:
        """The field's value; text if it has a format."""
        value = values[self.name]
        for step in self.steps:
            if isinstance(value, list) and step.isdigit() and int(step) < len(value):  # pyright: ignore[reportUnknownArgumentType]
                value = value[int(step)]  # pyright: ignore[reportUnknownVariableType]
            elif isinstance(value, dict) and step in value:
                value = value[step]  # pyright: ignore[reportUnknownVariableType]
            else:
                raise TemplateError(f"{self.source} in the template: {self.name!r} has no part {step!r}.")
        if self.as_json:
            value = as_text(value)
        if not self.spec:
            return value  # pyright: ignore[reportUnknownVariableType]
        try:
            return format(value, self.spec)  # pyright: ignore[reportUnknownArgumentType]
        except (ValueError, TypeError) as error:
            raise TemplateError(f"{self.source} in the template: {error}.") from error


_STEP = re.compile(r"\.[^\W\d]\w*|\[[^\[\]{}]+\]")
_FIELD = re.compile(
    r"\{(?P<name>[^\W\d][\w ]*)"
    r"(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]{}]+\])*)"
    r"(?P<conversion>![rs])?"
    # A format is short, so that it is no way to fill the memory, and looks like one: `{a:1}` is JavaScript.
    r"(?P<spec>:(?=[^{}]*[.,_<>=^]|0\d)(?:[^{}]?[<>=^])?[+\-]?#?0?\d{0,3}[,_]?(?:\.\d{1,2})?[bcdeEfFgGnosxX%]?)?\}"
)
_QUOTED = r""""[^"\n]*"|'[^'\n]*'"""
_TOKEN = (
    r"(?P<raw>\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\})"
    r"|(?P<statement>\{%.*?%\})"
    r"|(?P<comment>\{\#.*?\#\})"
    # An object in an object, or one whose braces were doubled: data, not an expression.
    rf"|(?P<data>\{{\{{(?=\s*(?:(?:{_QUOTED})\s*:|\}})))"
    rf"|(?P<expression>\{{\{{(?P<inner>(?:{_QUOTED}|[^"
    r"'\"{}]|\{[^{}]*\}|\}(?!\}))*)\}\})"
    rf"|(?P<field>{_FIELD.pattern})"
    r"|(?P<opening>\{[{%\#])"
)


@lru_cache(maxsize=512)
def _compiled(template: str, names: frozenset[str], escape_html: bool) -> tuple["Program", tuple[Field, ...]]:
    # Loaded on first use. `regex` and not `re`: a text made for it takes a pattern with `.*?` quadratic time.
    import regex  # noqa: PLC0415

    from autogpt_server.blocks._template_sandbox import Program  # noqa: PLC0415

    fields: list[Field] = []

    def placeholder(source: str, name: str, path: str = "", conversion: str = "", spec: str = "") -> str:
        fields.append(Field(source, name, path, conversion, spec))
        # A line feed inside a placeholder is kept, so that Jinja's line numbers stay true.
        return f"{{{{ __fields__[{len(fields) - 1}] {chr(10) * source.count(chr(10))}}}}}"

    seen = 0

    def rewritten(match: "regex.Match[str]") -> str:
        nonlocal seen
        seen += 1
        if seen > MAX_PLACEHOLDERS:
            raise TemplateError(f"The template has more than {MAX_PLACEHOLDERS:,} placeholders and double braces.")
        source = match.group()
        if match["raw"] or match["statement"] or match["comment"]:
            return source
        if match["expression"]:
            key = match["inner"].strip()
            return placeholder(source, key) if key in names and not key.isidentifier() else source
        if match["field"]:
            if match["name"] in names:
                return placeholder(source, match["name"], match["path"], match["conversion"] or "", match["spec"] or "")
            return source
        return f"{{{{ '{source}' }}}}"

    try:
        source = regex.sub(_TOKEN, rewritten, template, flags=regex.DOTALL, timeout=MAX_READ_S)
    except TimeoutError:
        raise TemplateError("The template has too many braces that are opened and never closed.") from None
    return Program(source, escape_html=escape_html), tuple(fields)
