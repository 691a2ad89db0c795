"""The embedded model is what its recipe makes and can do what its table says."""

import json
import random
from pathlib import Path

import pytest
import torch

from experiments.tiny import evaluate, train
from experiments.tiny.curriculum import Stage, batch
from experiments.tiny.recipe import Recipe
from scope.generation import models
from scope.generation.models import ModelSource
from scope.tasks import Arithmetic
from scope.tasks.language import VOCABULARY, Kind


def test_the_table_is_of_these_weights_by_this_recipe() -> None:
    reported = json.loads(evaluate.RESULT.read_text())
    assert reported["recipe"] == Recipe.read([]).digest()
    assert reported["weights"] == ModelSource().fingerprint()


def test_the_tokenizer_is_the_languages() -> None:
    tokenizer = models.load(ModelSource(device="cpu")).tokenizer
    made = Arithmetic().document(0)
    ids = [VOCABULARY.index(token) for token, _ in (*made.prompt, *made.generation)]
    written = tokenizer.decode(ids, skip_special_tokens=True)
    assert tokenizer(written).input_ids == ids[:-1]  # all but the end


def test_fresh_prompts_are_answered_as_the_table_says() -> None:
    """On prompts of a seed that neither the table nor training drew."""
    task = Arithmetic(prompts=4, seed=2)
    marks = evaluate.mark(models.load(ModelSource(device="cpu")), task)
    right, asked = sum(map(sum, marks)), sum(map(len, marks))
    assert asked == 4 * task.questions
    assert right / asked > 0.9  # at 0.95 a question, less than 1 in 100 draws of 96 have fewer


def test_every_row_of_a_batch_asks_something_that_can_be_known() -> None:
    stage = Stage("all", 4096, {}, (4, 8), (2, 8))
    for kind in ("copy", "turn", "lookup", "equations", "document"):
        ids, kinds = batch(random.Random(1), kind, 5, stage, 2048)
        assert ids.shape == kinds.shape
        assert ids.numel() <= 2048
        assert ((kinds != Kind.GIVEN) & (ids != 0)).any(dim=1).all()


def shrunk(*settings: str) -> Recipe:
    return Recipe.read(
        [
            "workers=1",
            "tokens=30000",
            "model.hidden_size=16",
            "model.intermediate_size=16",
            "model.num_hidden_layers=1",
            "model.num_attention_heads=2",
            "model.num_key_value_heads=1",
            "model.head_dim=8",
            *settings,
        ]
    )


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    train.work(0, shrunk(), whole)

    saved = torch.save
    saves = 0

    def dies(state: object, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            raise KeyboardInterrupt
        saved(state, path)

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        train.work(0, shrunk(), killed)
    torch.distributed.destroy_process_group()
    monkeypatch.setattr(torch, "save", saved)
    (killed / "rendezvous").unlink(missing_ok=True)
    train.work(0, shrunk(), killed)

    first, second = (torch.load(folder / "final.pt", weights_only=True) for folder in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in (whole, killed)]
    timeless = [[{k: v for k, v in json.loads(line).items() if k != "minutes"} for line in log] for log in logs]
    assert timeless[0] == timeless[1]
