"""A run's directory: provenance, atomic checkpoints, resume, and a lock.

runs/<date>_<preset>_<arm>_s<seed>_<sha7>/
  run.json              id, argv, git sha and diff, versions, device, start, end, exit status; the
                        commits of base model and problems on the hub
  config.json           every setting
  run.yaml              those that are not the preset's: `train --config=run.yaml` makes it again
  prompt.txt            the first prompt as the chat template rendered it, special tokens and all;
                        run.json has its number of tokens, and what `enable_thinking` was
  steps.jsonl           one row a step, raw values
  rollouts.jsonl        one row a sample
  v_hack.safetensors    the directions measured (and, in `projected`, removed), if any
  v_own.safetensors     those that the arm removes instead (placebo_v, shuffled_v)
  v_hack_0011.safetensors   those extracted again at the start of step 11, where V is refreshed
  v_own_0011.safetensors    likewise
  own_pairs.jsonl       with --pairs=own the pairs that V is of, and own_pairs_0011.jsonl those of
                        a refresh
  checkpoints/step_000005/   delta_S, AdamW's moments, step; of arm routed the quarantine's too, of
                        running_k what was learned
  adapter/              the trained delta_S, also as PEFT opens it
                        (projected_grpo.integrations.peft), and its card;
                        quarantine.safetensors is not part of it
  train.log             what the console showed
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from loguru import logger

from projected_grpo.arms.learned_axes import LearnedAxes
from projected_grpo.arms.optimizer import state_of_run
from projected_grpo.arms.quarantine import Quarantine
from projected_grpo.config import Config
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.model.adapter import Adapter
from projected_grpo.pairs.pair import Pair
from projected_grpo.runs.cards import model_card
from projected_grpo.runs.checkpoints import (
    ROWS,
    Checkpoint,
    Damage,
    folders_of,
    read_checkpoint,
    write_optimizer,
    write_state,
)
from projected_grpo.runs.files import GrowingFile, sha256_of, write_aside, writing
from projected_grpo.runs.provenance import git, provenance
from projected_grpo.runs.settings_file import SETTINGS_FILE, settings_file
from projected_grpo.runs.status import (
    extended,
    model_commit,
    read_record,
    read_settings,
    require_run,
    resumed_settings,
    runs_in_another_process,
)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunDir:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = path / "steps.jsonl"
        self.rollouts = path / "rollouts.jsonl"
        self.v_hack = path / "v_hack.safetensors"
        self.v_own = path / "v_own.safetensors"
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self._growing: dict[str, GrowingFile] = {}
        self._digests: dict[tuple[str, int, int], str] = {}

    @classmethod
    def create(
        cls,
        cfg: Config,
        device: torch.device,
        v_hack: VHack,
        prompt: str,
        made_from: Mapping[str, Any],
        own: VHack | None = None,
    ) -> Self:
        """Make the directory, whole or not at all. Called once all that can be refused has been.

        `own` are the directions that the arm has for itself, `prompt` is the first one as rendered,
        `made_from` what run.json says of data and model. Raises InputError where it cannot be made;
        never overwrites.
        """
        sha = (git("rev-parse", "HEAD") or "nogit")[:7]
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}_{cfg.preset_name}_{cfg.arm}_s{cfg.seed}_{sha}"
        with writing(cfg.out_dir):
            cfg.out_dir.mkdir(parents=True, exist_ok=True)
            aside = cls(cfg.out_dir / f".{name}.{secrets.token_hex(4)}")
            aside.path.mkdir()
        path = cfg.out_dir / name
        try:
            aside.checkpoints.mkdir()
            (aside.path / "config.json").write_text(cfg.to_json() + "\n", encoding="utf-8")
            (aside.path / SETTINGS_FILE).write_text(settings_file(cfg, made_from), encoding="utf-8")
            (aside.path / "prompt.txt").write_text(prompt, encoding="utf-8")
            if v_hack.axes:  # otherwise nothing is measured
                v_hack.save(aside.v_hack)
            if own is not None:
                own.save(aside.v_own)
            record = {"id": secrets.token_hex(4), "started": _now(), **made_from}
            aside._write_record({**record, **provenance(device)})
            for file in (aside.steps, aside.rollouts):
                file.touch()
            path = _put(aside.path, path)
        except OSError as error:
            raise InputError(f"cannot make the run directory {path}: {error.strerror}") from error
        finally:
            shutil.rmtree(aside.path, ignore_errors=True)  # gone already where all went well
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run. Raises InputError where there is none."""
        require_run(path)
        return cls(path)

    def stored_config(self, preset: type[Config] | None = None) -> Config:
        """The settings that the run was started with, by its own preset or as those of another.
        Raises InputError where they cannot be read."""
        return read_settings(self.path, preset)

    def require_data(self, digest: str) -> None:
        """Raises InputError unless the run was started on these very problems and teacher rows."""
        had = read_record(self.path).get("data")
        if not isinstance(had, str):
            raise InputError(
                f"{self.path / 'run.json'} is damaged: it does not say which data the run was "
                "started with; restore it, or start a new run"
            )
        if had != digest:
            raise InputError(
                "the problems, prompts or teacher rows are not those that "
                f"{self.path} was started with "
                f"(digest {digest[:12]}, then {had[:12]}): restore them, or start a new run"
            )

    def require_reward(self, now: Mapping[str, Any] | None) -> None:
        """Raises InputError where the run's own reward (own_reward.py) is in another file now."""
        had = read_record(self.path).get("reward")
        if had and now and had["sha256"] != now["sha256"]:
            raise InputError(
                f"the file of the reward {now['name']} ({now['file']}) was changed since "
                f"{self.path} was started: restore it, or start a new run"
            )

    @property
    def model_commit(self) -> str | None:
        """The commit of the hub that its base model was loaded at, as far as that is known."""
        return model_commit(read_record(self.path))

    def base_revision(self, cfg: Config) -> str:
        """Where to find its base model again: a branch may have left that commit since."""
        return self.model_commit or cfg.model_revision

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run while the context lasts. Raises InputError where another process holds it.

        It is a lock (flock) on config.json, which the kernel takes back however a process ends. On
        NFS, Linux makes it a lock of the server's, which holds between hosts unless the mount says
        `nolock` or `local_lock`. Where a file system knows no locks, that is said.
        """
        with writing(self.path):
            file = (self.path / "config.json").open("rb+")
        with file as f:
            self._lock(f)
            yield

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{self.path} is running in another process: stop that one, or wait"
            ) from error
        except OSError as error:
            logger.warning(
                "{} cannot be locked ({}): see to it that no other process resumes it",
                self.path, error.strerror,
            )  # fmt: skip

    def extend(self, steps: int, stack: ExitStack) -> None:
        """Let the run have more steps: from now on it is the run that was asked for with so many.
        The new config.json is locked before it takes the old one's place, until `stack` ends."""
        aside, target = self.path / "config.json.tmp", self.path / "config.json"
        longer = extended(self.stored_config(), steps)
        with writing(self.path):
            aside.write_text(longer.to_json() + "\n", encoding="utf-8")
            self._lock(stack.enter_context(aside.open("rb+")))
            os.replace(aside, target)
            write_aside(self.path / SETTINGS_FILE, settings_file(longer, read_record(self.path)))

    def require_idle(self) -> None:
        """Raises InputError while another process of this host runs it: both would write rows."""
        if runs_in_another_process(self.path):
            raise InputError(f"{self.path} is running in another process: stop that one, or wait")

    def finish(self, status: str) -> None:
        """Record how the run ended. Raises InputError where a finished run cannot be recorded as
        such; of any other end that is a warning, as it has a reason of its own to be said."""
        try:
            with writing(self.path):
                self._write_record({**read_record(self.path), "ended": _now(), "status": status})
        except InputError as error:
            if status == "finished":
                raise
            logger.warning("run.json does not say that the run {}: {}", status, error)

    def note_resume(self, step: int, device: torch.device, commit: str | None) -> None:
        """Record that the run goes on after `step`, where and with what, its base model at that
        commit of the hub; how it ended before no longer holds."""
        had = read_record(self.path)
        record = {k: v for k, v in had.items() if k not in ("ended", "status")}
        entry = {"after_step": step, "started": _now(), "model_commit": commit}
        entry |= provenance(device)
        with writing(self.path):
            self._write_record({**record, "resumed": [*record.get("resumed", []), entry]})

    def _write_record(self, record: Mapping[str, Any]) -> None:
        write_aside(self.path / "run.json", json.dumps(record, indent=2) + "\n")

    def save_checkpoint(
        self,
        step: int,
        adapter: Adapter,
        optimizer: torch.optim.Optimizer,
        num_tokens: int,
        n: int = 0,
        quarantine: Quarantine | None = None,
        learned_axes: LearnedAxes | None = None,
    ) -> None:
        """Save everything that the next step of run `n` depends on, aside and then moved into
        place, with the checksums by which damage is found. Raises InputError where the disk
        refuses.

        There is no random state to save: every stream is seeded by (seed, step, problem).
        """
        target = self.checkpoints / f"step_{step:06d}"
        aside = self.checkpoints / f".step_{step:06d}"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with writing(self.path):
                aside.mkdir(parents=True)
                adapter.save(aside / "adapter.safetensors", n)
                write_optimizer(state_of_run(optimizer, n), aside / "optimizer.pt")
                if quarantine is not None and quarantine.routed[n]:
                    adapter.save(aside / "quarantine.safetensors", n, quarantine=True)
                    state = state_of_run(quarantine.optimizer, n)
                    write_optimizer(state, aside / "quarantine_optimizer.pt")
                if learned_axes is not None and n in learned_axes.runs:
                    learned_axes.save(aside / "running.safetensors", n)
                rows = {name: self._grown(name) for name in ROWS}
                write_state(aside, step, num_tokens, rows, self._directions())
                shutil.rmtree(target, ignore_errors=True)
                os.replace(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # of a full disk: room for run.json

    def _grown(self, name: str) -> dict[str, Any]:
        """Size and sha256 of a file of rows as it is now."""
        return self._growing.setdefault(name, GrowingFile(self.path / name)).look()

    def _directions(self) -> dict[str, str]:
        """File -> sha256 of all directions that the run has so far."""
        found: dict[str, str] = {}
        for path in sorted(self.path.glob("v_*.safetensors")):
            about = path.stat()
            key = (path.name, about.st_mtime_ns, about.st_size)
            if key not in self._digests:
                self._digests[key] = sha256_of(path)
            found[path.name] = self._digests[key]
        return found

    def cut_rows(self, found: Checkpoint | None) -> None:
        """Cut both logs back to a checkpoint, or to nothing: half-written lines and rows of later
        steps go, since those steps run again and give the same rows."""
        if found is None and self.steps.stat().st_size:
            logger.warning("{} has no checkpoint: it begins again at step 1", self.path)
        for name in ROWS:
            with writing(self.path):
                os.truncate(self.path / name, found.sizes[name] if found else 0)

    def newest_checkpoint(
        self, needed: Collection[str], until: int | None = None
    ) -> Checkpoint | None:
        """The newest checkpoint, up to step `until`, that is what was written, with a warning for
        each newer one; None where the run has none yet. `needed` are the files that it must have.
        Raises InputError where there are some and none is whole."""
        reasons: list[str] = []
        for folder in folders_of(self.checkpoints, until):
            try:
                found = read_checkpoint(folder, self.path, needed)
            except Damage as error:
                reasons.append(f"{folder.name}: {error}")
                continue
            for reason in reasons:
                logger.warning("{}: {} is used, not {}", self.path, folder.name, reason)
            return found
        if reasons:
            raise InputError(
                f"no checkpoint of {self.path} can be used ({'; '.join(reasons)}): restore what "
                f"was changed, or remove {self.checkpoints} to begin the run again at step 1"
            )
        return None

    def v_hack_of(self, step: int) -> Path:
        """Where the directions lie that were extracted again at the start of a step."""
        return self.path / f"v_hack_{step:04d}.safetensors"

    def v_own_of(self, step: int) -> Path:
        """Where those lie that the arm has for itself, extracted at the start of a step."""
        return self.path / f"v_own_{step:04d}.safetensors"

    def save_v_hack(self, v_hack: VHack, step: int) -> None:
        """Keep the directions extracted at the start of a step. Written aside and moved into
        place."""
        _save_aside(v_hack, self.v_hack_of(step))

    def save_v_own(self, v_own: VHack, step: int) -> None:
        """Keep the directions that the arm has for itself, likewise."""
        _save_aside(v_own, self.v_own_of(step))

    def save_own_pairs(self, pairs: Sequence[Pair], step: int) -> None:
        """Keep the pairs that were made of what the policy wrote at the start of a step."""
        name = "own_pairs.jsonl" if step == 1 else f"own_pairs_{step:04d}.jsonl"
        kept = ("id", "family", "mode", "mechanism", "messages", "clean", "hack")
        lines = [json.dumps({key: getattr(pair, key) for key in kept}) for pair in pairs]
        with writing(self.path):
            write_aside(self.path / name, "".join(f"{line}\n" for line in lines))

    def save_adapter(self, adapter: Adapter, cfg: Config, n: int = 0) -> None:
        """The trained delta_S of run `n` and what is needed to put it on its base model again, and
        its card.

        A quarantine lies beside it: who reads the adapter has the policy without it."""
        revision = self.base_revision(cfg)
        with writing(self.path):
            adapter.save_pretrained(self.adapter, n, base_model=cfg.model, revision=revision)
            if any(value[n].any() for value in adapter.quarantine.values()):
                adapter.save(self.adapter / "quarantine.safetensors", n, quarantine=True)
            card = self.adapter / "README.md"
            write_aside(card, model_card(self.path))
            for path in self.adapter.iterdir():  # PEFT writes 0600 too
                path.chmod(stat.S_IMODE(card.stat().st_mode))


def _save_aside(v_hack: VHack, target: Path) -> None:
    aside = target.with_name(f".{target.name}")
    try:
        with writing(target.parent):
            v_hack.save(aside)
            os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _put(made: Path, wanted: Path) -> Path:
    """Give a finished folder its name, or that name with a number: runs that differ in neither arm
    nor seed may start in the same second."""
    path, number = wanted, 1
    while True:
        try:
            os.rename(made, path)  # fails where the other has files, and it always has
            return path
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")


def resumed_config(asked: Config, run: RunDir, named: Collection[str] = ()) -> Config:
    """The stored settings of a run, with those asked for that may change (`resumed_settings`).
    Raises ConfigError where others are asked for."""
    found = resumed_settings(asked, run.path, named)
    logger.info("resuming {} with the settings it was started with", run.path)
    return found
