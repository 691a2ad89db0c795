"""What belongs to a model beside its own files: the base of an adapter, and code in other repositories."""

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub

from scope.generation.contents import hash_folder
from scope.generation.places import Place, locate
from scope.util.errors import ScopeError

MOST_BASES = 8  # the base of an adapter may be an adapter, so many times
ADAPTER = "adapter_config.json"


def fingerprint(place: Place, revision: str | None, trusted: bool, depth: int = 0) -> str:
    """40 hex digits that stand for a model and all that belongs to it: a commit, or a hash.

    trusted: whether code that comes with the model is run. depth: how many adapters led to this place.
    Raises ScopeError for files that cannot be found or read.
    """
    if place.commit is not None:
        parts = [place.commit]
    else:
        parts = [hash_folder(Path(place.name))]
        if base := base_of(Path(place.name)):
            if depth == MOST_BASES:
                chain = f"the base of its adapter is an adapter too, and so on, {MOST_BASES} times"
                raise ScopeError(f"model.path={place.name}: {chain}")
            parts.append(fingerprint(locate(base, None), None, trusted, depth + 1))
    parts += [other.commit or hash_folder(Path(other.name)) for other in code_places(place, trusted)]
    return parts[0][:40] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:40]


def base_of(folder: Path) -> str:
    """The folder or hub id of the model that an adapter belongs to; empty if the folder holds a whole model."""
    if (folder / "config.json").is_file() or not (folder / ADAPTER).is_file():
        return ""
    base = _json(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ScopeError(f"model.path={folder}: its {ADAPTER} names no base model")
    return base


def code_places(place: Place, trusted: bool) -> list[Place]:
    """Other repositories that the model takes code from; none if such code is not trusted."""
    names: set[str] = set()
    for file in ("config.json", "tokenizer_config.json") if trusted else ():
        path: Path | str = Path(place.name) / file
        if place.commit is not None:
            try:
                path = huggingface_hub.hf_hub_download(
                    place.name, file, revision=place.commit, local_files_only=place.local
                )
            except Exception:  # loading will report a file that is needed and missing
                continue
        classes = _json(Path(path)).get("auto_map")
        listed = classes.values() if isinstance(classes, dict) else ()
        flat = [c for value in listed for c in (value if isinstance(value, list) else [value])]
        names |= {c.partition("--")[0] for c in flat if isinstance(c, str) and "--" in c}
    return [Place(name) if Path(name).is_dir() else locate(name, None) for name in sorted(names - {place.name})]


def _json(path: Path) -> dict[str, Any]:
    """The contents of a file; empty if it cannot be read, which loading will report."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
