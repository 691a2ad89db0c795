"""h2o: keep the heavy hitters of the prompt (Zhang et al. 2023, arXiv 2306.14048)."""

from dataclasses import dataclass

from scope.prefill.heavy_hitters import HeavyHitters


@dataclass(frozen=True)
class H2O(HeavyHitters):
    """Keep the last `window` slots and the others that get the most attention from all queries of the prompt.

        score of slot j = sum over all queries i of a(i, j)

    a(i, j) is the attention that query i gives to slot j, averaged over the query heads that share a key/value head.
    The parameters are those of `HeavyHitters` and `Windowed`.
    Departure: the paper evicts at every token, here the whole prompt is scored once.
    """
