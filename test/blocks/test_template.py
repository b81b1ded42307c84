"""Templates: what is a placeholder and what is not, and that no template takes more than its share."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.blocks import _template, _template_sandbox
from autogpt_server.blocks._template import TemplateError, render


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        # names
        ("{{a}} {{ a }} {a}", {"a": "x"}, "x x x"),
        ("{texts[0]},{texts[1]}", {"texts": ["x", "y"]}, "x,y"),
        ("{post.title} {post[title]} {{post.title}} {{ post['title'] }}", {"post": {"title": "T"}}, "T T T T"),
        ("{{Business Name}} in {{ Business Name }} or {Business Name}", {"Business Name": "B"}, "B in B or B"),
        ("{price:.2f} {price:>6} {n:03d} {s!s}", {"price": 1.5, "n": 7, "s": "q"}, "1.50    1.5 007 q"),
        # missing
        ("[{{missing}}] {missing}", {"a": 1}, "[] {missing}"),
        # how values look
        ("{{a}} {b} {c} {d}", {"a": None, "b": True, "c": 1.0, "d": "é"}, " True 1.0 é"),
        ("{{a}} {a}", {"a": {"k": ["é", None, True]}}, '{"k": ["é", null, true]} {"k": ["é", null, true]}'),
        ("{{ x.items() }} {{ range(2) }} {{ x | map('upper') }}", {"x": {"b": 1}}, '[["b", 1]] [0, 1] ["B"]'),
        ("{{ order.items | length }}", {"order": {"items": [1, 2]}}, "2"),
        # Jinja
        ("{% for x in xs %}{{ loop.index }}{{ x }};{% endfor %}", {"xs": ["a", "b"]}, "1a;2b;"),
        ("{% if a > 1 %}many{% else %}one{% endif %}", {"a": 2}, "many"),
        ("{{ a | upper }} {{ xs | join('-') }} {{ 'x' ~ 1 }}", {"a": "q", "xs": [1, "b"]}, "Q 1-b x1"),
        ("{{ {'a': a}['a'] }} {{ {'k': a} | tojson }}", {"a": 1}, '1 {"k": 1}'),
        (
            "{% set y = namespace(n=0) %}{% for x in xs %}{% set y.n = y.n + x %}{% endfor %}{{ y.n }}",
            {"xs": [1, 2]},
            "3",
        ),
        ("{% raw %}{{a}} {a}{% endraw %}{# gone #}", {"a": 1}, "{{a}} {a}"),
        ("{% for x in xs %}{x}{% endfor %}", {"xs": [1, 2]}, "{x}{x}"),
        ("line\n{{a}}\n", {"a": 1}, "line\n1\n"),
        # braces that are no placeholders
        ('{"a": {"b": {a}}} {} {{}} { a } {1} {a-b}', {"a": 1}, '{"a": {"b": 1}} {} {{}} { a } {1} {a-b}'),
        ('{{"a": "b"}} {{ \'k\': 1 }}', {"a": 1}, '{{"a": "b"}} {{ \'k\': 1 }}'),
        ('{"x": {{a}}} {"y": {"z": {{a}}}}', {"a": 1}, '{"x": 1} {"y": {"z": 1}}'),
        ("function() { return {a: 1} } body{#id} {{ open", {"a": 1}, "function() { return {a: 1} } body{#id} {{ open"),
        ("{%", {}, "{%"),
        ("no braces", {"a": 1}, "no braces"),
    ],
)
def test_filled(template: str, values: dict[str, Any], filled: str) -> None:
    assert render(template, values) == filled


def test_html_is_escaped_on_demand() -> None:
    values = {"a": "<b>", "d": {"k": "<i>"}}
    assert render("<p>{{a}} {a} {{d}}</p>", values) == '<p><b> <b> {"k": "<i>"}</p>'
    escaped = render("<p>{{a}} {a} {{d}}</p>", values, escape_html=True)
    assert escaped == "<p>&lt;b&gt; &lt;b&gt; {&#34;k&#34;: &#34;&lt;i&gt;&#34;}</p>"


@given(st.text(alphabet="ab{}%#\"': \n[]1.!|", max_size=40))
def test_any_text_is_filled_or_refused(template: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(render(template, {"a": 1, "b": {"a": [1]}}), str)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.lists(inner, max_size=3),
    )
)
def test_json_survives_where_no_name_is_known(value: Any) -> None:
    text = json.dumps({"data": value})
    assert render(text, {}) == text


@pytest.mark.parametrize(
    ("template", "values", "said"),
    [
        ("{{ a b }}", {"a": 1}, "line 1"),
        ("\n\n{% if %}", {}, "line 3"),
        ("{{ a | nosuchfilter }}", {"a": 1}, "nosuchfilter"),
        ("{{ missing.part }}", {}, "'missing' is undefined"),
        ("{texts[3]}", {"texts": ["x"]}, r"'texts' has no part '3'"),
        ("{{ 1 / 0 }}", {}, "division by zero"),
        ("{n:.2f}", {"n": "x"}, "Unknown format code"),
        ("{% include 'x' %}", {}, "no loader"),
        ("{{ x.items }}", {"x": {}}, "was it meant to be called"),
    ],
)
def test_a_broken_template_says_where(template: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        render(template, values)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__class__ }}",
        "{{ x['__class__'].__init__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ (x | attr('__class__')).__mro__ }}",
        "{{ xs.append(1) }}",
        "{{ x.update({'a': 1}) }}",
        "{{ 'x'.format(x) }}",
        "{{ '{0.__class__}'.format_map(x) }}",
        "{{ lipsum() }}",
        "{{ xs | random }}",
    ],
)
def test_the_sandbox_holds(template: str) -> None:
    values: dict[str, Any] = {"x": {"k": 1}, "xs": [1]}
    try:
        shown = render(template, values)
    except TemplateError:
        shown = ""
    assert shown == ""
    assert values == {"x": {"k": 1}, "xs": [1]}


DOUBLING = "{{% set x = {start} %}}" + "{{% set x = {step} %}}" * 40 + "{{{{ x }}}}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in x %}{% for b in x %}{% for c in x %}{% for d in x %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10**9) }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [1] * 10**9 }}",
        "{{ 9**(9**9) }}",
        "{% for i in range(1000) %}{{ x | join }}{% endfor %}" * 3,
        "{#" * 500_000 + "{{ 1 }}",
        "{% raw %}" * 100_000,
        DOUBLING.format(start="'aaaaaaaaaa'", step="x ~ x"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="x + x"),
        DOUBLING.format(start="['aaaaaaaaaa']", step="[x, x]"),
        DOUBLING.format(start="['aaaaaaaaaa']", step="(x, x)"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="{'a': x, 'b': x}"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="dict(a=x, b=x)"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="x | replace('a', x)"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="x.replace('a', x)"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="x.join(x)"),
        DOUBLING.format(start="'aaaaaaaaaa'", step="x | join(x)"),
        DOUBLING.format(start="2", step="x * x"),
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a\t'.expandtabs(10**9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ ('a\\n' * 1000) | indent(10**6) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ x | slice(10**9) | list }}",
        "{{ x | batch(10**9, 0) | list }}",
        "{{ ('a ' * 100000) | wordwrap(1, wrapstring='b' * 9999) }}",
    ],
)
def test_no_template_takes_all_time_or_memory(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_template, "MAX_READ_S", 0.1)
    monkeypatch.setattr(_template_sandbox, "MAX_RENDER_S", 0.1)
    with pytest.raises(TemplateError):
        render(template, {"x": ["a" * 10] * 1000})
