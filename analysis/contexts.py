"""The order of runs in a table, and what each is compared with: the uncompressed run, and runs of other budgets."""

from collections.abc import Sequence
from typing import Any

from analysis.columns import Context
from analysis.provenance import provenance
from analysis.records import Run


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The runs in the order of a table's rows: by model and task, uncompressed first, then as they were created."""
    first: dict[tuple[str, str], int] = {}
    for position, run in enumerate(runs):
        for part, label in run.labels.items():
            first.setdefault((part, label), position)

    parts = ("model", "task", "method", "decoding")

    def rank(run: Run) -> tuple[int, ...]:
        model, task, method, decoding = (first[part, run.labels[part]] for part in parts)
        return model, task, run.compresses_prefill, method, run.compresses_decoding, decoding

    return sorted(runs, key=rank)


def contexts(runs: Sequence[Run], scorers: Sequence[str]) -> list[Context]:
    """The context of each of these runs. scorers: the names of those that any run has."""
    origin = provenance(runs)
    return [
        Context(run, _baseline(run, runs), tuple(_same_evictions(run, runs)), origin[run.folder], tuple(scorers))
        for run in runs
    ]


def _baseline(run: Run, runs: Sequence[Run]) -> Run | None:
    """The uncompressed run of the same model, task, replay and seed: the longest, of its experiment if possible."""
    if not run.compressed:
        return None
    alike = [other for other in runs if not other.compressed and _conditions(other) == _conditions(run)]
    return max(alike, key=lambda other: (other.experiment == run.experiment, len(other.samples)), default=None)


def _same_evictions(run: Run, runs: Sequence[Run]) -> list[Run]:
    """Runs of the same methods with another budget that evicted as many slots at every step: the budget did nothing."""

    def methods(r: Run) -> tuple[Any, ...]:
        return _conditions(r), r.labels["method"], r.labels["decoding"]

    alike = [other for other in runs if methods(other) == methods(run) and other.budget_words != run.budget_words]
    traces = {sample.name: sample.trace for sample in run.samples if sample.trace}
    found = []
    for other in alike:
        common = [(traces[s.name], s.trace) for s in other.samples if s.trace and s.name in traces]
        if common and all(mine == theirs for mine, theirs in common):
            found.append(other)
    return found


def _conditions(run: Run) -> tuple[Any, ...]:
    return run.settings.get("model"), run.settings.get("task"), run.settings.get("replay"), run.seed
