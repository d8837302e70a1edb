"""What a command gave, and settings that make a run small."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SMALL = ["train.batch_size=4", "train.lr=0.01", "lora.r=3", "lora.alpha=5", "system.threads=1"]
SMALL += ["evaluate.forgetting=null", "evaluate.max_new_tokens=3", "evaluate.held_out=0.2"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; fails if there is anything else."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Cli = Callable[..., Outcome]

# What others may rely on in what `--json` prints.
TRAIN_KEYS = {"run", "steps", "final_loss", "seconds", "tokens_per_second", "peak_memory_bytes", "report"}
REPORT_KEYS = {"before", "after", "intervals", "forgetting", "trainable_parameters", "plan", "measured", "samples"}
GENERATE_KEYS = {"prompt", "completion", "token_ids"}
EXPORT_KEYS = {"path", "files", "proof", "ok"}
PROOF_KEYS = {"max_logit_difference", "kl", "greedy_agreement", "delta_survival", "metric_change"}
