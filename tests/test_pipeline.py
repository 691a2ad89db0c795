"""transformers' pipeline with a compressed cache in each call. Oracle: scope's own `generate`."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from scope import EMBEDDED, Arithmetic, CompressedCache, Policy, Prompt, Slide, SnapKV, generate
from scope.util.errors import ScopeError

POLICY = Policy(SnapKV(budget=0.5, window=8), Slide(budget=24, recent=12))


def test_a_pipeline_writes_what_generate_writes_and_a_used_cache_refuses_a_shorter_prompt() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = [sample.prompt for sample in Arithmetic(questions=6, prompts=2).samples()]
    asked = {"max_new_tokens": 60, "do_sample": False, "return_full_text": False}
    caches = [CompressedCache.of(model.config, POLICY) for _ in range(3)]
    each = [write(text, past_key_values=cache, **asked)[0] for text, cache in zip(texts, caches, strict=False)]
    together = [one for (one,) in write(texts, batch_size=2, past_key_values=caches[2], **asked)]
    prompts = [Prompt(text, tokenizer(text).input_ids) for text in texts]
    expected = [row.text for row in generate(model, tokenizer, prompts, POLICY, 60)]
    assert [one["generated_text"] for one in each] == [one["generated_text"] for one in together] == expected
    assert caches[0].summary().nbytes < caches[0].summary().full_nbytes
    with pytest.raises(ScopeError, match="make a new cache"):
        write(min(texts, key=len), past_key_values=caches[texts.index(max(texts, key=len))], **asked)
