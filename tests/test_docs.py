"""The documentation can be read in a terminal, and its links lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/brainstorm/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_prose_are_at_most_120_characters(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    prose = [(n, line) for n, line in enumerate(lines, 1) if not line.startswith(("|", "## "))]
    long = [n for n, line in prose if len(line) > 120]
    assert not long, f"{page.name}: lines {long}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    gone = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not gone, f"{page.name}: {gone}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_that_are_named_exist(page: Path) -> None:
    if page.name in ("RESEARCH_JOURNAL.md", "CHANGELOG.md", "spec.md"):  # as they were written
        return
    text = page.read_text(encoding="utf-8")
    gone = [
        name for name in re.findall(r"\bscripts/[\w/]+\.py", text) if not (ROOT / name).exists()
    ]
    assert not gone, f"{page.name}: {gone}"


def names_of(module: str) -> set[str]:
    """What a module of ours defines or imports at its top; it is only read."""
    path = ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {one.stem for one in path.glob("*.py")}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_code_imports_from_us_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    gone = [
        f"{module}.{alias.name}"
        for line in re.findall(
            r"^from projected_grpo[\w.]* import (?:\([^)]*\)|.*)", text, re.MULTILINE
        )
        for node in ast.parse(line).body
        if isinstance(node, ast.ImportFrom) and (module := node.module)
        for alias in node.names
        if alias.name not in names_of(module)
    ]
    assert not gone, f"{page.name}: {gone}"
