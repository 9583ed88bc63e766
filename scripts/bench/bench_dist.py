"""Rollouts a second of one process and of all, on one host: the same steps, in turn.

    torchrun --nproc-per-node 2 scripts/bench/bench_dist.py --shape qwen3-4b --dtype bfloat16 \
        --device cuda --prompts 16 --group 8 --max-new 256 --sampling-tokens 32768
    torchrun --nproc-per-node 2 scripts/bench/bench_dist.py    # organism, CPU: only that it runs

Every round takes one step in rank 0 alone, while the others wait, and the same step in all
processes; each starts from the same adapter. Completions all have --max-new tokens (no eos) and a
reward that costs nothing, so a step is sampling, forward, backward, exchange and update. Strong
scaling: the step is the same, the prompts are shared out. Sampling gains where a step's rows do not
fit into --sampling-tokens at once; fewer rows than that take a GPU as long a token.
"""

import tempfile
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import benchmark
import torch
from benchmark import Result, folder_of, free_session, in_words, interleaved

from projected_grpo.config import MiniConfig
from projected_grpo.runs.distributed import ALONE, World, process_group
from projected_grpo.runs.session import Session
from projected_grpo.train import run_step

PARTS = ("gen", "fb", "t_proj")


@dataclass(frozen=True, kw_only=True)
class Arguments(benchmark.Arguments):
    """What is measured."""

    prompts: int = 4
    """Of a step, for all processes together."""
    group: int = 4
    max_new: int = 32
    micro_batch_tokens: int = 2048
    """Of each process, as is the next."""
    sampling_tokens: int = MiniConfig.sampling_tokens
    rounds: int = 5
    """Rounds that count; one more warms up."""


class Steps:
    """Steps of one session that all start from the same adapter; keeps what each part took."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.optimizer = deepcopy(session.optimizer.state_dict())
        self.parts: dict[str, list[list[float]]] = {}
        self.taken: dict[str, int] = {}

    def take(self, name: str, world: World) -> None:
        """The next step in these processes; returns when all of the session's have come here."""
        s = replace(self.session, world=world)
        if world.size > 1 or self.session.world.first:
            with torch.no_grad():
                for value in s.adapter.trained.values():
                    value.zero_()
            s.optimizer.load_state_dict(deepcopy(self.optimizer))
            s.adapter.fold()
            self.taken[name] = self.taken.get(name, 0) + 1
            ((row, _),) = run_step(s, self.taken[name], [0])
            self.parts.setdefault(name, []).append([float(str(row[part])) for part in PARTS])
        self.session.world.wait()


def measure(args: Arguments) -> Result | None:
    """The same steps in one process and in all; rank 0 speaks for all."""
    with process_group([MiniConfig()]) as world, ExitStack() as stack:
        into = Path(world.lead(lambda: stack.enter_context(tempfile.TemporaryDirectory())))
        s = free_session(
            args, world.lead(lambda: folder_of(args, into)), stack, world, arm="projected",
            group=args.group, prompts_per_step=args.prompts, max_new=args.max_new,
            steps=args.rounds + 1, micro_batch_tokens=args.micro_batch_tokens,
            sampling_tokens=args.sampling_tokens,
        )  # fmt: skip
        steps = Steps(s)
        ways = {"1": lambda: steps.take("1", ALONE)}
        if world.size > 1:
            ways[str(world.size)] = lambda: steps.take(str(world.size), world)
        seconds = interleaved(ways, args.rounds, s.device)
        world.wait()
        if not world.first:
            return None
    rollouts = args.prompts * args.group
    rows = [
        {"processes": name, "s a step": median(s), "rollouts/s": rollouts / median(s)}
        | {"x one process": in_words(seconds["1"], s)}
        | {part: median(took) for part, *took in zip(PARTS, *steps.parts[name][1:], strict=True)}
        for name, s in seconds.items()
    ]
    figures = {"seconds": seconds, "parts": steps.parts, "rollouts": rollouts}
    size = f"{args.prompts} x {args.group} rows x {args.max_new} tokens"
    return Result(f"{args.shape}: {size}", rows, figures)


if __name__ == "__main__":
    benchmark.main(measure, Arguments, __doc__)
