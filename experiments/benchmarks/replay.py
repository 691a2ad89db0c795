"""Replay against token-by-token decoding of the same tokens, in turns: `python -m experiments.benchmarks.replay`.

The target is on the time behind the prompts. Token by token is the bare loop,
`model(ids[:, t : t + 1], past_key_values=cache)`. Replay's time has all that it delivers: steps, logits, and the
numbers of each token. What the full cache says is computed once for all policies, in the first turn. The prompts are
read once for all replays and every time for the loop; "with the prompts" counts that too. Exit code 1 where the target
is missed.
"""

import argparse
import resource
import sys
import time
from statistics import median

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from experiments.benchmarks.timing import Target
from scope import decoding
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.backends import implementation
from scope.generation.replay import Reference, reference, replay
from scope.generation.rows import Prompt
from scope.generation.stream import prefill

AT_MOST = 1 / 6
SHAPE = {  # SmolLM2-135M's
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="default: random weights of SmolLM2-135M's shape")
    parser.add_argument("--rows", type=int, default=6, help="prompts of a batch")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of each")
    parser.add_argument("--tokens", type=int, default=320, help="of each continuation")
    parser.add_argument("--budget", type=int, default=64, help="D, of which half are recent")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = _model(options.model)
    lots = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (options.rows, options.prompt + options.tokens), generator=lots)
    began = time.perf_counter()
    against = reference(model, ids[:, : options.prompt].tolist(), ids[:, options.prompt :].tolist())
    print(Target("reference, seconds once", time.perf_counter() - began).line(), flush=True)
    reached = True
    for strategy in (decoding.Slide, decoding.Distinct):
        policy = Policy(decoding=strategy(options.budget, options.budget // 2))
        for target in _compared(model, against, policy, options.turns):
            print(target.line(), flush=True)
            reached = reached and target.reached
    return 0 if reached else 1


def _model(folder: str | None) -> PreTrainedModel:
    attention = implementation("sdpa")
    if folder:
        return AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=attention, dtype=torch.float32, local_files_only=True
        ).eval()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), attn_implementation=attention).eval()


def _compared(model: PreTrainedModel, against: Reference, policy: Policy, turns: int) -> list[Target]:
    name, ratios, whole, seconds, alone = type(policy.decoding).__name__.lower(), [], [], [], []
    for _ in range(turns):
        row = replay(model, against.prompts, against.continuations, policy, against=against)[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds.append(row.steps_seconds)
        prompts, steps = _token_by_token(model, against, policy)
        alone.append(steps)
        ratios.append(row.steps_seconds / steps)
        whole.append((row.prefill_seconds + row.steps_seconds) / (prompts + steps))
    return [
        Target(f"{name}: replay / token by token", median(ratios), AT_MOST),
        Target(f"{name}: replay, seconds", median(seconds)),
        Target(f"{name}: token by token, seconds", median(alone)),
        Target(f"{name}: the same with the prompts, which replay has read before", median(whole)),
        Target(f"{name}: the process at its peak so far, GiB", peak),
    ]


@torch.inference_mode()
def _token_by_token(model: PreTrainedModel, against: Reference, policy: Policy) -> tuple[float, float]:
    """Seconds of the prefill, and of the steps."""
    began = time.perf_counter()
    tokens = torch.tensor(against.continuations)
    cache = CompressedCache.of(model.config, policy, Layout(tokens.shape[1]))
    _, positions = prefill(model, cache, [Prompt(str(i), row) for i, row in enumerate(against.prompts)], 0, None)
    read = time.perf_counter()
    for t in range(tokens.shape[1] - 1):
        positions = positions + 1
        model(input_ids=tokens[:, t : t + 1], position_ids=positions, past_key_values=cache, use_cache=True)
    return read - began, time.perf_counter() - read


if __name__ == "__main__":
    sys.exit(main())
