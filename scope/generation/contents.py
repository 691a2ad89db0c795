"""A hash of a model's folder: of the whole contents of every file that can change an answer.

Hashing takes about a second per GB. So the hash of a large file is kept in the user's cache folder, together with the
file's path, size, inode and times of change. If one of these differs, or the entry is damaged, the file is hashed
again.
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

# Files that do not change an answer. Hidden files and folders, such as .git and .cache, are left out too.
DOCUMENTS = frozenset({".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".lock", ".pyc"})
NAMES = frozenset({"readme", "license", "licence", "notice", "changelog"})  # without a suffix, or with .txt
SMALL = 1 << 16  # bytes: hashing a smaller file is faster than looking it up
LONG = 1 << 30  # bytes: hashing more than this shows a progress bar on a terminal
SETTLED = 2.0  # seconds: after a change as recent as this, another change could leave the file with the same times

Opener = Callable[[Path], AbstractContextManager[Any]]  # opens a file as a stream of bytes


def hash_folder(folder: Path) -> str:
    """-> 64 hex digits: a hash of the names and the contents of the files in a model's folder and its subfolders.

    Symbolic links are followed. Documents, pictures and hidden files do not count.
    Raises ScopeError for a file that cannot be read.
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
        new = [path for path in inside if path.resolve() not in seen]  # a link may lead to a folder above
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
    """A file, with what tells whether it was changed since."""

    path: Path  # resolved
    size: int
    modified: int  # nanoseconds: the last change of the contents
    changed: int  # nanoseconds: the last change of the file or of its metadata
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
        """The file that keeps the hash: one for each path, so that processes do not overwrite each other's."""
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()
        return user_cache() / "hashes" / name

    def remembered(self) -> str | None:
        """The hash, if it is known for this state of the file."""
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
        """Hash the file, and keep the hash of a large one that was not changed meanwhile."""
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
    """How to open files of `size` bytes in all: with a progress bar on a terminal if that takes long."""
    if size < LONG or not sys.stderr.isatty():
        yield lambda path: path.open("rb", buffering=0)
        return
    from rich.console import Console  # imported here, since loading a model does not need it
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hashing the model's files (once)", total=size)
        yield lambda path: progress.open(path, "rb", buffering=0, total=size, task_id=task)
