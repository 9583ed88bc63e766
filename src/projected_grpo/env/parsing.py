"""Read a model's answer: the program in its fences, and its syntax tree.

Nothing here runs a completion's code. Parsing goes one thread at a time: CPython 3.11 keeps the
depth of the tree that it is building in a place which all threads share. Where the collector runs
meanwhile, another thread may parse, and the first then ends in "SystemError: AST constructor
recursion depth mismatch". Grading in threads met it once in some 10^5 programs.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import NamedTuple, TypeGuard

_ONE_AT_A_TIME = Lock()


def parse(source: str) -> ast.Module:
    """Parse a program as `ast.parse` does, one thread at a time.

    Raises SyntaxError, ValueError, RecursionError or MemoryError.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(source)


def parse_expression(source: str) -> ast.Expression:
    """Parse one expression; raises what `parse` raises."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval")


MAX_CODE_CHARS = 200_000
"""A longer program is not parsed (a model's longest answers are a tenth of that)."""


def parse_program(code: str) -> ast.Module | None:
    """Parse a completion's program: None if it is no Python, or absurdly long."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        return parse(code)
    # ValueError: null bytes, lone surrogates. The others: nesting that exhausts the parser.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_LINE_END = re.compile(r"\r\n|\r|\n")


def split_lines(text: str) -> list[str]:
    """Split at the line ends that Python knows: other marks may stand inside a string."""
    return _LINE_END.split(text)


class Block(NamedTuple):
    """A fenced block that may hold Python."""

    labelled: bool
    """Its fence says that it is Python; else the fence says nothing."""
    text: str
    """As it stands in the answer, with its indentation."""


MAX_ANSWER_CHARS = 5 * MAX_CODE_CHARS
"""A longer answer is not looked into."""
MOST_BLOCKS = 100
"""So many blocks at the end of an answer are looked at one by one."""


def extract_code(completion: str) -> str | None:
    """Return the program in a model's answer, None without one.

    The benchmark's reading comes first: all fenced blocks labelled python or not labelled, stripped
    and joined by blank lines. Others follow (docs/environment.md, "Reading an answer"). The first
    that is a program with a class Solution counts, else the first that is a program, else the
    benchmark's.
    """
    if len(completion) > MAX_ANSWER_CHARS:
        return completion if "```" in completion else None
    first_text: str | None = None
    first_program: str | None = None
    seen: set[str] = set()
    for code in _readings(split_lines(completion)):
        if not code or code in seen:
            continue
        if sum(map(len, seen)) > 4 * MAX_CODE_CHARS:  # text made to be read in many ways
            break
        seen.add(code)
        first_text = first_text or code
        tree = parse_program(code)
        if tree is None:
            continue
        if any(is_solution(node) or _is_solution_name(node) for node in ast.walk(tree)):
            return code
        first_program = first_program or code
    return first_program or first_text


def _readings(lines: list[str]) -> Iterator[str]:
    """Yield the programs that an answer may mean, the likeliest first."""
    scans: list[list[Block]] = []
    for scan, strict in (
        (_benchmark_blocks, False),
        (_benchmark_blocks, True),
        (_markdown_blocks, False),
        (_markdown_blocks, True),
    ):
        blocks = list(scan(lines, strict))
        scans.append(blocks)
        for some in (blocks, [block for block in blocks if block.labelled]):
            yield _join([_strip(block.text) for block in some])
    known: dict[str, bool] = {}
    for blocks in scans:
        for some in ([block for block in blocks if block.labelled], blocks):
            yield _join([_strip(textwrap.dedent(block.text)) for block in some])
            yield _join(_last_programs(some, known))


def _last_programs(blocks: Sequence[Block], known: dict[str, bool]) -> list[str]:
    """Return the last blocks that are programs each: what follows a draft, or precedes output.

    `known` remembers of texts whether they are programs.
    """
    found: list[str] = []
    chars = 0
    for block in reversed(blocks[-MOST_BLOCKS:]):
        chars += len(block.text)
        if chars > MAX_CODE_CHARS:
            break
        texts = (_strip(block.text), _strip(textwrap.dedent(block.text)))
        for text in texts:
            if text not in known:
                known[text] = bool(text) and parse_program(text) is not None
        program = next((text for text in texts if known[text]), None)
        if program is not None:
            found.append(program)
        elif found:
            break
    return found[::-1]


def _join(texts: Sequence[str]) -> str:
    return "\n\n".join(texts)


def _strip(text: str) -> str:
    """Strip as the benchmark does, and a byte order mark with it."""
    return text.strip().removeprefix("\ufeff").strip()


_OPEN = re.compile(r"```[ \t]*([\w+-]*)$")
_CLOSING_LINE = re.compile(r" {0,3}```\s*")
_BENCHMARK_LABELS = ("python", "py", "python3")


def _benchmark_blocks(lines: list[str], strict: bool) -> Iterator[Block]:
    """Yield the blocks that the benchmark sees: a line that ends in backticks and a word opens one.

    A block ends at the first backticks that follow no `#` at the start of their line, or, if
    `strict`, at the first line that holds backticks and nothing else, not indented like code. The
    last may stay open.
    """
    block: list[str] | None = None
    label = ""
    for line in lines:
        if block is None:
            # Stripped first: a pattern with spaces at both ends takes quadratic time.
            opening = _OPEN.search(line.rstrip())
            if opening is not None:
                block, label = [], opening[1].lower()
            continue
        code, fence, _ = line.partition("```")
        inside = not _CLOSING_LINE.fullmatch(line) if strict else code.strip().startswith("#")
        if not fence or inside:
            block.append(line)
            continue
        block.append(code)
        if not label or label in _BENCHMARK_LABELS:
            yield Block(bool(label), "\n".join(block))
        block = None
    if block is not None and (not label or label in _BENCHMARK_LABELS):
        yield Block(bool(label), "\n".join(block))


_FENCE = re.compile(r"([ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(`{3,}|~{3,})(.*)", re.DOTALL)
"""Before it: indentation, a quotation's marks, a list's bullet."""
_QUOTE = re.compile(r"[ \t]{0,3}> ?")
_PYTHON = re.compile(
    r"[{.\[\s]*(?:code-cell\}?\s*)?(?:lang(?:uage)?[=-])?(?:i?python|py)[ -]?v?[\d.]*(?![\w+#-])",
    re.IGNORECASE,
)
"""python, Python 3.11, ipython, {python}, {.python .numbered}, language-python."""
_STATEMENT = re.compile(
    r"(?:async\s+)?(?:class|def)\s+\w|import\s+\w|from\s+[\w.]+\s+import\b|@\w|#"
)
_MORE_STATEMENTS = re.compile(
    r"[A-Za-z_][\w.]*\s+[-+*/]?=\s|[A-Za-z_][\w.]*\(|(?:if|for|while|with|try)\b.*:\s*$"
)


def _markdown_blocks(lines: list[str], strict: bool) -> Iterator[Block]:
    """Yield the blocks that people and models mean by fences.

    Unlike the benchmark's, they may be made of tildes or of more than three marks, stand in a list
    or a quotation, say more than the language, or have code on their own line. If `strict`, only a
    line of marks closes one.
    """
    block: list[str] | None = None
    mark, label, prefix = "", "", ""
    for line in lines:
        if block is None:
            fence = _FENCE.match(line)
            if fence is None:
                opening = _OPEN.search(line.rstrip())
                if opening is None or line.count("```") > 1:
                    continue
                prefix, mark, info = "", "```", opening[1]
            else:
                prefix, mark, info = fence.groups()
            inner, closing, after = info.partition(mark)
            if mark[0] in inner or after.strip():  # a span of code in a sentence
                continue
            label, code = _read_info(inner)
            if not closing:
                block = [code]
            elif code and label != "foreign":
                yield Block(label == "python", code)
            continue
        if ">" in prefix:
            line = _QUOTE.sub("", line, count=1)
        code, closing, after = line.partition(mark)
        if closing and not after.strip(mark[0] + " \t") and not code.strip():
            inside = strict and len(code.expandtabs()) > len(prefix.expandtabs()) + 3
        else:
            inside = strict or mark[0] == "~" or code.strip().startswith("#")
        if not closing or inside:
            block.append(line)
            continue
        block.append(code)
        if label != "foreign":
            yield Block(label == "python", "\n".join(block))
        block = None
    if block is not None and label != "foreign":
        yield Block(label == "python", "\n".join(block))


def _read_info(info: str) -> tuple[str, str]:
    """Read what stands behind a fence: (python | foreign | nothing, code on the fence's line)."""
    info = info.strip()
    if not info or _STATEMENT.match(info):
        return "", info
    language = _PYTHON.match(info)
    if language is None:
        return "foreign", ""
    rest = info[language.end() :].strip()
    is_code = _STATEMENT.match(rest) or _MORE_STATEMENTS.match(rest)
    return "python", rest if is_code else ""


def is_solution(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    """Is this a class Solution?"""
    return isinstance(node, ast.ClassDef) and node.name == "Solution"


def _is_solution_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "Solution" and isinstance(node.ctx, ast.Store)
