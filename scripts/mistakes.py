"""Mistakes that people make at the command line, each with what must be said: a table of verdicts.

    uv run python scripts/mistakes.py              # all
    uv run python scripts/mistakes.py --quick      # those that need no torch: seconds
    uv run python scripts/mistakes.py --only resume

Each row is a command, its exit code, and words that its output must hold. A row is *good* where
both are so, nothing is a traceback, and a refusal is one sentence. Rows run in this process, which
has imported what they need; those marked `process` are a process of their own.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate

from projected_grpo.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One row: {tmp} in a command is a folder with the files of `make_files`, {run} a finished
    run in it."""

    command: str
    code: int
    words: tuple[str, ...]
    torch: bool = False
    """Whether the command comes as far as importing torch."""
    alone: bool = False
    """Whether no other program is on the PATH."""
    disk: str = ""
    """Size of a tmpfs at {tmp}/disk; without the right to mount one the row is left out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a row."""

    code: int
    said: str
    seconds: float

    def faults(self, row: Mistake) -> list[str]:
        """What is poor about it; empty where it is good."""
        found = [f"lacks {word!r}" for word in row.words if word not in self.said]
        if self.code != row.code:
            found.append(f"exit code {self.code}, not {row.code}")
        if "Traceback" in self.said:
            found.append("traceback")
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        if row.code in (1, 2) and len(errors) != 1:
            found.append(f"{len(errors)} sentences of error")
        return found


def refused(command: str, *words: str, code: int = 2, **more: Any) -> Mistake:
    """A row that is refused."""
    return Mistake(command, code, words, **more)


SMALL = "--problems=katas:validation --no-labels --steps=2 --out-dir={tmp}/runs"
FULL = "--problems=katas:validation --no-labels --steps=40 --out-dir={tmp}/disk"
IDLE = "has no effect"

