"""What a model's generation config asks of the choice of tokens, and doing it as transformers does.

Temperature, top-k, top-p and whether to sample at all are not among it: `sampling.*` decides these, whatever a config
says. A row's processors see the tokens of its own prompt and generation only, so that it gets what it would get alone.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

from scope.util.errors import ConfigError

# Each field with the values, beside None, at which it does nothing.
APPLIED: Mapping[str, tuple[object, ...]] = {
    "sequence_bias": (),
    "encoder_repetition_penalty": (1.0,),
    "repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "remove_invalid_values": (False,),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "watermarking_config": (),
    "renormalize_logits": (False,),
    "stop_strings": ([],),
}
WHEN_SAMPLING: Mapping[str, tuple[object, ...]] = {
    "min_p": (),
    "top_h": (),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
}
REFUSED: Mapping[str, tuple[object, ...]] = {  # what is more than a change of the logits
    "guidance_scale": (1.0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "token_healing": (False,),
    "max_time": (),
}
OURS = ("do_sample", "temperature", "top_k", "top_p")


def asked_for(config: GenerationConfig | None, sampled: bool) -> dict[str, Any]:
    """What a generation config asks for that changes which tokens are chosen, by field. sampled: not greedily."""
    known = {**APPLIED, **REFUSED, **(WHEN_SAMPLING if sampled else {})}
    values = {name: getattr(config, name, None) for name in known}
    return {name: v for name, v in values.items() if v is not None and v not in known[name]}


def require_possible(config: GenerationConfig | None) -> None:
    """Raises ConfigError for a config that cannot be followed."""
    for name, value in asked_for(config, sampled=True).items():
        if name in REFUSED:
            raise ConfigError(
                f"sampling.processors=model: the model's generation config asks for {name}={value}, which cannot be "
                "followed here; sampling.processors=none leaves it out"
            )


def described(config: GenerationConfig | None, sampled: bool) -> dict[str, str | int | float | bool]:
    """What a generation config asks for as plain data, what `sampling.*` decides instead of it included."""
    ours = {name: value for name in OURS if (value := getattr(config, name, None)) is not None}
    if not ours.get("do_sample"):
        ours = {}
    found = asked_for(config, sampled) | ours
    return {name: v if isinstance(v, str | int | float) else _short(v) for name, v in found.items()}


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class RowProcessors:
    """Changes the logits of one row before its next token is chosen."""

    def __init__(self, processors: LogitsProcessorList, prompt: Tensor, most: int) -> None:
        """prompt [1, P]; most: tokens that the row may generate."""
        self._processors = processors
        self._ids = torch.cat([prompt, prompt.new_zeros(1, most)], dim=1)
        self._prompt, self._known = prompt.shape[1], 0

    def __call__(self, logits: Tensor, generated: Sequence[int]) -> Tensor:
        """logits [1, V], the row's tokens so far -> logits [1, V], float32 as in transformers."""
        if fresh := generated[self._known :]:
            begin = self._prompt + self._known
            self._ids[0, begin : begin + len(fresh)] = torch.tensor(fresh)
            self._known = len(generated)
        ids = cast(torch.LongTensor, self._ids[:, : self._prompt + self._known])
        changed: Tensor = self._processors(ids, logits.float().clone())
        return changed


def least_tokens(
    model: PreTrainedModel, prompt: Sequence[int], least: int, eos: Collection[int], most: int
) -> RowProcessors:
    """No end of sequence among the first `least` of at most `most` tokens."""
    rule = MinNewTokensLengthLogitsProcessor(len(prompt), least, sorted(eos), device=str(model.device))
    return RowProcessors(LogitsProcessorList([rule]), torch.tensor([prompt], device=model.device), most)


def as_generate(
    model: PreTrainedModel, prompt: Sequence[int], most: int, given: Mapping[str, Any]
) -> RowProcessors | None:
    """The processors of `model.generate(prompt, max_new_tokens=most, **given)`; None where it has none."""
    ids = torch.tensor([prompt], device=model.device)
    found: list[LogitsProcessorList] = []

    def take(model: PreTrainedModel, input_ids: Tensor, logits_processor: LogitsProcessorList, **_: Any) -> Tensor:
        """Stands in for transformers' own loop."""
        found.append(logits_processor)
        return input_ids

    unused: dict[str, Any] = {
        "max_length": None,
        "stop_strings": None,
        "cache_implementation": None,
        "use_cache": False,
    }
    model.generate(ids, custom_generate=take, max_new_tokens=most, **unused, **given)  # type: ignore[operator]
    return RowProcessors(found[0], ids, most) if found[0] else None
