"""Writes new scores into a run's records. Nothing else of a record changes, and the old file is kept."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scope.records.folder import as_json, cannot_write, take, unused
from scope.records.lines import seal
from scope.records.read import MANIFEST, RECORDS, RunFiles, read_run
from scope.util.errors import ScopeError
from scope.util.files import write_whole

Record = Mapping[str, Any]


def rewrite(folder: Path, change: Callable[[RunFiles], tuple[Sequence[Record], Mapping[str, Any]]]) -> Path | None:
    """Replace the records of a run, in one step each file. -> the name under which the old records are kept.

    change: from what the folder holds, its records, as many and in the same order, and its manifest. A record that is
    as it was keeps its line. So does a line that is no record. None: nothing was to be written.
    Raises ScopeError where another process is writing the run, or the folder cannot be written: the old records stay.
    """
    if not folder.is_dir():
        raise ScopeError(f"{folder}: no such folder")
    lock, _ = take(folder, 0, "")
    try:
        there = read_run(folder)
        records, manifest = change(there)
        kept = _swap(folder / RECORDS, there, records)
        if manifest != there.manifest:
            write_whole(folder / MANIFEST, as_json(manifest))
        return kept
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        lock.release()


def _swap(path: Path, there: RunFiles, records: Sequence[Record]) -> Path | None:
    pairs = zip(there.records, records, strict=True)
    left_out = {problem.line for problem in there.problems if problem.leaves_out}
    before = path.read_bytes() if path.exists() else b""
    lines = [line + b"\n" for line in before.split(b"\n")]
    lines[-1] = lines[-1][:-1]  # what a killed run left behind its last newline
    for number, line in enumerate(lines, start=1):
        if line and number not in left_out:
            old, new = next(pairs)
            lines[number - 1] = line if old == new else seal(new, there.manifest["identity"])
    after = b"".join(lines)
    if after == before:
        return None
    kept = unused(path)
    try:
        write_whole(kept, before)
        write_whole(path, after)
    except OSError:
        kept.unlink(missing_ok=True)
        raise
    return kept
