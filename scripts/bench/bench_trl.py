"""One training step beside TRL's GRPOTrainer with LoRA: same model, prompts, group and lengths.

    uv run python scripts/bench/bench_trl.py --shape organism
    uv run python scripts/bench/bench_trl.py --shape smollm2 --prompts 2 --group 4 --max-new 64

Steps alternate: after each of TRL's, one of ours. Completions all have --max-new tokens (no eos on
either side) and a reward that costs nothing, so a step is sampling, forward, backward, update and
what each trainer does around them. Random weights with a real model's dimensions; the organism is
the one that ships.
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import benchmark
from benchmark import Result, folder_of, free_session, in_words, reward, timed, wait
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from projected_grpo.antipasto import TARGET_MODULES
from projected_grpo.runs.session import Session
from projected_grpo.train import run_step

PARTS = ("gen", "t_rew", "fb", "t_proj")


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    prompts: int = 4
    group: int = 8
    max_new: int = 128
    micro_batch_tokens: int = 2048
    """Of ours; TRL takes all rows at once."""
    steps: int = 5
    """Steps that count; one more warms up."""


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
        self.step += 1
        step = partial(run_step, self.session, self.step, self.tokens)
        seconds, ((row, _),) = timed(step, self.session.device)
        self.ours.append(seconds)
        self.parts.append({key: float(str(row[key])) for key in PARTS})


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


def measure(args: Arguments) -> Result:
    """A step of each in turn."""
    with tempfile.TemporaryDirectory() as into, ExitStack() as stack:
        folder = folder_of(args, Path(into))
        session = free_session(
            args, folder, stack, prompts_per_step=args.prompts, group=args.group,
            max_new=args.max_new, steps=args.steps + 1, micro_batch_tokens=args.micro_batch_tokens,
        )  # fmt: skip
        both = Ours(session)
        trainer = trl_trainer(args, folder, session, into)
        trainer.add_callback(both)
        trainer.train()
    trl, ours, parts = both.trl[1:], both.ours[1:], both.parts[1:]
    split = ", ".join(f"{key} {median(part[key] for part in parts):.2f}" for key in PARTS)
    rows = [
        {"trainer": "TRL GRPOTrainer, LoRA r=32", "s a step": median(trl), "x TRL": "1.00"},
        {"trainer": "ours", "s a step": median(ours), "x TRL": in_words(ours, trl)},
    ]
    size = f"{args.dtype}, {args.prompts} x {args.group} x {args.max_new} tokens"
    figures = {"trl": trl, "ours": ours, "parts": parts}
    what = f"{args.shape}, {size}, {args.steps} alternating steps"
    return Result(what, rows, figures, ["", f"of ours: {split}"])


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
