"""What `report` makes of runs that are damaged, double, long or named alike; nothing is trained."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

pytest.importorskip("matplotlib")
pytest.importorskip("pygments")

from projected_grpo.config import SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.report.experiments import names_of, split
from projected_grpo.report.figures import figures_of
from projected_grpo.report.read import StoredRun, read
from projected_grpo.report.report import report
from projected_grpo.runs.commands import ReportConfig

Row = dict[str, Any]


def store(
    path: Path, arm: str = "vanilla", seed: int = 1, steps: int = 3, *, hacks: int = 1, **about: Any
) -> Path:
    """A run directory whose student rows hack at a constant rate; settings and run.json's."""
    stored = json.loads(SmokeConfig(steps=steps).to_json())
    changed = {name: about.pop(name) for name in [*about] if name in stored}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(stored | changed | {"arm": arm, "seed": seed}))
    fixed = {"git_sha": "a" * 40, "gpu": None, "device": "cpu", "argv": [], "status": "finished"}
    (path / "run.json").write_text(json.dumps(fixed | about))
    write(path / "steps.jsonl", [
        {"step": i, "att_s": [hacks, 8], "hack_s": [hacks, 8], "gt_s": [1, 8], "flavours": {},
         "cos_pre_s": 0.1} for i in range(1, steps + 1)
    ])  # fmt: skip
    write(path / "rollouts.jsonl", [
        {"step": i, "sample_id": f"{i}-{n}", "problem_id": 7, "source": "student", "reward": 0.5,
         "completion": "x", "outcome": "passed", "exploited": False, "gt_correct": True,
         "hack_score": 0.25 * n} for i in range(1, steps + 1) for n in range(2)
    ])  # fmt: skip
    return path


