"""Every prefill method and decoding strategy on the tiny models, and how many slots each keeps. No test."""

from tiny_models import strategies

from helpers.by_hand import RECENT, WINDOW, C, D, falling
from scope import prefill
from scope.prefill import PrefillMethod

TOKENS = 28
DELTA = (TOKENS - RECENT) // (D - RECENT)

PREFILL: dict[str, PrefillMethod] = {
    "full": prefill.Full(),
    "streamingllm": prefill.StreamingLLM(C),
    "h2o": prefill.H2O(C, WINDOW),
    "snapkv": prefill.SnapKV(C, WINDOW),
    "pyramidkv": prefill.PyramidKV(C, WINDOW),
    "pyramidinfer": prefill.PyramidInfer(C, WINDOW),
    "recent": prefill.Recent(C, WINDOW),
    "random": prefill.Random(C, WINDOW),
}

DECODING = strategies(D, RECENT, TOKENS)

WHOLE = ("h2o", "streamingllm", "pyramidinfer")  # not protecting the prompt


def prefill_budget(method: str, layer: int, prompt: int) -> int:
    if method == "full":
        return prompt
    if method.startswith("pyramid") and prompt > C:
        return WINDOW + falling(layer, C - WINDOW, prompt - WINDOW)
    return C


def counts(method: str, strategy: str, layer: int, prompt: int, reach: int = 10**9) -> list[int]:
    """Slots stored after the prefill and after each step, by METHODS.md's tables; `reach`: the most seen later."""
    budget = prefill_budget(method, layer, prompt)
    left = min(prompt, budget, reach)
    now = [left]
    for t in range(TOKENS - 1):
        growing = min(D, RECENT + max(0, t - RECENT) // DELTA)
        most = {
            "none": None,
            "adaptive": left + growing,
            "discontinuous": left + growing if t % DELTA == 0 else None,
            "h2o": budget + D,
            "streamingllm": budget + D,
            "pyramidinfer": budget + RECENT + falling(layer, D - RECENT, 2 * D),
        }.get(strategy, left + D)
        now.append(min(reach, now[-1] + 1 if most is None else min(now[-1] + 1, most)))
    return now
