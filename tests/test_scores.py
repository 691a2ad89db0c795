"""Scores and the decode step's attention. Oracles: loops over rows, heads, queries and slots that spell the formulas of
METHODS.md out with `math.exp`, and torch's own scaled_dot_product_attention with the heads repeated."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scope.cache.grouped import grouped
from scope.cache.states import Plain
from scope.policy import prompt_votes, scores
from scope.policy.attention import Attention, scaled_products
from scope.policy.rule import Rule, Sight
from scope.policy.scores import age, noise, pooled, received, votes

BATCH, HEADS, GROUP, LENGTH, DIM = 3, 2, 3, 11, 8
PADDING = (0, 4, 10)  # empty columns at the left of each row: the last row is one token


def ragged_attention(sliding_window: int | None = None) -> Attention:
    lots = torch.Generator().manual_seed(3)

    def normal(heads: int) -> Tensor:
        return 2 * torch.randn(BATCH, heads, LENGTH, DIM, generator=lots, dtype=torch.float64)

    positions = torch.stack([torch.arange(LENGTH) - padding for padding in PADDING]).clamp(min=-1).int()
    return Attention(
        queries=normal(HEADS * GROUP),
        keys=normal(HEADS),
        values=normal(HEADS),
        positions=positions[:, None].expand(-1, HEADS, -1),
        query_positions=positions,
        rule=Rule(0.3, Sight(sliding_window)),
        layer=1,
    )


def naive_votes(a: Attention, last: int | None = None, causal_within: int | None = None) -> list[list[list[float]]]:
    """[row][head][column] by the book: softmax over what a query sees, summed over queries, averaged over a group."""
    result = []
    for b in range(BATCH):
        first, length = PADDING[b], LENGTH - PADDING[b]
        row = []
        for h in range(HEADS):
            total = [0.0] * LENGTH
            for query_head in range(h * GROUP, (h + 1) * GROUP):
                for q in range(length):
                    if last is not None and q < length - last:
                        continue
                    weights = {}
                    for k in range(length):
                        looks_ahead = k > q
                        if looks_ahead and causal_within is not None:  # only the last block of the mask is causal
                            looks_ahead = q >= length - causal_within and k >= length - causal_within
                        too_far = a.sliding_window is not None and k <= q - a.sliding_window
                        if not looks_ahead and not too_far:
                            dot = sum(
                                x * y
                                for x, y in zip(
                                    a.queries[b, query_head, first + q].tolist(),
                                    a.keys[b, h, first + k].tolist(),
                                    strict=True,
                                )
                            )
                            weights[k] = math.exp(dot * a.scaling)
                    for k, weight in weights.items():
                        total[first + k] += weight / sum(weights.values()) / GROUP
            row.append(total)
        result.append(row)
    return result


@pytest.fixture(params=[2, 1024])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that are looked at together."""
    monkeypatch.setitem(prompt_votes.TILE_COLUMNS, False, request.param)


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize("sliding_window", [None, 4])
@pytest.mark.parametrize("last", [None, 1, 3, 50])
def test_votes_are_the_sums_of_a_loop(last: int | None, sliding_window: int | None, block: int) -> None:
    attention = ragged_attention(sliding_window)
    expected = torch.tensor(naive_votes(attention, last))
    torch.testing.assert_close(votes(attention, last, block), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize("causal_within", [1, 3, 11])
def test_released_votes_hide_the_future_only_from_the_last_queries(causal_within: int, block: int) -> None:
    attention = ragged_attention()
    expected = torch.tensor(naive_votes(attention, causal_within=causal_within))
    torch.testing.assert_close(
        votes(attention, block=block, causal_within=causal_within), expected, atol=2e-6, rtol=2e-6
    )
    if causal_within < 11:
        assert not torch.allclose(expected, votes(attention), atol=0.1)


def test_every_query_has_one_vote_to_give() -> None:
    given = votes(ragged_attention()).sum(-1)
    for b, padding in enumerate(PADDING):
        assert given[b].tolist() == pytest.approx([LENGTH - padding] * HEADS, rel=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("tail", [1, 4])
def test_pooling_takes_each_neighbourhoods_maximum(kernel: int, tail: int) -> None:
    scores = torch.rand(2, 3, 17, generator=torch.Generator().manual_seed(0))
    result = pooled(scores, kernel, tail)
    assert result.shape == scores.shape
    for b in range(2):
        for h in range(3):
            for s in range(17 - tail):
                around = range(max(0, s - kernel // 2), min(17 - tail, s + kernel // 2 + 1))
                assert result[b, h, s] == max(float(scores[b, h, i]) for i in around)
            assert result[b, h, 17 - tail :].tolist() == [0.0] * tail


def test_age_prefers_the_newer() -> None:
    order = age(ragged_attention())[1, 0]
    assert order.argsort().tolist()[PADDING[1] :] == list(range(PADDING[1], LENGTH))


def step_attention(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one decode step: queries [B, Hq, 1, D], keys and values [B, H, S, D], visible [B, H, S]."""
    lots = torch.Generator().manual_seed(seed)
    query = torch.randn(BATCH, HEADS * GROUP, 1, DIM, generator=lots, dtype=torch.float64)
    keys, values = torch.randn(2, BATCH, HEADS, LENGTH, DIM, generator=lots, dtype=torch.float64)
    visible = torch.rand(BATCH, HEADS, LENGTH, generator=lots) < 0.6
    visible[..., 0] = True
    return query, keys, values, visible


@pytest.mark.parametrize("masked", [False, True])
def test_a_steps_attention_is_torchs_with_the_heads_repeated(masked: bool) -> None:
    query, keys, values, visible = step_attention()
    output, probabilities = grouped(query, Plain(keys), Plain(values), LENGTH, visible if masked else None, Rule(0.4))
    repeated = [x.repeat_interleave(GROUP, dim=1) for x in (keys, values, visible)]
    mask = repeated[2][:, :, None] if masked else None
    expected = F.scaled_dot_product_attention(query, repeated[0], repeated[1], attn_mask=mask, scale=0.4)
    torch.testing.assert_close(output, expected.transpose(1, 2))
    identity = torch.eye(LENGTH, dtype=torch.float64).expand(BATCH, HEADS * GROUP, -1, -1)
    shares = F.scaled_dot_product_attention(query, repeated[0], identity, attn_mask=mask, scale=0.4)
    torch.testing.assert_close(probabilities, shares.view(BATCH, HEADS, GROUP, LENGTH))


def test_low_precision_attention_keeps_its_softmax_in_float32() -> None:
    query, keys, values, visible = step_attention()
    half = [x.to(torch.bfloat16) for x in (query, keys, values)]
    output, probabilities = grouped(half[0], Plain(half[1]), Plain(half[2]), LENGTH, visible, Rule(0.4))
    assert (output.dtype, probabilities.dtype) == (torch.bfloat16, torch.float32)
    assert probabilities.sum(-1).flatten().tolist() == pytest.approx([1.0] * BATCH * HEADS * GROUP, abs=1e-6)


def test_what_a_step_gave_each_slot_is_the_mean_over_its_group() -> None:
    query, keys, values, visible = step_attention()
    _, probabilities = grouped(query, Plain(keys), Plain(values), LENGTH, visible, Rule(0.4))
    positions = torch.where(visible, torch.arange(LENGTH), -1)
    now = torch.full((BATCH, 1), LENGTH)
    prompt = torch.ones(BATCH, dtype=torch.int32)
    attention = Attention(query, keys, values, positions, now, Rule(0.4), 0, probabilities, prompt=prompt)
    expected = torch.zeros(BATCH, HEADS, LENGTH, dtype=torch.float64)
    for g in range(GROUP):
        expected += probabilities[:, :, g] / GROUP
    torch.testing.assert_close(received(attention), expected)
    by_votes = received(replace(attention, probabilities=None))  # the same, asked of the keys once more
    torch.testing.assert_close(by_votes.double(), expected, atol=1e-6, rtol=1e-5)


def noisy(seed: int = 0, layer: int = 0, now: int = 600, length: int = 500, heads: int = 4) -> Tensor:
    nothing = torch.empty(0)
    positions = torch.arange(length, dtype=torch.int32).expand(2, heads, -1)
    return noise(Attention(nothing, nothing, nothing, positions, torch.full((2, 1), now), Rule(1.0), layer), seed)


def test_noise_is_uniform() -> None:
    drawn = noisy()[0].flatten()
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    assert float(((counts - 200) ** 2 / 200).sum()) < 27.9  # chi squared, 9 degrees: exceeded once in 1000 seeds
    assert len(drawn.unique()) > 0.99 * len(drawn)


def test_noise_is_the_same_again_and_in_every_row() -> None:
    assert torch.equal(noisy(), noisy())
    assert torch.equal(noisy()[0], noisy()[1])
    assert torch.equal(noisy(length=60), noisy(length=500)[..., :60])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"seed": 1}),
        ({}, {"layer": 1}),
        ({}, {"now": 601}),
        ({"seed": 1}, {"layer": 1}),
        ({"layer": 1}, {"now": 601}),
    ],
    ids=lambda settings: "-".join(settings) or "none",
)
def test_noise_is_unrelated_where_anything_differs(one: dict[str, int], other: dict[str, int]) -> None:
    pair = torch.stack([noisy(**one)[0].flatten(), noisy(**other)[0].flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.1


def test_noise_is_unrelated_between_heads_and_between_neighbours() -> None:
    drawn = noisy()[0]
    assert float((torch.corrcoef(drawn) - torch.eye(4)).abs().max()) < 0.2
    assert abs(float(torch.corrcoef(torch.stack([drawn[0, 1:], drawn[0, :-1]]))[0, 1])) < 0.15


@pytest.mark.parametrize("scaling", [0.125, 128**-0.5])
def test_float16_holds_what_large_queries_and_keys_give(scaling: float) -> None:
    """Unscaled, their products pass 65504, and everything that follows is not a number."""
    lots = torch.Generator().manual_seed(0)
    states = 30 * torch.randn(2, 1, 4, 128, generator=lots)
    wide = scaled_products(states, states, scaling)
    assert states.half().square().sum(-1, dtype=torch.float32).max() > 65504
    torch.testing.assert_close(scaled_products(states.half(), states.half(), scaling), wide, atol=8, rtol=5e-3)
    exact = (states @ states.transpose(-1, -2)) * scaling
    torch.testing.assert_close(wide, exact, atol=1e-3, rtol=1e-6)


def test_a_query_that_sees_nothing_has_no_votes() -> None:
    a = ragged_attention()
    asked = torch.stack([torch.zeros(BATCH, dtype=torch.int32), a.query_positions[:, -1]], -1)
    without_first = a.positions.masked_fill(a.positions == 0, -1)
    prompt = torch.zeros(BATCH, dtype=torch.int32)
    older = replace(a, queries=a.queries[:, :, -2:], query_positions=asked, positions=without_first, prompt=prompt)
    assert scores.looks(older)[:2, :, :, 0].eq(0).all()
    torch.testing.assert_close(votes(older)[:2].sum(-1), torch.ones(2, HEADS))
    assert not votes(older)[:2][(without_first < 0)[:2]].any()
