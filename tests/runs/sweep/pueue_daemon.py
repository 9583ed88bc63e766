"""A pueue daemon of its own: its socket, queue and logs lie in one folder, so that a daemon that
the host may have is not touched. Needs `cargo install --locked pueue`."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

CONFIG = """\
client: {{}}
daemon: {{}}
shared:
  pueue_directory: {folder}
  runtime_directory: {folder}
  use_unix_socket: true
  unix_socket_path: {folder}/socket
"""
START_S = 20


class NoPueueError(RuntimeError):
    """pueue is not installed."""


def daemon_that_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> "PueueDaemon":
    """A daemon, yet to be entered, that the launcher finds. Skips the test where there is no
    pueue."""
    try:
        made = PueueDaemon(folder)
    except NoPueueError as error:
        pytest.skip(str(error))
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


class PueueDaemon:
    """A context in which a daemon runs; `environment` is how `pueue` finds it."""

    def __init__(self, folder: Path) -> None:
        """Raises NoPueueError."""
        missing = [name for name in ("pueue", "pueued") if shutil.which(name) is None]
        if missing:
            raise NoPueueError(f"{', '.join(missing)} not installed (cargo install pueue)")
        folder.mkdir()
        config = folder / "pueue.yml"
        config.write_text(CONFIG.format(folder=folder))
        self.folder = folder
        self.environment = {"PUEUE_CONFIG_PATH": str(config), "RUST_BACKTRACE": "0"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pueue("kill", "--all")
        self.pueue("shutdown")
        self.process.wait(START_S)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["pueued"], stdout=log, stderr=log, env=os.environ | self.environment
            )
        self.wait(lambda: self.pueue("status").returncode == 0)

    def kill(self) -> None:
        """End the daemon as a crash does: its tasks live on."""
        self.process.kill()
        self.process.wait()

    def pueue(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `pueue` with these arguments."""
        return subprocess.run(
            ["pueue", *words], capture_output=True, text=True, env=os.environ | self.environment
        )

    def tasks(self) -> dict[int, dict[str, Any]]:
        """Id -> task."""
        found = json.loads(self.pueue("status", "--json").stdout)["tasks"]
        return {int(number): task for number, task in found.items()}

    def output(self, task: int) -> str:
        """What a task printed."""
        return self.pueue("log", "--full", "--json", str(task)).stdout

    def wait(self, done: Callable[[], bool], seconds: float = START_S) -> None:
        """Wait until `done()` holds. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                log = (self.folder / "daemon.log").read_text()[-600:]
                raise TimeoutError(f"after {seconds} s: {self.pueue('status').stdout}\n{log}")
            time.sleep(0.1)

    def wait_for_tasks(self, seconds: float = START_S) -> list[str]:
        """How every task ended, in their order, once all have."""
        self.wait(lambda: all("Done" in task["status"] for task in self.tasks().values()), seconds)
        results = [task["status"]["Done"]["result"] for _, task in sorted(self.tasks().items())]
        return [next(iter(r)) if isinstance(r, dict) else r for r in results]
