"""Where the files of a model are: a folder on this disk, or a commit of a hub id."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from scope.util.errors import ConfigError, ScopeError

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Place:
    """The files of a model.

    name: a folder or a hub id. commit: of the hub id; None for a folder. local: whether the files have to be on this
    disk already.
    """

    name: str
    commit: str | None = None
    local: bool = True


def locate(name: str, revision: str | None) -> Place:
    """Find a model. name: a folder or a hub id. revision: of the hub id; None: its main branch.

    The hub is asked once in a process, so the commit stays the same even if the branch moves. Raises ConfigError for a
    folder without a model and for an id that does not exist, ScopeError for one that is gated or cannot be reached.
    """
    refused = f"model.path={name}:"
    folder = Path(name)
    if _exists(folder):
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ConfigError(f"{refused} holds no model (there is no config.json in it)")
        if revision is not None:
            raise ConfigError(f"model.revision={revision}: must be null: model.path={name} is a folder")
        return Place(name)
    if not _is_hub_id(name):
        raise ConfigError(f"{refused} there is no such folder, and it is not the id of a model on the hub")
    return _commit(name, revision)


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):  # not a valid name of a file
        return False


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(_HUB_ID.fullmatch(name))


@lru_cache(maxsize=64)
def _commit(name: str, revision: str | None) -> Place:
    """Ask the hub for the commit. If it gives none, take the files of an earlier download.

    transformers would ask by itself, but try again for a long time.
    """
    refused = f"model.path={name}:"
    cached = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    there = Place(name, Path(cached).parent.name, local=True) if isinstance(cached, str) else None
    api = huggingface_hub.HfApi()
    try:
        api.auth_check(name)
        commit = api.model_info(name, revision=revision).sha
    except GatedRepoError as error:
        reason: Exception = error
        why = "is gated: ask for access on its page, then `hf auth login` or HF_TOKEN"
    except RevisionNotFoundError as error:
        raise ConfigError(f"model.revision={revision}: {name} has no such branch, tag or commit") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"{refused} is not on the hub (or private: `hf auth login` or HF_TOKEN)") from error
    except Exception as error:  # errors of the network library
        reason = error
        wanted = f"{name} --revision {revision}" if revision else name
        why = f"the hub cannot be reached and it is not in the cache; where there is a network: hf download {wanted}"
    else:
        return Place(name, commit, local=False)
    if there is None:
        raise ScopeError(f"{refused} {why}") from reason
    return there
