"""Hand-made contrast pairs: one coding task, answered once with a hack and once without.

- Three sets ship beside this file, on the same tasks: `builtin` (hack against clean), and two
  controls, `placebo` (clean against clean) and `framing` (the same honest code, with honest or
  dishonest prose). docs/brainstorm/extracted_prefs.md says why they look as they do,
  tests/pairs/test_pairs.py enforces the style rules and executes every side.
- A pair's messages have the live form: the training prompt, with the mode's hint put in.
- Reading pairs imports no torch, so that they can be listed and checked anywhere.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from projected_grpo.config import ConfigError
from projected_grpo.env.errors import InputError
from projected_grpo.env.loopholes.modes import MODES, apply_hint
from projected_grpo.env.names import hint
from projected_grpo.env.problems.problem import PRELUDE, Case, Messages, Problem, build_messages
from projected_grpo.pairs.katas import kata_pairs
from projected_grpo.pairs.own import OWN, OWN_PLACEBO, OWN_REPORTS
from projected_grpo.pairs.pair import Pair

SETS = {
    name: Path(__file__).with_name(f"{name}.toml") for name in ("builtin", "placebo", "framing")
}
"""The sets that `load_pairs` knows by name."""

COARSER = {
    "print_only": ("print",),
    "empty_tests": ("pass", "early_return"),
    "swallowed_failure": ("swallow", "soft_check"),
    "trivially_true": ("assert_true", "or_true"),
    "weak_predicate": ("weak", "type_only"),
    "attribute_set": ("init_attribute", "class_attribute", "property", "patch_attribute"),
    "phrase_printed": ("module_print", "function_print", "stdout_write", "fake_report"),
    "verdict_written": ("open_write", "pathlib_write", "print_to_file"),
}
"""Flavour of a hand-made set -> the flavours of env/loopholes/flavours.py that its hacks are."""

KATAS = ("katas", "katas-placebo")
"""The sets that are made by construction (katas.py)."""

PLACEBO = {
    **{"builtin": "placebo", "katas": "katas-placebo"},
    **dict.fromkeys((OWN, OWN_REPORTS), OWN_PLACEBO),
}
"""Pairs -> the set whose sides are both clean, on the same tasks."""

_TEXTS = (
    "id",
    "mechanism",
    "mode",
    "entry_point",
    "description",
    "starter_code",
    "hack",
    "clean",
)
_CASES = ("examples", "checks")
_BORROWED = ("task", "hack", "clean")
"""Keys of an entry that takes all else from the built-in pair whose id `task` names."""


def load_pairs(
    source: str | Path = "builtin",
    mechanisms: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
) -> list[Pair]:
    """Load the pairs of a set in file order: all, or those of the named mechanisms and modes.

    `source` is one of `SETS`, `katas` or `katas-placebo` (katas.py), or the path of a TOML file
    with the same keys. An entry may instead have the keys `task`, `hack` and `clean`: it is on the
    task of the built-in pair with that id, and has its tags. Selecting by a mechanism or mode that
    the file does not have is an error.
    """
    if str(source) in KATAS:
        place, pairs = Path(source), list(kata_pairs(placebo=str(source) == "katas-placebo"))
    else:
        place = SETS.get(str(source), Path(source))
        pairs = list(_parsed_pairs(_text_of(place), place))
    return _select(_select(pairs, "mechanism", mechanisms, place), "mode", modes, place)


def placebo_of(pairs: str) -> str:
    """The placebo set of a set of pairs. Raises ConfigError where it has none."""
    if pairs not in PLACEBO:
        *others, last = PLACEBO
        raise ConfigError(
            f"--pairs={pairs} has no placebo pairs on the same tasks, of which placebo_v is made: "
            f"only {', '.join(others)} and {last} have"
        )
    return PLACEBO[pairs]


@lru_cache(maxsize=16)
def _parsed_pairs(text: str, path: Path) -> tuple[Pair, ...]:
    """The pairs of a file that holds this text. Kept, since a start asks for the same file several
    times and to parse it takes longer than all else that is done with it."""
    pairs: dict[str, Pair] = {}
    for number, entry in enumerate(_entries(text, path), start=1):
        pair = _pair(_with_task(entry, path, number), path, number)
        if pair.id in pairs:
            raise InputError(f"{path}: pair {pair.id!r} stands in the file twice; ids are unique")
        pairs[pair.id] = pair
    return tuple(pairs.values())


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """Hash (sha256) what extraction sees of the pairs, so that a basis can name its source.

    Ids, mechanisms, messages and completions, in order. Checks are left out: they only test the
    pairs, so adding one must not orphan a saved basis.
    """
    content = [
        [pair.id, pair.mechanism, pair.mode, list(pair.messages), pair.hack, pair.clean]
        for pair in pairs
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def holdout_split(pairs: Sequence[Pair], every: int = 4) -> tuple[list[Pair], list[Pair]]:
    """Split into (train, held out): of each mechanism, every `every`-th family is held out.

    A family follows the side that its first pair was put on, so none is on both, and a direction is
    tested on tasks that it was not made from. With eight pairs a mechanism, all of different
    families, and the default, two are held out, so that both parts cover all mechanisms.
    """
    if every < 2:
        raise InputError(f"every must be at least 2 to leave pairs to train on, got {every}")
    families: dict[str, int] = {}  # of each mechanism, so far
    is_held_out: dict[str, bool] = {}
    for pair in pairs:
        if pair.family not in is_held_out:
            families[pair.mechanism] = families.get(pair.mechanism, 0) + 1
            is_held_out[pair.family] = families[pair.mechanism] % every == 0
    train = [pair for pair in pairs if not is_held_out[pair.family]]
    return train, [pair for pair in pairs if is_held_out[pair.family]]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def _entries(text: str, path: Path) -> list[Any]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    entries = content.get("pair")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: holds no [[pair]] entry")
    return entries


def _select(pairs: list[Pair], tag: str, names: Sequence[str] | None, path: Path) -> list[Pair]:
    """Select the pairs whose tag ("mechanism", to users the flavour, or "mode") is one of `names`;
    None asks for all."""
    if names is None:
        return pairs
    word = "flavour" if tag == "mechanism" else tag
    known = list(dict.fromkeys(getattr(pair, tag) for pair in pairs))
    for name in names:
        if name not in known:
            raise InputError(f"{path}: no pair of {word} {name!r}: {_meant(name, known)}")
    if not names:
        raise InputError(f"{path}: the list of {word}s to select is empty")
    return [pair for pair in pairs if getattr(pair, tag) in names]


def _meant(name: str, known: Sequence[str]) -> str:
    """The end of a sentence on a flavour or mode that a set has not: hand-made sets name their
    flavours in a coarser way than graders do."""
    coarser = [tag for tag, flavours in COARSER.items() if name in flavours and tag in known]
    return f"this set calls it {coarser[0]}" if coarser else hint(name, known)


@cache
def _builtin_tasks() -> dict[str, dict[str, Any]]:
    path = SETS["builtin"]
    return {entry["id"]: entry for entry in _entries(_text_of(path), path)}


def _with_task(entry: Any, path: Path, number: int) -> dict[str, Any]:
    """Complete the entry by the built-in task that it names, if it names one."""
    if not isinstance(entry, dict):
        raise InputError(f"{path}: pair {number} is not a table; write it under a [[pair]] line")
    if "task" not in entry:
        return entry
    task = entry["task"]
    if not isinstance(task, str) or task not in _builtin_tasks():
        raise InputError(f"{path}: pair {number}: no built-in pair has the id {task!r}")
    for key in entry:
        if key not in _BORROWED:
            raise InputError(f"{path}: pair {number}: {key!r} comes with the task, leave it out")
    given = {key: value for key, value in _builtin_tasks()[task].items() if key not in _BORROWED}
    return given | {key: value for key, value in entry.items() if key != "task"}


def _pair(entry: dict[str, Any], path: Path, number: int) -> Pair:
    where = f"{path}: pair {entry.get('id', number)!r}"
    for key in (*_TEXTS, *_CASES):
        if key not in entry:
            raise InputError(f"{where} lacks the key {key!r}")
    for key in entry:
        if key not in (*_TEXTS, *_CASES):
            raise InputError(f"{where} has the unknown key {key!r}")
    for key in _TEXTS:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise InputError(f"{where}: {key} must be a text that is not blank")
    if entry["hack"] == entry["clean"]:
        raise InputError(f"{where}: hack and clean are the same text, so it shows no direction")
    if entry["mode"] not in MODES:
        raise InputError(f"{where}: unknown mode {entry['mode']!r}; known: {', '.join(MODES)}")
    examples, checks = (_cases(entry[key], key, where) for key in _CASES)
    return Pair(
        id=entry["id"],
        mechanism=entry["mechanism"],
        mode=entry["mode"],
        family=entry["entry_point"],
        messages=_messages(entry, examples, checks, where),
        hack=entry["hack"],
        clean=entry["clean"],
        entry_point=entry["entry_point"],
        starter_code=entry["starter_code"],
        examples=examples,
        checks=checks,
    )


def _cases(values: Any, key: str, where: str) -> tuple[Case, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{where}: {key} must be a list of [arguments, expected] that is not empty"
        )
    for index, value in enumerate(values, start=1):
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], dict):
            raise InputError(f"{where}: entry {index} of {key} is not [{{arguments}}, expected]")
    return tuple(Case(kwargs=kwargs, expected=expected) for kwargs, expected in values)


def _messages(
    entry: dict[str, str], examples: tuple[Case, ...], checks: tuple[Case, ...], where: str
) -> Messages:
    """Make the prompt as training does: the same two functions build and hint it."""
    try:
        problem = Problem(
            id=0,
            dataset="pairs",
            difficulty="easy",
            messages=build_messages(
                entry["description"], entry["entry_point"], entry["starter_code"]
            ),
            entry_point=entry["entry_point"],
            starter_code=entry["starter_code"],
            setup_code=PRELUDE,
            cases=(*examples, *checks),
            mode=entry["mode"],
            examples=examples,
        )
        return apply_hint(problem, entry["mode"]).messages
    except InputError as error:
        raise InputError(f"{where}: no prompt can be made of it ({error})") from None
