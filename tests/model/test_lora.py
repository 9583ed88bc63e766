"""LoRA through PEFT as the trainer's adapter: its gradients, a real run, and its folder outside."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of, tiny_qwen
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from projected_grpo.antipasto import wrap
from projected_grpo.arms.arms import require_arms
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.load import load_problems
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import TINY_RANDOM, LanguageModel, checkpointed, load
from projected_grpo.model.lora import LoRA
from projected_grpo.proj import cosine, mean_axes, random_orthonormal
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.commands import ExtractConfig
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.evaluate import EvalPlan, evaluate
from projected_grpo.runs.extract import extract_to_file
from projected_grpo.train import train, train_runs

IDS = torch.randint(0, 97, (3, 12), generator=torch.Generator().manual_seed(0))
ROWS = torch.zeros(3, dtype=torch.long)
CPU = torch.device("cpu")


def nll_per_row(model: nn.Module) -> torch.Tensor:
    """Summed NLL of each row's tokens, (B,)."""
    logp = torch.log_softmax(model(input_ids=IDS).logits[:, :-1], -1)
    return -logp.gather(-1, IDS[:, 1:, None])[..., 0].sum(1)


def randomise(adapter: LoRA) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in adapter.trained.values():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    adapter.fold()


def test_at_the_start_it_is_the_base_and_only_b_has_a_gradient() -> None:
    expected = tiny_qwen()(input_ids=IDS).logits
    adapter = LoRA(tiny_qwen(), 4, 8)
    assert torch.equal(adapter.model(input_ids=IDS).logits, expected)
    assert not any(p.requires_grad for p in adapter.model.parameters())
    assert len(adapter.trained) == 2 * 7 * 2 and adapter.n_runs == 1
    with adapter.rows(ROWS) as leaves:
        assert torch.equal(adapter.model(input_ids=IDS).logits, expected)
        gradients = torch.autograd.grad(nll_per_row(adapter.model).sum(), list(leaves.values()))
    for name, g in zip(leaves, gradients, strict=True):
        assert bool(g.any()) == name.endswith("lora_B"), name
    randomise(adapter)
    assert not torch.allclose(adapter.model(input_ids=IDS).logits, expected, atol=1e-2)
    with adapter.disable():
        assert torch.equal(adapter.model(input_ids=IDS).logits, expected)
    with torch.no_grad(), adapter.rows(ROWS, at_base=True):
        assert torch.equal(adapter.model(input_ids=IDS).logits, expected)


