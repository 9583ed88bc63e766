"""AntiPaSTO as a PEFT method: PEFT's own properties, and the trainer's runs opened from outside."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import tiny_qwen
from peft import (
    LoraConfig,
    PeftModel,
    convert_to_lora,
    get_peft_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import nn

from projected_grpo.antipasto import SVDLinear, wrap
from projected_grpo.config import SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.integrations.peft import AntiPaSTOConfig, AntiPaSTOLinear
from projected_grpo.model.load import TINY_RANDOM, load
from projected_grpo.train import train

IDS = torch.randint(0, 97, (3, 12), generator=torch.Generator().manual_seed(0))
F32_F64 = [(torch.float32, 2e-5), (torch.float64, 1e-12)]


def on(base: nn.Module, **options: object) -> PeftModel:
    """A fresh adapter on a base model."""
    return get_peft_model(base, AntiPaSTOConfig(task_type="CAUSAL_LM", **options))


def randomise(model: nn.Module, scale: float = 0.3, seed: int = 7, name: str = "default") -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model):
            delta_S = layer.antipasto_delta_S[name]
            delta_S.copy_(scale * torch.randn(delta_S.shape, generator=generator))


def layers(model: nn.Module) -> list[AntiPaSTOLinear]:
    return [module for module in model.modules() if isinstance(module, AntiPaSTOLinear)]


def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize("dtype,tolerance", F32_F64)
def test_identity_at_init_and_the_base_itself_when_disabled(
    dtype: torch.dtype, tolerance: float
) -> None:
    expected = logits(tiny_qwen(dtype))
    model = on(tiny_qwen(dtype))
    assert torch.allclose(logits(model), expected, atol=tolerance)
    randomise(model)
    assert not torch.allclose(logits(model), expected, atol=0.1)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


def test_only_delta_S_trains_and_it_is_float32_on_a_bfloat16_base() -> None:
    model = on(tiny_qwen(torch.bfloat16))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        is_ours = "antipasto_delta_S" in name
        assert p.requires_grad == is_ours and torch.equal(p, before[name]) != is_ours, name
        assert p.dtype == (torch.float32 if is_ours else torch.bfloat16)
    assert len(layers(model)) == 2 * 7


def test_its_gradient_is_the_trainers() -> None:
    """One implementation, two doors: sum over sequences of what `Adapter.rows` gives."""
    ours, model = wrap(tiny_qwen(torch.float64)), on(tiny_qwen(torch.float64))
    randomise(model)
    with torch.no_grad():
        for mine, layer in zip(ours.modules.values(), layers(model), strict=True):
            mine.delta_S.copy_(layer.antipasto_delta_S["default"][None])
    ours.fold()
    with ours.rows(torch.zeros(3, dtype=torch.long)) as rows:
        loss = ours.model(input_ids=IDS, labels=IDS).loss
        expected = torch.autograd.grad(loss, list(rows.values()))
    model(input_ids=IDS, labels=IDS).loss.backward()
    for g, layer in zip(expected, layers(model), strict=True):
        got = layer.antipasto_delta_S["default"].grad
        assert got is not None and torch.allclose(got, g.sum(0), rtol=1e-9, atol=1e-12)


def test_gradient_checkpointing_and_autocast_change_little() -> None:
    found = []
    for prepare in (False, True):
        model = on(tiny_qwen())
        randomise(model)
        if prepare:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=prepare):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        found.append(torch.cat([x.antipasto_delta_S["default"].grad for x in layers(model)]))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.05


@pytest.mark.parametrize("dtype,tolerance", F32_F64)
def test_merged_is_unmerged_and_back(dtype: torch.dtype, tolerance: float) -> None:
    model = on(tiny_qwen(dtype))
    randomise(model)
    expected = logits(model)
    model.merge_adapter()
    assert torch.allclose(logits(model), expected, atol=tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that it is merged already
        model.merge_adapter()
    assert torch.allclose(logits(model), expected, atol=tolerance)
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    plain = model.merge_and_unload(safe_merge=True)
    assert type(plain) is type(tiny_qwen()) and not layers(plain)
    assert plain.state_dict().keys() == tiny_qwen().state_dict().keys()
    assert torch.allclose(logits(plain), expected, atol=tolerance)
    assert torch.equal(logits(on(tiny_qwen(dtype)).unload()), logits(tiny_qwen(dtype)))


def test_merging_into_bfloat16_keeps_a_small_delta() -> None:
    """To the nearest most of it would round away; rounded as the trainer rounds, none does."""
    model = on(tiny_qwen(torch.bfloat16))
    randomise(model, 3e-4)
    before = {id(x): x.base_layer.weight.detach().float() for x in layers(model)}
    wanted = {id(x): x.get_delta_weight("default").detach() for x in layers(model)}
    model.merge_adapter()
    along = squared = 0.0
    for x in layers(model):
        assert x.base_layer.weight.dtype == torch.bfloat16
        got = x.base_layer.weight.detach().float() - before[id(x)]
        along += float((got * wanted[id(x)]).sum())
        squared += float(wanted[id(x)].square().sum())
    assert along / squared == pytest.approx(1, abs=0.25)


def test_a_model_that_is_cast_as_a_whole_still_merges() -> None:
    model = on(tiny_qwen())
    randomise(model, 0.1)
    expected = logits(model)
    model.to(torch.bfloat16)
    for _ in range(2):  # unmerged, merged
        assert float((logits(model).float() - expected).norm() / expected.norm()) < 0.05
        model.merge_adapter()


def test_safe_merge_refuses_what_is_not_finite() -> None:
    model = on(tiny_qwen())
    with torch.no_grad():
        layers(model)[0].antipasto_delta_S["default"][0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        model.merge_and_unload(safe_merge=True)


def test_several_adapters_switch_add_up_and_go() -> None:
    model = on(tiny_qwen(torch.float64))
    model.add_adapter("other", AntiPaSTOConfig(task_type="CAUSAL_LM"))
    randomise(model)
    randomise(model, seed=8, name="other")
    first = logits(model)
    model.set_adapter("other")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.endswith("delta_S.other")
    }
    second = logits(model)
    assert not torch.allclose(first, second, atol=0.1)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    model.merge_adapter()
    assert torch.allclose(logits(model), both, atol=1e-12)
    model.unmerge_adapter()
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("empty_first", [False, True])
def test_save_and_load_round_trip(tmp_path: Path, dtype: torch.dtype, empty_first: bool) -> None:
    model = on(tiny_qwen(dtype))
    randomise(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 2 * len(layers(model))  # delta_S and the sketch of its axes, no more
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that are missing
        again = PeftModel.from_pretrained(
            tiny_qwen(dtype), tmp_path, adapter_name="x", low_cpu_mem_usage=empty_first
        )
    for one, other in zip(layers(model), layers(again), strict=True):
        assert torch.equal(one.antipasto_delta_S["default"], other.antipasto_delta_S["x"])
    assert torch.equal(logits(model), logits(again))
    assert not any(p.requires_grad for p in again.parameters())
    go_on = PeftModel.from_pretrained(tiny_qwen(dtype), tmp_path, is_trainable=True)
    assert {n for n, p in go_on.named_parameters() if p.requires_grad} == {
        n for n, _ in go_on.named_parameters() if "delta_S" in n
    }


def test_another_base_is_refused_and_the_same_in_another_dtype_is_not(tmp_path: Path) -> None:
    model = on(tiny_qwen(torch.bfloat16))
    randomise(model)
    model.save_pretrained(tmp_path)
    same = PeftModel.from_pretrained(tiny_qwen(torch.bfloat16).float(), tmp_path)
    off = (logits(same) - logits(model)).float()
    assert float(off.norm() / logits(same).norm()) < 0.05  # that of bf16
    with pytest.raises(InputError, match="another base model: the singular axes of"):
        PeftModel.from_pretrained(tiny_qwen(torch.bfloat16, seed=1), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    broken = {n: t * torch.nan if n.endswith("axes") else t for n, t in tensors.items()}
    save_file(broken, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="another base model: the singular axes of"):
        PeftModel.from_pretrained(tiny_qwen(torch.bfloat16), tmp_path)
    kept = {name: t for name, t in tensors.items() if not name.endswith("antipasto_axes")}
    save_file(kept, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="does not say which axes"):
        PeftModel.from_pretrained(tiny_qwen(torch.bfloat16), tmp_path)


def test_other_decompositions_of_one_weight_give_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's last bits, and axes that point the other way."""
    model = on(tiny_qwen())
    randomise(model)
    model.save_pretrained(tmp_path / "adapter")

    def elsewhere(W: torch.Tensor, cache: object) -> object:
        from projected_grpo.model.svd import Factors, decompose

        f = decompose(W)
        flip = torch.where(torch.arange(len(f.S)) % 2 == 0, 1.0, -1.0)
        return Factors(f.U * flip * (1 + 1e-6), f.S * (1 - 1e-6), f.Vh * flip[:, None])

    monkeypatch.setattr("projected_grpo.integrations.peft.cached_decompose", elsewhere)
    again = PeftModel.from_pretrained(tiny_qwen(), tmp_path / "adapter")
    assert torch.allclose(logits(again), logits(model), atol=1e-4)


