"""What the user reads: every problem at once, in file order, with place, what was seen and what is allowed."""

import pytest

from lorica.config import LEAVES, ConfigError, load, lora_config
from lorica.config.hints import OTHER_TOOLS

EVERYTHING_WRONG = """\
model: m
data: [a.jsonl, 5]
learning_rate: 3e-4
train.lr: 0.1
train:
  bath_size: 4
  lr: -5
  lr: 3
  schedule: cosinee
  betas: [0.9, 2]
  steps: 100
  epochs: 2
evaluate: {every: soon}
lora:
  alpha: 3
  lora_alpha: 4
  use_dora: yes
trian: {a: 1}
system: 5
"""


def test_all_problems_come_at_once_in_the_order_of_the_file(report) -> None:
    assert report(EVERYTHING_WRONG, "lora.rr=1", "train.warmup=1.5") == [
        'run.yaml:2:7 data.path: got ["a.jsonl", 5]; allowed: text, or a list, each text, or a mapping with '
        "path, weight, format, columns, sample_by, name, split, revision",
        "run.yaml:3:1 learning_rate: unknown key; use train.lr",
        "run.yaml:4:1 train.lr: a key with a dot; write it inside its section, as `train: {lr: ...}`",
        "run.yaml:6:3 train.bath_size: unknown key; did you mean train.batch_size?",
        "run.yaml:7:7 train.lr: got -5; allowed: a number above 0 and at most 1, or auto, or null",
        "run.yaml:8:3 train.lr: given twice, first on line 7; keep one",
        'run.yaml:9:13 train.schedule: got "cosinee"; allowed: linear, cosine or constant; did you mean cosine?',
        "run.yaml:10:10 train.betas: got [0.9, 2]; allowed: a list of 2, each a number of at least 0 and below 1",
        "run.yaml:12:11 train.epochs: has no effect when train.steps is given; keep one of the two",
        'run.yaml:13:19 evaluate.every: got "soon"; allowed: a whole number from 1 to 1,000,000,000, or null',
        "run.yaml:16:3 lora.lora_alpha: another name of lora.alpha, which is given too; keep one",
        'run.yaml:17:13 lora.use_dora: got "yes"; allowed: true or false; write true or false',
        "run.yaml:18:1 trian: unknown key; did you mean train?",
        "run.yaml:19:9 system: a single value, 5; expected a mapping such as `system: {device: ...}`",
        "command line lora.rr: unknown key; did you mean lora.r?",
        "command line train.warmup: neither a share nor a number of steps; "
        "allowed: below 1 as a share of all steps, or a whole number",
    ]


def test_the_report_counts_and_is_a_value_error(write) -> None:
    with pytest.raises(
        ValueError, match=r"^The configuration has 2 problems:\n  run\.yaml model: .*\n  run\.yaml:1:1 .*$"
    ):
        load(write("modle: m\ndata: d\n"))


def test_required_settings_say_how_to_give_them(report) -> None:
    assert report("train: {steps: 3}") == [
        "run.yaml model: required and not given; add `model: PATH`, a directory or hub id, or --model PATH",
        "run.yaml data: required and not given; add `data: ROWS.jsonl`, or --data ROWS.jsonl",
    ]
    with pytest.raises(ConfigError, match="command line model: required"):
        load(values={"data": "d"}, values_origin="command line")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr: 0.1", "lr: unknown key; did you mean train.lr?"),
        ("sytem: {}", "sytem: unknown key; did you mean system?"),
        ("train: {r: 4}", "train.r: unknown key; did you mean lora.r?"),
        ("train: {drop_out: 4}", "train.drop_out: unknown key; did you mean lora.dropout?"),
        ("train: {sedd: 4}", "train.sedd: unknown key; did you mean train.seed?"),
        ("lora: {target_module: x}", "lora.target_module: unknown key; did you mean lora.target_modules?"),
        ("load_in_4bit: true", "load_in_4bit: unknown key; use model.weights: nf4"),
        ("train: {micro_batch_size: 2}", "train.micro_batch_size: unknown key; use train.batch_size"),
        ("sample_paking: true", "sample_paking: unknown key; leave it out: rows are always packed"),
        ("zzz: 1", "zzz: unknown key; allowed here: model, data, out, method, lora, train, evaluate, system"),
        (
            "data: {path: d, zzz: 1}",
            "data.zzz: unknown key; data has path, format, columns,",
        ),
        ("lora: {1: 1}", "lora.1: unknown key; lora has r,"),
    ],
)
def test_unknown_keys_lead_to_the_right_one(report, line: str, message: str) -> None:
    data = "" if line.startswith("data") else "data: d\n"
    (found,) = report(f"model: m\n{data}{line}\n")
    assert found.split(" ", 1)[1].startswith(message)