def test_row_gradients_equal_one_autograd_pass_a_row_through_pefts_own_layers() -> None:
    adapter = LoRA(tiny_qwen(torch.float64), 4, 8)
    randomise(adapter)
    plain = get_peft_model(
        tiny_qwen(torch.float64), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    theirs = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    named = {name: f"base_model.model.{name}.default.weight" for name in adapter.trained}
    assert set(named.values()) == set(theirs)
    with torch.no_grad():
        for name, matrix in adapter.matrices.items():
            theirs[named[name]].copy_(matrix.weight)
    parameters = [theirs[named[name]] for name in adapter.trained]
    expected = [torch.autograd.grad(nll_per_row(plain)[b], parameters) for b in range(3)]
    with adapter.rows(ROWS) as leaves:
        assert torch.allclose(nll_per_row(adapter.model), nll_per_row(plain), rtol=1e-12)
        got = torch.autograd.grad(nll_per_row(adapter.model).sum(), list(leaves.values()))
    for i, (name, g) in enumerate(zip(leaves, got, strict=True)):
        e = torch.stack([of_row[i].flatten() for of_row in expected])
        assert float((g - e).norm() / e.norm()) < 1e-11, name
    assert torch.allclose(nll_per_row(adapter.model), nll_per_row(plain), rtol=1e-12)  # folded


@pytest.mark.parametrize("n_runs", [1, 2])
@pytest.mark.parametrize("make", [lambda m, n: LoRA(m, 4, 8, n), lambda m, n: wrap(m, n_runs=n)])
def test_autograd_may_compute_layers_again_in_a_thread_of_its_own(
    make: Callable[[nn.Module, int], Adapter], n_runs: int
) -> None:
    """As it does on a GPU, under checkpointing."""
    adapter = make(tiny_qwen(torch.float64), n_runs)
    randomise(adapter)

    def gradients(again: bool) -> Sequence[torch.Tensor]:
        rows = adapter.rows(torch.full((3,), n_runs - 1))
        with checkpointed(adapter.model, again), rows as leaves, ThreadPoolExecutor(1) as other:
            loss = nll_per_row(adapter.model).sum()
            return other.submit(torch.autograd.grad, loss, list(leaves.values())).result()

    for one, two in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(one, two, rtol=1e-9)


def test_tokens_pull_as_their_row_does_and_what_is_left_out_is_missing() -> None:
    adapter = LoRA(tiny_qwen(torch.float64), 4, 8)
    randomise(adapter)
    g = torch.Generator().manual_seed(2)
    basis = {
        name: random_orthonormal(2, value.shape[1], g).double()
        for name, value in list(adapter.trained.items())[::3]
    }
    some = torch.rand(IDS.shape, generator=g) < 0.5
    found = []
    for left_out in (torch.zeros_like(some), some, ~some):
        with (
            adapter.rows(ROWS) as leaves,
            adapter.token_pull(mean_axes([basis])) as pull,
            adapter.leave_out(left_out),
        ):
            loss = nll_per_row(adapter.model).sum()
            found.append(torch.autograd.grad(loss, list(leaves.values())))
        whole = dict(zip(leaves, found[0], strict=True))
        torch.testing.assert_close(pull.tokens[..., 0].sum(1), cosine(whole, basis))
    for total, a, b in zip(*found, strict=True):
        torch.testing.assert_close(a + b, total)


def test_save_load_round_trip_and_who_is_refused(tmp_path: Path) -> None:
    first, second = LoRA(tiny_qwen(), 4, 8), LoRA(tiny_qwen(), 4, 8)
    randomise(first)
    first.save(tmp_path / "a.safetensors")
    second.load(tmp_path / "a.safetensors")
    assert torch.equal(second.model(input_ids=IDS).logits, first.model(input_ids=IDS).logits)
    others = [
        LoRA(tiny_qwen(seed=1), 4, 8), LoRA(tiny_qwen(), 8, 8), LoRA(tiny_qwen(), 4, 16),
        wrap(tiny_qwen()),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InputError, match="trained on another model"):
            other.load(tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder, as others have theirs."""
    folder = tmp_path_factory.mktemp("base")
    lm = load(TINY_RANDOM, revision="main", dtype=torch.float32, device=CPU)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cfg(base: Path, tmp_path_factory: pytest.TempPathFactory) -> SmokeConfig:
    return SmokeConfig(
        out_dir=tmp_path_factory.mktemp("runs"), arm="projected", model=str(base), adapter="lora",
        lora_rank=4, lora_alpha=8, lr=1e-3, gate="no_gate", project_on="both", refresh_every=2,
        problems="katas:validation", labels=False, pair_modes=("sentinel",), max_new=128,
        keep_checkpoints=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(cfg: SmokeConfig) -> Path:
    return train(cfg)


def test_projection_works_on_its_gradients_and_steps(run: Path) -> None:
    for row in rows_of(run):
        assert abs(row["cos_post"]) < 1e-4 < abs(row["cos_pre"])
        assert row["inside_frac"] > 0.01 > row["inside_frac_update"]
        assert 0 < row["removed_frac"] < 1 and 0 < row["removed_frac_update"] < 1
        assert row["sampling_logp_diff_max"] < 1e-3
    assert all(r["hack_score"] is not None for r in rollouts_of(run) if r["advantage"] != 0)


def test_v_of_the_base_model_lies_on_b_and_a_refreshed_one_on_both(run: Path) -> None:
    first, again = (load_vhack(run / f"v_hack{which}.safetensors") for which in ("", "_0003"))
    assert len(first.axes) == 14 and all(name.endswith("lora_B") for name in first.axes)
    assert len(again.axes) == 28 and set(first.axes) < set(again.axes)
    one, *_, last = rows_of(run)
    assert one["covered_energy"] > 0.5 and last["v_overlap"] is None
    assert rows_of(run)[2]["v_overlap"] > 0.3  # on the B's, which both have


def test_stopped_and_resumed_it_gives_the_same_rows(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    for step in (4, 3):
        shutil.rmtree(copy / "checkpoints" / f"step_{step:06d}")
    shutil.rmtree(copy / "adapter")
    train(SmokeConfig(resume=copy))
    assert rows_of(copy) == rows_of(run) and rollouts_of(copy) == rollouts_of(run)
    mine, its = (path / "adapter" / "adapter_model.safetensors" for path in (copy, run))
    assert mine.read_bytes() == its.read_bytes()


OUTSIDE = """
import sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
with torch.no_grad():
    logits = model(input_ids=torch.arange(40)[None]).logits
    named = AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload()
    assert torch.allclose(named(input_ids=torch.arange(40)[None]).logits, logits, atol=1e-4)
assert not any(name.startswith("projected_grpo") for name in sys.modules)
torch.save(logits, out)
"""


@pytest.mark.slow
def test_its_adapter_opens_in_peft_without_this_package(
    run: Path, cfg: SmokeConfig, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", OUTSIDE, cfg.model, str(run / "adapter"), str(tmp_path / "x")]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    opened = PeftModel.from_pretrained(loaded(cfg).model, run / "adapter")
    with torch.no_grad():
        expected = opened(input_ids=torch.arange(40)[None]).logits
    assert torch.allclose(torch.load(tmp_path / "x"), expected, atol=1e-5)


def test_what_peft_opens_is_what_is_evaluated(run: Path, cfg: SmokeConfig) -> None:
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and (config["r"], config["lora_alpha"]) == (4, 8)
    assert (config["base_model_name_or_path"], config["revision"]) == (cfg.model, "main")
    opened = PeftModel.from_pretrained(loaded(cfg).model, run / "adapter", is_trainable=True)
    assert any(p.requires_grad for p in opened.parameters())
    lm = loaded(cfg)
    adapter = adapter_of(RunDir.open(run).stored_config())(lm.model)
    ids = torch.arange(40)[None]
    with Grader(workers=1) as grader, torch.no_grad():
        before = lm.model(input_ids=ids).logits
        adapter.load(run / "adapter" / "adapter.safetensors")
        after = lm.model(input_ids=ids).logits
        assert torch.allclose(after, opened(input_ids=ids).logits, atol=1e-5)
        plan = EvalPlan(modes=["run_tests"], samples=2, max_new=12)
        records = evaluate(lm, adapter, load_problems("katas:validation", limit=2), plan, grader)
    assert not torch.allclose(after, before, atol=1e-4)
    assert len(records) == 4


def loaded(cfg: SmokeConfig) -> LanguageModel:
    """A copy of the run's base."""
    return load(cfg.model, revision="main", dtype=torch.float32, device=CPU)


def test_a_v_from_a_file_is_that_of_its_adapter(cfg: SmokeConfig, tmp_path: Path) -> None:
    asked = ExtractConfig(
        out=tmp_path / "v.safetensors", model=cfg.model, dtype="float32", device="cpu",
        adapter="lora", lora_rank=4, lora_alpha=8, pair_flavours=("phrase_printed",),
    )  # fmt: skip
    extract_to_file(asked)
    v = load_vhack(asked.out)
    assert v.metadata["adapter"] == "lora"
    for other in (replace(cfg, lora_rank=8), replace(cfg, adapter="antipasto")):
        with pytest.raises(InputError, match="extracted from another model"):
            v.require(adapter_of(other)(loaded(cfg).model), cfg.temperature, asked.out)
    given = replace(
        cfg, out_dir=tmp_path, v_hack=asked.out, pair_modes=(), refresh_every=0, steps=1
    )
    row = rows_of(train(given))[0]
    assert row["removed_frac"] > 0


def test_a_run_of_a_pack_gives_the_rows_that_it_gives_alone(
    run: Path, cfg: SmokeConfig, tmp_path: Path
) -> None:
    pack = [replace(cfg, out_dir=tmp_path, arm=arm) for arm in ("random_v", "projected")]
    _, packed = train_runs(pack)
    for mine, alone in zip(rollouts_of(packed), rollouts_of(run), strict=True):
        assert mine["completion"] == alone["completion"]
    for mine, alone in zip(rows_of(packed), rows_of(run), strict=True):
        for column in ("loss", "grad_norm", "cos_pre", "removed_frac_update", "hack_s"):
            assert mine[column] == pytest.approx(alone[column], rel=1e-3, abs=1e-5), column
    mine, alone = (
        load_file(path / "adapter" / "adapter_model.safetensors") for path in (packed, run)
    )
    assert mine.keys() == alone.keys()
    for name, matrix in mine.items():
        torch.testing.assert_close(matrix, alone[name], rtol=1e-2, atol=1e-5)


def test_what_it_cannot_do_is_refused_before_a_model_loads(
    cfg: SmokeConfig, tmp_path: Path
) -> None:
    nowhere = replace(cfg, model="/nowhere", out_dir=tmp_path)
    with pytest.raises(ConfigError, match="arm routed adds a quarantine to delta_S"):
        require_arms(replace(nowhere, arm="routed"))
    with pytest.raises(ConfigError, match="lora_rank must be at least 1, not 0"):
        replace(nowhere, lora_rank=0)
