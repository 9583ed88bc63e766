"""A SLURM cluster of this host alone: munged, a controller and a node, on the loopback interface.

Everything lies in one folder, with a key and ports of its own: a cluster that the host may belong
to is not touched. Needs Debian's slurm-wlm (`apt-get install slurm-wlm`) and root.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
START_S = 30

CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
MpiDefault=none
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=loopback Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoClusterError(RuntimeError):
    """The cluster cannot be started here; says why."""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait(what: str, ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > deadline:
            logs = [f"{p.name}: {p.read_text()[-600:]}" for p in folder.glob("*.log")]
            raise NoClusterError(f"{what} did not start in {START_S} s\n" + "\n".join(logs))
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Start it; gives the environment in which sbatch and the rest use it, and ends it after.

    Raises NoClusterError where a program is missing or does not start.
    """
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS}
    if missing := [name for name, path in found.items() if path is None]:
        raise NoClusterError(f"{', '.join(missing)} not installed (apt-get install slurm-wlm)")
    if os.geteuid() != 0:
        raise NoClusterError("slurmd must be started by root to run jobs")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(
        CONFIG.format(
            host=host, user="root", folder=folder, cpus=cpus,
            controller_port=_free_port(), node_port=_free_port(),
        )
    )  # fmt: skip
    environment = os.environ | {"SLURM_CONF": str(config)}
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [
        f"--{flag}={folder}/munge.{end}" for flag, end in (files | {"key-file": "key"}).items()
    ]
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (folder / "daemons.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def answers(*command: str, word: str) -> bool:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode == 0 and word in done.stdout

    try:
        start(found["munged"], "--foreground", "--force", *munge)
        _wait("munged", (folder / "munge.socket").exists, folder)
        start(found["slurmctld"], "-D", "-i")
        start(found["slurmd"], "-D", "-N", host)
        _wait("the node", lambda: answers("sinfo", "-h", "-o", "%t", word="idle"), folder)
        yield environment
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
