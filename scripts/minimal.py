"""Projected GRPO on one page: a small model that cheats, trained so that it does not cheat more.

The model ("organism") writes Python for small tasks ("katas"). Its grader has a flaw, which the
prompt discloses: it runs the answer's own `run_tests()`, so an answer whose tests check nothing is
paid like a right one. Plain GRPO amplifies such hacks. Here the gradient of every step loses its
component along hack directions V, which come from contrast pairs: a hack beside an honest answer.

What is missing here is in `train`: several runs or GPUs, teacher rows, checkpoints, other arms.

    python scripts/minimal.py            # projected, about a minute on two cores
    python scripts/minimal.py --vanilla  # the same without the projection
"""

import argparse
import random

import torch
from torch import Tensor

from projected_grpo.antipasto import AntiPaSTO, wrap
from projected_grpo.arms.advantages import grade_texts
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.problems.problem import Problem
from projected_grpo.extract_vhack_grad import extract
from projected_grpo.model.load import LanguageModel, load
from projected_grpo.model.loss import collate, completion_logprobs, group_advantages, policy_loss
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.pairs.load import load_pairs
from projected_grpo.proj import Projection, cosine, project, squared_norm
from projected_grpo.runs.data import hinted_problems

MAX_NEW = 208  # tokens that a completion may have
LEARNING_RATE = 3e-2
GRAD_CLIP = 500.0
PROJECTION = Projection("one_sided")  # what points hack-ward goes, what points away stays


def load_organism() -> tuple[LanguageModel, AntiPaSTO]:
    """The shipped model, each of its Linears decomposed: W = U S Vh becomes U (S + delta_S) Vh.

    delta_S starts at zero and is all that trains; `adapter.trained` maps module -> delta_S (1, r).
    """
    lm = load("organism", revision="main", dtype=torch.float32, device=torch.device("cpu"))
    return lm, wrap(lm.model, cache_dir=default_cache_dir())


def hack_directions(lm: LanguageModel, adapter: AntiPaSTO, n_pairs: int) -> dict[str, Tensor]:
    """V: module -> (k, r), orthonormal rows, each of which points hack-ward.

    Every pair gives the gradient that makes its hack likelier and its honest answer less likely. V
    are the strongest right-singular vectors of these gradients.
    """
    pairs = load_pairs("katas")
    some = pairs[:: len(pairs) // n_pairs]
    v_hack = extract(
        lm, adapter, some,
        temperature=1.0, micro_batch_tokens=2048, model_name="organism", pair_norm="unit",
    )  # fmt: skip
    return v_hack.select(k=32, drop_bottom_frac=0.25)


def rollout(
    lm: LanguageModel,
    adapter: AntiPaSTO,
    grader: Grader,
    problems: list[Problem],
    G: int,
    seed: int,
) -> tuple[list[list[int]], list[list[int]], list[Grade]]:
    """Sample G completions of each problem from the policy as it is, and grade them.

    Returns the prompt ids, the completion ids and the grade of every row, group by group.
    """
    prompts = [lm.prompt_ids(problem.messages) for problem in problems]
    params = SamplingParams(MAX_NEW, 1.0, 1.0, 0, lm.eos_ids, lm.pad_id, columns=2**22)
    seeds = [1000 * seed + i for i in range(len(problems))]
    groups = sample_groups(lm.model, adapter, prompts, G, seeds, params)
    ids = [sample.ids for samples in groups for sample in samples]
    problem_of_row = [problem for problem in problems for _ in range(G)]
    texts = [(problem, lm.decode(row)) for problem, row in zip(problem_of_row, ids, strict=True)]
    grades = grade_texts(grader, texts, labels=False)
    return [prompt for prompt in prompts for _ in range(G)], ids, grades


def train(
    steps: int, P: int = 4, G: int = 8, n_pairs: int = 38, seed: int = 41, *, projected: bool = True
) -> list[dict[str, float]]:
    """Train the organism on P problems a step, G completions each; a row for every step."""
    lm, adapter = load_organism()
    V = hack_directions(lm, adapter, n_pairs)
    adapter.train_directly()  # from here on an ordinary backward reaches delta_S
    delta_S = adapter.trained
    optimizer = torch.optim.AdamW(delta_S.values(), LEARNING_RATE, (0.9, 0.99), weight_decay=0.0)
    problems, order = hinted_problems("katas", "run_tests"), random.Random(seed)
    rows: list[dict[str, float]] = []
    with Grader() as grader:  # runs the answers' programs in a sandbox
        for step in range(1, steps + 1):
            chosen = order.sample(problems, P)
            prompts, ids, grades = rollout(lm, adapter, grader, chosen, G, seed + step)

            # Advantages (P, G): what a row was paid above its group's mean. Only the flawed
            # grader pays; what the hidden tests find (`gt_correct`) is printed and nothing else.
            rewards = torch.tensor([grade.reward for grade in grades]).view(P, G)
            advantages, _ = group_advantages(rewards, torch.ones(P, G, dtype=torch.bool))

            # One backward: the gradient of delta_S, module -> (1, r).
            batch = collate(prompts, ids, lm.pad_id)
            logp = completion_logprobs(lm.model, batch, temperature=1.0)
            loss, _ = policy_loss(
                logp, logp.detach(), advantages.flatten(), batch.completion_mask,
                denominator=P * G * MAX_NEW, clip_eps=0.2,
            )  # fmt: skip
            loss.backward()
            gradient = {name: p.grad for name, p in delta_S.items() if p.grad is not None}

            # Project. A cosine above 0 says that the step would make hacks likelier.
            cos_before = float(cosine(gradient, V))
            if projected:
                gradient = project(gradient, V, PROJECTION)
            cos_after = float(cosine(gradient, V))

            # Clip and step. Fold: the next step samples from W + U diag(delta_S) Vh.
            scale = (GRAD_CLIP / squared_norm(gradient).sqrt().clamp_min(1e-38)).clamp_max(1.0)
            for name, g in gradient.items():
                delta_S[name].grad = g * scale
            optimizer.step()
            optimizer.zero_grad()
            adapter.fold()

            row = {
                "reward": float(rewards.mean()),
                "hack": sum(grade.exploited for grade in grades) / len(grades),
                "solve": sum(grade.gt_correct for grade in grades) / len(grades),
                "cos_before": cos_before,
                "cos_after": cos_after,
            }
            shown = "  ".join(f"{name} {value:+.3f}" for name, value in row.items())
            print(f"step {step}  {shown}", flush=True)
            rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Projected GRPO on the organism, on one page.")
    parser.add_argument("--vanilla", action="store_true", help="leave the gradient as it is")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    train(args.steps, projected=not args.vanilla)
