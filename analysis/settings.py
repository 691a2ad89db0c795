"""The settings of runs under the keys of the command line, and which of them tell the rows of a table apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.records import Run

TYPED = {
    "cache.max_bytes": "budget.bytes",
    "cache.max_slots": "budget.total",
    "cache.granularity": "fidelity.granularity",
}
"""Keys of recorded settings that the command line calls something else."""
UNSAID = {"cache.precision": "float", "cache.turns": "protect"}
"""What a manifest names only where it is another."""


def settings_of(run: Run) -> dict[str, Any]:
    """All that a run was asked for, by the keys of the command line, its seed included.

    Where `budget.bytes` or `budget.total` decides, `decoding.budget` (D) is None: it is what that leaves.
    """
    found = {TYPED.get(key, key): value for key, value in flat(run.settings).items() if key != "replay.type"}
    if run.bound is not None:
        found["decoding.budget"] = None
    return UNSAID | found | {"seed": run.seed}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys. Lists become their JSON text, so that every value can be compared."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return found


def telling(settings: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys of `settings` that differ between runs with the same labels; both have one entry for each run.

    A key of the model, the task or the replay counts where runs of one model and task differ, whatever their methods: a
    run on 8 questions and a run of another method on 58 must not look alike.
    """
    keys = dict.fromkeys(key for setting in settings for key in setting)
    alike = _groups(labels, ("model", "task", "method", "decoding"))
    asked_alike = _groups(labels, ("model", "task"))

    def tells(key: str) -> bool:
        groups = asked_alike if key.startswith(("model.", "task.", "replay.")) else alike
        return any(len({repr(settings[row].get(key)) for row in rows}) > 1 for rows in groups)

    return [key for key in keys if tells(key)]


def _groups(labels: Sequence[Mapping[str, str]], parts: Sequence[str]) -> Iterable[list[int]]:
    """The rows that have the same labels in these parts."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(tuple(label[part] for part in parts), []).append(row)
    return groups.values()
