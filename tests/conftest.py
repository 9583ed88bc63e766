"""Small real models for the tests: no download, no mocks."""

import atexit
import gc
import json
import os
import shutil

# A test that reaches for the hub is a bug. Set before transformers is imported and reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Images of containers forbid it. The tests start some hundred interpreters, each of which would
# compile torch anew, which takes longer than to import it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Two threads on busy cores make small tensors many times slower. Here and in what the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from projected_grpo.step_logger import TIMINGS, read_steps

if TYPE_CHECKING:  # the process that only tells others what to test is spared the import
    import torch
    from transformers import Qwen3ForCausalLM

BUBBLEWRAP = pytest.param(
    "bubblewrap",
    marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
)
ISOLATING = (BUBBLEWRAP, "unshare")
"""The launchers that isolate programs; each must do so alike."""

hypothesis.settings.register_profile("busy", deadline=None)  # the machine's load is not a fault
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decompositions and V of the tests' models, and finished runs (short_runs.py): made once a
    session, and never in the user's home."""
    mine = tmp_path_factory.getbasetemp()  # of a worker of xdist: below that of the session
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    (shared / "shared").mkdir(exist_ok=True)
    os.environ["PROJECTED_GRPO_TESTS"] = str(shared / "shared")
    os.environ["PROJECTED_GRPO_CACHE"] = str(shared / "shared" / "cache")


@pytest.fixture(scope="session", autouse=True)
def _graders_are_kept() -> Iterator[None]:
    """From one run to the next in this process."""
    from kept_graders import KeptGrader, end_kept_graders

    from projected_grpo.runs import session

    plain, session.Grader = session.Grader, KeptGrader
    yield
    session.Grader = plain
    end_kept_graders()


LONGEST = (
    "test_train.py", "test_hostile.py", "test_limits.py", "test_screening.py", "test_pairs.py",
    "test_remedies.py", "test_corpus.py", "test_distributed.py", "test_grader_labels.py",
    "test_report.py", "test_pack_resume.py", "test_damage.py", "test_sweep.py", "test_hub.py",
    "test_refresh.py", "test_trackers.py", "test_solution.py", "test_grader_processes.py",
    "test_katas.py", "test_lora.py", "test_rivals.py", "test_minimal.py", "test_mistakes.py",
    "test_trl.py", "test_read.py", "test_arms.py", "test_quarantine.py", "test_organism.py",
    "test_sandbox.py",
)  # fmt: skip
"""Files that take more than ten seconds of CPU. A worker of xdist takes a whole file at a time:
begun last, one of them would keep one worker busy while the other has nothing left to do."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The garbage collector waits until all files are imported, and never looks at what that made,
    here or in forks of this process, where it would copy all of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        atexit.register(gc.unfreeze)  # triton, at the end, takes what is frozen for leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. (`--no-loadscope-reorder`: else xdist begins with those that have
    most tests.)"""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


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
    dtype: "torch.dtype | None" = None, seed: int = 0, **overrides: object
) -> "Qwen3ForCausalLM":
    """Two layers, 97 tokens, weights large enough that attention is not uniform; in float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from projected_grpo.model.load import fuse_norms

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
        model = Qwen3ForCausalLM(config).to(dtype or torch.float32).eval()
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
