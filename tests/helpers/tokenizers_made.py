"""Tokenizers of the kinds that real models have, trained in a moment on the English that Python carries."""

from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

KINDS = ("bytes", "pieces", "words")


@cache
def made(kind: str) -> PreTrainedTokenizerBase:
    """bytes: as GPT-2 and Llama 3 have it; pieces: as Llama 2 and Gemma, where ▁ is a blank; words: split at blanks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "pieces":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        alphabet = []
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(topics.values())[:20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@dataclass(frozen=True)
class Given:
    """What has a tokenizer, as a model does."""

    kind: str = "bytes"

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return made(self.kind)
