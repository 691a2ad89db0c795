"""Reads a sweep back from disk: the `manifest.json` and `records.jsonl` that every run leaves in its folder.

Only files are read, and only these two; folder names are never taken apart. A run may still be going, or have been
killed in the middle of a line: what can be read is returned, and what could not is said in `Run.notes`. A line whose
checksum says that it was changed, or written by another run, counts as one that could not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scope.errors import ScopeError
from scope.records.lines import DamagedLineError, parse
from scope.records.merge import JOINED, Joined

SHARDS = "shards"  # the folder in a run's where its shards have theirs
LABELS = ("model", "method", "decoding", "task")


class RecordsError(ScopeError):
    """A folder that cannot be read as a sweep; the message names the file."""


@dataclass(frozen=True)
class Sample:
    """One prompt that was answered. Times in seconds, cache sizes in bytes, `slots_kept` one count per layer.

    `prompt` is the prompt's name, which all samples drawn from it share. `expected` and `correct` have one entry per
    question, and so has `released_correct`, by the paper's scorer; `missing` and `released_missing` count the
    questions without an answer, `duplicates` the answers beyond the first to a question. None: recorded by code that
    knew only one scorer.
    `measures` are scores of the whole text, each in 0..1 (ROUGE).
    `trace` is a fingerprint of the slots held over time, empty where none was recorded.
    `prefill_seconds` is of all prompts that went through it together, `decode_seconds` of this answer's own steps,
    `batch_seconds` of all steps of its batch until it ended; `batch`: when that began, `batch_rows`: how wide it was.
    """

    name: str
    prompt_tokens: int
    generated_tokens: int
    finish: str
    prompt: str
    expected: tuple[str, ...]
    correct: tuple[bool, ...]
    released_correct: tuple[bool, ...] | None
    missing: int
    released_missing: int | None
    duplicates: int | None
    measures: Mapping[str, float]
    batch: str
    batch_rows: int
    batch_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cache_bytes: int
    full_cache_bytes: int
    slots_kept: tuple[int, ...]
    prefill_full: int  # slots that transformers' own cache holds after the prefill, over layers
    slots_full: int  # and at the end: the last token generated is never cached
    prefill_evicted: int
    decode_evicted: int
    trace: str


@dataclass(frozen=True)
class Run:
    """One run of a sweep, as its manifest and records tell it.

    `created` is in seconds since the epoch, `planned` the number of samples the run is to have, or at most has where it
    lacks shards; `samples` are the answered ones and `failed` the names of those that ended any other way. `made_by`:
    commit, versions and hardware of the program that began the run, and of each that went on with it.
    """

    folder: Path
    experiment: str
    name: str
    created: float
    seed: int | None
    planned: int
    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    samples: tuple[Sample, ...]
    failed: tuple[str, ...]
    notes: tuple[str, ...]
    identity: str
    made_by: tuple[Mapping[str, Any], ...]

    @property
    def compresses_prefill(self) -> bool:
        """Whether the prefill policy has a budget to keep to."""
        return self.budgets[0] is not None

    @property
    def compresses_decoding(self) -> bool:
        """Whether the decoding strategy has a budget to keep to."""
        return (self.settings.get("decoding") or {}).get("budget") is not None

    @property
    def compressed(self) -> bool:
        """Whether anything in this run could have evicted a slot."""
        return self.compresses_prefill or self.compresses_decoding

    @property
    def max_bytes(self) -> int | None:
        """What a sequence's cache may take, where that decides instead of a D."""
        found = (self.settings.get("cache") or {}).get("max_bytes")
        return None if found is None else int(found)

    @property
    def budgets(self) -> tuple[Any, Any]:
        """C and D; None where there is none, as where D is what `max_bytes` leave."""
        decode = (self.settings.get("decoding") or {}).get("budget") if self.max_bytes is None else None
        return (self.settings.get("method") or {}).get("budget"), decode

    @property
    def budget_words(self) -> list[str]:
        """All that bounds the cache, in words: `0.6` and `128`, or `0.6` and `300000 bytes`."""
        words = [f"{budget:g}" for budget in self.budgets if budget is not None]
        return words + [f"{self.max_bytes} bytes"] * (self.max_bytes is not None)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """All runs in and below `folders`, each once, oldest first.

    A run that has a manifest and no record yet is returned without samples. RecordsError: a folder that does not
    exist or has no record anywhere below it, a manifest or a record that lacks what it must have.
    """
    found = {run.folder: run for folder in folders for run in _read_sweep(folder)}
    return sorted(found.values(), key=lambda run: (run.created, run.folder))


def _read_sweep(folder: Path) -> list[Run]:
    if not folder.is_dir():
        raise RecordsError(f"{folder}: no such folder")
    runs = [_read_run(path) for path in sorted(folder.rglob("manifest.json")) if not _merged(path)]
    if not any(run.samples or run.failed for run in runs):
        raise RecordsError(f"{folder}: no run with records here or below")
    return runs


def _merged(manifest: Path) -> bool:
    """Whether it is a shard's, and the run that shards make is there too (`python -m scope.records merge`)."""
    return manifest.parent.parent.name == SHARDS and (manifest.parents[2] / manifest.name).exists()