LINES = [
    # --- how a line is written
    refused("train", "name a preset"),
    refused("train fats", "did you mean fast?"),
    refused("train smoke projected", "did you mean --arm=projected?"),
    refused("train --arm=vanilla smoke", "the preset comes first"),
    refused("train smoke --arm=projcted", "did you mean projected?"),
    refused("train smoke --arm=ppo", "there is no arm ppo", "vanilla"),
    refused("train smoke --learning-rate=1e-3", "did you mean --lr?"),
    refused("train smoke --stepz=3", "did you mean --steps?"),
    refused("train smoke --num-generations=3", "did you mean --group?"),
    refused("train smoke --lr=abc", "--lr is a number", "train smoke --help"),
    refused("train smoke --lr", "--lr takes 1"),
    refused("train smoke --steps=3.5", "--steps is a whole number", "train smoke --help"),
    refused("train smoke --gate=foo", "--gate cannot be 'foo'", "one_sided"),
    refused("train smoke --device=gpu", "--device cannot be 'gpu'", "cuda"),
    refused("train smoke --adam-betas 0.5", "--adam-betas takes 2"),
    refused("train smoke --labels=3", "no place for 3"),
    refused("train smoke --seeds a", "--seeds cannot be read"),
    # --- values
    refused("train smoke --lr=nan", "above 0, not nan"),
    refused("train smoke --lr=-1", "above 0"),
    Mistake("train smoke --lr=1e6 --dry-run", 0, ("times the preset's",)),
    refused("train smoke --steps=0", "at least 1, not 0"),
    refused("train smoke --steps=-1", "at least 1, not -1"),
    refused("train smoke --group=1", "a group of 1 has no advantage"),
    refused("train smoke --mix-ratio=1.5", "[0, 1], not 1.5"),
    refused("train smoke --mix-ratio=0.1", "rounds to no teacher row"),
    refused("train smoke --mix-ratio=1", "leaves none of the 4 rows"),
    refused("train smoke --seeds 1 1", "names one twice"),
    refused("train smoke --arms vanilla vanilla", "names one twice"),
    refused("train smoke --temperature=0", "above 0"),
    refused("train smoke --top-p=2", "(0, 1], not 2"),
    refused("train smoke --warmup-frac=1", "[0, 1)"),
    refused("train smoke --arm=projected --start-arm-at=9", "after the last of 4 steps"),
    refused("train smoke --arm=projected --trust=2", "is a share"),
    # --- problems
    refused("train smoke --problems=missing", "no file of problems at missing", code=1),
    refused("train smoke --problems=kata", "did you mean katas?", code=1),
    refused("train smoke --problems=katas:trian", "katas:validation", code=1),
    refused("train smoke --problems={tmp}", "is a folder", code=1),
    refused("train smoke --problems={tmp}/empty.jsonl", "holds no records", code=1, torch=True),
    refused("train smoke --problems={tmp}/broken.jsonl", "not valid JSON", code=1, torch=True),
    refused("train smoke --problems={tmp}/table.csv", ".jsonl", code=1, torch=True),
    refused("train smoke --problems={tmp}/other.jsonl", "unknown schema", code=1, torch=True),
    refused(f"train smoke {SMALL} --difficulty impossible", "has difficulty", torch=True),
    refused(f"train smoke {SMALL} --max-prompt=5", "--max-prompt=", "or more", torch=True),
    refused(f"train smoke {SMALL} --prompts-per-step=5000", "--prompts-per-step=72", torch=True),
    refused("train smoke --mode=sentinell", "did you mean sentinel?", code=1),
    refused("train smoke --mode=", "no loophole mode", code=1),
    refused("train smoke --teacher-pool=/nowhere", "/nowhere holds no prompt_"),
    # --- models
    refused("train smoke --model=README.md", "is a file, but no .gguf", code=1),
    refused("train smoke --model={tmp}/folder", "is empty", code=1),
    refused("train smoke --model=./nowhere", "there is no model at", code=1),
    refused("train smoke --model=organsm", "did you mean organism?", code=1),
    refused("train smoke --model=no/such-model", "HF_HUB_OFFLINE is set", code=1, torch=True),
    refused("train smoke --device=cuda", "no CUDA device", code=1, torch=True),
    # --- directions and pairs
    refused("train smoke --v-hack=nowhere", "extract-vhack", code=1),
    refused("train smoke --v-hack=README.md", "not a file of hack directions", code=1),
    refused("train mini --v-hack={run}/v_hack.safetensors", "model tiny-random", code=1),
    refused(
        "train smoke --v-hack={run}/v_hack.safetensors --temperature=1", "temperature", code=1
    ),
    refused(
        "train smoke --v-hack={run}/v_hack.safetensors --v-axes=mean --v-hack-k=1",
        "v_axes svd, the run has mean", "--v-axes=svd", code=1,
    ),
    refused("train smoke --v-hack-k=1000", "more axes than the 72 pairs"),
    refused(
        f"train smoke {SMALL} --v-hack={{run}}/v_hack.safetensors --v-hack-k=1000",
        "more axes than the basis has", torch=True,
    ),
    refused("train smoke --pairs=builtn", "did you mean builtin?", code=1),
    refused("train smoke --pairs={tmp}/table.csv", "not valid TOML", code=1),
    refused("train smoke --pair-flavours print", "this set calls it print_only", code=1),
    refused("train smoke --pair-flavours pirnt_only", "did you mean print_only?", code=1),
    refused("train smoke --pair-modes sentinell", "did you mean sentinel?", code=1),
    refused("train smoke --arm=placebo_v --pairs=framing", "has no placebo pairs"),
    refused("train smoke --pairs=own --pair-flavours pirnt", "did you mean print?", code=1),
    refused("train smoke --pairs=own --v-hack-k=73", "more axes than the 72 pairs"),
    refused("extract-vhack --pairs=own --out={tmp}/v", "cannot be had beforehand", code=1),
    refused(
        f"train smoke {SMALL} --pairs=own --pair-modes sentinel --max-new=16",
        "the 0 pairs give", "--max-new lets more of them end", torch=True,
    ),
    refused(
        f"train smoke {SMALL} --pairs=own --pair-modes modify_tests --max-prompt=250",
        "under the hints of --pair-modes modify_tests", "--max-prompt=", torch=True,
    ),
    # --- settings without effect
    refused("train smoke --arm=vanilla --arms vanilla projected", "--arm", IDLE, "beside --arms"),
    refused("train smoke --seed=1 --seeds 1 2", "--seed", IDLE, "beside --seeds"),
    refused("train smoke --gate=reverse", IDLE, "projected"),
    refused("train smoke --overshoot=3", IDLE, "projected"),
    refused("train smoke --preserve-magnitude", IDLE, "projected"),
    refused("train smoke --arm=projected --overshoot=0 --gate=no_gate", IDLE, "--overshoot=0"),
    refused("train smoke --project-on=update", IDLE, "projected"),
    refused("train smoke --trust=1", IDLE, "projected"),
    refused("train smoke --running-k=2", IDLE, "projected"),
    refused("train smoke --score-weight=1", IDLE, "projected"),
    refused("train smoke --v-hack-k-end=9", IDLE, "projected"),
    refused("train smoke --start-arm-at=2", IDLE),
    refused("train smoke --lora-rank=4", IDLE, "without --adapter=lora"),
    refused("train smoke --lora-alpha=4", IDLE, "without --adapter=lora"),
    refused("train smoke --adapter=lora --svd-cache={tmp}", IDLE, "--adapter=antipasto"),
    refused("train smoke --v-hack={run}/v_hack.safetensors --pairs=framing", "--pairs", IDLE),
    refused("train smoke --mix-ratio=0 --teacher-pool=missing", IDLE, "without --mix-ratio"),
    refused("train smoke --mix-ratio=0 --teacher-steps=2", "while mix_ratio is 0"),
    refused("train smoke --screen-fpr=0.02", IDLE, "without --screen"),
    refused("train smoke --arm=projected --screen-at=policy", "while screen is none"),
    refused("train smoke --arm=projected --running-decay=0.5", IDLE, "without --running-k"),
    refused("train smoke --arm=projected --known-modes run_tests", IDLE, "without --running-k"),
    refused("train smoke --gt-penalty=1", IDLE, "gt_penalty"),
    refused("train smoke --adv-mod-alpha=1", IDLE, "adv_mod"),
    refused("train smoke --inoculation=x", IDLE, "inoculation"),
    refused("train smoke --clip-eps=0.1", IDLE),
    refused("train smoke --measure=none --v-hack-k=3", IDLE, "--measure=v"),
    refused("train smoke --model-revision=main", IDLE, "hub"),
    # --- contradictions
    refused("train smoke --measure=none --arm=projected", "acts on directions"),
    refused("train smoke --v-hack=x --pair-flavours print_only", "already made of some pairs"),
    refused("train smoke --arm=routed --adapter=lora", "does not have"),
    refused("train smoke --arm=norm_matched --trust=1", "has no meaning in arm norm_matched"),
    refused("train smoke --screen=row --screen-fpr=0.1", "arm vanilla removes nothing"),
    refused(
        "train smoke --arms projected random_v --screen=row --screen-yoked",
        "one run beside it in the pack", "scripts/experiment",
    ),
    # --- places
    refused("train smoke --out-dir=/proc/x", "/proc is not writable", code=1),
    refused("train smoke --out-dir=README.md", "README.md is a file", code=1),
    refused("train smoke --svd-cache=README.md", "README.md is a file", code=1),
    refused("train smoke --resume=nowhere", "no such folder", code=1),
    refused("train smoke --resume={tmp}/folder", "no config.json", code=1),
    refused("train mini --resume={run}", "is a smoke run", "train smoke"),
    Mistake("train smoke --resume={run}", 0, ("is finished", "nothing is left to do")),
    refused("train smoke --resume={tmp}/stopped --lr=1", "cannot be resumed with 1", torch=True),
    Mistake("train smoke --resume={tmp}/cut", 0, ("lacks rows", "step 1 of 2"), torch=True),
    refused("train smoke --resume={tmp}/bad_record", "run.json is damaged", code=1),
    refused("train smoke --resume={tmp}/bad_settings", "config.json is damaged", code=1),
    refused(f"train smoke {FULL}", "cannot", "No space left", code=1, torch=True, disk="60k"),
    refused(
        f"train smoke {FULL} --arm=projected --checkpoint-every=1", "cannot write to",
        "No space left", "train smoke --resume=", code=1, torch=True, disk="360k",
    ),
    # --- extract-vhack
    refused("extract-vhack", "needs --out", "extract-vhack --help"),
    refused("extract-vhack --out={tmp}/empty.jsonl", "--overwrite", code=1),
    refused("extract-vhack --out={tmp}", "is a folder", code=1),
    refused("extract-vhack --out=/proc/x.safetensors", "cannot write to", code=1),
    refused("extract-vhack --out={tmp}/v --mechanisms=print", "did you mean --pair-flavours?"),
    refused("extract-vhack --out={tmp}/v --pair-flavours print", "calls it print_only", code=1),
    refused("extract-vhack --out={tmp}/v --model=./nowhere", "no model at", code=1),
    refused("extract-vhack --out={tmp}/v --lora-rank=4", IDLE, "without --adapter=lora"),
    refused("extract-vhack --out={tmp}/v --temperature=0", "above 0", torch=True),
    # --- probe-distill
    refused("probe-distill", "needs --source and --out", "probe-distill --help"),
    refused("probe-distill --source=nowhere --out={tmp}/p", "take answers from", code=1),
    refused("probe-distill --source=template --out={tmp}/p", "did you mean templates?", code=1),
    refused("probe-distill --source=templates --out={tmp}/folder", "name another folder"),
    refused("probe-distill --source=templates --out={tmp}/p --rows=0", "at least 1", torch=True),
    refused("probe-distill --source=templates --out={tmp}/p --device=cpu", IDLE, "templates"),
    refused("probe-distill --source=templates --out={tmp}/p --mode=x", "no loophole", code=1),
    # --- grade
    refused("grade", "needs --problems and --completions and --out"),
    refused("grade {graded} --out={tmp}/empty.jsonl", "--overwrite", code=1),
    refused("grade {graded} --out={tmp}/done.jsonl --overwrite", "is the file of", code=1),
    refused("grade {graded} --out={tmp}/folder", "is not a file", code=1),
    refused("grade {graded} --out={tmp}/o --mode=x", "no loophole mode", code=1),
    refused("grade {graded} --out={tmp}/o --workers=0", "at least 1", code=1),
    refused("grade {graded} --out={tmp}/o --sandbox=none", "namespaces"),
    refused("grade {graded} --out={tmp}/o --problem=x", "did you mean --problems?"),
    refused("grade --problems=missing --completions={tmp}/done.jsonl --out={tmp}/o", "missing",
            code=1),
    refused("grade --problems=katas --completions=missing --out={tmp}/o", "no such file", code=1),
    refused("grade --problems=katas --completions={tmp}/ids.jsonl --out={tmp}/o", "has the id 1",
            code=1),
    # --- sweep
    refused("sweep", "say what to do", "sweep run"),
    refused("sweep strat", "there is no sweep strat"),
    refused("sweep run smoke --arms vanilla", "needs --seeds", "sweep run --help"),
    refused("sweep run smoke --arm=vanilla --seeds 1", "did you mean --arms?"),
    refused("sweep run smoke --arms vanilla --seeds 1 1", "--seeds names 1 twice"),
    refused("sweep run smoke --arms vanila --seeds 1", "did you mean vanilla?"),
    refused("sweep run fats --arms vanilla --seeds 1", "cannot be 'fats'", "fast"),
    refused("sweep run smoke --arms vanilla --seeds 1 --lr=1", "put it after --"),
    refused("sweep run smoke --arms vanilla --seeds 1 -- --gate=reverse", IDLE),
    refused("sweep run smoke --arms vanilla --seeds 1 -- --seed=2", "by --seeds"),
    refused(
        "sweep run smoke --arms projected random_v --seeds 1 -- --screen=row --screen-yoked",
        "one run beside it in the pack",
    ),
    refused("sweep run smoke --arms vanilla --seeds 1 --slurm.minutes=0", "--slurm: grace_s"),
    refused("sweep run smoke --arms vanilla --seeds 1 --launcher=pueue", "pueue is not", code=1,
            alone=True),
    refused("sweep run smoke --arms vanilla --seeds 1 --launcher=slurm", "squeue is not", code=1,
            alone=True),
    refused("sweep status --out-dir=nowhere", "there is no folder nowhere", code=1),
    Mistake("sweep status --out-dir={tmp}", 0, ("bad_record is left out", "finished")),
    # --- download-model, report
    refused("download-model", "needs", "download-model --help"),
    refused("download-model no/such-model", "HF_HUB_OFFLINE is set", "name is right", code=1),
    refused("report nowhere", "nowhere", code=1),
    refused("report {run} --outt=x", "did you mean --out?"),
    refused("report {run} --out=README.md", "README.md", code=1),
    # --- what people ask
    *(Mistake(f"{name} --version", 0, ("projected_grpo ",)) for name in COMMANDS),
    Mistake("train --help", 0, ("fast", "mini")),
    Mistake("train fast --help", 0, ("--arm", "--help-all", "--dry-run")),
    Mistake("train fast --help-all", 0, ("--known-modes",)),
    Mistake("train --list-arms", 0, ("projected", "control of")),
    Mistake("train --list-modes", 0, ("run_tests", "flavours", "print_only")),
    Mistake("train mini --dry-run --lr=1", 0, ("preset: 0.03", "memory", "time", "files")),
]  # fmt: skip
"""Every row."""


