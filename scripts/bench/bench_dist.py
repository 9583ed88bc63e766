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

import statistics
import tempfile
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from benchmark import Free, Measured, folder_of, interleaved, machine, ratios, report
from tabulate import tabulate

from projected_grpo.config import MiniConfig
from projected_grpo.runs.distributed import ALONE, World, process_group
from projected_grpo.runs.session import Session, prepare
from projected_grpo.train import run_step

PARTS = ("gen", "fb", "t_proj")


@dataclass(frozen=True, kw_only=True)
class Arguments(Measured):
    """What is measured."""

    shape: Literal["organism", "smollm2", "qwen3-4b"] = "organism"
    prompts: int = 4
    """Of a step, for all processes together."""
    group: int = 4
    max_new: int = 32
    micro_batch_tokens: int = 2048
    """Of each process, as is the next."""
    sampling_tokens: int = MiniConfig.sampling_tokens
    rounds: int = 5
    """Rounds that count; one more warms up."""


def session_of(args: Arguments, folder: str, world: World, stack: ExitStack) -> Session:
    """A projected run as `train mini` makes it, without eos and with a free reward."""
    cfg = MiniConfig(
        arm="projected", model=folder, dtype=args.dtype, device=args.device, group=args.group,
        prompts_per_step=args.prompts, max_new=args.max_new, steps=args.rounds + 1,
        pairs="builtin", v_hack_k=5, micro_batch_tokens=args.micro_batch_tokens,
        sampling_tokens=args.sampling_tokens, svd_cache=Path(folder) / "svd"
        if args.shape != "organism" else None,
    )  # fmt: skip
    session, _ = prepare([cfg], stack, None, world)
    lm = replace(session.lm, eos_ids=frozenset())
    return replace(session, lm=lm, grader=Free())  # pyright: ignore[reportArgumentType]


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


def main(args: Arguments) -> None:
    """Measure and print, in rank 0."""
    with process_group([MiniConfig()]) as world, ExitStack() as stack:
        into = Path(world.lead(lambda: stack.enter_context(tempfile.TemporaryDirectory())))
        folder = world.lead(lambda: folder_of(args, into))
        s = session_of(args, folder, world, stack)
        steps = Steps(s)
        ways = {"1": lambda: steps.take("1", ALONE)}
        if world.size > 1:
            ways[str(world.size)] = lambda: steps.take(str(world.size), world)
        seconds = interleaved(ways, args.rounds, s.device)
        if not world.first:
            world.wait()
            return
        rollouts = args.prompts * args.group
        faster = ratios({name: [1 / t for t in values] for name, values in seconds.items()}, "1")
        rows = []
        for name, values in seconds.items():
            parts = [statistics.median(p) for p in zip(*steps.parts[name][1:], strict=True)]
            middle, least, most = faster[name]
            rows.append([
                name, statistics.median(values), rollouts / statistics.median(values),
                f"{middle:.2f} [{least:.2f}, {most:.2f}]", *parts,
            ])  # fmt: skip
        print(machine(s.device))
        print(f"{args.shape}: {args.prompts} x {args.group} rows x {args.max_new} tokens")
        headers = ["processes", "s a step", "rollouts/s", "x one process", *PARTS]
        print(tabulate(rows, headers, tablefmt="pipe", floatfmt=".3g"))
        report(args, s.device, seconds=seconds, parts=steps.parts, rollouts=rollouts)
        world.wait()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
