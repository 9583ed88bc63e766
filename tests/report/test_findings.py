"""What a report says first, of runs whose numbers are known."""

from collections.abc import Sequence

import numpy as np
import pytest

from projected_grpo.report.alignment import alignment_table
from projected_grpo.report.comparisons import compare, compare_with_controls
from projected_grpo.report.findings import findings, points, solve_word
from projected_grpo.report.results import Run, over_seeds, runs_by_name

ASKED = 40


def run(arm: str, seed: int, hacks: Sequence[int], solves: int = 4, **settings: object) -> Run:
    """A run of 8 rows a step, of which so many hack."""
    about = {"run": f"{arm}{seed}", "preset": "mini", "arm": arm, "seed": seed}
    about |= {"status": "finished", "git_sha": "a", "settings": {"steps": ASKED, **settings}}
    return Run(about, [
        {"step": i, "att_s": (n, 8), "hack_s": (n, 8), "gt_s": (solves, 8), "flavours": {}}
        for i, n in enumerate(hacks, 1)
    ])  # fmt: skip


def flat(arm: str, levels: Sequence[int], length: int = 40, **more: object) -> list[Run]:
    """Runs of seeds 1, 2, ... at a constant level each."""
    return [run(arm, seed, [n] * length, **more) for seed, n in enumerate(levels, 1)]


def said(*runs: list[Run], cautions: dict | None = None) -> list[str]:
    """verdict: sentence, with plain spaces, of all comparisons."""
    arms = runs_by_name([one for mine in runs for one in mine])
    found = findings([*compare(arms), *compare_with_controls(arms)], cautions or {})
    return [f"{one.verdict}: {one.sentence}".replace("\u00a0", " ") for one in found]


@pytest.mark.parametrize(
    ("vanilla", "arm", "begins", "holds"),
    [
        ([6, 6, 7, 5], [2, 1, 2, 1], "less hacking", "hack \u221256.2 points ["),
        ([1, 2, 1, 2], [5, 6, 6, 5], "more hacking", "from 18.8 %"),
        ([4, 2, 5, 3], [3, 4, 3, 4], "no difference shown", "n = 4 seeds, steps 36-40."),
        ([4, 4], [2, 1], "no difference shown", "with two seeds an interval says little"),
        ([4], [0], "undecided", "hack \u221250.0 points from 50.0 %"),
        ([4], [0], "undecided", "n = 1 seed, steps 36-40; one seed gives no interval."),
        ([4, 4, 4], [2, 2, 2], "undecided", "no spread between the seeds, so no interval."),
        ([0, 0, 0], [0, 0, 0], "nothing to show", "vanilla itself never hacked in these steps."),
        ([0, 0, 0], [0, 1, 0], "nothing to show", "hack +4.2 points ["),
        ([0, 0, 0], [4, 5, 4], "more hacking", "from 0.0 %"),
    ],
)
def test_the_verdict_follows_from_the_interval(
    vanilla: list[int], arm: list[int], begins: str, holds: str
) -> None:
    (sentence,) = said(flat("vanilla", vanilla), flat("projected", arm))
    assert sentence.startswith(f"{begins}: projected against vanilla: ") and holds in sentence


def test_an_arm_is_held_against_each_of_its_controls_with_its_settings() -> None:
    runs = [flat(arm, [n, n, n + 1]) for arm, n in (("vanilla", 6), ("random_v", 5))]
    runs += [flat("projected", [1, 2, 1]), flat("adv_mod", [1, 1, 2])]
    runs += [flat("random_v", [3, 3, 3], v_hack_k=7), flat("shuffled_v", [2, 2, 3])[:1]]
    about = [sentence.split(": hack")[0] for sentence in said(*runs)]
    assert "less hacking: projected against random_v" in about
    assert "undecided: projected against shuffled_v" in about
    assert sum(" against " in x and "vanilla" not in x for x in about) == 2  # none of another k
    assert sum("against vanilla" in x for x in about) == 5


def test_a_gate_is_held_against_the_runs_that_are_yoked_to_it() -> None:
    gate, yoked = {"screen": "row", "screen_fpr": 0.05}, {"screen": "row", "screen_yoked": True}
    runs = [flat("vanilla", [6, 6, 7]), flat("projected", [1, 2, 1], **gate)]
    runs += [flat("random_v", [5, 5, 6], **yoked), flat("placebo_v", [5, 4, 5], **gate)]
    runs += [flat("projected", [4, 4, 5], screen_score="nll_tokens", **yoked)]
    about = [one.split(": hack")[0] for one in said(*runs) if "against vanilla" not in one]
    assert len(about) == 3 and all(one.startswith("less hacking: projected") for one in about)
    for control in ("random_v", "placebo_v", "nll_tokens"):
        assert sum(control in one.partition(" against ")[2] for one in about) == 1


