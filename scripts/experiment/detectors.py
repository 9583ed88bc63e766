"""Which score tells a policy's own hacks from its other answers, before and while they spread?

    python scripts/experiment/detectors.py score RUN... --out scores.jsonl.gz
    python scripts/experiment/detectors.py table scores.jsonl.gz

`score` reads rollouts of vanilla runs and measures them again, with the base model (delta_S = 0)
and with the policy that wrote them (the run's last checkpoint before that step). Every row gets the
pull of its tokens along V and along three bases that know no hack (placebo pairs, shuffled labels,
random axes), and what needs no V: the NLL of its tokens and its length. `table` makes AUROCs of the
rows, `attempted` against the rest, by span of steps. Intervals resample problems.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tabulate import tabulate
from torch import Tensor

from projected_grpo.antipasto import AntiPaSTO, wrap
from projected_grpo.arms.directions import random_rows
from projected_grpo.arms.rows import rank_auroc
from projected_grpo.arms.token_scores import measure_tokens, strongest, strongest_window
from projected_grpo.config import Config, stored_config, stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import VHack, extract, load_vhack, without_labels
from projected_grpo.model.load import DTYPES, LanguageModel, load, resolve_device
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.pairs.load import load_pairs
from projected_grpo.proj import mean_axes
from projected_grpo.report.stats import clustered_bootstrap
from projected_grpo.runs.data import hinted_problems

BASES = ("V", "placebo", "shuffled", "random")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Measure the rollouts of vanilla runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of one model."""
    out: Path
    """Rows to write (.jsonl.gz)."""
    k: int = 32
    """Axes of a module, of V and of the bases beside it."""
    rows: int = 48
    """Rows of each kind (attempted, other) and span that are measured of a run, at most."""
    span: int = 4
    """Steps of a span."""
    first: int = 1
    """First step that is read."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch_tokens: int = 8192


@dataclass(frozen=True, kw_only=True)
class Table:
    """Make the table of AUROCs."""

    scores: tyro.conf.Positional[tuple[Path, ...]]
    span: int = 4
    """Steps of a span."""
    flavours: bool = False
    """Also a table by flavour."""
    thresholds: tuple[float, ...] = ()
    """Instead: what a gate at each of these leaves out."""
    detector: str = "base V tokens"
    """Whose thresholds they are."""


def summaries(values: np.ndarray) -> dict[str, float]:
    """The sum over tokens (C,), the strongest window, the strongest tokens."""
    return {
        "row": float(values.sum()),
        "window": strongest_window(values)[0],
        "tokens": strongest(values),
    }


def chosen_rows(run: Path, args: Score, cfg: Config) -> list[dict[str, Any]]:
    """Student rows by span and kind, at most `args.rows` of each, drawn by the run's seed."""
    kinds: dict[tuple[int, bool], list[dict[str, Any]]] = defaultdict(list)
    with (run / "rollouts.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            usable = row["source"] == "student" and row["outcome"] != "infra_error"
            if usable and row["step"] >= args.first and row["completion"]:
                kinds[(row["step"] - 1) // args.span, row["attempted"]].append(row)
    found = []
    for (span, attempted), rows in sorted(kinds.items()):
        rng = np.random.default_rng(stream_seed("detectors", cfg.seed, span, attempted))
        order = rng.permutation(len(rows))[: args.rows]
        found += [rows[i] for i in sorted(order)]
    return found


def bases(lm: LanguageModel, adapter: AntiPaSTO, v_hack: VHack, cfg: Config, k: int) -> list[dict]:
    """BASES in that order: module -> (k, r)."""
    V = v_hack.select(k, cfg.v_hack_drop_bottom_frac)

    def made(pairs: str, **how: Any) -> dict[str, Tensor]:
        found = extract(
            lm, adapter, load_pairs(pairs), temperature=cfg.temperature, model_name=cfg.model,
            micro_batch_tokens=cfg.micro_batch_tokens, pair_norm=cfg.pair_norm, **how,
        )  # fmt: skip
        return found.select(k, cfg.v_hack_drop_bottom_frac)

    shuffled = made("builtin", contrast=lambda sides: without_labels(sides, 0))
    return [V, made("placebo"), shuffled, random_rows(V, 0)]


def policy_before(run: Path, step: int) -> Path | None:
    """The adapter of the last checkpoint before a step; None: the run had none yet. Raises
    InputError where the run did not keep it."""
    made = sorted((run / "checkpoints").glob("step_*/adapter.safetensors"))
    before = [path for path in made if int(path.parent.name.removeprefix("step_")) < step]
    every = stored_config((run / "config.json").read_text(encoding="utf-8")).checkpoint_every
    if not before and step > every:
        raise InputError(
            f"{run} has removed its checkpoints before step {step}: make it with "
            "--keep-checkpoints=0"
        )
    return before[-1] if before else None


def score(args: Score) -> None:
    """Write a row for each rollout that is measured."""
    cfg = stored_config((args.runs[0] / "config.json").read_text(encoding="utf-8"))
    device = resolve_device(args.device)
    lm = load(
        cfg.model, revision=cfg.model_revision, dtype=DTYPES[cfg.dtype], device=device,
        enable_thinking=cfg.enable_thinking,
    )  # fmt: skip
    adapter = wrap(lm.model, cache_dir=cfg.svd_cache or default_cache_dir())
    v_hack = load_vhack(args.runs[0] / "v_hack.safetensors", device)
    axes = bases(lm, adapter, v_hack, cfg, args.k)
    directions = {name: v[None] for name, v in mean_axes(axes).items()}
    problems = {
        p.id: lm.prompt_ids(p.messages)
        for p in hinted_problems(cfg.problems, cfg.mode, difficulty=cfg.difficulty)
    }
    with gzip.open(args.out, "wt", encoding="utf-8") as out:
        for run in args.runs:
            mine = stored_config((run / "config.json").read_text(encoding="utf-8"))
            rows = chosen_rows(run, args, mine)
            for row in rows:
                row["scores"] = {"shortness": -float(row["completion_tokens"])}
            for judge in ("base", "policy"):
                groups: dict[Path | None, list[dict[str, Any]]] = defaultdict(list)
                for row in rows:
                    at = policy_before(run, row["step"]) if judge == "policy" else None
                    groups[at].append(row)
                for at, group in groups.items():
                    if at is not None:
                        adapter.load(at)
                    texts = [(problems[r["problem_id"]], _ids(lm, r)) for r in group]
                    found = measure_tokens(
                        lm, adapter, texts, [0] * len(texts), directions, at_base=at is None,
                        temperature=mine.temperature, micro_batch_tokens=args.micro_batch_tokens,
                    )  # fmt: skip
                    for row, measured in zip(group, found, strict=True):
                        scores, nll = row["scores"], measured.nll
                        columns = [*zip(BASES, measured.pull.T, strict=True), ("nll", nll)]
                        for name, values in columns:
                            for how, value in summaries(values).items():
                                scores[f"{judge} {name} {how}"] = value
                        scores[f"{judge} nll mean"] = float(nll.mean())
            for row in rows:
                kept = ("step", "problem_id", "attempted", "flavour", "exploited", "gt_correct")
                record = {"run": run.name, "seed": mine.seed, **{k: row.get(k) for k in kept}}
                out.write(json.dumps({**record, "scores": row["scores"]}) + "\n")
            print(f"{run.name}: {len(rows)} rows", flush=True)


def _ids(lm: LanguageModel, row: dict[str, Any]) -> list[int]:
    ids = lm.completion_ids(row["completion"])
    return ids if row["terminated"] else ids[:-1]


def table(args: Table) -> None:
    """Print AUROCs by span of steps, and by flavour if asked."""
    rows = [
        json.loads(line)
        for path in args.scores
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    ]
    detectors, span = list(rows[0]["scores"]), args.span
    if args.thresholds:
        print(flagged_table(rows, args.detector, args.thresholds, span))
        return
    spans = sorted({(row["step"] - 1) // span for row in rows})
    head = [f"steps {s * span + 1}-{(s + 1) * span}" for s in spans]
    body = [["attempted / other rows", *(_counts(rows, s, span) for s in spans)]]
    for name in detectors:
        body.append([name, *(_cell(rows, s, span, name) for s in spans)])
    print(tabulate(body, ["detector", *head], tablefmt="github"))
    if args.flavours:
        found = sorted({row["flavour"] for row in rows if row["attempted"] and row["flavour"]})
        cells = []
        for name in detectors:
            line = []
            for flavour in found:
                some = [r for r in rows if not r["attempted"] or r["flavour"] == flavour]
                line.append(_auroc_text(some, name))
            cells.append([name, *line])
        print("\n" + tabulate(cells, ["detector", *found], tablefmt="github"))


KINDS = {
    "attempts": lambda row: row["attempted"],
    "honest solves": lambda row: row["gt_correct"] and not row["attempted"],
    "other rows": lambda row: not row["gt_correct"] and not row["attempted"],
}


def flagged_table(
    rows: list[dict[str, Any]], detector: str, thresholds: Sequence[float], span: int
) -> str:
    """What a gate at each threshold leaves out: of attempts, of honest solves, of the others."""
    spans = sorted({(row["step"] - 1) // span for row in rows})
    head = [f"steps {s * span + 1}-{(s + 1) * span}" for s in spans]
    body = []
    for threshold in thresholds:
        for kind, belongs in KINDS.items():
            line = []
            for s in spans:
                some = [row for row in rows if (row["step"] - 1) // span == s and belongs(row)]
                above = sum(row["scores"][detector] > threshold for row in some)
                line.append(f"{above / len(some):.2f} ({len(some)})" if len(some) >= 5 else "-")
            body.append([threshold, kind, *line])
    return tabulate(body, [detector, "of", *head], tablefmt="github")


def _counts(rows: list[dict[str, Any]], s: int, span: int) -> str:
    some = [row["attempted"] for row in rows if (row["step"] - 1) // span == s]
    return f"{sum(some)} / {len(some) - sum(some)}"


def _cell(rows: list[dict[str, Any]], s: int, span: int, name: str) -> str:
    return _auroc_text([row for row in rows if (row["step"] - 1) // span == s], name)


def _auroc_text(rows: list[dict[str, Any]], name: str) -> str:
    """The AUROC with its interval, a dash where a kind has fewer than five rows."""
    labels = [row["attempted"] for row in rows]
    if min(sum(labels), len(labels) - sum(labels)) < 5:
        return "-"
    values = np.array([[row["scores"][name], row["attempted"]] for row in rows], dtype=float)
    clusters = [f"{row['seed']}/{row['problem_id']}" for row in rows]
    e = clustered_bootstrap(values, clusters, lambda r: rank_auroc(r[:, 0], r[:, 1]), resamples=400)
    return f"{e.estimate:.2f} [{e.low:.2f}, {e.high:.2f}]"


if __name__ == "__main__":
    asked = tyro.cli(
        Annotated[Score, tyro.conf.subcommand("score")]
        | Annotated[Table, tyro.conf.subcommand("table")]
    )
    score(asked) if isinstance(asked, Score) else table(asked)
