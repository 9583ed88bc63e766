"""The documentation can be read in a terminal, and its links lead somewhere."""

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
