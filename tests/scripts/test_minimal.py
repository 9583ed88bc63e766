"""The page for students runs and shows what it says: projection takes out the hack-ward part."""

from pathlib import Path

import minimal
import pytest


def test_a_step_projected_and_one_not(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"steps": 1, "P": 2, "G": 4, "n_pairs": 4, "seed": 1}
    (with_it,), (without,) = (minimal.train(**small, projected=yes) for yes in (True, False))
    assert with_it["cos_before"] == without["cos_before"] == without["cos_after"]
    assert with_it["cos_after"] < min(with_it["cos_before"], 0)
    assert {k: with_it[k] for k in ("reward", "hack", "solve")} == {
        k: without[k] for k in ("reward", "hack", "solve")
    }
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and all(line.startswith("step 1  reward") for line in out)


def test_it_is_one_page() -> None:
    assert len(Path(minimal.__file__).read_text().splitlines()) <= 150
