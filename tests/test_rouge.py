"""ROUGE by hand on short texts."""

import sys

import pytest

from scope.scoring import rouge
from scope.util.errors import ScopeError

pytest.importorskip("rouge_score", reason="rouge-score is not installed")


def test_rouge_by_hand() -> None:
    """3 of 4 words in common with 3 of 3; pairs: 1 of 3 with 1 of 2; in order: 'the cat' + 'sat' is 3 long."""
    got = rouge.score(["the cat quietly sat"], "the cat sat")
    assert got == pytest.approx({"rouge1": 6 / 7, "rouge2": 2 / 5, "rougeL": 6 / 7, "rougeLsum": 6 / 7})


def test_order_counts_for_sequences_only() -> None:
    got = rouge.score(["one two three"], "three two one")
    assert got["rouge1"] == 1
    assert got["rouge2"] == 0
    assert got["rougeL"] == pytest.approx(1 / 3)


def test_sentences_may_change_places_for_the_summary_measure_only() -> None:
    got = rouge.score(["one two\nthree four"], "three four\none two")
    assert got["rougeL"] == pytest.approx(1 / 2)
    assert got["rougeLsum"] == 1


def test_the_best_reference_counts_and_word_forms_are_stemmed() -> None:
    assert rouge.score(["nothing alike", "cats running"], "cat runs")["rouge1"] == 1
    assert rouge.score(["a"], "") == dict.fromkeys(rouge.KINDS, 0.0)


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    rouge.scorer.cache_clear()
    with pytest.raises(ScopeError, match="pip install"):
        rouge.score(["text"], "text")
