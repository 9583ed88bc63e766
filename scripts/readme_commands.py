"""Run what the README shows, one command after another, in a fresh copy of this checkout.

    uv run python scripts/readme_commands.py           # minutes on two cores
    uv run python scripts/readme_commands.py --list    # only say what would be run, and what not

Commands are those of the README's blocks without a language. Each is run as it stands, by bash, in
a copy that holds the files git knows or would add, with an environment of its own (`uv run` makes
it, from uv's cache where it can). Nothing may ask the hub: HF_HUB_OFFLINE is set. Two things differ
from the page, and both are said: a command that `reason_to_skip` names is left out, and `shortened`
gives `train` few steps where the command does not say how many.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from projected_grpo.config import PRESETS
from projected_grpo.runs.commands import train_settings

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = 2
"""Of `train` commands that do not say how many."""
OURS = ("organism", "tiny-random")
"""Models that ship with the package."""


def commands(page: str) -> Iterator[str]:
    """The commands of a page's blocks, continued lines joined, comments left out."""
    for block in BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command:
                yield re.sub(r"\s+", " ", command)


def is_training(command: str) -> bool:
    """Does it train, rather than say what would be trained?"""
    return train_words(command) is not None and "--dry-run" not in command


def train_words(command: str) -> list[str] | None:
    """What follows `train` in a command of ours; None where it is another command."""
    words = shlex.split(command)
    at = words.index("train") + 1 if "train" in words else 0
    return words[at:] if at and at < len(words) and words[at] in PRESETS else None


def reason_to_skip(command: str) -> str:
    """Why a command is not run here; empty: it is run."""
    if command.startswith("pip install"):
        return "uv is there already"
    if "torchrun" in command:
        return "needs several GPUs"
    if "download-model" in command:
        return "needs the network"
    if is_training(command):
        cfg = train_settings(train_words(command) or [])
        if cfg.model not in OURS:
            return f"needs the network, and a GPU to be quick ({cfg.model})"
    return ""


def shortened(command: str) -> str:
    """The command with few steps, where it trains and does not say how many."""
    asks = is_training(command) and "--steps" not in command
    return f"{command} --steps={STEPS}" if asks else command


def copy_checkout(target: Path) -> None:
    """Copy the files that git knows or would add, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # git knows files that are deleted, too
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run(command: str, folder: Path) -> tuple[int, float, str]:
    """Run a command in a folder: exit code, seconds, and what it said."""
    variables = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    begun = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, env=variables | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    return done.returncode, time.perf_counter() - begun, done.stdout


def main() -> int:
    """Run all commands of the README; the exit code is 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    listing = parser.parse_args().list
    table: list[tuple[str, str, str]] = []
    failed = False
    with TemporaryDirectory(prefix="readme_") as name:
        if not listing:
            copy_checkout(Path(name))
        for command in commands((ROOT / "README.md").read_text(encoding="utf-8")):
            if reason := reason_to_skip(command):
                table.append((command, "skipped", reason))
            elif listing:
                table.append((shortened(command), "would be run", ""))
            else:
                print(f"$ {shortened(command)}", flush=True)
                code, seconds, said = run(shortened(command), Path(name))
                print("\n".join(said.splitlines()[-6:]), flush=True)
                failed |= code != 0
                result = "good" if code == 0 else f"exit code {code}"
                table.append((shortened(command), result, f"{seconds:.0f} s"))
                if code:
                    print(said, file=sys.stderr)
    print(f"\n{tabulate(table, headers=['command', 'result', ''])}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
