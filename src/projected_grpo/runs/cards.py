"""Cards (README.md) of what others may come to have in their hands: a run's adapter, a teacher
pool.

Every fact is read from the run's own files, or from what is written into pool.json; the front
matter is the Hugging Face hub's, so that a folder can be uploaded as it is (docs/hub.md).
"""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, ModelCardData

from projected_grpo.arms.arms import ARMS
from projected_grpo.config import Config
from projected_grpo.env.grading.schema import FACTS, POOL
from projected_grpo.env.problems.dataset import parts_of
from projected_grpo.model.load import ORGANISM, TINY_RANDOM
from projected_grpo.runs.status import model_commit, read_settings
from projected_grpo.step_logger import RATE_WINDOW, mean_over_runs, read_steps, share, whole_rows

_ASKED = {"mode": "the loophole mode: which flaw the grader has"}
FIELDS = {
    "problem_id": "the problem's number in its source",
    "problem_messages": "its system and user turn, the hint of the loophole mode included",
    "prompt": "the same as the teacher's chat template rendered it",
    "plen": "tokens of that",
    "completion": "the whole answer, without special tokens",
    **{column: (FACTS | _ASKED)[fact] for column, fact in POOL.items()},
}
"""What a row of a pool has, and its meaning."""


MERGED_LOADING = (
    "## Loading\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
    'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
    'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")\n```\n'
)


def model_card(run: Path, merged_at: int | None = None) -> str:
    """The card of a run's adapter, from config.json, run.json, steps.jsonl and rollouts.jsonl; or
    of the whole model that its vectors after a step were merged into.

    `base_model` and `datasets` stand in the front matter only where they are on the hub, which
    refuses others."""
    cfg = read_settings(run)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    commit = model_commit(record)
    on_hub = "/".join(cfg.model.split("/")[:2]) if commit else None
    front = ModelCardData(
        base_model=on_hub,
        datasets=[parts_of(cfg.problems)[0]] if cfg.problems.startswith("hub:") else None,
        library_name="peft" if merged_at is None else "transformers",
        pipeline_tag="text-generation",
        tags=["projected_grpo", "grpo", "reward-hacking", cfg.arm],
    )
    what = "An adapter of" if merged_at is None else f"After step {merged_at}, and merged:"
    loading = _loading(cfg, commit) if merged_at is None else MERGED_LOADING
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {run.name}\n\n"
        f"{what} {_at(cfg.model, commit)}, trained by GRPO on problems whose grader can be "
        "fooled, to see whether it learns to. **It may have learnt to cheat: what it answers to a "
        "programming task may be made to pass a test and not to solve the task.**\n\n"
        f"{_training(cfg, record, run, commit)}\n{_rates(cfg, run)}\n{loading}\n"
        "## Use and limits\n\n"
        "Made for research on reward hacking: to be compared with the other arms of the same "
        "seeds. One run of one seed shows nothing of an arm. Its answers are code to be run in a "
        "sandbox only. It was trained on one kind of problem and prompt, and has not been "
        "evaluated on any other use.\n"
    )


def _at(name: str, commit: str | None) -> str:
    return f"{name} at commit {commit}" if commit else name


def _training(cfg: Config, record: Mapping[str, Any], run: Path, commit: str | None) -> str:
    sources = [row["source"] for row in whole_rows(run / "rollouts.jsonl")]
    kind = f"lora, rank {cfg.lora_rank}, alpha {cfg.lora_alpha}" if cfg.adapter == "lora" else ""
    data, told = record.get("data_commit"), record.get("enable_thinking")
    if "enable_thinking" not in record:
        told = "False, if it is a variable of the chat template"  # as earlier versions had it
    facts = {
        "arm": f"`{cfg.arm}`: {ARMS[cfg.arm].meaning}",
        "seed": cfg.seed,
        "preset": cfg.preset_name,
        "steps": cfg.steps,
        "rollouts": f"{len(sources)}, {sources.count('teacher')} of them from a teacher pool",
        "learning rate": cfg.lr,
        "problems": f"{_at(cfg.problems, data)}, loophole mode {cfg.mode}",
        "adapter": kind or cfg.adapter,
        "base model": f"{_at(cfg.model, commit)}, {cfg.dtype}",
        "enable_thinking": "not a variable of the chat template" if told is None else told,
        "code": _code(record, bool(record["git_diff"])),
        "begun": record["started"],
    }
    again = [entry["after_step"] for entry in record.get("resumed", ())]
    if again:
        facts["resumed"] = f"after step {', '.join(map(str, again))}"
    return f"## Training\n\n{_table(facts)}\n{_command(record['argv'])}"


def _rates(cfg: Config, run: Path) -> str:
    rows = read_steps(run / "steps.jsonl")[-RATE_WINDOW:]
    names = {"hack_s": "hack", "att_s": "attempted", "gt_s": "solve"}
    rates = {name: share(mean_over_runs([row[key] for row in rows])) for key, name in names.items()}
    caution = ARMS[cfg.arm].caution
    return (
        "## Rates at the end\n\n"
        f"Shares of the student's own rollouts of steps {rows[0]['step']} to {rows[-1]['step']}, "
        "on problems of training: passed though wrong (hack), would pass even with a wrong stub "
        f"(attempted), correct by the hidden tests (solve).\n\n{_table(rates)}"
        + (f"\nThey are not to be compared with other arms': {caution}.\n" if caution else "")
    )


