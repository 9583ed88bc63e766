import threading

import pytest
import torch
from safetensors.torch import save_file

from projected_grpo.env.errors import InputError
from projected_grpo.model import svd, tensor_file
from projected_grpo.model.svd import cached_decompose, decompose, weight_digest


@pytest.mark.parametrize("shape", [(7, 7), (5, 11), (11, 5), (1, 4), (40, 96)])
def test_factors_are_orthonormal_and_reconstruct(shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    f = decompose(W)
    r = min(shape)
    assert f.S.shape == (r,) and (f.S[:-1] >= f.S[1:]).all()
    assert torch.allclose(f.U.T @ f.U, torch.eye(r), atol=2e-6)
    assert torch.allclose(f.Vh @ f.Vh.T, torch.eye(r), atol=2e-6)
    assert torch.allclose((f.U * f.S) @ f.Vh, W, atol=1e-5)


@pytest.mark.parametrize("transpose", [False, True])
def test_an_ill_conditioned_matrix_falls_back_and_stays_orthonormal(transpose: bool) -> None:
    """Condition 1e12: the Gram matrix loses the small right vectors, the full SVD does not."""
    g = torch.Generator().manual_seed(2)
    U, _ = torch.linalg.qr(torch.randn(20, 20, generator=g, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(30, 20, generator=g, dtype=torch.float64))
    W = (U * torch.logspace(0, -12, 20, dtype=torch.float64)) @ V.T
    f = decompose(W.T if transpose else W)
    for rows in (f.U.T, f.Vh):
        assert torch.allclose(rows @ rows.T, torch.eye(20, dtype=torch.float64), atol=1e-10)


def test_a_rank_deficient_matrix_gets_a_full_orthonormal_basis() -> None:
    f = decompose(torch.outer(torch.arange(1.0, 7.0), torch.ones(9)))
    assert torch.allclose(f.Vh @ f.Vh.T, torch.eye(6), atol=2e-6)
    assert f.S[1:].max() < 1e-5


def test_signs_are_canonical() -> None:
    f = decompose(torch.randn(6, 9, generator=torch.Generator().manual_seed(3)))
    largest = f.U.gather(0, f.U.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_a_weight_that_is_not_finite_is_refused() -> None:
    W = torch.ones(3, 4)
    W[1, 1] = torch.nan
    with pytest.raises(ValueError, match="not a finite matrix"):
        decompose(W)


def test_the_cache_is_keyed_by_content_and_survives_a_truncated_file(tmp_path) -> None:
    W = torch.randn(6, 9)
    first = cached_decompose(W, tmp_path)
    (file,) = tmp_path.iterdir()
    assert cached_decompose(W.clone(), tmp_path).digest() == first.digest()
    file.write_bytes(file.read_bytes()[:50])
    assert cached_decompose(W, tmp_path).digest() == first.digest()
    cached_decompose(W + 1e-7, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert weight_digest(W) != weight_digest(W.reshape(9, 6)) != weight_digest(W.double())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")]
)
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, error: Exception) -> None:
    def refused(tensors, path, metadata) -> None:
        raise error

    monkeypatch.setattr(tensor_file, "write_tensors", refused)
    with pytest.raises(InputError, match=rf"the SVD cache \({tmp_path}.*(No space|Read-only)"):
        cached_decompose(torch.randn(3, 4), tmp_path)
    assert not list(tmp_path.iterdir())


def test_equal_weights_are_decomposed_once_while_the_first_is_being_written(
    tmp_path, monkeypatch
) -> None:
    calls, asked_twice = [], threading.Event()

    def counted(W: torch.Tensor) -> svd.Factors:
        calls.append(W)
        return decompose(W)

    def slow(tensors, path, metadata) -> None:
        assert asked_twice.wait(60)
        save_file(tensors, path)

    monkeypatch.setattr(svd, "decompose", counted)
    monkeypatch.setattr(tensor_file, "write_tensors", slow)
    W = torch.randn(6, 9)
    every = svd.decompose_all([W, W.clone()], tmp_path)
    first, second = next(every), next(every)
    asked_twice.set()
    assert not list(every) and len(calls) == 1 and first.digest() == second.digest()


def test_parallel_runs_share_the_cache(tmp_path) -> None:
    W = torch.randn(30, 30)
    digests: list[str] = []
    threads = [
        threading.Thread(target=lambda: digests.append(cached_decompose(W, tmp_path).digest()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4 and len(set(digests)) == 1
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]
