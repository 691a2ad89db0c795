"""Trained weights -> a folder that AutoModelForCausalLM and AutoTokenizer load: `python -m experiments.tiny.export`.

The weights are stored as float16. The tokenizer cuts text exactly at the language's tokens, longest first, and joins
them without a space: text -> tokens -> text changes nothing.
"""

import argparse
import re
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experiments.tiny.recipe import Recipe
from experiments.tiny.train import new_model
from scope.generation.models import EMBEDDED
from scope.tasks.language import BOS, EOS, PAD, VOCABULARY


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The language's vocabulary as a tokenizer that puts BOS in front; text outside the language becomes PAD."""
    index = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(index, unk_token=PAD))
    words = sorted(set(VOCABULARY) - {PAD, BOS, EOS}, key=len, reverse=True)
    pattern = Regex("|".join(re.escape(word).replace("\\\n", "\\n").replace("\\ ", " ") for word in words))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, index[BOS])])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )


def export(recipe: Recipe, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write config, weights (float16 safetensors), generation settings and tokenizer."""
    model = new_model(recipe)
    model.load_state_dict(weights)
    model.to(torch.float16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tiny.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", type=Path, help="final.pt or checkpoint.pt of a training run")
    parser.add_argument("--to", type=Path, default=EMBEDDED)
    args = parser.parse_args()
    state = torch.load(args.weights, weights_only=True, map_location="cpu")
    export(Recipe.read([]), state.get("model", state), args.to)


if __name__ == "__main__":
    main()
