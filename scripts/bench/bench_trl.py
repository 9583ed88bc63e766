"""One training step beside TRL's GRPOTrainer with LoRA: same model, prompts, group and lengths.

    uv run python scripts/bench/bench_trl.py --shape organism
    uv run python scripts/bench/bench_trl.py --shape smollm2 --prompts 2 --group 4 --max-new 64

Steps alternate: after each of TRL's, one of ours. Completions all have --max-new tokens (no eos on
either side) and a reward that costs nothing, so a step is sampling, forward, backward, update and
what each trainer does around them. Random weights with a real model's dimensions; the organism is
the one that ships.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from benchmark import Free, Measured, folder_of, machine, report, reward, wait
from datasets import Dataset
from peft import LoraConfig
from tabulate import tabulate
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from projected_grpo.antipasto import TARGET_MODULES
from projected_grpo.config import MiniConfig
from projected_grpo.runs.session import Session, prepare
from projected_grpo.train import run_step


@dataclass(frozen=True, kw_only=True)
class Arguments(Measured):
    """What is measured."""

    shape: Literal["organism", "smollm2", "qwen3-4b"] = "organism"
    prompts: int = 4
    group: int = 8
    max_new: int = 128
    micro_batch_tokens: int = 2048
    """Of ours; TRL takes all rows at once."""
    steps: int = 5
    """Steps that count; one more warms up."""


def our_session(args: Arguments, folder: str, stack: ExitStack) -> Session:
    """A vanilla run as `train mini` makes it, without eos and with a free reward."""
    ships = args.shape == "organism"
    cfg = MiniConfig(
        model=folder, dtype=args.dtype, device=args.device, prompts_per_step=args.prompts,
        group=args.group, max_new=args.max_new, steps=args.steps + 1, pairs="builtin",
        v_hack_k=5, micro_batch_tokens=args.micro_batch_tokens,
        svd_cache=None if ships else Path(folder) / "svd",
    )  # fmt: skip
    session, _ = prepare([cfg], stack, None)
    return replace(session, lm=replace(session.lm, eos_ids=frozenset()), grader=Free())  # pyright: ignore[reportArgumentType]


class Ours(TrainerCallback):
    """Times TRL's steps and takes one of ours after each."""

    def __init__(self, session: Session) -> None:
        self.session, self.step, self.tokens = session, 0, [0]
        self.trl: list[float] = []
        self.ours: list[float] = []
        self.parts: list[dict[str, float]] = []

    def on_step_begin(self, *args, **kwargs) -> None:
        """TRL samples within its training step."""
        wait(self.session.device)
        self.started = time.perf_counter()

    def on_step_end(self, *args, **kwargs) -> None:
        """Then it is our turn."""
        wait(self.session.device)
        self.trl.append(time.perf_counter() - self.started)
        started = time.perf_counter()
        self.step += 1
        ((row, _),) = run_step(self.session, self.step, self.tokens)
        wait(self.session.device)
        self.ours.append(time.perf_counter() - started)
        self.parts.append({key: row[key] for key in ("gen", "t_rew", "fb", "t_proj")})  # pyright: ignore[reportArgumentType]


def trl_trainer(args: Arguments, folder: str, session: Session, into: str) -> GRPOTrainer:
    """GRPOTrainer with LoRA r = 32 on the same prompts, Dr.GRPO, no KL."""
    cpu = args.device == "cpu"
    config = GRPOConfig(
        output_dir=into, per_device_train_batch_size=args.prompts * args.group,
        num_generations=args.group, max_completion_length=args.max_new, beta=0.0,
        loss_type="dr_grpo", learning_rate=1e-4, max_steps=args.steps + 1, temperature=1.0,
        top_k=0, generation_kwargs={"min_new_tokens": args.max_new}, use_cpu=cpu,
        bf16=args.dtype == "bfloat16", report_to="none", save_strategy="no", logging_steps=1000,
        disable_tqdm=True, gradient_checkpointing=False,
        model_init_kwargs={"dtype": args.dtype},
    )  # fmt: skip
    prompts = [{"prompt": p.messages} for p in session.problems]
    return GRPOTrainer(
        model=folder,
        reward_funcs=lambda completions, **_: [reward(c[0]["content"]) for c in completions],
        args=config,
        train_dataset=Dataset.from_list(prompts),
        peft_config=LoraConfig(r=32, lora_alpha=32, target_modules=list(TARGET_MODULES)),
    )


def main(args: Arguments) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as into, ExitStack() as stack:
        folder = folder_of(args, Path(into))
        session = our_session(args, folder, stack)
        both = Ours(session)
        trainer = trl_trainer(args, folder, session, into)
        trainer.add_callback(both)
        trainer.train()
    trl, ours, parts = both.trl[1:], both.ours[1:], both.parts[1:]
    ratio = sorted(a / b for a, b in zip(ours, trl, strict=True))
    split = {key: statistics.median(part[key] for part in parts) for key in parts[0]}
    print(
        f"\n{args.shape}, {args.dtype}, {args.prompts} x {args.group} x {args.max_new} tokens, "
        f"{args.steps} alternating steps; {machine(session.device)}\n"
    )
    body = [
        ["TRL GRPOTrainer, LoRA r=32", f"{statistics.median(trl):.2f}", "1.00", ""],
        [
            "ours", f"{statistics.median(ours):.2f}",
            f"{statistics.median(ratio):.2f} ({ratio[0]:.2f}-{ratio[-1]:.2f})",
            ", ".join(f"{key} {value:.2f}" for key, value in split.items()),
        ],
    ]  # fmt: skip
    print(tabulate(body, ["trainer", "s a step", "x TRL", "of it"], "pipe", disable_numparse=True))
    report(args, session.device, trl=trl, ours=ours, parts=parts)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
