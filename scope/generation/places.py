"""Where the files of a model are: a folder or a GGUF file on this disk, or a commit of a hub id."""

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

from scope.models import gguf
from scope.models.published import PUBLISHED, Published
from scope.util.errors import ConfigError, ScopeError

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Place:
    """The files of a model.

    name: a folder or a hub id. commit: of the hub id; None for a folder. local: whether the files have to be on this
    disk already.
    gguf: the name of the file in the folder that holds the whole model; None: an ordinary folder.
    """

    name: str
    commit: str | None = None
    local: bool = True
    gguf: str | None = None


def locate(name: str, revision: str | None) -> Place:
    """Find a model. name: a folder, a GGUF file, a hub id, or a name of `scope.models.published`.

    revision: of the hub id; None: its main branch.

    The hub is asked once in a process, so the commit stays the same even if the branch moves. Raises ConfigError for a
    folder or file without a model and for an id that does not exist, ScopeError for an id that is gated or cannot be
    reached.
    """
    if name in PUBLISHED:
        return _published(PUBLISHED[name], revision)
    refused = f"model.path={name}:"
    folder = Path(name)
    if _exists(folder):
        if revision is not None:
            raise ConfigError(f"model.revision={revision}: must be null: model.path={name} is on this disk")
        if not folder.is_dir():
            return _of_file(folder)
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            files = sorted(path.name for path in folder.glob("*.gguf"))
            instead = f"; give a file of it: {folder / files[0]}" if files else ""
            raise ConfigError(f"{refused} holds no model (there is no config.json in it){instead}")
        return Place(name)
    if folder.suffix.lower() == ".gguf":
        raise ConfigError(f"{refused} there is no such file")
    if not _is_hub_id(name):
        raise ConfigError(f"{refused} there is no such folder, and it is not the id of a model on the hub")
    return _commit(name, revision)


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):  # not a valid name of a file
        return False


def _of_file(file: Path) -> Place:
    refused = f"model.path={file}:"
    try:
        found = gguf.is_gguf(file)
    except OSError as error:
        raise ScopeError(f"{refused} cannot be read: {error.strerror or error}") from error
    if not found:
        raise ConfigError(f"{refused} is no GGUF file; give the folder of a model, or a GGUF file")
    if gguf.PART.search(file.name):
        raise ConfigError(f"{refused} is a part of a model; join the parts: llama-gguf-split --merge")
    gguf.require(refused.removesuffix(":"))
    return Place(gguf.alone(file.absolute()).name, gguf=gguf.NAME)


@lru_cache(maxsize=8)
def _published(model: Published, revision: str | None) -> Place:
    """From the hub where it gives the model, else the folder that was made of wheels."""
    try:
        return _commit(model.hub, revision)
    except ConfigError:
        raise
    except ScopeError as error:
        if not model.made:
            get = f"python -m scope.models get {model.name}"
            raise ScopeError(
                f"model.path={model.name}: the hub does not give {model.hub}; have it made: {get}"
            ) from error
    if revision is not None:
        raise ConfigError(f"model.revision={revision}: must be null: model.path={model.name} is on this disk")
    return Place(str(model.folder))


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
