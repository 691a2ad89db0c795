"""Rows of the tasks beside this file. lm-eval calls these functions; nothing is fetched from a hub."""

import json
import random
import re
from pathlib import Path
from typing import Any

from datasets import Dataset

SHOWN = 2  # worked questions before each; they are taken from the end of the file
LISTED = 60  # codes in a list, some 1,000 tokens of SmolLM2
COLOURS = ("red", "blue", "green", "black", "white", "brown", "silver", "yellow")
THINGS = ("box", "door", "bag", "locker", "chest", "drawer", "safe", "case", "trunk", "gate")
PLACES = ("kitchen", "attic", "garage", "office", "library", "cellar")


def gsm8k(gsm8k: str, **_: Any) -> dict[str, Dataset]:
    """gsm8k: the file test.jsonl of GSM8K, one question and its worked answer a line (`--metadata gsm8k=...`)."""
    rows = [json.loads(line) for line in Path(gsm8k).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["answer"] = re.sub(r"<<[^>]*>>", "", row["answer"])  # notes for a calculator
    shown = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows[-SHOWN:])
    return {"test": Dataset.from_list([{"shown": shown, **row} for row in rows[:-SHOWN]])}


def codes(**_: Any) -> dict[str, Dataset]:
    """Long lists of codes, of which one is asked for. Wrong choices are codes of other things in the same list."""
    return {"test": Dataset.from_list([_codes(random.Random(seed)) for seed in range(200)])}


def _codes(lot: random.Random) -> dict[str, Any]:
    things = [f"the {colour} {thing} in the {place}" for colour in COLOURS for thing in THINGS for place in PLACES]
    names = lot.sample(things, LISTED)
    numbers = lot.sample(range(1000, 10_000), len(names))
    text = "".join(f"The code of {name} is {number}.\n" for name, number in zip(names, numbers, strict=True))
    asked, *others = lot.sample(range(len(names)), 4)
    choices = [f"The code of {names[asked]} is {numbers[i]}." for i in (asked, *others)]
    return {"text": text, "name": names[asked], "choices": choices}
