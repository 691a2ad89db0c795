"""Other caches beside ours, on the same prompts: `python -m experiments.benchmarks.peers`.

Every cache is fed the tokens that transformers' full cache writes, all in turns of some steps, so that other work on
the machine slows all of them alike. What is compared: the bytes that a cache holds at the end, tokens per second of the
steps behind the prompts, and in which share of the steps its most likely token is the full cache's.

    python3 -m venv peers && peers/bin/pip install "torch>=2.11,<2.14" kvpress==0.5.5
    python -m experiments.benchmarks.peers --kvpress peers/bin/python

kvpress needs an older transformers, so it runs in an environment of its own (`kvpress_worker.py`), beside that
environment's own full cache. transformers' QuantizedCache needs optimum-quanto. What is not there is left out, and a
line says so. Results and page are written to experiments/benchmarks/results/.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, QuantizedCache, StaticCache
from transformers.cache_utils import Cache

from experiments.benchmarks.__main__ import RESULTS
from experiments.benchmarks.timing import processor, storage_bytes
from experiments.tables import pipe_table
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.backends import implementation
from scope.decoding import KeepAll, Slide
from scope.generation.clock import synchronised
from scope.generation.models import ModelSource
from scope.generation.places import locate
from scope.generation.read import Read, read
from scope.prefill import Full, SnapKV
from scope.records import surroundings
from scope.tasks.text import Text

FULL, QUANTO = "transformers, DynamicCache", "transformers, QuantizedCache (quanto, 4 bits)"
TURN = 8  # steps of a kind, one after the other
WORKER = Path(__file__).with_name("kvpress_worker.py")
CPU = torch.device("cpu")
SHARES = {"1/2": 2, "1/4": 4, "1/8": 8}  # of the prompt, and of the tokens that are generated


class Kind(Protocol):
    """A cache that has read the prompts."""

    def steps(self, tokens: Tensor) -> tuple[list[float], Tensor]:
        """Feed tokens [B, n], one step each -> seconds of each step, and the most likely next tokens [B, n]."""
        ...

    def nbytes(self) -> int: ...  # held for keys and values now


class Library:
    """A cache within this process, whose keys and values of the prompts are those of one reading."""

    def __init__(self, model: PreTrainedModel, cache: Cache, made: Read, held: Callable[[], int]) -> None:
        """held: gives the bytes that the cache holds."""
        self._model, self._cache, self.nbytes, self._at = model, cache, held, made.last.clone()
        if isinstance(cache, CompressedCache):
            cache.take(made.layers)
            return
        for layer, attention in enumerate(made.layers):
            cache.update(attention.keys.clone(), attention.values.clone(), layer)

    @torch.inference_mode()
    def steps(self, tokens: Tensor) -> tuple[list[float], Tensor]:
        seconds, found = [], []
        for token in tokens.unbind(1):
            began = synchronised(CPU)
            self._at += 1
            found.append(next_token(self._model, self._cache, token, self._at))
            seconds.append(synchronised(CPU) - began)
        return seconds, torch.stack(found, 1)


class Worker:
    """A cache in another environment's process: it is asked, and answers, in lines of JSON."""

    def __init__(self, process: "subprocess.Popen[str]", name: str, settings: Mapping[str, Any]) -> None:
        self._process, self._name = process, name
        self._ask(settings)

    def steps(self, tokens: Tensor) -> tuple[list[float], Tensor]:
        told = self._ask({"tokens": tokens.tolist()})
        return told["seconds"], torch.tensor(told["next"])

    def nbytes(self) -> int:
        return int(self._ask({"bytes": True})["bytes"])

    def _ask(self, question: Mapping[str, Any]) -> Any:
        return asked(self._process, {"name": self._name, **question})


