"""Every prefill method with every decoding strategy on every family of models. Oracle: the numbers of slots that
METHODS.md's tables give (spelt out in `test_cache.counts`), and what no family may break: positions that exist, once
each, the newest always there, and the prompt where it is protected. The full cache and rows run alone are compared
with transformers in test_generate.py."""

import pytest
import torch
from test_cache import DECODING, PREFILL, RECENT, WHOLE, counts
from tiny_models import FAMILIES, HEADS, LAYERS, WORDS, Trace, random_prompts, tiny

from scope.generate import generate

LENGTHS = (21, 9)  # over the budget, where the pyramid is clipped; under it
TOKENS = 20


def watched(family: str, method: str, strategy: str) -> Trace:
    trace, model = Trace(), tiny(family, dtype=torch.float32)
    rows = generate(model, WORDS, random_prompts(*LENGTHS), PREFILL[method], DECODING[strategy], TOKENS, observe=trace)
    assert [len(row.tokens) for row in rows] == [TOKENS] * len(LENGTHS)
    return trace


@pytest.mark.parametrize("method", PREFILL)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_holds_its_budget(family: str, method: str) -> None:
    for strategy in DECODING:
        seen = watched(family, method, strategy).steps
        assert len(seen) == TOKENS  # the prefill, and a step for each token but the last
        for layer in range(LAYERS):
            for row, prompt in enumerate(LENGTHS):
                expected = counts(method, strategy, layer, prompt)
                for head in range(HEADS):
                    where = f"{strategy} layer {layer} row {row} head {head}"
                    times = [step[layer][row][head] for step in seen]
                    assert [len(held) for held in times] == expected[:TOKENS], where
                    start = times[0]
                    for t, held in enumerate(times[1:]):
                        length = prompt + t + 1  # of the text so far
                        assert len(set(held)) == len(held), where
                        assert held[0] >= 0, where
                        assert held[-1] == length - 1, where
                        assert set(range(max(prompt, length - RECENT), length)) <= set(held), where
                        if strategy not in WHOLE:
                            assert held[: len(start)] == start, where
