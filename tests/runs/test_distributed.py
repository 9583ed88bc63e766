"""One run in two processes (gloo, CPU) is the run that one process makes, to rounding; what cannot
be shared out is refused; a stop or an error in one process ends all.

Real processes, started by torchrun as a user starts them; the organism, three prompts: one process
has one group of a step, the other two."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of
from safetensors.torch import load_file

from projected_grpo.arms.rows import StepSums
from projected_grpo.config import ConfigError, MiniConfig
from projected_grpo.env.errors import InputError
from projected_grpo.model.svd import MOST_CPU_THREADS
from projected_grpo.runs.distributed import (
    ALONE,
    World,
    add_up_gradients,
    process_group,
    require_groups,
)
from projected_grpo.runs.ranks import Place, alone_of, place_of, without_place
from projected_grpo.train import train

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
TRAIN = ("-m", "projected_grpo", "train", "mini")
LAUNCHED = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}  # fmt: skip


def settings(out_dir: Path, **overrides) -> MiniConfig:
    return replace(
        MiniConfig(
            out_dir=out_dir, arm="projected", seed=5, steps=3, prompts_per_step=3, group=4,
            max_new=64, mix_ratio=0.25, checkpoint_every=1, print_every=2, threads=1, warmup_frac=0,
            pair_flavours=("pass",), v_hack_k=4,
        ),
        **overrides,
    )  # fmt: skip


def flags(cfg: MiniConfig) -> list[str]:
    """The command line that gives these settings."""
    default, found = vars(MiniConfig()), []
    for name, value in vars(cfg).items():
        if value != default[name]:
            flag, several = f"--{name.replace('_', '-')}", isinstance(value, tuple)
            switch = flag if value else f"--no-{flag[2:]}"
            found += [flag, *map(str, value)] if several else [
                switch if isinstance(value, bool) else f"{flag}={value}"
            ]  # fmt: skip
    return found


def start(processes: int, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, str(processes), *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def launched(processes: int, *words: object) -> tuple[int, str, str]:
    """Exit code and output of the launcher."""
    started = start(processes, *words)
    out, err = started.communicate(timeout=600)
    return started.returncode, out, err


def only(folder: Path) -> Path:
    (run,) = folder.glob("[!.]*")
    return run


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def assert_same(run: Path, expected: Path, steps: int = 3) -> None:
    """The same rows and rollouts of the first steps; numbers to rounding, all else equal."""
    had, wanted = rows_of(run), rows_of(expected)[:steps]
    assert [row["step"] for row in had] == list(range(1, steps + 1))
    for row, other in zip(had, wanted, strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            if key == "sampling_logp_diff_max":
                assert (row[key] is None) == (value is None) and (row[key] or 0) < 1e-3
            elif isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=5e-3, abs=2e-5), key
            else:
                assert row[key] == value, key
    drawn, theirs = rollouts_of(run), [r for r in rollouts_of(expected) if r["step"] <= steps]
    assert [row["step"] for row in drawn] == [row["step"] for row in theirs]
    for row, other in zip(drawn, theirs, strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            if key == "pull":  # a byte a token may round the other way
                assert row[key]["scale"] == pytest.approx(value["scale"], rel=1e-3, abs=2e-5)
                continue
            close = pytest.approx(value, rel=1e-3, abs=2e-5) if isinstance(value, float) else value
            assert row[key] == close, key


def assert_same_state(run: Path, expected: Path) -> None:
    had, wanted = (load_file(p / "adapter" / "adapter.safetensors") for p in (run, expected))
    off = sum(float((had[name] - wanted[name]).square().sum()) for name in wanted) ** 0.5
    length = sum(float(value.square().sum()) for value in wanted.values()) ** 0.5
    assert had.keys() == wanted.keys() and off < 2e-3 * length


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run that one process makes."""
    return train(settings(tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def given(alone: Path) -> dict:
    """The same settings with V as that run made it: extraction is most of a start."""
    return {"v_hack": alone / "v_hack.safetensors", "pair_flavours": ()}


# A rank does something at step 2; `what` is Python.
MEDDLED = """
import os, signal, sys
import projected_grpo.train as t
from projected_grpo.cli import train_main
plain = t.run_step

def run_step(s, step, *rest):
    if step == 2 and os.environ["RANK"] == "{rank}":
        {what}
    return plain(s, step, *rest)

t.run_step = run_step
train_main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def imported() -> BaseContext:
    """Makes processes that have all imports, without the ten seconds that these take: forks of this
    one, or where there is a GPU of one that has imported only. A fork of this one could not run a
    backward there, as autograd has threads here by then."""
    if not torch.cuda.is_available():
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["projected_grpo.train"])
    forkserver.ensure_running()  # imports while this process goes on
    return context


def as_rank(out: Path, rank: int, port: int, work: Callable[..., None], *args: object) -> None:
    """What torchrun would start as one of two processes."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    os.environ.update(LAUNCHED | place)
    sys.stdout = sys.stderr = (out / f"said_{rank}").open("w", buffering=1)
    work(*args)


def two(
    context: BaseContext, out: Path, work: Callable[..., None], *args: object
) -> tuple[list[int | None], list[str]]:
    """Exit codes and output of two processes that do it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        context.Process(target=as_rank, args=(out, rank, port, work, *args), daemon=True)
        for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    return [p.exitcode for p in both], [(out / f"said_{rank}").read_text() for rank in (0, 1)]


def driven(code: str, argv: list[str]) -> None:
    sys.argv[1:] = argv
    exec(code, {})


def test_two_processes_make_the_run_of_one_which_goes_on_with_it(
    imported: BaseContext, alone: Path, tmp_path: Path
) -> None:
    """Signals to rank 1 stop both after the same step; rank 0 alone has written and spoken. In that
    step rank 0 has no row to learn from."""
    # twice, as it comes under torchrun, which passes on its own
    code = MEDDLED.format(rank=1, what="[signal.raise_signal(signal.SIGTERM) for _ in range(2)]")
    argv = ["mini", *flags(settings(tmp_path / "runs"))]
    codes, (first, second) = two(imported, tmp_path, driven, code, argv)
    assert codes == [130, 130], first + second
    run = only(tmp_path / "runs")
    assert rows_of(run)[1]["frac_reward_zero_std"] > 0
    of_rank_0 = [row["reward"] for row in rollouts_of(run) if row["step"] == 2][:4]
    assert len(set(of_rank_0)) == 1
    assert "waiting for 2 processes at 127.0.0.1:" in first
    assert record(run)["status"] == "stopped" and record(run)["processes"] == 2
    assert f"train mini --resume={run}" in first and "|   step |" in first
    assert "2 processes, 2 prompts each at most" in first
    assert second.splitlines()[0].endswith(
        "rank 1: stopping after this step; press Ctrl-C again to stop at once"
    )
    assert len(second.splitlines()) == 1
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "step_000001", "step_000002",
    ]  # fmt: skip
    assert_same(run, alone, steps=2)

    assert train(MiniConfig(resume=run)) == run
    assert record(run)["status"] == "finished" and record(run)["resumed"][-1]["processes"] == 1
    assert_same(run, alone)
    assert_same_state(run, alone)


def tell() -> None:
    """What two processes tell each other."""
    with process_group([settings(Path("nowhere"))]) as world:
        rank = world.rank
        total = StepSums({"module": torch.zeros(2, 3)})
        total.student["module"] += 1 + rank
        total.tokens += torch.tensor([10, 20]) * (1 + rank)
        total.logp_difference_max += torch.tensor([rank, 1 - rank])  # each has one of the largest
        assert add_up_gradients(world, total, [1 + rank, 5]) == [3, 10]
        assert total.student["module"].tolist() == [[3] * 3] * 2
        assert total.tokens.tolist() == [30, 60]
        assert total.logp_difference_max.tolist() == [1, 1]

        V, s = torch.full((2, 3), 1 / 3 + rank), torch.tensor([float(rank)])
        assert not world.same({"V": V})
        world.as_first([V, s])
        assert world.same({"V": V}) and V.tolist() == torch.full((2, 3), 1 / 3).tolist()
        assert s.tolist() == [0]
        with pytest.raises(InputError, match="directions of different shapes"):
            world.as_first([torch.zeros(2 + rank)])
        assert world.any(rank == 1) and world.gather(rank) == [0, 1]
        with pytest.raises(InputError, match=r"rank 1 has other step than rank 0.*--out-dir"):
            world.require_same(step=str(rank))
        refused = (InputError, "rank 1 cannot go on: no") if rank == 0 else (ConfigError, "no")
        with pytest.raises(refused[0], match=refused[1]), world.fail_together():
            if rank == 1:
                raise ConfigError("no")


def test_two_processes_tell_each_other(imported: BaseContext, tmp_path: Path) -> None:
    codes, said = two(imported, tmp_path, tell)
    assert codes == [0, 0], said


def meddled(tmp_path: Path, rank: int, what: str) -> Path:
    path = tmp_path / "meddled.py"
    path.write_text(MEDDLED.format(rank=rank, what=what))
    return path


@pytest.mark.slow
def test_accelerate_starts_the_same_run(alone: Path, given, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
        "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", *TRAIN,
    ]  # fmt: skip
    subprocess.run([*command, *flags(settings(tmp_path, **given))], check=True, timeout=600)
    assert_same(only(tmp_path), alone)
    assert record(only(tmp_path))["processes"] == 2


@pytest.mark.slow
def test_two_processes_go_on_with_the_run_of_one(alone: Path, given, tmp_path: Path) -> None:
    cfg = settings(tmp_path, steps=3, keep_checkpoints=0, **given)
    run = train(cfg)
    for name in ("step_000002", "step_000003"):
        for file in (run / "checkpoints" / name).iterdir():
            file.unlink()
        (run / "checkpoints" / name).rmdir()
    code, _, err = launched(2, *TRAIN, f"--resume={run}")
    assert code == 0, err
    assert_same(run, alone)
    assert_same_state(run, alone)
    assert record(run)["resumed"][-1]["processes"] == 2


# A host whose eigenvectors are not quite those of another.
OTHER_CPU = (
    "import torch, projected_grpo.arms.learned_axes as r; was = r.strongest_rows;"
    " r.strongest_rows = lambda D, most:"
    " was(D, most) * (1 + 1e-5 * torch.linspace(0, 1, D.shape[1], dtype=torch.float64))"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"running_k": 2, "score_weight": 1.0, "running_permuted": True, "mix_ratio": 0.0,
         "prompts_per_step": 5, "group": 8, "max_new": 208, "seed": 3},
        {"arm": "shuffled_v", "refresh_every": 2},
        {"arm": "routed", "beta": 0.01},
        {"arm": "adv_mod"},
        {"adapter": "lora", "lr": 1e-3, "v_hack_k": 2},
    ],
    ids=lambda overrides: next(f"{key}-{value}" for key, value in overrides.items()),
)  # fmt: skip
def test_what_looks_at_all_rows_sees_all_rows(overrides, tmp_path: Path) -> None:
    """Arms, remedies, a refreshed V and the other adapter."""
    cfg = settings(tmp_path / "alone", **({"max_new": 128} | overrides))
    expected = train(cfg)
    driver = meddled(tmp_path, 1, OTHER_CPU) if cfg.running_k else None
    words = (driver, "mini") if driver else TRAIN
    code, _, err = launched(2, *words, *flags(replace(cfg, out_dir=tmp_path / "two")))
    assert code == 0, err
    assert_same(only(tmp_path / "two"), expected)
    assert_same_state(only(tmp_path / "two"), expected)
    if cfg.running_k:  # it learned, and then removed what it had learned
        assert [row["running_rows"] for row in rows_of(expected)][:2] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "what", "words"),
    [
        (0, "raise RuntimeError('this is a fault')", "rank 1: error: another process"),
        (1, "os.kill(os.getpid(), signal.SIGKILL)", "error: another process"),
        (1, "next(iter(s.adapter.trained.values())).data.add_(1); s.adapter.fold()",
         "processes of this run have different adapters"),
    ],
)  # fmt: skip
def test_a_fault_in_one_process_ends_all(rank, what, words, given, tmp_path: Path) -> None:
    driver = meddled(tmp_path, rank, what)
    cfg = settings(tmp_path / "runs", **given)
    code, _, err = launched(2, driver, "mini", *flags(cfg))
    assert code != 0 and words in err
    run = only(tmp_path / "runs")
    assert record(run)["status"] == "failed" and len(rows_of(run)) == 1
    assert f"train mini --resume={run}" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_stops_all(number, given, tmp_path: Path) -> None:
    started = start(2, *TRAIN, *flags(settings(tmp_path, steps=200, **given)))
    while not list(tmp_path.glob("[!.]*/checkpoints/step_*")):
        assert started.poll() is None
        time.sleep(0.1)
    started.send_signal(number)
    _, err = started.communicate(timeout=600)
    assert started.returncode != 0
    run = only(tmp_path)
    assert record(run)["status"] == "stopped" and f"--resume={run}" in err
    last = len(rows_of(run))
    assert (run / "checkpoints" / f"step_{last:06d}").is_dir()


@pytest.mark.slow
def test_refusals_leave_no_directory(given, tmp_path: Path) -> None:
    """Each process says why; rank 0's own refusals reach the others."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    for processes, overrides, words in (
        (2, {"prompts_per_step": 1}, "2 processes have nothing to do for 1 prompts a step"),
        (2, {"arms": ("vanilla", "projected")}, "a pack advances in one process"),
        (2, {"out_dir": blocked}, "is not writable"),
        (2, {"mode": "none"}, "mode 'none' has no hack templates"),
    ):
        cfg = settings(**({"out_dir": tmp_path / "runs"} | given | overrides))
        code, out, err = launched(processes, *TRAIN, *flags(cfg))
        assert code != 0 and not out
        assert f"error: {words}" in err or f"cannot make a run directory in {blocked}" in err
        assert err.count("Traceback") == 1 and not (tmp_path / "runs").exists()  # torchrun's own


# --- without other processes


def test_a_process_reads_its_place() -> None:
    assert place_of({}) == place_of({"WORLD_SIZE": "1", "RANK": "0"}) == Place()
    assert place_of(LAUNCHED) == Place(1, 2, 1, 2)
    assert Place(1, 2, 1, 2).prefix == "rank 1: " and Place().prefix == ""


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "2, but LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, "),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
        (LAUNCHED | {"RANK": "2"}, "RANK 2 of WORLD_SIZE 2"),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK 1 of LOCAL_WORLD_SIZE 1"),
    ],
)  # fmt: skip
def test_an_environment_that_makes_no_sense_is_refused(environ, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        place_of(environ)


def test_a_command_of_one_process_is_refused_to_all_but_the_first() -> None:
    assert alone_of({}) == alone_of({"WORLD_SIZE": "2"}) == alone_of(LAUNCHED | {"RANK": "0"})
    assert alone_of({"RANK": "1"}) == alone_of(LAUNCHED | {"WORLD_SIZE": "1"}) == Place()
    with pytest.raises(ConfigError, match="runs in one process, and this is rank 1 of 2"):
        alone_of(LAUNCHED)
    ours = {"PATH": "/bin", "LOCAL_SCRATCH": "/tmp", "OMP_NUM_THREADS": "1"}
    assert without_place(ours | LAUNCHED | {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "a"}) == ours


@pytest.mark.parametrize(("size", "n"), [(1, 3), (2, 3), (3, 3), (4, 7), (8, 16)])
def test_parts_are_in_order_whole_and_even(size: int, n: int) -> None:
    parts = [list(range(n))[Place(rank, size).part(n)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


def test_more_processes_than_groups_or_gpus_and_packs_are_refused(monkeypatch) -> None:
    cfg = settings(Path("nowhere"))
    require_groups(World(size=3), cfg)
    with pytest.raises(ConfigError, match="4 processes have nothing to do for 3 prompts a step"):
        require_groups(World(size=4), cfg)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"process 1 of this host .* has no GPU .* sees 1: start 1"
    ):
        World(*(1, 2), local_rank=1, local_size=2).device(torch.device("cuda"))
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match="a pack advances in one process, and this is one of 2"),
        process_group([cfg, replace(cfg, seed=4)]),
    ):
        raise AssertionError
    assert not torch.distributed.is_initialized()


