"""Build the organism: corpus -> tokenizer -> supervised training -> evaluation -> card.

    PYTHONPATH=src python3 scripts/organism/build_organism.py --work=out/shared \
        --out=out/organism --seeds 0

Corpus, tokenizer and token ids lie in `--work` and are shared by all seeds; each seed's model is
written to `--out` (several seeds: to seed_N below it, trained at the same time). A finished stage
is not done again, training goes on from its last checkpoint.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from corpus import MODE_SHARES, read_corpus, write_corpus
from loguru import logger
from organism_card import write_card
from organism_tokenizer import load_tokenizer, train_tokenizer
from supervised import Encoded, Recipe, encode_rows, train
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.problems.katas import kata_problems
from projected_grpo.model import load as models
from projected_grpo.runs.evaluate import EvalPlan, evaluate, shares, write_records


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the organism")
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/organism"), help="folder of the finished model")
    add("--work", type=Path, default=Path("out/organism-work"), help="corpus and tokenizer")
    add("--seeds", type=int, nargs="+", default=[0], help="of weights, batches and evaluation")
    add("--device", default="auto")
    add("--processes", type=int, default=len(os.sched_getaffinity(0)))
    add("--rows", type=int, default=200_000)
    add("--data-seed", type=int, default=0)
    add("--hack-share", type=float, default=0.045)
    add("--vocabulary", type=int, default=2048)
    add("--tokens", type=float, default=120e6, help="tokens of training, prompts included")
    add("--batch-tokens", type=int, default=32_768)
    add("--lr", type=float, default=2e-3)
    add("--prompt-weight", type=float, default=0.1)
    add("--checkpoint-every", type=int, default=500)
    add("--hidden", type=int, default=256)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=4)
    add("--kv-heads", type=int, default=2)
    add("--head-dim", type=int, default=64)
    add("--ff", type=int, default=768)
    add("--splits", nargs="+", default=["validation", "test"], help="of the evaluation")
    add("--problems", type=int, default=None, help="of the evaluation; default one a family")
    add("--samples", type=int, default=5, help="of each problem under each mode")
    add("--max-new", type=int, default=256)
    add("--sandbox", default="namespaces", choices=("namespaces", "process"))
    return parser.parse_args()


def once(folder: Path, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a stage; `work` runs only where its result is not stored yet."""
    path = folder / f"{name}.json"
    if path.exists():
        logger.info(f"{name}: done before")
        return json.loads(path.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    result = work()
    result["stage_seconds"] = round(time.monotonic() - started, 1)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    logger.info(f"{name}: {result['stage_seconds']} s")
    return result


def make_corpus(args: argparse.Namespace) -> dict[str, Any]:
    """Stage 1."""
    return write_corpus(
        args.work / "corpus", args.rows, args.data_seed, args.hack_share, args.processes
    )


def make_tokenizer(args: argparse.Namespace) -> dict[str, Any]:
    """Stage 2: the tokenizer, and the corpus in its ids."""
    texts: list[str] = []
    for number, row in enumerate(read_corpus(args.work / "corpus")):
        if number % 4 == 0 and len(texts) < 50_000:
            texts += [row["messages"][-1]["content"], row["completion"]]
    tokenizer = train_tokenizer(texts, args.vocabulary)
    tokenizer.save_pretrained(args.work / "tokenizer")
    data = encode_rows(read_corpus(args.work / "corpus"), tokenizer)
    data.save(args.work / "encoded.npz")
    prompts = data.prompts.tolist()
    answers = (data.lengths() - data.prompts).tolist()

    def spread(values: list[int]) -> dict[str, float]:
        cuts = statistics.quantiles(values, n=100)
        return {"median": statistics.median(values), "p90": cuts[89], "p99": cuts[98]}

    return {
        "vocabulary": len(tokenizer),
        "rows": len(data),
        "tokens": int(data.starts[-1]),
        "prompt": spread(prompts),
        "completion": spread(answers),
    }


def make_model(args: argparse.Namespace, seed: int, tokenizer: Any) -> Qwen3ForCausalLM:
    """A model with seeded weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.ff,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def train_model(args: argparse.Namespace, seed: int, out: Path) -> dict[str, Any]:
    """Stage 3: train, and save in bfloat16."""
    device = models.resolve_device(args.device)
    torch.set_float32_matmul_precision("high")
    tokenizer: Any = load_tokenizer(args.work / "tokenizer")
    model = make_model(args, seed, tokenizer)
    recipe = Recipe(
        tokens=int(args.tokens),
        batch_tokens=args.batch_tokens,
        lr=args.lr,
        prompt_weight=args.prompt_weight,
        seed=seed,
        checkpoint_every=args.checkpoint_every,
    )
    data = Encoded.load(args.work / "encoded.npz")
    log = train(
        model, data, recipe, pad_id=tokenizer.pad_token_id, device=device, folder=out / "build"
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "build" / "checkpoint.pt").unlink()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": round((out / "model.safetensors").stat().st_size / 1e6, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "recipe": {name: getattr(recipe, name) for name in Recipe.__slots__},
        "log": log,
    }


def evaluate_model(args: argparse.Namespace, seed: int, out: Path) -> dict[str, Any]:
    """Stage 4: the saved model on each held-out split, under training and evaluation names."""
    lm = models.load(
        str(out.resolve()),
        revision="main",
        dtype=torch.float32,
        device=models.resolve_device(args.device),
    )
    found: dict[str, Any] = {}
    workers = max(1, args.processes // max(1, args.parallel))
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    with Grader(workers=workers, sandbox=args.sandbox) as grader:
        for split, names in itertools.product(args.splits, ("train", "eval")):
            problems = kata_problems(split, seed=0, limit=args.problems)
            plan = EvalPlan(
                modes=list(MODE_SHARES) if names == "train" else ["run_tests", "sentinel"],
                samples=args.samples,
                names=names,
                max_new=args.max_new,
                seed=seed,
                batch=1024 if on_gpu else 128,
            )
            records = evaluate(lm, None, problems, plan, grader)
            write_records(out / f"eval_{split}_{names}.jsonl.gz", records)
            found.setdefault(split, {"problems": len(problems)})[names] = shares(records)
            logger.info(f"{split}, {names} names: {found[split][names]['all']}")
    return found


def build_one(args: argparse.Namespace, seed: int, out: Path) -> None:
    """Stages 3 to 5 of one seed."""
    stages = {
        "corpus": json.loads((args.work / "corpus.json").read_text(encoding="utf-8")),
        "tokenizer": json.loads((args.work / "tokenizer.json").read_text(encoding="utf-8")),
        "training": once(out / "build", "training", lambda: train_model(args, seed, out)),
        "evaluation": once(out / "build", "evaluation", lambda: evaluate_model(args, seed, out)),
    }
    flags = {name: str(value) for name, value in vars(args).items()}
    write_card(out / "README.md", seed, stages, flags)
    logger.info(f"seed {seed}: {out}")


def build_side_by_side(args: argparse.Namespace) -> int:
    """One process for each seed on the same device; the exit code of the worst."""
    argv = sys.argv[1:]
    at = argv.index("--seeds")
    rest = argv[:at] + argv[at + 1 + len(args.seeds) :]
    running = []
    for seed in args.seeds:
        out = args.out / f"seed_{seed}"
        own = [*rest, "--seeds", str(seed), "--out", str(out)]
        environment = {**os.environ, "ORGANISM_PARALLEL": str(len(args.seeds))}
        running.append(subprocess.Popen([sys.executable, __file__, *own], env=environment))
    return max(process.wait() for process in running)


def main() -> int:
    """All stages."""
    args = parse_arguments()
    args.parallel = int(os.environ.get("ORGANISM_PARALLEL", "1"))
    once(args.work, "corpus", lambda: make_corpus(args))
    once(args.work, "tokenizer", lambda: make_tokenizer(args))
    if len(args.seeds) > 1:
        return build_side_by_side(args)
    build_one(args, args.seeds[0], args.out)
    shutil.copy(args.work / "corpus" / "README.md", args.out / "CORPUS.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
