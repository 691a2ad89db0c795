"""Prefill methods: what of the prompt stays. One method, one file."""

from scope.prefill.budget import PrefillMethod
from scope.prefill.full import Full
from scope.prefill.h2o import H2O
from scope.prefill.pyramidinfer import PyramidInfer
from scope.prefill.pyramidkv import PyramidKV
from scope.prefill.random import Random
from scope.prefill.recent import Recent
from scope.prefill.snapkv import SnapKV
from scope.prefill.streamingllm import StreamingLLM

__all__ = [
    "H2O",
    "Full",
    "PrefillMethod",
    "PyramidInfer",
    "PyramidKV",
    "Random",
    "Recent",
    "SnapKV",
    "StreamingLLM",
]
