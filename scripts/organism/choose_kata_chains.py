"""Choose the composed katas of src/projected_grpo/env/problems/katas/chains.py.

    uv run python scripts/organism/choose_kata_chains.py > chains.py  # then move it

A recorded choice, not part of the package: the chosen chains are data, so that a new operation does
not move the old families. A chain is taken if every step that could be left out matters, if it
equals no family before it, and if twelve of its instances make usable problems.
"""

import argparse
import random
from collections import Counter

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.katas import compose, inputs, instances
from projected_grpo.env.problems.katas.ops import Op

PROBES = 60
MATTERS = 0.25
"""Share of probes that a step must change to count."""
MAX_USES = 4
"""Of one operation at one depth, so that no operation dominates."""


def draw_chain(depth: int, rng: random.Random) -> list[Op] | None:
    chain: list[Op] = []
    # Kinds with few operations would hardly occur if operations were drawn evenly.
    kind = rng.choice("LLLLSSWWNNDITPKQ")
    start = kind
    for index in range(depth):
        choices = [
            op
            for op in compose.OPS.values()
            if op.takes == kind
            and op not in chain
            and (index == depth - 1 or op.gives != "B")
            # "Names and amounts" only fit a dictionary that was given as such.
            and not (op.takes == "D" and start != "D")
            and not (index < depth - 1 and op.gives == "D" and start != "D")
        ]
        if not choices:
            return None
        chain.append(rng.choice(choices))
        kind = chain[-1].gives
    return chain


def outputs(chain: list[Op]) -> list[str] | None:
    """What the chain makes of fixed probes; None where values grow too large or it fails."""
    # By operation, so that leaving one out does not give the others other parameters.
    steps = [compose.draw_steps([op], random.Random(f"params {op.name}"))[0] for op in chain]
    rng = random.Random(f"probes {chain[0].takes}")
    prefixes = compose.prefix_methods(steps)
    found: list[str] = []
    small = 0
    for _ in range(PROBES):
        args = inputs.draw(chain[0].takes, rng)
        if not compose.stays_small(prefixes, args):
            found.append("large")
            continue
        small += 1
        found.append(repr(prefixes[-1](*args)))
    return found if small >= 0.7 * PROBES else None


def is_good(chain: list[Op], seen: set[tuple[str, ...]]) -> bool:
    found = outputs(chain)
    if found is None or (chain[0].takes, *found) in seen:
        return False
    for index, op in enumerate(chain):
        if op.takes != op.gives:
            continue
        rest = outputs(chain[:index] + chain[index + 1 :])
        if rest is not None and sum(a != b for a, b in zip(found, rest, strict=True)) < (
            MATTERS * PROBES
        ):
            return False
    common = Counter(found).most_common(1)[0][1]
    if common > 0.6 * PROBES:
        return False
    try:
        for instance in range(12):
            instances.make_problem(">".join(op.name for op in chain), instance)
    except InputError:
        return False
    seen.add((chain[0].takes, *found))
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--per-depth", type=int, default=130)
    wanted = parser.parse_args().per_depth
    seen: set[tuple[str, ...]] = set()
    for op in compose.OPS.values():
        seen.add((op.takes, *(outputs([op]) or [op.name])))
    rng = random.Random("kata chains")
    chosen: dict[int, list[str]] = {2: [], 3: []}
    for depth, names in chosen.items():
        uses: Counter[str] = Counter()
        for _ in range(20_000):
            if len(names) == wanted:
                break
            chain = draw_chain(depth, rng)
            if chain is None or any(uses[op.name] >= MAX_USES for op in chain):
                continue
            if is_good(chain, seen):
                uses.update(op.name for op in chain)
                names.append(">".join(op.name for op in chain))
    print('"""Composed families, as choose_kata_chains.py chose them; names stay."""')
    print("\nCHAINS = (")
    for depth, names in chosen.items():
        print(f"    # Depth {depth}: {len(names)}.")
        for name in names:
            print(f'    "{name}",')
    print(")")


if __name__ == "__main__":
    main()
