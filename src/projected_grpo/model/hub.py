"""Models on the Hugging Face hub: which commit a name means, what a run needs of it, and one
sentence where it cannot be had.

Imports neither torch nor transformers: `download-model` answers at once.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] (httpx's, or whatever it uses)
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.hub import refusal

WEIGHTS = (".safetensors", ".gguf")
NEEDED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Weights, configs, tokenizer and chat template."""
NOT_NEEDED = ("*/*.safetensors", "consolidated*")
"""The same weights again: in other precisions, or as their makers train them."""

NETWORK_ERRORS = (OSError, HTTPError)
"""What fetching may raise; HTTPError where a connection breaks off."""


class OnHub(NamedTuple):
    """A file or folder of a repository, in the cache."""

    path: Path
    commit: str
    """All 40 digits."""


def split_gguf(source: str) -> tuple[str, str]:
    """(owner/name, file) of owner/name/file.gguf; the file is "" of all else."""
    parts = source.split("/")
    if source.endswith(".gguf") and len(parts) > 2 and not {"", ".", ".."} & {*parts}:
        return "/".join(parts[:2]), "/".join(parts[2:])
    return source, ""


def fetch(repo: str, revision: str, file: str = "config.json") -> OnHub:
    """One file of a model repository at a branch, tag or commit, from the hub or the cache. Raises
    InputError."""
    with _in_a_sentence(repo, revision, file):
        path = Path(hf_hub_download(repo, file, revision=revision))
    # .../snapshots/<commit>/<file>
    return OnHub(path, path.parents[len(PurePosixPath(file).parts) - 1].name)


class Download(NamedTuple):
    """What `download` brought."""

    folder: Path
    commit: str
    files: list[Path]
    """Those that were asked for."""


def download(source: str, revision: str, patterns: Sequence[str] = ()) -> Download:
    """All that a run needs of a model, in the cache; or owner/name/file.gguf; or the files of some
    patterns. Raises InputError, also where there are no weights among them."""
    repo, file = split_gguf(source)
    if file and patterns:
        raise InputError(f"{source} names one file: leave --pattern out, or name {repo}")
    if file:
        path, commit = fetch(repo, revision, file)
        return Download(path.parent, commit, [path])
    ignored = None if patterns else [*NOT_NEEDED]
    with _in_a_sentence(repo, revision):
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[*(patterns or NEEDED)],
                ignore_patterns=ignored,
            )
        )
    names = {file: str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    files = [
        file
        for file, name in names.items()
        if any(fnmatch(name, pattern) for pattern in patterns or NEEDED)
        and not any(fnmatch(name, pattern) for pattern in ignored or ())
    ]
    if not any(file.suffix in WEIGHTS for file in files):
        asked = " or ".join(patterns) or "*.safetensors"
        raise InputError(no_weights(repo, revision, asked))
    return Download(folder, folder.name, sorted(files))


def no_weights(repo: str, revision: str, asked: str = "*.safetensors") -> str:
    """Why a repository is of no use."""
    return (
        f"{repo} at {revision} has no weights named {asked}: only safetensors and GGUF are loaded, "
        f"a GGUF as {repo}/FILE.gguf"
    )


def lacks_safetensors(repo: str, commit: str) -> bool:
    """Whether the hub was asked for safetensors that transformers would load, and said that there
    are none."""
    return all(
        try_to_load_from_cache(repo, name, revision=commit) is _CACHED_NO_EXIST
        for name in ("model.safetensors", "model.safetensors.index.json")
    )


def offline_variable() -> str | None:
    """The environment variable that forbids to ask the hub, where one does."""
    if not constants.HF_HUB_OFFLINE:
        return None
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name)), names[0])


def not_in_cache(source: str, revision: str, what: str = "is not") -> str:
    """Why a model or one .gguf file cannot be had, where the hub was not to be asked or did not
    answer, and what to do about it."""
    variable = offline_variable()
    why = f"{variable} is set" if variable else f"the hub ({constants.ENDPOINT}) does not answer"
    by_position, by_name = shlex.quote(source), shlex.quote(source)
    if revision != "main":
        by_position, by_name = f"{by_position} {revision}", f"{by_name} --revision={revision}"
    return (
        f"{why}, and {source} at revision {revision} {what} in the cache "
        f"({constants.HF_HUB_CACHE}): fetch it where there is a network, by "
        f"`just download-model {by_position}` or `download-model {by_name}`"
    )


@contextmanager
def _in_a_sentence(repo: str, revision: str, file: str = "") -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise InputError(
            f"there is no model {repo}: it is neither a path here nor a hub id (owner/name)"
        ) from error
    except GatedRepoError as error:
        raise InputError(
            f"{repo} is gated: accept its terms on the hub, and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is no model {repo}, neither a path here nor on the hub "
            f"({constants.ENDPOINT}); if it is private, log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{repo} has no revision {revision} on the hub: name a branch, a tag or a whole commit"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise InputError(f"{repo} at revision {revision} has no {file}") from error
    except LocalEntryNotFoundError as error:
        source = f"{repo}/{file}" if file.endswith(".gguf") else repo
        answer = refusal(error)
        if answer is None:
            raise InputError(not_in_cache(source, revision)) from error
        raise InputError(
            f"the hub ({constants.ENDPOINT}) answers {answer}, and {source} at revision {revision} "
            f"is not in the cache ({constants.HF_HUB_CACHE})"
        ) from error
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"cannot fetch {repo} at revision {revision}: {reason}") from error
