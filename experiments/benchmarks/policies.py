"""The policies that are compared, by name, and the bytes that scope predicts for them."""

from transformers import PretrainedConfig

from scope import decoding, prefill
from scope.cache import Policy, sizes


def methods(budget: int, window: int) -> dict[str, prefill.PrefillMethod]:
    """The prefill methods by name. budget: C, in slots. entropy is left out: it needs statistics of a model."""
    return {
        "full": prefill.Full(),
        "streamingllm": prefill.StreamingLLM(budget),
        "recent": prefill.Recent(budget, window),
        "random": prefill.Random(budget, window),
        "snapkv": prefill.SnapKV(budget, window),
        "pyramidkv": prefill.PyramidKV(budget, window),
        "h2o": prefill.H2O(budget, window),
        "pyramidinfer": prefill.PyramidInfer(budget, window),
        "tova": prefill.TOVA(budget, window),
        "knorm": prefill.KNorm(budget, window),
        "keydiff": prefill.KeyDiff(budget, window),
        "distinct": prefill.Distinct(budget, window),
        "salient": prefill.Salient(budget, window),
        "r_kv": prefill.RKV(budget, window),
    }


def strategies(budget: int, recent: int, tokens: int) -> dict[str, decoding.DecodingStrategy]:
    """The paper's decoding strategies. budget: D, in slots. tokens: T, over which a growing budget grows."""
    return {
        "slide": decoding.Slide(budget, recent),
        "adaptive": decoding.Adaptive(budget, recent, tokens=tokens),
        "discontinuous": decoding.Discontinuous(budget, recent, tokens=tokens),
        "h2o": decoding.H2O(budget, recent),
        "pyramidinfer": decoding.PyramidInfer(budget, recent),
        "streamingllm": decoding.StreamingLLM(budget, recent),
    }


def row_bytes(config: PretrainedConfig, dtype: str, policy: Policy, prompt: int, tokens: int) -> tuple[int, int]:
    """(bytes of a row's cache, bytes of its prefill), as engine.batch_size=auto counts them."""
    return (
        sizes.cache_bytes(config, policy, dtype, prompt, tokens),
        sizes.prefill_bytes(config, policy, dtype, prompt, prompt),
    )
