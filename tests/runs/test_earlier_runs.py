"""Run directories that commit f542cc8 wrote (tests/data/f542cc8) resume and are reported as they
were then."""

import shutil
from pathlib import Path

import pytest
from conftest import assert_same_rollouts, assert_same_rows, rows_of

from projected_grpo.config import SmokeConfig
from projected_grpo.report.report import report
from projected_grpo.runs.commands import ReportConfig
from projected_grpo.runs.sweep.command import status
from projected_grpo.train import train

DATA = Path(__file__).parents[1] / "data" / "f542cc8"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the finished run and the one that was stopped after step 3 of 6."""
    for name in ("finished", "stopped"):
        shutil.copytree(DATA / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_both_are_listed(runs: Path) -> None:
    said = status(runs)
    assert "2 runs" in said and "1 finished" in said and "1 stopped" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line}
    assert "6/6" in lines["finished"] and "3/6" in lines["stopped"]


def test_the_stopped_one_goes_on_as_if_it_had_not_been(runs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "svd"
    shutil.copytree(DATA / "cache" / "svd", cache)
    begun = rows_of(runs / "stopped")
    train(SmokeConfig(resume=runs / "stopped", svd_cache=cache))
    rows = rows_of(runs / "stopped")
    assert len(rows) == 6 and rows[:3] == begun
    assert_same_rows(runs / "stopped", runs / "finished")
    assert_same_rollouts(runs / "stopped", runs / "finished", "reward", "hack_score")


def test_a_report_has_both(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "report"
    # of two runs of one experiment a report takes the better one: it gets each in turn as well
    report(ReportConfig(runs=(runs,), out=out))
    assert "1 run -> " in capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert "runs/stopped is left out: it is the same experiment as" in page
    report(ReportConfig(runs=(runs / "stopped",), out=out))
    assert "3/6" in (out / "tables" / "runs.md").read_text()
