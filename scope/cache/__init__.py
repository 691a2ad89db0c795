"""The cache: the only writer of keys, values and positions."""

from scope.cache.compressed import CompressedCache
from scope.cache.policy import Policy
from scope.cache.sizes import with_most_slots
from scope.cache.storage import Layout

__all__ = ["CompressedCache", "Layout", "Policy", "with_most_slots"]
