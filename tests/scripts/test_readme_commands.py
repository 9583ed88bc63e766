"""README's commands: read off the page, shortened, and left out only for a reason."""

from pathlib import Path

import pytest
from readme_commands import commands, reason_to_skip, shortened, train_words

from projected_grpo.env.problems.load import load_problems
from projected_grpo.runs.commands import train_settings

ROOT = Path(__file__).parents[2]
README = [*commands((ROOT / "README.md").read_text(encoding="utf-8"))]


def test_lines_are_joined_and_comments_left_out() -> None:
    page = (
        "```\n# nothing\nuv run x \\\n    --a=1  # why\nuv run y\n```\n\n```python\nimport z\n```\n"
    )
    assert [*commands(page)] == ["uv run x --a=1", "uv run y"]


def test_only_training_without_steps_is_shortened() -> None:
    assert (
        shortened("uv run train mini --arm=vanilla") == "uv run train mini --arm=vanilla --steps=2"
    )
    for command in (
        "uv run train mini --steps=5",
        "uv run train mini --dry-run",
        "uv run report runs",
    ):
        assert shortened(command) == command


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("uv run train small", "needs the network, and a GPU"),
        ("uv run train mini --model=owner/name", "needs the network, and a GPU"),
        ("uv run train small --dry-run", ""),
        ("uv run train mini", ""),
        ("uv run just download-model owner/name", "needs the network"),
        ("uv run torchrun --nproc-per-node 2 -m projected_grpo train mini", "needs several GPUs"),
    ],
)
def test_what_needs_a_network_or_a_gpu_is_skipped_with_the_reason(
    command: str, reason: str
) -> None:
    found = reason_to_skip(command)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_the_readme_begins_with_the_main_job_and_most_of_it_is_run() -> None:
    assert README[1] == "uv run train mini --arms vanilla projected"
    run = [command for command in README if not reason_to_skip(command)]
    assert len(run) > len(README) / 2
    for command in README:
        if (words := train_words(command)) is not None:
            train_settings([word for word in words if word != "--dry-run"])


def test_the_readme_fits_120_lines() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 120


def test_files_that_commands_name_are_there() -> None:
    named = [part for command in README for part in command.split("=") if part.startswith("docs/")]
    assert named and all((ROOT / part.split()[0]).is_file() for part in named)
    assert len(load_problems(ROOT / "docs" / "examples" / "problems.jsonl")) == 8
