"""Several generations of a prompt, and a run of the first prompts only: in the end the same records."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.library import Silent, but_for_timings, go
from helpers.library import experiment as usual
from rich.console import Console

from scope.generation.engine import Engine
from scope.generation.sampling import Sampling
from scope.runs.experiment import Experiment
from scope.runs.run import run
from scope.tasks import Arithmetic
from scope.util.errors import CombinationError, SettingError

THREE = Sampling(temperature=0.9, samples=3)


def experiment(**changes: Any) -> Experiment:
    return usual(task=Arithmetic(questions=4, max_new_tokens=40, prompts=3), **changes)


class Interrupting(Silent):
    """A tracker that ends the run after so many answers, as a kill would."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.left = answers

    def log(self, metrics: Mapping[str, float]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def names(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [line["sample"] for line in lines]


def test_a_resumed_run_of_several_samples_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    what = experiment(sampling=THREE, limit=2)
    _, whole = go(what, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(what, Interrupting(4), tmp_path / "cut", Console(file=io.StringIO()))
    (folder,) = (tmp_path / "cut").iterdir()
    assert len((folder / "records.jsonl").read_text().splitlines()) == 4  # it stopped among a prompt's samples
    _, resumed = go(
        experiment(sampling=THREE, limit=2, engine=Engine(batch_size=4)), tmp_path / "cut"
    )  # in other batches
    assert but_for_timings(resumed) == but_for_timings(whole)
    assert sorted(names(whole)) == [f"arithmetic-4-0-{i}{draw}" for i in range(2) for draw in ("", "#1", "#2")]


def test_a_record_names_its_prompt_its_draw_and_its_seed(tmp_path: Path) -> None:
    _, lines = go(experiment(sampling=THREE, limit=1), tmp_path)
    seeds = [int.from_bytes(hashlib.sha256(f"0 {name}".encode()).digest()[:7], "big") for name in names(lines)]
    assert [(line["prompt"], line["draw"], line["seed"]) for line in lines] == [
        ("arithmetic-4-0-0", draw, seed) for draw, seed in enumerate(seeds)
    ]
    assert len({line["generation"] for line in lines}) == 3


def test_more_samples_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    _, whole = go(experiment(sampling=THREE, limit=2), tmp_path / "whole")
    one, few = go(experiment(sampling=Sampling(temperature=0.9), limit=2), tmp_path / "grown")
    again, grown = go(experiment(sampling=THREE, limit=2), tmp_path / "grown")
    assert again == one
    assert grown[:2] == few
    by_name = sorted(but_for_timings(grown), key=lambda line: str(line["sample"]))
    assert by_name == sorted(but_for_timings(whole), key=lambda line: str(line["sample"]))


def test_greedy_is_the_default_and_has_one_sample(tmp_path: Path) -> None:
    assert (Sampling().temperature, Sampling().samples) == (0, 1)
    _, (line,) = go(experiment(limit=1), tmp_path)
    assert (line["draw"], line["seed"]) == (0, None)
    with pytest.raises(CombinationError, match=r"samples=2: must be 1 at temperature 0"):
        Sampling(samples=2)
    with pytest.raises(SettingError, match=r"samples=0: must be a whole number of at least 1"):
        Sampling(temperature=1, samples=0)


def test_a_limit_takes_the_first_prompts_and_is_no_other_run(tmp_path: Path) -> None:
    _, whole = go(experiment(), tmp_path / "whole")
    first, two = go(experiment(limit=2), tmp_path / "limited")
    assert names(two) == names(whole)[:2]
    assert json.loads((first / "manifest.json").read_text())["samples"] == 2
    again, rest = go(experiment(), tmp_path / "limited")
    assert again == first
    assert but_for_timings(rest) == but_for_timings(whole)
    assert json.loads((first / "manifest.json").read_text())["samples"] == 3
    with pytest.raises(SettingError, match=r"limit=0: must be a whole number of at least 1"):
        experiment(limit=0)
