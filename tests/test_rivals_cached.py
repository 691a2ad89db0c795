"""The rivals in the cache. What a score is worth is test_rivals.py's; here the oracles are a replay that keeps what a
strategy remembers, and the last queries, in dictionaries by token, and sorts by hand; the plain twin; and each prompt
run alone."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import DIM, HEADS, LAYERS, WORDS, Step, generate, made_up_statistics, random_prompts, stored, tiny

from scope import decoding, prefill
from scope.cache import CompressedCache
from scope.cache.twin import Concatenated, choose
from scope.decoding import DecodingStrategy
from scope.generation.rows import Generated
from scope.policy.attention import Attention
from scope.policy.plan import View
from scope.prefill import PrefillMethod

C, WINDOW, D, RECENT, TOKENS, EVERY = 16, 4, 10, 4, 20, 4
LENGTHS = (30, 9, 21)
POLICIES: dict[str, DecodingStrategy] = {
    "tova": decoding.TOVA(D, RECENT),
    "accumulated_h2o": decoding.AccumulatedH2O(D, RECENT, decay=0.9),
    "knorm": decoding.KNorm(D, RECENT),
    "keydiff": decoding.KeyDiff(D, RECENT),
    "distinct": decoding.Distinct(D, RECENT, protect="nothing"),
    "snapkv_d": decoding.SnapKVD(D, RECENT, every=EVERY, window=3, kernel=3),
    "salient": decoding.Salient(D, RECENT, every=EVERY, window=3, kernel=3, prompt=0.5),
    "morphkv": decoding.MorphKV(D, RECENT),
    "r_kv": decoding.RKV(D, RECENT, every=EVERY, window=3, kernel=3),
    "g_kv": decoding.GKV(D, RECENT, every=EVERY, window=3),
    "ams": decoding.AMS(D, RECENT, every=EVERY, window=3, shortest=4, least=2, share=0.1),
    "diverse": decoding.Diverse(D, RECENT, every=EVERY, base=decoding.KNorm()),
    "raas": decoding.RaaS(D, RECENT),
    "vase": decoding.VASE(D, RECENT, every=EVERY, sinks=2, anchors=2, kernel=3),
    "lazyeviction": decoding.LazyEviction(D, RECENT, threshold=0.05),
    "triattention": decoding.TriAttention(D, RECENT, every=EVERY, statistics=made_up_statistics()),
    "expected_attention": decoding.ExpectedAttention(D, RECENT, every=EVERY, window=5, future=7, sinks=2),
}
QUICK = ("snapkv_d", "lazyeviction", "distinct")  # queries and a period; channels; ours


def all_of(*names: str) -> list[Any]:
    """Parameters of which all but the quick ones are slow."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


PREFILL: dict[str, PrefillMethod] = {
    "snapkv": prefill.SnapKV(C, WINDOW),
    "tova": prefill.TOVA(C, WINDOW),
    "knorm": prefill.KNorm(C, WINDOW),
    "keydiff": prefill.KeyDiff(C, WINDOW),
    "r_kv": prefill.RKV(C, WINDOW),
    "distinct": prefill.Distinct(C, WINDOW),
    "salient": prefill.Salient(C, WINDOW),
}


def policy_of(name: str, protect: str) -> DecodingStrategy:
    return replace(POLICIES[name], protect=protect)


def write(policy: DecodingStrategy, method: str = "snapkv", **options: Any) -> list[Any]:
    """All that each row has but its timings."""
    prompts = options.pop("prompts", random_prompts(*LENGTHS))
    return shown(generate(tiny(), WORDS, prompts, PREFILL[method], policy, TOKENS, **options))


def shown(rows: list[Generated]) -> list[Any]:
    return [(row.tokens, row.prefill_kept, row.slots_kept, row.trace) for row in rows]


# the replay


@dataclass
class Seen:
    """Copies of what each layer was shown, of the prompt first, and what each held after it."""

    shown: list[list[Attention]]  # [layer][time]
    held: list[Step]  # [time][layer][row][head]


