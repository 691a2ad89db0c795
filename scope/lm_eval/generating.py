"""What a request of lm-eval's `generate_until` asks for, in our words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from scope.generation.processors import APPLIED, REFUSED, WHEN_SAMPLING
from scope.generation.sampling import Sampling
from scope.util.errors import ConfigError, SettingError, shown

TAKEN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_new_tokens")


@dataclass(frozen=True)
class Asked:
    """What requests ask for. Those of equal `most`, which is T, and `sampling` can be written together.

    stop: strings that end a generation.
    """

    most: int
    sampling: Sampling
    stop: tuple[str, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any], sampling: Sampling, most: int, eos: str | None) -> "Asked":
        """given: lm-eval's `generation_kwargs`. sampling: as composed. most: T where they do not say. eos: the text of
        the end of sequence, which ends a generation as the other strings do.

        Raises ConfigError for what cannot be followed.
        """
        wanted = dict(normalize_gen_kwargs(dict(given), most))
        for name, value in wanted.items():
            if name not in TAKEN and value is not None and value not in _without_effect(name):
                raise ConfigError(f"gen_kwargs: {name}={shown(value)}: is not done here; taken are {', '.join(TAKEN)}")
        temperature = float(wanted.get("temperature") or 0.0) if wanted["do_sample"] else 0.0
        if wanted["do_sample"] and not temperature:
            raise ConfigError("gen_kwargs: do_sample=true: needs a temperature above 0")
        chosen = {name: wanted[name] for name in ("top_p", "top_k", "min_new_tokens") if wanted.get(name) is not None}
        if not temperature:
            chosen = {name: value for name, value in chosen.items() if name == "min_new_tokens"}
        try:
            sampling = replace(
                sampling, **{"top_p": 1.0, "top_k": 0, "samples": 1} | chosen | {"temperature": temperature}
            )
        except SettingError as error:
            raise ConfigError(error.describe(f"gen_kwargs: {error.field}")) from error
        if wanted["max_gen_toks"] < 1:
            raise ConfigError(f"gen_kwargs: max_gen_toks={wanted['max_gen_toks']}: must be at least 1")
        stop = handle_stop_sequences(wanted["until"], eos)
        return cls(wanted["max_gen_toks"], sampling, tuple(filter(None, stop)))


def _without_effect(name: str) -> tuple[object, ...]:
    """The values at which an argument of transformers' `generate` does nothing."""
    return {**APPLIED, **REFUSED, **WHEN_SAMPLING}.get(name, ())


def names(requests: Sequence[Instance]) -> list[str]:
    """A name for each request, which seeds its sampling: the same in any order, batch and limit."""
    counts: Counter[str] = Counter()
    made = []
    for request in requests:
        name = f"{request.task_name} {request.doc_id} {request.idx}"
        made.append(f"{name} {counts[name]}")  # a task may ask the same several times
        counts[name] += 1
    return made