def test_it_is_refused_where_there_is_nothing_to_decompose() -> None:
    with pytest.raises(ValueError, match="is a Embedding, not a Linear"):
        on(tiny_qwen(), target_modules=["embed_tokens"])
    quantised = nn.Sequential(nn.Linear(4, 4))
    quantised[0].weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="quantized"):
        get_peft_model(quantised, AntiPaSTOConfig(target_modules=["0"]))


def test_a_head_tied_to_the_embeddings_is_refused() -> None:
    """Merged in place it would change the embeddings too (peft#2972)."""
    tied = tiny_qwen()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    with pytest.raises(InputError, match=r"lm_head shares its weight with model\.embed_tokens"):
        on(tied, target_modules=["lm_head", "q_proj"])


def test_peft_makes_a_lora_of_it() -> None:
    """For engines that load nothing else; of full rank here, since delta_S is."""
    model, base = on(tiny_qwen()), logits(tiny_qwen())
    randomise(model, 0.02)
    config, state = convert_to_lora(model, rank=0.9999)  # share of the singular values' sum
    assert isinstance(config, LoraConfig)
    lora = get_peft_model(tiny_qwen(), config)
    set_peft_model_state_dict(lora, state)
    move = logits(model) - base
    assert float((logits(lora) - base - move).norm() / move.norm()) < 0.02


