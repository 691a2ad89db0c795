"""kvpress's side of `experiments.benchmarks.peers`, in an environment of its own: this file needs nothing of scope.

It answers lines of JSON. Each names a cache. The first of a cache brings the prompts, which are read and compressed
within kvpress's own hooks; later ones bring tokens, of which each is fed in a step, or ask for the bytes.
"""

import json
import sys
import time
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from kvpress import DecodingPress, KnormPress, SnapKVPress
from transformers import AutoModelForCausalLM, DynamicCache


class Pressed:
    """A cache that kvpress compresses, and the steps behind it."""

    def __init__(self, model: Any, asked: dict[str, Any]) -> None:
        """asked: prompts [B][P]; with `kept` snapkv leaves so many slots of them, with `decoded` knorm leaves so many
        more at the end of every `every` steps."""
        self._model, self._cache = model, DynamicCache(config=model.config)
        prompts = torch.tensor(asked["prompts"])
        self._at = torch.full((len(prompts), 1), prompts.shape[1] - 1)
        press: Any = None
        self._decoding: Any = None
        if "kept" in asked:
            press = SnapKVPress(
                compression_ratio=1 - (asked["kept"] + 0.5) / prompts.shape[1], window_size=asked["window"]
            )
        if "decoded" in asked:
            size = asked["kept"] + asked["decoded"]
            self._decoding = DecodingPress(KnormPress(), compression_interval=asked["every"], target_size=size)
        with press(model) if press else nullcontext():
            model(prompts, past_key_values=self._cache, logits_to_keep=1)

    def steps(self, tokens: list[list[int]]) -> dict[str, Any]:
        """tokens [B][n] -> seconds of each step, and the most likely next tokens [B][n].

        Leaving the hooks resets their count of steps, so n has to be `every`.
        """
        seconds, found = [], []
        with self._decoding(self._model) if self._decoding else nullcontext():
            for token in torch.tensor(tokens).unbind(1):
                began = time.perf_counter()
                self._at += 1
                out = self._model(token[:, None], position_ids=self._at, past_key_values=self._cache, logits_to_keep=1)
                found.append(out.logits[:, -1].argmax(-1))
                seconds.append(time.perf_counter() - began)
        return {"seconds": seconds, "next": torch.stack(found, 1).tolist()}

    def nbytes(self) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers)


@torch.inference_mode()
def main() -> None:
    folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="sdpa", dtype=torch.float32, local_files_only=True
    ).eval()
    caches: dict[str, Pressed] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        name, answer = asked["name"], {}
        if "prompts" in asked:
            caches[name] = Pressed(model, asked)
        elif name == "versions":
            answer = {"kvpress": version("kvpress"), "kvpress's transformers": version("transformers")}
        elif "tokens" in asked:
            answer = caches[name].steps(asked["tokens"])
        else:
            answer = {"bytes": caches[name].nbytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
