"""ROUGE (Lin 2004) of a summary, by the rouge-score package."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from scope.util.errors import ScopeError

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@cache
def scorer() -> Any:
    """Raises ScopeError where the package is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ScopeError("ROUGE needs: pip install 'scope-kv[data]'") from error
    return RougeScorer(list(KINDS), use_stemmer=True)


def score(references: Sequence[str], summary: str) -> dict[str, float]:
    """F of ROUGE-1, 2, L and Lsum (lines are its sentences), in 0..1: for each the best over the references."""
    found = scorer().score_multi(list(references), summary)
    return {kind: float(found[kind].fmeasure) for kind in KINDS}
