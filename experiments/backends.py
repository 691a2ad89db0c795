"""How often the prompt's backend changes what is kept: `python -m experiments.backends`.

sdpa against eager on the embedded model, per precision: the selections (one per prompt, layer and head) that differ,
the slots that differ in them, how far the score of a slot that changed lies from the edge of the selection, as a share
of that score, and the prompts whose text is the same to the end. float32 should show no difference.
"""

import argparse
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from torch import Tensor

from scope.cache import CompressedCache, Policy
from scope.decoding import Slide
from scope.generation import models
from scope.generation.models import ModelSource
from scope.generation.options import Hooks, Options
from scope.generation.rows import Prompt
from scope.generation.stream import generate
from scope.policy.attention import Attention
from scope.prefill import H2O, PrefillMethod, SnapKV
from scope.tasks import Arithmetic


@dataclass(frozen=True)
class Watched:
    """A prefill method that keeps the scores it gave, layer by layer."""

    method: PrefillMethod
    scores: list[Tensor]

    def __getattr__(self, name: str) -> object:
        return getattr(self.method, name)

    def score(self, attention: Attention) -> Tensor:
        self.scores.append(self.method.score(attention))
        return self.scores[-1]


def answer(source: ModelSource, prompt: str, method: PrefillMethod) -> tuple[list[Tensor], list[Tensor], str]:
    """-> kept positions [H, C] and scores [H, P] of each layer after the prefill, and the text."""
    loaded = models.load(source)
    watched = Watched(method, [])
    kept: list[Tensor] = []

    def look(cache: CompressedCache) -> None:
        if not kept:
            kept.extend(cache.positions(layer)[0].clone() for layer in range(len(cache)))

    tokens = tuple(loaded.tokenizer(prompt).input_ids)
    strategy = Slide(128, 64)
    made = generate(
        loaded.model,
        loaded.tokenizer,
        [Prompt("p", tokens)],
        Policy(watched, strategy),
        440,
        options=Options(hooks=Hooks(observe=look)),
    )
    return kept, [scores[0] for scores in watched.scores], made[0].text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.backends",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=8)
    args = parser.parse_args()
    samples = Arithmetic(prompts=args.prompts).samples()
    console = Console(highlight=False)
    console.print(
        "| precision | method | selections that differ | slots in them | farthest from the edge | same text |"
    )
    console.print("| --- | --- | ---: | ---: | ---: | ---: |")
    for dtype in ("float32", "bfloat16", "float16"):
        sdpa = ModelSource(dtype=dtype, device="cpu", threads=1)
        for method in (SnapKV(0.75, 8), H2O(0.75, 8)):
            selections = differing = slots = same = 0
            farthest = 0.0
            ours = {s.name: answer(sdpa, s.prompt, method) for s in samples}
            theirs = {s.name: answer(replace(sdpa, attention="eager"), s.prompt, method) for s in samples}
            for name, (kept, scores, text) in ours.items():
                same += text == theirs[name][2]
                for mine, other, score in zip(kept, theirs[name][0], scores, strict=True):
                    for a, b, worth in zip(mine.tolist(), other.tolist(), score, strict=True):
                        lost = sorted(set(a) - set(b))
                        selections += 1
                        differing += bool(lost)
                        slots += len(lost)
                        if lost:
                            inside = [p for p in a if p >= 0 and p < len(worth) - method.window]
                            edge = float(worth[inside].min())
                            farthest = max(farthest, *(abs(float(worth[p]) - edge) / edge for p in lost))
            console.print(
                f"| {dtype} | {type(method).__name__.lower()} | {differing} of {selections} | {slots} "
                f"| {farthest:.1%} | {same} of {len(samples)} |",
                soft_wrap=True,
            )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
