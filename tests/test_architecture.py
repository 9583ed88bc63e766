"""The tree is the architecture: arrows run one way, and nothing grows past a second look."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "projected_grpo"
MODULES = sorted(PACKAGE.rglob("*.py"))
TORCH_FREE = (
    *("env", "pairs", "config", "seeds", "stats", "step_logger", "student_t"),
    *("cli", "trackers", "sweep", "hub", "ranks", "tables"),
)
PURE = ("proj", "grpo", "rewards", "svd", "adapter", "antipasto", "stats", "student_t")
COMPOSERS = {
    *("train", "session", "run", "records", "cli", "update", "arms", "probe_distill", "evaluate"),
    *("refresh", "bases", "grading", "quarantine", "weights", "running", "adapters"),
    *("trackers", "samples", "hub", "cards", "distributed"),
    *("sweep", "launch", "cells", "catalogue"),
    *("callback", "trl_env"),
    *("results", "tables", "figures"),
    *("report", "report_read", "report_experiments", "report_figures", "report_page"),
}


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Modules imported by a file; without `lazy`, only those imported when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("name", TORCH_FREE)
def test_these_import_no_torch(name: str) -> None:
    """Transitively: a fresh interpreter that imports them has no torch."""
    module = f"projected_grpo.{name}"
    if name == "env":
        module = (
            "projected_grpo.env.regrade, projected_grpo.env.loopholes, projected_grpo.env.katas"
        )
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_environment_knows_nothing_of_the_rest() -> None:
    for path in MODULES:
        if name_of(path) == "env":
            outside = {
                name
                for name in imports(path, lazy=True)
                if name.startswith("projected_grpo.") and not name.startswith("projected_grpo.env")
            }
            assert not outside, (path, outside)


def test_the_mathematics_touches_no_composing_module() -> None:
    for name in PURE:
        used = {
            part.split(".")[1]
            for part in imports(PACKAGE / f"{name}.py", lazy=True)
            if part.startswith("projected_grpo.")
        }
        assert not used & (COMPOSERS | {"env", "model", "pool", "rollout"}), (name, used)


def test_nothing_in_src_imports_scripts_or_tests() -> None:
    for path in MODULES:
        assert not {n for n in imports(path, lazy=True) if n.split(".")[0] in ("scripts", "tests")}


def test_no_function_is_longer_than_80_lines_and_every_public_one_says_what_it_does() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 80, (path, node.name, length)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), (path, node.name)
