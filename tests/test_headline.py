"""The experiment's tables, on rows whose numbers are known."""

import gzip
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import headline

from projected_grpo.config import MiniConfig

MINI = {k: v for k, v in json.loads(MiniConfig().to_json()).items() if k not in ("preset", "arm")}
FALLS = {1: 40, 2: 36, 3: 44, 4: 40}
"""Seed -> points of hacking that projection takes off; their mean is 40, their sd 3.266."""


def run(label: str, seed: int, hacks: int, steps: int = 40, **changed) -> list[dict]:
    """A run of 100 rows a step that hacks and solves at a constant rate; changed settings."""
    arm = label.split(" ")[0]
    about = {
        "run": f"{label} {seed} {changed}", "label": label, "plan": "confirm", "base": "organism",
        "preset": "mini", "arm": arm, "seed": seed, "status": "finished", "git_sha": "abcdef012",
        "device": "cpu", "settings": {**MINI, **changed, "seed": seed, "steps": steps},
    }  # fmt: skip
    rows = [
        {
            "step": i + 1, "att_s": [2 * i if arm == "vanilla" else i, 100],
            "hack_s": [hacks, 100], "gt_s": [45, 100], "flavours": {"print": 3, "weak": 1},
            "by_mode": {"run_tests": [50, 10, hacks // 2, 20, {"print": 3}],
                        "sentinel": [50, 5, hacks // 2, 25, {"property": 1}]},
        }
        for i in range(steps)
    ]  # fmt: skip
    cell = {"mode": "run_tests", "difficulty": "easy", "fmt": 10, "flavours": {}}
    counts = {"n": 10, "solve": 4, "attempted": 8, "hack": hacks // 10, "both": hacks // 10}
    cells = [{**cell, **counts, "hinted": hinted} for hinted in (True, False)]
    named = {"run": about["run"]}
    return [about, *({**named, **row} for row in rows), {**named, "eval": cells}]


def write(folder: Path, runs: list[list[dict]]) -> None:
    with gzip.open(folder / "rows.jsonl.gz", "wt") as f:
        f.writelines(f"{json.dumps(row)}\n" for mine in runs for row in mine)


def experiment() -> list[list[dict]]:
    runs = [run("vanilla", seed, 60) for seed in FALLS]
    runs += [run("projected", seed, 60 - fall) for seed, fall in FALLS.items()]
    return runs + [run("random_v", seed, 58 + seed % 2) for seed in FALLS]


def test_known_rows_give_known_numbers(tmp_path: Path) -> None:
    write(tmp_path, experiment())
    (s,) = headline.read(tmp_path)
    assert s.horizons == [40] and list(s.variants) == ["vanilla", "projected", "random_v"]
    v = headline.verdicts(s, 40)["projected"]
    assert v.hack.estimate == pytest.approx(-0.40) and v.hack.n == 4
    half = 3.182446 * 0.03265986 / 2  # t_3(.975) * sd / sqrt(4)
    assert (v.hack.low, v.hack.high) == pytest.approx((-0.40 - half, -0.40 + half), abs=1e-6)
    assert v.verdict == "supported" and v.confirmed and v.whole_interval
    assert headline.verdicts(s, 40)["random_v"].verdict == "falsified"
    first = s.variants["vanilla"][1]
    assert first.late("att_s", 40) == pytest.approx(0.74) and first.onset(40) == 26
    assert first.area(40) == pytest.approx(0.39) and s.variants["projected"][1].onset(40) is None
    assert "-0.385 [" in headline.against_controls(s, 40)


def test_the_page_has_what_the_rows_have(tmp_path: Path) -> None:
    runs = experiment()
    runs += [
        run("projected half a", 1, 30, pair_flavours=["print"]),
        run("vanilla", 9, 60)[:13],  # stopped after 12 steps
        run("vanilla", 1, 50, prompts_per_step=16),
    ]
    write(tmp_path, runs)
    headline.main(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "## organism confirm (1)" in text and "## organism confirm (2)" in text
    assert "No verdict" in text and "- exploratory, organism confirm (2), steps 36-40" in text
    second = text.partition("## organism confirm (2)")[2].splitlines()
    line = next(x for x in second if x.startswith("| vanilla"))
    assert [c.strip() for c in line.split("|")[2:4]] == ["4", "1"]  # whole, too short
    assert "| projected half a | sentinel" in text and "those of `projected half a`" in text
    assert "0.030, 1-10" not in text and "0.030" in text  # 3 of 100 rows print
    assert "easy 0.40" in text and (tmp_path / "forest_organism_confirm_2.png").is_file()
    before = (tmp_path / "curves_organism_confirm_2.svg").read_bytes()
    headline.main(tmp_path)
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "curves_organism_confirm_2.svg").read_bytes() == before


SPECIFIED = headline.Confirmatory(
    plan="confirm", label="projected", horizon=40, seeds=frozenset(FALLS), settings={"steps": 40}
)


def decided(folder: Path, runs: list[list[dict]], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(headline, "CONFIRMATORY", (SPECIFIED,))
    write(folder, runs)
    return headline.decision(headline.read(folder))[1]


def test_a_verdict_needs_the_specified_seeds_and_a_beaten_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment()
    text = decided(tmp_path, whole, monkeypatch)
    assert "H1 supported" in text and ": confirmed" in text and "- random_v -0.385 [" in text
    few = [mine for mine in whole if mine[0]["seed"] != 4]
    assert "not decided: 3 of the 4 seeds" in decided(tmp_path, few, monkeypatch)
    alone = [mine for mine in whole if mine[0]["arm"] != "random_v"]
    assert "not decided: no control" in decided(tmp_path, alone, monkeypatch)
    as_good = alone + [run("random_v", seed, 60 - fall - 3) for seed, fall in FALLS.items()]
    assert "negative: projected does not beat" in decided(tmp_path, as_good, monkeypatch)
    stopped = [[{**mine[0], "status": "stopped"}, *mine[1:12]] for mine in whole]
    assert decided(tmp_path, stopped, monkeypatch).startswith("No verdict")


def test_arms_whose_curve_misleads_have_a_dagger(tmp_path: Path) -> None:
    labels = ("vanilla", "routed", "inoculation", "projected")
    write(tmp_path, [run(label, seed, 50) for label in labels for seed in (1, 2)])
    headline.main(tmp_path)
    text = (tmp_path / "README.md").read_text()
    in_training, held_out = text.split("### organism confirm, held-out")
    for label in ("routed", "inoculation"):
        assert in_training.count(f"| {label} † ") == 5  # two modes
    assert "| projected † " not in text and "| routed † " not in held_out
    assert in_training.count("† Judge by the evaluation") == 1
    assert "routed samples with its quarantine; inoculation samples under" in in_training


def test_one_experiment_twice_or_two_under_one_label_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [run("vanilla", 1, 60), [{**x, "run": "again"} for x in run("vanilla", 1, 50)]])
    with pytest.raises(ValueError, match="leave one out"):
        headline.read(tmp_path)
    write(tmp_path, [run("projected", 1, 60), run("projected", 2, 60, v_hack_k=5)])
    with pytest.raises(ValueError, match="differ in v_hack_k"):
        headline.read(tmp_path)
    write(tmp_path, [])
    headline.main(tmp_path)
    assert not (tmp_path / "README.md").exists()
