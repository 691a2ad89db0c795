"""How likely a text is with a compressed cache. Oracles: the tokens fed one by one to the same cache through the public
API, and for the full cache one plain forward of a stock model."""

import pytest
import torch
from helpers.replays import CONTINUATIONS, PROMPTS, SNAPKV
from tiny_models import tiny
from torch import Tensor

from scope import CompressedCache, Policy, Slide, prefill
from scope.decoding import H2O, KeepAll
from scope.generation.likelihood import likelihoods, of_reference
from scope.generation.replay import ReplayOptions, reference
from scope.util.errors import ScopeError

POLICIES = {
    "full": Policy(),
    "snapkv + slide": Policy(SNAPKV, Slide(9, 4)),
    "h2o + h2o": Policy(prefill.H2O(20, 4), H2O(9, 4)),
    "share": Policy(prefill.SnapKV(0.5, 4), KeepAll()),
}


@torch.inference_mode()
def one_by_one(family: str, prompt: tuple[int, ...], text: tuple[int, ...], policy: Policy) -> tuple[Tensor, Tensor]:
    """-> [T] the log-likelihood of each token of the text, and whether it is the most likely one."""
    cache = CompressedCache(tiny(family).config, policy.prefill, policy.decoding)
    logits = tiny(family)(torch.tensor([prompt]), past_key_values=cache).logits[0, -1]
    likely, greedy = [], []
    for token in text:
        likely.append(logits.log_softmax(-1)[token])
        greedy.append(logits.argmax() == token)
        logits = tiny(family)(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
    return torch.stack(likely), torch.stack(greedy)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("options", [ReplayOptions(block=5), ReplayOptions(batch_size=2, prefill_chunk=7)])
def test_texts_are_as_likely_as_token_by_token(family: str, policy: Policy, options: ReplayOptions) -> None:
    made = dict(likelihoods(tiny(family), PROMPTS, CONTINUATIONS, policy, options))
    assert sorted(made) == list(range(len(PROMPTS)))
    for i, (prompt, text) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
        likely, greedy = one_by_one(family, tuple(prompt), tuple(text), policy)
        torch.testing.assert_close(made[i].log_likelihood, likely, rtol=1e-9, atol=1e-9)
        assert made[i].recalls.tolist() == greedy.tolist()


def test_a_plain_forward_would_show_no_cost_of_compression() -> None:
    """With the full cache both are equal. Compressed, the first token is, and later ones are not."""
    read = of_reference(tiny(), reference(tiny(), PROMPTS, CONTINUATIONS), block=4)
    full = dict(likelihoods(tiny(), PROMPTS, CONTINUATIONS, Policy()))
    compressed = dict(likelihoods(tiny(), PROMPTS, CONTINUATIONS, POLICIES["snapkv + slide"]))
    for i, (prompt, text) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
        with torch.inference_mode():
            logits = tiny("llama", "sdpa")(torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
        plain = logits.log_softmax(-1).gather(-1, torch.tensor(text)[:, None])[:, 0]
        torch.testing.assert_close(read[i][0], plain, rtol=1e-9, atol=1e-9)
        assert read[i][1].tolist() == [int(row.argmax()) == token for row, token in zip(logits, text, strict=True)]
        torch.testing.assert_close(full[i].log_likelihood, plain, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(compressed[i].log_likelihood[0], plain[0], rtol=1e-9, atol=1e-9)
        assert float((compressed[i].log_likelihood - plain)[1:].abs().max()) > 1e-3
        assert compressed[i].cache_bytes < compressed[i].full_cache_bytes


@pytest.mark.parametrize(("size", "reads"), [(1, 2), (2, 1), (None, 1)])
def test_a_prompt_of_several_texts_is_read_once(size: int | None, reads: int) -> None:
    """Two prompts of three texts each, which come mixed: read alone are two passes, and together one."""
    prompts = [PROMPTS[i] for i in (0, 1, 0, 1, 1, 0)]
    texts = [CONTINUATIONS[0][:n] for n in (1, 5, 3, 2, 1, 4)]
    lengths: list[int] = []
    hook = tiny().model.layers[0].register_forward_hook(lambda _, given, __: lengths.append(given[0].shape[1]))
    try:
        made = dict(likelihoods(tiny(), prompts, texts, POLICIES["snapkv + slide"], ReplayOptions(size)))
    finally:
        hook.remove()
    assert sum(length > 30 for length in lengths) == reads
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        likely, _ = one_by_one("llama", tuple(prompt), tuple(text), POLICIES["snapkv + slide"])
        torch.testing.assert_close(made[i].log_likelihood, likely, rtol=1e-9, atol=1e-9)


def test_what_cannot_be() -> None:
    assert not list(likelihoods(tiny(), [], [], Policy()))
    assert not of_reference(tiny(), reference(tiny(), [], []))
    with pytest.raises(ScopeError, match=r"^continuations\[0\]: has no token"):
        list(likelihoods(tiny(), [[1]], [[]], Policy()))
    with pytest.raises(ScopeError, match="there are 2 of them for 1 prompts"):
        list(likelihoods(tiny(), [[1]], [[1], [2]], Policy()))
