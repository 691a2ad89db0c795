"""Ours against traces recorded from the authors' released code: `python tests/golden.py <folder>`.

The folder holds models, `index.json` and arrays as its README describes. Each case runs with `fidelity=released`, and
the tokens and the kept positions of every layer, head and step are compared. A selection is decidable where the scores
at its edge, and the logits of every token so far, differ by more than float32 rounding; from the first difference at an
undecidable one on, a case says nothing more. Exits 1 if any decidable selection differs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is also run by its path


from scope.cache import CompressedCache  # noqa: E402
from scope.cache.backends import implementation  # noqa: E402
from scope.cli.config import build  # noqa: E402
from scope.generation.options import Hooks, Options  # noqa: E402
from scope.generation.rows import Prompt  # noqa: E402
from scope.generation.stream import generate  # noqa: E402
from scope.runs.experiment import Experiment  # noqa: E402
from scope.util.errors import ScopeError  # noqa: E402

METHODS = {
    "ALLKV": "full",
    "StreamingLLM": "streamingllm",
    "H2O": "h2o",
    "SnapKV": "snapkv",
    "PyramidKV": "pyramidkv",
    "PyramidInfer": "pyramidinfer",
}
STRATEGIES = {"None": "none", "slm": "streamingllm"}
LEAST_LOGIT_MARGIN, LEAST_SCORE_MARGIN = 1e-3, 1e-4


class NoText:
    """A tokenizer for models without one."""

    pad_token_id = 0

    def decode(self, tokens: list[int], **options: bool) -> str:
        return ""


@dataclass
class Verdict:
    """What a case showed."""

    name: str
    decidable: int = 0  # selections
    equal: int = 0  # of them
    difference: str = ""  # the first at a decidable place
    stopped: str = ""  # where and why nothing more could be said
    answer: str = ""  # ours, where the released code fails
    undecidable: list[str] = field(default_factory=list)


def settings(case: Mapping[str, Any]) -> Experiment:
    """The project's own released preset with the case's numbers."""
    method, strategy = METHODS[case["method"]], STRATEGIES.get(case["metric"], case["metric"])
    return composed(
        f"method={method}",
        f"decoding={strategy}",
        "fidelity=released",
        f"budget.prefill={case['capacity']}",
        f"budget.window={case['window_size']}",
        f"budget.decode={case['decoding_window_size']}",
        f"budget.recent={case['decoding_recent_size']}",
        f"task.max_new_tokens={case['output_max_len']}",
        *([f"method.window={case['window_size']}"] if method == "streamingllm" else []),
    )


@cache
def composed(*overrides: str) -> Experiment:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", list(overrides))
        return build(cfg, {}).experiment


@cache
def load(folder: Path, attention: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=implementation(attention)
    )
    return model.eval()


def check(folder: Path, case: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Verdict:
    """Run one case (its first sample: what the released code carries from one to the next is not reproduced)."""
    sample = case["samples"][0]
    verdict = Verdict(f"{case['id']} {case['name']}")
    if "error" in sample:
        verdict.answer = answer(folder, case, list(range(3, 3 + sample["prompt_len"])))  # any prompt of that length
        return verdict
    prompt = arrays[f"{case['id']}|s0_prompt"].tolist()
    wanted = arrays[f"{case['id']}|s0_gen"].tolist()
    kept, tokens = ours(folder, case, prompt, len(wanted))
    compare(verdict, case, arrays, kept, tokens, wanted)
    return verdict


def ours(
    folder: Path, case: Mapping[str, Any], prompt: list[int], most: int
) -> tuple[list[list[list[frozenset[int]]]], list[int]]:
    """-> kept positions by forward, layer and query head; tokens."""
    model = load(folder / f"model-{case['arch']}-s{case['seed']}", case["attn"])
    assert model.generation_config is not None
    model.generation_config.eos_token_id = case.get("eos_id")
    asked = settings(case)
    kept: list[list[list[frozenset[int]]]] = []

    def watch(cache: CompressedCache) -> None:
        layers = [cache.positions(layer)[0].tolist() for layer in range(len(cache))]
        kept.append([[frozenset(p for p in head if p >= 0) for head in layer] for layer in layers])

    made = generate(
        model,
        NoText(),  # type: ignore[arg-type]
        [Prompt("golden", tuple(prompt))],
        asked.policy,
        most,
        asked.sampling,
        Options(hooks=Hooks(observe=watch)),
    )
    return kept, list(made[0].tokens)


def answer(folder: Path, case: Mapping[str, Any], prompt: list[int]) -> str:
    """What ours does where the released code fails: it runs, or says in a line why not."""
    try:
        kept, tokens = ours(folder, case, prompt, case["max_new_tokens"])
    except ScopeError as error:
        return f"refused: {error}"
    return f"runs: {len(tokens)} tokens, {[len(layer[0]) for layer in kept[0]]} slots after the prefill"


def compare(
    verdict: Verdict,
    case: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    kept: list[list[list[frozenset[int]]]],
    tokens: list[int],
    wanted: list[int],
) -> None:
    """Walk through the forwards until something differs."""
    dropped = arrays[f"{case['id']}|s0_drop_step"]
    scores, logits = (arrays[f"{case['id']}|s0_{name}"] for name in ("score_margin_rel", "logit_margin"))
    for forward, token in enumerate(wanted):
        if forward >= len(kept):
            verdict.difference = f"forward {forward}: ours ended after {len(tokens)} tokens, theirs went on"
            return
        for layer, heads in enumerate(kept[forward]):
            margin = scores[forward, layer]
            selects = not np.isnan(margin)
            decidable = not selects or margin >= LEAST_SCORE_MARGIN
            different = next(differences(dropped[layer], forward, heads), None)
            verdict.decidable += int(selects and decidable)
            verdict.equal += int(selects and decidable and different is None)
            if selects and not decidable:
                verdict.undecidable.append(f"forward {forward} layer {layer}: score margin {margin:.1e}")
            if different:
                where = f"forward {forward} layer {layer} {different}"
                if decidable:
                    verdict.difference = where
                else:
                    verdict.stopped = f"{where}, score margin {margin:.1e}"
                return
        if tokens[forward : forward + 1] != [token]:
            where = f"forward {forward}: token {tokens[forward : forward + 1]} for {token}"
            if logits[forward] >= LEAST_LOGIT_MARGIN:
                verdict.difference = where
            else:
                verdict.stopped = f"{where}, logit margin {logits[forward]:.1e}"
            return


def differences(dropped: np.ndarray, forward: int, heads: list[frozenset[int]]) -> Iterator[str]:
    """dropped [heads, positions]: the forward after which each is gone, -1 = never."""
    prompt = dropped.shape[1]
    for head, ours in enumerate(heads):
        gone = dropped[head]
        newest = max(ours, default=-1)
        theirs = frozenset(int(p) for p in range(min(prompt, newest + 1)) if gone[p] == -1 or gone[p] > forward)
        if ours != theirs:
            yield f"head {head}: ours alone {sorted(ours - theirs)[:8]}, theirs alone {sorted(theirs - ours)[:8]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--undecidable", action="store_true", help="list every undecidable selection with its margin")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = json.loads((args.folder / "index.json").read_text())
    arrays = {name: array for path in sorted(args.folder.glob("*.npz")) for name, array in np.load(path).items()}
    verdicts = []
    for case in cases:
        verdict = check(args.folder, case, arrays)
        verdicts.append(verdict)
        if verdict.difference:
            print(f"DIFFERS {verdict.name}: {verdict.difference}")
        if verdict.stopped:
            print(f"undecidable from here {verdict.name}: {verdict.stopped}")
        if verdict.answer:
            print(f"released code fails {verdict.name}: ours {verdict.answer}")
        if args.undecidable:
            for line in verdict.undecidable:
                print(f"undecidable {verdict.name}: {line}")
    decidable, equal = sum(v.decidable for v in verdicts), sum(v.equal for v in verdicts)
    differing = sum(bool(v.difference) for v in verdicts)
    print(f"{sum(len(v.undecidable) for v in verdicts)} undecidable selections, {differing} cases that differ")
    print(f"{len(cases)} cases, {decidable} decidable selections, {equal} equal")
    return 1 if differing or equal < decidable else 0


if __name__ == "__main__":
    sys.exit(main())
