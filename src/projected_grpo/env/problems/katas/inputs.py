"""Inputs of katas: a few fixed edge cases for each kind of value, and seeded random ones."""

import random
from collections.abc import Callable
from typing import Any

_WORDS = """
a an ant apple ash at cat cedar cloud dad dawn deed door eat egg ember eye fern fish frost gate hat
ice ink iron kayak key lake lamp leaf level moon nest net night no noon oak oats on orange owl pen
rain refer river sand sea stats stone sun tea ten tent tree urn use wind wool
"""
INPUT_WORDS = _WORDS.split()

EDGES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "L": (([],), ([0],), ([5],), ([-3],), ([2, 2, 2],), ([1, -1],)),
    "S": (("",), ("a",), ("Abba",), ("one",), ("Go 2 B",)),
    "W": (([],), (["a"],), (["noon"],), (["on", "on"],)),
    "N": ((0,), (1,), (10,), (49,), (-25,)),
    "D": (({},), ({"ink": 0},), ({"pen": 3, "cup": 3},)),
    "I": (([],), ([[3, 3]],), ([[1, 4], [4, 6]],)),
    "T": (([],), ([[]],), ([4],), ([[[-2]]],)),
    "P": ((1, 1), (7, 7), (1, 9), (12, 8)),
    "K": (([], 1), ([4], 2), ([3, 3], 1), ([1, 2, 3], 3)),
    "Q": (("", ""), ("a", ""), ("ab", "ba"), ("aa", "a")),
}


def draw_input(kind: str, rng: random.Random) -> tuple[Any, ...]:
    """Draw one random input of a kind: the method's arguments."""
    return _DRAW[kind](rng)


def _numbers(rng: random.Random) -> list[int]:
    length = rng.choice((2, 3, 4, 4, 5, 5, 6, 6, 7, 8))
    style = rng.randrange(8)
    if style == 0:
        return sorted(rng.randrange(-9, 13) for _ in range(length))
    if style == 1:
        half = [rng.randrange(-3, 8) for _ in range((length + 1) // 2)]
        return half + half[::-1][length % 2 :]
    if style in (2, 3):
        return [rng.randrange(-1, 5) for _ in range(length)]
    if style == 4:
        return [rng.randrange(-9, 0) for _ in range(rng.choice((1, 2, 3)))]
    if style == 5:  # up and down in turn
        return [rng.randrange(0, 4) + 5 * (j % 2) for j in range(length)]
    return [rng.randrange(-9, 13) for _ in range(length)]


def _text(rng: random.Random) -> str:
    style = rng.randrange(7)
    if style == 0:
        half = "".join(rng.choice("abcN") for _ in range(rng.randrange(1, 4)))
        return half + half[::-1].lower()[rng.randrange(2) :]
    if style == 1:
        return "".join(rng.choice("aabbAB1") * rng.randrange(1, 4) for _ in range(3))
    if style == 2:
        return "".join(rng.choice("abehxyzEO 123") for _ in range(rng.randrange(3, 10)))
    words = [rng.choice(INPUT_WORDS) for _ in range(rng.choice((1, 2, 2, 3)))]
    words = [w.capitalize() if rng.random() < 0.3 else w for w in words]
    if rng.random() < 0.3:
        words.append(str(rng.randrange(100)))
    return " ".join(words) + (" " if rng.random() < 0.15 else "")


def _words(rng: random.Random) -> list[str]:
    words = [rng.choice(INPUT_WORDS) for _ in range(rng.choice((2, 3, 3, 4, 4, 5)))]
    if rng.random() < 0.35:
        words.append(rng.choice(words))
    if rng.random() < 0.2:
        words = [words[0] + rng.choice(("", "s", "er")) for _ in range(3)]
    return words


def _number(rng: random.Random) -> int:
    style = rng.randrange(8)
    if style == 0:
        return rng.randrange(1, 32) ** 2
    if style == 1:
        return rng.randrange(2, 30)
    if style == 2:
        return -rng.randrange(1, 300)
    if style == 3:
        return rng.randrange(1, 10) * rng.choice((10, 11, 100, 101, 111))
    if style == 4:  # digits that never decrease
        return int("".join(sorted(str(rng.randrange(10, 1000)).replace("0", "7"))))
    if style == 5:
        return rng.choice((7, 13, 19, 23, 31, 44, 79, 97, 101, 109, 103, 130, 211))
    return rng.randrange(1, 1000)


def _table(rng: random.Random) -> dict[str, int]:
    names = rng.sample(INPUT_WORDS, rng.choice((1, 2, 3, 3, 4, 4, 5)))
    return {name: rng.randrange(0, 7) for name in names}


def _spans(rng: random.Random) -> list[list[int]]:
    starts = [rng.randrange(0, 14) for _ in range(rng.choice((1, 2, 3, 3, 4, 4)))]
    if rng.random() < 0.3:
        starts = [5 * j for j in range(len(starts))]
    spans = [[start, start + rng.randrange(0, 6)] for start in starts]
    if rng.random() < 0.3:  # one that ends where another begins
        spans.append([spans[0][1], spans[0][1] + rng.randrange(1, 4)])
    return spans


def _nested(rng: random.Random, depth: int = 3) -> list[Any]:
    return [
        _nested(rng, depth - 1) if depth > 1 and rng.random() < 0.4 else rng.randrange(-4, 9)
        for _ in range(rng.choice((1, 2, 2, 3, 3)))
    ]


def _two_strings(rng: random.Random) -> tuple[str, str]:
    s = "".join(rng.choice("aabc") for _ in range(rng.randrange(1, 7)))
    style = rng.randrange(7)
    if style == 0:
        cut = rng.randrange(len(s))
        return s, s[cut:] + s[:cut]
    if style == 1:
        return s, "".join(rng.sample(s, len(s)))
    if style == 2:
        return "".join(c for c in s if rng.random() < 0.6), s
    if style == 3:
        return s, s[: rng.randrange(len(s)) + 1]
    if style == 4:
        return s, s[: len(s) // 2] + "".join(rng.choice("abc") for _ in range(rng.randrange(3)))
    if style == 5:
        first, second = rng.sample(INPUT_WORDS, 2)
        return first, second
    return s, "".join(rng.choice("abc") for _ in range(rng.randrange(1, 6)))


_DRAW: dict[str, Callable[[random.Random], tuple[Any, ...]]] = {
    "L": lambda rng: (_numbers(rng),),
    "S": lambda rng: (_text(rng),),
    "W": lambda rng: (_words(rng),),
    "N": lambda rng: (_number(rng),),
    "D": lambda rng: (_table(rng),),
    "I": lambda rng: (_spans(rng),),
    "T": lambda rng: (_nested(rng),),
    "P": lambda rng: (rng.randrange(1, 70), rng.randrange(1, 70)),
    "K": lambda rng: (_numbers(rng), rng.randrange(1, 6)),
    "Q": _two_strings,
}
