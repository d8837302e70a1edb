"""Training speed on a machine that has other work: OpenMP threads that spin while idle against threads that sleep.

    python benchmarks/busy_machine.py [--repeats 10] [--others N]

Starts N processes that only count (as many as there are cores), then trains a few microbatches of the demo base in a
process for each policy. The table gives tokens a second: the median, lowest and highest round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

ROUNDS = """
import json, random, sys, time
from lorica.data import Example, microbatches
from lorica.demo.settings import BASE
from lorica.lora import attach
from lorica.models import load
from lorica.training.loss import token_losses

base = load(BASE, dtype="fp32")
attach(base)
draw = random.Random(0)
lengths = [draw.randint(50, 90) for _ in range(16)]
rows = [Example("", [draw.randrange(3000) for _ in range(n)], [0.0] + [1.0] * (n - 1)) for n in lengths]
batches, tokens, speeds = microbatches(rows, 256), sum(lengths), []
for _ in range(int(sys.argv[1]) + 1):
    started = time.perf_counter()
    for batch in batches:
        losses, _ = token_losses(base.model, batch)
        (losses * batch.weights).sum().backward()
    speeds.append(tokens / (time.perf_counter() - started))
print(json.dumps(speeds[1:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--others", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.others)]
    try:
        for policy in ("ACTIVE", "PASSIVE", None):
            environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
            if policy is not None:
                environment["OMP_WAIT_POLICY"] = policy
            command = [sys.executable, "-c", ROUNDS, str(arguments.repeats)]
            printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            speeds = json.loads(printed.splitlines()[-1])
            told = {"policy": policy or "not set", "others": arguments.others}
            told["tokens_per_second"] = round(statistics.median(speeds))
            print(json.dumps(told | {"lowest": round(min(speeds)), "highest": round(max(speeds))}), flush=True)
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
