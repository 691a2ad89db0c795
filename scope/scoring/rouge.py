"""ROUGE (Lin 2004) of a summary, by the rouge-score package."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from scope.util.errors import ScopeError

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@cache
def scorer() -> Any:
    """The ROUGE scorer. Raises ScopeError if the package is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ScopeError("ROUGE needs: pip install -e '.[data]'") from error
    return RougeScorer(list(KINDS), use_stemmer=True)


def score(references: Sequence[str], summary: str) -> dict[str, float]:
    """The F scores of ROUGE-1, 2, L and Lsum, each in 0..1: the best over the references.

    For Lsum, each line is a sentence. Raises ScopeError if the package is not installed.
    """
    found = scorer().score_multi(list(references), summary)
    return {kind: float(found[kind].fmeasure) for kind in KINDS}
