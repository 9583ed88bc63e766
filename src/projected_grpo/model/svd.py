"""Thin SVD of a weight matrix, and its cache on disk.

The coordinates of every delta_S, gradient and hack direction are the singular axes found here, so
two things matter beyond accuracy: the factors must be orthonormal (a float32 Gram matrix
reconstructs W well and still gives a V that is not orthogonal), and one matrix must always get the
*same* factors. Hence the canonical sign, the cache keyed by content, and `digest`, which lets a
saved direction name the exact axes that it is written in.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from projected_grpo.env.errors import InputError
from projected_grpo.model.tensor_file import cache_folder, put_tensors

DECOMPOSITION_VERSION = 2
"""Part of every cache key: raise it when the algorithm below changes its answer."""
ORTHONORMAL_TOLERANCE = 1e-6
THREADS = 4
"""Of hashing and writing."""
MOST_CPU_THREADS = 16
"""Of torch, for work on a CPU. An eigenproblem of 896 takes 0.05 s with 16 threads and 10.4 s with
64, on 64 cores (docs/performance.md)."""
SAMPLED = 8
"""Rows of U and columns of Vh that a digest reads."""


@dataclass(frozen=True, slots=True)
class Factors:
    """W = U diag(S) Vh: U (d_out, r), S (r,) falling, Vh (r, d_in), r = min(d_out, d_in).

    U and Vh have W's dtype, the only one they are used in; S is float32, float64 of a float64 W.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor

    def digest(self) -> str:
        """sha256 that names the axes which a delta_S of this matrix lives on.

        Over S and SAMPLED rows of U and columns of Vh: each of them crosses all r axes, so an axis
        that is turned, flipped or in another place shows, and 20 GB of a 4B model need no hashing.
        """
        return digest_of(self.S, sampled_rows(self.U), sampled_rows(self.Vh.T))

    def seed(self) -> int:
        """28 bits of the digest: of the rounding of a bf16 weight."""
        return int(self.digest()[:7], 16)


def sketch(U: Tensor, Vh: Tensor) -> Tensor:
    """One number an axis, (r,) float32 or better, by which to tell whether two decompositions give
    a delta_S the same weight, though their last bits differ.

    It is z^T u_i v_i^T x for fixed signs z and x: of the order of 1, the same whichever way an axis
    points, and another one for an axis that is turned.
    """
    exact = torch.promote_types(U.dtype, torch.float32)
    z, x = _signs(U.shape[0], 0).to(U), _signs(Vh.shape[1], 1).to(Vh)
    return (z.to(exact) @ U.to(exact)) * (Vh.to(exact) @ x.to(exact))


TOLERANCE = 0.05
"""Largest relative difference of sketches on two decompositions, weighted by what lies on the axes:
rounding to bf16 makes .002 of it, other weights 1."""


def axes_agree(theirs: Tensor, mine: Tensor, weights: Tensor) -> bool:
    """Whether axes with these sketches (r,) mean the same for every row of weights (..., r); a NaN
    does not."""
    off = ((theirs - mine) * weights).norm(dim=-1)
    return bool((off <= TOLERANCE * (mine * weights).norm(dim=-1)).all())


def _signs(n: int, seed: int) -> Tensor:
    """n draws of -1 or 1, the same everywhere."""
    drawn = hashlib.shake_256(bytes([seed])).digest(n)
    return torch.tensor([1.0 if byte < 128 else -1.0 for byte in drawn])


def digest_of(*parts: Tensor) -> str:
    """sha256 of these tensors' dtypes, shapes and bytes."""
    h = hashlib.sha256()
    for part in parts:
        h.update(repr((part.dtype, tuple(part.shape))).encode())
        h.update(_bytes(part))
    return h.hexdigest()


def sampled_rows(rows: Tensor) -> Tensor:
    """SAMPLED of these rows, evenly spaced."""
    return rows[torch.linspace(0, len(rows) - 1, SAMPLED, device=rows.device).long()]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy().data


