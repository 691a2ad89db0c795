"""recent: a control that keeps the newest slots."""

from dataclasses import dataclass

from scope.decoding.eviction import Eviction


@dataclass(frozen=True)
class Recent(Eviction):
    """Of the decoded slots keep the newest D. The score is age: newer slots score higher."""
