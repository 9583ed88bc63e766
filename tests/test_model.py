"""Loading: what is refused."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from projected_grpo.model import ModelError, load


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
    with pytest.raises(ModelError, match="scales, caps or shifts its logits"):
        load(str(tmp_path), revision="main", dtype=torch.float32, device=torch.device("cpu"))


def load_tiny():
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))