def asked(process: "subprocess.Popen[str]", question: Mapping[str, Any]) -> Any:
    """The worker's answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def next_token(model: PreTrainedModel, cache: Cache, token: Tensor, at: Tensor) -> Tensor:
    """token [B], at its positions [B, 1] -> the most likely next tokens [B]."""
    out = model(token[:, None], position_ids=at, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1)


def policies(prompt: int, tokens: int) -> dict[str, Policy]:
    """Ours: budgets are shares of the prompt and of the tokens."""
    found = {"ours, full": Policy(), "ours, full, int4": Policy(Full(), KeepAll(), precision="int4")}
    for share, part in SHARES.items():
        budget = tokens // part
        found[f"ours, snapkv + slide, {share}"] = Policy(SnapKV(prompt // part, 8), Slide(budget, budget // 2))
    quarter = found["ours, snapkv + slide, 1/4"]
    return found | {"ours, snapkv + slide, 1/4, int4": replace(quarter, precision="int4")}


def of_transformers(model: PreTrainedModel, made: Read, tokens: int) -> Iterator[tuple[str, Kind]]:
    prompt = made.layers[0].keys.shape[2]
    dynamic = DynamicCache(config=model.config)
    yield FULL, Library(model, dynamic, made, lambda: _plain_bytes(dynamic))
    static = StaticCache(config=model.config, max_cache_len=prompt + tokens)
    yield "transformers, StaticCache", Library(model, static, made, lambda: _plain_bytes(static))
    try:
        quantised = QuantizedCache("quanto", model.config)
    except ImportError as missing:
        print(f"QuantizedCache is not compared: {' '.join(str(missing).split())}", file=sys.stderr)
        return
    yield QUANTO, Library(model, quantised, made, lambda: _bytes_of(quantised))


def of_scope(model: PreTrainedModel, made: Read, tokens: int) -> Iterator[tuple[str, Kind]]:
    prompt = made.layers[0].keys.shape[2]
    for name, policy in policies(prompt, tokens).items():
        cache = CompressedCache.of(model.config, policy, Layout(tokens))
        yield name, Library(model, cache, made, lambda cache=cache: cache.nbytes)  # type: ignore[misc]


def of_kvpress(process: "subprocess.Popen[str] | None", prompts: Tensor, tokens: int) -> Iterator[tuple[str, Kind]]:
    """kvpress's own environment: its full cache, a prompt that is compressed, and a generation too."""
    if process is None:
        return
    prompt = prompts.shape[1]
    settings = {"prompts": prompts.tolist()}
    yield "kvpress's transformers, DynamicCache", Worker(process, "full", settings)
    press = {"kept": prompt // 4, "window": 8}
    yield "kvpress, snapkv, 1/4", Worker(process, "snapkv", {**settings, **press})
    more = {**press, "decoded": tokens // 4, "every": TURN}
    yield "kvpress, snapkv + knorm, 1/4", Worker(process, "snapkv and knorm", {**settings, **more})


def _plain_bytes(cache: Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _bytes_of(cache: Cache) -> int:
    """Of a quantised cache: codes, scales and shifts, and what waits to be quantised."""
    waiting = [getattr(layer, name) for layer in cache.layers for name in NAMES]
    found = []
    while waiting:
        tensor = waiting.pop()
        if hasattr(tensor, "__tensor_flatten__"):
            waiting += [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        else:
            found.append(tensor)
    return storage_bytes(found)


NAMES = ("keys", "values", "_quantized_keys", "_quantized_values")


def compared(kinds: Mapping[str, Kind], first: Tensor, tokens: int) -> dict[str, dict[str, float]]:
    """All kinds in turns over `tokens` steps. first [B]: the tokens that follow the prompts directly."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    found: dict[str, list[Tensor]] = {name: [] for name in kinds}
    token = first
    for done in range(0, tokens, TURN):
        forced: list[Tensor] = []
        for _ in range(min(TURN, tokens - done)):  # the full cache writes what all others are then fed
            took, new = kinds[FULL].steps(token[:, None])
            seconds[FULL] += took
            forced.append(token)
            token = new[:, 0]
            found[FULL].append(new)
        for name, kind in kinds.items():
            if name != FULL:
                took, new = kind.steps(torch.stack(forced, 1))
                seconds[name] += took
                found[name].append(new)
    own = torch.cat(found[FULL], 1)
    return {
        name: {
            "bytes": kinds[name].nbytes(),
            "ms_per_step": 1000 * median(took),
            "tokens_per_second": len(first) / median(took),
            **_ratios(took, seconds[FULL]),
            "agreement": float((torch.cat(found[name], 1) == own).double().mean()),
        }
        for name, took in seconds.items()
    }


def _ratios(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The time of a step over that of the full cache: the median and the least over the turns."""
    turns = range(0, len(one), TURN)
    found = [median(one[t : t + TURN]) / median(other[t : t + TURN]) for t in turns]
    return {"ratio": median(found), "least_ratio": min(found), "most_ratio": max(found)}


def windows(folder: str, rows: int, prompt: int) -> Tensor:
    """-> [B, P]: windows of the English that Python carries, all of one length."""
    model = ModelSource(folder)
    samples = Text(model, prompt + 64, 1, prompts=rows).samples()  # a window ends where a word does, so it is longer
    tokenizer = model.tokenizer()
    return torch.tensor([tokenizer(sample.prompt).input_ids[:prompt] for sample in samples])


@contextmanager
def started(python: str | None, folder: str) -> "Iterator[subprocess.Popen[str] | None]":
    """The worker in kvpress's environment; None, and a line that says so, if there is none."""
    if python is None:
        print("kvpress is not compared: --kvpress names no interpreter that has it", file=sys.stderr)
        yield None
        return
    command = [python, str(WORKER), folder, str(torch.get_num_threads())]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def measure(folder: str, python: str | None, rows: int, prompt: int, tokens: int) -> dict[str, Any]:
    """-> what `compared` gives for this many rows, with the peers' versions and the surroundings."""
    given = {"dtype": torch.float32, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", **given).eval()
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation("sdpa"), **given).eval()
    prompts = windows(folder, rows, prompt)
    made = read(own, [tuple(row) for row in prompts.tolist()])
    peers: dict[str, str] = {}
    with started(python, folder) as process:
        if process is not None:
            peers |= asked(process, {"name": "versions"})
        kinds = dict(of_transformers(model, made, tokens))
        kinds |= dict(of_scope(own, made, tokens))
        kinds |= dict(of_kvpress(process, prompts, tokens))
        figures = compared(kinds, made.logits.argmax(-1), tokens)
    if QUANTO in kinds:
        peers["optimum-quanto"] = version("optimum-quanto")
    around = surroundings() | {"processor": processor("cpu"), "load": os.getloadavg()}
    return {"surroundings": around, "peers": peers, "prompt": prompt, "tokens": tokens, "figures": figures}


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, made of the results by number of rows."""
    parts = "\n".join(_part(rows, found[rows]) for rows in sorted(found, key=int))
    return f"""# Other caches beside ours

Made by `python -m experiments.benchmarks.peers` on SmolLM2-135M in float32. **The machine was shared**,
with a load far above its cores, and a run has few turns. Where the least and the most of two caches overlap, their
times have no order. Compare the ratios, which are paired, and not tokens per second. Bytes and tokens do not depend on
the load.

{parts}
- All caches are fed the tokens that transformers' full cache writes, in turns of {TURN} steps. "time" is that of a step
  over that of the full cache: medians of a turn, of which the median, the least and the most over the turns are shown.
- "same token": the share of steps in which the most likely next token is that of the full cache.
- "MB": allocated for keys and values at the end, with the scales of 4 bits. Ours are allocated at the start.
- Steps are eager. The prompts are read once for the caches of one process, so prefills are not compared.
- A share, such as 1/4, is that of the prompt's slots, and with slide or knorm of the steps too. kvpress's snapkv
  compresses the prompt only. With knorm it keeps a quarter of all slots every {TURN} steps.
- kvpress runs in an environment of its own, with an older transformers, whose full cache is beside it.
- openvino-genai is left out. It reads models of a format of its own, and its pipeline generates by itself: it was not
  fed tokens in turns.
"""


def _part(rows: str, found: Mapping[str, Any]) -> str:
    """The table of one number of rows."""
    around, full = found["surroundings"], found["figures"][FULL]
    hardware = around["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in _versions(found).items())
    lines = [
        [
            name,
            f"{one['bytes'] / 1e6:.1f}",
            f"{one['bytes'] / full['bytes']:.2f}",
            f"{one['tokens_per_second']:.1f}",
            f"{one['ratio']:.2f} ({one['least_ratio']:.2f} to {one['most_ratio']:.2f})",
            f"{100 * one['agreement']:.0f}%",
        ]
        for name, one in found["figures"].items()
    ]
    return f"""## Batch {rows}

Prompts of {found["prompt"]} tokens, {found["tokens"]} steps, {around["processor"]}, threads: {hardware["threads"]},
load {around["load"][0]:.1f} on {hardware["cores"]} cores, {around["created"][:10]} ({versions}).

{pipe_table(["cache", "MB", "of full", "tokens/s", "time", "same token"], lines)}
"""


def _versions(found: Mapping[str, Any]) -> dict[str, str]:
    libraries = found["surroundings"]["versions"]
    return {name: libraries[name] for name in ("torch", "transformers")} | found["peers"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a folder, or a name of `python -m scope.models`")
    parser.add_argument("--kvpress", metavar="PYTHON", help="the interpreter of an environment with kvpress")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows; others in the results stay")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="steps")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = locate(options.model, None).name
    results = RESULTS / "peers.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for rows in options.batches:
        found[str(rows)] = measure(folder, options.kvpress, rows, options.prompt, options.tokens)
        results.write_text(json.dumps(found, indent=1) + "\n")
        results.with_suffix(".md").write_text(page(found))
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