def make_files(tmp: Path, quick: bool) -> dict[str, str]:
    """Make what commands refer to; what stands for {names} in them. A real run is made only where
    rows need one, else its files come from tests/data."""
    (tmp / "folder").mkdir()
    (tmp / "empty.jsonl").touch()
    (tmp / "broken.jsonl").write_text('{"id": \n')
    (tmp / "table.csv").write_text("id,prompt\n1,x\n")
    (tmp / "other.jsonl").write_text('{"question": "x"}\n')
    (tmp / "done.jsonl").write_text('{"problem_id": 1, "completion": "x"}\n')
    (tmp / "ids.jsonl").write_text('{"problem_id": 1, "completion": "x"}\n')
    if quick:
        run = tmp / "finished"
        shutil.copytree(ROOT / "tests" / "data" / "f542cc8" / "finished", run)
    else:
        smoke = f"smoke {SMALL} --arm=projected --checkpoint-every=1".format(tmp=tmp)
        made = run_here("train", shlex.split(smoke))
        assert made.code == 0, made.said
        (made_run,) = (tmp / "runs").iterdir()
        run = made_run.rename(tmp / "finished")
    for name in ("stopped", "cut", "bad_record", "bad_settings"):
        shutil.copytree(run, tmp / name)
    record = json.loads((run / "run.json").read_text())
    (tmp / "stopped" / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    rows = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (tmp / "cut" / "steps.jsonl").write_text(rows[0])
    (tmp / "bad_record" / "run.json").write_text("{")
    (tmp / "bad_settings" / "config.json").write_text("{")
    graded = f"--problems=katas --completions={tmp / 'done.jsonl'}"
    return {"tmp": str(tmp), "run": str(run), "graded": graded}


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """These variables, while the context lasts."""
    had = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(had)


def run_here(name: str, words: list[str]) -> Outcome:
    """A console command in this process."""
    said = io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            COMMANDS[name](words)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, said.getvalue(), time.perf_counter() - started)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A tmpfs of that size while the context lasts; yields whether it could be mounted."""
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def verdicts(rows: list[Mistake], quick: bool) -> list[tuple[Mistake, Outcome, list[str]]]:
    """Run every row, with what is poor about it."""
    found: list[tuple[Mistake, Outcome, list[str]]] = []
    with TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        tmp = Path(folder)
        names = make_files(tmp, quick)
        for row in rows:
            name, *words = shlex.split(row.command.format(**names))
            with contextlib.ExitStack() as stack:
                if row.disk and not stack.enter_context(small_disk(tmp / "disk", row.disk)):
                    print(f"left out, as no tmpfs can be mounted: {row.command}")
                    continue
                stack.enter_context(environment({"PATH": "/nowhere"} if row.alone else {}))
                outcome = run_here(name, words)
            found.append((row, outcome, outcome.faults(row)))
    return found


def main() -> None:
    """Print the table; exit code 1 where a row is poor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only rows that need no torch")
    parser.add_argument("--only", default="", help="only rows whose command holds this text")
    parser.add_argument("--said", action="store_true", help="show what every command said")
    asked = parser.parse_args()
    rows = [row for row in LINES if asked.only in row.command and not (asked.quick and row.torch)]
    with environment({"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}):
        found = verdicts(rows, asked.quick)
    table = []
    for row, outcome, faults in found:
        said = outcome.said.strip().splitlines() or [""]
        shown = next((line for line in said if line.startswith("error: ")), said[-1])
        verdict = "; ".join(faults) or "good"
        table.append((row.command, f"{outcome.seconds:.1f}", outcome.code, verdict, shown[:150]))
        if asked.said and faults:
            print(f"== {row.command}\n{outcome.said}")
    print(tabulate(table, ("command", "s", "exit", "verdict", "said")))
    poor = sum(bool(faults) for *_, faults in found)
    seconds = sum(outcome.seconds for _, outcome, _ in found)
    print(f"\n{len(found)} mistakes, {poor} poor, {seconds:.0f} s")
    sys.exit(bool(poor))


if __name__ == "__main__":
    main()
