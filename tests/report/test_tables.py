"""Tables and figures of runs whose numbers are known."""

import csv
import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from projected_grpo.report.comparisons import compare
from projected_grpo.report.curves import dynamics, spread_out
from projected_grpo.report.plots import distributions, forest
from projected_grpo.report.results import Run, over_seeds
from projected_grpo.report.stats import Estimate
from projected_grpo.report.tables import Table, against_vanilla, arms_table, flavours_table, show

STYLE = {"color": "#222222", "ls": "-"}


def run(
    arm: str, seed: int, hacks: Sequence[int | None], *, asked: int = 8, **columns: list
) -> Run:
    """A run of 8 rows a step, of which so many hack (None: none was graded)."""
    about = {"run": f"{arm}{seed}", "preset": "mini", "arm": arm, "seed": seed}
    about |= {"status": "finished", "git_sha": f"{arm}0", "settings": {"steps": asked}}
    rows = []
    for i, n in enumerate(hacks):
        rate = (0, 0) if n is None else (n, 8)
        values = {name: column[i] for name, column in columns.items()}
        rows.append(
            {"step": i + 1, "att_s": rate, "hack_s": rate, "gt_s": rate, "flavours": {"x": 1}}
            | values
        )
    return Run(about, rows)


def cells(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_an_arm_is_the_runs_that_took_all_steps_or_the_longest() -> None:
    arms = {
        "vanilla": [run("vanilla", 1, [2] * 8), run("vanilla", 2, [8]), run("vanilla", 3, [])],
        "stopped": [run("projected", n, [2 * n] * (5 - n // 3)) for n in (1, 2, 3)],
        "begun": [run("random_v", 1, [])],
    }
    lines = cells(arms_table(arms))
    left_out = "ended earlier, left out"
    assert [[x["n seeds"], x[left_out], x["steps"]] for x in lines] == [
        ["1", "2", "8/8"], ["2", "1", "5/8"], ["0", "1", "0/8"],
    ]  # fmt: skip
    for name in ("hack, last 5 steps", "area under attempted"):
        assert [x[f"{name} (mean)"] for x in lines] == ["0.25", "0.375", ""]
    assert [x["onset steps"] for x in lines] == ["-", "1", "-"]
    assert [row[1] for row in flavours_table(arms).body] == [5, 10, 0]
    assert [x["hack_s >= N/4 at step"] for x in lines] == ["1/1: 1", "2/2: 1, 1", "0/0"]


def test_a_number_says_its_own_n_and_no_spread_is_no_interval() -> None:
    nothing = [None] * 8
    arms = {
        "vanilla": [run("vanilla", seed, [4] * 8) for seed in (1, 2, 3)],
        "projected": [run("projected", n, x) for n, x in ((1, [2] * 8), (2, nothing), (3, []))],
        "random_v": [run("random_v", seed, [seed] * 8) for seed in (1, 2, 3)],
    }
    text = arms_table(arms).text()
    assert "hack, last 5 steps (mean, 95 % t)" in text
    assert "0.250 (n=1)" in text and "0.500 (no spread, n=3)" in text and "0.250 [-0.061," in text
    flat, one, wide = cells(arms_table(arms))
    name = "hack, last 5 steps"
    assert flat[f"{name} 95 % t low"] == one[f"{name} 95 % t high"] == ""
    assert [flat[f"{name} n"], one[f"{name} n"], one["n seeds"]] == ["3", "1", "2"]
    assert one["attempted >= 0.5"] == "0/1"  # nothing is known of the other
    assert float(wide[f"{name} 95 % t low"]) == pytest.approx(0.25 - 4.302653 / 8 / 3**0.5)
    against = against_vanilla({"e": compare(arms)})
    assert "-0.250 (n=1)" in against.text() and "1 of 1" in against.text()
    assert "hack (mean paired difference, 95 % t)" in against.text()
    assert [one.mixed for one in compare(arms)] == [2, 3]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (0.25, "0.250"),
        (Estimate("", 0, np.nan, np.nan, np.nan, 0.95), "-"),
        (Estimate("", 1, 0.5, np.nan, np.nan, 0.95), "0.500 (n=1)"),
        (Estimate("", 2, 0.5, 0.25, 0.75, 0.95), "0.500 [0.250, 0.750]"),
        (Estimate("", 3, 0.5, 0.25, 0.75, 0.95), "0.500 [0.250, 0.750] (n=3)"),
        (Estimate("", 3, 0.3, 0.3, 0.30000000000000004, 0.95), "0.300 (no spread, n=3)"),
    ],
)
def test_cells(cell: float | Estimate | None, text: str) -> None:
    assert show(cell, 2) == text


def test_what_a_format_means_by_itself_is_escaped_and_an_empty_table_is_whole() -> None:
    assert r"a\|b c" in Table(["name"], [["a|b\nc"]]).text()
    for form in ("pipe", "latex_booktabs"):
        lines = [x for x in against_vanilla({}).text(form).splitlines() if "-  " in x or "&" in x]
        assert len({x.count("&") for x in lines}) == 1, lines


@pytest.mark.parametrize("number", [1, 2, 4, 5, 7, 8])
def test_every_arm_has_a_panel_of_scores_and_none_is_empty(number: int) -> None:
    rng = np.random.default_rng(0)
    kinds = {"hack": [rng.normal(size=9), rng.normal(size=1)], "solve": [], "neither": []}
    figure = distributions("t", {f"arm{n}": kinds for n in range(number)})
    assert [axis.get_title() for axis in figure.axes] == [f"arm{n}" for n in range(number)]
    named = [axis.get_xlabel() for axis in figure.axes]
    assert named == [""] * (number - min(3, number)) + ["hack score"] * min(3, number)
    for axis in figure.axes:
        assert axis.xaxis.get_tick_params()["labelbottom"] == bool(axis.get_xlabel())
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["hack (10 rows, 2 runs)"]


def test_a_curve_shows_every_value_and_how_many_runs_have_it() -> None:
    some, nan = [None, 0.2, None, 0.4, 0.5, None], np.nan
    runs = [
        run("projected", 1, [1] * 6, cos_pre_s=some),
        run("projected", 2, [1] * 5, cos_pre_s=[None, 0.4, 0.3, None, 0.7]),
        run("projected", 3, [1] * 6, cos_pre_s=[None] * 6),
    ]
    whole = [run("vanilla", 1, [1] * 6, cos_pre_s=[0.1, None, None, 0.1, 0.1, 0.1])]
    arms = {"projected": runs, "vanilla": whole, "random_v": [run("random_v", 1, [])]}
    figure = dynamics("t", arms, dict.fromkeys(arms, STYLE), {"cos_pre_s": "cos_pre"}, limits=None)
    solid, point = (line for line in figure.axes[0].lines[:2])
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["projected (n=2)", "vanilla (n=1)"]
    mean = [nan, 0.3, 0.3, 0.4, 0.6]
    assert np.allclose(solid.get_ydata(), [nan, 0.3, nan, nan, 0.6], equal_nan=True)
    assert point.get_linestyle() == ":"
    assert np.allclose(point.get_ydata(), [*mean, nan], equal_nan=True)
    alone = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in alone] == [[1]]  # of vanilla
    assert not figure.axes[0].collections  # two runs have no band
    assert "band" not in figure.get_suptitle()


def test_the_band_is_the_interval_that_tables_have() -> None:
    runs = [run("projected", n, [n, 2 * n]) for n in (1, 2, 3)] + [run("projected", 4, [None] * 2)]
    figure = dynamics("t", {"projected": runs}, {"projected": STYLE}, {"hack_s": "hack"})
    (band,) = figure.axes[0].collections
    assert "band 95 % t interval" in figure.get_suptitle()
    corners = {tuple(point) for path in band.get_paths() for point in path.vertices}
    for step, scale in ((1, 1 / 8), (2, 2 / 8)):
        e = over_seeds([scale * n for n in (1, 2, 3)])
        heights = [y for x, y in corners if x == step]
        assert min(heights) == pytest.approx(e.low) and max(heights) == pytest.approx(e.high)


@given(st.lists(st.floats(0, 1), max_size=9).map(sorted), st.floats(0.001, 0.3))
def test_names_at_the_ends_of_lines_do_not_overlap(places: list[float], gap: float) -> None:
    found = spread_out(places, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(found)) and all(y >= 0 for y in found)
    if all(b - a >= gap for a, b in pairwise(places)):
        assert found == pytest.approx(places, abs=1e-9)
    if found and found[0] > 0:  # nothing held them up: they moved as little up as down
        assert sum(found) == pytest.approx(sum(places))


def test_no_spread_is_drawn_hollow_and_said() -> None:
    wide = Estimate("", 3, 0.5, 0.25, 0.75, 0.95)
    flat = Estimate("", 2, 0.5, 0.5, 0.5, 0.95)
    for other, hollow in ((wide, False), (flat, True)):
        found = {"att_s": wide, "hack_s": other, "gt_s": wide}
        figure = forest("t", {"projected, steps 4-8": found}, [], {})
        dots = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "o"]
        assert [line.get_markerfacecolor() == "white" for line in dots] == [False, hollow, False]
        assert ("hollow" in figure.get_suptitle()) == hollow
        (label,) = figure.axes[0].get_yticklabels()
        assert label.get_text().endswith("(n=3, 2, 3)" if hollow else "(n=3)")