def test_hints_about_other_tools_name_settings_that_exist() -> None:
    sections = {"model", "data"}
    for name, hint in OTHER_TOOLS.items():
        assert name not in LEAVES
        if hint.startswith("use "):
            target = hint.removeprefix("use ").split(":")[0].split(",")[0]
            assert target in LEAVES or target in sections, hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model: 4", 'run.yaml:2:8 model.path: got 4; allowed: text; write "4" in quotes if it is a name'),
        ("model: {path: 4}", 'got 4; allowed: text; write "4" in quotes if it is a name'),
        ("model: {path: m, weights: q4_km}", "did you mean q4_k_m?"),
        ("model: {path: ''}", 'got ""; allowed: text'),
        ("model: {path: m, dtype: fp16}", 'got "fp16"; allowed: auto, bf16 or fp32; did you mean bf16?'),
        ("method: qlora", 'got "qlora"; allowed: lora or full; did you mean lora?'),
        ("train: {optimizer: adam}", 'got "adam"; allowed: adamw; did you mean adamw?'),
        ("train: {batch_size: 1.5}", "got 1.5; allowed: a whole number from 1"),
        ("train: {batch_size: '16'}", 'got "16"; allowed: a whole number from 1'),
        ("train: {batch_size: true}", "got true; allowed: a whole number from 1"),
        ("train: {epochs: true}", "got true; allowed: a number above 0"),
        ("train: {lr: .nan}", "got NaN; allowed: a number above 0"),
        ("train: {lr: 1e999}", "got Infinity; allowed: a number above 0"),
        ("train: {seed: null}", "got null; allowed: a whole number of at least 0"),
        ("train: {betas: [0.9]}", "got [0.9]; allowed: a list of 2"),
        ("lora: {r: 0}", "got 0; allowed: a whole number from 1 to 65,536"),
        ("lora: {dropout: 1}", "got 1; allowed: a number of at least 0 and below 1"),
        ("lora: {lora_dropout: -1}", "lora.lora_dropout: got -1; allowed"),
        ("lora: {rank_pattern: {q: 0}}", 'got {"q": 0}; allowed: a mapping from name to a whole number'),
        ("lora: {init_lora_weights: pisa}", "did you mean pissa?"),
        ("lora: {target_modules: []}", "got []; allowed: text, or a list"),
        ("lora: {bias: all}", 'got "all"; allowed: none'),
        ("evaluate: {held_out: 0}", "for no evaluation set evaluate.enabled: false"),
        ("evaluate: {held_out: 1.5}", "a number above 0 and below 1, or text"),
        ("evaluate: {metric: blue}", "did you mean bleu?"),
        ("evaluate: {metric: [bleu, 'no colon']}", "text like module:function"),
        ("system: {memory: 24}", "got 24; allowed: auto, or text like 24GB; write 24GB or 24GiB"),
        ("system: {trackers: [mlflow]}", "allowed: a list, each wandb, trackio or tensorboard"),
        ("data: {path: d, max_length: 1}", "got 1; allowed: a whole number from 2"),
    ],
)
def test_values_out_of_bounds_say_what_is_allowed(report, line: str, message: str) -> None:
    rest = {"model": "data: d\n", "data": "model: m\n"}.get(line.split(":")[0], "model: m\ndata: d\n")
    (found,) = report(f"{rest}{line}\n")
    assert message in found


def test_a_long_value_is_cut(report) -> None:
    (found,) = report(f"model: m\ndata: d\nmethod: {'x' * 500}\n")
    assert len(found) < 200


def test_keyword_arguments_of_an_adapter_are_checked_alike() -> None:
    assert lora_config(r=8, lora_alpha=24, target_modules=("q_proj", "v_proj")).alpha == 24
    assert lora_config(target_modules={"v_proj", "q_proj"}).target_modules == ["q_proj", "v_proj"]
    with pytest.raises(ConfigError, match=r"^Python lora\.rank: unknown key; use lora\.r$"):
        lora_config(rank=8)