@contextmanager
def few_threads() -> Iterator[None]:
    """At most MOST_CPU_THREADS inside, also in another's process, whose choice comes back."""
    before = torch.get_num_threads()
    if before > MOST_CPU_THREADS:
        torch.set_num_threads(MOST_CPU_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gram_svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a wide (or square) float64 matrix by eigh of its Gram matrix W W^T."""
    eigenvalues, U = torch.linalg.eigh(W @ W.T)
    U = U.flip(-1)
    S = eigenvalues.flip(-1).clamp_min(0).sqrt()
    return U, S, (U.T @ W) / S[:, None]


def _orthonormality_error(Q: Tensor) -> float:
    """Largest entry of |Q Q^T - I| for rows Q (r, d)."""
    return float((Q @ Q.T - torch.eye(Q.shape[0], dtype=Q.dtype, device=Q.device)).abs().max())


def decompose(W: Tensor) -> Factors:
    """Thin SVD of W (d_out, d_in), computed in float64 on W's device.

    The Gram matrix is squared in condition, so its small right vectors can lose orthogonality;
    that is measured, and where it exceeds ORTHONORMAL_TOLERANCE the full SVD is taken instead.
    Each axis gets the sign that makes the largest entry of its U column positive.

    Raises ValueError for a weight that is not a finite matrix.
    """
    if W.ndim != 2 or not torch.isfinite(W).all():
        raise ValueError(
            f"cannot decompose a weight of shape {tuple(W.shape)}: not a finite matrix"
        )
    W64 = W.detach().double()
    tall = W64.shape[0] > W64.shape[1]
    with few_threads():
        U, S, Vh = _gram_svd(W64.T if tall else W64)
        # also true for NaN (a zero singular value)
        if not _orthonormality_error(Vh) <= ORTHONORMAL_TOLERANCE:
            U, S, Vh = torch.linalg.svd(W64, full_matrices=False)
        elif tall:
            U, Vh = Vh.T, U.T
    sign = torch.gather(
        U, 0, U.abs().argmax(0, keepdim=True)
    ).sign()  # (1, r), never 0: columns have norm 1
    exact = torch.promote_types(W.dtype, torch.float32)
    return Factors(
        (U * sign).to(W.dtype).contiguous(),
        S.to(exact),
        (Vh * sign.T).to(W.dtype).contiguous(),
    )


def weight_digest(W: Tensor) -> str:
    """sha256 of a weight's dtype, shape and bytes."""
    h = hashlib.sha256(f"{W.dtype}{tuple(W.shape)}".encode())
    h.update(_bytes(W))
    return h.hexdigest()


def default_cache_dir() -> Path:
    """`$PROJECTED_GRPO_CACHE/svd`, else `~/.cache/projected_grpo/svd`."""
    return cache_folder("svd")


def cached_decompose(W: Tensor, cache_dir: Path | None) -> Factors:
    """`decompose(W)`, read from or written to `cache_dir` (None: no cache)."""
    (factors,) = decompose_all([W], cache_dir)
    return factors


def decompose_all(weights: Iterable[Tensor], cache_dir: Path | None) -> Iterator[Factors]:
    """`decompose` of each weight, read from or written to `cache_dir` (None: no cache).

    Threads hash the next few weights and write the last ones meanwhile: of a 4B model on a GPU, 8
    and 10 GB, several times what decomposing takes. A file is written under a temporary name and
    moved into place, so that runs side by side share the cache and none reads half a file; one that
    cannot be read is computed again and replaced. Raises InputError where the folder cannot be
    made or a file cannot be written.
    """
    if cache_dir is None:
        yield from map(decompose, weights)
        return
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the SVD cache {cache_dir}: {error.strerror}") from error
    left = iter(weights)
    with ThreadPoolExecutor(THREADS) as threads:
        ahead = deque((W, threads.submit(weight_digest, W)) for W in islice(left, 2 * THREADS))
        writing: deque[tuple[Path, Future[None]]] = deque()
        unwritten: dict[Path, Factors] = {}  # an equal weight may come before the file is there
        while ahead:
            W, digest = ahead.popleft()
            path = cache_dir / f"v{DECOMPOSITION_VERSION}_{digest.result()}.safetensors"
            factors = unwritten.get(path)
            if factors is None or factors.S.device != W.device:
                factors = _stored(path, W.device)
            if factors is None:
                factors = unwritten[path] = decompose(W)
                writing.append((path, threads.submit(_store, factors, path)))
            ahead.extend((W, threads.submit(weight_digest, W)) for W in islice(left, 1))
            yield factors
            while writing and (writing[0][1].done() or len(writing) > 2 * THREADS):
                path, written = writing.popleft()
                written.result()
                unwritten.pop(path, None)  # None: of a weight on two devices, written twice
        for _, written in writing:
            written.result()


def _stored(path: Path, device: torch.device) -> Factors | None:
    if not path.is_file():
        return None
    try:
        stored = load_file(path, device=str(device))
        return Factors(stored["U"], stored["S"], stored["Vh"])
    except (SafetensorError, KeyError):
        return None  # a truncated copy of the cache: it is replaced


def _store(factors: Factors, path: Path) -> None:
    try:
        put_tensors({"U": factors.U, "S": factors.S, "Vh": factors.Vh}, path)
    except OSError as error:  # a full disk; a folder that is read-only, or in the file's place
        raise InputError(
            f"cannot write to the SVD cache ({path}: {error.strerror}): make room there, or name "
            "another folder with --svd-cache"
        ) from error
