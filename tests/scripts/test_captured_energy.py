"""Captured energy of held-out pairs: shares and intervals, on made-up and on real differences."""

import captured_energy
import pytest
import torch
from captured_energy import Arguments, energies

from projected_grpo.env.errors import InputError


def test_shares_are_those_of_the_whole_energy_and_intervals_hold_them() -> None:
    D = {"a": torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]), "b": torch.zeros(3, 2)}
    x, y = ({name: torch.eye(2)[order] for name in D} for order in (torch.tensor([0, 1]), [1, 0]))
    found = energies(D, {"x": x, "y": y}, (1, 2), ["f", "f", "g"])
    assert [e.estimate for e in found["x"]] == pytest.approx([10 / 30, 1.0])
    assert [e.estimate for e in found["y"]] == pytest.approx([20 / 30, 1.0])
    assert [e.estimate for e in found["x - y"]] == pytest.approx([-10 / 30, 0.0])
    assert found["x"][0].low <= 10 / 30 <= found["x"][0].high
    assert found["x"][0].n == 2  # families, not pairs


def test_the_placebo_set_follows_the_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert captured_energy.PLACEBO == {
        "builtin": "placebo",
        "katas": "katas-placebo",
        "own": "own-placebo",
        "own-reports": "own-placebo",
    }
    with pytest.raises(InputError, match="framing has no placebo set of its own"):
        captured_energy.main(Arguments(pairs="framing"))
    captured_energy.main(Arguments(model="tiny-random", pair_norm="unit", ks=(1, 5)))
    text = capsys.readouterr().out
    assert "54 pairs in, 18 pairs of 18 other families held out" in text
    labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    sources = ["V", "placebo V", "shuffled V", "random V", "whitened V"]
    assert [label for label in labels if label.endswith("V")] == [
        *(*sources, "V - placebo V"),
        *sources,
    ]


def test_whitened_axes_are_those_of_the_hack_that_no_clean_side_has() -> None:
    clean = torch.zeros(8, 5)
    clean[:, 0] = torch.randn(8, generator=torch.Generator().manual_seed(0))
    D = torch.tensor([[3.0, 1.0, 0, 0, 0], [3.0, -0.1, 1.0, 0, 0]]).repeat(4, 1)
    axes = captured_energy.whitened_axes(D, clean)
    torch.testing.assert_close(axes @ axes.T, torch.eye(len(axes)), atol=1e-5, rtol=0)
    assert abs(float(captured_energy.top_axes(D)[0][0, 0])) > 0.9  # V follows what both have
    assert abs(float(axes[0, 0])) < 0.3