@cache
def watched(name: str, protect: str) -> Seen:
    seen = Seen([[] for _ in range(LAYERS)], [])

    def copied(a: Attention) -> None:
        names = ("queries", "keys", "values", "positions", "query_positions", "probabilities")
        values = {name: None if (x := getattr(a, name)) is None else x.clone() for name in names}
        seen.shown[a.layer].append(replace(a, **values, channels={}, prompt=None, leaving=None))

    generate(
        tiny(),
        WORDS,
        random_prompts(*LENGTHS),
        PREFILL["snapkv"],
        policy_of(name, protect),
        TOKENS,
        watch=copied,
        observe=lambda cache: seen.held.append([stored(cache, layer) for layer in range(LAYERS)]),
    )
    return seen


class Row:
    """One row of one layer, by token: what a strategy noted of each, in each head, and the queries so far."""

    def __init__(self, policy: DecodingStrategy, prompt: Attention, row: int, held: list[list[int]]) -> None:
        self.policy, self.row, self.layer = policy, row, prompt.layer
        length = LENGTHS[row]
        self.asked = [prompt.queries[row, :, q - length] for q in range(length)]
        alone = laid_out(prompt, row, [list(range(length))] * HEADS)
        whole = replace(
            alone,
            queries=torch.stack(self.asked, 1)[None],
            query_positions=torch.arange(length)[None],
            channels={name: torch.zeros(1, HEADS, length) for name in policy.channels},
        )
        self.noted: list[dict[int, dict[str, float]]] = [{} for _ in range(HEADS)]
        if policy.channels:
            self.note(policy.observe(whole), [list(range(length))] * HEADS)
        self.view = View(self.layer, LAYERS, length, 0, C, C, tuple([len(held[0])] * LAYERS))

    def note(self, channels: Any, order: list[list[int]]) -> None:
        for head, tokens in enumerate(order):
            for at, token in enumerate(tokens):
                self.noted[head][token] = {name: float(values[0, head, at]) for name, values in channels.items()}

    def step(self, t: int, a: Attention, before: list[list[int]]) -> list[list[int]]:
        """What each head keeps of the tokens before and this step's own."""
        now = LENGTHS[self.row] + t
        order = [[*head, now] for head in before]
        plan = self.policy.plan(replace(self.view, stored=len(order[0]), step=t))
        at = a.query_positions[self.row].tolist().index(now)
        self.asked.append(a.queries[self.row, :, at])
        last = self.asked[-self.policy.queries :]
        channels = {
            name: torch.tensor([[[self.noted[h].get(x, {}).get(name, 0.0) for x in order[h]] for h in range(HEADS)]])
            for name in self.policy.channels
        }
        alone = replace(
            laid_out(a, self.row, order),
            queries=torch.stack(last, 1)[None],
            query_positions=torch.arange(now + 1 - len(last), now + 1)[None],
            channels=channels,
            prompt=torch.tensor([LENGTHS[self.row]]),
            leaving=None if plan is None else torch.tensor([len(order[0]) - plan.slots]),
        )
        if channels:
            noted = self.policy.observe(alone)
            self.note(noted, order)
            alone = replace(alone, channels=noted)
        if plan is None:
            return order
        worth = self.policy.score(alone)[0]
        return [[order[h][i] for i in choose(list(range(len(order[h]))), plan, worth[h])] for h in range(HEADS)]


def laid_out(a: Attention, row: int, order: list[list[int]]) -> Attention:
    """One row with its tokens in this order in each head."""
    places = a.positions[row].tolist()
    at = torch.tensor([[places[h].index(x) for x in order[h]] for h in range(HEADS)])
    wide = at[..., None].expand(-1, -1, DIM)
    shares = None
    if a.probabilities is not None:
        shares = a.probabilities[row].gather(2, at[:, None].expand(-1, a.probabilities.shape[2], -1))[None]
    return replace(
        a,
        keys=a.keys[row].gather(1, wide)[None],
        values=a.values[row].gather(1, wide)[None],
        positions=torch.tensor(order)[None],
        probabilities=shares,
    )


