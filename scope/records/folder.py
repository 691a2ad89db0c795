"""The folder of one run: open for appending by one process, readable by all."""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from scope.records.code import changed_code
from scope.records.lines import seal
from scope.records.read import CONFIG, MANIFEST, RECORDS, SHARDS, Problem, read_lines, read_manifest, read_run
from scope.util.errors import ScopeError, SettingError, check_choice, check_flag, check_number
from scope.util.files import sync_folder, write_whole
from scope.util.secrets import redact
from scope.util.surroundings import mismatch, surroundings

_logger = logging.getLogger(__name__)
DAMAGED, LOCK = "records.damaged", ".lock"  # the lines that cannot be used; locked by the process that writes
TRIES = 10  # to lock a folder that another process may remove right after it is made


@dataclass(frozen=True)
class RecordKeeping:
    """How a run treats records that are there already.

    on_mismatch: what to do if the run was started with another version of the project or its libraries: `warn` and
    continue, `refuse`, or `rerun` it from the start. Answers that were made by other code of a method, strategy, task
    or scorer are refused too with `warn`; `accept` warns and continues there as well. rerun: answer every sample again;
    the old records are kept under another name. wait_seconds: how long to wait for another process that is writing this
    run. shard: `i/n` answers only the i-th of n shares of the samples; `python -m scope.records merge` joins the
    shares.
    Raises SettingError for a wrong value.
    """

    on_mismatch: str = "warn"
    rerun: bool = False
    wait_seconds: float = 0
    shard: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "on_mismatch", ("warn", "refuse", "rerun", "accept"))
        check_flag(self, "rerun")
        check_number(self, "wait_seconds", low=0)
        i, n = self.part
        if not 1 <= i <= n:
            raise SettingError(self, "shard", self.shard, "i/n, such as 1/4, with i from 1 to n")

    @property
    def part(self) -> tuple[int, int]:
        """(i, n); (0, 0) for a shard that is not of that form."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(self.shard or "1/1"))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def place(self, folder: Path) -> Path:
        """Where records go. folder: the run's; a shard has a folder of its own in it."""
        return folder if self.shard is None else folder / SHARDS / f"{self.part[0]}-of-{self.part[1]}"


