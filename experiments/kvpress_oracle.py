"""Does `method=kvpress` keep what kvpress itself keeps? Two halves, since the package pins an older transformers.

    python3 -m venv oracle && oracle/bin/pip install "torch>=2.11,<2.14" kvpress==0.5.5
    oracle/bin/python experiments/kvpress_oracle.py record <folder>    # kvpress alone; this file needs nothing of scope
    python -m experiments.kvpress_oracle compare <folder>    # in scope's environment, with kvpress but not its pins

The first writes tiny random models and the positions that each press keeps of each prompt, the second repeats them with
scope's cache, each prompt alone and all in one batch. Exit code 1 where a kept set differs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

FAMILIES = ("llama", "qwen3", "mistral")
LENGTHS, KEPT, VOCABULARY = (60, 91, 140), 40, 97
PRESSES: dict[str, dict[str, Any]] = {
    "CURPress": {},
    "CapPress": {},
    "CompactorPress": {"chunk_size": 32, "sketch_dimension": 8},
    "ExpectedAttentionPress": {"n_future_positions": 64},
    "KeyDiffPress": {},
    "KnormPress": {},
    "LagKVPress": {"lag_size": 16},
    "LeverageScorePress": {"sketch_dimension": 8},
    "NonCausalAttnPress": {"chunk_size": 32},
    "ObservedAttentionPress": {},
    "RandomPress": {"seed": 3},
    "SnapKVPress": {"window_size": 16},
    "StreamingLLMPress": {},
    "TOVAPress": {},
}


def prompts() -> list[list[int]]:
    lots = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (n,), generator=lots).tolist() for n in LENGTHS]


def record(folder: Path) -> None:
    """With kvpress' own hooks: one press at a time, one prompt at a time."""
    import kvpress
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    kept: dict[str, Any] = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": None}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **heads)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(4)  # sharp attention
                else:  # norms: of ones, they would make all keys of Qwen3 equally long, and ties of every norm
                    weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
        model.save_pretrained(folder / family)
        for name, settings in PRESSES.items():
            model.set_attn_implementation("eager" if name == "ObservedAttentionPress" else "sdpa")
            for tokens in prompts():
                whole, compressed = DynamicCache(), DynamicCache()
                inputs = torch.tensor([tokens])
                press = getattr(kvpress, name)(compression_ratio=1 - (KEPT + 0.5) / len(tokens), **settings)
                seeding = [layer.self_attn.register_forward_pre_hook(seed) for layer in model.model.layers]
                with torch.inference_mode():
                    model(inputs, past_key_values=whole)
                    with press(model):
                        model(inputs, past_key_values=compressed)
                for hook in seeding:
                    hook.remove()
                layers = zip(whole.layers, compressed.layers, strict=True)
                found = [found_at(one.keys[0], other.keys[0]) for one, other in layers]
                kept.setdefault(family, {}).setdefault(name, []).append(found)
    (folder / "kept.json").write_text(json.dumps(kept))
    print(f"{len(FAMILIES)} models x {len(PRESSES)} presses x {len(LENGTHS)} prompts: {folder / 'kept.json'}")


def seed(module: Any, inputs: Any) -> None:
    """As the adapter does with seed 0."""
    torch.manual_seed(module.layer_idx)


def found_at(keys: torch.Tensor, some: torch.Tensor) -> list[list[int]]:
    """Which of keys [H, S, D] some [H, n, D] are, ascending, in each head."""
    distance = (some[:, :, None] - keys[:, None]).abs().amax(-1)
    assert bool((distance.amin(-1) < 1e-5).all())
    return [sorted(head) for head in distance.argmin(-1).tolist()]


def compare(folder: Path) -> int:
    """With scope's cache over the same weights. -> 1 where a kept set differs, else 0."""
    from transformers import AutoModelForCausalLM

    from scope.cache import CompressedCache
    from scope.cache.backends import implementation
    from scope.cache.inputs import layer_inputs
    from scope.generation.rows import Prompt, pad_left
    from scope.prefill import KVPress

    kept = json.loads((folder / "kept.json").read_text())
    asked = [Prompt(f"{i}", tuple(tokens)) for i, tokens in enumerate(prompts())]
    total = wrong = 0
    for family in FAMILIES:
        model = AutoModelForCausalLM.from_pretrained(folder / family, attn_implementation=implementation("sdpa")).eval()
        for name, settings in PRESSES.items():
            for batch in (asked, *([prompt] for prompt in asked)):
                cache = CompressedCache(model.config, KVPress(KEPT, press=name, args=settings))
                ids, real, positions = pad_left(batch, 0, model.device)
                with torch.inference_mode(), layer_inputs(model):
                    model(ids, attention_mask=real.long(), position_ids=positions, past_key_values=cache)
                for row, prompt in enumerate(batch):
                    for layer, heads in enumerate(kept[family][name][int(prompt.name)]):
                        for head, theirs in enumerate(heads):
                            total += 1
                            if sorted(cache.positions(layer)[row, head].tolist()) != theirs:
                                wrong += 1
                                print(f"{family} {name} prompt {prompt.name}: layer {layer}, head {head} differs")
    print(f"{total - wrong} of {total} kept sets are kvpress' own, alone and in a batch of three lengths")
    return int(wrong > 0)


def main() -> int:
    """-> the exit code: 1 where a kept set differs."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.kvpress_oracle" if __package__ else None,  # the first half is run as a file
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("half", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.half == "record":
        given.folder.mkdir(parents=True, exist_ok=True)
        record(given.folder)
        return 0
    if not (given.folder / "kept.json").exists():
        parser.error(f"{given.folder}: holds no kept.json: record writes it")
    return compare(given.folder)


if __name__ == "__main__":
    sys.exit(main())
