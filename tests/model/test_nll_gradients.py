"""The cache of the gradients that V is made of: what it depends on, and what damage does to it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rows_of
from loguru import logger
from short_runs import SHORT, few_pairs
from torch import Tensor

from projected_grpo.antipasto import AntiPaSTO, wrap
from projected_grpo.env.errors import InputError
from projected_grpo.model import nll_gradients as nll_module
from projected_grpo.model import tensor_file
from projected_grpo.model.adapter import Adapter
from projected_grpo.model.load import LanguageModel, checkpointed, load
from projected_grpo.model.lora import LoRA
from projected_grpo.model.loss import PromptCompletion, tokens_at_once
from projected_grpo.model.nll_gradients import cached_nll_gradients, nll_gradients
from projected_grpo.train import train

ANSWERS = [([3, 4, 5], [6, 7, 2]), ([3, 4, 5], [8, 2]), ([9, 3], [4, 4, 4, 2])]
HOW = {"temperature": 0.7, "micro_batch_tokens": 64}


def model(**how) -> LanguageModel:
    how = {"dtype": torch.float32, **how}
    return load("tiny-random", revision="main", device=torch.device("cpu"), **how)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return model()


@pytest.fixture
def adapter(lm: LanguageModel) -> Iterator[AntiPaSTO]:
    """A model may be wrapped once only, so every test gets it with delta_S at zero."""
    if not hasattr(lm.model, "test_adapter"):
        object.__setattr__(lm.model, "test_adapter", wrap(lm.model))
    yield lm.model.test_adapter
    with torch.no_grad():
        for value in lm.model.test_adapter.trained.values():
            value.zero_()


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.strip()), format="{level} {message}")
    yield lines
    logger.remove(sink)


def cached(lm: LanguageModel, adapter: Adapter, folder: Path, answers=None, **how) -> list[Tensor]:
    """The cached gradients, in the order of their modules."""
    chosen: list[PromptCompletion] = ANSWERS if answers is None else answers
    return [*cached_nll_gradients(lm, adapter, chosen, folder, **{**HOW, **how}).values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_second_time_they_come_from_the_cache_bit_for_bit(lm, adapter, tmp_path, said) -> None:
    plain = [*nll_gradients(lm, adapter, ANSWERS, **HOW).values()]
    first = cached(lm, adapter, tmp_path / "v")
    (file,) = (tmp_path / "v").iterdir()
    written = file.stat().st_mtime_ns
    assert [line for line in said if "took" in line] == [said[-1]] and str(file) in said[-1]
    again = cached(lm, adapter, tmp_path / "v", micro_batch_tokens=1)  # changes rounding only
    assert "from the cache" in said[-1] and str(file) in said[-1]
    assert same(plain, first) and same(first, again) and file.stat().st_mtime_ns == written
    assert [*adapter.trained] == [
        *cached_nll_gradients(lm, adapter, ANSWERS, tmp_path / "v", **HOW)
    ]


def test_what_they_depend_on_has_a_file_of_its_own(lm, adapter, tmp_path) -> None:
    def files() -> int:
        return len([*tmp_path.iterdir()])

    first = cached(lm, adapter, tmp_path)
    assert files() == 1
    cached(lm, adapter, tmp_path, temperature=1.0)
    assert files() == 2
    changed = [([3, 4, 5], [6, 7, 2]), ([3, 4, 5], [8, 2]), ([9, 3], [4, 4, 5, 2])]
    cached(lm, adapter, tmp_path, changed)
    cached(lm, adapter, tmp_path, ANSWERS[::-1])
    assert files() == 4
    other = model()
    with torch.no_grad():  # of no module that trains, so the fingerprint is the same
        other.model.get_input_embeddings().weight[700, 3] += 1
    theirs = wrap(other.model)
    assert theirs.fingerprint() == adapter.fingerprint()
    assert not same(first, cached(other, theirs, tmp_path))
    assert files() == 5
    half = model(dtype=torch.bfloat16)
    cached(half, wrap(half.model), tmp_path)
    assert files() == 6
    lora = model()
    cached(lora, LoRA(lora.model, 2, 4), tmp_path)
    assert files() == 7


def test_a_pack_reads_what_a_run_alone_has_kept(lm, adapter, tmp_path, said) -> None:
    first = cached(lm, adapter, tmp_path)
    pack = model()
    assert same(first, cached(pack, wrap(pack.model, n_runs=3), tmp_path))
    assert "from the cache" in said[-1] and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("damage", ["cut", "one bit", "another file"])
def test_a_damaged_file_is_made_anew_with_one_warning(
    lm, adapter, tmp_path, said, damage: str
) -> None:
    first = cached(lm, adapter, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    bad = {"cut": whole[:100], "one bit": whole[:-1] + bytes([whole[-1] ^ 1]), "another file": b""}
    file.write_bytes(bad[damage])
    said.clear()
    assert same(first, cached(lm, adapter, tmp_path))
    assert [line for line in said if line.startswith("WARNING")] == [
        f"WARNING {file} was damaged: V is extracted anew"
    ]
    assert file.read_bytes() == whole


def test_of_a_policy_that_has_moved_nothing_is_kept(lm, adapter, tmp_path) -> None:
    with torch.no_grad():
        next(iter(adapter.trained.values()))[0, 0] = 1e-6
    with pytest.raises(ValueError, match="has moved"):
        cached(lm, adapter, tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_folder_that_cannot_be_used_is_named(lm, adapter, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"cannot make the cache of V, {tmp_path / 'file'}"):
        cached(lm, adapter, tmp_path / "file")

    def full(tensors, path, metadata) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "write_tensors", full)
    with pytest.raises(InputError, match=r"No space left.*PROJECTED_GRPO_CACHE"):
        cached(lm, adapter, tmp_path / "v")
    assert not [*(tmp_path / "v").iterdir()]


def test_runs_share_the_gradients_and_refreshed_v_is_not_kept(
    tmp_path, monkeypatch, said, capfd
) -> None:
    """vanilla extracts; projected and shuffled_v, whose differences are others, of the same pairs
    need nothing more; what a refresh extracts of a policy that has moved leaves no file."""
    monkeypatch.setenv("PROJECTED_GRPO_CACHE", str(tmp_path / "cache"))
    cfg = replace(SHORT, out_dir=tmp_path / "runs", pairs=few_pairs())
    first = train(cfg)
    (file,) = (tmp_path / "cache" / "v").iterdir()
    assert sum("took" in line for line in said) == 1
    said.clear()
    again = train(cfg)
    train(replace(cfg, arm="shuffled_v", refresh_every=1))
    kept = [line for line in said if "gradients of" in line]
    assert len(kept) == 3 and all("from the cache" in line for line in kept)
    assert [*(tmp_path / "cache" / "v").iterdir()] == [file]
    assert rows_of(again) == rows_of(first)
    assert "%|" not in capfd.readouterr().err, "a bar outside a terminal"


def test_what_a_cpu_would_keep_too_much_of_is_computed_again_and_gives_the_same(
    lm, adapter, monkeypatch
) -> None:
    plain = nll_gradients(lm, adapter, ANSWERS, **HOW)
    used: list[bool] = []

    def noted(model, wanted):
        used.append(wanted)
        return checkpointed(model, wanted)

    monkeypatch.setattr(nll_module, "checkpointed", noted)
    monkeypatch.setattr(nll_module, "KEPT_ON_CPU", 1)
    again = nll_gradients(lm, adapter, ANSWERS, **HOW)
    assert used and all(used)
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
    layers = lm.model.get_decoder().layers
    assert not any("forward" in layer.__dict__ for layer in layers), "left checkpointed"


def test_zero_micro_batch_tokens_is_the_devices_choice() -> None:
    assert tokens_at_once(0, torch.device("cpu")) == 512
    assert tokens_at_once(0, torch.device("cuda")) == 4096
    assert tokens_at_once(7, torch.device("cpu")) == 7
