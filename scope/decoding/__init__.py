"""Decoding strategies: what stays while the answer is written. One strategy, one file."""

from scope.decoding.adaptive import Adaptive
from scope.decoding.discontinuous import Discontinuous
from scope.decoding.eviction import DecodingStrategy
from scope.decoding.h2o import H2O
from scope.decoding.none import KeepAll
from scope.decoding.pyramidinfer import PyramidInfer
from scope.decoding.random import Random
from scope.decoding.recent import Recent
from scope.decoding.slide import Slide
from scope.decoding.streamingllm import StreamingLLM

__all__ = [
    "H2O",
    "Adaptive",
    "DecodingStrategy",
    "Discontinuous",
    "KeepAll",
    "PyramidInfer",
    "Random",
    "Recent",
    "Slide",
    "StreamingLLM",
]
