"""The keys that others may rely on in what `--json` prints."""

TRAIN_KEYS = {"run", "steps", "final_loss", "seconds", "tokens_per_second", "peak_memory_bytes", "report"}
REPORT_KEYS = {"before", "after", "intervals", "forgetting", "trainable_parameters", "plan", "measured", "samples"}
GENERATE_KEYS = {"prompt", "completion", "token_ids"}
