"""Loading: what is refused."""

from dataclasses import replace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from projected_grpo.env.errors import InputError
from projected_grpo.model.load import RMS_NORMS, fuse_norms, load


def test_a_model_that_caps_its_logits_is_refused(tmp_path) -> None:
    """The loss takes the head apart, so a head that is more than a Linear would be trained
    wrongly."""
    config = Gemma2Config(
        vocab_size=len(load_tiny().tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        final_logit_softcapping=0.05, initializer_range=0.5,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    load_tiny().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="scales, caps or shifts its logits"):
        load(str(tmp_path), revision="main", dtype=torch.float32, device=torch.device("cpu"))


def test_only_the_norms_themselves_are_fused() -> None:
    """A subclass may compute something else."""

    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + 1

    model = torch.nn.Sequential(LlamaRMSNorm(4), Shifted(4))
    fuse_norms(model)
    assert [type(module) for module in model] == [torch.nn.RMSNorm, Shifted]


@pytest.mark.parametrize("norm", RMS_NORMS)
def test_a_fused_norm_is_the_norm(norm: type[torch.nn.Module]) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 7, 32, generator=g), torch.randn(32, generator=g)
    model = torch.nn.Sequential(norm(32, eps=1e-3))
    model[0].weight.data = weight
    expected = model(x)
    fuse_norms(model)
    assert isinstance(model[0], torch.nn.RMSNorm) and torch.equal(model(x), expected)
    exact = weight.double() * x.double() / (x.double().square().mean(-1, True) + 1e-3).sqrt()
    assert torch.allclose(model.double()(x.double()), exact, rtol=1e-13, atol=1e-13)


def load_tiny():
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


def test_a_text_is_encoded_once_and_its_ids_may_be_changed() -> None:
    lm = load_tiny()
    ids = lm.ids_of("def f(x):")
    assert ids == lm.tokenizer.encode("def f(x):", add_special_tokens=False)
    ids.append(0)
    assert lm.ids_of("def f(x):") == ids[:-1] == lm.encoded["def f(x):"]
    assert replace(lm).encoded == {}  # which may have another tokenizer
