"""What the README tells a reader to type works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lorica.demo import task

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make; print(make.configuration(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://arxiv.org/") or (ROOT / target).is_file(), target


@pytest.mark.slow
def test_commands_and_python(tmp_path: Path) -> None:
    rows, _ = task.write_demo_data(tmp_path / "task", 60, 8, seed=3)
    (tmp_path / "rows.jsonl").write_text(rows.read_text())
    (tmp_path / "prompt.txt").write_text("Hello. My kettle is broken. Can I have my money back? Yours, Mary\nTicket:")
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("lorica")]
    assert len(commands) >= 8
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout or command.startswith("lorica demo")
    [program] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()
