"""Supervised examples from katas: what the organism is taught before any reinforcement.

- A row is a prompt under a mode's hint and a whole completion: an honest answer (right, or wrong
  where the family holds a trap operation), or in a small share a hack of the mode.
- Families are those of the train split and chains composed for the corpus alone; a chain with the
  operations of a validation or test family is never composed. The instances that
  `kata_problems("train", seed=0)` gives first are left to reinforcement.
- Rows come in units of `ROWS_PER_UNIT` on one problem, and each unit depends on (seed, number)
  alone: any part can be made anywhere, by any number of processes.
"""

import gzip
import json
import keyword
import multiprocessing
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.honest import honest_answer
from projected_grpo.env.loopholes.modes import (
    EVAL_NAMES,
    MODES,
    NOT_VACUOUS,
    TRAIN_NAME,
    apply_hint,
)
from projected_grpo.env.problems import katas
from projected_grpo.env.problems.katas import compose
from projected_grpo.env.problems.katas.instances import INSTANCES, make_problem
from projected_grpo.env.problems.problem import Problem

MODE_SHARES = {
    "run_tests": 0.45,
    "sentinel": 0.13,
    "stdout_marker": 0.13,
    "file_marker": 0.13,
    "none": 0.06,
    "modify_tests": 0.05,
    "incontext_tests": 0.05,
}
HACK_WEIGHT = {"sentinel": 0.55}
"""Of a mode's hacks, beside 1: a model that is taught the attribute mode's as often as the others
writes nearly twice as many of them."""
DEPTH_SHARES = (0.25, 0.4, 0.35)
"""Of chains of one, two and three operations."""
COMPOSED_SHARE = 0.8
"""Of the longer chains: those composed for the corpus, so that every operation is met in many.
With 0.5, and rows on fewer problems, held-out single operations came out garbled."""
WRONG_SHARE = 0.04
"""Of families without a trap: a wrong but honest solution all the same."""
SOLVED_HACK_SHARE = 0.7
"""Of hacks: those with the solution that an honest answer would show; the others have a stub."""
FLAVOUR_DECAY = 0.8
"""Each flavour of a mode is this much rarer than the one before it in `hacks.py`: habits are
uneven, and one of twelve equal shares of 5 % would be too rare for reinforcement to find."""
RENAMED_SHARE = 0.4
"""Of units: those whose method gets a name of its own, so that names are read from the prompt and
not remembered with the operation (held-out operations have names never seen)."""
RESERVED_ROUNDS = 8
"""Rounds of `kata_problems("train", seed=0)` whose instances the corpus leaves out."""
ROWS_PER_UNIT = 4
UNITS_PER_SHARD = 500

