"""A decode step against the full cache, on random weights: `python -m experiments.benchmarks [--steps 512]`.

One line per target: name, measured ratio, target, ok or short; exit code 1 where one is short. The kinds of cache take
turns step by step, so that what else the machine does falls on all alike; figures are medians of the steps after the
cache is full. The figures and the surroundings are written to experiments/benchmarks/results/.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache

from experiments.benchmarks.layouts import Gathered
from scope.attention import implementation
from scope.cache import CompressedCache
from scope.decoding import KeepAll, Slide
from scope.prefill import H2O, Full
from scope.records import surroundings

PROMPT, C, WINDOW, D, RECENT = 2048, 512, 8, 128, 64
SHAPE = {  # a Llama small enough for two cores; the widths of its MLP and vocabulary are in Llama 3's proportions
    "hidden_size": 512,
    "intermediate_size": 1792,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}
RESULTS = Path(__file__).with_name("results")


def model(attention: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), attn_implementation=attention)
    return made.eval()


def stepper(model: PreTrainedModel, cache: Cache, prompt: int) -> Callable[[], float]:
    """Prefills `prompt` random tokens; what comes back feeds one token more and says how many seconds that took."""
    ids = torch.randint(SHAPE["vocab_size"], (1, prompt), generator=torch.Generator().manual_seed(1))
    following = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)
    position = torch.tensor([[prompt - 1]])

    def step() -> float:
        nonlocal following
        began = time.perf_counter()
        position.add_(1)
        out = model(following[:, None], position_ids=position, past_key_values=cache, use_cache=True)
        following = out.logits[:, -1].argmax(-1)
        return time.perf_counter() - began

    return step


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    steps = parser.parse_args().steps
    ours, stock = model(implementation("sdpa")), model("sdpa")
    policies = {"prefill": H2O(C, WINDOW), "decode": Slide(D, RECENT)}
    compressed = CompressedCache(ours.config, **policies, tokens=steps + 1)
    # of the same size on average over the steps that are measured, from D on
    still = CompressedCache(ours.config, Full(), KeepAll(), tokens=steps + 1)
    released = CompressedCache(ours.config, **policies, storage=Gathered, granularity="query_head")
    kinds = {
        "h2o+slide": stepper(ours, compressed, PROMPT),
        "full, transformers": stepper(stock, DynamicCache(config=stock.config), PROMPT),
        "same size, nothing evicted": stepper(ours, still, C + D + 1 - (D + steps) // 2),
        "released layout": stepper(ours, released, PROMPT),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(steps):
        for name, step in kinds.items():
            seconds[name].append(step())
    full = {name: median(times[D:]) for name, times in seconds.items()}
    ms = {name: 1000 * value for name, value in full.items()}
    head = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    predicted = SHAPE["num_hidden_layers"] * SHAPE["num_key_value_heads"] * (C + D + 1) * head * 2 * 4
    own = full["h2o+slide"]
    targets = [  # name, measured, target, whether that is reached
        ("step / full cache of transformers", own / full["full, transformers"], "<= 0.65", 0.65),
        ("step / same size, nothing evicted", own / full["same size, nothing evicted"], "<= 1.10", 1.10),
        ("step / released layout", own / full["released layout"], "<= 0.50", 0.50),
        ("bytes / predicted, off by", abs(compressed.nbytes / predicted - 1), "<= 0.01", 0.01),
    ]
    for name, value in ms.items():
        print(f"{name:32} {value:7.3f} ms/step")
    short = False
    for name, measured, shown, most in targets:
        short |= measured > most
        print(f"{name:36} {measured:6.3f}  target {shown}  {'short' if measured > most else 'ok'}")
    RESULTS.mkdir(exist_ok=True)
    found = {
        "surroundings": surroundings() | {"cpu": _cpu(), "load": _load()},
        "shape": SHAPE | {"prompt": PROMPT, "C": C, "D": D, "steps": steps, "dtype": "float32"},
        "ms_per_step": ms,
        "targets": [{"name": n, "measured": m, "target": t, "ok": m <= most} for n, m, t, most in targets],
    }
    (RESULTS / "cpu.json").write_text(json.dumps(found, indent=2) + "\n")
    return int(short)


def _cpu() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _load() -> list[float]:
    """How much else ran: the load average over 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]


if __name__ == "__main__":
    sys.exit(main())
