"""Whether the runs of one table were made by the same code on the same machine, and whether one is there twice.

No run is left out for it. The notes of a row say what differs.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records import Run

HARDWARE = ("machine", "cores", "threads", "gpu")  # changes speeds; the rest may change answers


def provenance(runs: Sequence[Run]) -> dict[Path, tuple[str, ...]]:
    """Notes for each run, by its folder: made by other code or on another machine than most, or there twice."""
    usual = Counter(_as_key(_code(run.made_by[0])) for run in runs).most_common(1)
    usual_machine = Counter(_as_key(_machine(run.made_by[0])) for run in runs).most_common(1)
    first: dict[str, Run] = {}
    found = {}
    for run in runs:
        notes = [f"other code than most: {d}" for d in _differences(_code(run.made_by[0]), json.loads(usual[0][0]))]
        notes += [
            f"other machine than most, speeds do not compare: {d}"
            for d in _differences(_machine(run.made_by[0]), json.loads(usual_machine[0][0]))
        ]
        for before, after in zip(run.made_by, run.made_by[1:], strict=False):
            notes += [f"continued by other code: {d}" for d in _differences(_code(after), _code(before))]
        twin = first.setdefault(_as_key([run.settings, run.seed, [run.labels[k] for k in ("model", "task")]]), run)
        if twin is not run:
            notes.append(f"same configuration as {twin.experiment}/{twin.name}: {', '.join(_told_apart(run, twin))}")
        found[run.folder] = tuple(notes)
    return found


def warnings(runs: Sequence[Run]) -> list[str]:
    """The same notes for the terminal: each once, with the names of at most three of its runs."""
    concerned: dict[str, list[str]] = {}
    notes = provenance(runs)
    for run in runs:
        for note in notes[run.folder]:
            concerned.setdefault(note, []).append(run.name)
    return [
        f"{note} ({len(names)} run{'s' * (len(names) > 1)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for note, names in concerned.items()
    ]


def _code(maker: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in maker.items() if key not in HARDWARE}


def _machine(maker: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in maker.items() if key in HARDWARE}


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What differs, in words; an empty list where nothing does."""
    keys = [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
    return [", ".join(f"{key} {_short(mine.get(key))}, not {_short(theirs.get(key))}" for key in keys)] * bool(keys)


def _short(value: Any) -> Any:
    """A commit by its first nine digits; any other value as it is."""
    return f"{value[:9]}{value[40:]}" if isinstance(value, str) and len(value) >= 40 else value


def _told_apart(run: Run, twin: Run) -> Iterator[str]:
    """How two runs of the same configuration differ in spite of it."""
    if run.identity != twin.identity:
        yield "other weights or labels"
    yield from _differences(run.made_by[0], twin.made_by[0])
    theirs = {s.name: (s.correct, s.generated_tokens, s.trace) for s in twin.samples}
    common = [s for s in run.samples if s.name in theirs]
    changed = sum((s.correct, s.generated_tokens, s.trace) != theirs[s.name] for s in common)
    yield f"answers differ in {changed} of {len(common)} common prompts" if common else "no prompt in common"


def _as_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
