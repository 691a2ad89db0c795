"""Prefill methods: which slots of the prompt stay. Each method is one file."""

from scope.prefill.budget import PrefillMethod
from scope.prefill.distinct import Distinct
from scope.prefill.entropy import Entropy
from scope.prefill.full import Full
from scope.prefill.h2o import H2O
from scope.prefill.keydiff import KeyDiff
from scope.prefill.knorm import KNorm
from scope.prefill.kvpress import KVPress
from scope.prefill.pyramidinfer import PyramidInfer
from scope.prefill.pyramidkv import PyramidKV
from scope.prefill.r_kv import RKV
from scope.prefill.random import Random
from scope.prefill.recent import Recent
from scope.prefill.salient import Salient
from scope.prefill.snapkv import SnapKV
from scope.prefill.streamingllm import StreamingLLM
from scope.prefill.tova import TOVA

__all__ = [
    "H2O",
    "RKV",
    "TOVA",
    "Distinct",
    "Entropy",
    "Full",
    "KNorm",
    "KVPress",
    "KeyDiff",
    "PrefillMethod",
    "PyramidInfer",
    "PyramidKV",
    "Random",
    "Recent",
    "Salient",
    "SnapKV",
    "StreamingLLM",
]
