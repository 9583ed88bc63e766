"""Small real models for the tests: no download, no mocks."""

import hashlib
import json
import os
import shutil

# A test that reaches for the hub is a bug. Set before transformers is imported and reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from projected_grpo import extract_vhack_grad
from projected_grpo.extract_vhack_grad import Sides
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, fuse_norms
from projected_grpo.pairs.load import pairs_digest
from projected_grpo.pairs.pair import Pair
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


@pytest.fixture(scope="session", autouse=True)
def _gradients_of_pairs_once() -> Iterator[None]:
    """Nearly every test that trains extracts V from the same pairs on the same model, which takes
    longer than the run: `extract` gets the gradients that it had before where all that they depend
    on is the same. What is asked for a second time is computed a second time and must be the same.
    Those of a policy that has moved are always computed, as is what tests ask of `side_gradients`
    itself."""
    computed = extract_vhack_grad.side_gradients
    had: dict[tuple[object, ...], Sides] = {}
    compared: set[tuple[object, ...]] = set()

    def once(lm: LanguageModel, adapter: Adapter, pairs: Sequence[Pair], **how: Any) -> Sides:
        run = how.get("run", 0)
        moving = [*adapter.trained.values(), *adapter.quarantine.values()]
        if any(value[run].any() for value in moving):
            return computed(lm, adapter, pairs, **how)
        weights = hashlib.sha256()
        for value in lm.model.state_dict().values():
            weights.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        text = (lm.prompt_ids(pairs[0].messages), lm.completion_ids(pairs[0].hack))
        model = (adapter.fingerprint(), weights.hexdigest(), lm.model.dtype, lm.model.device)
        settings = (how["temperature"], how["micro_batch_tokens"], adapter.n_runs, run)
        key = (*model, *settings, pairs_digest(pairs), str(text))
        if key not in had:
            had[key] = computed(lm, adapter, pairs, **how)
        elif key not in compared:
            compared.add(key)
            for name, again in computed(lm, adapter, pairs, **how).items():
                torch.testing.assert_close(again, had[key][name], rtol=1e-3, atol=1e-5)
        return {name: value.clone() for name, value in had[key].items()}

    extract_vhack_grad.side_gradients = once
    yield
    extract_vhack_grad.side_gradients = computed


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


def assert_same_rows(run: Path, expected: Path, steps: int | None = None) -> None:
    """To rounding, as a run in a pack has the rows that it has alone; of the first `steps`."""
    for row, other in zip(rows_of(run)[:steps], rows_of(expected)[:steps], strict=True):
        for key, value in other.items():
            if isinstance(value, float) and key != "sampling_logp_diff_max":
                value = pytest.approx(value, rel=1e-2, abs=1e-4)
            assert row[key] == value or key == "sampling_logp_diff_max", key


def assert_same_rollouts(run: Path, expected: Path, *keys: str) -> None:
    """Likewise: the same completions, and to rounding these keys."""
    for row, other in zip(rollouts_of(run), rollouts_of(expected), strict=True):
        assert row["completion"] == other["completion"]
        for key in keys:
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


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
    if dtype == torch.float64:  # transformers' norm computes in float32: it would hide errors
        fuse_norms(model)
    return model


def leetcode_dir() -> Path:
    """The real problems, or skip."""
    here = Path(
        os.environ.get("PROJECTED_GRPO_LEETCODE", Path(__file__).parents[2] / "shared" / "leetcode")
    )
    if not here.is_dir():
        pytest.skip(f"no LeetCode problems at {here}")
    return here
