"""Files of a run directory: written whole, checked by sha256, with what the disk refuses said in a
sentence."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from projected_grpo.env.errors import InputError

CHUNK_BYTES = 1 << 20


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context for code that only writes below `path`: what the disk refuses there (it is full,
    read-only, or not the user's) becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}") from error


def _nearest_there(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def require_writable(out_dir: Path) -> None:
    """Raises InputError where no run directory could be made in a folder, which need not be there
    yet: found now, not after minutes of loading."""
    if why := _why_unwritable(out_dir):
        raise InputError(f"cannot make a run directory in {out_dir}: {why}")


def _why_unwritable(folder: Path) -> str | None:
    """Why nothing could be written in a folder, which need not be there yet; None where it could.
    Leaves nothing behind."""
    try:
        nearest = _nearest_there(folder)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        return error.strerror or str(error)
    if not nearest.is_dir():
        return f"{nearest} is a file"
    probe = nearest / f".projected_grpo_{os.getpid()}"
    try:
        probe.mkdir()  # asked for permission only, /proc says yes
        try:
            (probe / "rows").write_bytes(bytes(4096))  # a full disk takes names, but no bytes
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT)
        return f"{nearest} is not writable" if denied else error.strerror or str(error)
    return None


def require_folder(path: Path, flag: str) -> None:
    """Raises InputError where a path cannot be a folder, as a file is in its way."""
    there = _nearest_there(path)
    if not there.is_dir():
        raise InputError(f"{flag}={path} is no folder: {there} is a file")


def require_new(path: Path, overwrite: bool | None = None) -> None:
    """Raises InputError where a command could not write its result to --out, or would write it over
    what is there: asked before the work whose outcome goes there.

    overwrite: what --overwrite says, where a command that writes a file has it.
    """
    with writing(path):
        folder, there = path.is_dir(), path.exists()
    if folder and overwrite is not None:
        raise InputError(f"--out={path} is a folder: name a file in it")
    if there and not overwrite:
        other = "move it away" if overwrite is None else "add --overwrite to replace it"
        raise InputError(f"{path} is there already: name another with --out, or {other}")
    if why := _why_unwritable(path.absolute().parent):
        raise InputError(f"cannot write to {path}: {why}")


def write_aside(target: Path, text: str) -> None:
    """Write a text file under another name and move it into place: it is there whole or not at
    all. Raises OSError."""
    aside = target.with_name(f"{target.name}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)  # gone already where all went well


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines and flush them."""
    with path.open("a", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def sha256_of(path: Path, size: int | None = None) -> str:
    """sha256 of a file, or of its first `size` bytes. A file that is shorter has another one."""
    h = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as f:
        while left and (chunk := f.read(min(CHUNK_BYTES, left))):
            h.update(chunk)
            left -= len(chunk)
    return h.hexdigest()


class GrowingFile:
    """The size and sha256 of a file that is only appended to: each look reads what is new."""

    def __init__(self, path: Path) -> None:
        self._path, self._hash, self._size = path, hashlib.sha256(), 0

    def look(self) -> dict[str, Any]:
        """The file as it is now: {"bytes": its size, "sha256": its digest}."""
        with self._path.open("rb") as f:
            f.seek(self._size)
            while chunk := f.read(CHUNK_BYTES):
                self._hash.update(chunk)
                self._size += len(chunk)
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}


class LogFile:
    """A sink for loguru that writes to a file, as long as the disk takes it: a log that cannot be
    written ends no run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, message: str) -> None:
        """Append one line."""
        try:
            with self._path.open("a", encoding="utf-8", errors="replace") as f:
                f.write(message)
        except OSError:
            return  # the disk is full, which the rows say