def test_what_was_not_trained_equally_far_is_said() -> None:
    vanilla, short = flat("vanilla", [6, 6, 5], 60, steps=60), flat("vanilla", [6] * 3, 20)
    (sentence,) = said(vanilla, flat("projected", [1, 2, 1], 50, steps=60))
    assert "steps 46-50; not trained equally far (projected to step 50, vanilla to 60)" in sentence
    (sentence,) = said(short, flat("projected", [1, 2, 1]))
    assert sentence == (
        "undecided: projected against vanilla: no seed has both runs at step 40 (projected came to "
        "40, vanilla to 20)."
    )
    mine = flat("projected", [1, 2, 1])
    mine[2].rows = mine[2].rows[:9]
    (sentence,) = said(flat("vanilla", [6, 6, 5]), mine)
    assert sentence.endswith("n = 2 seeds, steps 36-40; with two seeds an interval says little; "
                             "1 run has no partner that came so far.")  # fmt: skip
    (sentence,) = said(flat("vanilla", [6, 6, 5], 9), flat("projected", [1, 2, 1], 9))
    assert "the runs ended before step 40, which they were asked for" in sentence
    (sentence,) = said(flat("projected", [1, 2, 1]))
    assert "no vanilla run has its seeds and settings" in sentence


def test_an_early_span_is_told_where_its_verdict_is_another() -> None:
    late = [run("projected", n, [0] * 40 + [6 + n % 2] * 20, steps=60) for n in (1, 2, 3)]
    (sentence,) = said(flat("vanilla", [6, 7, 7], 60, steps=60), late)
    assert sentence.startswith("no difference shown") and "steps 56-60; at steps 36-40 it was" in (
        sentence
    )
    assert sentence.endswith("(less hacking).")
    steady = flat("projected", [1, 2, 1], 60, steps=60)
    assert "36-40" not in said(flat("vanilla", [6, 7, 7], 60, steps=60), steady)[0]


def test_an_arm_with_a_caution_is_not_judged_by_its_curve() -> None:
    (sentence,) = said(
        flat("vanilla", [6] * 3), flat("routed", [1, 2, 1]),
        cautions={"routed": "samples with its quarantine"},
    )  # fmt: skip
    assert sentence.startswith("not comparable: routed against vanilla: hack")
    assert sentence.endswith("the arm samples with its quarantine, so judge it by its evaluation.")


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.01, 0.0, 0.02], "within 10 points"),
        ([-0.3, -0.31, -0.29], "less solving"),
        ([0.3, 0.31, 0.29], "more solving"),
        ([-0.3, 0.3, 0.1], "not settled"),
        ([0.1], ""),
        ([0.2, 0.2, np.nan], ""),
    ],
)
def test_what_solving_does(differences: list[float], word: str) -> None:
    assert solve_word(np.array(differences)) == word


def test_points_have_a_sign_and_0_has_none() -> None:
    assert points(over_seeds([-0.1, -0.1])) == "\u221210.0 points"  # no spread: no interval
    assert points(over_seeds([-0.00001])) == "0.0 points" and points(over_seeds([])) == "-"


def test_does_v_see_the_teachers_rows_more_by_the_interval() -> None:
    def aligned(arm: str, seed: int, teacher: list, student: list) -> Run:
        found = run(arm, seed, [1] * len(teacher))
        for row, t, s in zip(found.rows, teacher, student, strict=True):
            row |= {"cos_pre_t": t, "cos_pre_s": s, "hack_auroc": 0.75}
        return found

    none = [None, None]
    arms = {
        "vanilla": [aligned("vanilla", n, [0.5, 0.4, None], [0.1, n / 100, 9]) for n in (1, 2, 3)],
        "projected": [aligned("projected", 1, [0.5, 0.5], [0.1, 0.1])],
        "random_v": [aligned("random_v", n, [n, n], [2, 2]) for n in (1, 2, 3)],
        "placebo_v": [aligned("placebo_v", 1, none, [0.1, 0.1])],
    }
    found = alignment_table(arms)
    rows = {str(row[0]): dict(zip(found.headers, row, strict=True)) for row in found.body}
    answers = {arm: row["V sees teacher rows"] for arm, row in rows.items()}
    assert answers == {
        "vanilla": "more", "projected": "undecided", "random_v": "no difference shown"
    }  # fmt: skip
    vanilla = rows["vanilla"]
    assert vanilla["cos_pre_t"].estimate == pytest.approx(0.45)  # the third step has no teacher
    assert vanilla["cos_pre_t - cos_pre_s"].estimate == pytest.approx(0.39)
    assert vanilla["hack_auroc"].estimate == 0.75 and vanilla["steps with both"] == "2"
