"""What a model's generation config changes in the choice of tokens, applied as transformers applies it.

Temperature, top-k, top-p and whether to sample at all are always those of `sampling.*`. The processors of a row see
only the tokens of its own prompt and generation, so its tokens do not depend on its batch.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

from scope.util.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Each field of a generation config, with the values at which it does nothing. None always does nothing.
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
REFUSED: Mapping[str, tuple[object, ...]] = {  # fields that are more than a change of the logits
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
OURS = ("do_sample", "temperature", "top_k", "top_p")  # fields that `sampling.*` decides


def asked_for(config: GenerationConfig | None, sampled: bool) -> dict[str, Any]:
    """The fields of a generation config, with their values, that change which tokens are chosen.

    sampled: whether tokens are sampled; False: chosen greedily.
    """
    known = {**APPLIED, **REFUSED, **(WHEN_SAMPLING if sampled else {})}
    values = {name: getattr(config, name, None) for name in known}
    return {name: v for name, v in values.items() if v is not None and v not in known[name]}


def require_possible(config: GenerationConfig | None) -> None:
    """Raises ConfigError for a generation config that cannot be followed."""
    for name, value in asked_for(config, sampled=True).items():
        if name in REFUSED:
            raise ConfigError(
                f"sampling.processors=model: the model's generation config asks for {name}={value}, which cannot be "
                "followed here; sampling.processors=none leaves it out"
            )


def described(config: GenerationConfig | None, sampled: bool) -> dict[str, str | int | float | bool]:
    """What a generation config asks for, as plain data for the manifest.

    Fields that `sampling.*` decides are included if the config samples.
    """
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
        """prompt [1, P]: the tokens of the row's prompt. most: T, the most tokens that it may generate."""
        self._processors = processors
        self._ids = torch.cat([prompt, prompt.new_zeros(1, most)], dim=1)
        self._prompt, self._known = prompt.shape[1], 0

    def __call__(self, logits: Tensor, generated: Sequence[int]) -> Tensor:
        """logits [1, V] and the tokens generated so far -> changed logits [1, V], float32 as in transformers."""
        if fresh := generated[self._known :]:
            begin = self._prompt + self._known
            self._ids[0, begin : begin + len(fresh)] = torch.tensor(fresh)
            self._known = len(generated)
        ids = cast(torch.LongTensor, self._ids[:, : self._prompt + self._known])
        changed: Tensor = self._processors(ids, logits.float().clone())
        return changed


def least_tokens(
    model: "PreTrainedModel", prompt: Sequence[int], least: int, eos: Collection[int], most: int
) -> RowProcessors:
    """Processors that allow no end of sequence among the first `least` tokens. most: T."""
    rule = MinNewTokensLengthLogitsProcessor(len(prompt), least, sorted(eos), device=str(model.device))
    return RowProcessors(LogitsProcessorList([rule]), torch.tensor([prompt], device=model.device), most)


def as_generate(
    model: "PreTrainedModel", prompt: Sequence[int], most: int, given: Mapping[str, Any]
) -> RowProcessors | None:
    """The processors that `model.generate(prompt, max_new_tokens=most, **given)` would use; None if there are none.

    They are taken from transformers' own `generate`. Its decoding loop is replaced by a function that returns at once.
    """
    ids = torch.tensor([prompt], device=model.device)
    found: list[LogitsProcessorList] = []

    def take(model: "PreTrainedModel", input_ids: Tensor, logits_processor: LogitsProcessorList, **_: Any) -> Tensor:
        """Is called in place of transformers' decoding loop."""
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
