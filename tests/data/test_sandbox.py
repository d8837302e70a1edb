"""The quick sandbox gives what transformers' own gives, or refuses what that refuses."""

from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from lorica.data.sandbox import served_environment

SNIPPETS = [
    "{{ m.content.strip().split(',') | join('|') }}",
    "{{ m.get('role') }} {{ m.get('none', 7) }} {{ m.items() | list }} {{ m.keys() | list }} {{ m.missing }}",
    "{{ m['content'].upper() }} {{ m.content.startswith(' a') }}",
    "{{ m.tool_calls.index('x') }} {{ m.tool_calls.count('y') }}",
    "{{ '{0} {1}'.format(m.role, 5) }} {{ '{a}'.format_map({'a': 1}) }}",
    "{{ '{0.__class__}'.format(m) }}",
    "{{ '{a.__class__}'.format_map({'a': m}) }}",
    "{% set f = '{0.__class__.__mro__}'.format %}{{ f(m) }}",
    "{% set f = m.content.strip %}{{ f() }}{{ m.get }}",
    "{{ m.tool_calls.append('z') }}",
    "{{ m.tool_calls.sort() }}",
    "{{ m.update({'role': 'x'}) }}",
    "{{ m.pop('role') }}",
    "{{ m.__class__ }} {{ m.content.__class__ }}",
    "{{ m.content.__class__.__mro__ }}",
    "{% set n = namespace(a=1) %}{% for x in 'abc' %}{% set n.a = n.a + loop.index %}{% endfor %}{{ n.a }} {{ n.b }}",
    "{% set n = namespace(a=1) %}{{ n.__attrs }}",
    "{% set n = namespace(_a=1) %}{{ n._a }}",
    "{{ namespace(x=m.role.title()).x }} {{ dict(a=1).get('a') }}",
    "{% for x in 'abc' %}{{ x.replace('a', m.role) }}{{ loop.last }}{% endfor %}",
]


@pytest.mark.parametrize("source", SNIPPETS)
def test_the_same_as_transformers(source: str) -> None:
    assert outcome(served_environment().from_string(source)) == outcome(_compile_jinja_template(source))


def outcome(template: Any) -> str:
    message = {"role": "user", "content": " a,b ", "tool_calls": ["y", "x", "y"]}
    try:
        return template.render(m=message).partition(" at 0x")[0]
    except (TemplateError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
