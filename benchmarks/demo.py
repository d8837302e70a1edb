"""The demo's fine-tune, several seeds: exact match before and after, and seconds.

python benchmarks/demo.py [--seeds 3] [--out runs/demo-benchmark]
"""

import argparse
import json
from pathlib import Path

from lorica import train
from lorica.demo import fresh_folder, write_demo_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-benchmark"))
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        folder = fresh_folder(arguments.out / f"seed-{seed}")
        result = train(write_demo_run(folder), [f"out={folder}", f"train.seed={seed}"])
        assert result.report is not None
        sides = {side: result.report[side]["metrics"]["exact_match"] for side in ("before", "after")}
        facts = {"seed": seed, "seconds": result.seconds, "tokens_per_second": result.tokens_per_second}
        print(json.dumps(facts | sides | {"loss_interval": result.report["intervals"]["loss"]}), flush=True)


if __name__ == "__main__":
    main()