@pytest.mark.parametrize("protect", ["prompt", pytest.param("nothing", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", all_of(*POLICIES))
def test_what_is_kept_is_what_a_replay_by_hand_keeps(name: str, protect: str) -> None:
    seen, policy = watched(name, protect), policy_of(name, protect)
    evicted = 0
    for layer in range(LAYERS):
        for row in range(len(LENGTHS)):
            held = seen.held[0][layer][row]
            replayed = Row(policy, seen.shown[layer][0], row, held)
            for t, (attention, after) in enumerate(zip(seen.shown[layer][1:], seen.held[1:], strict=True)):
                expected = [sorted(head) for head in replayed.step(t, attention, held)]
                evicted += len(held[0]) + 1 - len(expected[0])
                held = after[layer][row]
                assert held == expected, (layer, row, t)
    assert evicted > 20


# the cache


@pytest.mark.parametrize("name", all_of(*POLICIES))
def test_in_place_is_the_twin(name: str) -> None:
    assert write(POLICIES[name]) == write(POLICIES[name], storage=Concatenated)


@pytest.mark.parametrize("name", all_of(*POLICIES))
@pytest.mark.slow
def test_a_row_is_what_it_is_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refilled, too, and replayed, and scored row by row: nothing is carried from one prompt to the next. The last
    prompt takes the first row over from another, and holds the same tokens there in the end."""

    def held(policy: DecodingStrategy, **options: Any) -> tuple[list[Any], Any]:
        first_row: list[Any] = []
        written = write(
            policy,
            **options,
            observe=lambda cache: first_row.append([stored(cache, layer)[0] for layer in range(LAYERS)]),
        )
        return written, first_row[-1]

    ways: dict[str, dict[str, Any]] = {"prompt": {"engine": "graph"}, "nothing": {"prefill_chunk": 7}}
    for protect, way in ways.items():
        policy = policy_of(name, protect)
        alone = [held(policy, prompts=[prompt]) for prompt in random_prompts(*LENGTHS)]
        assert held(policy, batch_size=2, **way) == ([written[0] for written, _ in alone], alone[-1][1])
        monkeypatch.setattr("scope.policy.attention.ROWS_BYTES", 1)


@pytest.mark.parametrize("name", all_of("tova", "vase", "triattention", "expected_attention"))
def test_a_cache_per_query_head_runs_too(name: str) -> None:
    together = write(POLICIES[name], granularity="query_head")
    assert together[1] == write(POLICIES[name], prompts=random_prompts(*LENGTHS)[1:2], granularity="query_head")[0]


@pytest.mark.slow
def test_the_rivals_choose_differently() -> None:
    chosen = {name: str(watched(name, "nothing").held[-1]) for name in POLICIES}
    assert len(set(chosen.values())) == len(POLICIES)


@pytest.mark.parametrize("method", all_of(*PREFILL))
def test_a_prefill_method_keeps_the_same_alone(method: str) -> None:
    together = write(decoding.Slide(D, RECENT), method)
    alone = [write(decoding.Slide(D, RECENT), method, prompts=[p])[0] for p in random_prompts(*LENGTHS)]
    assert together == alone
    assert [row[1] for row in together] == [(min(C, n),) * LAYERS for n in LENGTHS]


def test_tova_keeps_one_set_for_all_heads_of_a_layer() -> None:
    held: list[Step] = []

    def look(cache: CompressedCache) -> None:
        held.append([stored(cache, layer) for layer in range(LAYERS)])

    policy = decoding.TOVA(D, RECENT, protect="nothing")
    generate(tiny(), WORDS, random_prompts(*LENGTHS), PREFILL["tova"], policy, TOKENS, observe=look)
    assert all(heads == [heads[0]] * HEADS for step in held for layer in step for heads in layer)
    assert held[-1][0] != held[-1][1]
