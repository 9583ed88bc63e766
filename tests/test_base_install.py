"""Without any extra the package is complete."""

import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = (
    *("gguf", "matplotlib", "pygments", "tensorboard", "trackio", "wandb"),
    *("submitit", "trl", "accelerate", "playwright"),
)
SCRIPT = """
import importlib.util, sys
from importlib.machinery import PathFinder

out, *optional = sys.argv[1:]

class Without(PathFinder):
    # What it hides is not found, as if it were not installed, rather than broken.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in optional
        return None if hidden else super().find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, context):
        return () if context.name in optional else super().find_distributions(context)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
assert not any(map(importlib.util.find_spec, optional))

from projected_grpo import cli

def said(command, *words):
    try:
        command(words)
    except SystemExit as ended:
        return ended.code

assert said(cli.train_main, "smoke", "--steps=1", "--arm=projected", f"--out-dir={out}") == 0
sweep = ("run", "smoke", "--arms", "vanilla", "projected", "--seeds", "1", f"--out-dir={out}")
assert said(cli.sweep_main, *sweep, f"--extract={out}/v", "--dry-run") == 0
# what needs an extra says which
assert said(cli.report_main, out) == 1
"""


@pytest.mark.slow
def test_a_base_install_trains_and_plans_without_any_extra(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *OPTIONAL], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.iterdir()
    assert (run / "steps.jsonl").read_text().count("\n") == 1
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert "install projected_grpo[report]" in done.stderr
    assert "extract-vhack" in done.stderr and "Traceback" not in done.stderr
