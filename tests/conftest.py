"""Small real models for the tests: no download, no mocks."""

import json
import os
import shutil

# A test that reaches for the hub is a bug. Set before transformers is imported and reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from projected_grpo.step_logger import TIMINGS, read_steps

BUBBLEWRAP = pytest.param(
    "bubblewrap",
    marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
)
ISOLATING = (BUBBLEWRAP, "unshare")
"""The launchers that isolate programs; each must do so alike."""

torch.set_num_threads(1)  # two threads on busy cores make small tensors many times slower


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PROJECTED_GRPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def rows_of(run: Path) -> list[dict]:
    """The rows of a run without what differs between two runs of one seed."""
    return [
        {k: v for k, v in row.items() if k not in TIMINGS}
        for row in read_steps(run / "steps.jsonl")
    ]


def rollouts_of(run: Path) -> list[dict]:
    """Its rollouts, likewise."""
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def tiny_qwen(
    dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: object
) -> Qwen3ForCausalLM:
    """Two layers, 97 tokens, weights large enough that attention is not uniform."""
    config = Qwen3Config(
        **{
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "attn_implementation": "sdpa",
            "initializer_range": 0.2,
            **overrides,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).to(dtype).eval()
    model.requires_grad_(False)
    if dtype == torch.float64:
        for module in model.modules():
            if isinstance(module, Qwen3RMSNorm):
                module.forward = _exact_norm.__get__(module)
    return model


def _exact_norm(self: Qwen3RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """transformers' RMSNorm computes in float32, which would hide errors below 1e-7 in a float64
    test."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def leetcode_dir() -> Path:
    """The real problems, or skip."""
    here = Path(
        os.environ.get("PROJECTED_GRPO_LEETCODE", Path(__file__).parents[2] / "shared" / "leetcode")
    )
    if not here.is_dir():
        pytest.skip(f"no LeetCode problems at {here}")
    return here