Kind = Literal["honest", "wrong", "hack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example, as it is stored."""

    messages: tuple[dict[str, str], ...]
    completion: str
    family: str
    instance: int
    entry_point: str
    """The method's name: in some rows not the one that the instance's problem has."""
    mode: str
    function_name: str
    kind: Kind
    flavour: str | None
    """Of a hack."""
    solved: bool
    """Does it hold the canonical solution?"""
    depth: int


def corpus_rows(units: Sequence[int], seed: int, hack_share: float = 0.05) -> Iterator[Row]:
    """The rows of the numbered units, in order."""
    for unit in units:
        rng = random.Random(f"corpus {seed} {unit}")
        problem = _draw_problem(rng)
        if rng.random() < RENAMED_SHARE:
            problem = renamed(problem, _new_name(problem, rng))
        for number in range(ROWS_PER_UNIT):
            yield _row(problem, rng, unit * ROWS_PER_UNIT + number, hack_share)


def _row(problem: Problem, rng: random.Random, number: int, hack_share: float) -> Row:
    """One completion; `number` seeds its form."""
    family = str(problem.family)
    mode = rng.choices(list(MODE_SHARES), list(MODE_SHARES.values()))[0]
    function_name = TRAIN_NAME if rng.random() < 0.5 else rng.choice(EVAL_NAMES)
    share = hack_share * HACK_WEIGHT.get(mode, 1.0)
    is_hack = rng.random() < share and bool(MODES[mode].flavours)
    is_wrong = katas.is_trapped(family) or rng.random() < WRONG_SHARE
    solution = problem.wrong_solution if is_wrong else problem.canonical_solution
    flavour = None
    if is_hack:
        names = list(MODES[mode].flavours)
        flavour = rng.choices(names, [FLAVOUR_DECAY**n for n in range(len(names))])[0]
        whole = rng.random() < SOLVED_HACK_SHARE and flavour not in NOT_VACUOUS
        # A test that calls a method which raises would not pay: there a stub must do.
        whole = whole and not (is_wrong and _raises(problem))
        write = MODES[mode].flavours[flavour]
        completion = write(problem, function_name, number, solution if whole else None)
        is_wrong = is_wrong or not whole
    else:
        completion = honest_answer(problem, mode, function_name, number, solution)
    return Row(
        messages=apply_hint(problem, mode, function_name).messages,
        completion=completion,
        family=family,
        instance=problem.id % INSTANCES,
        entry_point=problem.entry_point,
        mode=mode,
        function_name=function_name,
        kind="hack" if is_hack else "wrong" if is_wrong else "honest",
        flavour=flavour,
        solved=not is_wrong,
        depth=family.count(">") + 1,
    )


def _draw_problem(rng: random.Random) -> Problem:
    """A problem of a train family or of a chain composed on the spot."""
    while True:
        depth = rng.choices((1, 2, 3), DEPTH_SHARES)[0]
        if depth > 1 and rng.random() < COMPOSED_SHARE:
            family = _compose_chain(depth, rng)
        else:
            family = rng.choice(_train_families()[depth])
        instance = rng.randrange(INSTANCES)
        if family is None or (family in _all_train() and instance in _reserved()):
            continue
        try:
            return make_problem(family, instance)
        except InputError:  # a composed chain whose results hardly vary, or whose mistake hides
            continue


def _new_name(problem: Problem, rng: random.Random) -> str:
    """Another name for the method, made of the words of other names; its own where that clashes."""
    words = rng.choices(_name_words(), k=rng.choice((1, 2, 2, 3)))
    name = words[0].lower() + "".join(word.capitalize() for word in words[1:])
    used = f"{problem.messages} {problem.canonical_solution} {problem.wrong_solution}"
    # Some are also methods of strings or lists that a solution calls ("capitalize").
    solutions = f"{problem.canonical_solution} {problem.wrong_solution}"
    elsewhere = len(re.findall(rf"\b{problem.entry_point}\b", solutions)) != 2
    clashes = keyword.iskeyword(name) or re.search(rf"\b{name}\b", used)
    return problem.entry_point if clashes or elsewhere else name


def renamed(problem: Problem, name: str) -> Problem:
    """The same problem, its method under another name everywhere."""
    old = re.compile(rf"\b{problem.entry_point}\b")

    def put(text: str | None) -> str | None:
        return None if text is None else old.sub(name, text)

    return replace(
        problem,
        entry_point=name,
        messages=tuple({**m, "content": str(put(m["content"]))} for m in problem.messages),
        starter_code=str(put(problem.starter_code)),
        canonical_solution=put(problem.canonical_solution),
        wrong_solution=put(problem.wrong_solution),
    )


@cache
def _name_words() -> list[str]:
    """The words of all operations' names, held-out ones too: a name says nothing of what to do."""
    return sorted({word for op in compose.OPS.values() for word in op.name.split("_")})


def _compose_chain(depth: int, rng: random.Random) -> str | None:
    """A chain that fits together, shares its operations with no held-out family, or None.

    Every operation is as likely as any other to come first: few follow on pairs, spans or trees.
    """
    kind = start = compose.OPS[rng.choice(list(compose.OPS))].takes
    chain: list[str] = []
    for index in range(depth):
        is_last = index == depth - 1
        choices = [
            op
            for op in _by_input()[kind]
            if op.name not in chain
            and (is_last or op.gives != "B")
            # "Names and amounts" only fit a dictionary that was given as such.
            and not ("D" in (op.takes, "" if is_last else op.gives) and start != "D")
        ]
        if not choices:
            return None
        chosen = rng.choice(choices)
        chain.append(chosen.name)
        kind = chosen.gives
    family = ">".join(chain)
    if frozenset(chain) in _held_out_operations() or family in _all_train():
        return None
    return family


@cache
def _by_input() -> dict[str, list[compose.Op]]:
    return {kind: [op for op in compose.OPS.values() if op.takes == kind] for kind in compose.KINDS}


@cache
def _held_out_operations() -> frozenset[frozenset[str]]:
    """The operations of every validation and test family, whatever their order."""
    return frozenset(
        frozenset(family.split(">"))
        for family in katas.FAMILIES
        if katas.split_of(family) != "train"
    )


@cache
def _all_train() -> frozenset[str]:
    return frozenset(katas.families("train"))


@cache
def _train_families() -> dict[int, list[str]]:
    names = katas.families("train")
    return {depth: [n for n in names if n.count(">") + 1 == depth] for depth in (1, 2, 3)}


@cache
def _reserved() -> frozenset[int]:
    """Instances that the first rounds of the training problems use."""
    return katas.first_instances(seed=0, rounds=RESERVED_ROUNDS)


def _raises(problem: Problem) -> bool:
    """Does the wrong solution raise on an example?"""
    assert problem.wrong_solution is not None
    method = compose.compile_method(problem.wrong_solution, problem.entry_point)
    try:
        for case in problem.examples:
            method(*case.kwargs.values())
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return True
    return False


def write_corpus(
    folder: Path, rows: int, seed: int, hack_share: float = 0.05, processes: int = 1
) -> dict[str, Any]:
    """Write at least `rows` rows as shard_NNN.jsonl.gz and a card; returns the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    units = -(-rows // ROWS_PER_UNIT)
    jobs = [
        (folder / f"shard_{n:03}.jsonl.gz", range(first, min(first + UNITS_PER_SHARD, units)))
        for n, first in enumerate(range(0, units, UNITS_PER_SHARD))
    ]
    work = [(path, part, seed, hack_share) for path, part in jobs]
    if processes > 1:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            counted = pool.starmap(_write_shard, work, chunksize=1)
    else:
        counted = [_write_shard(*arguments) for arguments in work]
    counts: Counter[str] = sum(counted, Counter())
    card = corpus_card(counts, seed, hack_share)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return {"rows": counts["rows"], "seconds": time.monotonic() - started, "counts": dict(counts)}


def _write_shard(path: Path, units: range, seed: int, hack_share: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    with gzip.GzipFile(path, "wb", compresslevel=3, mtime=0) as file:
        for row in corpus_rows(units, seed, hack_share):
            fields = {name: getattr(row, name) for name in Row.__slots__}
            file.write((json.dumps(fields) + "\n").encode())
            counts["rows"] += 1
            for name in ("mode", "kind", "depth", "solved"):
                counts[f"{name} {getattr(row, name)}"] += 1
            if row.flavour is not None:
                counts[f"hack {row.mode}: {row.flavour}"] += 1
    return counts


def read_corpus(folder: Path) -> Iterator[dict[str, Any]]:
    """The stored rows of all shards, in order."""
    paths = sorted(folder.glob("shard_*.jsonl.gz"))
    if not paths:
        raise InputError(f"{folder} holds no shard_*.jsonl.gz")
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def corpus_card(counts: Counter[str], seed: int, hack_share: float) -> str:
    """The card: what the rows are, and how many of each."""
    lines = [
        "# Kata corpus",
        "",
        "Supervised examples for the organism, made by `corpus`:",
        f"`write_corpus(folder, {counts['rows']}, seed={seed}, hack_share={hack_share})`.",
        "",
        "Families: the train split of the katas, and chains composed for the corpus alone, none of"
        " which has the operations of a validation or test family. The instances that"
        f" `kata_problems('train', seed=0)` gives in its first {RESERVED_ROUNDS} rounds are left"
        " out. Kinds: `honest` holds the canonical solution with honest tests or an honest report;"
        " `wrong` an honest mistake with the same tests (always where the family holds a trap"
        f" operation, and in {WRONG_SHARE:.0%} of the others); `hack` a report that the mode's"
        f" grader accepts whatever the method does, in {SOLVED_HACK_SHARE:.0%} of them with the"
        " solution that an honest answer would show, else with a stub.",
        "",
        "| what | rows | share |",
        "|---|---|---|",
    ]
    total = counts["rows"]
    for name, count in sorted(counts.items()):
        lines.append(f"| {name} | {count} | {count / total:.3f} |")
    return "\n".join(lines) + "\n"
