"""Whether a checkpoint is what was written: its files, the rows before it, and the directions.

state.json of a checkpoint has the sha256 of its other files and of the directions that the run has
so far, size and sha256 of the rows so far, and a digest of itself. Checkpoints of earlier versions
have none of these: they are read through, and their rows counted.
"""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open

from projected_grpo.runs.files import sha256_of

STATE = "state.json"
ROWS = ("steps.jsonl", "rollouts.jsonl")
"""Files of a run directory that grow with its steps."""


class Damage(ValueError):
    """A checkpoint is not what was written; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found to be whole."""

    folder: Path
    step: int
    num_tokens: int
    sizes: Mapping[str, int]
    """File of rows -> bytes of the rows up to this step."""

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The state dict of an optimizer, on the CPU."""
        return torch.load(self.folder / name, map_location="cpu", weights_only=True)


def write_optimizer(state: Mapping[str, Any], path: Path) -> None:
    """Write an optimizer's state dict. Raises OSError, where `torch.save` to a path would raise a
    RuntimeError."""
    data = io.BytesIO()
    torch.save(state, data)
    path.write_bytes(data.getvalue())


def write_state(
    folder: Path,
    step: int,
    num_tokens: int,
    rows: Mapping[str, Mapping[str, Any]],
    directions: Mapping[str, str],
) -> None:
    """Write state.json of a checkpoint whose other files are there already. Raises OSError.

    `rows`: file -> {"bytes", "sha256"}; `directions`: file of the run directory -> sha256.
    """
    state: dict[str, Any] = {
        "step": step,
        "num_tokens": num_tokens,
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        "rows": dict(rows),
        "directions": dict(directions),
    }
    state["sha256"] = _digest(state)
    (folder / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")


def folders_of(checkpoints: Path, until: int | None = None) -> list[Path]:
    """The folders of a run's checkpoints up to step `until`, the newest first; what has another
    name is none."""
    found = [path for path in checkpoints.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    ours = (p for p in found if p.is_dir() and (until is None or step_of(p) <= until))
    return sorted(ours, key=step_of, reverse=True)


def rotate(checkpoints: Path, run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of the run directory `run`; 0 removes none.

    They are read through before: where none of those that stay is whole, all stay. What the disk
    refuses is a warning, as it does no harm.
    """
    folders = folders_of(checkpoints)
    stay, go = folders[:keep], folders[keep:]
    if not keep or not go:
        return
    if not any(_is_whole(folder, run) for folder in stay):
        logger.warning("{}: none of the newest {} is whole, so none is removed", checkpoints, keep)
        return
    for folder in go:
        aside = folder.with_name(f".{folder.name}")  # half a folder would count as a checkpoint
        try:
            os.rename(folder, aside)
            shutil.rmtree(aside)
        except OSError as error:
            logger.warning("{} cannot be removed: {}", folder, error.strerror)


def _is_whole(folder: Path, run: Path) -> bool:
    try:
        read_checkpoint(folder, run, ("adapter.safetensors", "optimizer.pt"))
    except Damage:
        return False
    return True


def read_checkpoint(folder: Path, run: Path, needed: Iterable[str]) -> Checkpoint:
    """A checkpoint of the run directory `run`, checked; `needed` are the files that it must have.
    Raises Damage where it is not what was written."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise Damage(f"{STATE} is no JSON object")
        step, num_tokens = int(state["step"]), int(state["num_tokens"])
        for name in needed:
            if not (folder / name).is_file():
                raise Damage(f"it has no {name}")
        if "sha256" in state:
            sizes = _checked(folder, run, state)
        else:
            sizes = _read_through(folder, run, step, sorted(needed))
    except Damage:
        raise
    except KeyError as error:
        raise Damage(f"{STATE} has no {error}") from error
    except OSError as error:
        raise Damage(f"{Path(str(error.filename)).name}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise Damage(f"{STATE} is damaged: {error}") from error
    if step != step_of(folder):
        raise Damage(f"{STATE} is of step {step}")
    return Checkpoint(folder, step, num_tokens, sizes)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named by."""
    return int(folder.name.removeprefix("step_"))


def _digest(state: Mapping[str, Any]) -> str:
    """sha256 of all that state.json says but for this digest itself."""
    said = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _checked(folder: Path, run: Path, state: Mapping[str, Any]) -> dict[str, int]:
    """Compare all sha256 of a checkpoint; the sizes of the files of rows at its step."""
    if _digest(state) != state["sha256"]:
        raise Damage(f"{STATE} was changed since it was written")
    for base, digests in ((folder, state["files"]), (run, state["directions"])):
        for name, digest in digests.items():
            if sha256_of(base / name) != digest:
                raise Damage(f"{name} was changed since it was written (its sha256 differs)")
    for name, rows in state["rows"].items():
        if (run / name).stat().st_size < rows["bytes"]:
            raise Damage(f"{name} has lost rows that it had then")
        if sha256_of(run / name, rows["bytes"]) != rows["sha256"]:
            raise Damage(f"rows of {name} were changed since (their sha256 differs)")
    return {name: rows["bytes"] for name, rows in state["rows"].items()}


def _read_through(folder: Path, run: Path, step: int, files: Sequence[str]) -> dict[str, int]:
    """The same for a checkpoint without checksums, as far as its files can be read."""
    for name in files:
        try:
            if name.endswith(".pt"):
                torch.load(folder / name, map_location="cpu", weights_only=True)
            else:
                with safe_open(folder / name, "pt") as f:
                    f.keys()
        # torch's reader of a pickle that is none: whatever its first wrong byte asks for
        except (EOFError, LookupError, RuntimeError, SafetensorError, pickle.UnpicklingError,
                AttributeError, TypeError, ValueError) as error:  # fmt: skip
            raise Damage(f"{name} cannot be read: {' '.join(str(error).split())[:120]}") from error
    return {name: _size_of_rows(run / name, step) for name in ROWS}


def _size_of_rows(path: Path, until: int) -> int:
    """Bytes of the rows of steps 1 to `until`."""
    size, last = 0, 0
    with path.open("rb") as f:
        for number, line in enumerate(f, 1):
            try:
                step = json.loads(line)["step"] if line.endswith(b"\n") else None
            except (KeyError, TypeError, ValueError) as error:
                raise Damage(f"row {number} of {path.name} is damaged") from error
            if step is None or step > until:
                break
            if step != last + 1 and not (step == last and path.name == "rollouts.jsonl"):
                raise Damage(f"{path.name} goes from step {last} to step {step}")
            size, last = size + len(line), step
    if last < until:
        raise Damage(f"{path.name} ends at step {last}")
    return size
