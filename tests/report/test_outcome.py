"""How a pack ends: of runs whose numbers are known."""

import shutil
from pathlib import Path

import pytest

from projected_grpo.env.errors import InputError
from projected_grpo.report import outcome as ends
from projected_grpo.report.outcome import outcome, tell_outcome
from projected_grpo.report.results import Run, runs_by_name

DATA = Path(__file__).parents[1] / "data" / "f542cc8"


def run(arm: str, seed: int, hacks: int, solves: int, steps: int = 40) -> Run:
    """A run of 8 rows a step, of which in the last five so many hack and solve."""
    about = {"run": f"{arm}{seed}", "preset": "mini", "arm": arm, "seed": seed}
    about |= {"status": "finished", "git_sha": "a", "settings": {"steps": steps}}
    late = [(hacks if step > steps - 5 else 0, 8) for step in range(1, steps + 1)]
    rows = [
        {"step": i, "att_s": n, "hack_s": n, "gt_s": (solves, 8)} for i, n in enumerate(late, 1)
    ]
    return Run(about, rows)


def test_one_seed_has_rates_and_a_difference_and_no_interval() -> None:
    assert outcome(runs_by_name([run("projected", 1, 1, 4), run("vanilla", 1, 4, 2)])) == (
        "Steps 36-40: vanilla hacks in 50.0 % of its answers and solves 25.0 %; "
        "projected hacks in 12.5 % of its answers and solves 50.0 % "
        "(hack -37.5 points, solve +25.0 points); n = 1 seed (one seed gives no interval)."
    )


def test_several_seeds_have_an_interval() -> None:
    levels = [("vanilla", 1, 4), ("vanilla", 2, 6), ("projected", 1, 1), ("projected", 2, 2)]
    said = outcome(runs_by_name([run(arm, seed, hacks, 4) for arm, seed, hacks in levels]))
    assert "(hack -43.8 points [-123.2, +35.7], solve 0.0 points); n = 2 seeds" in said


@pytest.mark.parametrize(
    ("levels", "holds", "lacks"),
    [
        ([("vanilla", 0), ("projected", 0)], "vanilla itself never hacked in these steps", "?"),
        ([("projected", 1), ("random_v", 2)], "random_v hacks in 25.0 %", "points"),
        ([("vanilla", 3), ("routed", 2)], "judge it by its evaluation", "?"),
    ],
    ids=["nothing to show", "no vanilla", "another curve than what is deployed"],
)
def test_what_cannot_be_said_is_not(levels: list, holds: str, lacks: str) -> None:
    said = outcome(runs_by_name([run(arm, 1, hacks, 4) for arm, hacks in levels]))
    assert holds in said and lacks not in said and "one seed" in said


def test_short_runs_name_the_steps_that_there_are() -> None:
    arms = runs_by_name([run("projected", 1, 1, 4, steps=3), run("vanilla", 1, 4, 2, steps=3)])
    assert outcome(arms).startswith("Steps 1-3: ")


def test_the_picture_lies_in_the_first_runs_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "finished", run)
    sentence, where = tell_outcome([run])
    assert sentence.startswith("Steps 2-6: projected hacks in 0.0 %") and where.endswith(
        str(run / "pack.png")
    )
    assert (run / "pack.png").read_bytes()[1:4] == b"PNG"
    monkeypatch.setattr(ends, "find_spec", lambda name: None)
    assert [*tell_outcome([run])][1].endswith("install projected_grpo[report].")


def test_a_picture_that_cannot_be_written_is_a_sentence_after_what_was_shown(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "finished", run)
    (run / "pack.png").mkdir()
    lines = tell_outcome([run])
    assert next(lines).startswith("Steps 2-6: ")
    with pytest.raises(InputError, match=f"cannot write to {run}"):
        next(lines)
