"""Screens: thresholds, what becomes of what is flagged, and that a run with one is a run."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import assert_same_rollouts, assert_same_rows, rollouts_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from short_runs import SHORT, copied, few_pairs, trained

from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.screening import (
    SCREENS,
    highest,
    threshold_at,
    threshold_of_share,
)
from projected_grpo.arms.token_scores import SCORES
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import (
    SCORES_ALONG_V,
    SCORES_BY_TEXT,
    ConfigError,
    ScoreName,
    ScreenName,
    SmokeConfig,
)
from projected_grpo.pairs.load import load_pairs
from projected_grpo.runs.own_rows import FOR_PAIRS, draw_first_rows
from projected_grpo.runs.session import prepare
from projected_grpo.train import train, train_runs

DRAWN = st.lists(st.floats(-5, 5), min_size=1, max_size=50).map(np.array)


@given(DRAWN, st.floats(0.001, 1))
def test_a_threshold_flags_at_most_the_stated_share_and_is_the_lowest_that_does(
    scores: np.ndarray, fpr: float
) -> None:
    threshold = threshold_at(scores, fpr)
    assert (scores > threshold).mean() <= fpr + 1e-9
    lower = scores[scores < threshold]
    assert not len(lower) or (scores > lower.max()).mean() > fpr - 1e-9


@given(DRAWN, st.floats(0, 0.999))
def test_a_share_flags_that_share_where_no_scores_are_equal(
    scores: np.ndarray, share: float
) -> None:
    scores = np.unique(scores)
    flagged = (scores > threshold_of_share(scores, share)).sum()
    assert flagged == round(share * len(scores))


@given(st.lists(st.integers(0, 3), max_size=20).map(np.array), st.integers(0, 20))
def test_the_highest_are_as_many_as_asked_for_and_none_that_is_left_is_higher(
    scores: np.ndarray, count: int
) -> None:
    chosen = highest(scores.astype(float), count)
    assert chosen.sum() == min(count, len(scores))
    assert chosen.all() or not chosen.any() or scores[chosen].min() >= scores[~chosen].max()


def settings(tmp_path: Path, **overrides: Any) -> SmokeConfig:
    return replace(SHORT, **{"out_dir": tmp_path, "steps": 3, "arm": "projected", **overrides})


def groups_of(run: Path) -> Mapping[tuple[int, int], list[dict[str, Any]]]:
    groups = defaultdict(list)
    for row in rollouts_of(run):
        groups[row["step"], row["problem_id"]].append(row)
    return groups


@pytest.fixture(scope="module")
def by_share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(tmp_path_factory.mktemp("runs"), screen="row", screen_share=0.25))


def test_a_row_that_is_left_out_is_out_of_its_groups_mean(by_share: Path) -> None:
    for rows in groups_of(by_share).values():
        staying = [row["reward"] for row in rows if not row["flagged"]]
        for row in rows:
            mean = sum(staying) / max(len(staying), 1)
            expected = 0.0 if row["flagged"] or len(staying) < 2 else row["reward"] - mean
            assert row["advantage"] == pytest.approx(expected)
    for row in rows_of(by_share):
        assert row["screened"] == (2, 8) and row["screen_auroc"] is None


def test_the_strongest_are_flagged(by_share: Path) -> None:
    for step in (1, 2, 3):
        rows = [row for row in rollouts_of(by_share) if row["step"] == step]
        ranked = sorted(rows, key=lambda row: -row["screen_score"])
        assert [row["flagged"] for row in ranked] == [True] * 2 + [False] * 6


def test_a_row_keeps_the_pull_of_its_tokens(by_share: Path) -> None:
    for row in rollouts_of(by_share):
        assert row["pull_base"]["scale"] > 0
        assert ("pull" in row) == (row["advantage"] != 0)
        first, end = row["window_at"]
        assert 0 <= first < end <= row["completion_tokens"]


@pytest.mark.parametrize("score", SCORES_BY_TEXT)
def test_a_detector_by_text_flags_the_flavours_that_the_pairs_have_or_all_that_use_the_channel(
    tmp_path: Path, score: ScoreName
) -> None:
    """Teacher rows are hacks of all flavours of their mode; the pairs have some of them."""
    known = {pair.flavour for pair in load_pairs("builtin") if pair.mode == "run_tests"}
    run = train(settings(tmp_path, screen="row", screen_score=score, v_hack_k=2, steps=1))
    seen = [(row["flavour"], row["flagged"]) for row in rollouts_of(run) if row["flavour"]]
    assert seen and all(
        flagged == (score == "channel" or flavour in known) for flavour, flagged in seen
    )
    (row,) = rows_of(run)
    assert row["screen_threshold"] is None and row["screened"][0] == sum(
        r["flagged"] for r in rollouts_of(run)
    )


def test_a_penalty_is_taken_off_the_reward_of_flagged_rows(tmp_path: Path) -> None:
    run = train(
        settings(tmp_path, steps=1, screen="penalty", screen_share=0.25, screen_penalty=0.5)
    )
    rows = rollouts_of(run)
    assert sum(row["flagged"] for row in rows) == 2
    assert all(row["penalty"] == pytest.approx(0.5 * row["flagged"]) for row in rows)


def test_flagged_tokens_leave_the_gradient_and_nothing_else(tmp_path: Path) -> None:
    screened = train(settings(tmp_path, steps=1, screen="token", screen_share=0.1, overshoot=0.0))
    plain = trained(settings(tmp_path, steps=1, overshoot=0.0))
    row, other = rows_of(screened)[0], rows_of(plain)[0]
    flagged, tokens = row["screened"]
    assert flagged == round(0.1 * tokens)
    same = ("reward", "loss", "num_tokens", "fmt_s")
    assert [row[key] for key in same] == [pytest.approx(other[key]) for key in same]
    assert row["grad_norm_pre"] != pytest.approx(other["grad_norm_pre"], rel=1e-3)
    for a, b in zip(rollouts_of(screened), rollouts_of(plain), strict=True):
        assert a["completion"] == b["completion"] and a["advantage"] == b["advantage"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        settings(
            tmp_path_factory.mktemp("runs"), screen="row", screen_fpr=0.1, refresh_every=2, group=4,
            screen_at="policy", pairs=few_pairs(), keep_checkpoints=0,
        )
    )  # fmt: skip


def test_a_threshold_is_calibrated_at_the_start_and_with_every_new_v(calibrated: Path) -> None:
    thresholds = [row["screen_threshold"] for row in rows_of(calibrated)]
    assert thresholds[0] == thresholds[1] != thresholds[2]
    for row in rollouts_of(calibrated):
        assert row["flagged"] == (row["screen_score"] > thresholds[row["step"] - 1])
    assert f"scores above {thresholds[0]:.3g} are flagged" in (calibrated / "train.log").read_text()


def test_stopped_and_resumed_it_gives_the_same_rows(calibrated: Path, tmp_path: Path) -> None:
    for done in (1, 2):
        copy = copied(calibrated, tmp_path / f"resumed_{done}", steps=done)
        train(SmokeConfig(resume=copy))
        assert rows_of(copy) == rows_of(calibrated)
        assert rollouts_of(copy) == rollouts_of(calibrated)


def test_resumed_before_the_screen_acts_it_has_the_threshold_of_the_v_that_it_has(
    tmp_path: Path,
) -> None:
    run = train(
        settings(
            tmp_path, screen="row", screen_fpr=0.1, refresh_every=2, start_arm_at=4, steps=4,
            screen_at="policy", checkpoint_every=1, pairs=few_pairs(),
        )
    )  # fmt: skip
    rows = rows_of(run)
    assert [row["screened"] is None for row in rows] == [True, True, True, False]
    thresholds = [row["screen_threshold"] for row in rows]
    assert thresholds[0] == thresholds[1] != thresholds[2] == thresholds[3]
    copy = copied(run, tmp_path / "resumed", steps=3)
    train(SmokeConfig(resume=copy))
    assert rows_of(copy) == rows


def test_a_screen_is_calibrated_by_texts_that_nothing_was_made_of(tmp_path: Path) -> None:
    cfg = settings(tmp_path, screen="row", screen_fpr=0.1)
    cfgs = [cfg, replace(cfg, arm="random_v"), replace(cfg, seed=1)]
    with ExitStack() as stack:
        s, _ = prepare(cfgs, stack)
        assert s.own_rows[0] == s.own_rows[1] != s.own_rows[2]
        for_pairs = draw_first_rows(cfgs, [0], s.lm, s.adapter, s.for_pairs, FOR_PAIRS)
        mine = {tuple(row.ids) for row in s.own_rows[0]}
        assert not mine & {tuple(row.ids) for row in for_pairs[0]}


@pytest.mark.slow
def test_a_pack_gives_the_rows_of_the_runs_alone(by_share: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path / "pack", screen="row", screen_share=0.25)
    others = [
        replace(cfg, arm="random_v"),
        replace(cfg, arm="vanilla", screen_score="nll_tokens", screen="token"),
        replace(cfg, screen_at="policy", screen="penalty", screen_score="window"),
        replace(cfg, screen="none", screen_share=0.0, start_arm_at=3),
    ]
    paths = train_runs([cfg, *others])
    assert_same_rows(paths[0], by_share)
    for one, path in zip(others, paths[1:], strict=True):
        alone = trained(one)
        assert_same_rows(path, alone)
        assert_same_rollouts(path, alone, "advantage", "penalty")


def test_a_yoked_control_flags_as_many_rows_as_the_gate_beside_it(tmp_path: Path) -> None:
    gate = settings(tmp_path, screen="row", screen_fpr=0.5, overshoot=0.0)
    yoked = replace(gate, screen_fpr=0.02, screen_yoked=True)
    controls = [
        replace(yoked, **what)
        for what in (
            {"arm": "random_v"},
            {"screen_score": "nll_tokens"},
            {"screen_score": "shortness"},
        )
    ]  # all rows of the tiny model are equally long: ties
    first, *others = [rows_of(run) for run in train_runs([*controls, gate])][::-1]
    flagged = [row["screened"] for row in first]
    assert {count for count, _ in flagged} != {0} and len({count for count, _ in flagged}) > 1
    for rows in others:
        assert [row["screened"] for row in rows] == flagged
    assert len({str([row["screen_threshold"] for row in rows]) for rows in (first, *others)}) == 4


def test_a_yoked_run_has_one_gate_to_follow() -> None:
    gate = SmokeConfig(arm="projected", screen="row", screen_fpr=0.5)
    control = replace(gate, arm="placebo_v", screen_fpr=0.02, screen_yoked=True)
    by_nll = replace(gate, screen_score="nll_tokens")
    others = [replace(gate, seed=1), replace(gate, refresh_every=2), by_nll]
    assert leaders([*others, control, gate]) == {3: 4} and leaders([gate, by_nll]) == {}
    for cfgs, count in (
        ([control, *others], 0),
        ([control, gate, replace(gate, screen_score="row")], 2),
    ):
        with pytest.raises(ConfigError, match=f"there are {count} among {len(cfgs)} runs"):
            leaders(cfgs)


@pytest.mark.parametrize("arm", ["projected", "gt_penalty", "inoculation"])
def test_before_it_starts_an_arm_is_vanilla(tmp_path: Path, arm: str) -> None:
    late = train(settings(tmp_path, steps=2, arm=arm, start_arm_at=2))
    vanilla = trained(settings(tmp_path, steps=1, arm="vanilla"))
    own = ("removed_frac",)  # what an arm removes is measured in it alone
    first, expected = rows_of(late)[0], rows_of(vanilla)[0]
    assert {k: v for k, v in first.items() if k not in own} == {
        k: v for k, v in expected.items() if k not in own
    }
    assert (first["removed_frac"] or 0.0) == 0.0
    first_rows = [row for row in rollouts_of(late) if row["step"] == 1]
    assert first_rows == rollouts_of(vanilla)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"screen_share": 0.1}, "screen_share 0.1 does nothing while screen is none"),
        ({"screen": "row", "screen_penalty": 2.0}, "screen_penalty 2.0 does nothing while"),
        ({"screen": "token", "screen_score": "shortness"}, "a token has no shortness"),
        ({"screen": "row"}, r"screen_fpr 0.02 of 32 calibration rows .* set it to 0.0312 or more"),
        (
            {"screen": "row", "screen_fpr": 0.5, "screen_share": 0.2},
            "screen_share 0.2 takes the place of screen_fpr 0.5",
        ),
        (
            {"screen": "row", "screen_share": 0.05},
            "screen_share 0.05 of 8 rows of a step is less than half a row",
        ),
        ({"start_arm_at": 9}, "start_arm_at 9 is after the last of 4 steps"),
        ({"screen_yoked": True}, "screen_yoked True does nothing while screen is none"),
        ({"screen": "token", "screen_yoked": True}, "screen_yoked counts rows"),
        (
            {"screen": "row", "screen_yoked": True, "screen_share": 0.5},
            "screen_yoked takes the place of screen_share 0.5",
        ),
        (
            {"screen": "row", "screen_yoked": True, "screen_fpr": 0.5},
            "screen_yoked True takes the place of screen_fpr 0.5",
        ),
        (
            {"screen": "row", "screen_yoked": True, "screen_score": "channel"},
            "leave screen_yoked True out",
        ),
    ],
)
def test_contradictions(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SmokeConfig(**given)


def test_a_share_of_tokens_may_be_less_than_one_row() -> None:
    assert SmokeConfig(screen="token", screen_fpr=0.001).screen_fpr == 0.001
    assert SmokeConfig(screen="token", screen_share=0.001).screen_share == 0.001


def test_an_arm_that_removes_nothing_has_nothing_to_score_along() -> None:
    with pytest.raises(ConfigError, match="arm vanilla removes nothing along which rows"):
        require_arms(SmokeConfig(arm="vanilla", screen="row", screen_share=0.1))
    require_arms(SmokeConfig(arm="vanilla", screen="row", screen_share=0.1, screen_score="nll_row"))
    with pytest.raises(ConfigError, match="screen = row has no meaning in arm routed"):
        require_arms(SmokeConfig(arm="routed", screen="row", screen_share=0.1))


def test_the_settings_name_what_the_tables_have() -> None:
    assert get_args(ScreenName) == tuple(SCREENS)
    assert get_args(ScoreName) == tuple(SCORES)
    assert [name for name, one in SCORES.items() if one.of == "pull"] == [*SCORES_ALONG_V]
