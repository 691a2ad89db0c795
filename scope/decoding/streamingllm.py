"""streamingllm: keep the first slots and the last while decoding (Xiao et al. 2023, arXiv 2309.17453)."""

from dataclasses import dataclass

from scope.decoding.eviction import Eviction
from scope.policy.plan import Plan


@dataclass(frozen=True)
class StreamingLLM(Eviction):
    """Of all slots keep the first C + D - recent and the last `recent`. No score is needed.

    Departure: slots keep their true positions. The paper renumbers positions within the cache.
    """

    protect: str = "nothing"

    def cut(self, head: int, size: int) -> Plan:
        return Plan(head=head + size - self.newest, best=0, tail=self.newest)