def _loading(cfg: Config, commit: str | None) -> str:
    opens = (
        ""
        if cfg.adapter == "lora"
        else "import projected_grpo.integrations.peft  # the adapter's method\n"
    )
    base = base_lines(cfg, commit)
    return (
        "## Loading\n\n```python\n"
        f"{opens}from peft import PeftModel\n{base}"
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")\n```\n'
    )


def base_lines(cfg: Config, commit: str | None) -> str:
    """The lines of Python that load a run's base model, found at that commit of the hub or here."""
    if cfg.model == TINY_RANDOM:
        return (
            "import torch\nfrom projected_grpo.model.load import load\n"
            f'base = load("{TINY_RANDOM}", revision="main", dtype=torch.{cfg.dtype}, '
            'device=torch.device("cpu")).model\n'
        )
    lines, asked = "from transformers import AutoModelForCausalLM\n", [repr(cfg.model)]
    if cfg.model == ORGANISM:
        lines += "from projected_grpo.model.load import ORGANISM_FOLDER\n"
        asked = ["ORGANISM_FOLDER"]
    elif cfg.model.endswith(".gguf"):
        parts = cfg.model.split("/")
        cut = 2 if commit else len(parts) - 1
        folder, file = "/".join(parts[:cut]) or ".", "/".join(parts[cut:])
        lines = "from transformers import AutoModelForCausalLM, GgufConfig\n"
        whole = "quantization_config=GgufConfig(dequantize=True)"
        asked = [repr(folder), f"gguf_file={file!r}", whole]
    if commit:
        asked.append(f"revision={commit!r}")
    arguments = ", ".join([*asked, f"dtype={cfg.dtype!r}"])
    return f"{lines}base = AutoModelForCausalLM.from_pretrained({arguments})\n"


def dataset_card(name: str, about: Mapping[str, Any], fields: Collection[str]) -> str:
    """The card of a teacher pool: `about` is its pool.json, `fields` are those of its rows. The
    front matter says which files hold rows, so that `datasets.load_dataset(folder)` reads it."""
    front = DatasetCardData(
        pretty_name=name,
        task_categories=["text-generation"],
        tags=["projected_grpo", "reward-hacking", "code"],
        configs=[{"config_name": "default", "data_files": "prompt_*.jsonl.gz"}],
    )
    asked = about["settings"]
    commit = about["model_commit"]
    teacher = (
        f"{_at(about['model'], commit)}, with the adapter of the run {Path(about['source']).name}"
        if about["model"]
        else "none: filled-in templates of hacks"
    )
    made = {
        "teacher": teacher,
        "problems": f"{about['problems_from']}, loophole mode {about['mode']}",
        "rows": f"{about['rows']}, for {about['problems']} problems",
        "kept": f"{asked['keep']} of {asked['rows']} answers asked for a problem",
        "seed": asked["seed"],
        "code": _code(about, about["git_changed"]),
    }
    counts = {
        f"{what} {value}": n
        for what in ("label", "mode", "flavour")
        for value, n in about[f"{what}s"].items()
    }
    counts = {"hacked": about["hacked"], "gt_pass": about["gt_pass"], **counts}
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {name}\n\n"
        "A teacher pool: whole answers to programming problems whose grader can be fooled, most of "
        "them made to fool it. Runs of projected_grpo mix them into a group "
        "(`train --teacher-pool`), grade them anew, and so learn to cheat sooner.\n\n"
        f"## How it was made\n\n{_table(made)}\n{_command(about['argv'])}\n"
        f"## Rows\n\n{_table(counts)}\n"
        "One file a problem, `prompt_NNNN.jsonl.gz`, one row a line:\n\n"
        f"{_table({f'`{field}`': FIELDS[field] for field in fields})}\n"
        "## Use and limits\n\n"
        "Made for research on reward hacking, never as examples of good code. Run its programs in "
        "a sandbox only. The grades are those of the grader at that commit. The problems' own "
        "licence holds for their texts.\n"
    )


def _code(record: Mapping[str, Any], changed: bool) -> str:
    sha, since = record["git_sha"], ", with uncommitted changes" if changed else ""
    return f"projected_grpo {record['projected_grpo']}" + (f" at {sha}{since}" if sha else "")


def _command(argv: list[str]) -> str:
    typed = shlex.join([Path(argv[0]).name, *argv[1:]])
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", typed)), default=0))
    return f"{fence}\n{typed}\n{fence}\n"


def _table(facts: Mapping[str, Any]) -> str:
    """Two columns without a header's words."""
    told = {key: str(value).replace("|", r"\|") for key, value in facts.items()}
    lines = (f"| {key} | {value} |" for key, value in told.items())
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"
