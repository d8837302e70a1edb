"""The run configuration: what each setting is called, its type, range, default and meaning.

Everything outside `system` says *what* is computed and belongs to the result; `system` says *how*, and can never change
a result. The LoRA fields keep PEFT's names. Types are strict (no text where a number is meant, no `true` for 1), models
are frozen, unknown keys are refused. Paths are relative to the working directory.
"""

from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from lorica.config.data_section import DataConfig, Sources
from lorica.config.section import Auto, Count, Names, Section, Text

Rank = Annotated[int, Field(ge=1, le=65536)]
Alpha = Annotated[float, Field(gt=0, le=65536)]
Index = Annotated[int, Field(ge=0, le=10**9)]
Indices = Annotated[list[Index], Field(min_length=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
PissaIterations = Annotated[str, Field(pattern=r"^pissa_niter_[1-9][0-9]{0,2}$", examples=["pissa_niter_16"])]
MetricFunction = Annotated[str, Field(pattern=r"^[\w.]+:\w+$", examples=["module:function"])]
Weights = Literal[
    "as-is", "nf4", "nf4_dq", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "iq4_nl", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
]  # fmt: skip
Metric = Literal["exact_match", "bleu", "chrf"] | MetricFunction


Keeping = Literal["attention", "input", "offload", "chunks"]


class ModelConfig(Section):
    """The frozen base model."""

    path: Text = Field(description="Directory of a transformers model, a GGUF file, or a hub id")
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub id; null is its main branch")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Precision of the base; auto is bf16 where the hardware multiplies it natively, else fp32"
    )
    tokenizer: Text | None = Field(None, description="Directory of another tokenizer; null is the model's own")
    weights: Weights = Field(
        "as-is",
        description="How the base's matrices are held in memory: as-is is what the files hold; nf4 (nf4_dq with double"
        " quantisation) and llama.cpp's mixtures pack a 16-bit base as it is read",
    )


class LoraConfig(Section):
    """The adapter, in PEFT's names: it adds scale * B A x, with scale alpha / r, or alpha / sqrt(r) with use_rslora."""

    r: Rank = Field(32, description="Rank of the adapter matrices")
    alpha: Alpha = Field(32.0, description="Numerator of the scale")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Probability of zeroing each input of the adapter while training"
    )
    target_modules: Text | Names = Field(
        "all-linear",
        description="Modules to adapt: all-linear (all but the output layer), a regular expression, or names",
    )
    exclude_modules: Text | Names | None = Field(
        None, description="Modules not to adapt, though targeted: a regular expression, or a list of names"
    )
    rank_pattern: dict[Text, Rank] = Field(
        default_factory=dict, description="Other ranks for some modules: name or regular expression to rank"
    )
    alpha_pattern: dict[Text, Alpha] = Field(
        default_factory=dict, description="Other alphas for some modules: name or regular expression to alpha"
    )
    modules_to_save: Names | None = Field(
        None, description="Modules trained whole and saved with the adapter, beside the low-rank ones"
    )
    use_rslora: bool = Field(False, description="Rank-stabilised scale alpha / sqrt(r) (arXiv:2312.03732)")
    use_dora: bool = Field(False, description="Weight-decomposed adapter: a trained magnitude a row (arXiv:2402.09353)")
    init_lora_weights: bool | Literal["gaussian", "pissa", "olora", "loftq", "eva"] | PissaIterations = Field(
        True,
        description="First values: true is Kaiming-uniform A and zero B, false both random; pissa (pissa_niter_N:"
        " fast) and olora are from the weight, loftq from packing's error, eva from activations",
    )
    layers_to_transform: Index | Indices | None = Field(
        None, description="Only adapt these layers, by index from 0; null is all"
    )
    layers_pattern: Text | Names | None = Field(
        None, description="Name of the list of layers that layers_to_transform counts in; null finds it"
    )
    trainable_token_indices: Indices | dict[Text, Indices] | None = Field(
        None,
        description="Token ids whose embedding rows are trained; a mapping names the embedding, or an untied head",
    )
    bias: Literal["none"] = Field("none", description="Which biases are trained")


