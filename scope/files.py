"""Writing a file so that it is either there whole or not at all, also after the power failed."""

import os
from pathlib import Path


def write_whole(path: Path, text: str | bytes) -> None:
    """Replace a file by `text` in one step; where that fails, what was there before stays and no draft is left."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(text.encode() if isinstance(text, str) else text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See the names in a folder to the disk."""
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)
