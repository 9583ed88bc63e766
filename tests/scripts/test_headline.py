"""The experiment's tables, on rows whose numbers are known."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import headline
import planned
import plans
import sections

from projected_grpo.config import MiniConfig

MINI = {k: v for k, v in json.loads(MiniConfig().to_json()).items() if k not in ("preset", "arm")}
FALLS = {1: 40, 2: 36, 3: 44, 4: 40}
"""Seed -> points of hacking that projection takes off; their mean is 40, their sd 3.266."""


def run(
    label: str, seed: int, hacks: int, steps: int = 40, plan: str = "confirm", **changed
) -> list[dict]:
    """A run of 100 rows a step that hacks and solves at a constant rate; changed settings."""
    arm = "vanilla" if label in plans.UNLIKE else label.split(" ")[0]
    about = {
        "run": f"{label} {seed} {changed}", "label": label, "plan": plan, "base": "organism",
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
    for number in (1, 2):
        link = f"### [organism confirm ({number})](organism_confirm_{number}.md)"
        assert link in text and (tmp_path / f"organism_confirm_{number}.md").is_file()
    assert "No verdict" in text and "- exploratory, organism confirm (2), steps 36-40" in text
    second = (tmp_path / "organism_confirm_2.md").read_text()
    line = next(x for x in second.splitlines() if x.startswith("| vanilla"))
    assert [c.strip() for c in line.split("|")[2:4]] == ["4", "1"]  # whole, too short
    assert "| projected half a | sentinel" in second and "those of `projected half a`" in second
    assert "0.030, 1-10" not in second and "0.030" in second  # 3 of 100 rows print
    assert "easy 0.40" in second and (tmp_path / "forest_organism_confirm_2.png").is_file()
    before = (tmp_path / "curves_organism_confirm_2.png").read_bytes()
    headline.main(tmp_path)
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "curves_organism_confirm_2.png").read_bytes() == before


SPECIFIED = sections.Confirmatory(
    plan="confirm", label="projected", horizon=40, seeds=frozenset(FALLS), settings={"steps": 40}
)


def decided(folder: Path, runs: list[list[dict]], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sections, "CONFIRMATORY", (SPECIFIED,))
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


def test_controls_that_were_run_later_stand_beside_the_plan_and_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not training and no loophole too, though they differ in what all others share."""
    monkeypatch.setattr(sections, "CONFIRMATORY", (replace(SPECIFIED, plan="long"),))
    of_all = {"steps": 40, "plan": "long", "lr": 0.045}
    runs = [run("vanilla", seed, 60, **of_all) for seed in FALLS]
    runs += [run("projected", seed, 60 - fall, **of_all) for seed, fall in FALLS.items()]
    runs += [run("random_v", seed, 58, **of_all) for seed in FALLS]
    write(tmp_path, runs)
    (alone,) = headline.read(tmp_path)
    later = {**of_all, "plan": "long_controls"}
    runs += [run("norm_matched", 1, 20, **later), run("shuffled_v", 1, 10, **later)]
    runs += [run("untrained", 1, 0, **{**later, "lr": 1e-9})]
    runs += [run("no loophole", 1, 0, **later, mode="none")]
    write(tmp_path, runs)
    (s,) = headline.read(tmp_path)
    assert s.title == "organism long" and s.shared == alone.shared
    labels = ("norm_matched", "shuffled_v", "untrained", "no loophole")
    assert [*s.variants] == ["vanilla", "projected", "random_v", *labels]
    assert "projected - shuffled_v" in headline.against_controls(s, 40)
    assert "confirmed" in headline.decision([s])[1]
    assert headline.decision([s]) == headline.decision([alone])
    write(tmp_path, [*runs, run("no loophole", 2, 0, **later, mode="none", group=16)])
    assert [len(found.variants) for found in headline.read(tmp_path)] == [1, 7]


def test_arms_whose_curve_misleads_have_a_dagger(tmp_path: Path) -> None:
    labels = ("vanilla", "routed", "inoculation", "projected")
    write(tmp_path, [run(label, seed, 50) for label in labels for seed in (1, 2)])
    headline.main(tmp_path)
    text = (tmp_path / "organism_confirm.md").read_text()
    in_training, held_out = text.split("## organism confirm, held-out")
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


def cells(text: str, start: str) -> list[str]:
    """The cells of the first row of a table that starts so."""
    line = next(x for x in text.splitlines() if x.startswith(start))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def section(folder: Path, runs: list[list[dict]]) -> sections.Section:
    write(folder, runs)
    (found,) = sections.read(folder)
    return found


def in_modes(label: str, seed: int, **hacks: int) -> list[dict]:
    """A run of 60 steps with so many hacks in 50 rows of each mode in the last 5, none before."""
    mine = run(label, seed, 0, 60, "modes", mode="a,b")
    for row in mine[1:-1]:
        late = row["step"] > 55
        row["by_mode"] = {m: [50, n + 5, n if late else 0, 20, {}] for m, n in hacks.items()}
    del mine[1]["by_mode"]["a"]  # a mode need not be drawn in the first step
    return mine


