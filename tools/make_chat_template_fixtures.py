#!/usr/bin/env python3
"""Writes tests/data/chat_template/cases.json: what transformers renders of templates and chats.

Needs `pip install transformers jinja2`. Templates written for this project are stored with their
outputs; of the templates of released models (../shared/tokenizers) only hashes of the outputs are.
The tests read the file only; run this again after adding a template or a conversation:

    python3 tools/make_chat_template_fixtures.py --shared ../shared
"""

import argparse
import datetime
import json
import pathlib

import transformers
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOW = datetime.datetime(2024, 7, 5, 14, 3, 9)

CALL = {"id": "c1", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}}
CALL_TEXT = {"id": "c2", "type": "function",
             "function": {"name": "add", "arguments": "{\"a\": 1.5, \"b\": [true, null]}"}}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Says <how> it & \"is\" in a city.\nNow.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "enum": ["Zürich", "東京"]},
            "days": {"type": "integer", "default": 1}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {}, "required": []}}}]

CHATS = {
    "one": [{"role": "user", "content": "Hello, who are you?"}],
    "system": [{"role": "system", "content": "  You are terse.\n"},
               {"role": "user", "content": "Hi\n\nthere  "}],
    "turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "1 + 1 = ?"},
              {"role": "assistant", "content": "<think>\nIt is 2.\n</think>\n\n2"},
              {"role": "user", "content": "  and in 中文 👩‍👩‍👧? "},
              {"role": "assistant", "content": "二", "reasoning_content": "They ask for\nChinese."},
              {"role": "user", "content": "'quotes' \"double\" \\back <tag> & \u007f\t"}],
    "tool": [{"role": "user", "content": "Weather?"},
             {"role": "assistant", "content": None, "tool_calls": [CALL_TEXT]},
             {"role": "tool", "name": "add", "tool_call_id": "c2", "content": "2.5"},
             {"role": "assistant", "content": "2.5 it is."},
             {"role": "user", "content": "More"}],
    "tools": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather?"},
              {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL_TEXT]},
              {"role": "tool", "name": "get_weather", "content": "{\"sky\": \"blue\"}"},
              {"role": "tool", "name": "add", "content": "7"},
              {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Thanks"}],
    "empty": [],
}

