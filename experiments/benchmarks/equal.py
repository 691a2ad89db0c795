"""What has to be equal on a GPU before its speed means anything. Each check compares with something slower and simpler.

No check needs more than torch and transformers. On a CPU the same checks run, but for those of the kernels: Triton's
interpreter runs these in tests/kernels_agree.py.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from experiments.benchmarks.timing import held_bytes
from scope import decoding, kernels, prefill
from scope.cache import CompressedCache, Layout, Policy, sizes
from scope.cache.backends import implementation
from scope.cache.slots import Slots
from scope.generation import models, replay
from scope.generation.models import ModelSource, RandomModel
from scope.generation.options import Options
from scope.generation.prompts import encode
from scope.generation.rows import Prompt
from scope.generation.stream import generate
from scope.kernels import decode
from scope.kernels.votes import votes, votes_twin
from scope.tasks import Arithmetic
from scope.util.errors import ScopeError

DTYPES = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # and how far an output may be off
DIMS = (64, 80, 96, 128, 256)  # of heads
POLICIES = {
    "snapkv + slide": Policy(prefill.SnapKV(96, 8), decoding.Slide(24, 8)),
    "h2o + h2o": Policy(prefill.H2O(96, 8), decoding.H2O(24, 8)),
    "tova + streamingllm": Policy(prefill.TOVA(96, 8), decoding.StreamingLLM(24, 8)),
    "distinct + distinct": Policy(prefill.Distinct(96, 8), decoding.Distinct(24, 8)),
}
QUESTIONS, TOKENS = (14, 8, 11), 64  # of the prompts, whose lengths differ; tokens of each answer
EMBEDDED = "embedded"  # trained, so that what is evicted changes what it writes


@dataclass(frozen=True)
class Check:
    """A comparison: what, whether it came out equal (None: it was not made), and by how much it was off, or why not."""

    name: str
    equal: bool | None
    detail: str = ""

    def line(self) -> str:
        word = {True: "equal", False: "NOT EQUAL", None: "not run"}[self.equal]
        return f"{self.name:64} {word:10} {self.detail}".rstrip()


def checks(device: torch.device) -> Iterator[Check]:
    """All checks, one after the other. One that raises did not come out equal, and its detail is the error."""
    if device.type == "cuda" and kernels.runs_on(device):
        for dtype, dim in product(DTYPES, DIMS):
            yield _tried(f"kernels of a step, {_name(dtype)}, head dim {dim}", partial(_step, device, dtype, dim))
            yield _tried(f"kernels of votes, {_name(dtype)}, head dim {dim}", partial(_votes, device, dtype, dim))
    else:
        yield Check("kernels", None, "needs CUDA and Triton")
    source = ModelSource(path=EMBEDDED, device=device.type, dtype="float32")
    for name in POLICIES:
        yield _tried(f"kernels' slots and plain slots write the same, {name}", partial(_storages, source, name))
        yield _tried(f"graph and eager write the same, {name}", partial(_graph, source, name))
        yield _tried(f"replay and single steps, {name}", partial(_replay, source, name))
        yield _tried(f"rows together and alone write the same, {name}", partial(_rows, source, name))
        yield _tried(f"bytes counted and allocated, {name}", partial(_bytes, source, name))
    yield _flash(device)


def _tried(name: str, run: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *run())
    except Exception as error:  # a report with a failed check says more than a traceback and no report
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _off(found: Tensor, exact: Tensor, within: float) -> tuple[bool, str]:
    off = float((found.double() - exact.double()).abs().max())
    return off <= within, f"off by {off:.1e}, allowed {within:.0e}"


def _step(device: torch.device, dtype: torch.dtype, dim: int) -> tuple[bool, str]:
    """Attention over ragged slots, the slot that is freed, and writing a token, against the twins in float64."""
    batch, heads, group, slots = 3, 2, 4, 777
    lots = torch.Generator().manual_seed(dim)
    keys, values = torch.randn(2, batch, heads, slots, dim, generator=lots).to(device, dtype)
    query = torch.randn(batch, heads * group, dim, generator=lots).to(device, dtype)
    ordinals = torch.rand(batch, heads, slots, generator=lots).argsort(-1)
    ordinals = torch.where(torch.rand(ordinals.shape, generator=lots) < 0.3, -1, ordinals).int().to(device)
    cached = decode.Cached(keys, values, ordinals, torch.where(ordinals < 0, -1, 2 * ordinals))
    exact = cached._replace(keys=keys.double(), values=values.double())
    found = decode.attend(query, cached, dim**-0.5)
    twin = decode.attend_twin(query.double(), exact, dim**-0.5)
    assert found.received is not None
    assert twin.received is not None
    counts = torch.tensor([[0, 5, 9], [0, 3, 1], [1, 1, 0], [slots] * 3], dtype=torch.int32, device=device)
    eligible = decode.Eligible(*counts.unbind())
    freed = decode.free(found.received, ordinals, eligible)
    same = torch.equal(freed, decode.free_twin(found.received, ordinals, eligible))
    token = decode.Token(keys[:, :, 1], values[:, :, 1], counts[3], counts[3])
    written, wanted = (decode.Cached(*(part.clone() for part in cached)) for _ in range(2))
    decode.write(written, freed, token)
    decode.write_twin(wanted, freed, token)
    same &= all(torch.equal(one, other) for one, other in zip(written, wanted, strict=True))
    close, detail = _off(found.output, twin.output, DTYPES[dtype])
    received, _ = _off(found.received, twin.received, 1e-5)
    return close and received and same, detail


def _votes(device: torch.device, dtype: torch.dtype, dim: int) -> tuple[bool, str]:
    """The votes of all queries of ragged prompts, against the twin in float64."""
    lots = torch.Generator().manual_seed(dim)
    queries, keys = (torch.randn(2, n, 515, dim, generator=lots).to(device, dtype) for n in (4, 2))
    begin = torch.tensor([0, 209], device=device)
    found = votes(queries, keys, dim**-0.5, begin=begin)
    return _off(found, votes_twin(queries.double(), keys.double(), dim**-0.5, begin=begin), 2e-3)


def _prompts(source: ModelSource) -> list[Prompt]:
    tokenizer = models.load(source).tokenizer
    asked = [Arithmetic(questions=n, prompts=1, seed=n).samples()[0] for n in QUESTIONS]
    return [Prompt(sample.name, encode(tokenizer, sample, "plain", None, "refuse").tokens) for sample in asked]


def _written(source: ModelSource, prompts: list[Prompt], name: str, options: Options) -> list[tuple[int, ...]]:
    loaded = models.load(source)
    rows = generate(loaded.model, loaded.tokenizer, prompts, POLICIES[name], TOKENS, options=options)
    return [row.tokens for row in rows]


def _alike(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> tuple[bool, str]:
    same = sum(a == b for mine, yours in zip(one, other, strict=True) for a, b in zip(mine, yours, strict=False))
    return one == other, f"{same} of {sum(map(len, one))} tokens"


def _storages(source: ModelSource, name: str) -> tuple[bool, str]:
    prompts = _prompts(source)
    return _alike(_written(source, prompts, name, Options()), _written(source, prompts, name, Options(storage=Slots)))


def _graph(source: ModelSource, name: str) -> tuple[bool, str]:
    prompts = _prompts(source)
    return _alike(_written(source, prompts, name, Options(engine="graph")), _written(source, prompts, name, Options()))


def _rows(source: ModelSource, name: str) -> tuple[bool, str]:
    prompts = _prompts(source)
    alone = [row for prompt in prompts for row in _written(source, [prompt], name, Options())]
    return _alike(_written(source, prompts, name, Options(batch_size=2)), alone)


@torch.inference_mode()
def _replay(source: ModelSource, name: str) -> tuple[bool, str]:
    """The log-likelihood of each forced token, from a replay and from a model that is fed token by token."""
    model = models.load(source).model
    first, *_, second = _prompts(source)
    told = [int(token) for token in second.tokens[:TOKENS]]
    (row,) = replay.replay(model, [list(first.tokens)], [told], POLICIES[name])
    cache = CompressedCache.of(model.config, POLICIES[name])
    ids = torch.tensor([[*first.tokens, *told]], device=model.device)
    logits = model(ids[:, : len(first.tokens)], past_key_values=cache, logits_to_keep=1).logits[0, -1]
    steps = []
    for at, token in enumerate(told, len(first.tokens)):
        steps.append(logits.float().log_softmax(-1)[token])
        where = torch.tensor([[at]], device=model.device)
        logits = model(ids[:, at : at + 1], position_ids=where, past_key_values=cache).logits[0, -1]
    return _off(row.log_likelihood, torch.stack(steps).cpu(), 1e-3)


@torch.inference_mode()
def _bytes(source: ModelSource, name: str) -> tuple[bool, str]:
    """The bytes of keys and values that a cache says it holds, those predicted, and those that its tensors take."""
    model, prompt = models.load(source).model, _prompts(source)[0]
    ids = torch.tensor([prompt.tokens], device=model.device)
    policy = POLICIES[name]
    cache = CompressedCache.of(model.config, policy, Layout(TOKENS))
    model(ids, past_key_values=cache, logits_to_keep=1)
    for at in range(len(prompt.tokens), len(prompt.tokens) + TOKENS - 1):
        model(ids[:, :1], position_ids=torch.tensor([[at]], device=model.device), past_key_values=cache)
    predicted = sizes.cache_bytes(model.config, policy, "float32", len(prompt.tokens), TOKENS)
    held = held_bytes(cache)
    fine = cache.nbytes == predicted and predicted <= held <= 1.25 * predicted
    return fine, f"says {cache.nbytes}, predicted {predicted}, all its tensors {held}"


@torch.inference_mode()
def _flash(device: torch.device) -> Check:
    """flash_attention_2 against sdpa in float16: the logits of a prompt and of a step, where the package is there."""
    name = "flash_attention_2 and sdpa, logits"
    try:
        implementation("flash_attention_2")
    except ScopeError as missing:
        return Check(name, None, str(missing))

    def run() -> tuple[bool, str]:
        made = []
        for backend in ("flash_attention_2", "sdpa"):
            model = RandomModel(device=device.type, dtype="float16").weights(implementation(backend))
            cache = CompressedCache.of(model.config, POLICIES["snapkv + slide"])
            ids = torch.arange(300, device=device)[None] % model.config.vocab_size
            first = model(ids, past_key_values=cache, logits_to_keep=1).logits
            where = torch.tensor([[300]], device=device)
            made.append(torch.cat([first, model(ids[:, :1], position_ids=where, past_key_values=cache).logits]))
        return _off(made[0], made[1], 2e-2)

    return _tried(name, run)
