"""The Hugging Face hub: one sentence where a model or a dataset cannot be had from it.

Imports huggingface_hub only when something is fetched: reading local problems does without.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from projected_grpo.env.errors import InputError


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What is to be fetched, and what a person can do where it cannot be."""

    kind: Literal["model", "dataset"]
    repo: str
    revision: str
    file: str = ""
    """The one file of the repository that is wanted; "" for all that is needed of it."""
    remedy: str = ""
    """A command that fetches it where there is a network."""
    instead: str = ""
    """What else the user may give, the end of a sentence."""
    offline: str | None = None
    """The environment variable that forbids to ask the hub, where one does."""

    @property
    def name(self) -> str:
        """What a person calls it: the repository, or one .gguf file of it."""
        return f"{self.repo}/{self.file}" if self.file.endswith(".gguf") else self.repo

    def not_in_cache(self, what: str = "is not") -> str:
        """Why it cannot be had, where the hub was not to be asked or did not answer."""
        from huggingface_hub import constants

        silent = f"the hub ({constants.ENDPOINT}) does not answer"
        why = f"{self.offline} is set" if self.offline else silent
        return (
            f"{why}, and {self.name} at revision {self.revision} {what} in the cache "
            f"({constants.HF_HUB_CACHE}): see that its name is right, and fetch it where there is "
            f"a network, by {self.remedy}"
            f"{self.instead}"
        )


@contextmanager
def in_a_sentence(request: HubRequest) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into an InputError in the user's terms."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    kind, repo, revision = request.kind, request.repo, request.revision
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(
            f"there is no {kind} {repo}: it is neither a path here nor a hub id (owner/name)"
        ) from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{repo} is gated: accept its terms on the hub, and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no {kind} {repo}, neither a path here nor on the hub "
            f"({constants.ENDPOINT}); if it is private, log in with `hf auth login`"
            f"{request.instead}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{repo} has no revision {revision} on the hub: name a branch, a tag or a whole commit"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"{repo} at revision {revision} has no {request.file}") from error
    except errors.LocalEntryNotFoundError as error:
        answer = _refusal(error)
        if answer is None:
            raise InputError(request.not_in_cache()) from error
        raise InputError(
            f"the hub ({constants.ENDPOINT}) answers {answer}, and {request.name} at revision "
            f"{revision} is not in the cache ({constants.HF_HUB_CACHE})"
        ) from error
    except (OSError, HTTPError) as error:  # HTTPError: the connection broke off
        raise InputError(
            f"cannot fetch {repo} at revision {revision}: {one_line(error)}"
        ) from error


def first_set(*names: str) -> str:
    """The environment variable, of these, that is set; the first where none is."""
    return next((name for name in names if os.environ.get(name)), names[0])


def one_line(error: BaseException) -> str:
    """The start of an error's message, on one line."""
    return " ".join(str(error).split())[:300]


def _refusal(error: BaseException) -> str | None:
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