# Templates in the manner of released ones, and small ones that each exercise a part of Jinja.
TEMPLATES = {
    "chatml": """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
    "inst": """{{ bos_token }}
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] | trim -%}
  {%- set rest = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) and not tools -%}
    {{- raise_exception('Roles must alternate, found ' ~ m.role ~ ' at ' ~ loop.index) -}}
  {%- endif -%}
  {%- if m.role == 'user' -%}
    {{ '[INST] ' + (('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n') if loop.first and system else '') +
       m.content.strip() + ' [/INST]' }}
  {%- elif m.content is string -%}
    {{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}
  {%- endif -%}
{%- endfor -%}
""",
    "reasoning": """{%- macro render(content, strip=false) -%}
{%- if content is string %}{{ content | trim if strip else content }}
{%- elif content is iterable and content is not mapping -%}
  {%- for part in content if part.type == 'text' %}{{ part.text }}{% endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1, tools=0) -%}
{%- for m in messages[::-1] -%}
  {%- set index = (messages|length - 1) - loop.index0 -%}
  {%- if ns.last == -1 and m.role == "user" -%}{%- set ns.last = index -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- set text = render(m.content) -%}
    {%- set thought = '' -%}
    {%- if m.reasoning_content is string -%}
      {%- set thought = m.reasoning_content -%}
    {%- elif '</think>' in text -%}
      {%- set thought = text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
      {%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    <a>{% if loop.index0 > ns.last or loop.last %}[{{ thought.strip('\\n') }}]{% endif %}{{ text }}
    {%- for call in m.tool_calls or [] -%}
      {%- set ns.tools = ns.tools + 1 -%}
      {%- set call = call.function if call.function is defined else call -%}
      <call {{ ns.tools }}:{{ call.name }} {{ call.arguments if call.arguments is string
          else call.arguments | tojson }}>
    {%- endfor -%}</a>
  {%- elif m.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' %}<r>{% endif -%}
    {{- m.content -}}
    {%- if loop.last or loop.nextitem.role != 'tool' %}</r>{% endif -%}
  {%- else -%}
    <{{ m.role[0] }}>{{ render(m.content, strip=true) }}</{{ m.role | first }}>
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<a>{{ '' if enable_thinking is not defined or enable_thinking else '[]' }}{%- endif -%}
""",
    "tools": """{{- bos_token }}
{%- if tools is defined and tools is not none and tools | length > 0 %}
{{ tools | tojson(indent=2) }}
{%- for tool in tools | map(attribute='function') | list %}
### {{ tool.name | upper }}: {{ tool.description | default('(none)') | indent(4) }}
  {%- for name, spec in tool.parameters.properties.items() | sort %}
  - {{ name }} ({{ spec.type }}{% if name in tool.parameters.required %}, required{% endif %}
      {%- if spec.enum %}: {{ spec.enum | join(', ') }}{% endif -%}
      {%- if spec.default is defined %} = {{ spec['default'] }}{% endif %})
  {%- else %}
  no parameters
  {%- endfor %}
{%- endfor %}
{%- endif %}
{%- for m in messages | rejectattr('role', 'equalto', 'system') %}
{{ loop.index }}/{{ loop.length }} {{ m.role | capitalize }}: {{ m | tojson }}
{%- endfor %}
{{ messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | join(' | ') }}
""",
    "date": "{{ strftime_now('%d %b %Y') }}; {{ strftime_now(\"%A %-d. %B %y, %H:%M:%S %I %p %j %%\") }}"
            "{% if strftime_now is defined %}!{% endif %}",
    "white": """
  {# a comment #}
  {% if true %}
    kept {%+ if true %} sign{% endif %}

  {% endif %}   x
  {%- if true -%}   tight   {%- endif +%}
  after
{{ 'a' }}
{{- ' b' -}}
   c {% raw %} {{ raw }} {% not %} {% endraw %}
	{% for i in range(3) -%}
    {{ i }}
  {%- endfor %}

  {#- gone -#}  end
{% generation %}g{{ 1 }}{% endgeneration %}

""",
    "scopes": """{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}
{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }}-{{ x }}{% endmacro %}{% set x = 6 %}
{{ m(1) }} {{ m(1, c=3) }} {{ m(b='q', a=none) }} [{{ m() }}]
{% set block %}  in {{ x }} {% set x = 9 %}{% endset %}<{{ block }}>{{ x }}
{% set up | upper | trim %}  shout {% endset %}<{{ up }}>
{% filter upper %}low {{ 'ß' }}{% endfilter %}
{% with a = 1, b = x %}{{ a + b }}{% endwith %}{{ a is defined }}
{% for a, b in {'k': 1, 'l': [2]}.items() %}{{ a }}{{ b }}{{ loop.revindex }}{% endfor %}
{% for i in range(10) if i % 2 %}{% if i > 6 %}{% break %}{% endif %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{{ loop.cycle('x', 'y') }}{% endfor %}
{% for i in [] %}{% else %}none{% endfor %}
{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = ns.a + ns.b %}{{ ns.c }}{{ ns.d is undefined }}
{% set p, q = 1, 'two' %}{{ p }}{{ q }}{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}""",
    "values": """{{ [1, 2.0, 1e20, 1e-7, 0.1, true, none, 'a\\'b', "c\\n", ('t',), {'k': {1: 'é'}}] }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 + true }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 'a' * 3 }}{{ [1] * 2 }} {{ [1] + [2] }} {{ 1 ~ none ~ 'x' ~ 2.50 }} {{ not 1 }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }}
{{ 'abcé中'[1:] }} {{ 'abcé中'[-2] }} {{ 'abc'[::-1] }} {{ 'abc'[5] is undefined }} {{ [1, 2, 3, 4][1:-1] }} {{ [1, 2, 3][::-1] }} {{ 'abcdef'[4:1:-2] }}
{{ 'x' if false }}|{{ undefined_thing }}|{{ undefined_thing is defined }}|{{ 'y' if missing else 'no' }}
{{ 'a' in 'cat' }} {{ 'k' in {'k': 1} }} {{ 3 not in [1, 2] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ [1] == [1] }} {{ (1,) == [1] }}
{{ none or 'x' }} {{ '' and 'y' }} {{ 0 or [] }} {{ 1 and 2 }} {{ -3 | abs }} {{ (-3) | abs }} {{ 1_000 }} {{ 'con' 'cat' }} {{ {'a': 1}.a }} {{ {'items': 1}['items'] }}
{{ 1.0 }} {{ 100000000000000000.0 }} {{ 123456789012345680.0 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}""",
    "methods": """{{ ' a b  c '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c d'.split(none, 2) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' x y z '.rsplit(none, 1) }}
{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' x '.lstrip() }}|{{ 'x\\n\\n'.rstrip('\\n') }}|{{ '\\u3000é\\x1f'.strip() }}|
{{ 'Hello'.upper() }} {{ 'HeLLO'.lower() }} {{ 'hello wORLD it\\'s'.title() }} {{ 'hELLO'.capitalize() }} {{ 'straße'.upper() }} {{ 'ÀÉ中'.lower() }}
{{ 'aXbXc'.replace('X', '--') }} {{ 'aXbXc'.replace('X', '', 1) }} {{ 'ab'.replace('', '.') }} {{ 'a-b'.join(['1', '2', '3']) }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abcabc'.find('c') }} {{ 'é中x'.find('x') }} {{ 'abcabc'.rfind('c') }} {{ 'aaa'.count('a') }} {{ 'q'.find('z') }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }}
{{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ ''.isdigit() }}
{{ {'a': 1, 'b': 2}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'a': 1}.items() | list }} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 7) }}
{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ dict(a=1, b='x') }} {{ range(5, 1, -2) | list }} {{ range(3) | list }}""",
    "filters": """{{ {'b': [1, {'a': 'é<&>"\\n\\u0001\\x7f'}], 'a': none, 'c': 1.5, 'd': [], 'e': {}} | tojson }}
{{ {'b': [1, {'a': 'é'}], 'a': []} | tojson(indent=4) }} {{ 'é😀\\x7f' | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': true} | tojson(sort_keys=true, separators=(',', ':')) }}
{{ '  x ' | trim }}|{{ 'xax' | trim('x') }}|{{ [1, 2] | length }}|{{ 'é中' | count }}|{{ nothing | length }}|{{ nothing | default('d') }}|{{ '' | default('e', true) }}|{{ none | d('x') }}
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true, reverse=true) }} {{ [{'n': 2}, {'n': 1}] | sort(attribute='n') }}
{{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }} {{ {'b': 1} | items | list }}
{{ [1, 2, 2, 'a', 'A'] | unique | list }} {{ [1, 2, 3] | reverse | list }} {{ 'abc' | reverse }} {{ [1, 2] | first }} {{ [1, 2] | last }} {{ [] | first is undefined }} {{ 'abc' | list }}
{{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 2, 3] | reject('equalto', 2) | list }} {{ [0, 1, '', 'x'] | select | list }} {{ ['a', 'b'] | map('upper') | join('+') }} {{ [{'a': {'b': 1}}, {}] | map(attribute='a', default=0) | list }}
{{ '3' | int }} {{ 'x' | int(9) }} {{ 3.9 | int }} {{ '3.7' | int }} {{ '2.5' | float }} {{ 'z' | float }} {{ 2.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 42 | string + '!' }} {{ 7 | round }}
{{ 'a\\nb\\n\\nc' | indent }} {{ 'a\\nb' | indent(2, true) }} {{ 'a\\n\\nb' | indent('> ', blank=true) }}|{{ 'hello world-wide' | title }} {{ 'one two' | wordcount }} {{ [1, 2, 3] | sum }} {{ [3, 1] | max }} {{ [3, 1] | min }} {{ 'a-b' | replace('-', '+') }} {{ '<b>' | safe }}
{{ [[1, 2], [3]] | map('length') | list }} {{ ['x', none, 1] | join(',') }} {{ 'abc' | upper | lower | capitalize }} {{ (1, 2) | list }} {{ {'a': 1, 'b': 2} | list }} {{ 5 | default(3) | string | length }}""",
    "tests": """{% for v in [1, 1.0, true, none, 'x', [1], {'a': 1}, (1,), missing] %}
{{ v is defined }} {{ v is none }} {{ v is number }} {{ v is integer }} {{ v is float }} {{ v is boolean }} {{ v is string }} {{ v is mapping }} {{ v is iterable }} {{ v is sequence }} {{ v is true }} {{ v is false }}
{% endfor %}
{{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 1 is in [1] }} {{ 1 is not in [1] }} {{ 'a' is eq 'a' }} {{ 2 is gt 1 }} {{ 2 is ne(2) }} {{ none is sameas none }} {{ 'AB' is upper }} {{ 'tojson' is filter }} {{ 'x' is test }} {{ range is callable }} {{ not 1 is defined }} {{ x is defined and x is not none or 'z' is string }}
{{ messages is defined and messages is not none }} {{ tools is none }} {{ documents is none }} {{ unk_token is defined }} {{ eos_token }}{{ loop is defined }}""",
}

# Conversations or templates that must be refused, and a word of the reason.
REFUSED = {
    "{{ 1 + 'a' }}": "'+'", "{{ 'a' + none }}": "NoneType", "{{ 'a' + missing }}": "missing",
    "{{ missing.x }}": "missing", "{{ missing() }}": "missing", "{{ none.x.y }}": "x",
    "{{ raise_exception('no such role') }}": "no such role", "{{ 1 / 0 }}": "zero",
    "{{ 'a' < 1 }}": "<", "{% for a, b in [[1, 2, 3]] %}{% endfor %}": "3 values",
    "{{ missing | tojson }}": "JSON", "{% for x in 5 %}{% endfor %}": "iterated",
    "{{ range(10) | list | length }}{{ range(10000000) }}": "range",
    "{% set x.y = 1 %}": "namespace", "{{ [1] | map('upper') | tojson }}": "generator",
    "{{ [].append(1) }}": "append", "{{ {}.update(a=1) }}": "update", "{{ 5 | length }}": "length",
    "{% include 'x' %}": "include", "{% do 1 %}": "do", "{{ x | nosuch }}": "nosuch",
    "{{ x is nosuch }}": "nosuch", "{% if x %}": "endif", "{{ x": "}}", "{% for %}": "name",
    "{{ 'abc }}": "string", "{# x": "comment", "{% endif %}": "endif", "{{ (1 }}": "}",
    "{{ 1 +}}": "expression", "{% raw %}x": "raw", "{{ a b }}": "\"b\"", "{{ ''.zfillx() }}": "zfillx",
    "{% break %}": "break", "{{ '' .split('') }}": "empty", "{{ 'a'.index('b') }}": "index",
}


def render(template, chat, tools, prompt, extra=None):
    compiled = chat_template_utils._cached_compile_jinja_template(template)
    compiled.environment.globals["strftime_now"] = NOW.strftime
    compiled.globals["strftime_now"] = NOW.strftime
    return compiled.render(messages=chat, tools=tools, documents=None, add_generation_prompt=prompt,
                           **(extra or {}))


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def cases_of(template, tokens, keep_text):
    cases = []
    for name, chat in CHATS.items():
        for tools in (None, TOOLS):
            for prompt in (False, True):
                for extra in ({}, {"enable_thinking": False}):
                    if extra and "enable_thinking" not in template:
                        continue
                    case = {"chat": name, "tools": tools is not None, "prompt": prompt}
                    if extra:
                        case["extra"] = extra
                    try:
                        text = render(template, chat, tools, prompt, {**tokens, **extra})
                        case["text" if keep_text else "fnv1a64"] = text if keep_text else fnv1a64(text)
                    except Exception as error:  # Python's, Jinja's: whatever a template runs into
                        case["refused"] = type(error).__name__
                    cases.append(case)
    # One output stands for all conversations of a template that does not look at them.
    if keep_text and len({case.get("text") for case in cases}) == 1:
        cases = cases[:1]
    return cases


def shared_templates(shared):
    for path in sorted((shared / "tokenizers").glob("*/tokenizer_config.json")):
        config = json.loads(path.read_text())
        if isinstance(config.get("chat_template"), str):
            tokens = {}
            for key, token in config.items():
                if key.endswith("_token") and token and not isinstance(token, bool):
                    tokens[key] = token["content"] if isinstance(token, dict) else token
            yield path.parent.name, config["chat_template"], tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=pathlib.Path, required=True,
                        help="the folder with tokenizers/*/tokenizer_config.json")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/chat_template")
    args = parser.parse_args()
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    fixture = {"made_with": f"transformers {transformers.__version__}", "chats": CHATS,
               "tools": TOOLS, "tokens": tokens, "templates": {}, "shared": {}, "refused": REFUSED}
    for name, template in TEMPLATES.items():
        cases = cases_of(template, tokens, True)
        assert len(cases) > 1 or "text" in cases[0], (name, cases)
        fixture["templates"][name] = {"template": template, "cases": cases}
    for template in REFUSED:
        try:
            output = render(template, CHATS["one"], None, False, tokens)
        except Exception:
            continue
        raise AssertionError(f"{template!r} is not refused but gives {output!r}")
    for name, template, tokens in shared_templates(args.shared):
        fixture["shared"][name] = cases_of(template, tokens, False)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "cases.json"
    path.write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
