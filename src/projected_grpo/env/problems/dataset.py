"""Problems from a dataset on the Hugging Face hub, at one commit of it.

The repository is fetched whole and read from the cache, not by `load_dataset(name)`: that, when
offline, takes the newest revision in its cache, whichever was asked for.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from projected_grpo.env.errors import InputError
from projected_grpo.env.hub import HubRequest, first_set, in_a_sentence, one_line
from projected_grpo.env.problems.leetcode import parse_record
from projected_grpo.env.problems.problem import Problem

OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What forbids `datasets` to ask the hub; the first that is set decides."""


def read_hub(name: str, revision: str, split: str) -> Iterator[tuple[str, Problem | InputError]]:
    """(place, problem) for each row of a split, in the dataset's order; an error in place of a
    problem where the row cannot be used. Raises InputError where the dataset cannot."""
    from datasets import load_dataset  # slow to import
    from datasets.exceptions import DatasetsError

    folder = _fetch(name, revision)
    try:
        rows: Any = load_dataset(str(folder), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(
            f"hub:{name}@{revision}: split {split!r} could not be loaded: {one_line(error)}"
        ) from error
    for index, row in enumerate(rows):
        place = f"hub:{name}@{folder.name[:7]}:{split} row {index + 1}"
        try:
            yield place, parse_record(dict(row), place)
        except InputError as error:
            yield place, error


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
    return _fetch(name, revision).name


@cache  # a process reads a dataset at one commit, wherever its branch goes meanwhile
def _fetch(name: str, revision: str) -> Path:
    """The repository in the cache, .../snapshots/<commit>; fetched where that is allowed."""
    from datasets import config
    from huggingface_hub import snapshot_download

    offline = config.HF_HUB_OFFLINE
    request = HubRequest(
        "dataset",
        name,
        revision,
        remedy=f"`hf download --repo-type=dataset --revision={revision} {name}`",
        instead=", or give a local .jsonl file by --problems",
        offline=first_set(*OFFLINE) if offline else None,
    )
    with in_a_sentence(request):
        folder = snapshot_download(
            name, repo_type="dataset", revision=revision, local_files_only=offline
        )
    return Path(folder)