class Records:
    """The records of one run, open for appending. done: sample -> its record, for the samples that were answered.

    Raises ScopeError if the folder cannot be written, another process is writing it, or it holds another run.
    """

    def __init__(self, folder: Path, config: str | bytes, manifest: Mapping[str, Any], keeping: RecordKeeping) -> None:
        """config: the text of config.yaml. manifest: what is asked; code, libraries and hardware are added to it."""
        self.folder, self.identity = folder, str(manifest["identity"])
        self._path = folder / RECORDS
        self._lock, is_new = take(folder, keeping.wait_seconds)
        there = [name for name in (CONFIG, MANIFEST, RECORDS) if (folder / name).exists()]
        try:
            self._claim(config, manifest, keeping)
            self.done = {name: record for name, record in self._mend().items() if record.get("status", "ok") == "ok"}
            self._file = self._path.open("ab", buffering=0)
            sync_folder(folder)
        except OSError as error:
            self._give_up(is_new, there)
            raise cannot_write(folder, error) from error
        except BaseException:
            self._lock.release()
            raise

    def _claim(self, config: str | bytes, manifest: Mapping[str, Any], keeping: RecordKeeping) -> None:
        """Write config and manifest if they are missing or plan fewer samples; act on a mismatch as `keeping` says."""
        path = self.folder / MANIFEST
        there = read_manifest(self.folder) if path.exists() else None
        if there and there["identity"] != self.identity:
            if not keeping.rerun:
                raise ScopeError(f"{self.folder} holds another run ({there['identity'][:8]}): choose another name")
            there = None
        now = surroundings()
        there = self._with_code(there, manifest.get("code"), keeping)
        if there and (differs := mismatch(there, now)):
            if keeping.on_mismatch == "refuse":
                raise ScopeError(
                    f"{self.folder}: was begun with {differs}: records.on_mismatch=warn goes on, =rerun begins anew"
                )
            if keeping.on_mismatch == "rerun":
                there = None
            else:
                _logger.warning("%s: was begun with %s; going on, and the manifest says so", self.folder, differs)
                there["continued"] = [*there.get("continued", []), now]
                write_whole(path, as_json(there))
        if (keeping.rerun or there is None) and self._path.exists():
            self._path.rename(unused(self._path))
            there = None
        if there and there["samples"] >= manifest["samples"] and (self.folder / CONFIG).exists():
            return  # as many samples or more are planned already
        write_whole(self.folder / CONFIG, config)
        first = {"code": there["code"]} if there and "code" in there else {}
        write_whole(path, as_json({**now, **(there or {}), **manifest, **first}))  # the first run's versions stay too

    def _with_code(
        self, there: dict[str, Any] | None, code: Mapping[str, str] | None, keeping: RecordKeeping
    ) -> dict[str, Any] | None:
        """The manifest that is there, with the code that goes on; None where other code begins anew."""
        if not there or code is None or not changed_code(there.get("code"), code):
            return there
        if keeping.on_mismatch == "rerun":
            return None
        if any(record.get("status") == "ok" for record in read(self.folder)):  # `accept`: the first code stays
            there["continued"] = [*there.get("continued", []), {"code": dict(code)}]
        else:
            there["code"] = dict(code)
        write_whole(self.folder / MANIFEST, as_json(there))
        return there

    def _mend(self) -> dict[str, dict[str, Any]]:
        """Read the records; move damaged and foreign lines to another file. -> the last record of each sample."""
        found, problems = read_lines(self._path, self.identity)
        _warn(self._path, problems, "cannot be used, its sample is answered again")
        if damaged := [problem.data for problem in problems if problem.leaves_out]:
            with (self.folder / DAMAGED).open("ab") as aside:
                aside.write(b"".join(line + b"\n" for line in damaged))
                aside.flush()
                os.fsync(aside.fileno())
        if damaged or not _ends_whole(self._path):
            left_out = {problem.line for problem in problems if problem.leaves_out}
            lines = enumerate(self._path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1)
            write_whole(self._path, b"".join(line + b"\n" for number, line in lines if number not in left_out))
        return {record["sample"]: record for record in found}

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records and sync them to disk. If that fails, the file is as before, and ScopeError is raised."""
        batch = [dict(record) for record in records]
        data = b"".join(seal(record, self.identity) for record in batch)
        before = os.fstat(self._file.fileno())
        if not before.st_nlink:
            raise ScopeError(f"{self._path}: was removed while the run was writing it")
        try:
            while data:  # a disk that fills takes a part, and refuses the rest
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before.st_size)
            raise cannot_write(self._path, error) from error
        self.done |= {record["sample"]: record for record in batch if record.get("status", "ok") == "ok"}

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def _give_up(self, is_new: bool, there: Sequence[str]) -> None:
        """Undo what this process wrote for a new run, remove the folder if it made it, and release the lock.

        there: the run's files that existed when the lock was taken. No other process has written since.
        """
        if not there:
            with suppress(OSError):
                for name in (CONFIG, MANIFEST, RECORDS):
                    (self.folder / name).unlink(missing_ok=True)
                if is_new and [path.name for path in self.folder.iterdir()] == [LOCK]:
                    (self.folder / LOCK).unlink()
                    self.folder.rmdir()
        self._lock.release()


def take(folder: Path, wait_seconds: float, hint: str = " (records.wait_seconds waits)") -> tuple[BaseFileLock, bool]:
    """The lock of a folder, which is made where it is missing. -> the lock, and whether this process made the folder.

    Raises ScopeError where another process holds it, or where the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, thread_local=False)  # uses flock, which also works over NFS
    is_new = False
    for tries_left in reversed(range(TRIES)):
        try:
            is_new = _made(folder) or is_new
            lock.acquire(timeout=wait_seconds)
            return lock, is_new
        except Timeout as error:
            raise ScopeError(f"{folder}: another process is writing this run{hint}") from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and tries_left:
                continue  # another process had made the folder, failed, and removed it
            if is_new:
                with suppress(OSError):
                    folder.rmdir()  # only if it is empty
            raise cannot_write(folder, error) from error
    raise AssertionError("the last try returns or raises")


def _made(folder: Path) -> bool:
    """Make the folder. -> whether this process made it: only one of two processes is told so."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def read(folder: Path) -> list[dict[str, Any]]:
    """The last record of each sample of a run. A line that cannot be used is left out, with a warning.

    Raises RecordsError where the folder has records and they, or its manifest, cannot be read.
    """
    if not (folder / RECORDS).exists():
        return []
    run = read_run(folder)
    _warn(folder / RECORDS, run.problems, "cannot be used")
    return list(run.latest.values())


def _warn(path: Path, problems: Iterable[Problem], what: str) -> None:
    """Warn of each line that is left out, but not of a torn last line: a killed run leaves one."""
    for problem in problems:
        if problem.means_change:
            _logger.warning("%s:%d %s: %s", path, problem.line, what, problem.why)


def _ends_whole(path: Path) -> bool:
    """Whether a line can be appended: the file is missing, empty, or ends in a newline."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def as_json(data: Mapping[str, Any]) -> str:
    return json.dumps(redact(data), indent=2) + "\n"


def unused(path: Path) -> Path:
    """A name like `path` that nothing has: records.1.jsonl."""
    return next(p for n in count(1) if not (p := path.with_suffix(f".{n}{path.suffix}")).exists())


def cannot_write(path: Path, error: OSError) -> ScopeError:
    return ScopeError(f"{path}: cannot be written: {error.strerror or error}; what was recorded before is intact")
