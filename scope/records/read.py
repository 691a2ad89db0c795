"""The one reader of a run's folder: its manifest, its records, and what is wrong with the lines that are left out.

A line counts only as this run wrote it: with a checksum that is right (scope.records.lines), and fields that have their
types (scope.records.fields). Nothing is written, and no line is passed over without a `Problem`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope.records.fields import fault_of_manifest, fault_of_record, scored
from scope.records.lines import DamagedLineError, as_record, has_checksum, parse
from scope.util.errors import ScopeError

CONFIG, MANIFEST, RECORDS, SHARDS = "config.yaml", "manifest.json", "records.jsonl", "shards"

TORN = "torn last line"  # left by a killed run; all other kinds mean that the file was changed by something else
UNREADABLE = "unreadable lines"
NO_RECORD = "lines that are no record"
NO_CHECKSUM = "lines without a checksum"
CHANGED = "lines changed since, or of another run"
WRONG_FIELDS = "lines with a field that is missing or of a wrong type"
AGAIN = "samples written again, the last counts"  # no line is left out for this
KINDS = (TORN, UNREADABLE, NO_RECORD, NO_CHECKSUM, CHANGED, WRONG_FIELDS, AGAIN)


class RecordsError(ScopeError):
    """A folder that cannot be read as a run's or a sweep's; the message names the file."""


@dataclass(frozen=True)
class Problem:
    """A line that is not one new record. line: its number, from 1. data: its bytes, without the newline."""

    kind: str
    line: int
    why: str
    data: bytes

    @property
    def leaves_out(self) -> bool:
        """Whether the line is not among the records."""
        return self.kind != AGAIN

    @property
    def means_change(self) -> bool:
        """Whether the file was changed after the run wrote it. A killed run only tears its last line."""
        return self.leaves_out and self.kind != TORN


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds. records: in the order of the file; a sample that was written again is there twice."""

    folder: Path
    manifest: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    problems: tuple[Problem, ...]

    @property
    def latest(self) -> dict[str, dict[str, Any]]:
        """Sample -> its last record."""
        return {record["sample"]: record for record in self.records}

    @property
    def answered(self) -> dict[str, dict[str, Any]]:
        """Sample -> its last record, of those that were answered."""
        return {name: record for name, record in self.latest.items() if record.get("status") == "ok"}

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for each kind of problem: how many lines, and of the first few which."""
        return notes(self.problems)


def notes(problems: Iterable[Problem]) -> tuple[str, ...]:
    """A note for each kind of problem: how many lines, and of the first few which."""
    found: dict[str, list[Problem]] = {kind: [] for kind in KINDS}
    for problem in problems:
        found[problem.kind].append(problem)
    return tuple(_note(kind, same) for kind, same in found.items() if same)


def _note(kind: str, problems: Sequence[Problem]) -> str:
    if kind == TORN:
        return TORN
    lines = ", ".join(str(problem.line) for problem in problems[:3]) + ", ..." * (len(problems) > 3)
    why = f": {problems[0].why}" if kind == WRONG_FIELDS else ""
    return f"{kind}: {len(problems)} (line {lines}{why})"


def read_run(folder: Path, needs: Sequence[str] = ()) -> RunFiles:
    """A run's manifest and records, and what is wrong with the lines that are left out.

    needs: further keys that the manifest must have. A run that has written nothing yet has no records.
    Raises RecordsError, in one line, for a manifest that is not valid and for a file that cannot be read.
    """
    manifest = read_manifest(folder, needs)
    return RunFiles(folder, manifest, *read_lines(folder / RECORDS, manifest["identity"]))


def read_manifest(folder: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """A run's manifest. Raises RecordsError where it is not one, lacks one of `needs`, or cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(_contents(path))
        fault = fault_of_manifest(manifest)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers too long or brackets too deep to read
        fault = " ".join(str(error).split())
    if not fault:
        fault = next((f"lacks '{key}'" for key in needs if key not in manifest), "")
    if fault:
        raise RecordsError(f"{path}: is not the manifest of a run ({fault}); moved away, its run is answered anew")
    return dict(manifest)


def read_lines(path: Path, identity: str) -> tuple[tuple[dict[str, Any], ...], tuple[Problem, ...]]:
    """-> the records of a file, and the problems of its lines. identity: of the run whose file it is."""
    *whole, rest = _contents(path).split(b"\n") if path.exists() else [b""]
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    lines = whole + [rest] * bool(rest)
    for number, line in enumerate(lines, start=1):
        record, kind, why = _read_line(line, identity)
        if record is None:
            kind = TORN if kind == UNREADABLE and rest and number == len(lines) else kind
            problems.append(Problem(kind, number, why, line))
            continue
        if record["sample"] in seen:
            problems.append(Problem(AGAIN, number, "", line))
        seen.add(record["sample"])
        found.append(record)
    return tuple(found), tuple(problems)


def _read_line(line: bytes, identity: str) -> tuple[dict[str, Any] | None, str, str]:
    """-> the record of a line, in today's form; or None, the kind of its problem, and why."""
    try:
        record = parse(line, identity)
    except DamagedLineError as error:
        return None, _kind(line), str(error)
    if fault := fault_of_record(record):
        name = " ".join(record["sample"].encode(errors="replace").decode()[:80].split())
        return None, WRONG_FIELDS, f"{name} {fault}" if fault.startswith("lacks") else f"{name}: {fault}"
    return scored(record), "", ""


def _kind(line: bytes) -> str:
    """The kind of problem of a line that is not as this run wrote it."""
    try:
        if as_record(line) is None:
            return NO_RECORD
    except DamagedLineError:
        return UNREADABLE
    return CHANGED if has_checksum(line) else NO_CHECKSUM


def _contents(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a folder; or a pipe, which would block
            raise RecordsError(f"{path}: is not a file")
        return path.read_bytes()
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read: {error.strerror or error}") from error


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs in and below a folder, without shards that were merged into a run there.

    Raises RecordsError where there is no such folder.
    """
    if not folder.is_dir():
        raise RecordsError(f"{folder}: no such folder")
    return [path.parent for path in sorted(folder.rglob(MANIFEST)) if not _merged(path)]


def _merged(manifest: Path) -> bool:
    return manifest.parent.parent.name == SHARDS and (manifest.parents[2] / manifest.name).exists()