def _read_run(path: Path) -> Run:
    folder = path.parent.resolve()
    try:
        manifest = json.loads(path.read_bytes())
        records, notes = read_records(folder / "records.jsonl", manifest["identity"])
        if "shard" in manifest:
            notes = (*notes, f"shard {manifest['shard']}, not merged")
        joined = Joined(manifest[JOINED]) if JOINED in manifest else None
        if joined:
            notes = (*notes, f"{joined.lacks}: at most {joined.most_samples} samples in all")
        samples = tuple(_sample(folder, record) for record in records.values() if record.get("status") == "ok")
        answered = {sample.name for sample in samples}
        return Run(
            folder=folder,
            experiment=manifest["experiment"],
            name=manifest["run"],
            created=datetime.fromisoformat(manifest["created"]).timestamp(),
            seed=manifest.get("seed"),
            planned=joined.most_samples if joined else manifest["samples"],
            labels={key: manifest["labels"][key] for key in LABELS} | manifest["labels"],
            settings=manifest["settings"],
            samples=samples,
            failed=tuple(name for name in records if name not in answered),
            notes=notes,
            identity=manifest["identity"],
            made_by=tuple(_made_by(m) for m in (manifest, *manifest.get("continued", []))),
        )
    except KeyError as error:
        raise RecordsError(f"{path}: lacks {error}") from error
    except (AttributeError, ValueError, TypeError) as error:
        raise RecordsError(f"{path}: not the manifest of a run ({error})") from error


def _made_by(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"commit": manifest.get("commit"), **manifest.get("versions", {}), **manifest.get("hardware", {})}


def read_records(path: Path, identity: str) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The last record of every sample of the run, and a note for every kind of line that is not simply one."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    parsed = [(number, line, _parse(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    records: dict[str, dict[str, Any]] = {}
    broken, foreign, changed, again = [], [], [], []
    for number, line, record in parsed:
        if record is None:
            broken.append(number)
        elif not isinstance(record, dict) or "sample" not in record:
            foreign.append(number)
        elif not _is_whole(line, record, identity):
            changed.append(number)
        else:
            if record["sample"] in records:
                again.append(number)
            records[record["sample"]] = record
    # A killed writer tears the last line; where the run then went on, the torn line is no longer the last one.
    torn_last = bool(broken) and broken[-1] == parsed[-1][0]
    notes = ["torn last line"] * torn_last
    notes += _counted("unreadable lines", broken[:-1] if torn_last else broken)
    notes += _counted("lines that are no record", foreign)
    notes += _counted("lines changed since, or of another run", changed)
    notes += _counted("samples written again, the last counts", again)
    return records, tuple(notes)


def _is_whole(line: bytes, record: Mapping[str, Any], identity: str) -> bool:
    """Whether it is as this run wrote it; lines of older code have no checksum, and are believed."""
    if "check" not in record:
        return True
    try:
        parse(line, identity)
    except DamagedLineError:
        return False
    return True


def _counted(what: str, lines: Sequence[int]) -> list[str]:
    """A note with how many and, of the first few, where."""
    some = ", ".join(map(str, lines[:3])) + ", ..." * (len(lines) > 3)
    return [f"{what}: {len(lines)} (line {some})"] * bool(lines)


def _parse(line: bytes) -> Any:
    """None: torn JSON, or a torn UTF-8 character."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _sample(folder: Path, record: Mapping[str, Any]) -> Sample:
    try:
        questions = record["questions"]
        both = all("released_correct" in question for question in questions)
        return Sample(
            name=record["sample"],
            prompt_tokens=record["prompt_tokens"],
            generated_tokens=record["generated_tokens"],
            finish=record["finish"],
            prompt=record.get("prompt", record["sample"]),
            expected=tuple(question["expected"] for question in questions),
            correct=tuple(question["correct"] for question in questions),
            released_correct=tuple(question["released_correct"] for question in questions) if both else None,
            missing=sum(question["found"] is None for question in questions),
            released_missing=sum(question["released_found"] is None for question in questions) if both else None,
            duplicates=sum(max(0, question["given"] - 1) for question in questions) if both else None,
            measures=record.get("measures", {}),
            batch=record["batch"],
            batch_rows=record["batch_rows"],
            batch_seconds=record["batch_seconds"],
            prefill_seconds=record["prefill_seconds"],
            decode_seconds=record["decode_seconds"],
            cache_bytes=record["cache_bytes"],
            full_cache_bytes=record["full_cache_bytes"],
            slots_kept=tuple(record["slots_kept"]),
            prefill_full=_full(record, "prefill_full", record["prompt_tokens"]),
            slots_full=_full(record, "slots_full", record["prompt_tokens"] + record["generated_tokens"] - 1),
            prefill_evicted=record["prefill_evicted"],
            decode_evicted=record["decode_evicted"],
            trace=record.get("trace", ""),
        )
    except KeyError as error:
        raise RecordsError(f"{folder / 'records.jsonl'}: sample {record['sample']} lacks {error}") from error


def _full(record: Mapping[str, Any], field: str, tokens: int) -> int:
    """Over layers; of an older record as many as there are tokens, in layers with sliding windows too."""
    return sum(record.get(field, [tokens] * len(record["slots_kept"])))
