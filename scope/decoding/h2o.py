"""h2o: heavy hitters of everything, prompt and generation alike (Zhang et al. 2023, arXiv 2306.14048)."""

from dataclasses import dataclass

from scope.decoding.slide import Slide


@dataclass(frozen=True)
class H2O(Slide):
    """Of all slots keep C + D: the `recent` last, the rest by this query's attention. The prompt is not protected."""

    protect: str = "nothing"
