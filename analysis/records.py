"""The runs of a sweep as the analysis uses them, from what `scope.records` reads in their folders.

All facts come from files, none from the names of folders. A run may still be going, or may have been killed in the
middle of a line. What can be read is returned, and `Run.notes` says what was left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scope.records.identity import model_name
from scope.records.merge import JOINED, Joined
from scope.records.read import MANIFEST, RecordsError, read_run, run_folders
from scope.scoring.answer import PRIMARY
from scope.scoring.scorers import short_name
from scope.util.visible import all_visible

__all__ = ["Marks", "RecordsError", "Run", "Sample", "read_runs"]

LABELS = ("model", "method", "decoding", "task")
NEEDS = ("experiment", "run", "created", "labels", "settings")  # keys that a manifest must have


@dataclass(frozen=True)
class Marks:
    """What one scorer found in a sample.

    correct: for each question whether its answer is right. missing: questions without an answer. duplicates: answers
    beyond the first to a question; None where the code that recorded the sample did not count them.
    """

    correct: tuple[bool, ...]
    missing: int
    duplicates: int | None


@dataclass(frozen=True)
class Replay:
    """What a replay says of each forced token, in the order of the text; the first one follows the prompt.

    kl: KL(full || compressed) in nats. log_likelihood, full_log_likelihood: of the token itself in nats, with the
    compressed cache and with the full one. agrees: whether both have the same most likely token. recalls, full_recalls:
    whether that is the forced one. answers: whether the token is part of a value that has to be recalled.
    """

    kl: tuple[float, ...]
    log_likelihood: tuple[float, ...]
    full_log_likelihood: tuple[float, ...]
    agrees: tuple[bool, ...]
    recalls: tuple[bool, ...]
    full_recalls: tuple[bool, ...]
    answers: tuple[bool, ...]


@dataclass(frozen=True)
class Sample:
    """One answer to one prompt, or one replay. Times are in seconds, sizes in bytes.

    name: of the sample. prompt: the prompt's name, shared by all samples drawn from it. expected: the right answer of
    each question. marks: what each scorer found, for those that scored all questions. measures: scores of the whole
    text, each in 0..1 (ROUGE).
    prompt_tokens, generated_tokens: counts. finish: what ended the text, such as `eos` or `length`.
    batch: when the batch began, which names it. batch_rows: its width. prefill_seconds: of all prompts that went
    through the prefill together. decode_seconds: of this answer's own steps. batch_seconds: of all steps of the batch
    until this answer ended.
    cache_bytes, full_cache_bytes: what this sample's cache took, and what a full one would have taken. slots_kept: at
    the end, one count per layer. prefill_full, slots_full: the slots of transformers' own cache after the prefill and
    at the end, over layers. prefill_evicted, decode_evicted: slots evicted in each part.
    trace: a fingerprint of the slots held over time; empty where none was recorded.
    engine, device (cpu or cuda), threads (of torch): what computed it. cpu_wait: the share of its time, 0..1, that the
    process waited for a processor. None: not recorded, or the system does not tell.
    cluster: of samples that are alike, such as windows of one text; else the prompt's name. replay: of a sample whose
    text was forced; None where the model wrote it.
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
    prefill_full: int
    slots_full: int  # the last token generated is never cached
    prefill_evicted: int
    decode_evicted: int
    trace: str
    engine: str
    device: str | None
    threads: int | None
    cpu_wait: float | None
    cluster: str
    replay: Replay | None

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether each question is right, by the primary scorer."""
        return self.marks[PRIMARY].correct

    def marks_by(self, scorer: str) -> Marks | None:
        """What a scorer found; None where it did not score this sample.

        A sample without questions counts as scored by every scorer.
        """
        return self.marks.get(scorer) if self.expected else self.marks[PRIMARY]


@dataclass(frozen=True)
class Run:
    """One run of a sweep, from its manifest and records.

    created: seconds since the epoch. planned: how many samples the run is to have; the most it can have where shards
    are missing. labels: its model, task, method, decoding and so on by name. settings: all it was asked for, nested.
    samples: the answered ones. failed: the names of the others. notes: what reading left out. identity: a hash of the
    settings. made_by: commit, versions and hardware of the program that began the run, and of each that continued it.
    scorers: by name, those that scored any sample, with what each counts in a few words where that is known.
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
    def prompts(self) -> tuple[int, int]:
        """How many prompts are answered with all their draws, and how many there are to be.

        The records tell the number of draws: it is the most that any prompt has.
        """
        drawn = Counter(sample.prompt for sample in self.samples).values()
        draws = max(drawn, default=1)
        return sum(count == draws for count in drawn), -(-self.planned // draws)

    @property
    def compresses_prefill(self) -> bool:
        """Whether the prefill method has a budget."""
        return self.budgets[0] is not None

    @property
    def compresses_decoding(self) -> bool:
        """Whether the decoding strategy has a budget."""
        return (self.settings.get("decoding") or {}).get("budget") is not None

    @property
    def compressed(self) -> bool:
        """Whether anything in this run could have evicted a slot."""
        return self.compresses_prefill or self.compresses_decoding

    @property
    def max_bytes(self) -> int | None:
        """The most bytes of a sequence's cache, where bytes are the budget and not D."""
        found = (self.settings.get("cache") or {}).get("max_bytes")
        return None if found is None else int(found)

    @property
    def max_slots(self) -> int | float | None:
        """The most slots of a sequence, or a share of the full cache's, where they are the budget and not D."""
        found = (self.settings.get("cache") or {}).get("max_slots")
        return found if found is None or isinstance(found, float) else int(found)

    @property
    def bound(self) -> str | None:
        """What decides D, in words: `300000 bytes`, `640 slots`, `0.5 of the full cache's slots`; None: D was given."""
        if self.max_bytes is not None:
            return f"{self.max_bytes} bytes"
        if isinstance(self.max_slots, float):
            return f"{self.max_slots:g} of the full cache's slots"
        return None if self.max_slots is None else f"{self.max_slots} slots"

    @property
    def budgets(self) -> tuple[Any, Any]:
        """C and D. None where there is none; D is None too where a bound in bytes or slots decides it."""
        decode = (self.settings.get("decoding") or {}).get("budget") if self.bound is None else None
        return (self.settings.get("method") or {}).get("budget"), decode

    @property
    def budget_words(self) -> list[str]:
        """All budgets in words: `0.6` and `128`, or `0.6` and `300000 bytes`."""
        words = [f"{budget:g}" for budget in self.budgets if budget is not None]
        return words if self.bound is None else [*words, self.bound]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """All runs in and below `folders`, each once, oldest first.

    A run with a manifest and no record yet is returned without samples. Raises RecordsError for a folder that does not
    exist or has no record anywhere below it, and for a manifest or record that lacks what it must have.
    """
    found = {run.folder: run for folder in folders for run in _read_sweep(folder)}
    return sorted(found.values(), key=lambda run: (run.created, run.folder))


def _read_sweep(folder: Path) -> list[Run]:
    runs = [_read_run(found.resolve()) for found in run_folders(folder)]
    if not any(run.samples or run.failed for run in runs):
        left_out = [f"{run.folder}: {note}" for run in runs for note in run.notes]
        raise RecordsError(": ".join([f"{folder}: no run with records here or below", *left_out[:1]]))
    return runs


def _labels(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The labels in their order, and any others. The model's is its name."""
    labels = manifest["labels"]
    named = {"model": model_name(labels, manifest["settings"].get("model", {}))}
    return {**{key: labels[key] for key in LABELS}, **labels, **named}


def _read_run(folder: Path) -> Run:
    run = read_run(folder, NEEDS)
    manifest, notes = all_visible(run.manifest), run.notes  # may come from anyone
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
        labels=_labels(manifest),
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
        cluster=record.get("cluster") or record.get("prompt", record["sample"]),
        replay=_replay(record["replay"]) if "replay" in record else None,
    )


def _replay(tokens: Mapping[str, Any]) -> Replay:
    nats = (tuple(tokens[name]) for name in ("kl", "log_likelihood", "full_log_likelihood"))
    flags = (tuple(flag == "1" for flag in tokens[name]) for name in ("agrees", "recalls", "full_recalls", "answers"))
    return Replay(*nats, *flags)


def _marks(scores: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Marks]:
    """Marks by scorer, for the scorers that scored every question. scores: of each question, by scorer."""
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
    """A count summed over layers. Older records lack it; there it is `tokens` for each layer, sliding windows too."""
    return sum(record.get(field, [tokens] * len(record["slots_kept"])))
