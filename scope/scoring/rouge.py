"""ROUGE of a summary against references: how much of their words, word pairs and longest common sequences it has.

The `rouge-score` package with its Porter stemmer. Of several references the one with the best F-measure counts, for
each measure apart. `rougeLsum` takes lines as sentences.

Source: C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, ACL workshop 2004, 74-81.
"""

from collections.abc import Sequence

from scope.errors import ScopeError

MEASURES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(references: Sequence[str], summary: str) -> dict[str, float]:
    """F-measures in 0..1 under the names of `MEASURES`. ScopeError: rouge-score is not installed, or no reference."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ScopeError("ROUGE needs the package rouge-score: pip install 'scope-kv[data]'") from error
    if not references:
        raise ScopeError("a summary without a reference cannot be scored")
    scores = RougeScorer(MEASURES, use_stemmer=True).score_multi(references, summary)
    return {measure: float(scores[measure].fmeasure) for measure in MEASURES}
