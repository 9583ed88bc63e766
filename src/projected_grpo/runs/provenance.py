"""What run.json says: where, when, with what and of what a run was made."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from projected_grpo import __version__
from projected_grpo.runs.ranks import place_of
from projected_grpo.runs.status import this_process

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
ENVIRONMENT = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PROJECTED_GRPO_CACHE"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
)
"""The only environment variables that are recorded: a key must not end up in a run directory."""

CHECKOUT = Path(__file__).resolve().parents[3]


def git(*args: str) -> str | None:
    """Output of git in the package's own checkout.

    None where there is no git, no checkout (an installed wheel), or only somebody else's repository
    around the package (a virtual environment inside theirs), whose state is not ours to record.
    """
    if shutil.which("git") is None:
        return None

    def ask(*words: str) -> str | None:
        command = ["git", "-C", str(CHECKOUT), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    top = ask("rev-parse", "--show-toplevel")
    return ask(*args) if top is not None and Path(top) == CHECKOUT else None


def provenance(device: torch.device) -> dict[str, Any]:
    """What run.json says of the program, its versions and its machine."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "argv": sys.argv,
        "git_sha": git("rev-parse", "HEAD"),
        "git_diff": git("diff", "HEAD"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "projected_grpo": __version__,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": str(device),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "cpu_count": os.cpu_count(),
        "process": this_process(),
        "processes": place_of(os.environ).size,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }
