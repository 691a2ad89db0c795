"""Later turns of a prompt, after something was generated. Oracle: one row, one token at a time, with a list of tokens
for each layer and head (`ByHand`), and what stays of a turn chosen in loops."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.by_hand import ByHand
from helpers.quick import every, later, slow
from tiny_models import DIM, GROUP, HEADS, LAYERS, SLIDING_WINDOW, WORDS, random_prompts, stored, tiny
from torch import Tensor
from transformers import DynamicCache

from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation import stream
from scope.generation.options import Options
from scope.generation.rows import Prompt
from scope.util.errors import ScopeError

LENGTHS = (30, 9, 21)  # of the prompts
ASKED = ((13, 6, 1), (5, 17, 3))  # tokens of the turns that follow, by row
STEPS = (9, 12, 7)  # after the prompt, and after each turn
WINDOW, D, RECENT = 3, 8, 4
TWIN = Layout(storage=Concatenated)


def turn_tokens(turn: int, row: int) -> list[int]:
    return list(random_prompts(*ASKED[turn], seed=7 + turn)[row].tokens)


@dataclass
class Talk:
    """What a row wrote, and what was held after the prompt, each step and each turn: [time][layer][head]."""

    written: list[int] = field(default_factory=list)
    held: list[list[list[list[int]]]] = field(default_factory=list)


# our side


def read(cache: CompressedCache, family: str, rows: list[list[int]], before: Tensor) -> tuple[Tensor, Tensor]:
    """Feed tokens, padded on the left. before [B, S]: the mask so far -> logits [B, V], and the mask from then on."""
    columns = max(map(len, rows))
    ids = torch.tensor([[0] * (columns - len(row)) + row for row in rows])
    mask = torch.cat([before, torch.tensor([[0] * (columns - len(row)) + [1] * len(row) for row in rows])], 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -columns:]
    out: Any = tiny(family)(ids, attention_mask=mask, position_ids=places, past_key_values=cache)
    return out.logits[:, -1], mask


@torch.no_grad()
def talk(
    policy: Policy, family: str = "llama", layout: Layout | None = None, rows: tuple[int, ...] = (0, 1, 2)
) -> list[Talk]:
    made = CompressedCache.of(tiny(family).config, policy, layout)
    talks = [Talk() for _ in rows]

    def note() -> None:
        layers = [stored(made, layer) for layer in range(LAYERS)]
        for place, each in enumerate(talks):
            each.held.append([layer[place] for layer in layers])

    nothing = torch.zeros(len(rows), 0, dtype=torch.long)
    logits, mask = read(made, family, [list(random_prompts(*LENGTHS)[row].tokens) for row in rows], nothing)
    note()
    for turn, steps in enumerate(STEPS):
        if turn:
            unfed = logits.argmax(-1).tolist()
            asked = [[token, *turn_tokens(turn - 1, row)] for token, row in zip(unfed, rows, strict=True)]
            for each, token in zip(talks, unfed, strict=True):
                each.written.append(token)
            logits, mask = read(made, family, asked, mask)
            note()
        for _ in range(steps):
            fed = logits.argmax(-1).tolist()
            for each, token in zip(talks, fed, strict=True):
                each.written.append(token)
            logits, mask = read(made, family, [[token] for token in fed], mask)
            note()
    for each, token in zip(talks, logits.argmax(-1).tolist(), strict=True):
        each.written.append(token)
    return talks


# by hand


@dataclass
class Rules:
    """What stays in each layer and head. worth(rules, layer, head, positions, weights, now) -> of each token."""

    hand: ByHand
    flow: bool
    protected: bool
    budget: float
    worth: "Worth"
    reach: int = 10**9  # the most that a layer holds beside the next token
    every: int = 1
    first: bool = False  # keep the first tokens, whatever they are worth
    clock: int = -1  # the step
    spans: list[tuple[int, int]] = field(default_factory=list)  # of the prompt and of each turn that is prompt
    turn: tuple[int, int] | None = None
    left: dict[tuple[int, int], int] = field(default_factory=dict)  # C of the prompt, and what the turns have left
    noted: dict[tuple[int, int], dict[int, float]] = field(default_factory=dict)

    def __call__(self, t: int, layer: int, head: int, positions: list[int], weights: list[float]) -> list[int]:
        now, place = positions[-1], (layer, head)
        every_place = list(range(len(positions)))
        if self.turn is None:
            worth = self.worth(self, layer, head, positions, weights, now)
            return self._evicted(place, positions, worth)
        self.worth(self, layer, head, positions, weights, now)
        if now + 1 < self.turn[1]:
            return every_place
        new = [i for i in every_place if positions[i] >= self.turn[0]]
        old = [i for i in every_place if i not in new]
        chosen = self._chosen(layer, head, [positions[i] for i in new])
        self.left[place] += len(chosen)
        stay = [*old, *(i for i in new if positions[i] in chosen)]
        return stay[max(0, len(stay) - self.reach) :] if self.reach < 10**9 else stay

    def is_prompt(self, position: int) -> bool:
        return any(begin <= position < end for begin, end in self.spans)

    def _evicted(self, place: tuple[int, int], positions: list[int], worth: list[float]) -> list[int]:
        every_place = list(range(len(positions)))
        if self.protected:
            own = [i for i in every_place if not self.is_prompt(positions[i])]
            limit = min(self.left[place], self.reach) + D
        else:
            own, limit = every_place, self.left[place] + D
        if self.clock % self.every or len(positions) <= limit:
            limit = len(positions)
        gone = len(positions) - min(limit, self.reach)
        hidden = [i for i in every_place if positions[i] <= positions[-1] - self.reach]
        middle = sorted(
            own[: len(own) - RECENT], key=lambda i: (-positions[i] if self.first else worth[i], positions[i])
        )
        order = [*hidden, *(i for i in middle if i not in hidden)]
        return [i for i in every_place if i not in order[:gone]]

    def _chosen(self, layer: int, head: int, turn: list[int]) -> set[int]:
        """snapkv over the tokens of a turn, as if there were no others."""
        turn = turn[-min(len(turn), self.reach) :]
        whole = list(range(self.turn[0], self.turn[1])) if self.turn else []
        length = len(whole)
        budget = max(int(self.budget) if self.budget > 1 else max(2, round(self.budget * length)), WINDOW + 1)
        if length <= budget or budget > len(turn):
            return set(turn)
        keys = dict(zip(self.hand.held[layer][head].positions, self.hand.held[layer][head].keys, strict=True))
        votes = dict.fromkeys(whole, 0.0)
        for asking in whole[-WINDOW:]:
            for query in self.hand.asked[layer][asking][head * GROUP : (head + 1) * GROUP]:
                seen = [p for p in whole if asking - self.reach <= p <= asking]
                raised = {p: math.exp(float(keys[p] @ query) / math.sqrt(len(query))) for p in seen}
                for p in seen:
                    votes[p] += raised[p] / sum(raised.values()) / GROUP
        before = whole[:-WINDOW]
        worth = {p: votes[p] for p in before if p in turn}
        best = sorted(worth, key=lambda p: worth[p])[len(worth) - (budget - WINDOW) :]
        return {*best, *whole[-WINDOW:]}


Worth = Callable[[Rules, int, int, list[int], list[float], int], list[float]]


def by_weight(rules: Rules, layer: int, head: int, positions: list[int], weights: list[float], now: int) -> list[float]:
    return weights


def by_age(rules: Rules, layer: int, head: int, positions: list[int], weights: list[float], now: int) -> list[float]:
    return [float(p) for p in positions]


def by_votes(rules: Rules, layer: int, head: int, positions: list[int], weights: list[float], now: int) -> list[float]:
    """All the attention that a token ever got, from the queries of turns too."""
    if (layer, head) not in rules.noted:
        heads = rules.hand.seen.probabilities[layer][head * GROUP : (head + 1) * GROUP]
        rules.noted[layer, head] = dict(enumerate((heads.sum((0, 1)) / GROUP).tolist()))
    votes = rules.noted[layer, head]
    for p, weight in zip(positions, weights, strict=True):
        votes[p] = votes.get(p, 0.0) + weight
    return [votes[p] for p in positions]


def by_clock(rules: Rules, layer: int, head: int, positions: list[int], weights: list[float], now: int) -> list[float]:
    """The last step in which a token got much attention, 0 for one of a prompt that did not."""
    clocks = rules.noted.setdefault((layer, head), {})
    if rules.turn is None:
        for p, weight in zip(positions, weights, strict=True):
            if weight >= 0.05 or p == now:
                clocks[p] = now
    return [float(clocks.get(p, 0)) for p in positions]


def by_queries(
    rules: Rules, layer: int, head: int, positions: list[int], weights: list[float], now: int
) -> list[float]:
    """The attention of the last 4 queries, those of a turn too; each token counts as its best neighbour of 7."""
    held = rules.hand.held[layer][head]
    votes = [0.0] * len(positions)
    for asking in range(max(0, now - 3), now + 1):
        for query in rules.hand.query(layer, asking)[head * GROUP : (head + 1) * GROUP]:
            seen = [i for i, p in enumerate(positions) if asking - rules.reach <= p <= asking]
            raised = {i: math.exp(float(held.keys[i] @ query) / math.sqrt(len(query))) for i in seen}
            for i in seen:
                votes[i] += raised[i] / sum(raised.values()) / GROUP
    votes = [0.0 if p > now - 4 else vote for p, vote in zip(positions, votes, strict=True)]
    return [max(votes[max(0, i - 3) : i + 4]) for i in range(len(votes))]


CASES: dict[str, tuple[DecodingStrategy, Worth]] = {
    "slide": (decoding.Slide(D, RECENT), by_weight),
    "h2o": (decoding.H2O(D, RECENT), by_weight),
    "recent": (decoding.Recent(D, RECENT), by_age),
    "votes": (decoding.AccumulatedH2O(D, RECENT), by_votes),
    "votes, protected": (decoding.AccumulatedH2O(D, RECENT, protect="prompt"), by_votes),
    "clocks": (decoding.RaaS(D, RECENT, protect="nothing", threshold=0.05), by_clock),
    "clocks, protected": (decoding.RaaS(D, RECENT, threshold=0.05), by_clock),
    "streamingllm": (decoding.StreamingLLM(D, RECENT), by_age),
    "ring": (decoding.SnapKVD(D, RECENT, window=4, every=3), by_queries),
    "ring, protected": (decoding.SnapKVD(D, RECENT, window=4, every=3, protect="prompt"), by_queries),
}


class Speaks(ByHand):
    """One row that takes turns."""

    def query(self, layer: int, position: int) -> Tensor:
        if position < self.length:
            return self.seen.queries[layer][:, position]
        return self.asked[layer][position]

    @torch.inference_mode()
    def talk(self, row: int, rules: Rules) -> Talk:
        made, at, token = Talk(held=[self._now()]), 0, self.seen.token

        def feed(tokens: list[int]) -> int:
            nonlocal at
            for fed in tokens:
                rules.clock += rules.turn is None
                wrote = self._step(at, fed, rules)
                at += 1
            made.held.append(self._now())
            return wrote

        for turn, steps in enumerate(STEPS):
            if turn:
                asked = [token, *turn_tokens(turn - 1, row)]
                made.written.append(token)
                span = self.length + at, self.length + at + len(asked)
                rules.turn = None if rules.flow else span
                token = feed(asked)
                rules.spans += [span] if rules.turn else []
                rules.turn = None
            for _ in range(steps):
                made.written.append(token)
                token = feed([token])
        made.written.append(token)
        return made

    def _now(self) -> list[list[list[int]]]:
        return [[list(held.positions) for held in layer] for layer in self.held]


def expected(policy: Policy, worth: Worth, row: int, start: list[list[list[int]]], family: str) -> Talk:
    prompt = random_prompts(*LENGTHS)[row]
    hand = Speaks(family, prompt, start)
    length, strategy = len(prompt.tokens), policy.decoding
    assert isinstance(strategy, decoding.eviction.Eviction)
    budget = policy.prefill.slots(length)
    rules = Rules(
        hand,
        policy.turns == "flow",
        strategy.protect == "prompt",
        policy.prefill.budget,  # type: ignore[attr-defined]
        worth,
        SLIDING_WINDOW - 1 if family == "mistral_sliding" else 10**9,
        strategy.period,
        isinstance(strategy, decoding.StreamingLLM),
        spans=[(0, length)],
    )
    for layer in range(LAYERS):
        for head in range(HEADS):
            rules.left[layer, head] = min(length, budget) if rules.protected else budget
    return hand.talk(row, rules)


def in_sight(held: list[list[list[int]]], family: str) -> list[list[tuple[int, list[int]]]]:
    """[layer][head]: how many are held, and which of them the next token sees. Others may be any."""
    reach = SLIDING_WINDOW - 1 if family == "mistral_sliding" else 10**9
    return [[(len(head), [p for p in head if p > max(head) - reach]) for head in layer] for layer in held]


@pytest.mark.parametrize("turns", ["protect", "flow"])
@pytest.mark.parametrize("name", every(4, CASES))
@pytest.mark.parametrize("family", ["llama", later("mistral_sliding")])
def test_turns_are_what_a_loop_over_lists_makes_of_them(name: str, turns: str, family: str) -> None:
    if (name, family) == ("streamingllm", "mistral_sliding"):
        pytest.skip("its first tokens are those that were ever stored, which a loop over what is left cannot count")
    strategy, worth = CASES[name]
    policy = Policy(prefill.SnapKV(0.5, WINDOW, kernel=1), strategy, turns=turns)
    for row, each in enumerate(talk(policy, family)):
        by_hand = expected(policy, worth, row, each.held[0], family)
        for time, (ours, theirs) in enumerate(zip(each.held, by_hand.held, strict=True)):
            assert in_sight(ours, family) == in_sight(theirs, family), (row, time)
        assert each.written == by_hand.written


# the storages, and rows


SNAPKV = prefill.SnapKV(0.5, WINDOW)
KINDS: dict[str, tuple[Policy, str]] = {
    "snapkv": (Policy(SNAPKV, decoding.Slide(D, RECENT)), "llama"),
    "int8": (Policy(SNAPKV, decoding.Slide(D, RECENT), precision="int8"), "llama"),
    "shared heads": (Policy(prefill.SnapKV(0.5, WINDOW, heads="shared"), decoding.Slide(D, RECENT)), "llama"),
    "shared heads, all": (Policy(prefill.SnapKV(0.5, WINDOW, heads="shared"), decoding.H2O(D, RECENT)), "llama"),
    "query heads": (Policy(prefill.H2O(0.5, WINDOW), decoding.Slide(D, RECENT), "query_head"), "llama"),
    "pyramids": (Policy(prefill.PyramidKV(0.5, WINDOW), decoding.PyramidInfer(D, RECENT)), "llama"),
    "alike": (Policy(prefill.TOVA(0.5, WINDOW), decoding.TOVA(D, RECENT)), "llama"),
    "windows": (Policy(SNAPKV, decoding.Slide(D, RECENT)), "gemma3"),
    "windows, all": (Policy(SNAPKV, decoding.AccumulatedH2O(D, RECENT)), "gemma3"),
    "front": (Policy(SNAPKV, decoding.Distinct(D, RECENT)), "llama"),
    "periodic": (Policy(SNAPKV, decoding.Discontinuous(D, RECENT, tokens=40)), "llama"),
    "lazy": (Policy(SNAPKV, decoding.LazyEviction(D, RECENT)), "llama"),
    "memory": (Policy(SNAPKV, decoding.GKV(D, RECENT, window=4, every=4)), "llama"),
    "rotary": (Policy(SNAPKV, decoding.ExpectedAttention(D, RECENT, every=4)), "llama"),
    "streamingllm": (Policy(prefill.StreamingLLM(0.5), decoding.StreamingLLM(D, RECENT)), "mistral_sliding"),
    "a count": (Policy(prefill.KeyDiff(12, WINDOW), decoding.Slide(D, RECENT)), "llama"),
    "grows": (Policy(prefill.Full(), decoding.KeepAll()), "llama"),
    "released": (Policy(prefill.SnapKV(12, WINDOW), decoding.Slide(D, RECENT, boundary="budget")), "llama"),
}
TURNS = ("protect", "flow")


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", every(6, KINDS))
def test_slots_in_place_take_turns_as_their_twin_does(name: str, turns: str) -> None:
    policy, family = replace(KINDS[name][0], turns=turns), KINDS[name][1]
    assert talk(policy, family) == talk(policy, family, TWIN)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", every(6, KINDS))
def test_a_row_of_a_ragged_batch_is_what_it_is_alone(name: str, turns: str) -> None:
    policy, family = replace(KINDS[name][0], turns=turns), KINDS[name][1]
    together = talk(policy, family)
    for row in range(3):
        assert talk(policy, family, rows=(row,)) == [together[row]]


# budgets and bytes


SLOT = LAYERS * HEADS * DIM * 2 * 8  # bytes of a token's keys and values, float64


@torch.no_grad()
def conversation(cache: CompressedCache, rows: int, turns: int, steps: int) -> list[int]:
    """Turns of 20 tokens and answers of so many steps -> the bytes after each turn, and its answer."""
    lots, mask, nbytes = torch.Generator().manual_seed(0), torch.zeros(rows, 0, dtype=torch.long), []
    for _ in range(turns):
        asked = torch.randint(3, 90, (rows, 20), generator=lots).tolist()
        logits, mask = read(cache, "llama", asked, mask)
        for _ in range(steps):
            logits, mask = read(cache, "llama", [[token] for token in logits.argmax(-1).tolist()], mask)
        nbytes.append(cache.nbytes)
    return nbytes


@pytest.mark.parametrize("strategy", [decoding.Slide(D, RECENT), decoding.H2O(D, RECENT), decoding.Recent(D, RECENT)])
def test_a_protected_turn_takes_the_budget_of_a_prompt_and_the_generation_keeps_its_own(
    strategy: DecodingStrategy,
) -> None:
    made = CompressedCache(tiny().config, prefill.SnapKV(0.4, WINDOW), strategy)
    nbytes = conversation(made, 2, 3, 15)
    assert nbytes == [2 * SLOT * (8 * turns + D + 1) for turns in (1, 2, 3)]
    assert all(made.slots(row, 45) == [3 * 8 + D] * LAYERS for row in range(2))
    assert made.peak_slots(0, 45) == [3 * 8 + D + 1] * LAYERS
    summary = made.summary()
    assert summary.budgets == (24, 24)
    assert summary.tokens == (105, 105)
    assert summary.slots == ((24 + D,) * 2,) * LAYERS
    assert summary.full_nbytes == 2 * 105 * SLOT


def test_a_turn_that_flows_takes_no_more_than_the_first_answer() -> None:
    policy = Policy(prefill.SnapKV(0.4, WINDOW), decoding.Slide(D, RECENT), turns="flow")
    made = CompressedCache.of(tiny().config, policy)
    assert conversation(made, 2, 3, 15) == [2 * SLOT * (8 + D + 1)] * 3
    assert made.slots(0, 85) == [8 + D] * LAYERS


def test_a_bound_holds_where_turns_flow_and_refuses_those_that_are_prompt() -> None:
    bound = 60 * SLOT
    policy = Policy(prefill.SnapKV(0.4, WINDOW), decoding.H2O(recent=4), max_bytes=bound)
    flows, protects = (CompressedCache.of(tiny().config, replace(policy, turns=turns)) for turns in ("flow", "protect"))
    assert conversation(flows, 1, 3, 60)[-1] == bound
    with pytest.raises(ScopeError, match=r"^turns=protect: .* max_bytes=\d+ leaves no room for: turns=flow$"):
        conversation(protects, 1, 2, 5)


# in transformers' own `generate`


def generated(
    made: Any, family: str = "llama", model: Any = None, rows: tuple[int, ...] = (0, 1, 2)
) -> list[list[int]]:
    """Ragged rows and their turns, written by transformers -> what the model wrote in all turns, row by row."""
    ids = mask = torch.zeros(len(rows), 0, dtype=torch.long)
    written = []
    asked = [list(random_prompts(*LENGTHS)[row].tokens) for row in rows]
    for turn, steps in enumerate(STEPS):
        if turn:
            asked = [turn_tokens(turn - 1, row) for row in rows]
        columns = max(map(len, asked))
        ids = torch.cat([ids, torch.tensor([[0] * (columns - len(row)) + row for row in asked])], 1)
        mask = torch.cat([mask, torch.tensor([[0] * (columns - len(row)) + [1] * len(row) for row in asked])], 1)
        ids = (model or tiny(family)).generate(
            ids, attention_mask=mask, past_key_values=made, max_new_tokens=steps + 1, do_sample=False
        )
        written.append(ids[:, mask.shape[1] :])
        mask = torch.cat([mask, torch.ones_like(written[-1])], 1)
    both: list[list[int]] = torch.cat(written, 1).tolist()
    return both


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", every(6, KINDS))
def test_generate_goes_on_with_the_same_cache(name: str, turns: str) -> None:
    policy, family = replace(KINDS[name][0], turns=turns), KINDS[name][1]
    expected = [each.written for each in talk(policy, family)]
    assert generated(CompressedCache.of(tiny(family).config, policy), family) == expected


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("family", ["llama", later("qwen3"), "gemma3", later("mistral_sliding")])
def test_with_a_full_cache_turns_are_those_of_transformers_own_cache(family: str, turns: str) -> None:
    """Its sliding windows count columns, padding between turns too, and ours count tokens: there each row is alone."""
    batches = [(0,), (1,), (2,)] if family in ("gemma3", "mistral_sliding") else [(0, 1, 2)]
    for rows in batches:
        stock = generated(DynamicCache(config=tiny(family).config), family, tiny(family, "sdpa"), rows)
        made = CompressedCache.of(tiny(family).config, Policy(turns=turns))
        assert generated(made, family, rows=rows) == stock


# copies


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", every(9, KINDS))
@torch.no_grad()
def test_a_copy_a_fork_and_a_file_go_on_between_turns(name: str, turns: str, tmp_path: Path) -> None:
    policy, family = replace(KINDS[name][0], turns=turns), KINDS[name][1]
    made = CompressedCache.of(tiny(family).config, policy)
    asked = [list(random_prompts(*LENGTHS)[row].tokens) for row in range(3)]
    logits, mask = read(made, family, asked, torch.zeros(3, 0, dtype=torch.long))
    for turn in range(2):
        asked = [[token, *turn_tokens(turn, row)] for row, token in enumerate(logits.argmax(-1).tolist())]
        made.save(tmp_path / "cache", tiny(family))
        others = [
            copy.deepcopy(made),
            made.fork([2, 0]),
            CompressedCache.load(tmp_path / "cache", tiny(family), policy),
        ]
        before, rows = mask, ([0, 1, 2], [2, 0], [0, 1, 2])
        found = [
            read(each, family, [asked[row] for row in some], before[some])
            for each, some in zip(others, rows, strict=True)
        ]
        made = copy.deepcopy(made)  # of a prompt without an answer, only a copy takes a turn
        logits, mask = read(made, family, asked, before)
        for (last, _), other, some in zip(found, others, rows, strict=True):
            assert last.argmax(-1).tolist() == logits[some].argmax(-1).tolist()
            assert [stored(other, i) for i in range(LAYERS)] == [
                [stored(made, i)[r] for r in some] for i in range(LAYERS)
            ]


# what cannot be


@torch.no_grad()
def filled(policy: Policy) -> tuple[CompressedCache, Tensor]:
    """A cache after prompts of 30, 9 and 21 tokens and one step -> it, and the mask of all columns."""
    made = CompressedCache.of(tiny().config, policy)
    asked = [list(random_prompts(*LENGTHS)[row].tokens) for row in range(3)]
    _, mask = read(made, "llama", asked, torch.zeros(3, 0, dtype=torch.long))
    _, mask = read(made, "llama", [[5], [6], [7]], mask)
    return made, mask


IDS = torch.full((3, 4), 9)


def places(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -4:]


def hidden(mask: Tensor) -> Tensor:
    other = mask.clone()
    other[0, 3] = 0
    return other


def on_the_right(mask: Tensor) -> Tensor:
    other = mask.clone()
    other[1, -1] = 0
    return other


REFUSED: dict[str, tuple[Callable[[Tensor], dict[str, Any]], str]] = {
    "hides what came before": (
        lambda mask: {"attention_mask": hidden(mask), "position_ids": places(mask)},
        "stay as it was",
    ),
    "padding on the right": (
        lambda mask: {"attention_mask": on_the_right(mask), "position_ids": places(mask)},
        "row 1 of this turn ends with padding: pad prompts on the left",
    ),
    "a mask of the turn alone": (lambda mask: {"attention_mask": mask[:, -4:]}, "3 x 4, and must be 3 x 35"),
    "positions of columns": (
        lambda mask: {"attention_mask": mask},
        "this turn ends at .*, and must end at .*make a new cache",
    ),
    "positions with a gap": (
        lambda mask: {"attention_mask": mask, "position_ids": places(mask) + torch.tensor([0, 0, 1, 1])},
        "count up by one",
    ),
    "fewer rows": (lambda mask: {"input_ids": IDS[:2]}, "the cache has 3 rows, and this turn 2: cache.fork"),
}


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(case: str, turns: str) -> None:
    made, mask = filled(Policy(SNAPKV, decoding.Slide(D, RECENT), turns=turns))
    asked, why = REFUSED[case]
    given = {"input_ids": IDS} | asked(torch.cat([mask, torch.ones_like(IDS)], 1))
    with pytest.raises(ScopeError, match=why) as refused, torch.no_grad():
        tiny()(past_key_values=made, **given)
    assert "\n" not in str(refused.value)


def test_the_setting_is_checked() -> None:
    with pytest.raises(ScopeError, match="turns=keep: must be one of protect, flow"):
        Policy(turns="keep")


# in the engine


T = 9
END = 28  # a token that the tiny model writes now and then


def alone(policy: Policy, family: str, prompt: Prompt, end: int | None) -> tuple[list[list[int]], CompressedCache]:
    """What transformers' `generate` writes in each turn of one row, and the cache that it went on with."""
    made, ids, answers = CompressedCache.of(tiny(family).config, policy), torch.tensor([prompt.tokens]), []
    for asked in [(), *prompt.turns]:
        ids = torch.cat([ids, torch.tensor([asked], dtype=torch.long)], 1)
        written = tiny(family).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=made,
            max_new_tokens=T,
            do_sample=False,
            eos_token_id=end,
        )
        answers.append(written[0, ids.shape[1] :].tolist())
        ids = written
    return answers, made


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("snapkv", Options(batch_size=2, ahead=True)),
        slow("front", Options(engine="graph", batch_size=2)),
        slow("snapkv", Options(batch_size=2)),
        slow("snapkv", Options(engine="graph")),
        slow("windows", Options(batch_size=2)),
        slow("memory", Options(batch_size=3)),
        slow("shared heads", Options(batch_size=2)),
        slow("query heads", Options(batch_size=2)),
        slow("int8", Options(batch_size=2)),
        slow("grows", Options(engine="graph", batch_size=2)),
    ],
)
def test_a_batch_takes_the_turns_of_each_row_when_its_answer_has_ended(
    name: str, options: Options, turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end at different steps and go on; ended ones are refilled. Oracle: each row alone, in `generate`."""
    policy, family = replace(KINDS[name][0], turns=turns), KINDS[name][1]
    prompts = [
        replace(prompt, turns=tuple(tuple(turn_tokens(turn, row % 3)) for turn in range((2, 0, 1, 2)[row])))
        for row, prompt in enumerate(random_prompts(30, 9, 21, 14))
    ]
    monkeypatch.setattr(tiny(family).generation_config, "eos_token_id", END)
    made = stream.generate(tiny(family), WORDS, prompts, policy, T, options=options)
    lengths = set()
    for prompt, got in zip(prompts, made, strict=True):
        answers, own = alone(policy, family, prompt, END)
        assert got.tokens == tuple(token for answer in answers for token in answer)
        assert len(got.answers) == (len(answers) if prompt.turns else 0)
        assert got.text == "\n\n".join(got.answers or [got.text])
        steps = own._layers[0].steps[0] + 1
        assert got.slots_kept == tuple(own.slots(0, steps))
        assert got.trace == own.trace(0, steps)
        assert got.slots_full == tuple(own.full_slots(own.get_seq_length()))
        lengths |= {*map(len, answers)}
    assert len(lengths) > 1
