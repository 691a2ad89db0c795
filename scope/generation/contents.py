"""One hash of what a model's folder holds: every file that can change an answer, from its first byte to its last.

Hashing 16 GB takes half a minute, so the hash of a large file is remembered in the user's cache folder, under the
file's path, size, inode, and times of change. What cannot be remembered, or was damaged, is hashed again.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope.util.errors import ScopeError
from scope.util.files import user_cache, write_whole

# Files that no library reads for an answer. Hidden files and folders (.git, .cache) are left out too.
DOCUMENTS = frozenset({".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".lock", ".pyc"})
NAMES = frozenset({"readme", "license", "licence", "notice", "changelog"})  # with no ending, or as .txt
SMALL = 1 << 16  # bytes: a smaller file is hashed faster than it is looked up
LONG = 1 << 30  # bytes: hashing more than this shows a progress bar on a terminal
SETTLED = 2.0  # seconds since a file's last change: within them, another change could leave the same times

Opener = Callable[[Path], AbstractContextManager[Any]]  # of a file, to be read as bytes


def hash_folder(folder: Path) -> str:
    """64 hex digits: of the names and whole contents of a model folder's files, in subfolders too.

    Symbolic links are followed. Documents, pictures and hidden files do not count. Raises ScopeError for a file that
    cannot be read.
    """
    try:
        files = {path.relative_to(folder).as_posix(): _File.of(path) for path in _files(folder)}
        found = {name: file.remembered() for name, file in files.items()}
        unknown = [name for name, digest in found.items() if digest is None]
        with _opener(sum(files[name].size for name in unknown)) as opened:
            for name in unknown:
                found[name] = files[name].hashed(opened)
    except OSError as error:
        raise ScopeError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    seen = {folder.resolve()}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        inside = [Path(here, name) for name in folders if not name.startswith(".") and name != "__pycache__"]
        new = [path for path in inside if path.resolve() not in seen]  # a link may lead back up
        seen.update(path.resolve() for path in new)
        folders[:] = [path.name for path in new]
        for name in names:
            path = Path(here, name)
            if _counts(path) and path.is_file():
                yield path


def _raise(error: OSError) -> None:
    raise error


def _counts(path: Path) -> bool:
    name, ending = path.name.lower(), path.suffix.lower()
    return not name.startswith(".") and ending not in DOCUMENTS and name.removesuffix(".txt") not in NAMES


@dataclass(frozen=True)
class _File:
    """A file in the state in which it was found."""

    path: Path  # resolved
    size: int
    modified: int  # nanoseconds, as the next one
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "_File":
        path = path.resolve()
        there = path.stat()
        return cls(path, there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino)

    @property
    def _state(self) -> list[str | int]:
        return [str(self.path), self.size, self.modified, self.changed, self.inode]

    @property
    def _memory(self) -> Path:
        """One file for each path, so that processes beside each other overwrite nothing of each other's."""
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()
        return user_cache() / "hashes" / name

    def remembered(self) -> str | None:
        if self.size < SMALL:
            return None
        try:
            body, check = self._memory.read_bytes().split(b"\n")
            *state, digest = json.loads(body)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        whole = check == _check(body) and state == self._state and isinstance(digest, str)
        return digest if whole else None

    def hashed(self, opened: Opener) -> str:
        begun = time.time_ns()
        with opened(self.path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        settled = begun - self.changed > SETTLED * 1e9
        if self.size >= SMALL and settled and self == _File.of(self.path):
            body = json.dumps([*self._state, digest]).encode()
            with suppress(OSError):  # a cache folder that cannot be written costs time only
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._memory, body + b"\n" + _check(body))
        return digest


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@contextmanager
def _opener(size: int) -> Iterator[Opener]:
    """How files of so many bytes together are opened: with a progress bar where that is long, on a terminal."""
    if size < LONG or not sys.stderr.isatty():
        yield lambda path: path.open("rb", buffering=0)
        return
    from rich.console import Console  # here, since models load without it
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hashing the model's files (once)", total=size)
        yield lambda path: progress.open(path, "rb", buffering=0, total=size, task_id=task)
