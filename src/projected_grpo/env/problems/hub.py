"""Problems from a dataset on the Hugging Face hub, at one commit of it.

The repository is fetched whole and read from the cache, not by `load_dataset(name)`: that, when
offline, takes the newest revision in its cache, whichever was asked for.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.leetcode import parse_record
from projected_grpo.env.problems.problem import Problem

OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What forbids `datasets` to ask the hub; the first that is set decides."""


def read_hub(
    name: str, revision: str, split: str, limit: int | None = None
) -> Iterator[tuple[str, Problem]]:
    """(place, problem) for each row of a split, in the dataset's order. Raises InputError."""
    try:
        # optional extras of the package, and slow to import
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise InputError(
            f"hub:{name}: needs the package `datasets`; install projected_grpo[data], or give a "
            "local .jsonl file"
        ) from None
    folder = _fetched(name, revision)
    try:
        rows: Any = load_dataset(str(folder), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(
            f"hub:{name}@{revision}: split {split!r} could not be loaded: {_line(error)}"
        ) from error
    for index, row in enumerate(rows):
        if index == limit:
            return
        place = f"hub:{name}@{folder.name[:7]}:{split} row {index + 1}"
        yield place, parse_record(dict(row), place)


def parts_of(source: str) -> tuple[str, str, str]:
    """Name, revision and split of hub:owner/name@revision:split."""
    where, _, split = source.removeprefix("hub:").partition(":")
    name, _, revision = where.partition("@")
    return name, revision or "main", split or "train"


def commit_of(source: str) -> str | None:
    """The commit that problems were read at; None of those that are not from the hub."""
    if not source.startswith("hub:"):
        return None
    name, revision, _ = parts_of(source)
    return _fetched(name, revision).name


@cache  # a process reads a dataset at one commit, wherever its branch goes meanwhile
def _fetched(name: str, revision: str) -> Path:
    """The repository in the cache, .../snapshots/<commit>; fetched where that is allowed."""
    from datasets import config
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    where = f"hub:{name}@{revision}"
    offline = config.HF_HUB_OFFLINE
    try:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, local_files_only=offline
            )
        )
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        raise InputError(
            f"{where}: there is no such dataset on the hub ({constants.ENDPOINT}), or it is closed "
            "to you; log in with `hf auth login`, or give a local .jsonl file"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{where}: the dataset has no such revision: name a branch, a tag or a whole commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        answer = refusal(error)
        if answer is not None:
            raise InputError(
                f"{where}: the hub ({constants.ENDPOINT}) answers {answer}, and it is not in the "
                f"cache ({constants.HF_HUB_CACHE})"
            ) from error
        variable = next((v for v in OFFLINE if os.environ.get(v)), OFFLINE[1])
        why = f"{variable} is set" if offline else f"the hub ({constants.ENDPOINT}) does not answer"
        raise InputError(
            f"{where}: {why} and it is not in the cache ({constants.HF_HUB_CACHE}): fetch it where "
            f"there is a network, by `hf download --repo-type=dataset --revision={revision} "
            f"{name}`, or give a local .jsonl file"
        ) from error
    except (OSError, HTTPError) as error:  # HTTPError: the connection broke off
        raise InputError(f"{where}: could not be fetched: {_line(error)}") from error


def refusal(error: BaseException) -> str | None:
    """Status and message of the hub's answer, where one lies behind an error of huggingface_hub;
    that calls every answer but 401 and 404 a missing network."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            said = cause.server_message or cause.response.reason_phrase
            return f"{cause.response.status_code}: {' '.join(said.split())[:300]}"
        cause = cause.__cause__
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
