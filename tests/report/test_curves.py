"""Figures of curves leave room for the curves."""

import pytest

from projected_grpo.report.curves import attempts
from projected_grpo.report.plots import styles_of
from projected_grpo.report.results import Run

LONG = " v_hack_k=32 overshoot=0.0 start_arm_at=9 screen=row screen_fpr=0.1"


@pytest.mark.parametrize("tags", ["", LONG])
def test_names_do_not_squeeze_the_panel(tags: str) -> None:
    about = {"seed": 1, "status": "finished", "settings": {"steps": 9}}
    runs = [Run(about, [{"step": i, "att_s": (i, 9)} for i in range(1, 10)])]
    arms = {"vanilla": runs, f"projected{tags}": runs}
    figure = attempts("small", arms, styles_of([*arms]))
    figure.tight_layout()
    panel = figure.axes[0].get_position()
    assert panel.width > 0.5 and panel.height > 0.4
