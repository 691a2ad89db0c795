"""Decoding strategies: which slots stay while the answer is generated. Each strategy is one file."""

from scope.decoding.accumulated_h2o import AccumulatedH2O
from scope.decoding.adaptive import Adaptive
from scope.decoding.ams import AMS
from scope.decoding.discontinuous import Discontinuous
from scope.decoding.distinct import Distinct
from scope.decoding.diverse import Diverse
from scope.decoding.eviction import DecodingStrategy
from scope.decoding.expected_attention import ExpectedAttention
from scope.decoding.g_kv import GKV
from scope.decoding.h2o import H2O
from scope.decoding.keydiff import KeyDiff
from scope.decoding.knorm import KNorm
from scope.decoding.lazyeviction import LazyEviction
from scope.decoding.morphkv import MorphKV
from scope.decoding.none import KeepAll
from scope.decoding.pyramidinfer import PyramidInfer
from scope.decoding.r_kv import RKV
from scope.decoding.raas import RaaS
from scope.decoding.random import Random
from scope.decoding.recent import Recent
from scope.decoding.salient import Salient
from scope.decoding.slide import Slide
from scope.decoding.snapkv_d import SnapKVD
from scope.decoding.streamingllm import StreamingLLM
from scope.decoding.tova import TOVA
from scope.decoding.triattention import TriAttention
from scope.decoding.vase import VASE

__all__ = [
    "AMS",
    "GKV",
    "H2O",
    "RKV",
    "TOVA",
    "VASE",
    "AccumulatedH2O",
    "Adaptive",
    "DecodingStrategy",
    "Discontinuous",
    "Distinct",
    "Diverse",
    "ExpectedAttention",
    "KNorm",
    "KeepAll",
    "KeyDiff",
    "LazyEviction",
    "MorphKV",
    "PyramidInfer",
    "RaaS",
    "Random",
    "Recent",
    "Salient",
    "Slide",
    "SnapKVD",
    "StreamingLLM",
    "TriAttention",
]
