"""The rivals' scores. Oracle: the papers' formulas in loops over rows, heads, queries and slots, with `math`, on
made-up layers: tokens lie in any order, other ones in each head, rows hold fewer than there are slots, queries lack."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from golden import composed
from tiny_models import WORDS, generate, random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache.policy import Policy
from scope.cache.sizes import slot_bytes_of
from scope.decoding.eviction import Eviction
from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View
from scope.policy.rkv import redundancy
from scope.policy.rule import Rule
from scope.util.errors import CombinationError, ScopeError, SettingError

BATCH, HEADS, GROUP, SLOTS, DIM, WINDOW = 3, 2, 3, 23, 6, 4
HELD = (23, 17, 9)  # tokens stored in each row
NOW = (90, 41, 9)  # the newest token of each row
PROMPT = (60, 30, 5)
ASKED = (4, 4, 2)  # queries there are: the last row has just begun
SCALE = 0.7

Values = list[list[list[float]]]  # [row][head][slot]


def layer(window: int = WINDOW, seed: int = 0, shared: bool = False, ordered: bool = False) -> Attention:
    """A decode step; `shared`: all heads hold the same tokens, each in an order of its own; `ordered`: the queries lie
    in order, as a prompt's do.
    """
    lots = torch.Generator().manual_seed(seed)
    positions = torch.full((BATCH, HEADS, SLOTS), -1, dtype=torch.int32)
    for b in range(BATCH):
        for h in range(HEADS):
            if h == 0 or not shared:
                older = torch.randperm(NOW[b] - WINDOW + 1, generator=lots)[: HELD[b] - WINDOW]
                tokens = torch.cat([older, torch.arange(NOW[b] - WINDOW + 1, NOW[b] + 1)])
            places = torch.randperm(SLOTS, generator=lots)[: HELD[b]]
            positions[b, h, places] = tokens.int()
    keys = torch.randn(BATCH, HEADS, SLOTS, DIM, generator=lots)
    keys[:, :, ::3] = keys[:, :, :1] + 0.6 * keys[:, :, ::3]  # some of them alike
    asked = torch.tensor(NOW)[:, None] - torch.arange(window).flip(0)
    for b in range(BATCH):
        asked[b, : max(0, window - ASKED[b])] = -1
    made = Attention(
        queries=torch.randn(BATCH, HEADS * GROUP, window, DIM, generator=lots),
        keys=keys,
        values=torch.randn(BATCH, HEADS, SLOTS, DIM, generator=lots),
        positions=positions,
        query_positions=asked,
        rule=Rule(SCALE),
        layer=1,
        prompt=torch.tensor(PROMPT),
    )
    now = replace(made, queries=made.queries[:, :, -1:], query_positions=asked[:, -1:])
    turned = (torch.arange(window) + (0 if ordered else 1)) % window
    made = replace(made, queries=made.queries[:, :, turned], query_positions=asked[:, turned])
    return replace(made, probabilities=scores.looks(now)[:, :, :, 0])


def prompts() -> Attention:
    """Whole prompts, padded on the left: a query for each slot, in order."""
    a = layer(window=SLOTS, ordered=True)
    columns = (torch.arange(SLOTS) + torch.tensor(HELD)[:, None] - SLOTS).clamp(min=-1).int()
    by_head = columns[:, None].expand(-1, HEADS, -1)
    return replace(a, positions=by_head, query_positions=columns, probabilities=None, prompt=None)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def slots_of(a: Attention, b: int, h: int) -> list[int]:
    """The slots that hold something, the oldest token first."""
    return sorted((s for s in range(SLOTS) if a.positions[b, h, s] >= 0), key=lambda s: int(a.positions[b, h, s]))


def weights_of(a: Attention, b: int, query_head: int, q: int) -> dict[int, float]:
    """What one query gives each slot that it may look at; nothing where there is no such query."""
    h, asking = query_head // GROUP, int(a.query_positions[b, q])
    if asking < 0:
        return {}
    seen = [s for s in slots_of(a, b, h) if a.positions[b, h, s] <= asking]
    raised = {s: math.exp(SCALE * dot(a.queries[b, query_head, q], a.keys[b, h, s])) for s in seen}
    return {s: x / sum(raised.values()) for s, x in raised.items()}


def group(h: int) -> range:
    return range(h * GROUP, (h + 1) * GROUP)


def everything_received(a: Attention) -> dict[tuple[int, int], dict[int, float]]:
    """[row, head][slot] -> what the newest query gives it, the mean over the group."""
    found = {}
    for b in range(BATCH):
        for h in range(HEADS):
            each = [weights_of(a, b, g, a.queries.shape[2] - 1) for g in group(h)]
            found[b, h] = {s: sum(weights[s] for weights in each) / GROUP for s in each[0]}
    return found


def around(a: Attention, b: int, h: int, s: int, kernel: int, window: int) -> list[int]:
    """The slots of the `kernel` tokens around one, in order of position; the last `window` tokens take no part."""
    order = [x for x in slots_of(a, b, h) if a.positions[b, h, x] <= NOW[b] - window]
    at = order.index(s)
    return order[max(0, at - kernel // 2) : at + kernel // 2 + 1]


def check(found: Tensor, a: Attention, expected, window: int = 0, atol: float = 2e-6) -> None:
    """`expected(b, h, s)` for every slot that holds a token older than the last `window`."""
    assert found.shape == (BATCH, HEADS, SLOTS)
    assert found.dtype == torch.float32
    for b in range(BATCH):
        for h in range(HEADS):
            for s in slots_of(a, b, h):
                if a.positions[b, h, s] <= NOW[b] - window:
                    assert float(found[b, h, s]) == pytest.approx(expected(b, h, s), abs=atol), (b, h, s)


# what they share


def test_what_queries_look_at() -> None:
    a = layer()
    found = scores.looks(a)
    for b in range(BATCH):
        for g in range(HEADS * GROUP):
            for q in range(WINDOW):
                expected = weights_of(a, b, g, q)
                for s in range(SLOTS):
                    assert float(found[b, g // GROUP, g % GROUP, q, s]) == pytest.approx(expected.get(s, 0.0), abs=1e-6)


@pytest.mark.parametrize("average", [False, True])
def test_a_neighbourhood_follows_the_text_not_the_slots(average: bool) -> None:
    a = layer()
    weights = torch.where(a.positions >= 0, torch.rand(a.positions.shape), 0.0)
    found = scores.neighbourhood(weights, a.positions, 5, average)
    stacked = scores.neighbourhood(weights[:, :, None].expand(-1, -1, 2, -1), a.positions, 5, average)
    assert torch.equal(stacked[:, :, 1], found)

    def expected(b: int, h: int, s: int) -> float:
        near = [float(weights[b, h, x]) for x in around(a, b, h, s, 5, 0)]
        return sum(near) / 5 if average else max(near)

    check(found, a, expected)


# each score


@pytest.mark.parametrize("shared", [False, True])
def test_tova_takes_the_mean_over_all_heads_that_hold_the_token(shared: bool) -> None:
    a = layer(window=1, shared=shared)

    def expected(b: int, h: int, s: int) -> float:
        token, total = int(a.positions[b, h, s]), 0.0
        for g in range(HEADS * GROUP):
            for other, weight in weights_of(a, b, g, 0).items():
                if a.positions[b, g // GROUP, other] == token:
                    total += weight
        return total / (HEADS * GROUP)

    found = decoding.TOVA(8, 3).score(a)
    check(found, a, expected)
    if shared:  # heads that hold the same tokens decide alike, bit for bit
        for b in range(BATCH):
            by_token = [[float(found[b, h, s]) for s in slots_of(a, b, h)] for h in range(HEADS)]
            assert by_token[0] == by_token[1]


@pytest.mark.parametrize("method", [prefill.Full(), prefill.SnapKV(8, 4)], ids=["full", "snapkv"])
@pytest.mark.parametrize(
    "policy",
    [decoding.TOVA(8, 3), decoding.TOVA(8, 3, protect="prompt"), decoding.Distinct(8, 3), decoding.KeyDiff(8, 3)],
    ids=["tova", "tova, protecting", "distinct", "keydiff"],
)
def test_what_a_step_is_told_of_its_slots_is_so(
    method: prefill.PrefillMethod, policy: Eviction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scope.cache.plans.COARSE", 1)
    told = []

    def watch(a: Attention) -> None:
        if not a.decoding:
            return
        told.append((a.front, a.alike))
        assert a.prompt is not None
        front = a.positions[..., : a.front]
        assert ((front >= 0) & (front < a.prompt[:, None, None])).all()
        if a.alike:
            given = scores.received(a)
            assert (a.positions == a.positions[:, :1]).all()
            one_by_one = scores.across_heads(given, replace(a, alike=False))
            torch.testing.assert_close(scores.across_heads(given, a).double(), one_by_one.double(), atol=1e-6, rtol=0)

    generate(tiny(), WORDS, random_prompts(30, 9, 21, 40, 12), method, policy, 20, batch_size=2, watch=watch)
    assert any(head for head, _ in told) == policy.skips_protected
    assert any(alike for _, alike in told) == (policy.heads_agree and method == prefill.Full())


def test_knorm_is_minus_the_norm() -> None:
    a = layer()
    for policy in (decoding.KNorm(8, 3), prefill.KNorm(8, 3)):
        check(policy.score(a), a, lambda b, h, s: -math.sqrt(dot(a.keys[b, h, s], a.keys[b, h, s])))


def likeness(states: Tensor, s: int, among: list[int]) -> float:
    """The cosine of one of the states [S, D] to the mean direction of some."""
    mean = [0.0] * DIM
    for x in among:
        mean = [m + float(k) / math.sqrt(dot(states[x], states[x])) for m, k in zip(mean, states[x], strict=True)]
    products = [
        sum(p * q for p, q in zip(m, n, strict=True))
        for m, n in ((states[s].tolist(), mean), (states[s].tolist(), states[s].tolist()), (mean, mean))
    ]
    return products[0] / math.sqrt(products[1] * products[2])


def test_keydiff_is_minus_the_cosine_to_the_mean_direction() -> None:
    a = layer()

    def expected(b: int, h: int, s: int) -> float:
        return -likeness(a.keys[b, h], s, slots_of(a, b, h))

    for policy in (decoding.KeyDiff(8, 3), prefill.KeyDiff(8, 3)):
        check(policy.score(a), a, expected)


@pytest.mark.parametrize("protect", ["prompt", "nothing"])
@pytest.mark.parametrize(("keys", "values"), [(1.0, 0.0), (1.0, 0.5), (0.0, 2.0), (0.7, 0.2)])
def test_distinct_is_unlike_the_region_in_key_and_value(protect: str, keys: float, values: float) -> None:
    a = layer()
    policy = decoding.Distinct(8, 3, protect=protect, keys=keys, values=values)
    assert (policy.queries, policy.period, policy.channels) == (1, 1, ())

    def expected(b: int, h: int, s: int) -> float:
        among = [x for x in slots_of(a, b, h) if protect == "nothing" or a.positions[b, h, x] >= PROMPT[b]]
        return -keys * likeness(a.keys[b, h], s, among) - values * likeness(a.values[b, h], s, among)

    check(policy.score(a), a, expected)
    if protect == "nothing":  # as over a whole prompt
        check(prefill.Distinct(8, 3, keys=keys, values=values).score(a), a, expected)


def test_snapkv_d_pools_the_last_queries_votes() -> None:
    a = layer()
    policy = decoding.SnapKVD(8, 5, window=WINDOW, kernel=7)
    assert (policy.queries, policy.period) == (WINDOW, 128)
    votes = {}
    for b in range(BATCH):
        for g in range(HEADS * GROUP):
            for q in range(WINDOW):
                for s, weight in weights_of(a, b, g, q).items():
                    votes[b, g // GROUP, s] = votes.get((b, g // GROUP, s), 0.0) + weight / GROUP
    check(policy.score(a), a, lambda b, h, s: max(votes[b, h, x] for x in around(a, b, h, s, 7, WINDOW)), WINDOW)


@pytest.mark.parametrize("fusion", ["sum", "max"])
def test_morphkv_fuses_the_recent_queries_attention(fusion: str) -> None:
    a = layer()
    policy = decoding.MorphKV(8, recent=WINDOW, fusion=fusion)
    assert policy.queries == WINDOW

    def expected(b: int, h: int, s: int) -> float:
        each = [sum(weights_of(a, b, g, q).get(s, 0.0) for g in group(h)) / GROUP for q in range(WINDOW)]
        return sum(each) if fusion == "sum" else max(each)

    check(policy.score(a), a, expected)


def naive_r_kv(a: Attention, balance: float, kernel: int, threshold: float):
    """[b, h, s] -> balance * I - (1 - balance) * R, and the whole of R."""

    weights = {
        (b, g, q): weights_of(a, b, g, q) for b in range(BATCH) for g in range(HEADS * GROUP) for q in range(WINDOW)
    }

    def importance(b: int, h: int, s: int) -> float:
        total, near = 0.0, around(a, b, h, s, kernel, WINDOW)
        for q in range(WINDOW):
            total += max(weights[b, g, q].get(x, 0.0) for g in group(h) for x in near)
        return total / ASKED[b]

    redundancy: dict[tuple[int, int], dict[int, float]] = {}
    for b in range(BATCH):
        for h in range(HEADS):
            there = slots_of(a, b, h)
            mean = dict.fromkeys(there, 0.0)
            for i in there:
                alike = {}
                for j in there:
                    x, y = a.keys[b, h, i], a.keys[b, h, j]
                    cosine = dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))
                    if i != j and cosine > threshold:
                        alike[j] = cosine
                if alike:
                    del alike[max(alike, key=lambda j: int(a.positions[b, h, j]))]
                for j, cosine in alike.items():
                    mean[j] += cosine / len(there)
            total = sum(math.exp(m) for m in mean.values())
            redundancy[b, h] = {s: math.exp(m) / total for s, m in mean.items()}
    return lambda b, h, s: balance * importance(b, h, s) - (1 - balance) * redundancy[b, h][s], redundancy


@pytest.mark.parametrize("block", [5, 256])
def test_redundancy_spares_the_newest_of_those_alike(block: int) -> None:
    a = layer()
    _, expected = naive_r_kv(a, 0.1, 3, 0.5)
    check(redundancy(a, 0.5, block), a, lambda b, h, s: expected[b, h][s])
    assert any(len({round(x, 6) for x in row.values()}) > 3 for row in expected.values())  # not all alike


@pytest.mark.parametrize("balance", [0.1, 0.6])
def test_r_kv_weighs_importance_against_redundancy(balance: float) -> None:
    a = layer(ordered=True)
    policy = decoding.RKV(8, 5, window=WINDOW, kernel=3, balance=balance)
    assert (policy.queries, policy.period) == (WINDOW, 128)
    expected = naive_r_kv(a, balance, 3, 0.5)[0]
    check(policy.score(a), a, expected, WINDOW)
    turned = replace(a, queries=a.queries.roll(1, 2), query_positions=a.query_positions.roll(1, 1))
    check(policy.score(turned), a, expected, WINDOW)
    longer = torch.cat([torch.randn(BATCH, HEADS * GROUP, 9, DIM), a.queries], 2)  # a prompt has more queries
    older = a.query_positions[:, :1].clamp(max=0).expand(-1, 9)  # a row that lacks queries has no older ones either
    asked = torch.cat([older, a.query_positions], 1)
    prompt = replace(a, queries=longer, query_positions=asked, probabilities=None)
    at_once = prefill.RKV(8, window=WINDOW, kernel=3, balance=balance).score(prompt)
    check(at_once, a, expected, WINDOW)


def test_prefill_tova_asks_the_last_query_for_all_heads() -> None:
    a = layer(shared=True, ordered=True)
    a = replace(a, positions=a.positions[:, :1].expand(-1, HEADS, -1), probabilities=None)
    found = prefill.TOVA(8, 3).score(a)
    last = WINDOW - 1
    check(
        found,
        a,
        lambda b, h, s: sum(weights_of(a, b, g, last).get(s, 0.0) for g in range(HEADS * GROUP)) / (HEADS * GROUP),
    )
    assert torch.equal(found[:, 0], found[:, 1])


# those that remember


def lives(policy: decoding.DecodingStrategy, steps: int = 12) -> list[Attention]:
    """The same layer at several steps, with other queries, its channels carried on."""
    a = layer(window=1)
    channels = {name: torch.zeros(BATCH, HEADS, SLOTS) for name in policy.channels}
    seen = []
    for t in range(steps):
        later = layer(window=1, seed=0)
        lots = torch.Generator().manual_seed(100 + t)
        queries = 3 * torch.randn(later.queries.shape, generator=lots)
        now = replace(a, queries=queries, query_positions=a.query_positions + t, probabilities=None)
        now = replace(now, probabilities=scores.looks(now)[:, :, :, 0], channels=channels)
        before = {name: values.clone() for name, values in channels.items()}
        channels = dict(policy.observe(now))
        assert set(channels) == set(policy.channels)
        assert all(torch.equal(before[name], now.channels[name]) for name in before)  # observing changes nothing
        seen.append(replace(now, channels=channels))
    return seen


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_accumulated_h2o_adds_votes_up(decay: float) -> None:
    policy = decoding.AccumulatedH2O(8, 3, decay=decay)
    seen = lives(policy)
    gets, last = [everything_received(x) for x in seen], len(seen) - 1
    check(
        policy.score(seen[-1]),
        seen[-1],
        lambda b, h, s: sum(x[b, h][s] * decay ** (last - t) for t, x in enumerate(gets)),
        atol=1e-5,
    )


def test_accumulated_h2o_begins_with_the_prompts_votes() -> None:
    a = prompts()
    a = replace(a, channels={"votes": torch.zeros(a.positions.shape)})
    begun = decoding.AccumulatedH2O(8, 3).observe(a)["votes"]
    for b in range(BATCH):
        for h in range(HEADS):
            total = dict.fromkeys(slots_of(a, b, h), 0.0)
            for g in group(h):
                for q in range(SLOTS):
                    for s, weight in weights_of(a, b, g, q).items():
                        total[s] += weight / GROUP
            for s, expected in total.items():
                assert float(begun[b, h, s]) == pytest.approx(expected, abs=1e-5)
    half = decoding.AccumulatedH2O(8, 3, decay=0.5).observe(a)["votes"]
    assert torch.equal(half, scores.votes(a, last=2))


@pytest.mark.parametrize("policy", [decoding.RaaS(8, 3), decoding.LazyEviction(8, 3)])
def test_the_others_have_nothing_to_say_of_a_prompt(policy: decoding.DecodingStrategy) -> None:
    nothing = {name: torch.zeros(BATCH, HEADS, SLOTS) for name in policy.channels}
    assert policy.observe(replace(prompts(), channels=nothing)) == nothing


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_raas_sets_the_clocks_of_what_is_looked_at(threshold: float | None) -> None:
    policy = decoding.RaaS(8, 3, share=0.3, threshold=threshold)
    assert policy.protect == "prompt"
    seen = lives(policy)
    gets = [everything_received(x) for x in seen]

    def expected(b: int, h: int, s: int) -> float:
        clock = 0
        for t, x in enumerate(gets):
            each = x[b, h]
            if threshold is None:
                ranking = sorted(each, key=lambda slot: -each[slot])
                high = s in ranking[: math.ceil(0.3 * len(each))]
            else:
                high = each[s] >= threshold
            if high or int(seen[0].positions[b, h, s]) == NOW[b] + t:
                clock = NOW[b] + t
        return clock

    check(policy.score(seen[-1]), seen[-1], expected)
    assert len(policy.score(seen[-1]).unique()) > 6


def test_raas_starts_a_clock_at_birth_and_sets_none_for_nothing() -> None:
    policy = decoding.RaaS(8, 3, share=1.0)
    channels = {"clock": torch.full((BATCH, HEADS, SLOTS), 7.0)}
    a = replace(layer(window=1), probabilities=torch.zeros(BATCH, HEADS, GROUP, SLOTS), channels=channels)
    clock = policy.observe(a)["clock"]
    for b in range(BATCH):
        for h in range(HEADS):
            for s in slots_of(a, b, h):
                assert clock[b, h, s] == (NOW[b] if a.positions[b, h, s] == NOW[b] else 7)


def test_lazyeviction_weighs_the_wait_by_the_longest_one_before() -> None:
    policy = decoding.LazyEviction(8, 3, threshold=0.1)
    assert policy.period == 3
    seen = lives(policy)
    gets = [everything_received(x) for x in seen]

    def expected(b: int, h: int, s: int) -> float:
        last, longest = int(seen[0].positions[b, h, s]), 0
        for t, x in enumerate(gets):
            if x[b, h][s] > 0.1:
                longest, last = max(longest, NOW[b] + t - last), NOW[b] + t
        waited = NOW[b] + len(seen) - 1 - last
        if longest == 0:
            return 1.0 if waited == 0 else 0.0
        return 2 / (1 + math.exp(waited / longest)) + 2 / (1 + math.exp(1 / longest))

    check(policy.score(seen[-1]), seen[-1], expected)
    assert len(policy.score(seen[-1]).unique()) > 6


# the lottery


def vase(**settings) -> decoding.VASE:
    return decoding.VASE(10, recent=WINDOW, sinks=2, anchors=3, kernel=3, **settings)


@pytest.mark.parametrize("protect", ["nothing", "prompt"])
def test_vase_keeps_sinks_and_the_widest_values_first(protect: str) -> None:
    a = layer()
    policy = vase(protect=protect)
    assert (policy.queries, policy.period) == (WINDOW, 64)
    found = policy.score(a)
    for b in range(BATCH):
        for h in range(HEADS):
            may_go = [
                s
                for s in slots_of(a, b, h)
                if a.positions[b, h, s] <= NOW[b] - WINDOW
                and (protect == "nothing" or a.positions[b, h, s] >= PROMPT[b])
            ]
            sinks = [s for s in may_go if a.positions[b, h, s] < 2]
            width = {s: max(a.values[b, h, s].tolist()) - min(a.values[b, h, s].tolist()) for s in may_go}
            widest = sorted(may_go, key=lambda s: -width[s])
            first = sinks + [s for s in widest[:3] if s not in sinks]
            assert sorted(may_go, key=lambda s: -float(found[b, h, s]))[: len(first)] == first


def test_vase_takes_the_newest_of_equal_values() -> None:
    a = layer()
    a = replace(a, values=torch.ones_like(a.values).cumsum(-1))
    found = vase().score(a)
    for b in range(BATCH):
        for h in range(HEADS):
            may_go = [s for s in slots_of(a, b, h) if 2 <= a.positions[b, h, s] <= NOW[b] - WINDOW]
            newest_first = sorted(may_go, key=lambda s: -int(a.positions[b, h, s]))
            assert len(may_go) >= 3
            assert sorted(may_go, key=lambda s: -float(found[b, h, s]))[:3] == newest_first[:3]


@pytest.mark.parametrize("protect", ["nothing", "prompt"])
def test_what_may_go_begins_with_the_first_decoded_token_and_ends_before_the_recent(protect: str) -> None:
    a = layer()
    positions = a.positions.clone()
    for b in range(BATCH):
        for h in range(HEADS):
            if PROMPT[b] not in positions[b, h]:
                positions[b, h, slots_of(a, b, h)[0]] = PROMPT[b]
    found = vase(protect=protect).evictable(replace(a, positions=positions))
    for b in range(BATCH):
        first = PROMPT[b] if protect == "prompt" else 0
        told = [[first <= p <= NOW[b] - WINDOW for p in head] for head in positions[b].tolist()]
        assert found[b].tolist() == told


@pytest.mark.parametrize("age", [WINDOW, WINDOW + 1, WINDOW - 1])
def test_vase_counts_the_attention_of_all_but_the_recent_tokens(age: int) -> None:
    """Scores are differences of logarithms, so that the lots, the same in both layers, drop out."""
    policy = decoding.VASE(10, recent=WINDOW, sinks=0, anchors=0, kernel=1)
    a = layer(shared=True)
    for b in range(2):
        for h in range(HEADS):
            token, other = slots_of(a, b, h)[-1], slots_of(a, b, h)[0]
            positions = a.positions.clone()
            moved = next((s for s in slots_of(a, b, h) if positions[b, h, s] == NOW[b] - age), slots_of(a, b, h)[-5])
            positions[b, h, moved] = NOW[b] - age
            token, other = moved, next(s for s in slots_of(a, b, h) if positions[b, h, s] < NOW[b] - 2 * WINDOW)
            before = replace(a, positions=positions)
            keys = a.keys.clone()
            keys[b, h, token] = 2 * keys[b, h, token] + 0.3
            after = replace(before, keys=keys)
            said, told = [], []
            for made in (before, after):
                found = policy.score(made)[b, h]
                said.append(float(found[token] - found[other]))
                votes = dict.fromkeys((token, other), 0.0)
                for g in group(h):
                    for q in range(WINDOW):
                        weights = weights_of(made, b, g, q)
                        votes = {s: votes[s] + weights.get(s, 0.0) for s in votes}
                told.append(math.log(votes[token] / votes[other]) if age >= WINDOW else math.log(1 / votes[other]))
            assert said[1] - said[0] == pytest.approx(told[1] - told[0], abs=1e-4)
            assert abs(told[1] - told[0]) > 0.01


def test_vase_draws_in_proportion_to_the_smoothed_attention() -> None:
    a = layer()
    b, h = 0, 1
    policy = decoding.VASE(10, recent=WINDOW, sinks=0, anchors=0, kernel=3)
    votes: dict[int, float] = {}
    for g in group(h):
        for q in range(WINDOW):
            for s, weight in weights_of(a, b, g, q).items():
                votes[s] = votes.get(s, 0.0) + weight
    candidates = [s for s in slots_of(a, b, h) if a.positions[b, h, s] <= NOW[b] - WINDOW]
    share = {s: sum(votes[x] for x in around(a, b, h, s, 3, WINDOW)) for s in candidates}
    share = {s: x / sum(share.values()) for s, x in share.items()}
    draws, first, second = 2000, dict.fromkeys(candidates, 0), dict.fromkeys(candidates, 0)
    for seed in range(draws):
        found = replace(policy, seed=seed).score(a)[b, h]
        best, next_best = sorted(candidates, key=lambda s: -float(found[s]))[:2]
        first[best] += 1
        second[next_best] += 1
    for s in candidates:
        after = sum(share[x] * share[s] / (1 - share[x]) for x in candidates if x != s)  # without replacement
        for counted, expected in ((first[s], share[s]), (second[s], after)):
            assert counted / draws == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / draws))


# properties


POLICIES: dict[str, decoding.DecodingStrategy] = {
    "tova": decoding.TOVA(8, 3),
    "accumulated_h2o": decoding.AccumulatedH2O(8, 3, decay=0.9),
    "knorm": decoding.KNorm(8, 3),
    "keydiff": decoding.KeyDiff(8, 3),
    "distinct": decoding.Distinct(8, 3),
    "snapkv_d": decoding.SnapKVD(8, 5, window=WINDOW),
    "salient": decoding.Salient(8, 5, window=WINDOW),
    "morphkv": decoding.MorphKV(8, WINDOW),
    "r_kv": decoding.RKV(8, 5, window=WINDOW),
    "g_kv": decoding.GKV(8, 5, window=WINDOW),
    "ams": decoding.AMS(8, 3, window=WINDOW, shortest=4, least=2),
    "diverse": decoding.Diverse(8, 3, base=decoding.KNorm()),
    "raas": decoding.RaaS(8, 3),
    "vase": vase(),
    "lazyeviction": decoding.LazyEviction(8, 3),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_row_is_scored_alike_alone_and_in_any_slots(name: str) -> None:
    policy = POLICIES[name]
    a = layer(window=policy.queries)
    a = replace(a, channels={channel: torch.rand(BATCH, HEADS, SLOTS) for channel in policy.channels})
    a = replace(a, leaving=torch.tensor([9, 5, 3]))
    together = policy.score(replace(a, channels=policy.observe(a)))
    for b in range(BATCH):
        order = torch.stack([torch.tensor(slots_of(a, b, h)) for h in range(HEADS)])[None]  # no empty slots, none moved

        def here(x: Tensor, b: int = b, order: Tensor = order) -> Tensor:
            at = order if x.ndim == 3 else order[..., None].expand(-1, -1, -1, x.shape[-1])
            return x[b : b + 1].gather(2, at)

        assert a.probabilities is not None
        at = order[:, :, None].expand(-1, -1, GROUP, -1)
        alone = Attention(
            queries=a.queries[b : b + 1],
            keys=here(a.keys),
            values=here(a.values),
            positions=here(a.positions),
            query_positions=a.query_positions[b : b + 1],
            rule=a.rule,
            layer=a.layer,
            probabilities=a.probabilities[b : b + 1].gather(3, at),
            channels={channel: here(values) for channel, values in a.channels.items()},
            prompt=torch.tensor(PROMPT[b : b + 1]),
            leaving=a.leaving[b : b + 1],
        )
        found = policy.score(replace(alone, channels=policy.observe(alone)))
        torch.testing.assert_close(found, here(together), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("protect", ["prompt", "nothing"])
def test_sizes_are_the_rules(name: str, protect: str) -> None:
    policy = replace(POLICIES[name], protect=protect)
    left, stored, sizes = 14, 14, []
    view = View(layer=0, layers=1, prompt=20, stored=0, budget=14, capacity=14, prefilled=(left,))
    for t in range(3 * policy.period + 20):
        stored += 1
        assert stored <= policy.most(view)
        plan = policy.plan(replace(view, stored=stored, step=t))
        if plan is not None:
            assert (plan.slots, plan.tail) == (left + policy.budget, policy.recent)
            assert plan.head == (left if protect == "prompt" else 0)
            stored = plan.slots
            sizes.append(t)
    assert {b - a for a, b in pairwise(sizes)} == {policy.period}


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: decoding.AccumulatedH2O(8, 3, decay=1.5), "AccumulatedH2O.decay=1.5"),
        (lambda: decoding.SnapKVD(8, 3, window=0), "SnapKVD.window=0"),
        (lambda: decoding.SnapKVD(8, 8, every=0), "SnapKVD.every=0"),
        (lambda: decoding.SnapKVD(8, 8, kernel=4), "SnapKVD.kernel=4"),
        (lambda: decoding.SnapKVD(8, 3, window=5), "SnapKVD.window=5"),
        (lambda: decoding.RKV(8, 3), "RKV.window=8"),
        (lambda: decoding.VASE(8, 3, kernel=4), "VASE.kernel=4"),
        (lambda: decoding.MorphKV(8, 3, fusion="mean"), "MorphKV.fusion=mean"),
        (lambda: decoding.RKV(8, 8, balance=2), "RKV.balance=2"),
        (lambda: decoding.GKV(8, 3), "GKV.window=16"),
        (lambda: decoding.GKV(8, 8, window=4, decay=1.1), "GKV.decay=1.1"),
        (lambda: decoding.GKV(8, 8, window=4, balance=-1), "GKV.balance=-1"),
        (lambda: decoding.Distinct(8, 3, keys=0, values=0), "Distinct.keys=0"),
        (lambda: decoding.Distinct(8, 3, keys=-1), "Distinct.keys=-1"),
        (lambda: prefill.Distinct(8, 3, keys=0.0, values=0.0), "Distinct.keys=0.0"),
        (lambda: decoding.AMS(8, 3, share=0), "AMS.share=0"),
        (lambda: decoding.AMS(8, 3, mix=1.1), "AMS.mix=1.1"),
        (lambda: decoding.AMS(8, 3, kernel=2), "AMS.kernel=2"),
        (lambda: decoding.AMS(8, 3, shortest=0), "AMS.shortest=0"),
        (lambda: decoding.Diverse(8, 5, base=decoding.KNorm(), penalty=-1), "Diverse.penalty=-1"),
        (lambda: decoding.RaaS(8, 3, share=0), "RaaS.share=0"),
        (lambda: decoding.LazyEviction(8, 3, threshold=-1), "LazyEviction.threshold=-1"),
        (lambda: decoding.VASE(8, 3, sinks=-1), "VASE.sinks=-1"),
        (lambda: decoding.Salient(8, 5, window=4, weight=-1), "Salient.weight=-1"),
        (lambda: decoding.Salient(8, 5, window=4, prompt=-1), "Salient.prompt=-1"),
        (lambda: prefill.Salient(8, 3, weight=-0.5), "Salient.weight=-0.5"),
        (lambda: decoding.TOVA(8, 9), "TOVA.recent=9"),
        (lambda: prefill.RKV(8, 3, kernel=2), "RKV.kernel=2"),
    ],
)
def test_what_cannot_be_is_refused(make, key: str) -> None:
    with pytest.raises((SettingError, CombinationError), match=key.replace(".", r"\.") + ": must be"):
        make()


@pytest.mark.parametrize("name", [*POLICIES])
@pytest.mark.slow
def test_the_yaml_makes_the_paper_s_policy(name: str) -> None:
    made = composed(f"decoding={name}", "budget.decode=300", "budget.recent=64").decoding
    assert type(made) is type(POLICIES[name])
    settings = {"boundary": "kept", "protect": "prompt" if name in ("raas", "distinct") else "nothing"}
    assert made == replace(type(made)(300, 64), **settings)
    assert composed(f"decoding={name}", "decoding.protect=prompt").decoding.protect == "prompt"


PREFILL = {
    "tova": prefill.TOVA,
    "knorm": prefill.KNorm,
    "keydiff": prefill.KeyDiff,
    "r_kv": prefill.RKV,
    "distinct": prefill.Distinct,
    "salient": prefill.Salient,
}


@pytest.mark.parametrize("name", [*PREFILL])
def test_the_yaml_makes_the_prefill_method(name: str) -> None:
    assert composed(f"method={name}", "budget.prefill=100", "budget.window=8").method == PREFILL[name](100, 8)


# bytes


def test_a_slot_is_its_key_its_value_and_what_is_remembered_of_it() -> None:
    config = tiny("llama").config  # 2 key/value heads for 4 query heads of 16 numbers, 3 layers
    assert slot_bytes_of(config, Policy(decoding=decoding.Slide(8, 3)), "float16") == 2 * 2 * 16 * 2
    assert (
        slot_bytes_of(config, Policy(decoding=decoding.Slide(8, 3), granularity="query_head"), "float32")
        == 2 * 4 * 16 * 4
    )
    assert slot_bytes_of(config, Policy(decoding=decoding.RaaS(8, 3)), "float16") == 2 * (2 * 16 * 2 + 4)
    assert slot_bytes_of(config, Policy(decoding=decoding.LazyEviction(8, 3)), "float16") == 2 * (2 * 16 * 2 + 8)


@pytest.mark.parametrize("prompt", [30, 12])  # over the prefill's budget and under it
@pytest.mark.parametrize("protect", ["prompt", "nothing"])
@pytest.mark.parametrize("method", [prefill.SnapKV(16, 4), prefill.PyramidKV(16, 4), prefill.Full()])
@pytest.mark.parametrize(
    "policy",
    [*POLICIES.values(), decoding.PyramidInfer(8, 3), decoding.StreamingLLM(8, 3), decoding.Adaptive(30, 3, tokens=60)],
    ids=lambda policy: type(policy).__name__,
)
def test_a_room_is_filled_and_never_passed(
    policy: decoding.DecodingStrategy, method: prefill.PrefillMethod, protect: str, prompt: int
) -> None:
    layers, room = 3, 30 + 30 + policy.period
    policy = replace(policy, protect=protect)
    asked = [View(layer, layers, prompt, stored=prompt) for layer in range(layers)]
    plans = [method.plan(view) for view in asked]
    left = tuple(plan.slots if plan else prompt for plan in plans)
    views = [
        replace(v, budget=method.slots(prompt), capacity=method.capacity(v), prefilled=left, max_slots=room)
        for v in asked
    ]
    stored, peak = list(left), 0
    for t in range(3 * policy.period + 150):
        stored = [n + 1 for n in stored]
        assert all(n <= policy.most(view) for n, view in zip(stored, views, strict=True))
        peak = max(peak, sum(stored))
        for i, view in enumerate(views):
            plan = policy.plan(replace(view, stored=stored[i], step=t))
            stored[i] = plan.slots if plan else stored[i]
    assert peak <= layers * room
    rounding = 2 * layers if "Pyramid" in f"{method}{policy}" else 0
    unused = (
        layers * (16 - prompt) if protect == "nothing" and prompt < 16 and not isinstance(method, prefill.Full) else 0
    )
    assert peak >= layers * room - rounding - max(0, unused)


def test_a_room_too_small_is_refused() -> None:
    view = View(0, 1, prompt=30, stored=31, budget=16, capacity=16, prefilled=(16,), max_slots=22)
    with pytest.raises(ScopeError) as refused:
        decoding.Slide(8, 6).plan(view)
    assert str(refused.value) == (
        "22 slots a layer leave 6 beside 16 for a prompt of 30 tokens: recent, 6, and a period have to fit"
    )
    assert decoding.Slide(8, 5).plan(replace(view, stored=23)) == Plan(head=16, best=0, tail=5)