def test_a_mode_left_out_is_compared_with_random_axes_and_with_v_of_all(tmp_path: Path) -> None:
    runs = []
    for seed, extra in ((1, 0), (2, 2)):
        runs += [in_modes("vanilla", seed, a=30, b=40), in_modes("projected", seed, a=5, b=10)]
        runs += [in_modes("random_v without a", seed, a=25 + extra, b=30)]
        runs += [in_modes("random_v without b", seed, a=25, b=30 + extra)]
        runs += [in_modes("projected without a", seed, a=15 + extra, b=10)]
        runs += [in_modes("projected without b", seed, a=5, b=20 + 2 * extra)]
    runs += [in_modes("vanilla", 3, a=50, b=50)]  # of no fold
    text = planned.left_out_modes(section(tmp_path, runs), 60)
    all_folds = cells(text, "| the mode left out")
    assert all_folds[1:3] == ["all 2", "2"]
    # seed 1: random (.5 + .6) / 2, V without it (.3 + .4) / 2; seed 2: .59 and .41; V of all .15
    assert [cell.split(" ")[0] for cell in all_folds[3:9]] == [
        *("0.700", "0.570", "0.380", "0.150", "-0.190", "-0.420")
    ]
    half = 12.7062 * 0.01  # t_1(.975) * sd / sqrt(2) of -.20 and -.18: seeds are what varies
    assert all_folds[7] == f"-0.190 [{-0.19 - half:+.3f}, {-0.19 + half:+.3f}]"
    known = cells(text, "| the three modes in V")
    assert known[5].startswith("0.150") and known[9].startswith("1.00 [")  # as good as V of all
    alone = [
        in_modes(label, seed, a=3, b=4) for label in ("vanilla", "projected") for seed in (1, 2)
    ]
    assert planned.left_out_modes(section(tmp_path, alone), 60) == "No mode was left out."


def with_flavours(label: str, seed: int, flavours: dict[str, int], **changed) -> list[dict]:
    mine = run(label, seed, 0, 60, "flavours", **changed)
    for row in mine[1:-1]:
        row["flavours"] = flavours if row["step"] > 55 else {}
        row["att_s"] = [sum(flavours.values()), 100]
    return mine


def test_attempts_are_told_apart_by_whether_v_has_their_flavour(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        runs += [with_flavours("vanilla", seed, {"print": 30, "pass": 20, "other": 5})]
        runs += [with_flavours("random_v", seed, {"print": 25, "pass": 20})]
        runs += [with_flavours("projected", seed, {"print": 5})]
        for name, half in (("a", "print"), ("b", "pass")):
            gone = {"print": 25, "pass": 20} | {half: 2}
            label = f"projected half {name}"
            runs += [with_flavours(label, seed, gone, pair_flavours=[half])]
    text = planned.left_out_flavours(section(tmp_path, runs), 60)
    lacks, has = cells(text, "| a flavour V lacks"), cells(text, "| a flavour V has")
    assert lacks[3].startswith("0.250") and lacks[5].startswith("0.225")  # "other" is in no half
    assert lacks[7].startswith("+0.000") and has[7].startswith("-0.205")


def remedy(label: str, hacks: list[int]) -> list[list[dict]]:
    """Runs of 100 steps, one for each number of hacks of 100 rows."""
    return [run(label, seed, n, 100, "remedies") for seed, n in enumerate(hacks)]


def test_a_remedy_helps_where_it_beats_the_run_without_it_and_random_axes(tmp_path: Path) -> None:
    runs = [
        *remedy("vanilla", [60, 61, 62, 60]),
        *remedy("projected", [40, 41, 42, 40]),
        *remedy("random_v", [59, 59, 61, 60]),
        *remedy("projected k to 128", [10, 12, 11, 10]),
        *remedy("random_v k to 128", [55, 57, 56, 54]),
        *remedy("projected weight=1", [30, 50, 33, 40]),  # not told from the run without it
        *remedy("random_v weight=1", [55, 57, 56, 54]),
        *remedy("projected running", [5, 6, 5, 7]),  # its axes do it without V
        *remedy("random_v running", [5, 6, 6, 6]),
        *remedy("projected trust=1", [5, 6, 5, 7]),  # no control
        *remedy("projected refresh=10 trust=1", [10, 12, 11, 10]),
        *remedy("projected running refresh=10 trust=1", [5, 6, 5, 7]),  # its own was not run
        *remedy("projected overshoot=1.5", [36, 40, 39, 38]),  # by its interval alone
        *remedy("random_v overshoot=1.5", [55, 57, 56, 54]),
    ]
    text = planned.remedies(section(tmp_path, runs), 100)
    found = {row[0]: row for row in (cells(text, f"| {x}") for x in LABELS)}
    assert [label for label in LABELS if found[label][-1] == "yes"] == [
        *("k to 128", "refresh=10 trust=1")
    ]
    assert found["refresh=10 trust=1"][5].startswith("random_v -0.4")
    assert found["trust=1"][5] == "-" and found["running refresh=10 trust=1"][5] == "-"
    assert "[-0.0" in found["overshoot=1.5"][3] and float(found["overshoot=1.5"][4]) > 0.05


LABELS = (
    *("k to 128", "weight=1", "running", "trust=1", "refresh=10 trust=1"),
    *("running refresh=10 trust=1", "overshoot=1.5"),
)
