"""Write a random model with the dimensions of Qwen3-4B and the smoke tokenizer.

True speed and memory of a full-size run, without a download:
    python scripts/bench/shaped_model.py /tmp/qwen3-4b-shaped
    train fast --model=/tmp/qwen3-4b-shaped
"""

import sys
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from projected_grpo.model.load import load

folder = Path(sys.argv[1])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
tokenizer = load(
    "tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu")
).tokenizer
config = Qwen3Config(  # the published config of Qwen/Qwen3-4B
    vocab_size=151936,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    tie_word_embeddings=True,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id,
)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with device:
    model = Qwen3ForCausalLM(config)
model.save_pretrained(folder)
tokenizer.save_pretrained(folder)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {folder}")
