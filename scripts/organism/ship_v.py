"""Write the hack directions that ship with the organism, those of preset mini: its first 32 axes.

    uv run extract-vhack --out=/tmp/v.safetensors --model=organism --pairs=katas --pair-norm=unit \\
        --temperature=1.0 --dtype=float32 --device=cpu
    uv run python scripts/organism/ship_v.py /tmp/v.safetensors
"""

import sys
from pathlib import Path

from projected_grpo.config import MiniConfig
from projected_grpo.extract_vhack_grad import load_vhack
from projected_grpo.model.load import ORGANISM_V

if __name__ == "__main__":
    load_vhack(Path(sys.argv[1])).top(MiniConfig().v_hack_k).save(ORGANISM_V)
    print(f"{ORGANISM_V}: {ORGANISM_V.stat().st_size / 1e6:.2f} MB")
