"""What the gates find in real data sets, as a table: python benchmarks/real_data.py DATA_FOLDER TOKENIZER_FOLDER

Fields that a format does not read are left out, since every set has some.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_sets import DATA_SETS
from transformers import AutoTokenizer

from lorica.data.read import survey

LENGTH = 32_768


def main() -> None:
    folder, tokenizer = Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2])
    print("| set | rows | read as | tokens | trained | found (rows) |\n|---|--:|---|--:|--:|---|")
    for data in DATA_SETS:
        config = data.config(folder, max_length=LENGTH)
        read = survey(config, tokenizer, LENGTH, [tokenizer.eos_token_id], vocabulary=len(tokenizer))
        tokens, supervised = int(read.examples.tokens.sum()), int(read.examples.supervised.sum())
        told = [
            f"{'**' * (it.severity == 'error')}{it.name}{'**' * (it.severity == 'error')} {it.count or ''}".strip()
            for it in read.findings
            if not it.name.startswith("field ")
        ]
        share = supervised / max(1, tokens)
        print(
            f"| {data.name} | {read.rows:,} | {read.format} | {tokens:,} | {share:.1%} | {', '.join(told)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
