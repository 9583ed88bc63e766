"""A V file and an adapter that commit f542cc8 wrote (tests/data/f542cc8) open and are used as they
were then."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import projected_grpo.integrations.peft  # noqa: F401 (the method)
from projected_grpo.antipasto import AntiPaSTO, wrap
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.model.load import TINY_RANDOM, load

DATA = Path(__file__).parents[1] / "data" / "f542cc8"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The SVD cache of then: another processor's last bits are other axes."""
    shutil.copytree(DATA / "cache", tmp_path / "cache")
    monkeypatch.setenv("PROJECTED_GRPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "svd"


def base() -> torch.nn.Module:
    device = torch.device("cpu")
    return load(TINY_RANDOM, revision="main", dtype=torch.float32, device=device).model


def wrapped(cache: Path) -> AntiPaSTO:
    return wrap(base(), cache_dir=cache)


@pytest.mark.parametrize("name", ["v_hack.safetensors", "finished/v_hack.safetensors"])
def test_a_v_file_opens_and_fits(name: str, cache: Path) -> None:
    adapter, v_hack = wrapped(cache), load_vhack(DATA / name)
    v_hack.require(adapter, 0.7, name, False)
    basis = v_hack.select(5, 0.25)
    assert 0 < len(basis) <= len(adapter.modules)
    for module, V in basis.items():
        assert V.shape[1] == adapter.delta_S[module].shape[1]
        assert torch.allclose(V @ V.T, torch.eye(len(V)), atol=1e-5)


def test_an_adapter_opens_in_our_loader_and_in_peft(cache: Path) -> None:
    folder, ids = DATA / "finished" / "adapter", torch.arange(30)[None]
    adapter = wrapped(cache)
    adapter.load(folder / "adapter.safetensors")
    stored = load_file(folder / "adapter.safetensors")
    assert all(torch.equal(adapter.delta_S[name], value) for name, value in stored.items())
    assert all(value.any() for value in stored.values())
    ours = adapter.model(input_ids=ids).logits
    theirs = PeftModel.from_pretrained(base(), folder)(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, base()(input_ids=ids).logits, atol=1e-3)
