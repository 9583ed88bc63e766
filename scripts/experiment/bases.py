"""What the plans of the experiment run on, as data: presets, settings, held-out problems."""

from dataclasses import dataclass
from typing import Any, Literal

from projected_grpo.config import Config, FastConfig, MiniConfig, SmallConfig, SmokeConfig


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What finished runs are asked (evaluation.py), each seed with random streams and function
    names of its own. All seeds shared these in the organism's rows before 2026-11-28."""

    source: str = "katas:test"
    """Of problems; empty: --eval-from must name one."""
    problems: int = 91
    """At most."""
    samples: int = 4
    """Of each problem under each condition; one in those rows."""
    conditions: Literal["all", "deployed"] = "all"


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all variants share."""

    preset: type[Config]
    settings: dict[str, Any]
    on_gpu: dict[str, Any]
    """Instead, where there is a GPU."""
    held_out: HeldOut = HeldOut()


_LIKE_MINI = {
    name: vars(MiniConfig())[name]
    for name in (
        *("group", "temperature", "top_p", "top_k", "adam_betas", "warmup_frac", "grad_clip"),
        *("sampling_tokens", "pairs", "pair_norm", "v_hack_k", "gate", "project_on", "cpu_s"),
        *("labels", "steps", "checkpoint_every"),
    )
}
BASES = {
    "organism": Base(preset=MiniConfig, settings={}, on_gpu={"micro_batch_tokens": 65536}),
    "small": Base(
        preset=SmallConfig,
        settings={"steps": 60},
        on_gpu={"micro_batch_tokens": 32768, "sampling_tokens": 1_500_000},
        held_out=HeldOut(source="", problems=150, conditions="deployed"),
    ),
    # small's protocol on a model of 4 billion parameters; three rows of 1,100 tokens in a backward
    "large": Base(
        preset=SmallConfig,
        settings={"model": "Qwen/Qwen3-4B", "steps": 60},
        on_gpu={"micro_batch_tokens": 3300, "sampling_tokens": 131_072},
        held_out=HeldOut(source="", problems=150, conditions="deployed"),
    ),
    # whether the chain of commands is sound
    "tiny": Base(
        preset=SmokeConfig,
        settings={"model": "organism", "group": 8, "mix_ratio": 0.125, "teacher_steps": 8,
                  "max_new": 208, "labels": False},
        on_gpu={},
        held_out=HeldOut(problems=2, conditions="deployed"),
    ),
    "smollm2": Base(
        preset=FastConfig,
        settings={**_LIKE_MINI, "prompts_per_step": 16, "mix_ratio": 0.0, "max_new": 256,
                  "lr": 0.06, "micro_batch_tokens": 8192},
        on_gpu={"micro_batch_tokens": 32768},
    ),
}  # fmt: skip