def write(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit(name: str, place: int, change: Callable[[Row], object]) -> Callable[[Path], None]:
    """Replace one row of a file by what is made of it."""

    def edited(path: Path) -> None:
        rows = [json.loads(line) for line in (path / name).read_text().splitlines()]
        rows[place] = change(rows[place])
        write(path / name, rows)

    return edited


def put(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: void((path / name).write_bytes(data))


def void(_: object) -> None:
    return None


def without(name: str) -> Callable[[Row], Row]:
    return lambda row: {k: v for k, v in row.items() if k != name}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            edit("config.json", 0, lambda c: c | {"arm": "newarm"}),
            "json: there is no arm newarm",
        ),
        (
            edit("config.json", 0, lambda c: c | {"preset": "x"}),
            "json: there is no preset x",
        ),
        (edit("config.json", 0, lambda c: c | {"seed": "a"}), "config.json: seed is 'a'"),
        (edit("config.json", 0, lambda c: c | {"steps": None}), "config.json: steps is None"),
        (put("config.json", b"[]"), "config.json: it is no JSON object"),
        (put("run.json", b"null"), "run.json: it is no JSON object"),
        (edit("run.json", 0, without("device")), "run.json: there is no device"),
        (edit("run.json", 0, lambda r: r | {"status": 3}), "run.json: status is 3"),
        (edit("steps.jsonl", 1, without("flavours")), "steps.jsonl: row 2: there is no flavours"),
        (edit("steps.jsonl", 1, without("hack_s")), "steps.jsonl: row 2: there is no hack_s"),
        (edit("steps.jsonl", 1, lambda r: r | {"gt_s": "x"}), "steps.jsonl: row 2: gt_s is 'x'"),
        (edit("steps.jsonl", 1, lambda r: r | {"gt_s": [1]}), "steps.jsonl: row 2: gt_s is (1,)"),
        (edit("steps.jsonl", 1, lambda r: r | {"cos_pre_s": "x"}), "row 2: cos_pre_s is 'x'"),
        (edit("steps.jsonl", 1, lambda r: r | {"cos_pre_s": 1e999}), "cos_pre_s is infinite"),
        (edit("steps.jsonl", 1, lambda r: r | {"step": 9}), "steps.jsonl: row 2: it is step 9"),
        (edit("steps.jsonl", 1, lambda r: r | {"flavours": {"a": "b"}}), "row 2: flavours has"),
        (edit("steps.jsonl", 1, lambda _: "x"), "steps.jsonl: row 2 is no JSON object"),
        (put("steps.jsonl", b'{"step": \n'), "steps.jsonl: row 1 is no JSON"),
        (put("rollouts.jsonl", b'{"a": "\xff"}\n'), "rollouts.jsonl: 'utf-8'"),
        (edit("rollouts.jsonl", 4, lambda _: [1]), "rollouts.jsonl: row 5 is no JSON object"),
        (edit("rollouts.jsonl", 4, without("outcome")), "row 5: there is no outcome"),
        (edit("rollouts.jsonl", 4, lambda r: r | {"completion": None}), "completion is None"),
        (edit("rollouts.jsonl", 4, lambda r: r | {"reward": "x"}), "row 5: reward is 'x'"),
        (edit("rollouts.jsonl", 4, lambda r: r | {"problem_id": [1]}), "row 5: problem_id is [1]"),
    ],
)
def test_a_damaged_run_is_a_sentence_that_names_the_file(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    store(tmp_path / "good")
    damage(store(tmp_path / "bad", seed=2))
    runs, (sentence,) = read([tmp_path], 8)
    assert [run.path.name for run in runs] == ["good"]
    assert "bad is left out: damaged or of another version (" in sentence and said in sentence


def test_numbers_that_are_none_do_not_break_the_page(tmp_path: Path) -> None:
    for name in ("reward", "hack_score"):
        edit("rollouts.jsonl", 0, lambda r, name=name: r | {name: float("nan")})(
            store(tmp_path / "runs" / name, seed=len(name))
        )
    runs, left_out = read([tmp_path], 8)
    assert left_out == [] and [len(run.sample.scores["solve"]) for run in runs] == [6, 5]
    report(ReportConfig(runs=(tmp_path / "runs",), out=tmp_path / "out"))
    page = (tmp_path / "out" / "index.html").read_text()
    data = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(data, parse_constant=refuse)
    rows = [row for run in found["runs"] for row in run["groups"][0]]
    assert [row["reward"] for row in rows].count(None) == 1


STOPPED = {"status": "stopped"}


@pytest.mark.parametrize(
    ("first", "second", "kept", "reason"),
    [
        ({}, {"status": "failed"}, "a", "which is finished where it is failed"),
        ({"status": None}, {}, "b", "which is finished where it is without a recorded end"),
        (STOPPED, {**STOPPED, "cut": 2}, "a", "which has 3 steps where it has 2"),
        ({**STOPPED, "cut": 2}, STOPPED, "b", "which has 3 steps where it has 2"),
        ({"cut": 2}, STOPPED, "a", "which is finished where it is stopped"),
        ({}, {"git_sha": "b" * 40}, "a", "has as many steps and was found first; their commits "
         "differ: bbbbbbb and aaaaaaa"),
    ],
)  # fmt: skip
def test_of_two_equal_runs_the_finished_and_longer_one_is_kept(
    tmp_path: Path, first: dict, second: dict, kept: str, reason: str
) -> None:
    for name, about in (("a", {**first}), ("b", {**second})):
        cut = about.pop("cut", 3)
        path = store(tmp_path / name, **about) / "steps.jsonl"
        write(path, [json.loads(line) for line in path.read_text().splitlines()][:cut])
    (run,), (sentence,) = read([tmp_path], 8)
    assert run.path.name == kept
    assert sentence.endswith(reason)


def test_a_new_report_leaves_nothing_of_the_old_one_and_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        store(tmp_path / "runs" / f"v{seed}", seed=seed)
        store(tmp_path / "runs" / f"v{seed}_lr", seed=seed, lr=0.5)
    out = tmp_path / "out"
    report(ReportConfig(runs=(tmp_path / "runs",), out=out))
    (out / "figures" / "mine.png").touch()
    (out / "notes.txt").touch()
    before = {path.name for path in (out / "figures").iterdir()}
    assert "dynamics_smoke_lr_0_5.svg" in before
    monkeypatch.setattr("projected_grpo.report.report.MOST_MB", 0)
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING")
    report(ReportConfig(runs=(tmp_path / "runs" / "v1",), out=out))
    logger.remove(sink)
    assert "fewer --rollouts (they were 64 of each run)" in said[0]
    after = {path.name for path in (out / "figures").iterdir()}
    kinds = ("attempts", "dynamics", "alignment", "scores")
    assert after == {f"{k}_smoke.{x}" for k in kinds for x in ("png", "svg")} | {"mine.png"}
    top = {path.name for path in out.iterdir()}
    assert top == {"index.html", "tables", "figures", "notes.txt"}


def test_differences_are_drawn_at_every_horizon_and_what_is_missing_is_said(tmp_path: Path) -> None:
    for seed in (1, 2):
        store(tmp_path / f"v{seed}", seed=seed, steps=45)
        store(tmp_path / f"p{seed}", "projected", seed, 45, hacks=seed, git_sha=None)
        store(tmp_path / f"n{seed}", "norm_matched", seed, 45, hacks=0)
        store(tmp_path / f"r{seed}", "routed", seed, 45)
    store(tmp_path / "s", "shuffled_v", 1, 45)
    store(tmp_path / "o", "placebo_v", 9, 45)
    (e,) = split(read([tmp_path], 0)[0])
    found = figures_of(e)["differences"]
    labels = [text.get_text() for text in found.figure.axes[0].get_yticklabels()]
    spans = ("steps 36-40", "steps 41-45")
    arms = ("projected", "norm_matched")
    assert labels == [f"{arm}, {span} (n=2)" for arm in arms for span in spans]
    assert "steps" not in found.figure.get_suptitle()
    for part in (
        "not corrected for the number of arms (2).",
        "Hollow:",
        "routed † (samples with its quarantine)",
        "shuffled_v (one pair)",
        "placebo_v (no pair)",
    ):
        assert part in found.caption
    mixed = "smoke: in 2 of the 2 pairs of projected the two runs are of different commits."
    assert e.notes[1:] == [mixed] and found.narrow is not None


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{"lr": 1}], ["mini"]),
        ([{"lr": 0.1, "a": 1}, {"lr": 0.2, "a": 1}], ["mini lr=0.1", "mini lr=0.2"]),
        ([{"a": 1}, {"a": 1, "b": 2}], ["mini b=None", "mini b=2"]),
        ([{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}], ["mini a=1 ...", "mini a=2 ..."]),
        (
            [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 2}, {"a": 2, "b": 1, "c": 3}],
            ["mini c=1 ...", "mini c=2 ...", "mini c=3 ..."],
        ),
        (
            [{"a": a, "b": b, "c": a == b == 1} for a in (1, 2) for b in (1, 2)],
            [f"mini a={a} b={b} ..." for a in (1, 2) for b in (1, 2)],
        ),
        ([{"a": "x" * 50}, {"a": 1}], ["mini (1)", "mini (2)"]),
        ([{"a": "x" * 50, "b": 1}, {"a": 1, "b": 2}], ["mini b=1 ...", "mini b=2 ..."]),
        ([{"a": "x/y"}, {"a": "x y"}], ["mini (1)", "mini (2)"]),
    ],
)
def test_experiments_are_named_by_what_they_differ_in(settings: list, names: list[str]) -> None:
    assert names_of("mini", settings) == names


