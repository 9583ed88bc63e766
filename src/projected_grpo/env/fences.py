"""Read a model's answer: the program in its fences, and that program's syntax tree.

Nothing here runs a completion's code.
"""

import ast
import re

from projected_grpo.env.syntax import parse

MAX_CODE_CHARS = 200_000
"""A longer program is not parsed (a model's longest answers are a tenth of that)."""

_LANGUAGES = ("", "python", "py", "python3")
_OPEN = re.compile(r"```[ \t]*([\w+-]*)$")
_CLOSING_LINE = re.compile(r" {0,3}```\s*")


def extract_code(completion: str) -> str | None:
    """The program in a model's answer, None without one.

    As the benchmark does it: all fenced blocks labelled python or not labelled, stripped and joined
    by blank lines; an unclosed last fence counts. Unlike it, `py` and `python3` are python too, and
    where that is no Python program, other readings are tried: the labelled blocks alone (the others
    show output), and fences that only a line of their own closes (docstrings hold backticks). The
    first that is a program counts.
    """
    readings = [_blocks(completion, strict=False)]
    first = _joined(readings[0])
    if not first or parse_program(first) is not None:
        return first or None
    readings.append(_blocks(completion, strict=True))
    for blocks in readings:
        labelled = [block for block in blocks if block[0]]
        for some in (blocks, labelled):
            code = _joined(some)
            if code and parse_program(code) is not None:
                return code
    return first


def _joined(blocks: list[tuple[str, str]]) -> str:
    return "\n\n".join(code for _, code in blocks)


def _blocks(completion: str, *, strict: bool) -> list[tuple[str, str]]:
    """(language, code) of the python and unlabelled blocks.

    A block ends at the first backticks that follow no `#` at the start of their line, or, if
    `strict`, at the first line that holds backticks and nothing else, not indented like code.
    """
    blocks: list[tuple[str, str]] = []
    block: list[str] | None = None
    language = ""
    for line in completion.splitlines():
        if block is None:
            # Stripped first: a pattern with spaces at both ends takes quadratic time.
            opened = _OPEN.search(line.rstrip(" \t"))
            if opened is not None:
                block, language = [], opened[1].lower()
            continue
        code, fence, _ = line.partition("```")
        inside = not _CLOSING_LINE.fullmatch(line) if strict else code.strip().startswith("#")
        if not fence or inside:
            block.append(line)
            continue
        block.append(code)
        blocks.append((language, "\n".join(block).strip()))
        block = None
    if block is not None:
        blocks.append((language, "\n".join(block).strip()))
    return [(language, code) for language, code in blocks if language in _LANGUAGES]


def parse_program(code: str) -> ast.Module | None:
    """The syntax tree, None if Python cannot compile the text (or it is absurdly long)."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        return parse(code)
    # ValueError: null bytes, lone surrogates. The others: nesting that exhausts the parser.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
