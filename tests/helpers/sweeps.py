"""Made-up runs with their records on disk, for the tests of tables, figures and reports. No test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scope.records.lines import seal

LAYERS = 4


def question(number: int, correct: bool, missing: bool = False) -> dict[str, Any]:
    found = None if missing else str(number) if correct else "wrong"
    answer = {
        "number": number,
        "expected": str(number),
        "found": found,
        "correct": correct,
        "given": int(found is not None),
    }
    return answer | {"released_found": found, "released_correct": correct}


def sample(index: int, correct: Sequence[bool] = (True, False), **changed: Any) -> dict[str, Any]:
    """The record of one answered prompt; unless changed, two batches of two rows, and evictions in both parts."""
    return {
        "sample": f"arithmetic-{index}",
        "status": "ok",
        "prompt_tokens": 300 + index,
        "generated_tokens": 200 + 10 * index,
        "finish": "eos",
        "generation": "text",
        "questions": [question(number, right) for number, right in enumerate(correct)],
        "batch": f"2026-01-01T00:00:0{index // 2}",
        "batch_rows": 2,
        "prefill_seconds": 0.1 + index // 2,
        "decode_seconds": 2.0 + index,
        "batch_seconds": 2.0 + index,
        "tokens_per_second": 100.0,
        "cache_bytes": 50_000 + index,
        "full_cache_bytes": 100_000 + index,
        "slots_kept": [200 + layer for layer in range(LAYERS)],
        "prefill_kept": [180] * LAYERS,
        "prefill_evicted": 40,
        "decode_evicted": 10,
    } | changed


def write_run(
    sweep: Path,
    name: str,
    records: Sequence[dict[str, Any]],
    *,
    method: str = "snapkv",
    decoding: str = "slide",
    budgets: tuple[float | None, int | None] = (0.6, 128),
    created: int = 0,
    torn: str = "",
    **manifest: Any,
) -> Path:
    """A run's folder; a budget of None makes the part one that keeps all, `torn` is left at the end of the records."""
    folder = sweep / name
    folder.mkdir(parents=True)
    parts = {"method": method, "decoding": decoding}
    settings: dict[str, Any] = {"model": {"layers": LAYERS}, "task": {"prompts": 4}}
    for (part, label), budget in zip(parts.items(), budgets, strict=True):
        settings[part] = {"type": label} | ({} if budget is None else {"budget": budget, "sizes": [1, 2]})
    about = {
        "identity": "0" * 64,
        "experiment": sweep.name,
        "run": name,
        "created": f"2025-01-01T00:{created:02d}:00+00:00",
        "commit": None,
        "seed": 0,
        "labels": {"model": "embedded", "task": "arithmetic", "budget": "tiny", **parts},
        "settings": settings,
        "samples": len(records),
    }
    about |= manifest
    (folder / "manifest.json").write_text(json.dumps(about))
    (folder / "records.jsonl").write_text("".join(sealed(record, about["identity"]) for record in records) + torn)
    return folder


def sealed(record: dict[str, Any], identity: str = "0" * 64) -> str:
    """A record as the line that its run writes."""
    return seal(record, identity).decode()


def write_sweep(sweep: Path) -> Path:
    """Full, two methods by two strategies, and two budgets of one pair; created in another order than it is named."""
    random = np.random.default_rng(1)

    def records(level: float) -> list[dict[str, Any]]:
        return [sample(index, (random.random(5) < level).tolist()) for index in range(12)]

    write_run(sweep, "e", records(0.6), created=1, budgets=(0.6, 64))
    write_run(sweep, "d", records(0.7), created=2)
    write_run(sweep, "c", records(0.7), created=3, decoding="none", budgets=(0.6, None))
    write_run(sweep, "b", records(0.8), created=4, method="h2o_sum", decoding="none", budgets=(0.6, None))
    write_run(sweep, "a", records(0.8), created=5, method="h2o_sum")
    write_run(sweep, "z", records(0.9), created=6, method="full", decoding="none", budgets=(None, None))
    return sweep
