"""The largest batch within a given memory: the search, and one measurement in a process of its own."""

from collections.abc import Mapping
from typing import Any

import pytest

from experiments.benchmarks import largest
from experiments.benchmarks.largest import OWN, Task


@pytest.mark.parametrize(("base", "of_row"), [(500, 4), (500, 5.5), (640, 25), (100, 3.2), (660, 9)])
def test_the_largest_batch_is_found_with_one_row_more_tried(
    base: float, of_row: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measured(task: Task) -> Mapping[str, Any]:
        tried.append(task)
        return {"most": int((base + of_row * task.rows) * 2**20), "before": 0, "seconds": 1.0, "tokens": 1}

    monkeypatch.setattr(largest, "in_a_process", measured)
    found = largest.largest(OWN, 670 * 2**20, 7936, 256)
    assert found["rows"] == max(n for n in range(1, 1000) if base + of_row * n <= 670)
    assert found["settled"]
    assert found["rows"] + 1 in found["tries_most_by_rows"]
    assert tried[-1] == Task(OWN, 7936, 256, found["rows"], found["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*largest.KINDS, largest.STOCK])
def test_a_batch_is_measured_in_a_process_of_its_own(kind: str) -> None:
    found = largest.in_a_process(Task(kind, 64, 12, 2, 2))
    assert found["tokens"] == 24
    assert 0 < found["before"] <= found["most"]
    assert len(found["steps"]) == (0 if kind == largest.STOCK else 12)


@pytest.mark.slow
def test_a_batch_that_is_refilled_is_measured_at_each_step() -> None:
    found = largest.refills(2, 64, 40)
    assert found["prompts"] == 4
    assert found["steps"] >= found["tokens"] / 2
    assert found["after_steps"]["most"] <= found["most"]
