"""The released code's recorded traces, where they are at hand; the comparison itself is tests/golden.py."""

import json
import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"
absent = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded traces of the released code are not here")


@absent
@pytest.mark.slow
def test_every_decidable_selection_is_the_released_codes() -> None:
    command = [sys.executable, str(Path(golden.__file__)), str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    last = done.stdout.splitlines()[-1]
    cases, decidable, equal = (int(word.split()[0]) for word in last.split(", "))
    assert done.returncode == 0, done.stdout[-3000:]
    assert cases == len(json.loads((FOLDER / "index.json").read_text()))
    assert decidable == equal > 20_000


@absent
def test_the_shortest_case_of_every_pair_is_the_released_codes() -> None:
    """What a change of a policy would break at once; the slow test above is of all cases."""
    cases = sorted(
        json.loads((FOLDER / "index.json").read_text()), key=lambda case: sum(case["prompts"]) + case["max_new_tokens"]
    )
    shortest = {(case["method"], case["metric"]): case for case in reversed(cases)}
    arrays = {name: array for path in sorted(FOLDER.glob("*.npz")) for name, array in np.load(path).items()}
    decidable = 0
    for case in shortest.values():
        verdict = golden.check(FOLDER, case, arrays)
        assert not verdict.difference, f"{verdict.name}: {verdict.difference}"
        assert verdict.equal == verdict.decidable
        decidable += verdict.decidable
    assert decidable > 500


@absent
def test_the_comparison_sees_a_wrong_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = json.loads((FOLDER / "index.json").read_text())
    arrays = dict(np.load(FOLDER / "small.npz").items())
    case = next(c for c in cases if c["method"] == "H2O" and c["metric"] == "slide" and c["prompts"] == [90])
    right = golden.check(FOLDER, case, arrays)
    assert not right.difference
    assert right.decidable == right.equal > 0
    wrong = golden.check(FOLDER, case | {"window_size": 7}, arrays)
    assert wrong.difference
    assert wrong.equal < wrong.decidable
