"""Files of tensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises OSError.

    safetensors' own `save_file` gives every file the mode 0600, whatever the umask says, and makes
    another error of a full disk.
    """
    path.write_bytes(save(dict(tensors), None if metadata is None else dict(metadata)))
