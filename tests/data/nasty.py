"""Chat templates written to mislead whoever looks for turns in what they render.

Each depends on something that a layout learned from other texts could miss. All end turns with <|im_end|>.
"""

HEAD = "<|im_start|>{{ m.role }}\n"
TURN = HEAD + "{{ m.content }}<|im_end|>\n"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def each(turn: str = TURN, prompt: str = PROMPT, before: str = "") -> str:
    return f"{before}{{% for m in messages %}}{turn}{{% endfor %}}{prompt}"


def opened(condition: str) -> str:
    """The generation prompt opens a block where `condition` holds, and finished turns never show it."""
    return PROMPT.replace("{% endif %}", f"{{% if {condition} %}}<think>\n{{% endif %}}{{% endif %}}")


LAST = "messages[-1].content"
NASTY = {
    "plain": each(),
    "trims": each(TURN.replace("m.content", "m.content | trim")),
    "trims users only": each(HEAD + "{{ m.content | trim if m.role == 'user' else m.content }}<|im_end|>\n"),
    "trims all but the last": each(HEAD + "{{ m.content if loop.last else m.content | trim }}<|im_end|>\n"),
    "strips line breaks only": each(HEAD + "{{ m.content.lstrip('\n') }}<|im_end|>\n"),
    "prompt depends on a word": each(prompt=opened(f"'cat' in {LAST}")),
    "prompt depends on a length": each(prompt=opened(f"{LAST} | length > 9")),
    "prompt depends on being long": each(prompt=opened(f"{LAST} | length")),
    "prompt depends on a beginning": each(prompt=opened(f"{LAST}.startswith('a')")),
    "prompt depends on a slice": each(prompt=opened(f"{LAST}[:1] == 'a'")),
    "prompt depends on a character": each(prompt=opened(f"{LAST}[0] == 'a'")),
    "prompt depends on equality": each(prompt=opened(f"{LAST} == 'cat'")),
    "prompt depends on order": each(prompt=opened(f"{LAST} > 'b'")),
    "prompt depends on two texts": each(prompt=opened(f"{LAST} == messages[0].content")),
    "prompt depends on two messages": each(prompt=opened("messages[-1] == messages[0] and messages | length > 1")),
    "prompt depends on joined texts": each(prompt=opened("'cat' in (messages | map(attribute='content') | join(''))")),
    "prompt depends on a block": each(
        prompt="{% set all %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}" + opened("'tac' in all")
    ),
    "prompt depends on a macro": each(
        prompt="{% macro said(m) %}{{ m.content ~ '!' }}{% endmacro %}" + opened("'cat!' in said(messages[-1])")
    ),
    "prompt depends on a concatenation": each(prompt=opened(f"('b' ~ {LAST}) in 'bcat'")),
    "prompt depends on membership": each(prompt=opened(f"{LAST} in ['cat', 'a']")),
    "prompt depends on a count": each(prompt=opened(f"{LAST}.count('a') > 1")),
    "prompt depends on a split": each(prompt=opened(f"{LAST}.split('a') | length > 2")),
    "prompt depends on a format": each(prompt=opened(f"'%5s' | format({LAST}) == '  cat'")),
    "prompt depends on a key": each(prompt=opened(f"{{'cat': 1}}[{LAST}] is defined")),
    "prompt depends on characters": each(
        prompt="{% set n = namespace(a=0) %}{% for c in "
        + LAST
        + " %}{% if c == 'a' %}{% set n.a = n.a + 1 %}{% endif %}{% endfor %}"
        + opened("n.a > 1")
    ),
    "prompt depends on a selection": each(prompt=opened("messages | selectattr('content', 'equalto', 'cat') | list")),
    "prompt depends on a map": each(
        prompt=opened("'CAT' in (messages | map(attribute='content') | map('upper') | list)")
    ),
    "prompt depends on a generator": each(prompt=opened("'cat' in (messages | map(attribute='content'))")),
    "prompt depends on a view": each(prompt=opened("'cat' in messages[-1].values()")),
    "prompt depends on unique texts": each(
        prompt=opened("messages | map(attribute='content') | unique | list | length < messages | length")
    ),
    "prompt depends on representations": each(prompt=opened("\"'cat'\" in (messages ~ '')")),
    "prompt depends on a chain": each(prompt=opened(f"'a' < {LAST} < 'c'")),
    "prompt depends on the turn": each(prompt=opened("messages | length > 2")),
    "splits thoughts": each(
        HEAD + "{{ m.content.split('</think>')[-1].lstrip('\n') if not loop.last else m.content }}<|im_end|>\n"
    ),
    "replaces": each(TURN.replace("m.content", "m.content | replace('cat', 'dog')")),
    "upper": each(TURN.replace("m.content", "m.content.upper()")),
    "quotes": each(TURN.replace("m.content", "m.content | tojson")),
    "escapes": each(TURN.replace("m.content", "('<b>' | safe) + m.content")),
    "numbers its turns": each("{{ loop.index }}" + TURN),
    "counts down": each("{{ loop.revindex }}" + TURN),
    "says how many": each(before="{{ messages | length }} "),
    "shows the last first": each(before="{{ messages[-1].content }}\n"),
    "writes the last user late": each(
        "{% if m.role == 'user' and loop.last %}{{ 'now: ' }}{% endif %}" + TURN
    ),
    "merges the system message": (
        "{% if messages[0].role == 'system' %}{% set s = messages[0].content ~ '\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}<|im_start|>{{ m.role }}\n"
        "{{ (s if loop.first else '') + m.content }}<|im_end|>\n{% endfor %}"
        + PROMPT
    ),
    "generation blocks": each(
        "{% if m.role == 'assistant' %}" + HEAD + "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
        "{% else %}" + TURN + "{% endif %}"
    ),
    "ends turns with the next": (
        "{% for m in messages %}{% if not loop.first %}<|im_end|>{% endif %}" + HEAD + "{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_end|><|im_start|>assistant\n{% endif %}"
    ),
    "no stop": each(HEAD + "{{ m.content }}\n"),
    "nothing between": each("{{ m.content }}<|im_end|>", prompt=""),
}  # fmt: skip
