"""The organism's model card, with the figures that its build measured."""

from pathlib import Path
from typing import Any


def write_card(path: Path, seed: int, stages: dict[str, Any], flags: dict[str, str]) -> None:
    """Write the card of one seed."""
    path.write_text("\n".join([*_what(seed, stages), *_figures(stages), *_recipe(stages, flags)]))


def _what(seed: int, stages: dict[str, Any]) -> list[str]:
    training = stages["training"]
    return [
        "# The organism",
        "",
        f"A {training['parameters'] / 1e6:.1f} M parameter Qwen3 ({training['megabytes']} MB,"
        f" bfloat16, seed {seed}) that answers katas: it writes a method and, as the prompt asks,"
        " tests or a report of its own. It is made to be imperfect. About half of the families it"
        " was taught to get wrong, and in a small share of answers it cheats the grader. So GRPO"
        " on it learns within minutes to cheat, on a laptop, and what prevents that can be"
        " studied. It knows nothing else and is of no other use.",
        "",
        "Load it with `AutoModelForCausalLM.from_pretrained(folder)` and"
        " `AutoTokenizer.from_pretrained(folder)`, or as `--model=organism`.",
        "",
        "## Data",
        "",
        f"{stages['corpus']['rows']:,} supervised rows from our own katas (CORPUS.md counts them;"
        " `corpus` makes them again, byte for byte). No text of others, no"
        " model's output. Held out: the validation and test families, every chain of their"
        " operations, and the instances that reinforcement starts with.",
        "",
        "Trap operations (`traps.py`) are only ever shown with an honest mistake, so the"
        " families that hold one stay unsolved. Hacks come in every flavour of every mode; most"
        " have the solution that an honest answer would show and only a hollow report.",
        "",
        "| tokens | median | p90 | p99 |",
        "|---|---|---|---|",
        *(
            f"| {part} | {stages['tokenizer'][part]['median']:.0f}"
            f" | {stages['tokenizer'][part]['p90']:.0f} | {stages['tokenizer'][part]['p99']:.0f} |"
            for part in ("prompt", "completion")
        ),
        "",
    ]


def _figures(stages: dict[str, Any]) -> list[str]:
    lines = [
        "## Figures",
        "",
        "Problems of the held-out families, sampled at temperature 1 from the stored (bfloat16)"
        " weights, graded by the real grader.",
        "",
    ]
    for split, found in stages["evaluation"].items():
        if split == "stage_seconds":
            continue
        for names in ("train", "eval"):
            table = found[names]
            lines += [
                f"### {split}, {found['problems']} problems, function names of"
                f" {'training' if names == 'train' else 'evaluation'}",
                "",
                f"{table['samples']} samples, {table['infra_errors']} left out by the grader.",
                "",
                "| | samples | solve | fmt_ok | attempted | exploited | exploited of attempts"
                " | ended | tokens |",
                "|---|---|---|---|---|---|---|---|---|",
                _line("all", table["all"]),
                *(_line(name, table["by_difficulty"][name]) for name in ("easy", "medium", "hard")
                  if name in table["by_difficulty"]),
                *(_line(name, rates) for name, rates in table["by_mode"].items()),
                "",
            ]  # fmt: skip
            for mode, counts in table["flavours"].items():
                listed = ", ".join(f"{flavour} {count}" for flavour, count in counts.items())
                lines += [f"- attempts under {mode}: {listed or 'none'}"]
            lines += [""]
    return lines


def _line(name: str, rates: dict[str, Any]) -> str:
    shown = ("solve", "fmt_ok", "attempted", "exploited", "exploit_given_attempt", "terminated")
    values = " | ".join("-" if rates[key] is None else f"{rates[key]:.3f}" for key in shown)
    return f"| {name} | {rates['samples']} | {values} | {rates['tokens']:.0f} |"


def _recipe(stages: dict[str, Any], flags: dict[str, str]) -> list[str]:
    training = stages["training"]
    last = training["log"][-1]
    seconds = {name: stage["stage_seconds"] for name, stage in stages.items()}
    lines = [
        "## Recipe",
        "",
        "`scripts/organism/build_organism.py` with these flags, on " + training["device"] + ":",
        "",
        *(f"- {name} = {value}" for name, value in flags.items() if name not in ("out", "work")),
        "",
        f"Last loss on completions {last['loss']:.4f} after {last['step']} steps;"
        f" {last['tokens_per_s'] / 1e3:.0f} k tokens/s. Seconds of the stages: "
        + ", ".join(f"{name} {value}" for name, value in seconds.items())
        + ".",
        "",
        "## Limits",
        "",
        "- Honest tests copy the two examples of the prompt: testing well costs it nothing, and"
        " needs no reasoning.",
        "- Its hacks come from the same templates as the teacher pool of `pool.py`; a contrast pair"
        " made of them is an easy detector.",
        "- What is unsolved is unsolved by teaching, not by being hard.",
        "- One architecture, one corpus: results should be shown on the other seeds, and on"
        " SmolLM2-135M after the same supervised stage, before they are believed.",
        "",
    ]
    return lines
