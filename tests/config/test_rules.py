"""Rules between settings: each refuses what it should, accepts its neighbour, and names the line."""

import pytest

from lorica.config import RunConfig, load, unused_settings
from lorica.config.rules import RULES
from lorica.config.schema import LEAVES

HEAD = "model: m\ndata: d\n"
# Of the rules that refuse a combination one is here; tests/training/test_combinations.py goes through their table.
BROKEN = [
    ("full-trains-no-adapter", "method: full\nlora:\n  r: 8\n", "run.yaml:5:6 lora.r: has no effect with method: full"),
    (
        "full-trains-no-adapter",
        "method: full\ntrain: {loraplus_lr_ratio: 1}\n",
        "train.loraplus_lr_ratio: has no effect",
    ),
    ("steps-or-epochs", "train: {steps: 9, epochs: 1}\n", "run.yaml:3:27 train.epochs: has no effect when train.steps"),
    ("memory-is-a-size", "system: {memory: 50%}\n", "run.yaml:3:18 system.memory: no amount of memory"),
    ("memory-is-a-size", "system: {memory: 0GB}\n", "such as 24GB or 24GiB"),
    ("no-evaluation", "evaluate: {enabled: false, every: 5}\n", "evaluate.every: has no effect with evaluate.enabled"),
    ("no-evaluation", "evaluate: {enabled: false, metric: bleu}\n", "evaluate.metric: has no effect"),
    ("no-evaluation", "evaluate: {enabled: false, forgetting: null}\n", "evaluate.forgetting: has no effect"),
    (
        "no-evaluation",
        "evaluate: {enabled: false}\ntrain: {early_stopping: 2}\n",
        "train.early_stopping: has no effect",
    ),
    ("no-metric", "evaluate: {generate_rows: 5}\n", "evaluate.generate_rows: has no effect without evaluate.metric"),
    ("nothing-generated", "evaluate: {samples: 0, max_new_tokens: 9}\n", "evaluate.max_new_tokens: has no effect"),
    ("pattern-of-all-layers", "lora: {layers_pattern: h}\n", "lora.layers_pattern: has no effect without"),
    (
        "no-conversations",
        "data: {path: d, format: text, chat_template: t.jinja}\n",
        "data.chat_template: has no effect with data.format: text",
    ),
    (
        "every-source-says-its-own",
        "data: {format: text, path: [{path: a, format: text}, {path: b, format: alpaca}]}\n",
        "data.format: has no effect: every source has a format",
    ),
    (
        "every-source-maps-its-own",
        "data: {columns: {text: b}, path: [{path: a, columns: {text: c}}]}\n",
        "data.columns: has no effect: every source has columns",
    ),
    ("early-stopping-needs-evaluations", "train: {early_stopping: 2}\n", "train.early_stopping: early stopping counts"),
    ("dora-with-pissa", "lora: {use_dora: true, init_lora_weights: pissa_niter_4}\n", "cannot be combined"),
    (
        "expression-chooses-layers",
        "lora: {layers_to_transform: 0, target_modules: '.*q'}\n",
        "lora.layers_to_transform",
    ),
    ("adapted-or-saved-whole", "lora: {target_modules: [a, b], modules_to_save: [b]}\n", "lora.modules_to_save"),
    (
        "patterns-compile",
        "lora: {target_modules: 'a('}\n",
        "lora.target_modules: a pattern of module names that is not",
    ),
    (
        "patterns-compile",
        "lora: {rank_pattern: {'a[': 3}}\n",
        "lora.rank_pattern: a pattern of module names that is not",
    ),
    (
        "patterns-compile",
        "lora: {layers_to_transform: 1, layers_pattern: 'h('}\n",
        "lora.layers_pattern: a pattern of module names that is not",
    ),
    ("warmup-share-or-steps", "train: {warmup: 2.5}\n", "train.warmup: neither a share nor a number of steps"),
    ("warmup-within-steps", "train: {warmup: 20, steps: 10}\n", "train.warmup: the warm-up is longer"),
]
FINE = [
    "lora: {init_lora_weights: loftq, use_dora: true}\nmodel: {path: m, weights: q4_k_m}\n",
    "data: {path: [{path: a, format: text}, b], format: messages, train_on: all, columns: {text: c}}\n",
    "data: {path: d, format: prompt-completion, chat_template: t.jinja, reasoning: drop}\n",
    "method: full\nlora: {}\n",
    "method: full\nlora: {exclude_modules: null}\n",
    "train: {steps: null, epochs: 2}\n",
    "train: {early_stopping: 2}\nevaluate: {every: 5}\n",
    "evaluate: {enabled: false}\n",
    "evaluate: {metric: chrf, generate_rows: 5, samples: 0, max_new_tokens: 9}\n",
    "evaluate: {max_new_tokens: 9}\n",
    "lora: {layers_to_transform: [0], layers_pattern: h}\n",
    "lora: {use_dora: true, init_lora_weights: gaussian, target_modules: [embed_tokens]}\n",
    "lora: {alpha: 8, rank_pattern: {q: 3}, alpha_pattern: {'^k': 5}}\n",
    "lora: {target_modules: [a, b], modules_to_save: [c], exclude_modules: '.*x'}\n",
    "train: {warmup: 10, steps: 10}\n",
    "lora: {modules_to_save: null}\ntrain: {lr: auto}\n",
    "method: full\ntrain: {lr: null}\n",
    "train: {warmup: 0.5, steps: 1}\n",
]


def whole(lines: str) -> str:
    """With what is required and not given."""
    return "".join(f"{line}\n" for line in HEAD.splitlines() if line[:-1] not in lines) + lines


@pytest.mark.parametrize(("name", "lines", "message"), BROKEN)
def test_a_broken_rule_is_one_problem_with_its_place(report, name: str, lines: str, message: str) -> None:
    (found,) = report(whole(lines))
    assert found.startswith("run.yaml:")
    assert message in found
    assert {rule.name: rule.message for rule in RULES}[name] in found


@pytest.mark.parametrize("lines", FINE)
def test_what_is_close_to_a_broken_rule_is_fine(write, lines: str) -> None:
    load(write(whole(lines)))


def test_every_rule_is_tested_and_reads_settings_that_exist() -> None:
    assert {rule.name for rule in RULES if "-with-" not in rule.name} < {name for name, _, _ in BROKEN}
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert {*rule.reads, *rule.unused} <= LEAVES.keys()


def test_a_rule_waits_for_the_settings_it_reads(report) -> None:
    found = report(HEAD + "train: {early_stopping: 2}\nevaluate: {every: -3, metric: blue, generate_rows: 4}\n")
    assert [line.split(" ")[1] for line in found] == [
        "evaluate.every:",
        "evaluate.metric:",
    ]


def test_unused_settings_of_full_training_are_the_adapter() -> None:
    unused = unused_settings(RunConfig.model_validate({"model": "m", "data": "d", "method": "full"}))
    assert {key for key in LEAVES if key.startswith("lora.")} < unused.keys()
    assert "train.lr" not in unused