class TrainConfig(Section):
    """The optimisation."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = Field(1.0, description="Passes over the training rows")
    steps: Count | None = Field(None, description="Optimiser steps, in place of epochs")
    batch_size: Count = Field(16, description="Rows in one optimiser step, however they are split to fit in memory")
    lr: Annotated[float, Field(gt=0, le=1)] | Auto | None = Field(
        None,
        description="Peak learning rate; null follows from the model's width; auto tries half to 1.4 times that, on"
        " at most 15 % of the run's tokens",
    )
    loraplus_lr_ratio: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="Learning rate of B over that of A (LoRA+, arXiv:2402.12354)"
    )
    optimizer: Literal["adamw"] = Field("adamw", description="Optimiser")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate falls to zero after the warm-up; constant stays at the peak"
    )
    warmup: Annotated[float, Field(ge=0, le=10**9)] = Field(
        0.03, description="Warm-up from zero: a share of all steps if below 1, else a number of steps"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Decoupled weight decay")
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(
        (0.9, 0.999), description="Decay of AdamW's running mean and of its running mean of squares, a step"
    )
    eps: Annotated[float, Field(gt=0, le=1)] = Field(1e-8, description="Term that keeps AdamW's division finite")
    max_grad_norm: Annotated[float, Field(gt=0, le=10**6)] | None = Field(
        1.0, description="Largest norm of a step's gradient, clipped beyond it; null never clips"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Seed of the order of rows, the adapter's first values and dropout"
    )
    early_stopping: Count | None = Field(
        None, description="Stop after this many evaluations without a lower held-out loss; null never stops early"
    )


class EvaluateConfig(Section):
    """The comparison of before and after on held-out rows."""

    enabled: bool = Field(True, description="Whether rows are held out and the model is measured before and after")
    held_out: Annotated[float, Field(gt=0, lt=1)] | Text = Field(
        "auto", description="Held-out rows: a share of the data (above 0, below 1), a file of rows, or auto"
    )
    every: Count | None = Field(
        None, description="Steps between evaluations while training; null is only before and after"
    )
    metric: Metric | Annotated[list[Metric], Field(min_length=1)] | None = Field(
        None, description="Task metric on generated answers: a name, your own Python module:function, or a list of them"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=10**6)] = Field(
        128, description="Longest generated answer, in tokens"
    )
    generate_rows: Count = Field(200, description="At most this many held-out rows are answered for the metric")
    forgetting: Text | None = Field(
        "auto", description="Text file whose loss shows what was forgotten; auto is a small bundled one, null is none"
    )
    samples: Annotated[int, Field(ge=0, le=1000)] = Field(5, description="Answers shown side by side in the report")


class SystemConfig(Section):
    """How the result is computed. Nothing here can change it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where to compute; auto takes the fastest"
    )
    tokens_per_microbatch: Count | Auto = Field("auto", description="Tokens in one forward and backward pass")
    memory: Auto | Annotated[str, Field(min_length=1, examples=["24GB"])] = Field(
        "auto", description="Most memory that training may take, such as 24GB or 24GiB; auto is what is free"
    )
    checkpointing: Literal["auto", "none", "full"] | Annotated[dict[Keeping, Count], Field(min_length=1)] = Field(
        "auto",
        description="What the backward pass computes again: none, full (all layers), or how many layers keep only"
        " attention's result, their input, that on the host (offload), or go in pieces (chunks)",
    )
    engine: Literal["auto", "plain"] = Field(
        "auto",
        description="auto fuses the layers and halves of layers that it knows and takes the loss in chunks; plain is"
        " the model's own code",
    )
    threads: Annotated[int, Field(ge=1, le=4096)] | Auto = Field("auto", description="CPU threads of torch")
    checkpoint_every: Count | Auto = Field("auto", description="Steps between checkpoints that a run can resume from")
    keep_checkpoints: Annotated[int, Field(ge=1, le=10_000)] = Field(
        2, description="How many newest checkpoints are kept"
    )
    cache: Text = Field(
        "auto",
        description="Folder that keeps tokenised rows between runs; auto is the user's cache folder, none keeps none",
    )
    trackers: list[Literal["wandb", "trackio", "tensorboard"]] = Field(
        default_factory=list, description="Where metrics go besides the run folder"
    )


def path_as_section(value: object) -> object:
    """Expand the shorthand `model: PATH` or `data: [PATH, ...]` to `{path: ...}`."""
    return value if value is None or isinstance(value, dict | Section) else {"path": value}


class RunConfig(Section):
    """One run, whole. Required: model and data."""

    model: Annotated[ModelConfig, BeforeValidator(path_as_section, json_schema_input_type=ModelConfig | Text)] = Field(
        description="The frozen base model: a path, a hub id, or a section"
    )
    data: Annotated[
        DataConfig, BeforeValidator(path_as_section, json_schema_input_type=DataConfig | Text | Sources)
    ] = Field(description="The training rows: a path, a list of sources, or a section")
    out: Text | None = Field(None, description="Folder of the run; null is runs/<model>-<data>-<time>")
    method: Literal["lora", "full"] = Field("lora", description="Train an adapter, or every weight of the model")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="The adapter")
    train: TrainConfig = Field(default_factory=TrainConfig, description="The optimisation")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="The comparison of before and after")
    system: SystemConfig = Field(default_factory=SystemConfig, description="How it is computed; never changes a result")


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "lora": LoraConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "system": SystemConfig,
}
ALTERNATIVE_NAMES = {"lora.lora_alpha": "lora.alpha", "lora.lora_dropout": "lora.dropout"}


def _leaves() -> dict[str, FieldInfo]:
    """Every setting by its dotted key, in the order of the schema."""
    found: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        if name in SECTIONS:
            found |= {f"{name}.{leaf}": info for leaf, info in SECTIONS[name].model_fields.items()}
        else:
            found[name] = field
    return found


LEAVES = _leaves()


def value_of(config: RunConfig, key: str) -> Any:
    """The value of a dotted key, such as `train.lr`."""
    return attrgetter(key)(config)
