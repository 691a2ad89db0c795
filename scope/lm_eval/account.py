"""What the caches of the requests held: the numbers beside lm-eval's own, in its results."""

from dataclasses import dataclass
from typing import Any

from scope.generation.likelihood import Likelihood
from scope.generation.rows import Generated


@dataclass
class Account:
    """Sums over the requests of one kind that went through the model, and not those that lm-eval had in its own cache.

    bytes: each request's most, of keys, values and channels. full_bytes: what transformers' own cache would hold of the
    same tokens. slots: at the end, of all layers. cut: prompts that lost their beginning, since they were too long.
    """

    requests: int = 0
    bytes: int = 0
    full_bytes: int = 0
    slots: int = 0
    full_slots: int = 0
    cut: int = 0

    def add(self, made: Generated | Likelihood) -> None:
        self.requests += 1
        self.bytes += made.cache_bytes
        self.full_bytes += made.full_cache_bytes
        self.slots += sum(made.slots_kept)
        self.full_slots += sum(made.slots_full)

    def told(self) -> dict[str, Any]:
        """Means over the requests, and shares of the full cache in 0..1."""
        return {
            "requests": self.requests,
            "prompts_cut": self.cut,
            "cache_bytes": round(self.bytes / max(1, self.requests)),
            "full_cache_bytes": round(self.full_bytes / max(1, self.requests)),
            "share_of_bytes": round(self.bytes / max(1, self.full_bytes), 4),
            "share_of_slots": round(self.slots / max(1, self.full_slots), 4),
        }

    def __str__(self) -> str:
        told = self.told()
        held, full = (f"{told[name] / 2**20:.2f} MiB" for name in ("cache_bytes", "full_cache_bytes"))
        return f"{self.requests} requests: the cache held {held} of {full} ({told['share_of_bytes']:.0%})"