def test_texts_that_utf_8_has_no_bytes_for_do_not_end_a_report(tmp_path: Path) -> None:
    half = "\ud83d"  # of a surrogate pair
    store(tmp_path / "runs" / "a", status=half, device=half, git_sha=half * 7)
    store(tmp_path / "runs" / "b", model=f"m{half}")
    report(ReportConfig(runs=(tmp_path / "runs",), out=tmp_path / "out"))
    assert "m?" in (tmp_path / "out" / "index.html").read_text()


def test_a_folders_name_is_no_formula_in_the_csv(tmp_path: Path) -> None:
    store(tmp_path / "runs" / "=1+1", model="@x")
    store(tmp_path / "runs" / "b", "projected", model="@x", cos=-1)
    report(ReportConfig(runs=(tmp_path / "runs",), out=tmp_path / "out"))
    for file in (tmp_path / "out" / "tables").glob("*.csv"):
        for row in csv.reader(file.open()):
            for cell in row:
                numeric = cell.lstrip("+-").replace(".", "", 1).replace("e-", "", 1).isdigit()
                assert len(cell) < 2 or numeric or not cell.startswith(("=", "+", "-", "@")), cell
    assert "'=1+1," in (tmp_path / "out" / "tables" / "runs.csv").read_text()


def cut(path: Path, name: str, rows: int, rest: str = "") -> None:
    """Leave so many rows of a file, and a piece of another."""
    lines = (path / name).read_text().splitlines(keepends=True)
    (path / name).write_text("".join(lines[:rows]) + rest)


