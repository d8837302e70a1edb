"""Resolution: what wins, shorthands, overrides, origins, derived values, and the settings that decide a result."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorica.config import LEAVES, ConfigError, LoraConfig, RunConfig, derive, load, result_settings, value_of

FILE = "model: m\ndata: d\ntrain:\n  lr: 1e-3\n  seed: 5\n  batch_size: 4\n"


def test_overrides_win_over_values_and_values_over_the_file(write) -> None:
    resolved = load(write(FILE), ["train.lr=3e-4"], {"train": {"lr": 2e-4, "seed": 6}})
    train = resolved.config.train
    assert (train.lr, train.seed, train.batch_size, train.eps) == (3e-4, 6, 4, 1e-8)
    origins = [resolved.origins[f"train.{name}"] for name in ("lr", "seed", "batch_size", "eps")]
    assert origins == ["command line", "Python", "run.yaml:6", "default"]
    assert resolved.given("train.seed")
    assert not resolved.given("train.eps")


def test_every_setting_has_an_origin(write) -> None:
    assert load(write(FILE)).origins.keys() == LEAVES.keys()


def test_origins_name_the_file_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("model: m\ndata:\n  path: d\n")
    origins = load(tmp_path / "deep.yaml").origins
    assert (origins["model.path"], origins["data.path"]) == ("deep.yaml:1", "deep.yaml:3")


@pytest.mark.parametrize(
    ("data", "path"),
    [("d.jsonl", "d.jsonl"), ("[a, b]", ["a", "b"]), ("{path: d.jsonl}", "d.jsonl"), ("{path: [a]}", ["a"])],
)
def test_shorthand_of_data(write, data: str, path: object) -> None:
    assert load(write(f"model: m\ndata: {data}\n")).config.data.path == path


def test_shorthand_and_override_of_a_section_compose(write) -> None:
    config = load(write(FILE), ["data.max_length=512", "model=other", "model.dtype=fp32"]).config
    assert (config.data.path, config.data.max_length) == ("d", 512)
    assert (config.model.path, config.model.dtype) == ("other", "fp32")


def test_python_values_may_be_paths_tuples_and_sections() -> None:
    config = load(values={"model": Path("m"), "data": ("a", Path("b")), "lora": LoraConfig(r=8)}).config
    assert (config.model.path, config.data.path, config.lora.r) == ("m", ["a", "b"], 8)


def test_models_can_be_built_directly_with_the_shorthand() -> None:
    assert RunConfig.model_validate({"model": "m", "data": ["a"]}) == load(values={"model": "m", "data": ["a"]}).config


def test_alternative_names_of_peft(write) -> None:
    resolved = load(write("model: m\ndata: d\nlora: {lora_alpha: 24}\n"), ["lora.lora_dropout=0.25"])
    assert (resolved.config.lora.alpha, resolved.config.lora.dropout) == (24, 0.25)
    assert resolved.origins["lora.alpha"] == "run.yaml:3"


def test_an_empty_section_means_its_defaults(write) -> None:
    assert load(write("model: m\ndata: d\nlora:\n  # r: 8\ntrain:\n")).config.lora.r == 32


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lr=3e-4", "train.lr", 3e-4),
        ("lora.target_modules=[q_proj, v_proj]", "lora.target_modules", ["q_proj", "v_proj"]),
        ("lora.rank_pattern={layers.0.q: 4}", "lora.rank_pattern", {"layers.0.q": 4}),
        ("data.max_length=null", "data.max_length", None),
        ("out=runs/a=b", "out", "runs/a=b"),
        ("out='a #b'", "out", "a #b"),
        ("out=a#b", "out", "a#b"),
        (" lora.r = 3", "lora.r", 3),
        ("train={seed: 3}", "train.seed", 3),
        ("evaluate.metric=my.module:score", "evaluate.metric", "my.module:score"),
    ],
)
def test_override_values_are_yaml(override: str, key: str, value: object) -> None:
    resolved = load(None, ["model=m", "data=d", override])
    assert value_of(resolved.config, key) == value
    assert resolved.origins[key] == "command line"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "command line train.lr: expected section.key=value, such as train.lr=3e-4"),
        ("=3", "command line =3: expected section.key=value, such as train.lr=3e-4"),
        ("train.lr=\x1f", "command line train.lr: the value '\\x1f' has a character that YAML does not allow, U+001F"),
        ("train.lr=[1", "command line train.lr: the value '[1' cannot be read: expected ',' or ']'"),
        ("out=a #b", "command line out: 'a #b' holds a #, which starts a comment in YAML; put the value in quotes"),
        ("lora.rank_pattern.q=8", "command line lora.rank_pattern.q: lora.rank_pattern is given whole, such as "),
        ("train.bath_size=8", "command line train.bath_size: unknown key; did you mean train.batch_size?"),
        ("train={lr: 1, lr: 2}", "command line train: given twice, first on line 1; keep one"),
        ("model=x", "command line model.path: given twice; keep one"),
        ("train.lr=-1", "command line train.lr: got -1; allowed: a number above 0 and at most 1, or auto, or null"),
    ],
)
def test_faulty_overrides_name_their_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ["model=m", "data=d", override])
    assert str(caught.value).startswith(message)


def test_derive_fills_in_a_value_and_leaves_the_original_alone(write) -> None:
    resolved = load(write("model: m\ndata: d\n"))
    derived = derive(resolved, "train.lr", 0.00731, "5e-4 * (2000 / 64)^0.781,\n calibrated")
    assert derived.config.train.lr == 0.00731
    assert derived.origins["train.lr"] == "derived: 5e-4 * (2000 / 64)^0.781, calibrated"
    assert resolved.config.train.lr is None
    assert derived.config.model_copy(update={"train": resolved.config.train}) == resolved.config
    assert {key for key in LEAVES if derived.origins[key] != resolved.origins[key]} == {"train.lr"}


def test_derive_refuses_what_a_user_may_not_set_either(write) -> None:
    resolved = load(write("model: m\ndata: d\ntrain: {epochs: 2}\n"))
    with pytest.raises(ConfigError, match=r"train\.lr: got -1; allowed"):
        derive(resolved, "train.lr", -1, "because")
    with pytest.raises(ConfigError, match=r"run\.yaml:3 train\.epochs: has no effect when train\.steps is given"):
        derive(resolved, "train.steps", 10, "because")


def test_settings_of_the_system_and_the_folder_decide_no_result() -> None:
    base = {"model": "m", "data": "d"}
    one = load(values=base | {"out": "x", "system": {"threads": 1, "trackers": ["wandb"]}}).config
    two = load(values=base | {"out": "y", "system": {"device": "cpu"}}).config
    assert result_settings(one) == result_settings(two)
    assert result_settings(one) != result_settings(load(values=base | {"train": {"seed": 1}}).config)
    assert result_settings(one).keys() == {"model", "data", "method", "lora", "train", "evaluate"}


def test_a_resolved_configuration_cannot_be_changed() -> None:
    config = load(values={"model": "m", "data": "d"}).config
    with pytest.raises(ValueError, match="frozen"):
        config.train.seed = 3  # type: ignore[misc]


def test_the_import_brings_no_heavy_library() -> None:
    code = (
        "import lorica.config, sys; print([name for name in ('torch', 'transformers', 'rich') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
