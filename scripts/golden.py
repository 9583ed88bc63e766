"""Record the rows of the golden smoke run that tests/test_train.py compares with.

Run it only when the rows are meant to change, and say why in the commit: `just golden`.
"""

import json
import tempfile
from pathlib import Path

from projected_grpo.config import SmokeConfig
from projected_grpo.step_logger import TIMINGS, read_steps
from projected_grpo.train import train

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "smoke_projected.jsonl"

with tempfile.TemporaryDirectory() as folder:
    run = train(SmokeConfig(out_dir=Path(folder), arm="projected"))
    rows = read_steps(run / "steps.jsonl")
kept = [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
TARGET.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
