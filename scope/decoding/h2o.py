"""h2o: keep heavy hitters of prompt and generation alike (Zhang et al. 2023, arXiv 2306.14048)."""

from dataclasses import dataclass

from scope.decoding.slide import Slide


@dataclass(frozen=True)
class H2O(Slide):
    """Of all slots keep C + D: the `recent` last and the others that this step's query attends to most.

        score of slot j = a(t, j)

    a(t, j) is the attention of step t's query, averaged over the query heads that share a key/value head. The prompt is
    not protected.
    Departure: the paper sums attention over all steps (`AccumulatedH2O`). This is SCOPE's reading: only step t counts.
    """

    protect: str = "nothing"
