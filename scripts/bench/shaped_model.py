"""Write a random model with the dimensions of Qwen3-4B and the smoke tokenizer.

True speed and memory of a full-size run, without a download:
    python scripts/bench/shaped_model.py /tmp/qwen3-4b-shaped
    train fast --model=/tmp/qwen3-4b-shaped
"""

import sys
from pathlib import Path

import torch
from benchmark import Arguments, write_shaped

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = Arguments(shape="qwen3-4b", dtype="bfloat16", device=device)
    count = write_shaped(args, folder, "tiny-random", max_position_embeddings=40960)
    print(f"{count:,} parameters in {folder}")