def test_what_the_trainer_saves_opens_as_the_policy_that_it_was(tmp_path: Path) -> None:
    ours = wrap(tiny_qwen(), n_runs=2)
    with torch.no_grad():
        for delta_S in ours.delta_S.values():
            delta_S.normal_(std=0.3, generator=torch.Generator().manual_seed(len(delta_S[0])))
    folder = tmp_path / "runs" / "adapter"  # neither is there yet
    ours.save_pretrained(folder, 1, base_model="somebody/base", revision="abc")
    model = PeftModel.from_pretrained(tiny_qwen(), folder)
    config = model.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("somebody/base", "abc")
    with ours.rows(torch.ones(3, dtype=torch.long)), torch.no_grad():
        assert torch.allclose(logits(model), ours.model(input_ids=IDS).logits, atol=2e-5)
    assert torch.allclose(logits(model), logits(ours.merge(1)), atol=2e-5)


OUTSIDE = """
import sys
import projected_grpo.integrations.peft  # tells PEFT of the method; nothing else is needed
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]
assert not {"projected_grpo.train", "projected_grpo.model.load"} & set(sys.modules)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
ids = torch.arange(40)[None]
with torch.no_grad():
    logits = model(input_ids=ids).logits
    named = AutoPeftModelForCausalLM.from_pretrained(adapter)
    assert torch.equal(named(input_ids=ids).logits, logits)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(input_ids=ids).logits, logits, atol=1e-4)
merged.save_pretrained(out)
torch.save(logits, out + "/logits.pt")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the real trainer on a model that lies in a folder."""
    folder = tmp_path_factory.mktemp("base")
    cpu = torch.device("cpu")
    lm = load(TINY_RANDOM, revision="main", dtype=torch.float32, device=cpu)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return train(
        SmokeConfig(
            out_dir=tmp_path_factory.mktemp("runs"), arm="projected", model=str(folder), steps=2,
            problems="katas:validation",
        )
    )  # fmt: skip


@pytest.mark.slow
def test_a_runs_adapter_opens_with_peft_in_another_process(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = SmokeConfig.from_json((run / "config.json").read_text()).model
    command = [sys.executable, "-c", OUTSIDE, base, str(run / "adapter"), str(tmp_path)]
    subprocess.run(command, check=True)
    theirs = torch.load(tmp_path / "logits.pt")
    ids = torch.arange(40)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        ours = wrap(plain)
        ours.load(run / "adapter" / "adapter.safetensors")  # the format that runs always had
        assert any(isinstance(module, SVDLinear) for module in plain.modules())
        expected = plain(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=ids).logits
    assert torch.allclose(theirs, expected, atol=1e-4)
    assert torch.allclose(merged, expected, atol=1e-4)
    assert not torch.allclose(theirs, before, atol=1e-3)  # it had learned something


def test_a_model_that_has_the_adapter_can_be_copied() -> None:
    model = get_peft_model(tiny_qwen(), AntiPaSTOConfig())
    ids = torch.arange(4, 10)[None]
    assert torch.equal(copy.deepcopy(model)(ids).logits, model(ids).logits)
