"""Makes what the documentation shows from the code itself: the table of settings, and the picture of a report.

python docs/make.py            writes docs/configuration.md and the table of gates in docs/data.md
python docs/make.py runs/demo  also draws that run's report as docs/report.svg
"""

import json
import sys
from io import StringIO
from pathlib import Path

from lorica.config import LEAVES
from lorica.config.combinations import FEATURES, REFUSED
from lorica.config.describe import allowed
from lorica.data.gates import GATES

DOCS = Path(__file__).parent
HEAD = """# Settings

Made by `python docs/make.py`. A configuration is a YAML or JSON file with these keys; on the command line each can be
given as `section.key=value`. Two are required: `model` and `data`. `lorica config show CONFIG` prints what a run would
use and where each value came from; `lorica config schema` prints a JSON Schema that editors use to complete and check
the file.

Everything above `system` says what is computed. `system` says how, and never changes the result.
"""


def configuration() -> str:
    """The page of all settings, a table a section, and the table of what does not go together."""
    lines = [HEAD]
    section = None
    for key, field in LEAVES.items():
        here, _, name = key.rpartition(".")
        if here != section:
            section = here
            lines += [f"\n## {here or 'run'}\n", "| key | default | allowed | meaning |", "|---|---|---|---|"]
        default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
        lines.append(f"| `{name}` | {default} | {cell(allowed(key))} | {cell(field.description or '')} |")
    lines += ["\n## What cannot be combined\n", "| one | other | why, and what to do |", "|---|---|---|"]
    for refusal in REFUSED:
        first, second = (cell(FEATURES[name].label) for name in (refusal.first, refusal.second))
        lines.append(f"| {first} | {second} | {cell(refusal.why)} |")
    return "\n".join(lines) + "\n"


def gates() -> str:
    """The table of gates, for the page on data."""
    lines = ["| gate | default | finds |", "|---|---|---|"]
    for gate in GATES:
        above = "" if gate.ruins_above is None else f" (error above {gate.ruins_above:.0%} of the rows)"
        lines.append(f"| `{gate.key}` | {gate.severity}{', fixed' * gate.fixed} | {cell(gate.meaning)}{above} |")
    return "\n".join(lines) + "\n"


def with_gates(page: str) -> str:
    """The page with its table of gates made anew."""
    start, end = "<!-- gates -->\n", "<!-- end of gates -->\n"
    return page[: page.index(start)] + start + gates() + page[page.index(end) :]


def shown(value: object) -> str:
    """As a file would hold it, words without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def draw_report(run: Path) -> None:
    from rich.console import Console

    from lorica.evaluation.terminal import print_report
    from lorica.run.reopen import read_report

    console = Console(record=True, width=92, file=StringIO())
    print_report(read_report(run), console)
    console.save_svg(str(DOCS / "report.svg"), title=f"lorica report {run}")


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")
    page = DOCS / "data.md"
    page.write_text(with_gates(page.read_text(encoding="utf-8")), encoding="utf-8")
    if len(sys.argv) > 1:
        draw_report(Path(sys.argv[1]))
