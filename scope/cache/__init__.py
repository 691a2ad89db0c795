"""The cache: the only writer of keys, values and positions."""

from scope.cache.compressed import CompressedCache

__all__ = ["CompressedCache"]
