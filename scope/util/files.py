"""Writes a file completely or not at all, even if the power fails."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from scope.util.errors import ConfigError, of_the_machine


def user_cache() -> Path:
    """Where the project keeps what it can make again, for this user."""
    import platformdirs  # here, since models load without it

    return platformdirs.user_cache_path("scope-kv")


def write_whole(path: Path, text: str | bytes) -> None:
    """Replace a file by `text` in one step. If that fails, the old file stays, and no draft is left.

    Raises OSError that names `path`, even if the system names no file (a full disk) or names the draft.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with draft.open("wb") as stream:
                stream.write(text.encode(errors="backslashreplace") if isinstance(text, str) else text)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
        finally:
            with suppress(OSError):  # on a full or read-only disk this may fail too
                draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents if they are missing. Raises ConfigError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: cannot be made: {_reason(error)}") from error


def require_place(folder: Path) -> None:
    """Raise ConfigError if a folder does not exist and could not be made. Makes nothing."""
    for path in (folder, *folder.absolute().parents):
        try:
            there = path.stat()
        except (FileNotFoundError, NotADirectoryError):  # look at its parent
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder}: cannot be made: {_reason(error)}") from error
        if not stat.S_ISDIR(there.st_mode):
            raise ConfigError(f"{folder}: cannot be made: {path} is not a folder")
        if path != folder and not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder}: cannot be made: {path} cannot be written")
        return


def _reason(error: OSError | ValueError) -> str:
    return of_the_machine(error) if isinstance(error, OSError) else str(error)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)
