"""recent: a control, slide by age alone."""

from dataclasses import dataclass

from scope.decoding.eviction import Eviction


@dataclass(frozen=True)
class Recent(Eviction):
    """Of the decoded slots keep the newest D: the bare rule, whose score is age."""
