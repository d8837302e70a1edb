"""PEFT and TRL's SFTTrainer on the task: as a user gets them by default, tuned for this machine, or all weights.

    python benchmarks/peers/trl_sft.py default|tuned|full TASK_JSON

What is set in every variant is the task itself (rank, learning rate, AdamW without decay, rows in order) and that
nothing is logged to anyone. `tuned` adds what a careful user would: one padding-free row in place of padded ones, no
recomputation, fp32 in place of autocast; TRL's chunked loss is its default.
"""

import sys
import tempfile
import time
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils import load_peft_weights
from task import Task, differences, documents, report
from transformers import AutoTokenizer, TrainerCallback

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "tuned": {"gradient_checkpointing": False, "bf16": False, "padding_free": True, "max_length": None},
    "full": {"gradient_checkpointing": False, "bf16": False, "padding_free": True, "max_length": None},
}


class Stopwatch(TrainerCallback):
    """The clock and the process's own time when training begins and at the end of every step."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.cpu_at: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())
        self.cpu_at.append(time.process_time())

    on_train_begin = on_step_end


def main() -> None:
    variant, task = sys.argv[1], Task.from_json(sys.argv[2])
    torch.set_num_threads(task.threads)
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=task.batch_size,
            max_steps=task.steps,
            learning_rate=task.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **VARIANTS[variant],
        )
        adapter = LoraConfig(
            r=task.rank, lora_alpha=task.alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
        )
        trainer = trl.SFTTrainer(
            model=str(task.model),
            args=arguments,
            train_dataset=Dataset.from_list(documents(task)),
            processing_class=AutoTokenizer.from_pretrained(task.model),
            peft_config=None if variant == "full" else adapter,
            callbacks=[stopwatch],
        )
        if variant != "full":
            set_peft_model_state_dict(trainer.model, load_peft_weights(str(task.adapter), device="cpu"))
        trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    report(losses, differences(stopwatch.at), differences(stopwatch.cpu_at), versions)


if __name__ == "__main__":
    main()
