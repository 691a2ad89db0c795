"""Soft caps, sinks and chunks: what steps and scores make of a layer's rule. Oracle: the formulas, slot by slot."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from scope.cache.ahead import Ahead
from scope.cache.by_head import ByHead
from scope.cache.masks import require_causal
from scope.cache.slots import Slots
from scope.cache.storage import Kept
from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.rule import Rule, Sight
from scope.prefill import H2O
from scope.util.errors import ScopeError

BATCH, HEADS, GROUP, DIM, LENGTH, SCALING = 2, 2, 3, 8, 13, 0.4
PADDING = (0, 4)
SINKS = torch.linspace(-1, 2, HEADS * GROUP)
RULES = {
    "cap": Rule(SCALING, softcap=1.5),
    "sinks": Rule(SCALING, sinks=SINKS),
    "chunks": Rule(SCALING, Sight(4, chunked=True)),
    "all": Rule(SCALING, Sight(4, chunked=True), 1.5, SINKS),
    "sliding": Rule(SCALING, Sight(4), 1.5, SINKS),
}


def drawn(*shape: int) -> Tensor:
    lots = torch.Generator().manual_seed(sum(shape))
    return 2 * torch.randn(*shape, generator=lots)


@dataclass(frozen=True)
class Book:
    """What the formulas say of one rule."""

    rule: Rule

    def sees(self, query: int, slot: int) -> bool:
        window, chunked = self.rule.sight.window, self.rule.sight.chunked
        if slot < 0 or slot > query:
            return False
        if window is None:
            return True
        return query // window == slot // window if chunked else query - slot < window

    def weights(self, query: Tensor, head: int, keys: Tensor, at: int, positions: list[int]) -> list[float]:
        """Of one query of this query head, at a position: the probability of each slot."""
        parts = []
        for key, position in zip(keys.tolist(), positions, strict=True):
            logit = SCALING * sum(a * b for a, b in zip(query.tolist(), key, strict=True))
            if self.rule.softcap:
                logit = self.rule.softcap * math.tanh(logit / self.rule.softcap)
            parts.append(math.exp(logit) if self.sees(at, position) else 0.0)
        sink = 0.0 if self.rule.sinks is None else math.exp(float(self.rule.sinks[head]))
        return [part / (sum(parts) + sink) for part in parts]


def prompts(rule: Rule) -> Attention:
    positions = torch.stack([torch.arange(LENGTH) - padding for padding in PADDING]).clamp(min=-1)
    by_head = positions[:, None].expand(-1, HEADS, -1)
    queries, keys = drawn(BATCH, HEADS * GROUP, LENGTH, DIM), drawn(BATCH, HEADS, LENGTH, DIM)
    return Attention(queries, keys, keys, by_head, positions, rule, 0)


@pytest.mark.parametrize("name", RULES)
def test_votes_over_a_prompt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles that are smaller than the prompt, so that parts of a softmax are joined."""
    monkeypatch.setattr("scope.policy.prompt_votes.TILE_COLUMNS", {False: 5})
    attention, book = prompts(RULES[name]), Book(RULES[name])
    found, means = scores.votes(attention, block=3), H2O(4, 2, votes="mean").score(attention)
    for b, padding in enumerate(PADDING):
        for h in range(HEADS):
            sums, seen_by = [0.0] * LENGTH, [0] * LENGTH
            for q in range(padding, LENGTH):
                places = attention.positions[b, h].tolist()
                for head in range(h * GROUP, h * GROUP + GROUP):
                    given = book.weights(attention.queries[b, head, q], head, attention.keys[b, h], places[q], places)
                    sums = [total + share / GROUP for total, share in zip(sums, given, strict=True)]
                seen_by = [n + book.sees(places[q], place) for n, place in zip(seen_by, places, strict=True)]
            assert found[b, h].tolist() == pytest.approx(sums, abs=1e-5)
            averages = [total / n for total, n in zip(sums[padding:], seen_by[padding:], strict=True)]
            assert means[b, h, padding:].tolist() == pytest.approx(averages, abs=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_what_several_queries_of_a_step_give(name: str) -> None:
    rule, book, asked = RULES[name], Book(RULES[name]), 3
    positions = torch.randint(-1, LENGTH, (BATCH, HEADS, 9), generator=torch.Generator().manual_seed(1))
    at = torch.tensor([[LENGTH - 1, LENGTH - 2, LENGTH - 3], [9, -1, 8]])
    queries, keys = drawn(BATCH, HEADS * GROUP, asked, DIM), drawn(BATCH, HEADS, 9, DIM)
    attention = Attention(queries, keys, keys, positions, at, rule, 0, prompt=torch.ones(BATCH))
    looks, votes = scores.looks(attention), scores.votes(attention)
    for b in range(BATCH):
        for h in range(HEADS):
            total = torch.zeros(9)
            for g in range(GROUP):
                for q in range(asked):
                    head, places = h * GROUP + g, positions[b, h].tolist()
                    given = [0.0] * 9
                    if at[b, q] >= 0 and any(book.sees(int(at[b, q]), place) for place in places):
                        given = book.weights(queries[b, head, q], head, keys[b, h], int(at[b, q]), places)
                    assert looks[b, h, g, q].tolist() == pytest.approx(given, abs=1e-5)
                    total += torch.tensor(given) / GROUP
            assert votes[b, h].tolist() == pytest.approx(total.tolist(), abs=1e-5)


@pytest.mark.parametrize("by_head", [False, True], ids=["one storage", "a storage for each head"])
@pytest.mark.parametrize("name", RULES)
def test_a_steps_attention_one_by_one_and_ahead(name: str, by_head: bool) -> None:
    rule, book, steps = RULES[name], Book(RULES[name]), 3
    held, new = drawn(1, HEADS, 6, DIM), drawn(1, HEADS, steps, DIM)
    asked = drawn(1, HEADS * GROUP, steps, DIM)
    kept = Kept(held, held, torch.arange(6).expand(1, HEADS, -1), (6,), torch.tensor([5]), {}, rule.sight.window)
    for known in (False, True):
        storage = ByHead(kept, 9, False, Slots) if by_head else Slots(kept, 9)
        ahead = storage.ahead(asked, new, new, rule) if known else None
        outputs, weights = [], []
        for t in range(steps):
            storage.begin([None])
            storage.append(new[:, :, t : t + 1], new[:, :, t : t + 1])
            if ahead is None:
                output, given = storage.attend(asked[:, :, t : t + 1], rule, True)
                outputs.append(output)
            else:
                given = storage.look(ahead, rule)
            assert given is not None
            places, keys = storage.positions[0].tolist(), storage.keys[0].clone()
            weights.append((given, places, keys))
            storage.evict(None)
        output = torch.cat(outputs, 1) if ahead is None else ahead.outputs()
        for t, (given, places, keys) in enumerate(weights):
            for head in range(HEADS * GROUP):
                h, g = divmod(head, GROUP)
                expected = book.weights(asked[0, head, t], head, keys[h], 6 + t, places[h])
                assert given[0, h, g].tolist() == pytest.approx(expected, abs=1e-5)
                mixed = [sum(p * key[d] for p, key in zip(expected, keys[h].tolist(), strict=True)) for d in range(DIM)]
                assert output[0, t, head].tolist() == pytest.approx(mixed, abs=1e-5)


def test_a_mask_of_chunks_counts_them_from_the_first_token_of_each_row() -> None:
    real = torch.tensor([[True] * 9, [False] * 2 + [True] * 7])
    book = Book(Rule(1.0, Sight(4, chunked=True)))
    mask = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    for b, padding in enumerate((0, 2)):
        for q in range(9):
            for k in range(padding, q + 1):
                mask[b, 0, q, k] = book.sees(q - padding, k - padding)
    require_causal(mask, real, 9, book.rule.sight)
    for sight in (Sight(), Sight(4)):
        with pytest.raises(ScopeError, match="causal"):
            require_causal(mask, real, 9, sight)


def test_ahead_is_what_the_storage_uses() -> None:
    """Else the test above would compare steps with themselves."""
    held = drawn(1, HEADS, 6, DIM)
    kept = Kept(held, held, torch.arange(6).expand(1, HEADS, -1), (6,), torch.tensor([5]), {})
    assert isinstance(Slots(kept, 9).ahead(drawn(1, HEADS * GROUP, 2, DIM), held, held, RULES["all"]), Ahead)
