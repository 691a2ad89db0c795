"""A run's folder: what was asked (config.yaml), what ran (manifest.json), and one line per sample (records.jsonl).

Lines are appended whole and flushed, so that a killed run loses at most the batch it was in; the same run started again
finds what is there and goes on. A run is recognised by its identity: a hash of everything that changes an answer.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from scope.errors import ScopeError
from scope.files import write_whole

CONFIG, MANIFEST, RECORDS, TORN = "config.yaml", "manifest.json", "records.jsonl", "records.torn"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "hydra-core",
    "omegaconf",
    "pandas",
    "datasets",
    "rouge-score",
    "wandb",
    "flash-attn",
    "triton",
)


def describe(settings: object, limits: bool = True) -> dict[str, Any]:
    """A settings object as plain data: its type and fields; without `limits`, only what can change an answer."""
    if not is_dataclass(settings):
        raise TypeError(f"{type(settings).__name__} is not a dataclass: its settings cannot be recorded")
    kind = type(settings)
    described: dict[str, Any] = {"type": f"{kind.__module__}.{kind.__qualname__}"}
    for f in fields(settings):
        if limits or not f.metadata.get("limit"):
            value = getattr(settings, f.name)
            described[f.name] = describe(value, limits) if is_dataclass(value) else value
    return described


def identity(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain data in a canonical form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Records:
    """The records of one run, open for appending.

    Raises ScopeError where the folder cannot be written, or holds a run of another identity.
    """

    def __init__(self, folder: Path, config: str, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / RECORDS).open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
            self._claim(config, manifest)
            self._set_aside_torn_line()
        except BlockingIOError as error:
            raise ScopeError(f"{folder}: another process is writing this run") from error
        except OSError as error:
            raise ScopeError(f"{folder}: cannot be written: {error.strerror or error}") from error
        self.done = {record["sample"]: record for record in read(folder)}

    def _claim(self, config: str, manifest: Mapping[str, Any]) -> None:
        path = self.folder / MANIFEST
        if path.exists():
            there = json.loads(path.read_text())
            if there["identity"] != manifest["identity"]:
                raise ScopeError(f"{self.folder} holds another run ({there['identity'][:8]}): choose another name")
            if there["samples"] >= manifest["samples"] and (self.folder / CONFIG).exists():
                return  # as many samples or more are planned already
        write_whole(self.folder / CONFIG, config)
        write_whole(path, json.dumps(dict(manifest), indent=2) + "\n")

    def _set_aside_torn_line(self) -> None:
        path = self.folder / RECORDS
        if not path.exists():
            return
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            with (self.folder / TORN).open("ab") as aside:
                aside.write(torn + b"\n")
            with path.open("r+b") as stream:
                stream.truncate(len(whole + newline))

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the records of one batch, in one write, and see them to the disk."""
        batch = list(records)
        try:
            self._file.write("".join(json.dumps(dict(record)) + "\n" for record in batch))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ScopeError(f"{self.folder / RECORDS}: cannot be written: {error.strerror or error}") from error
        self.done |= {record["sample"]: dict(record) for record in batch}

    def close(self) -> None:
        self._file.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """A run's records, but for a last line that was torn; a line that cannot be read is passed over with a warning."""
    path = folder / RECORDS
    if not path.exists():
        return []
    *whole, _torn = path.read_text(errors="replace").split("\n")
    found = []
    for number, line in enumerate(whole, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            logging.getLogger(__name__).warning("%s:%d cannot be read: its sample is answered again", path, number)
    return found


def surroundings() -> dict[str, Any]:
    """What a run stands on: versions, the project's commit, the hardware."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := _version(name))},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `+` where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
