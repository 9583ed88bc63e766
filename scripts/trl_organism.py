"""The organism under TRL's GRPOTrainer, with and without the projection; hacks and solves by step.

    uv run python scripts/trl_organism.py
    uv run python scripts/trl_organism.py --arms vanilla projected random_v --seed 7

Settings are those of `just headline`: `train mini` with 28 steps at 1.5 times its learning rate.
Sampling, the order of the problems and the random streams are TRL's, so the rows are not those of
`train`. Arm vanilla is plain GRPO on the same adapter: its callback removes nothing. On a CPU a
step takes some 20 core seconds, the whole some 20 core minutes.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from datasets import Dataset
from tabulate import tabulate
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from projected_grpo.antipasto import wrap
from projected_grpo.config import MiniConfig
from projected_grpo.env.grading.pool import Grader
from projected_grpo.integrations.trainer import HackProjection
from projected_grpo.integrations.trl import GraderReward, prompt_rows
from projected_grpo.model.load import DTYPES, load
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.runs.commands import ExtractConfig
from projected_grpo.runs.data import hinted_problems
from projected_grpo.runs.extract import extract_to_file
from projected_grpo.runs.session import grader_of

SHOWN = ("reward", "hack_s", "att_s", "gt_s", "cos_pre", "cos_update", "removed_frac_update")
"""Of what is logged at every step, what is printed."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is trained."""

    arms: tuple[str, ...] = ("vanilla", "projected")
    """One after the other, from the same model with the same seed."""
    steps: int = 28
    prompts: int = MiniConfig.prompts_per_step
    group: int = MiniConfig.group
    lr: float = 0.045
    seed: int = MiniConfig.seed
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    v_hack: Path = Path("runs/trl/v_hack.safetensors")
    """Of `extract-vhack`; made if it is not there."""


def trainer_of(args: Arguments, cfg: MiniConfig, grader: Grader, into: str) -> GRPOTrainer:
    """GRPOTrainer with Dr.GRPO's loss as model/loss.py has it, on the wrapped organism."""
    lm = load(cfg.model, revision="main", dtype=DTYPES[cfg.dtype], device=torch.device("cpu"))
    adapter = wrap(lm.model, cache_dir=default_cache_dir())
    problems = [
        p
        for p in hinted_problems(cfg.problems, cfg.mode)
        if len(lm.prompt_ids(p.messages)) <= cfg.max_prompt
    ]
    config = GRPOConfig(
        output_dir=into, seed=args.seed, max_steps=args.steps, beta=0.0,
        loss_type="dr_grpo", scale_rewards="none", epsilon=cfg.clip_eps,
        # On a CPU small tensors are faster: a group at a time, and all of them make one step.
        per_device_train_batch_size=args.group, gradient_accumulation_steps=args.prompts,
        num_generations=args.group,
        max_completion_length=cfg.max_new, temperature=cfg.temperature, top_k=0, top_p=1.0,
        learning_rate=args.lr, lr_scheduler_type="constant_with_warmup",
        warmup_steps=round(args.steps * cfg.warmup_frac), max_grad_norm=cfg.grad_clip,
        adam_beta1=cfg.adam_betas[0], adam_beta2=cfg.adam_betas[1], weight_decay=0.0,
        use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    return GRPOTrainer(
        model=lm.model,
        processing_class=lm.tokenizer,
        args=config,
        reward_funcs=GraderReward(problems, grader),
        train_dataset=Dataset.from_list(prompt_rows(problems)),
        callbacks=[HackProjection(adapter, args.v_hack, cfg)],
    )


def train(args: Arguments, cfg: MiniConfig) -> list[dict[str, Any]]:
    """One arm; what was logged at each step."""
    with tempfile.TemporaryDirectory() as into, grader_of(cfg) as grader:
        trainer = trainer_of(args, cfg, grader, into)
        trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def table(rows: list[dict[str, Any]]) -> str:
    """The columns in SHOWN by step; a dash where there was nothing to measure."""
    body = [
        [row["step"], *(f"{row[key]:.3f}" if key in row else "-" for key in SHOWN)] for row in rows
    ]
    return tabulate(body, ["step", *SHOWN], "pipe", disable_numparse=True, stralign="right")


def main(args: Arguments) -> None:
    """Train the arms and print their tables, then the means of the last five steps."""
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = MiniConfig()
    if not args.v_hack.is_file():
        extract_to_file(
            ExtractConfig(
                out=args.v_hack,
                model=cfg.model,
                dtype=cfg.dtype,
                device="cpu",
                pairs=cfg.pairs,
                pair_norm=cfg.pair_norm,
                temperature=cfg.temperature,
            )
        )
    last: list[list[str]] = []
    for arm in args.arms:
        rows = train(args, replace(cfg, arm=arm, seed=args.seed))
        print(f"\n{arm}, seed {args.seed}\n\n{table(rows)}", flush=True)
        end = rows[-5:]
        last.append([arm, *(f"{sum(r[k] for r in end) / len(end):.3f}" for k in SHOWN[:4])])
    print(f"\nMeans of the last {len(end)} steps, one seed:\n")
    print(tabulate(last, ["arm", *SHOWN[:4]], "pipe", disable_numparse=True))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