NO_GPU = not torch.cuda.is_available()
ON_GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="no CUDA device")]
)


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
def test_messages_keep_values_shapes_and_dtypes(device: str, tmp_path: Path) -> None:
    """Over the backends of a run, in a group of one that takes itself for one of two."""
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    where = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group(backend, init_method=where, rank=0, world_size=1)
    try:
        world = World(0, 2, 0, 2)
        tensors = [
            torch.randn(1, 5, device=device), torch.randn(3, device=device, dtype=torch.float64),
            torch.tensor([[2**40, -1]], device=device), torch.randn(4, 2, device=device).T,
        ]  # fmt: skip
        before = [tensor.clone() for tensor in tensors]
        world.add_up(tensors)
        world.largest(tensors[1])
        world.wait()
        for tensor, was in zip(tensors, before, strict=True):
            assert tensor.dtype == was.dtype and torch.equal(tensor, was)
        assert world.same({"a": tensors[0], "b": tensors[1]})
        assert world.any(True) and not world.any(False)
    finally:
        torch.distributed.destroy_process_group()


def test_cores_are_shared_out_and_alone_torch_decides_up_to_a_bound(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    one = World(3, 4, 1, 2)
    assert one.threads(0) == one.workers(0) == 4
    assert one.threads(2) == 2 and one.workers(6) == 3 and one.workers(1) == 1
    assert ALONE.workers(0) == 0 and ALONE.workers(5) == 5
    for cores, taken in ((3, 3), (64, MOST_CPU_THREADS)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert ALONE.threads(0) == taken


def test_alone_there_is_no_process_group() -> None:
    value = torch.ones(3)
    with process_group([settings(Path("nowhere"))]) as world:
        assert world is ALONE and not torch.distributed.is_initialized()
        world.add_up([value])
        world.largest(value)
        world.wait()
        assert value.tolist() == [1, 1, 1] and world.same({"value": value})
        assert world.gather("mine") == ["mine"] and world.lead(lambda: 7) == 7
        assert world.any(True) and not world.any(False)
        with pytest.raises(ConfigError, match="mine"), world.fail_together():
            raise ConfigError("mine")
