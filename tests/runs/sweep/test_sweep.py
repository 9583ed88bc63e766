"""Sweeps from the outside: which cells are begun, gone on with or left alone, and what each
launcher is given. pueue is a small program on the PATH, SLURM a real one (slurm_cluster.py)."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import assert_same_rows, rows_of
from safetensors.numpy import save_file
from short_runs import forked
from slurm_cluster import NoClusterError, cluster

from projected_grpo.cli import sweep_main
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.runs.commands import train_settings
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.status import read_progress, runs_by_settings, this_process
from projected_grpo.runs.sweep import local
from projected_grpo.runs.sweep.command import extraction, require_basis_of_cells, status
from projected_grpo.runs.sweep.grid import continuation
from projected_grpo.runs.sweep.job import LaunchOptions, SweepJob, python_command
from projected_grpo.runs.sweep.settings import LocalOptions

SWEEP = [sys.executable, "-m", "projected_grpo", "sweep"]
TINY = ("--steps=2", "--problems=katas:validation", "--mix-ratio=0", "--max-new=24", "--no-labels")
"""A smoke run of seconds."""


def run_sweep(folder: Path, args: list[str], environment: dict[str, str]) -> None:
    """In a process of its own: the command, with what it and its children say in two files."""
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = (folder / name).open("w", buffering=1)
        os.dup2(file.fileno(), number)
        setattr(sys, name, file)
    sweep_main(args)


def sweep(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        process = forked(run_sweep, folder, [*map(str, args)], environment)
        process.join()
        out, err = ((folder / stream).read_text() for stream in ("stdout", "stderr"))
        return subprocess.CompletedProcess(args, process.exitcode or 0, out, err)


def run_dir(out: Path, *flags: str, **record: object) -> Path:
    """A run directory as `train smoke FLAGS` makes it, with one row."""
    cfg = train_settings(["smoke", *flags])
    path = out / f"run{len(list(out.iterdir())) if out.exists() else 0}"
    path.mkdir(parents=True)
    (path / "config.json").write_text(cfg.to_json())
    (path / "run.json").write_text(json.dumps(record))
    (path / "steps.jsonl").write_text('{"step": 1}\n')
    return path


def planned(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """What became of each cell: "vanilla_s1" -> [what, command ...]."""
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stderr.splitlines():
        _, what, *rest = line.split(maxsplit=2)
        if rest and rest[0].startswith(("smoke_", "extract_")):
            name, *command = shlex.split(rest[0])
            # the first line of a cell is the plan, later ones say how it went
            found.setdefault(name.removeprefix("smoke_").rpartition("_")[0], [what, *command])
    return found


# --- cells


def test_every_cell_is_an_ordinary_command_seed_by_seed(tmp_path: Path) -> None:
    done = sweep(
        *("run", "smoke", "--arms", "vanilla", "projected", "--seeds", 1, 2, "--dry-run"),
        *("--override=--lr=1e-3 --gate=no_gate", "--override="),
        *(f"--out-dir={tmp_path}", "--why=is it so?", "--resolve=it's 30", "--", "--steps=2"),
    )
    lines = [line for line in done.stderr.splitlines() if " train smoke " in line]
    commands = [shlex.split(line)[3:] for line in lines]
    assert len(commands) == 8 and done.returncode == 0
    cfgs = [train_settings(command[1:]) for command in commands]
    assert [(c.seed, c.lr, c.arm) for c in cfgs] == [
        (seed, lr, arm)
        for seed in (1, 2)
        for lr in (1e-3, 3e-3)
        for arm in ("vanilla", "projected")
    ]
    assert {(c.steps, c.out_dir, c.why) for c in cfgs} == {
        (2, tmp_path, "is it so?; resolve: it's 30")
    }
    assert len({line.split()[2] for line in lines}) == 8  # names
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["smoke", "--arms", "vanilla", "--seeds", "1", "1"], "names 1 twice"),
        (["--arms", "vanilla", "--seeds", "1"], "at least one preset"),
        (["smoke", "--arms", "vanilla", "--seeds", "1", "--", "--seed=2"], "by --seeds"),
        (["smoke", "--arms", "vanilla", "--seeds", "1", "--", "--lr=-1"], "must be above 0"),
        (["smoke", "--arms", "vanilla", "--seeds", "1", "--slurm.gpus=2"], "of --launcher=slurm"),
        (
            ["smoke", "fast", "--arms", "vanilla", "--seeds", "1", "--extract=v.safetensors"],
            "cells with model = ",
        ),
        (
            [
                *("smoke", "--arms", "vanilla", "--seeds", "1", "--extract=v", "--override="),
                "--override=--adapter=lora",
            ],
            "cells with adapter = antipasto and lora",
        ),
        (
            [
                *("smoke", "--arms", "vanilla", "--seeds", "1"),
                "--override=--inoculation=Don't cheat",
            ],
            "cannot be split into flags (no closing quotation)",
        ),
        (
            ["smoke", "--arms", "vanilla", "--seeds", "1", "--override=--why=a\\"],
            "cannot be split into flags (no escaped character)",
        ),
    ],
)
def test_a_sweep_that_contradicts_itself_is_refused(
    args: list[str], said: str, tmp_path: Path
) -> None:
    cut = args.index("--") if "--" in args else len(args)
    done = sweep("run", *args[:cut], f"--out-dir={tmp_path}", *args[cut:])
    assert done.returncode == 2 and said in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_extraction_is_of_the_adapter_that_its_cells_have() -> None:
    one, other = SmokeConfig(adapter="lora", lora_rank=8), SmokeConfig(adapter="lora")
    assert {"--adapter=lora", "--lora-rank=8"} <= {*extraction([one], Path("v"))}
    with pytest.raises(ConfigError, match="cells with lora_rank = 16 and 8"):
        extraction([one, other], Path("v"))
    # what only a LoRA heeds is neither handed on nor compared
    cells = [SmokeConfig(lora_rank=8), SmokeConfig()]
    assert not any("lora" in flag for flag in extraction(cells, Path("v")))


def test_a_basis_that_is_there_is_refused_for_cells_of_other_settings(tmp_path: Path) -> None:
    file, cfg = tmp_path / "v.safetensors", SmokeConfig()
    said = {"model": cfg.model, "adapter": "antipasto", "temperature": str(cfg.temperature)}
    save_file({"m.axes": np.zeros((1, 2))}, file, said)
    require_basis_of_cells(file, [cfg, SmokeConfig(arm="projected", enable_thinking=True)])
    with pytest.raises(ConfigError, match="adapter = antipasto, cells have lora: name another"):
        require_basis_of_cells(file, [cfg, SmokeConfig(adapter="lora")])
    with pytest.raises(ConfigError, match=r"temperature = 0\.7, cells have 1\.0"):
        require_basis_of_cells(file, [SmokeConfig(temperature=1.0)])
    with pytest.raises(ConfigError, match="v_axes = svd, cells have mean"):  # an older file
        require_basis_of_cells(file, [SmokeConfig(v_axes="mean", v_hack_k=1)])
    asked = ("run", "smoke", "--arms", "vanilla", "--seeds", 1, f"--out-dir={tmp_path}")
    done = sweep(*asked, f"--extract={file}", "--dry-run", "--", "--model=some/other")
    assert done.returncode == 2
    assert f"{file} was extracted with model = tiny-random, cells have some/other" in done.stderr
    file.write_text("no tensors")
    with pytest.raises(InputError, match="not a file of hack directions"):
        require_basis_of_cells(file, [cfg])


def test_what_is_there_decides_what_is_launched(tmp_path: Path) -> None:
    gone = {**this_process(), "began": 1}  # the number of this process, which began later
    run_dir(tmp_path, "--seed=1", "--why=by hand", status="finished")
    stopped = run_dir(tmp_path, "--seed=2", status="stopped")
    died = run_dir(tmp_path, "--seed=3", process=gone)
    run_dir(tmp_path, "--seed=4", process=this_process())
    far = run_dir(tmp_path, "--seed=5", process={**this_process(), "host": "another"})
    run_dir(tmp_path, "--seed=7", process={**this_process(), "pid_namespace": "a container"})
    (tmp_path / "a model").mkdir()
    (tmp_path / "a model" / "config.json").write_text("{}")
    # gone on with after it was stopped, and now running: what counts is the last record
    run_dir(tmp_path, "--seed=6", process=gone, resumed=[{"process": this_process()}])
    asked = ("run", "smoke", "--arms", "vanilla", "--seeds", *range(1, 9), "--dry-run")
    found = planned(sweep(*asked, f"--out-dir={tmp_path}", "--", "--micro-batch-tokens=99"))
    what = {name: words[0] for name, words in found.items()}
    expected = ["finished", "resume", "resume", "running", "elsewhere", "running"]
    expected += ["elsewhere", "begin"]
    assert what == {f"vanilla_s{seed}": word for seed, word in enumerate(expected, 1)}
    # which may change on the way is given again
    assert found["vanilla_s2"][1:] == [
        *("train", "smoke", f"--resume={stopped}", "--micro-batch-tokens=99"),
        *("--arm=vanilla", "--seed=2"),
    ]
    assert f"--resume={died}" in found["vanilla_s3"]
    found = planned(sweep(*asked, f"--out-dir={tmp_path}", "--elsewhere"))
    assert found["vanilla_s5"][0] == "resume" and f"--resume={far}" in found["vanilla_s5"]

    found = planned(sweep("resume", "--dry-run", f"--out-dir={tmp_path}", "--", "--device=cpu"))
    assert {name: words[0] for name, words in found.items()} == {
        name: word for name, word in what.items() if word != "begin"
    }
    resumed = ["train", "smoke", f"--resume={stopped}", "--device=cpu"]
    assert found["vanilla_s2"][1:] == resumed


def test_the_longest_run_of_a_cell_goes_on_unless_one_is_finished(tmp_path: Path) -> None:
    run_dir(tmp_path, status="failed")
    longest = run_dir(tmp_path, status="failed")
    (longest / "steps.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert f"--resume={longest}" in next(
        iter(planned(sweep("resume", "--dry-run", f"--out-dir={tmp_path}")).values())
    )
    run_dir(tmp_path, status="finished")
    found = planned(sweep("resume", "--dry-run", f"--out-dir={tmp_path}"))
    assert found == {"vanilla_s41": ["finished"]}


@pytest.mark.slow
def test_a_run_that_is_running_is_not_gone_on_with(tmp_path: Path) -> None:
    run = run_dir(tmp_path, process=this_process())
    (run / "rollouts.jsonl").touch()
    RunDir(run).require_idle()  # this very process may
    done = subprocess.run(
        python_command(("train", "smoke", f"--resume={run}")), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (f"error: {run} is running in another process: stop that one, or wait\n")


def test_without_proc_a_run_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_dir(tmp_path, process=this_process())
    assert read_progress(run).state == "running"
    monkeypatch.setattr("projected_grpo.runs.status.PROC", tmp_path / "proc")
    assert this_process() is None and read_progress(run).state == "elsewhere"


def test_status_is_a_table_of_the_folder(tmp_path: Path) -> None:
    assert sweep("status", f"--out-dir={tmp_path}").stdout == f"no runs in {tmp_path}\n"
    run_dir(tmp_path, "--seed=1", "--lr=1e-3", "--why=is it so?", status="stopped")
    assert status(tmp_path).endswith(f"1 run in {tmp_path}: 1 stopped")
    run_dir(tmp_path, "--seed=2", status="finished")
    lines = sweep("status", f"--out-dir={tmp_path}").stdout.splitlines()
    assert lines[0].split() == ["run", "state", "steps", "last", "row", "settings", "why"]
    assert lines[1].split() == [
        *("run0", "stopped", "1/4", "0", "min", "ago", "lr=0.001", "is", "it", "so?")
    ]
    assert lines[-1] == f"2 runs in {tmp_path}: 1 stopped, 1 finished"


def test_a_stopped_command_is_continued_by_the_run_that_it_made(tmp_path: Path) -> None:
    command = ("train", "smoke", "--seed=3", f"--out-dir={tmp_path}", "--threads=2")
    assert continuation(command) == command
    run = run_dir(tmp_path, "--seed=3", status="stopped")
    assert continuation(command) == ("train", "smoke", f"--resume={run}", "--seed=3", "--threads=2")
    assert continuation(continuation(command)) == continuation(command)
    assert continuation(("extract-vhack", "--out=v")) == ("extract-vhack", "--out=v")


# --- pueue: a program of that name writes down what it is given


@pytest.fixture
def pueue(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment with a `pueue` that adds tasks 0, 1, 2 ... and has none before."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pueue").write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "log = os.environ['PUEUE_LOG']\n"
        "lines = open(log).readlines() if os.path.exists(log) else []\n"
        "if sys.argv[1] == 'status':\n"
        "    print(os.environ.get('PUEUE_STATUS', '{\"tasks\": {}, \"groups\": {}}'))\n"
        "elif sys.argv[1] == 'group':\n"
        '    print(\'{"default": {"status": "Running", "parallel_tasks": 1}}\')\n'
        "else:\n"
        "    open(log, 'a').write(json.dumps(sys.argv[1:]) + '\\n'); print(len(lines))\n"
    )
    (folder / "pueue").chmod(0o755)
    yield {"PATH": f"{folder}:{os.environ['PATH']}", "PUEUE_LOG": str(tmp_path / "pueue.jsonl")}


def test_pueue_is_given_labels_dependencies_and_quoted_commands(
    tmp_path: Path, pueue: dict[str, str]
) -> None:
    basis = tmp_path / "v.safetensors"
    asked = (
        *("run", "smoke", "--arms", "vanilla", "projected", "--seeds", 1, "--launcher=pueue"),
        *(f"--out-dir={tmp_path / 'runs'}", f"--extract={basis}"),
        *("--why=H1; is it so?", "--resolve=30 points"),
    )
    assert sweep(*asked, **pueue).returncode == 0
    added = [json.loads(line) for line in Path(pueue["PUEUE_LOG"]).read_text().splitlines()]
    labels = [words[words.index("--label") + 1] for words in added]
    names = [label.partition(": ")[0] for label in labels]
    assert [name.rpartition("_")[0] for name in names] == [
        *("extract_v", "smoke_vanilla_s1", "smoke_projected_s1")
    ]
    for i, (words, name) in enumerate(zip(added, names, strict=True)):
        assert words == [
            *("add", "--print-task-id", "--group", "default", *(("--after", "0") if i else ())),
            *("--label", f"{name}: why: H1; is it so?; resolve: 30 points"),
            *("--working-directory", str(Path.cwd()), "--", words[-1]),
        ]
        # pueue gives the text to a shell
        ran = subprocess.run(f"printf '%s\\n' {words[-1]}", shell=True, capture_output=True)
        assert ran.stdout.decode().splitlines()[:3] == [sys.executable, "-m", "projected_grpo"]
    assert "extract-vhack" in added[0][-1] and f"--out={basis}" in added[0][-1]
    assert f"--v-hack={basis}" in added[1][-1] and "--arm=projected" in added[2][-1]

    # asked for again while they wait: nothing is added; a task that is done does not count
    states = ["Queued", {"Queued": {"enqueued_at": "now"}}, {"Done": {"result": "Success"}}]
    tasks = {
        str(i): {"label": label, "status": state, "group": "default"}
        for i, (label, state) in enumerate(zip(labels, states, strict=True))
    }
    groups = {"default": {"status": "Running"}}
    status = json.dumps({"tasks": tasks, "groups": groups})
    again = sweep(*asked, **pueue, PUEUE_STATUS=status)
    assert {k: v[0] for k, v in planned(again).items()} == {
        "extract_v": "queued", "vanilla_s1": "queued", "projected_s1": "begin",
    }  # fmt: skip
    words = json.loads(Path(pueue["PUEUE_LOG"]).read_text().splitlines()[-1])
    assert words[words.index("--after") + 1] == "0"  # the extraction that waits


def test_the_recipe_queues_an_extraction_and_six_runs(
    tmp_path: Path, pueue: dict[str, str]
) -> None:
    just = shutil.which("just", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if just is None:
        pytest.skip("just is not installed")
    uv = tmp_path / "bin" / "uv"  # `uv run sweep` with the interpreter of the tests
    uv.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -m projected_grpo "$@"\n')
    uv.chmod(0o755)
    repository = Path(__file__).parents[3]
    shutil.copy(repository / "justfile", tmp_path)
    done = subprocess.run(
        [just, "queue-full", "my model", "p.jsonl"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | pueue | {"PYTHONPATH": str(repository / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    added = [json.loads(line) for line in Path(pueue["PUEUE_LOG"]).read_text().splitlines()]
    first, *runs = (shlex.split(words[-1])[3:] for words in added)
    assert first[:3] == ["extract-vhack", "--out=runs/v_hack.safetensors", "--model=my model"]
    assert [words[words.index("--after") + 1] for words in added[1:]] == ["0"] * 6
    cfgs = [train_settings(command[1:]) for command in runs]
    arms = ("vanilla", "projected")
    assert [(c.seed, c.arm) for c in cfgs] == [(seed, arm) for seed in (41, 42, 43) for arm in arms]
    assert {(c.preset_name, c.model, c.problems) for c in cfgs} == {("fast", "my model", "p.jsonl")}
    assert all(c.why.startswith("H1, ") and "; resolve: " in c.why for c in cfgs)


def test_a_queue_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    asked = ("run", "smoke", "--arms", "vanilla", "--seeds", 1, f"--out-dir={tmp_path}")
    done = sweep(*asked, "--launcher=pueue", PATH="/nowhere")
    assert done.returncode == 1
    assert done.stderr == (
        "error: pueue is not on the PATH: install it, or run jobs here with --launcher=local\n"
    )
    done = sweep(*asked, "--launcher=pueue", "--dry-run", PATH="/nowhere")
    assert planned(done)["vanilla_s1"][:3] == ["begin", "train", "smoke"]
    assert "pueue is not on the PATH" in done.stderr and not list(tmp_path.iterdir())


# --- local


def run_local(tmp_path: Path, jobs: list[SweepJob], monkeypatch, **options) -> None:
    """Jobs whose command is a Python text and its arguments."""
    monkeypatch.setattr(
        "projected_grpo.runs.sweep.local.python_command",
        lambda command: [sys.executable, "-c", *command],
    )
    (tmp_path / "logs").mkdir()
    local.run(jobs, {}, LaunchOptions(logs=tmp_path / "logs", local=LocalOptions(**options)))


def test_local_runs_n_at_a_time_each_on_a_gpu_of_its_own(tmp_path: Path, monkeypatch) -> None:
    text = (
        "import os, sys, time; begin = time.time(); time.sleep(.4);"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], begin, time.time(), file=open(sys.argv[1], 'w'))"
    )
    jobs = [SweepJob(name=f"j{i}", command=(text, str(tmp_path / f"j{i}"))) for i in range(5)]
    run_local(tmp_path, jobs, monkeypatch, gpus=("4", "7"))
    ran = [(tmp_path / job.name).read_text().split() for job in jobs]
    assert {gpu for gpu, *_ in ran} == {"4", "7"}
    for gpu, begin, _ in ran:
        there = [other for other, a, b in ran if float(a) <= float(begin) < float(b)]
        assert len(there) <= 2 and there.count(gpu) == 1


def test_a_job_is_none_of_the_processes_of_a_run(tmp_path: Path, monkeypatch) -> None:
    """Whatever torchrun left in the environment of a sweep."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_SCRATCH", "kept")
    text = "import os, sys; print(*os.environ, file=open(sys.argv[1], 'w'))"
    run_local(tmp_path, [SweepJob(name="j", command=(text, str(tmp_path / "j")))], monkeypatch)
    names = (tmp_path / "j").read_text().split()
    assert "LOCAL_SCRATCH" in names and not {"WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & set(names)


def test_the_gpus_are_those_visible_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 4090 Laptop GPU (UUID: GPU-1)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for given, found in ((None, ["0"]), ("", []), ("5, GPU-2", ["5", "GPU-2"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert local.visible_gpus() == found


def test_local_survives_what_crashes_and_begins_nothing_after_it(
    tmp_path: Path, monkeypatch
) -> None:
    well = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"
    crash = "import os; print('last words', flush=True); os.kill(os.getpid(), 11)"
    jobs = [
        SweepJob(name="crashes", command=(crash,)),
        SweepJob(name="refuses", command=("raise SystemExit(2)",)),
        SweepJob(name="waits", command=(well, str(tmp_path / "waits")), after="crashes"),
        SweepJob(name="runs", command=(well, str(tmp_path / "runs"))),
        SweepJob(name="follows", command=(well, str(tmp_path / "follows")), after="runs"),
    ]
    with pytest.raises(InputError, match="3 of 5 jobs failed: crashes, "):
        run_local(tmp_path, jobs, monkeypatch)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"logs", "runs", "follows"}
    assert (tmp_path / "logs" / "crashes.log").read_text() == "last words\n"


def wait_for(ready, seconds: float = 300):
    """What `ready` gives once it is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def rows_in(out: Path) -> dict[str, int]:
    """Arm -> rows of its run so far."""
    return {
        train_arm: one.steps
        for runs in runs_by_settings(out).values()
        for one in map(read_progress, runs)
        for train_arm in [one.cfg.arm]
    }


def run_of(out: Path, arm: str) -> Path:
    """The run of an arm."""
    (run,) = (r for rs in runs_by_settings(out).values() for r in rs if f"_{arm}_" in r.name)
    return run


@pytest.mark.slow
def test_a_local_sweep_from_the_outside(tmp_path: Path) -> None:
    """One cell is killed, the others run on; Ctrl-C has one save and begins no more; the same
    command again goes on with both and leaves what is finished alone, to the rows of runs that were
    never disturbed."""
    out, long = tmp_path / "out", "--override=--steps=40"
    asked = (
        *("run", "smoke", "--arms", "vanilla", "projected", "--seeds", "1", "--local.at-once=2"),
        *(long, f"--out-dir={out}", "--", *TINY[1:]),
    )
    process = subprocess.Popen(
        [*SWEEP, *asked], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    held: dict[str, int] = {}  # whichever is first waits for the other, and is not done before it
    while len(held) < 2:
        wait_for(lambda: any(n >= 2 for arm, n in rows_in(out).items() if arm not in held))
        for arm in [arm for arm, n in rows_in(out).items() if n >= 2 and arm not in held]:
            held[arm] = json.loads((run_of(out, arm) / "run.json").read_text())["process"]["pid"]
            os.kill(held[arm], signal.SIGSTOP)
    killed = run_of(out, "projected")
    assert read_progress(killed).state == "running"
    os.kill(held["projected"], signal.SIGKILL)
    wait_for(lambda: read_progress(killed).state == "died")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    os.kill(held["vanilla"], signal.SIGCONT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "killed by SIGKILL" in said and "stopped " in said
    states = {
        one.cfg.arm: one for rs in runs_by_settings(out).values() for one in map(read_progress, rs)
    }
    assert states["vanilla"].state == "stopped" and 2 <= states["vanilla"].steps < 40

    again = sweep(*asked)
    assert again.returncode == 0, again.stderr
    assert [what[0] for what in planned(again).values()] == ["resume", "resume"]
    assert rows_in(out) == {"vanilla": 40, "projected": 40}
    alone = tmp_path / "alone"
    subprocess.run(
        python_command(
            ("train", "smoke", "--seed=1", "--steps=40", *TINY[1:], f"--out-dir={alone}")
        ),
        check=True,
        capture_output=True,
    )
    assert_same_rows(states["vanilla"].run, next(alone.iterdir()))
    third = sweep(*asked)
    assert [what[0] for what in planned(third).values()] == ["finished", "finished"]


# --- SLURM, a real one


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster of this host, or skip."""
    pytest.importorskip("submitit", reason="install projected_grpo[slurm]")
    try:
        with cluster(tmp_path_factory.mktemp("slurm")) as environment:
            yield environment
    except NoClusterError as error:
        pytest.skip(f"no SLURM cluster can be started here: {error}")


@pytest.mark.slow
def test_a_slurm_sweep_waits_for_its_basis_and_goes_on_when_warned(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    def ask(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=slurm).stdout

    out, basis = tmp_path / "runs", tmp_path / "v.safetensors"
    asked = (
        *("run", "smoke", "--arms", "vanilla", "projected", "--seeds", 1, "--launcher=slurm"),
        *("--slurm.gpus=0", "--slurm.cpus=1", f"--out-dir={out}", f"--extract={basis}"),
        *("--override=--steps=60", "--", *TINY[1:]),
    )
    assert {what[0] for what in planned(sweep(*asked, **slurm)).values()} == {"begin"}
    lines = ask("squeue", "--noheader", "--sort=i", "--format=%i %j %E").splitlines()
    extraction = lines[0].split()[0]
    assert [line.split()[-1].partition("(")[0] for line in lines[1:]] == [
        f"afterok:{extraction}"
    ] * 2
    assert {what[0] for what in planned(sweep(*asked, **slurm)).values()} == {"queued"}

    wait_for(lambda: rows_in(out).get("vanilla", 0) >= 2)
    (job,) = (line.split()[0] for line in lines if "_vanilla_" in line)
    ask("scancel", "--signal=USR2", job)  # as SLURM itself does before a time limit
    (run,) = (r for rs in runs_by_settings(out).values() for r in rs if "_vanilla_" in r.name)
    wait_for(lambda: read_progress(run).state == "stopped")
    wait_for(lambda: "PD" in ask("squeue", "--noheader", "--format=%t", f"--jobs={job}"))
    # SLURM waits two minutes; within a second it would still know the job as revoked
    ask("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    wait_for(lambda: not ask("squeue", "--noheader"))
    assert {name: n for name, n in rows_in(out).items()} == {"vanilla": 60, "projected": 60}
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and len(record["resumed"]) == 1
    assert [row["step"] for row in rows_of(run)] == list(range(1, 61))
    assert {what[0] for what in planned(sweep(*asked, **slurm)).values()} == {"finished"}


@pytest.mark.slow
def test_a_slurm_job_whose_basis_failed_does_not_wait_for_ever(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    done = sweep(
        *("run", "smoke", "--arms", "vanilla", "--seeds", 1, "--launcher=slurm", "--slurm.gpus=0"),
        *("--slurm.cpus=1", f"--out-dir={tmp_path}", f"--extract={tmp_path}/v", "--"),
        *("--model=/nowhere",),
        **slurm,
    )
    assert done.returncode == 0, done.stderr
    queue = ["squeue", "--noheader"]
    wait_for(lambda: not subprocess.run(queue, capture_output=True, env=slurm).stdout)
    assert not runs_by_settings(tmp_path)
