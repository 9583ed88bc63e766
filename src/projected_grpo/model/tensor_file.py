"""Files of tensors, and the folder of those that can be computed again."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def cache_folder(name: str) -> Path:
    """`$PROJECTED_GRPO_CACHE/<name>`, else `~/.cache/projected_grpo/<name>`."""
    root = os.environ.get("PROJECTED_GRPO_CACHE") or Path.home() / ".cache" / "projected_grpo"
    return Path(root) / name


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises OSError.

    safetensors' own `save_file` gives every file the mode 0600, whatever the umask says, and makes
    another error of a full disk.
    """
    path.write_bytes(save(dict(tensors), None if metadata is None else dict(metadata)))


def put_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file under another name and move it into place: it is there whole or not
    at all, and processes side by side may put the same. Raises OSError."""
    aside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write_tensors(tensors, aside, metadata)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)  # gone already where all went well