# a run's name -> damage, what else there is about it, what is said
CUT: dict[str, tuple[Callable[[Path], None], dict, str | None]] = {
    "whole": (void, {}, None),
    "steps": (
        lambda p: cut(p, "steps.jsonl", 2), {}, "steps.jsonl is cut: it has 2 of the 3",
    ),
    "steps_stopped": (lambda p: cut(p, "steps.jsonl", 2), {"status": "stopped"}, None),
    "more_rollouts": (
        lambda p: cut(p, "steps.jsonl", 1), {"status": "stopped"}, "cut: it ends at step 1, roll",
    ),
    "rollouts": (
        lambda p: cut(p, "rollouts.jsonl", 4), {}, "rollouts.jsonl is cut: it ends at step 2",
    ),
    "group": (
        lambda p: cut(p, "rollouts.jsonl", 5), {}, "cut: its last step has 1 rows, others",
    ),
    "row": (
        lambda p: cut(p, "rollouts.jsonl", 5, "{"), {}, "is cut: it ends in the middle of a row",
    ),
    "row_running": (lambda p: cut(p, "rollouts.jsonl", 4, "{"), {"status": None}, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def cut_runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, StoredRun], list[str], str]:
    """Each of them as it is read, what a report on all warns of, and its page."""
    folder = tmp_path_factory.mktemp("cut")
    for seed, (name, (damage, about, _)) in enumerate(CUT.items()):
        damage(store(folder / "runs" / name, seed=seed, **about))
    runs, left_out = read([folder / "runs"], 8)
    assert left_out == []
    warned: list[str] = []
    sink = logger.add(warned.append, level="WARNING", format="{message}")
    report(ReportConfig(runs=(folder / "runs",), out=folder / "out"))
    logger.remove(sink)
    page = (folder / "out" / "index.html").read_text()
    return {run.path.name: run for run in runs}, [line.strip() for line in warned], page


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_is_a_warning_and_the_run_stays(
    name: str, cut_runs: tuple[dict[str, StoredRun], list[str], str]
) -> None:
    _, about, said = CUT[name]
    runs, warned, page = cut_runs
    run = runs[name]
    assert bool(run.cut) == bool(said)
    assert said is None or any(said in sentence for sentence in run.cut), run.cut
    assert [line for line in warned if f"/{name}/" in line] == list(run.cut)
    assert all(sentence in page for sentence in run.cut)
    (row,) = [row for row in page.split("<tr>") if re.search(rf"<td>{name}\s*</td>", row)]
    assert (f">{about.get('status', 'finished')}, files cut" in row) == (said is not None)


def test_a_file_as_out_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"out is a file: name a folder with --out"):
        report(ReportConfig(runs=(tmp_path / "absent",), out=tmp_path / "out"))


def test_a_page_that_no_report_made_is_left_alone(tmp_path: Path) -> None:
    store(tmp_path / "runs" / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("<title>My site</title>")
    with pytest.raises(InputError, match=r"index.html is there and is no report"):
        report(ReportConfig(runs=(tmp_path / "runs",), out=tmp_path / "out"))
    assert "My site" in (tmp_path / "out" / "index.html").read_text()
