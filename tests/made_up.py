"""Made-up rows in the columns of the data sets, writers of files for them, and a made-up record. No test."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import Table, parquet

Row = dict[str, Any]
SUBJECTS = ("botany", "road_law", "old_maps")


def gsm8k(count: int) -> list[Row]:
    """Questions of many lengths; the answer is a solution that ends in #### and a number."""
    return [
        {
            "question": f"Row {n} of the orchard has {n} trees"
            + " and a gate" * (n * 7 % 5)
            + ". How many twice over?",
            "answer": f"{n} and {n} are <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2000 * n:,}",
        }
        for n in range(1, count + 1)
    ]


def mmlu(each: int) -> list[Row]:
    """As the hub has it: subjects in blocks, four choices, the index of the right one."""
    return [
        {
            "question": f"In {subject}, what comes after {n}?",
            "subject": subject,
            "choices": [f"{subject} {n + shift}" for shift in (0, 1, 2, 3)],
            "answer": n % 4,
        }
        for subject in SUBJECTS
        for n in range(each)
    ]


def csqa(count: int) -> list[Row]:
    """As the hub has it: five choices with their labels, the label of the right one."""
    return [
        {
            "id": f"{n:04x}",
            "question": f"Where is the lamp number {n} kept?",
            "question_concept": "lamp",
            "choices": {"label": list("ABCDE"), "text": [f"shelf {n}", "hall", "cellar", "boat", "loft"]},
            "answerKey": "ABCDE"[n % 5],
        }
        for n in range(count)
    ]


def novels(count: int) -> list[Row]:
    return [
        {
            "id": n,
            "context": f"Ann has {n} apples." + " The sky looks grey." * 40 + " Bob was calm.",
            "answer": [f"Ann has {n} apples.", "Bob was calm."],
        }
        for n in range(1, count + 1)
    ]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in r.items()} for r in rows
            )
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answered_record(sample: str = "a") -> Row:
    """A record with the fields that every answered sample's has."""
    return {
        "sample": sample,
        "status": "ok",
        "prompt_tokens": 30,
        "generated_tokens": 20,
        "finish": "eos",
        "generation": "text",
        "questions": [],
        "batch": "2026-01-01T00:00:00",
        "batch_rows": 1,
        "batch_seconds": 2.0,
        "prefill_seconds": 0.1,
        "decode_seconds": 2.0,
        "cache_bytes": 50_000,
        "full_cache_bytes": 100_000,
        "slots_kept": [20, 20],
        "prefill_evicted": 40,
        "decode_evicted": 10,
    }
