"""A sweep's runs as the analysis sees them, from what `scope.records` reads in their folders.

Only files are read; folder names are never taken apart. A run may still be going, or have been killed in the middle of
a line: what can be read is returned, and `Run.notes` says what was left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scope.records.merge import JOINED, Joined
from scope.records.read import MANIFEST, RecordsError, read_run, run_folders
from scope.scoring.answer import PRIMARY
from scope.scoring.scorers import short_name
from scope.util.visible import all_visible

__all__ = ["Marks", "RecordsError", "Run", "Sample", "read_runs"]

LABELS = ("model", "method", "decoding", "task")
NEEDS = ("experiment", "run", "created", "labels", "settings")  # of a manifest


@dataclass(frozen=True)
class Marks:
    """What one scorer found in a sample: whether each question is right, how many have no answer, and how many answers
    there are beyond the first to a question (None: recorded by code that did not count them)."""

    correct: tuple[bool, ...]
    missing: int
    duplicates: int | None


@dataclass(frozen=True)
class Sample:
    """One prompt that was answered. Times in seconds, cache sizes in bytes, `slots_kept` one count per layer.

    `prompt` is the prompt's name, which all samples drawn from it share. `expected` has one entry per question, and so
    has `correct`, by the scorer that accuracies go by. `marks` are by the name of the scorer, of those that have scored
    all questions.
    `measures` are scores of the whole text, each in 0..1 (ROUGE).
    `trace` is a fingerprint of the slots held over time, empty where none was recorded.
    `prefill_seconds` is of all prompts that went through it together, `decode_seconds` of this answer's own steps,
    `batch_seconds` of all steps of its batch until it ended; `batch`: when that began, `batch_rows`: how wide it was.
    `engine`, `device` (cpu or cuda) and `threads` of torch: what it was computed with. `cpu_wait`: for how much of its
    time, 0..1, the process waited for a processor. None: not recorded, or not known to the system.
    """

    name: str
    prompt_tokens: int
    generated_tokens: int
    finish: str
    prompt: str
    expected: tuple[str, ...]
    marks: Mapping[str, Marks]
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
    engine: str
    device: str | None
    threads: int | None
    cpu_wait: float | None

    @property
    def correct(self) -> tuple[bool, ...]:
        return self.marks[PRIMARY].correct

    def marks_by(self, scorer: str) -> Marks | None:
        """What a scorer found; None where it did not score this sample. Where nothing is asked, all have scored it."""
        return self.marks.get(scorer) if self.expected else self.marks[PRIMARY]


@dataclass(frozen=True)
class Run:
    """One run of a sweep, as its manifest and records tell it.

    `created` is in seconds since the epoch, `planned` the number of samples the run is to have, or at most has where it
    lacks shards; `samples` are the answered ones and `failed` the names of those that ended any other way. `made_by`:
    commit, versions and hardware of the program that began the run, and of each that went on with it. `scorers`: the
    names of those that scored any of its samples, and what each counts in a few words, as far as that is known.
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
    scorers: Mapping[str, str]

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
    runs = [_read_run(found.resolve()) for found in run_folders(folder)]
    if not any(run.samples or run.failed for run in runs):
        left_out = [f"{run.folder}: {note}" for run in runs for note in run.notes]
        raise RecordsError(": ".join([f"{folder}: no run with records here or below", *left_out[:1]]))
    return runs


def _read_run(folder: Path) -> Run:
    run = read_run(folder, NEEDS)
    manifest, notes = all_visible(run.manifest), run.notes  # anybody's words, for tables, figures and terminals
    if lacking := [label for label in LABELS if label not in manifest["labels"]]:
        raise RecordsError(f"{folder / MANIFEST}: lacks 'labels.{lacking[0]}'")
    if "shard" in manifest:
        notes = (*notes, f"shard {manifest['shard']}, not merged")
    joined = Joined(manifest[JOINED]) if JOINED in manifest else None
    if joined:
        notes = (*notes, f"{joined.lacks}: at most {joined.most_samples} samples in all")
    answered = run.answered
    samples = tuple(map(_sample, answered.values()))
    about = {short_name(name): said for name, said in manifest.get("scoring", {}).items()}
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
        failed=tuple(name for name in run.latest if name not in answered),
        notes=notes,
        identity=manifest["identity"],
        made_by=tuple(_made_by(m) for m in (manifest, *manifest.get("continued", []))),
        scorers={name: about.get(name, "") for sample in samples for name in sample.marks},
    )


def _made_by(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"commit": manifest.get("commit"), **manifest.get("versions", {}), **manifest.get("hardware", {})}


def _sample(record: Mapping[str, Any]) -> Sample:
    questions = record["questions"]
    return Sample(
        name=record["sample"],
        prompt_tokens=record["prompt_tokens"],
        generated_tokens=record["generated_tokens"],
        finish=record["finish"],
        prompt=record.get("prompt", record["sample"]),
        expected=tuple(question["expected"] for question in questions),
        marks=_marks([all_visible(question["scores"]) for question in questions]),
        measures=all_visible(record.get("measures", {})),
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
        engine=record.get("engine", "eager"),
        device=record.get("device"),
        threads=record.get("threads"),
        cpu_wait=record.get("cpu_wait"),
    )


def _marks(scores: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Marks]:
    """By the name of the scorer, of those that have scored every question. scores: of each question."""
    everywhere = [name for name in scores[0] if all(name in of_question for of_question in scores)] if scores else []
    found = {}
    for name in dict.fromkeys([PRIMARY, *everywhere]):
        by_it = [of_question[name] for of_question in scores]
        counted = all("given" in score for score in by_it)
        found[name] = Marks(
            tuple(score["correct"] for score in by_it),
            sum(score["found"] is None for score in by_it),
            sum(max(0, score["given"] - 1) for score in by_it) if counted else None,
        )
    return found


def _full(record: Mapping[str, Any], field: str, tokens: int) -> int:
    """Over layers; of an older record as many as there are tokens, in layers with sliding windows too."""
    return sum(record.get(field, [tokens] * len(record["slots_kept"])))
