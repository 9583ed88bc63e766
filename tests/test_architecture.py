"""The tree is the architecture: arrows run one way, and nothing grows past a second look."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "projected_grpo"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    "proj",
    "step_logger",
    "env",
    "config",
    "pairs",
    "model",
    "antipasto",
    "extract_vhack_grad",
    "arms",
    "runs",
    "report",
    "integrations",
    "train",
    "cli",
    "__main__",
)
"""The rooms of the package, lowest first: each imports only rooms that stand before it."""

TORCH_FREE = (
    *("arms.arms", "cli", "config", "step_logger", "model.download", "pairs.katas", "pairs.load"),
    *("env.grading.command", "env.loopholes.modes", "env.problems.load"),
    *("report.stats", "report.student_t", "report.tables"),
    *("runs.commands", "runs.policy_commands", "runs.settings_file", "runs.ranks"),
    *("runs.status", "runs.sweep.command", "runs.trackers"),
    *("arms.basis_record", "arms.effects", "arms.yoked"),
    *("runs.command_line", "runs.lists", "runs.plan", "runs.preflight"),
)
"""What answers at once, such as `--help`: a fresh interpreter that imports these has no torch."""


SHARED_NAMES = {
    "main": "a process of its own begins there: the sandbox's server and the grader's worker",
    "run": "what each launcher of a sweep has, which LAUNCHERS (runs/sweep/launchers.py) chooses",
    "queued": "the same",
}
"""Public names that stand in several modules on purpose, and why."""


def module_of(path: Path) -> str:
    """ "env.problems" of env/problems/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """What a file imports of this package, late and type-only imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` is an arrow to the module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            own = name.removeprefix("projected_grpo.")
            if own != name:
                yield own if own in MODULES else own.rpartition(".")[0]


ARROWS = {module: set(imports(path)) - {module, ""} for module, path in MODULES.items()}


def test_every_room_has_its_floor() -> None:
    there = {module.split(".")[0] for module in MODULES} - {""}
    assert there == set(LAYERS)
    assert len(there - {"__main__"}) <= 14


def test_arrows_between_rooms_run_down() -> None:
    floor = {room: number for number, room in enumerate(LAYERS)}
    up = [
        f"{module} -> {other}"
        for module, others in ARROWS.items()
        for other in others
        if module and floor[other.split(".")[0]] > floor[module.split(".")[0]]
    ]
    assert not up, up


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Inside rooms too: take away what imports nothing that is left, until nothing is."""
    left = dict(ARROWS)
    while free := [module for module, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert not left, sorted(left)


def public_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """What a module defines at its top for others: functions, classes, constants, type aliases."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            found = [
                part.id
                for part in parts
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            ]
        elif isinstance(node, ast.If | ast.Try):
            inner = [*node.body, *node.orelse]
            found = list(public_names(inner))
        else:
            continue
        yield from (name for name in found if not name.startswith("_"))


def test_no_two_things_share_a_name() -> None:
    places: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for name in public_names(ast.parse(path.read_text(encoding="utf-8")).body):
            places.setdefault(name, set()).add(module)
    twice = {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}
    said = [
        f"{name} is defined in {' and in '.join(modules)}: where both are one thing, let one "
        "import the other's, otherwise give one a name that says what it is"
        for name, modules in twice.items()
        if name not in SHARED_NAMES
    ]
    assert not said, "\n".join(said)
    idle = SHARED_NAMES.keys() - twice.keys()
    assert not idle, f"SHARED_NAMES has {sorted(idle)}, which no two modules define: leave it out"


IMPORT_ALL = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(f"projected_grpo.{module}")
    print(module, "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, str]:
    """Module -> whether torch is there after its import: of one fresh interpreter, which imports
    one after another. Torch stays once it is there, so that the first True is of who imports it."""
    command = [sys.executable, "-c", IMPORT_ALL, *TORCH_FREE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", TORCH_FREE)
def test_these_import_no_torch(module: str, imported: dict[str, str]) -> None:
    assert imported[module] == "False"


def test_nothing_in_src_imports_scripts_or_tests() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in ("scripts", "tests"), path


def test_no_function_is_longer_than_80_lines_and_every_public_one_says_what_it_does() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 80, (path, node.name, length)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), (path, node.name)
