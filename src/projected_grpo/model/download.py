"""Models on the Hugging Face hub: which commit a name means, and what a run needs of it.

Imports neither torch nor transformers: `download-model` answers at once.
"""

import shlex
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from huggingface_hub import (
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)

from projected_grpo.env.errors import InputError
from projected_grpo.env.hub import HubRequest, first_set, in_a_sentence

WEIGHTS = (".safetensors", ".gguf")
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Weights, configs, tokenizer and chat template."""
OTHER_WEIGHTS = ("*/*.safetensors", "consolidated*")
"""The same weights again: in other precisions, or as their makers train them."""


class HubFile(NamedTuple):
    """A file or folder of a repository, in the cache."""

    path: Path
    commit: str
    """The commit's 40 hex digits."""


def split_gguf(source: str) -> tuple[str, str]:
    """(owner/name, file) of owner/name/file.gguf; the file is "" of all else."""
    parts = source.split("/")
    if source.endswith(".gguf") and len(parts) > 2 and not {"", ".", ".."} & {*parts}:
        return "/".join(parts[:2]), "/".join(parts[2:])
    return source, ""


def fetch(repo: str, revision: str, file: str = "config.json") -> HubFile:
    """One file of a model repository at a branch, tag or commit, from the hub or the cache. Raises
    InputError."""
    with in_a_sentence(hub_request(repo, revision, file)):
        path = Path(hf_hub_download(repo, file, revision=revision))
    # .../snapshots/<commit>/<file>
    return HubFile(path, path.parents[len(PurePosixPath(file).parts) - 1].name)


class Download(NamedTuple):
    """What `download` brought."""

    folder: Path
    commit: str
    files: list[Path]
    """The files that were asked for."""


def download(source: str, revision: str, patterns: Sequence[str] = ()) -> Download:
    """All that a run needs of a model, in the cache; or owner/name/file.gguf; or the files of some
    patterns. Raises InputError, also where there are no weights among them."""
    repo, file = split_gguf(source)
    if file and patterns:
        raise InputError(f"{source} names one file: leave --pattern out, or name {repo}")
    if file:
        path, commit = fetch(repo, revision, file)
        return Download(path.parent, commit, [path])
    ignored = None if patterns else [*OTHER_WEIGHTS]
    with in_a_sentence(hub_request(repo, revision)):
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[*(patterns or MODEL_FILES)],
                ignore_patterns=ignored,
            )
        )
    names = {file: str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    files = [
        file
        for file, name in names.items()
        if any(fnmatch(name, pattern) for pattern in patterns or MODEL_FILES)
        and not any(fnmatch(name, pattern) for pattern in ignored or ())
    ]
    if not any(file.suffix in WEIGHTS for file in files):
        asked = " or ".join(patterns) or "*.safetensors"
        raise InputError(no_weights(repo, revision, asked))
    return Download(folder, folder.name, sorted(files))


def no_weights(repo: str, revision: str, asked: str = "*.safetensors") -> str:
    """The sentence that a repository has no weights that can be loaded."""
    return (
        f"{repo} at {revision} has no weights named {asked}: only safetensors and GGUF are loaded, "
        f"a GGUF as {repo}/FILE.gguf"
    )


def lacks_safetensors(repo: str, commit: str) -> bool:
    """Whether the hub was asked for safetensors that transformers would load, and said that there
    are none."""
    names = ("model.safetensors", "model.safetensors.index.json")
    found = [try_to_load_from_cache(repo, name, revision=commit) for name in names]
    # a path where the cache has it, None where nobody knows, else known not to exist
    return not any(one is None or isinstance(one, str) for one in found)


def hub_request(repo: str, revision: str, file: str = "") -> HubRequest:
    """A model, or one file of it, as sentences about it need to know it."""
    offline = first_set("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    source = f"{repo}/{file}" if file.endswith(".gguf") else repo
    by_position, by_name = shlex.quote(source), shlex.quote(source)
    if revision != "main":
        by_position, by_name = f"{by_position} {revision}", f"{by_name} --revision={revision}"
    return HubRequest(
        "model",
        repo,
        revision,
        file,
        remedy=f"`just download-model {by_position}` or `download-model {by_name}`",
        offline=offline if constants.HF_HUB_OFFLINE else None,
    )
