"""The figures' script: what it makes of runs that stopped early or differ in a setting."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import draw_dynamics

from projected_grpo.config import MiniConfig
from projected_grpo.report.comparisons import compare
from projected_grpo.report.curves import stacked
from projected_grpo.report.tables import against_vanilla

MINI = {k: v for k, v in json.loads(MiniConfig().to_json()).items() if k != "preset"}


def write(folder: Path, runs: list[tuple[str, int, dict, str | None, int]]) -> None:
    """Runs (arm, seed, changed settings, status, steps); attempted rises by 1/8 a step."""
    with gzip.open(folder / "rows.jsonl.gz", "wt") as f:
        for n, (arm, seed, changed, status, steps) in enumerate(runs):
            about = {
                "run": str(n), "label": "trial", "preset": "mini", "arm": arm, "seed": seed,
                "status": status, "git_sha": None, "device": "cpu",
                "settings": {**MINI, **changed},
            }  # fmt: skip
            hacks = 8 if arm == "vanilla" else changed.get("v_hack_k", 32) % 32
            rows = [
                {"run": str(n), "step": i + 1, "att_s": [i, 8], "gt_s": [1, 8]}
                | {"hack_s": [hacks, 8]}
                | {"flavours": {"print": i}}
                for i in range(steps)
            ]
            f.writelines(f"{json.dumps(row)}\n" for row in [about, *rows])


def test_runs_that_stopped_early_are_counted_and_cut_no_others_short(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            ("vanilla", 1, {"threads": 2}, "finished", 6),
            ("vanilla", 2, {}, "stopped", 3),
            ("vanilla", 3, {}, None, 0),
            ("projected", 1, {}, "failed", 0),
        ],
    )
    arms = draw_dynamics.read(tmp_path)["trial"]
    assert list(arms) == ["projected", "vanilla"]  # threads change nothing
    means = stacked([run for run in arms["vanilla"] if run.rows], "att_s")
    assert np.array_equal(np.isnan(means).sum(0), [0, 0, 0, 1, 1, 1])
    draw_dynamics.main(tmp_path)
    text = (tmp_path / "README.md").read_text().partition("## trial")[2]
    cells = [[c.strip() for c in x.split("|")[1:5]] for x in text.splitlines() if x[:1] == "|"]
    assert cells[0] == ["arm", "n seeds", "ended earlier, left out", "steps"]
    assert cells[2:4] == [["projected", "0", "1", "0/40"], ["vanilla", "1", "2", "6/40"]]
    assert "threads" not in text and (tmp_path / "dynamics_trial.png").is_file()


def test_series_are_named_by_what_varies_in_their_arm_or_is_not_the_presets(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            ("vanilla", 1, {"lr": 0.1, "steps": 6}, "finished", 2),
            ("vanilla", 1, {"steps": 6}, "finished", 2),
            ("projected", 1, {"v_hack_k": 5, "steps": 6}, "finished", 2),
        ],
    )
    assert sorted(draw_dynamics.read(tmp_path)["trial"]) == [
        "projected v_hack_k=5", "vanilla lr=0.03", "vanilla lr=0.1",
    ]  # fmt: skip
    draw_dynamics.main(tmp_path)
    assert '`{"steps": 6}`' in (tmp_path / "README.md").read_text()


def test_arms_are_compared_with_the_vanilla_runs_of_their_seeds(tmp_path: Path) -> None:
    """A run that ended early is left out, not a reason to compare all others where it ended; what
    only the projection reads does not separate a pair."""
    asked = {"steps": 8}
    runs = [("vanilla", seed, asked, "finished", 8) for seed in range(4)]
    runs += [("projected", seed, asked, "finished", 8) for seed in range(3)]
    runs += [("projected", 3, asked, "failed", 2), ("vanilla", 3, asked, "failed", 1)]
    runs += [("projected", seed, {**asked, "v_hack_k": 2}, "finished", 8) for seed in (0, 1)]
    runs += [("vanilla", 1, {**asked, "v_hack_k": 2}, "finished", 8)]  # of a pack of its own
    write(tmp_path, runs)
    found = compare(draw_dynamics.read(tmp_path)["trial"])
    about = [[one.name, one.pairs, one.left_out, one.steps] for one in found]
    assert about == [["projected v_hack_k=2", 2, 0, "4-8"], ["projected v_hack_k=32", 3, 1, "4-8"]]
    two, none = (one.by_seed["hack_s"] for one in found)
    assert np.allclose(two, -0.75) and np.allclose(none, -1) and len(none) == 3
    assert "2 of 2" in against_vanilla({"trial": found}).text()


def test_settings_of_rivals_and_remedies_do_not_separate_a_pair(tmp_path: Path) -> None:
    """Nor does it that one of the runs is older than they are."""
    young = {"steps": 4}
    changed = {"score_weight": 1.0, "pair_modes": ["sentinel"], "known_modes": ["sentinel"]}
    runs = [("vanilla", seed, young, "finished", 4) for seed in (0, 1)]
    runs += [("projected", seed, {**young, **changed}, "finished", 4) for seed in (0, 1)]
    runs += [("gt_penalty", seed, {**young, "gt_penalty": 1.0}, "finished", 4) for seed in (0, 1)]
    write(tmp_path, runs)
    with gzip.open(tmp_path / "rows.jsonl.gz", "rt") as f:
        rows = [json.loads(line) for line in f]
    for row in rows:
        if row["run"] == "0" and "settings" in row:  # vanilla of seed 0
            for name in (*changed, "gt_penalty", "adv_mod_form", "inoculation", "refresh_every"):
                del row["settings"][name]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as f:
        f.writelines(f"{json.dumps(row)}\n" for row in rows)
    arms = draw_dynamics.read(tmp_path)["trial"]
    assert len(arms) == 3  # the older vanilla run stands beside the other
    assert [(one.pairs, one.left_out) for one in compare(arms)] == [(2, 0), (2, 0)]


def test_one_experiment_twice_is_refused(tmp_path: Path) -> None:
    runs = [("vanilla", 0, {"steps": 4}, "finished", 4)]
    runs += [("projected", 0, {"steps": 4}, "finished", 4)] * 2
    write(tmp_path, runs)
    with pytest.raises(ValueError, match="are the same experiment"):
        compare(draw_dynamics.read(tmp_path)["trial"])
